"""Training steps, updates and learning rates, written out."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.errors import NonFiniteError
from lowerbound.training.autostop import Decision
from lowerbound.training.batches import Batch
from lowerbound.training.loop import Loop
from lowerbound.training.optim import SCHEDULES, make_schedule
from lowerbound.training.players import make_parameter_groups
from lowerbound.training.progress import Windows
from lowerbound.training.quick_step import QuickStep
from lowerbound.training.rates import LearningRates
from lowerbound.training.step import TrainingStep, _total_norm
from lowerbound.training.update import WeightUpdate, change_unless

CPU = torch.device("cpu")
X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.3, -0.2], [0.1, 0.1, 0.9]], dtype=torch.float64)
VALUES = {
    "constant": [1.0, 1.0, 1.0],
    "linear": [0.75, 0.5, 0.0],
    "cosine": [0.5 + 0.25 * math.sqrt(2), 0.5, 0.0],
    "exponential": [0.01**0.25, 0.1, 0.01],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_have_their_values(name):
    factor = make_schedule(name, warmup_steps=0, total_steps=100)
    assert [factor(step) for step in (25, 50, 100)] == pytest.approx(VALUES[name], abs=1e-12)
    rising = make_schedule("constant", warmup_steps=4, total_steps=100)
    assert [rising(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def make_model():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))
    return lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(encoder), lb.Gaussian(nn.Linear(2, 6))
    ).double()


def take_step(step, values=X, scheduled=None):
    torch.manual_seed(1)
    with step.attempt(Batch(values), scheduled or {}) as ready:
        step.compute(ready)


@pytest.mark.parametrize("clip_norm", [None, 1e9, 0.5])
def test_a_step_follows_the_gradient_of_the_mean_surrogate(clip_norm):
    """Also for a schedule, whose value is that of the step, and for clipped gradients."""
    model = make_model()
    other = copy.deepcopy(model)
    objective = lb.ELBO(beta=lb.Ramp(0.0, 1.0, steps=10), samples=2)
    step = TrainingStep(
        model, objective, torch.optim.SGD(model.parameters(), lr=0.1), clip_norm=clip_norm
    )
    take_step(step, scheduled={"beta": 0.3})
    torch.manual_seed(1)
    plain = lb.ELBO(beta=0.3, samples=2)
    draw = other.draw(X, 2)
    plain.surrogate(draw).mean().backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in other.parameters()))
    scale = 1.0
    if clip_norm is not None:
        scale = min(1.0, clip_norm / norm)
    for moved, still in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(moved, still + 0.1 * scale * still.grad, rtol=1e-5, atol=1e-8)
    terms = {name: float(value.detach().sum()) for name, value in plain.terms(draw).items()}
    assert step.totals == pytest.approx(terms)
    assert (step.taken, step.accepted) == (1, 1)


def test_a_refused_step_changes_nothing_and_is_not_counted():
    model = make_model()
    step = TrainingStep(model, lb.ELBO(), torch.optim.Adam(model.parameters()))
    take_step(step)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    totals = step.totals
    with pytest.raises(NonFiniteError):
        take_step(step, torch.full_like(X, math.nan))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert step.totals == totals
    assert (step.taken, step.accepted) == (1, 1)


def test_a_step_that_is_interrupted_is_undone_with_its_noise():
    model = make_model()
    step = TrainingStep(model, lb.ELBO(), torch.optim.Adam(model.parameters()))
    take_step(step)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), step.attempt(Batch(X), {}) as ready:  # noqa: PT012
        model.draw(*ready.decode(torch.float64)[:1])
        raise KeyboardInterrupt
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert step.taken == 1


def test_after_a_refused_update_all_later_ones_are_refused():
    parameter = nn.Parameter(torch.ones(2))
    update = WeightUpdate(torch.optim.SGD([parameter], lr=1.0), CPU)
    bound, norm = torch.tensor(1.0), torch.tensor(2.0)
    update.refuse_non_finite(bound, norm)
    update([torch.ones(2)])
    assert parameter.tolist() == [0.0, 0.0]
    for values in ((bound, torch.tensor(math.inf)), (bound, norm), (torch.tensor(math.nan), norm)):
        update.refuse_non_finite(*values)
        update([torch.ones(2)])
        assert bool(update.refused)
    assert parameter.tolist() == [0.0, 0.0]
    assert (update.taken, int(update.accepted)) == (4, 1)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("refused", [True, False])
def test_a_refused_change_is_undone(refused, wait):
    value = torch.ones(2)
    change_unless(torch.tensor(refused), lambda: value.add_(1.0), lambda: [value], wait=wait)
    assert value.tolist() == [1.0 if refused else 2.0] * 2


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_quick_steps_are_those_of_torch(kind):
    settings = {"lr": 0.05, "betas": (0.7, 0.95), "weight_decay": 0.2, "eps": 1e-6}
    start = torch.randn(5, dtype=torch.float64)
    ours, torch_s = (nn.Parameter(start.clone()) for _ in range(2))
    quick = QuickStep(kind([ours], fused=True, **settings))
    plain = kind([torch_s], fused=False, foreach=False, **settings)
    for number in range(6):
        gradient = torch.randn(5, dtype=torch.float64) * (1 + number)
        ours.grad, torch_s.grad = gradient.clone(), gradient.clone()
        quick()
        plain.step()
        torch.testing.assert_close(ours, torch_s)
    assert quick.groups is not None


def test_each_group_has_its_own_rate_times_the_factors():
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": p, "lr": lr} for p, lr in zip(parameters, (0.1, 0.01), strict=True)]
    )
    rates = LearningRates(optimizer, lambda step: 1 / (1 + step))
    rates.set(1, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.0025])
    assert rates.compute_model_rate(1, 0.5) == pytest.approx(0.025)
    rates.restore()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]


@pytest.mark.parametrize(("own", "expected"), [(None, 0.1), (1e-4, 1e-4)])
def test_a_player_has_its_own_learning_rate(own, expected):
    objective = lb.FactorVAE(lb.mlp(2, 4, 1), learning_rate=own)
    model, critic = make_parameter_groups(make_model(), objective, 0.1)
    assert critic["lr"] == expected
    assert "lr" not in model


def test_the_norm_of_several_gradients_is_that_of_all_numbers():
    gradients = [torch.tensor([3.0]), None, torch.tensor([[0.0, 4.0], [12.0, 0.0]])]
    assert float(_total_norm(gradients, CPU)) == pytest.approx(13.0)


def test_the_best_average_is_validated_and_returned():
    """With a moving average, and with steps that get worse at the end."""
    model = make_model()
    x = torch.randn(60, 3, dtype=torch.float64)
    run = lb.fit(
        model,
        lb.ELBO(),
        x,
        validation=x[:30],
        batch_size=20,
        epochs=4,
        ema=0.5,
        learning_rate=0.01,
        schedule=lambda progress: 1.0 if progress < 0.5 else 300.0,
        progress=False,
        compile="never",
    )
    bounds = [record["validation"]["bound"] for record in run.history]
    assert max(bounds) == max(bounds[:2]) > bounds[-1] + 1
    assert lb.evaluate(model, lb.ELBO(), x[:30]).mean == pytest.approx(max(bounds), rel=1e-6)


@pytest.mark.parametrize("patience", [1, 2])
def test_training_waits_for_patience_epochs_without_a_better_bound(patience):
    """Each epoch moves the weights far away, so the first validation is the best one."""
    x = torch.randn(20, 3, dtype=torch.float64)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(nn.Linear(3, 4)), lb.Gaussian(nn.Linear(2, 6))
    )
    run = lb.fit(
        model.double(),
        lb.ELBO(),
        x,
        validation=x,
        batch_size=20,
        epochs=8,
        patience=patience,
        learning_rate=0.1,
        schedule=lambda progress: 1e-6 if progress == 0 else 10.0,
        progress=False,
        compile="never",
    )
    assert len(run.history) == 1 + patience


@pytest.mark.parametrize("goes_back", [True, False])
def test_training_goes_back_to_the_best_weights_if_the_rule_says_so(goes_back):
    loaded, best = [], {"model": {}}
    loop = SimpleNamespace(
        best_weights=best,
        load_weights=loaded.append,
        tell=lambda line: None,
        rates=SimpleNamespace(own=[0.1]),
        autostop=None,
        progress=SimpleNamespace(),
        model=None,
        objective=SimpleNamespace(label=lambda model: "bound"),
    )
    window = {"bound": -1.0, "gain": -0.5, "gain_error": 0.1, "steps": 10, "pace": 0.5}
    decision = Decision(Windows(), window, goes_back=goes_back)
    Loop._act_on(loop, decision, {})
    assert loaded == [best] * goes_back
    assert loop.progress.windows is decision.windows
