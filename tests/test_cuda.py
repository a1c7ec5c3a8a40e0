"""On a GPU: results are those of the CPU, steps do not wait, and recorded steps are the same.

They are skipped where torch finds no GPU.
"""

import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal, constraints

import lowerbound as lb
from lowerbound.errors import NonFiniteError
from lowerbound.runtime.noise import philox
from lowerbound.training.batches import Batch, BatchSource
from lowerbound.training.compiled_step import compile_step
from lowerbound.training.optim import average_weights, make_optimizer
from lowerbound.training.step import TrainingStep

sys.path.insert(0, str(Path(__file__).parent))
from constructors import MODELS, OBJECTIVES, images

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*Online softmax is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
]

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)

# Each of them needs a compilation, which takes seconds.
RECORDED = ["Gaussian", "binary", "convolutional", "full rank posterior", "VampPrior"]
RECORDED_OBJECTIVES = ["ELBO, warm-up", "IWAE, dreg", "IWAE, score function", "CIWAE"]


def both(make, compute) -> tuple:
    """The results of a computation with the same model on both devices."""
    torch.manual_seed(0)
    model = make()
    return compute(model.to(CPU)), compute(model.to(GPU))


def assert_same(results, tolerance=1e-9) -> None:
    here, there = results
    torch.testing.assert_close(there, here, rtol=tolerance, atol=tolerance)


@contextmanager
def without_waiting():
    """Within the block, an operation that waits for the device is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype", UserWarning)
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Steps:
    """Steps on all examples, which may be recorded."""

    def __init__(self, model, objective, data, optimizer="adam", **settings) -> None:
        model = model.train().to(GPU)
        made = make_optimizer(model, optimizer, 1e-2, None)
        self.step = TrainingStep(model, objective, made, **settings)
        self.source = BatchSource(lb.Examples.of(data), GPU, model.needs, model.accepts)
        self.recorded = None
        rows = torch.arange(len(data), device=GPU)
        self.batch = Batch(rows, self.source.fields, self.source.examples, on_device=True)

    def run(self, number: int, *, recorded: bool = False) -> None:
        schedules = self.step.objective.schedules()
        values = {name: schedule.at(number, number / 2) for name, schedule in schedules.items()}
        if recorded and self.recorded is None:
            self.recorded = compile_step(self.step)
        compute = self.recorded if recorded else self.step.compute
        with self.step.attempt(self.batch, values) as ready:
            compute(ready)


def after(steps: Steps, *, recorded: bool, count: int = 6) -> tuple[dict, dict]:
    """Weights and sums after some steps; the first one makes the optimiser's state."""
    torch.manual_seed(3)
    for number in range(count):
        steps.run(number, recorded=recorded and number > 0)
    steps.step.check()
    return dict(steps.step.model.state_dict()), steps.step.totals


@pytest.mark.parametrize("name", MODELS)
def test_bounds_and_log_likelihoods_are_those_of_the_cpu(name):
    data = images(name).double()

    def compute(model):
        bound = lb.evaluate(model, lb.ELBO(samples=3), data).per_example
        return bound, lb.log_likelihood(model, data, 20, compile="never").per_example

    assert_same(both(lambda: MODELS[name]().double(), compute))


def test_codes_samples_and_pictures_are_those_of_the_cpu():
    data = images("Gaussian").double()

    def compute(model):
        made = model.encode(data), model.reconstruct(data), model.decode(torch.zeros(3, 2))
        return [tensor.cpu() for tensor in made]

    assert_same(both(lambda: MODELS["Gaussian"]().double(), compute))


def test_health_gaps_and_annealing_run_there():
    data = images("Gaussian", 12).double()
    model = MODELS["Gaussian"]().double()

    def compute(model):
        annealed = lb.annealed_log_likelihood(model, data, chains=2, distributions=5)
        health = lb.latent_health(model, data)
        return annealed.per_example, health.active.cpu()

    torch.manual_seed(0)
    here, there = compute(model), compute(model.to(GPU))
    assert_same((here, there), 1e-4)  # chains amplify rounding
    assert lb.inference_gaps(model, data, samples=20, steps=5) is not None


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_an_uncompiled_step_does_not_wait(optimizer, decay):
    model = MODELS["binary"]().to(GPU)
    averaged = None if decay is None else average_weights(model, decay)
    objective = lb.ELBO(beta=lb.Ramp(0.0, 1.0, steps=4))
    steps = Steps(model, objective, images("binary"), optimizer, clip_norm=0.1, averaged=averaged)
    for number in range(2):
        steps.run(number)
    with without_waiting():
        for number in range(2, 5):
            steps.run(number)
    steps.step.check()
    assert steps.step.taken == 5 == steps.step.accepted


def make_steps(name: str, objective: str) -> Steps:
    torch.manual_seed(0)
    return Steps(MODELS[name]().double(), OBJECTIVES[objective](), images(name))


@pytest.mark.parametrize(
    ("name", "objective"),
    [(name, "ELBO") for name in RECORDED] + [("Gaussian", name) for name in RECORDED_OBJECTIVES],
)
def test_a_recorded_step_is_an_uncompiled_one(name, objective, fresh_compiler):
    recorded, plain = make_steps(name, objective), make_steps(name, objective)
    found, expected = after(recorded, recorded=True), after(plain, recorded=False)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    assert recorded.step.update.recorded is not None
    with without_waiting():
        recorded.run(6, recorded=True)
    assert recorded.step.taken == 7 == recorded.step.accepted


def test_a_recorded_step_leaves_gradients_for_observers(fresh_compiler):
    """Those of each step, in tensors of its own."""
    found = {}
    for recorded in (True, False):
        steps = make_steps("binary", "ELBO")
        steps.step.is_watched = True
        after(steps, recorded=recorded)
        found[recorded] = []
        for number in (6, 7):
            steps.run(number, recorded=recorded)
            found[recorded].append([p.grad for p in steps.step.model.parameters()])
        assert (steps.step.update.recorded is not None) == recorded
    torch.testing.assert_close(found[True], found[False], rtol=1e-5, atol=1e-7)


def test_a_recorded_step_follows_the_learning_rate(fresh_compiler):
    weights = []
    for recorded in (True, False):
        steps = make_steps("binary", "ELBO")
        after(steps, recorded=recorded)
        steps.step.optimizer.param_groups[0]["lr"] = 0.5
        steps.run(6, recorded=recorded)
        weights.append(dict(steps.step.model.state_dict()))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)


def test_a_setting_that_changes_is_noticed_by_a_recorded_step(fresh_compiler):
    """Its code is compiled and recorded again."""
    weights = []
    for recorded in (True, False):
        steps = make_steps("fixed scale", "ELBO")
        after(steps, recorded=recorded)
        steps.step.objective = steps.step.current = lb.ELBO(beta=3.0)
        for number in range(6, 10):
            steps.run(number, recorded=recorded)
        weights.append(dict(steps.step.model.state_dict()))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)


class Failing(nn.Module):
    """A decoder whose output is non-finite once its weights have moved too far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(2, 63), nn.Parameter(torch.zeros(()))

    def forward(self, z):
        far = torch.where(self.shift.abs() > 0.05, float("nan"), 0.0)
        return self.linear(z) + self.shift + far


def test_a_recorded_step_that_is_refused_changes_nothing(fresh_compiler):
    ends = []
    for recorded in (True, False):
        torch.manual_seed(0)
        q, p = lb.Gaussian(lb.mlp(63, 4)), lb.Gaussian(Failing(), scale=1.0)
        model = lb.LatentModel(lb.StandardNormal(2), q, p).double()
        steps = Steps(model, lb.ELBO(), images("Gaussian").flatten(1) + 3)
        with pytest.raises(NonFiniteError) as caught:
            after(steps, recorded=recorded, count=40)
        ends.append((caught.value.step, steps.step.taken, dict(model.state_dict())))
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("compile", ["never", "always"])
def test_a_resumed_run_is_one_that_never_stopped(compile, tmp_path, fresh_compiler):
    settings = {"compile": compile, "device": "cuda", "batch_size": 4, "ema": 0.9}
    settings |= {"validation": 0.2, "progress": False, "pictures_every": 0}
    data = images("binary", 60)
    ends = []
    for name, stops in {"whole": [6], "parts": [3, 6]}.items():
        for number, epochs in enumerate(stops):
            torch.manual_seed(0)
            model = MODELS["binary"]()
            given = settings | {"directory": tmp_path / name, "resume": number > 0}
            lb.fit(model, lb.ELBO(), data, epochs=epochs, **given)
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    loaded = lb.load(tmp_path / "parts").state_dict()
    assert {value.device for value in loaded.values()} == {CPU}
    assert all(torch.equal(loaded[key], ends[1][key].cpu()) for key in loaded)


def test_values_in_a_file_are_sent_there(tmp_path, fresh_compiler):
    np.save(tmp_path / "data.npy", (images("Gaussian", 200).numpy() * 255).astype(np.uint8))
    data = lb.load_data(tmp_path / "data.npy", keep_in="file", pixels="dequantize")
    bounds = []
    for compile in ("never", "always"):
        torch.manual_seed(0)
        settings = {"compile": compile, "device": "cuda", "batch_size": 20, "progress": False}
        run = lb.fit(MODELS["Gaussian"](), lb.ELBO(), data.train, epochs=3, **settings)
        bounds.append(run.history[-1]["train"]["bound"])
    assert bounds[1] == pytest.approx(bounds[0], rel=1e-3)


def test_a_critic_and_fields_are_moved_there():
    objective = lb.FactorVAE(gamma=2.0, critic=lb.mlp(2, 8, 1))
    lb.fit(MODELS["Gaussian"](), objective, images("Gaussian"), epochs=2, progress=False)
    assert {p.device for p in objective.critic.parameters()} == {GPU}
    labels = torch.arange(30) % 3
    data = lb.Examples(torch.rand(30, 5), labels=labels)
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Given(lb.Gaussian(lb.mlp(8, 4)), "label", categories=3),
        lb.Given(lb.Gaussian(lb.mlp(5, 10)), "label", categories=3),
    )
    lb.fit(model, lb.ELBO(), data, epochs=2, progress=False)
    assert model.encode(data).device == GPU
    assert lb.evaluate(model, lb.ELBO(), data).per_example.isfinite().all()


def test_missing_entries_are_masked_there():
    values = torch.rand(20, *images("masked").shape[1:])
    values[:, :, 0] = float("nan")
    data = lb.Examples.of(values, missing="nan")
    posterior = lb.Gaussian(lb.mlp((1, 9, 7), 4))
    model = lb.LatentModel(
        lb.StandardNormal(2), posterior, lb.Masked(lb.Gaussian(lb.mlp(2, (1, 9, 7)), scale=0.3))
    )
    lb.fit(model, lb.ELBO(), data, epochs=2, progress=False)
    assert lb.evaluate(model, lb.ELBO(), data).per_example.isfinite().all()


def test_a_log_joint_is_fitted_there():
    x = torch.linspace(-1, 1, 50, device=GPU)
    y = 2 * x - 0.5

    def log_joint(slope, offset, scale):
        mean = slope[:, None] * x + offset[:, None]
        prior = Normal(0.0, 2.0).log_prob(slope) + Normal(0.0, 2.0).log_prob(offset)
        return prior - scale + Normal(mean, scale[:, None] + 0.1).log_prob(y).sum(-1)

    variables = {"slope": (), "offset": (), "scale": lb.Variable((), constraints.positive)}
    model = lb.LogJoint(log_joint, lb.full_rank, variables).to(GPU).start()
    lb.fit(model, lb.ELBO(samples=8), steps=200, progress=False)
    draws = model.posterior_sample(500, seed=0)
    assert draws["slope"].device == GPU
    assert float(draws["slope"].mean()) == pytest.approx(2.0, abs=0.1)
    assert lb.posterior_health(model, samples=500) is not None


@pytest.mark.parametrize("few", [0, 1 << 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_that_of_the_cpu(dtype, few, monkeypatch):
    """Uniform draws have the same bits, and normal draws are equal to rounding."""
    monkeypatch.setattr(philox, "_FEW_WORDS", few)
    drawn = []
    for device in ("cpu", "cuda"):
        with lb.noise.per_example(2**63 + 1, torch.tensor([0, 7, 2**40])):
            draws = [
                draw((5001, 3, 7), 1, dtype=dtype, device=device).cpu()
                for draw in (lb.noise.uniform, lb.noise.standard_normal)
            ]
        drawn.append(draws)
    (uniform, normal), (uniform_there, normal_there) = drawn
    assert torch.equal(uniform, uniform_there)
    error = 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(normal_there, normal, rtol=error, atol=error)
