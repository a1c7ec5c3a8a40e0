"""The training step as one graph: it agrees with the uncompiled one, and is chosen for a reason."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lowerbound as lb
from lowerbound.errors import NonFiniteError, SettingsError
from lowerbound.objectives.importance import PowerMean
from lowerbound.recipes import RECIPES
from lowerbound.runtime import autotune
from lowerbound.runtime.autotune import Autotuner
from lowerbound.runtime.compiler import CompiledFunction
from lowerbound.runtime.threads import restoring_threads
from lowerbound.training import compiled_step, compiling
from lowerbound.training import step as stepping
from lowerbound.training.batches import Batch, BatchSource
from lowerbound.training.compiled_step import compile_step
from lowerbound.training.observing import Observer
from lowerbound.training.optim import average_weights, make_optimizer
from lowerbound.training.players import collect_players
from lowerbound.training.step import TrainingStep

sys.path.insert(0, str(Path(__file__).parent))
from constructors import MODELS, OBJECTIVES, examples_for, images

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("fresh_compiler"),
]


CPU = torch.device("cpu")


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def make_vae(likelihood=None) -> lb.LatentModel:
    torch.manual_seed(0)
    decoder = likelihood or lb.Gaussian(lb.mlp(2, 8, 6, activation="tanh"), scale=1.0)
    return lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 8, 4, activation="tanh")), decoder
    )


def binary(shape: tuple[int, ...], count: int = 12) -> lb.Examples:
    torch.manual_seed(1)
    return lb.Examples.of(torch.rand(count, *shape) < 0.5)


def make_step(model, objective, examples, optimizer="adam", **settings) -> "Steps":
    if isinstance(optimizer, str):
        optimizer = make_optimizer(model, optimizer, 1e-2, None)
    step = TrainingStep(model.train(), objective, optimizer, **settings)
    return Steps(step, examples)


class Steps:
    """A step that is run again and again on all examples, compiled or not."""

    def __init__(self, step: TrainingStep, examples: lb.Examples) -> None:
        self.step, model = step, step.model
        self.examples = BatchSource(examples, CPU, model.needs, model.accepts).examples
        self.compiled = None

    def batch(self) -> Batch:
        rows, model = torch.arange(len(self.examples)), self.step.model
        given = self.examples.given(rows, model.needs, model.accepts)
        return Batch(rows, given, self.examples, on_device=True)

    def compile(self, **settings) -> None:
        self.compiled = compile_step(self.step, **settings)

    def run(self, scheduled=None, *, compiled: bool = False, network_dtype=None) -> None:
        compute = self.compiled if compiled else self.step.compute
        attempt = self.step.attempt(self.batch(), scheduled or {}, network_dtype=network_dtype)
        with attempt as ready:
            compute(ready)


def after(
    steps: Steps, count: int = 3, *, compiled: bool, thoroughly: bool = False, network_dtype=None
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Weights and sums after some steps, of which the first is never compiled."""
    torch.manual_seed(3)
    step = steps.step
    for number in range(count):
        scheduled = step.objective.schedules()
        values = {name: schedule.at(number, number / 2) for name, schedule in scheduled.items()}
        if compiled and number == 1:
            steps.compile(thoroughly=thoroughly)
        steps.run(values, compiled=compiled and number > 0, network_dtype=network_dtype)
    return {name: value.clone() for name, value in step.model.state_dict().items()}, step.totals


def assert_agreement(make, **tolerance) -> dict[str, torch.Tensor]:
    """Compiled and plain steps end at the same weights and sums; return the compiled ones.

    A sum may be a small difference of terms as large as the bound, and has their rounding.
    """
    compiled, eager = after(make(), compiled=True), after(make(), compiled=False)
    torch.testing.assert_close(compiled[0], eager[0], **tolerance)
    rounding = 1e-7 * abs(eager[1]["bound"])
    assert compiled[1] == pytest.approx(eager[1], rel=1e-5, abs=rounding)
    assert graphs() == 1
    return compiled[0]


class Told(Observer):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_choice(self, loop, line) -> None:
        self.lines.append(line)


@pytest.mark.parametrize("which", OBJECTIVES)
def test_the_step_of_every_objective_is_one_graph(which, traced):
    def make():
        torch.manual_seed(0)
        return make_step(
            MODELS["Gaussian"](), OBJECTIVES[which](), lb.Examples.of(images("Gaussian"))
        )

    assert_agreement(make)


@pytest.mark.parametrize("name", [name for name in MODELS if "flow" not in name.lower()])
def test_the_step_of_every_model_is_one_graph(name, traced):
    def make():
        torch.manual_seed(0)
        return make_step(MODELS[name](), lb.ELBO(samples=3), lb.Examples.of(images(name)))

    assert_agreement(make)


@pytest.mark.parametrize("name", ["Flow prior", "flow posterior"])  # ours, and zuko's own
def test_what_does_not_compile_as_one_graph_compiles_in_pieces(name, traced):
    watcher, examples = Told(), lb.Examples.of(images(name))
    bounds = []
    for choice in ("always", "never"):
        torch.manual_seed(0)
        run = lb.fit(
            MODELS[name](),
            lb.ELBO(),
            examples,
            epochs=5,
            compile=choice,
            progress=False,
            observers=[watcher],
        )
        bounds.append([record["train"]["bound"] for record in run.history])
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    assert len(watcher.lines) == 1
    assert re.fullmatch(
        r"compiled: \d+ s to compile, in pieces because of zuko/transforms.py, line \d+",
        watcher.lines[0],
    )


# The compiler reads the code of each layer again, which takes longer than all other recipes.
FEWER_LAYERS = {"deep": {"depth": 1}, "ladder": {"depth": 2}}


def breaks_the_graph(name: str) -> bool:
    model, _ = RECIPES[name].build(examples_for(RECIPES[name]), {"hidden": 2})
    return any(isinstance(module, nn.RNNBase | lb.Flow) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, FEWER_LAYERS.get(name, {})) for name in RECIPES if not breaks_the_graph(name)),
        ("sequence", {"decoder": "attention", "hidden": 8}),
    ],
)
def test_the_step_of_every_recipe_is_one_graph(name, more, traced):
    recipe = RECIPES[name]

    def make():
        torch.manual_seed(0)
        examples = examples_for(recipe)
        model, objective = recipe.build(examples, {"hidden": 8, "latent": 3, **more})
        objective = objective.for_training_on(len(examples))
        # In float32, Adam's normalised steps make the rounding of a gradient near 0 visible.
        collect_players(model, objective).double()
        return make_step(model.double(), objective, examples)

    assert_agreement(make)


def test_a_sum_over_the_states_of_latents_is_part_of_the_graph(traced):
    def make():
        torch.manual_seed(0)
        model = lb.EnumeratedModel(
            lb.OneHot(lb.constant((2, 3))),
            lb.OneHot(lb.mlp(6, (2, 3))),
            lb.Bernoulli(lb.mlp((2, 3), 6)),
        )
        return make_step(model, lb.ELBO(), binary((6,)))

    assert_agreement(make)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad", "rmsprop", "nadam"])
def test_any_optimiser_is_part_of_the_graph(optimizer, lowered):
    assert_agreement(
        lambda: make_step(make_vae(), lb.ELBO(), binary((6,)), optimizer, clip_norm=0.1)
    )


def test_averages_and_running_statistics_follow(lowered):
    def make():
        torch.manual_seed(0)
        # A bias before the normalisation would have no gradient but rounding, which Adam enlarges.
        net = nn.Sequential(nn.Linear(2, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 6))
        model = make_vae(lb.Bernoulli(lb.flatten_leading(net, 2, 6)))
        average = average_weights(model, 0.5)
        steps.append(make_step(model, lb.ELBO(), binary((6,)), averaged=average))
        return steps[-1]

    steps = []
    assert_agreement(make)
    averages = (dict(each.step.averaged.module.state_dict()) for each in steps)
    torch.testing.assert_close(*averages)


def test_the_compiler_itself_agrees(monkeypatch):
    """The whole way down to machine code, once."""

    def make():
        torch.manual_seed(1)
        likelihood = lb.Bernoulli(lb.mlp(2, 8, 6))
        objective = lb.ELBO(samples=3, beta=lb.Ramp(0.0, 1.0, steps=4))
        return make_step(make_vae(likelihood), objective, binary((6,)))

    plain = assert_agreement(make, rtol=1e-4, atol=1e-6)
    torch.compiler.reset()
    steps = make()
    thorough, _ = after(steps, compiled=True, thoroughly=True)
    # So a run that is resumed near its end need not know how it was compiled.
    for name, value in plain.items():
        assert torch.equal(thorough[name], value)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps.step.update, "prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        steps.run({"beta": 1.0}, compiled=True)


def test_an_epoch_with_schedules_and_a_short_batch_compiles_once(traced):
    objective = lb.ELBO(beta=lb.Ramp(0.0, 1.0, epochs=2), free_bits=lb.Ramp(0.5, 0.1, epochs=3))
    settings = {
        "epochs": 4,
        "batch_size": 5,
        "clip_norm": 1.0,
        "ema": 0.9,
        "schedule": "cosine",
        "warmup_steps": 3,
    }
    histories = []
    for choice in ("always", "never"):
        run = lb.fit(
            make_vae(),
            objective,
            binary((6,)),
            compile=choice,
            progress=False,
            validation=0.1,
            **settings,
        )
        histories.append([record["train"]["bound"] for record in run.history])
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)
    assert graphs() == 1


class Ways(Observer):
    """Which way each step was taken."""

    def __init__(self) -> None:
        self.compiled: list[bool] = []

    def on_step(self, loop) -> None:
        self.compiled.append(loop.step.last is None)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_run_goes_on_the_way_it_went(verdict, traced, tmp_path, monkeypatch):
    """Whether compiled steps were found quicker or not; it is not asked again."""
    monkeypatch.setattr(autotune, "WORTH_COMPILING_SECONDS", 0.0)
    Clock(monkeypatch, {"uncompiled": 2.0, "compiled": 1.0 if verdict else 3.0})
    settings = {
        "batch_size": 6,
        "progress": False,
        "pictures_every": 0,
        "directory": tmp_path / "run",
    }
    lb.fit(make_vae(), lb.ELBO(), binary((6,)), epochs=21, **settings)
    ways = Ways()
    lb.fit(
        make_vae(), lb.ELBO(), binary((6,)), epochs=23, resume=True, observers=[ways], **settings
    )
    assert ways.compiled == [verdict] * 4


def test_a_run_goes_on_compiled_as_if_it_had_never_stopped(traced, tmp_path):
    settings = {"batch_size": 5, "compile": "always", "progress": False, "pictures_every": 0}
    whole = lb.fit(make_vae(), lb.ELBO(), binary((6,)), epochs=4, **settings)
    lb.fit(make_vae(), lb.ELBO(), binary((6,)), epochs=2, directory=tmp_path / "run", **settings)
    again = lb.fit(
        make_vae(),
        lb.ELBO(),
        binary((6,)),
        epochs=4,
        directory=tmp_path / "run",
        resume=True,
        **settings,
    )
    assert [record["train"] for record in again.history] == [
        record["train"] for record in whole.history
    ]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


class Own(nn.Module):
    """Parameters whose raw gradients lie otherwise in memory: transposed, and expanded."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 2))
        self.shift = nn.Parameter(torch.randn(6))

    def forward(self, z):
        return torch.einsum("...i,oi->...o", z, self.weight) + self.shift.sum()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_gradients_reach_the_optimiser_as_parameters_lie(optimizer, lowered):
    def make():
        torch.manual_seed(2)
        own = lb.Gaussian(Own(), scale=1.0)
        return make_step(make_vae(own), lb.ELBO(), binary((6,)), optimizer)

    assert_agreement(make)
    steps, by_hand = make(), make()
    torch.manual_seed(3)
    steps.run()
    torch.manual_seed(3)
    model = by_hand.step.model
    loss = -lb.ELBO()(model.draw(by_hand.batch().decode(torch.float32)[0])).mean()
    loss.backward()
    by_hand.step.optimizer.step()
    torch.testing.assert_close(dict(steps.step.model.state_dict()), dict(model.state_dict()))


def test_frozen_and_unused_parameters_stay(lowered):
    def make():
        model = make_vae()
        model.posterior.requires_grad_(False)
        model.unused = nn.Parameter(torch.ones(2))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        return make_step(model, lb.ELBO(), binary((6,)), optimizer)

    before = dict(make().step.model.state_dict())
    assert_agreement(make)
    weights, _ = after(make(), compiled=False)
    same = {name for name, value in weights.items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith("posterior") or name == "unused"}


def test_an_objective_made_of_another_may_pass_its_schedule_on():
    class Mine(lb.Objective):
        beta = lb.Ramp(0.0, 1.0, steps=3)

        def bound(self, draw):
            return lb.ELBO().bound(draw)

        def surrogate(self, draw):
            return lb.ELBO(beta=self.beta).surrogate(draw)

    ramp = lb.Ramp(0.0, 1.0, steps=3)
    torch.testing.assert_close(
        after(make_step(make_vae(), Mine(), binary((6,))), compiled=False),
        after(make_step(make_vae(), lb.ELBO(beta=ramp), binary((6,))), compiled=False),
    )


def test_terms_in_another_order_keep_their_names_and_other_terms_are_refused():
    class Changing(lb.Objective):
        def bound(self, draw):
            return lb.ELBO().bound(draw)

        def terms(self, draw):
            turns.append(0)
            terms = super().terms(draw)
            if len(turns) == 3:
                return terms | {"new": terms["bound"]}
            return dict(reversed(terms.items())) if len(turns) == 2 else terms

    turns = []
    steps, plain = (
        make_step(make_vae(), objective, binary((6,))) for objective in (Changing(), lb.ELBO())
    )
    assert after(steps, 2, compiled=False)[1] == after(plain, 2, compiled=False)[1]
    with pytest.raises(
        SettingsError, match=r"its terms were bound, rate, distortion, and are now .*new"
    ):
        steps.run()


@pytest.mark.parametrize("alpha", [0.5, 0.95, 1.0, 1.5])
def test_a_scheduled_order_has_the_gradient_of_the_number(alpha):
    log_w = torch.tensor([[0.0, -math.inf], [1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)
    if alpha >= 0.95:
        log_w[0, 1] = -3.0  # a weight of zero has a bound, and a gradient, below these orders only
    results = []
    for value in (alpha, torch.tensor(alpha, dtype=torch.float64)):
        at = log_w.clone().requires_grad_()
        bound = PowerMean(value).value(at)
        bound.sum().backward()
        results.append((bound.detach(), at.grad))
    torch.testing.assert_close(*results)


def test_a_step_that_is_cut_short_leaves_no_trace():
    """Neither in the random state nor in running statistics: a checkpoint may be written then."""

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.cut = nn.BatchNorm1d(2), False

        def forward(self, z):
            y = self.norm(z.flatten(0, -2)).reshape(z.shape)
            if self.cut:
                raise KeyboardInterrupt
            return torch.cat([y, y, y], -1)

    cut = Cut()
    steps = make_step(make_vae(lb.Gaussian(cut, scale=1.0)), lb.ELBO(), binary((6,)))
    steps.run()
    weights, noise = steps.step.model.state_dict(), torch.get_rng_state()
    before = {name: value.clone() for name, value in weights.items()}
    cut.cut = True
    with pytest.raises(KeyboardInterrupt):
        steps.run()
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(torch.equal(value, before[name]) for name, value in weights.items())
    assert steps.step.unchecked == []


class _Asking(TorchDispatchMode):
    """Forbids to ask the device for a value."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "a value was asked for"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def elsewhere(monkeypatch):
    """Steps are taken as on another device, whose values are not at hand."""

    class Elsewhere:
        type = "elsewhere"

    def move(steps):
        monkeypatch.setattr(stepping, "random_state", lambda device: {"cpu": torch.get_rng_state()})
        monkeypatch.setattr(
            stepping,
            "restore_random_state",
            lambda state, device: torch.set_rng_state(state["cpu"]),
        )
        steps.step.device = steps.step.update.device = Elsewhere()
        return steps

    return move


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad"])
def test_a_step_asks_the_device_for_nothing(optimizer, elsewhere):
    objective = lb.ELBO(beta=lb.Ramp(0.0, 1.0, steps=4))
    steps = elsewhere(make_step(make_vae(), objective, binary((6,)), optimizer, clip_norm=0.1))
    steps.run({"beta": 0.0})  # the first one may: it makes the optimiser's state
    with _Asking():
        for number in (1, 2):
            steps.run({"beta": number / 4})
    steps.step.check()
    assert steps.step.taken == 3 == steps.step.accepted


def test_the_average_counts_its_updates_here():
    """It asks whether the first one is due; so the count must not lie on a device."""
    assert average_weights(make_vae(), 0.5).n_averaged.device.type == "cpu"


class Failing(nn.Module):
    """A decoder whose output is non-finite once its weights have moved too far from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.shift = nn.Linear(2, 6), nn.Parameter(torch.zeros(()))

    def forward(self, z):
        return self.linear(z) + self.shift + torch.where(self.shift.abs() > 0.05, math.nan, 0.0)


def failing_step(**settings) -> Steps:
    torch.manual_seed(0)
    likelihood = lb.Gaussian(Failing(), scale=1.0)
    return make_step(make_vae(likelihood), lb.ELBO(), binary((6,)), "sgd", **settings)


def until_refused(steps: Steps, *, compiled: bool) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as caught:
        after(steps, 100, compiled=compiled)
    return caught.value


def test_a_compiled_step_that_is_refused_is_explained_as_an_uncompiled_one(lowered):
    both = [failing_step(), failing_step()]
    errors = [
        until_refused(steps, compiled=compiled)
        for steps, compiled in zip(both, (True, False), strict=True)
    ]
    assert str(errors[0]) == str(errors[1])
    assert errors[0].step > 2
    torch.testing.assert_close(*(dict(steps.step.model.state_dict()) for steps in both))
    assert both[0].step.taken == both[1].step.taken == errors[0].step - 1


def test_a_first_step_that_a_device_refuses_leaves_the_optimiser_as_it_was(elsewhere):
    model = make_vae(lb.Gaussian(lb.mlp(2, 6), scale=1e-30))
    steps = elsewhere(make_step(model, lb.ELBO(), binary((6,))))
    steps.run()
    assert not steps.step.optimizer.state
    with pytest.raises(NonFiniteError):
        steps.step.check()


def test_a_device_refuses_all_steps_from_the_first_that_fails(elsewhere):
    here, there = failing_step(), elsewhere(failing_step())
    expected = until_refused(here, compiled=False)
    torch.manual_seed(3)
    for _ in range(expected.step + 5):
        there.run()
    assert there.step.taken == expected.step + 5
    with pytest.raises(NonFiniteError) as caught:
        there.step.check()
    assert str(caught.value) == str(expected)
    assert there.step.taken == expected.step - 1
    weights = (dict(steps.step.model.state_dict()) for steps in (there, here))
    torch.testing.assert_close(*weights)
    assert there.step.totals == pytest.approx(here.step.totals)


# The choice


def told(monkeypatch, *, worth: float = 0.0, **settings) -> tuple[list[str], lb.Run]:
    """What a training says of its choice, and the run."""
    monkeypatch.setattr(autotune, "WORTH_COMPILING_SECONDS", worth)
    watcher = Told()
    settings = {"epochs": 20, "batch_size": 5, "progress": False, "observers": [watcher]} | settings
    run = lb.fit(make_vae(), lb.ELBO(), binary((6,)), **settings)
    return watcher.lines, run


def test_a_short_training_is_not_compiled(monkeypatch):
    lines, _ = told(monkeypatch, worth=1e6)
    assert len(lines) == 1
    assert lines[0].startswith("uncompiled: the steps take")
    assert graphs() == 0


def test_a_compiler_that_fails_is_told_of_and_does_without(monkeypatch):
    def fail(*given, **more):
        torch.rand(3)  # what it drew must not be missed
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand much more")

    expected = lb.fit(
        make_vae(),
        lb.ELBO(),
        binary((6,)),
        epochs=20,
        batch_size=5,
        progress=False,
        compile="never",
    )
    monkeypatch.setattr(torch, "compile", lambda *given, **more: fail)
    for choice in ("auto", "always"):
        lines, run = told(monkeypatch, compile=choice)
        assert lines == ["uncompiled: the compiler failed (no C++ compiler)"]
        assert [r["train"] for r in run.history] == [r["train"] for r in expected.history]


def test_a_mistake_of_the_user_s_is_not_taken_for_the_compiler_s(monkeypatch):
    def fail(*given, **more):
        raise ConnectionError("the data service is away")

    monkeypatch.setattr(torch, "compile", lambda *given, **more: fail)
    with pytest.raises(ConnectionError):
        told(monkeypatch, compile="always")


@pytest.mark.parametrize("register", ["register_post_accumulate_grad_hook", "register_hook"])
def test_a_hook_that_the_compiler_would_not_call_keeps_the_steps_uncompiled(register):
    called = []
    model = make_vae()
    getattr(next(model.parameters()), register)(called.append)
    watcher = Told()
    lb.fit(
        model,
        lb.ELBO(),
        binary((6,)),
        compile="always",
        epochs=3,
        progress=False,
        observers=[watcher],
    )
    assert watcher.lines == ["uncompiled: a parameter has a hook on its gradient"]
    assert len(called) >= 3  # and once before the training begins


def test_a_compiler_that_cannot_be_asked_is_told_of(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", refuse)
    watcher = Told()
    lb.fit(
        make_vae(),
        lb.ELBO(),
        binary((6,)),
        compile="always",
        epochs=3,
        progress=False,
        observers=[watcher],
    )
    assert watcher.lines == [
        "uncompiled: the compiler failed (torch.compile is not supported here)"
    ]


@torch._dynamo.config.patch(recompile_limit=3)
def test_every_training_of_a_program_can_be_compiled(traced):
    """With a limit of 3 the compiler would give up at the fourth; its own limit is 8."""
    watcher = Told()
    for _ in range(4):
        lb.fit(
            make_vae(),
            lb.ELBO(),
            binary((6,)),
            compile="always",
            epochs=3,
            progress=False,
            observers=[watcher],
        )
    assert all(re.fullmatch(r"compiled: \d+ s to compile", line) for line in watcher.lines)
    assert len(watcher.lines) == 4


def test_a_model_that_changes_from_step_to_step_is_trained_uncompiled(traced):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.steps = nn.Linear(2, 6), 0

        def forward(self, z):
            self.steps += self.training
            return self.linear(z) / self.steps if self.training else self.linear(z)

    bounds, watcher = [], Told()
    for choice in ("always", "never"):
        torch.manual_seed(1)
        model = make_vae(lb.Gaussian(Counting(), scale=1.0))
        run = lb.fit(
            model,
            lb.ELBO(),
            binary((6,)),
            compile=choice,
            epochs=12,
            progress=False,
            observers=[watcher],
        )
        bounds.append([record["train"]["bound"] for record in run.history])
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    assert watcher.lines[-1].startswith("uncompiled: the compiler failed (")


@pytest.mark.parametrize("steps", [100, 10**6])
def test_a_long_training_is_compiled_thoroughly(steps, traced, monkeypatch):
    asked = []

    class Enough(Observer):
        def on_step(self, loop) -> None:
            loop.stop_requested = loop.progress.step == 5

    def watched(step, **settings):
        asked.append(settings["thoroughly"])
        return compile_step(step, **settings)

    monkeypatch.setattr(compiling, "compile_step", watched)
    with pytest.raises(KeyboardInterrupt):
        lb.fit(
            make_vae(),
            lb.ELBO(),
            binary((6,)),
            compile="always",
            steps=steps,
            progress=False,
            observers=[Enough()],
        )
    assert asked == [steps > 100]


def test_nothing_is_said_where_nothing_was_to_decide(monkeypatch):
    assert told(monkeypatch, compile="never")[0] == []


class Clock:
    """Says of each option how long its steps take, in milliseconds."""

    def __init__(self, monkeypatch, milliseconds: dict[str, float], seconds: float = 20.0) -> None:
        self.tuners: list[Autotuner] = []
        record = Autotuner.record

        def timed(tuner, _, left):
            if tuner not in self.tuners:
                self.tuners.append(tuner)
            first = tuner.option.compiled and not tuner.times
            record(tuner, seconds if first else milliseconds[str(tuner.option)] / 1e3, left)

        monkeypatch.setattr(Autotuner, "record", timed)


@pytest.mark.parametrize(("milliseconds", "line"), [
    (1.0, "compiled: 1 ms a step, uncompiled 2 ms; 20 s to compile"),
    (3.0, "uncompiled: 2 ms a step, compiled 3 ms; 20 s to compile"),
])  # fmt: skip
def test_the_quicker_way_is_kept(milliseconds, line, traced, monkeypatch):
    clock = Clock(monkeypatch, {"uncompiled": 2.0, "compiled": milliseconds})
    lines, _ = told(monkeypatch)
    assert lines == [line]
    assert clock.tuners[0].option.compiled == line.startswith("compiled")


UNITS = {
    "uncompiled": 4.0,
    "uncompiled in bfloat16": 3.0,
    "compiled": 2.0,
    "compiled in bfloat16": 1.0,
}


ALL_FOUR = (
    "compiled in bfloat16: 1 ms a step, compiled 2 ms, uncompiled in bfloat16 3 ms, "
    "uncompiled 4 ms; 20 s to compile"
)
IN_FLOAT32 = (
    "compiled: 0.5 ms a step, compiled in bfloat16 1 ms, uncompiled in bfloat16 3 ms, "
    "uncompiled 4 ms; 20 s to compile"
)
TOO_SHORT = (
    "uncompiled in bfloat16: the steps take 0 s, too little to gain by compiling; 3 ms a step, "
    "uncompiled 4 ms"
)


@pytest.mark.parametrize(("choice", "worth", "units", "times", "line"), [
    ("auto", 0.0, True, {}, ALL_FOUR),
    ("auto", 0.0, True, {"compiled": 0.5}, IN_FLOAT32),
    ("auto", 1e6, True, {}, TOO_SHORT),
    ("auto", 0.0, False, {}, "compiled: 2 ms a step, uncompiled 4 ms; 20 s to compile"),
    ("never", 0.0, True, {}, "uncompiled in bfloat16: 3 ms a step, uncompiled 4 ms"),
    ("always", 0.0, True, {}, "compiled in bfloat16: 1 ms a step, compiled 2 ms; 20 s to compile"),
])  # fmt: skip
def test_the_precision_is_chosen_by_time(choice, worth, units, times, line, traced, monkeypatch):
    monkeypatch.setattr(compiling, "multiplies_bfloat16", lambda device: units)
    Clock(monkeypatch, UNITS | times)
    assert told(monkeypatch, worth=worth, compile=choice, precision="auto", epochs=40)[0] == [line]


@pytest.mark.parametrize("compile", ["always", "never"])
def test_networks_compute_in_bfloat16_and_nothing_else_does(compile, traced):
    seen = []

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 6)

        def forward(self, z):
            y = self.linear(z)
            seen.append((z.dtype, y.dtype))
            return y

    class Terms(Observer):
        def on_step(self, loop):
            if loop.step.last is not None:
                _, draw, bound = loop.step.last
                dtypes.update(
                    term.dtype for term in (draw.z, draw.log_likelihood, draw.rate, bound)
                )

    dtypes = set()
    model = make_vae(lb.Gaussian(Watched(), scale=1.0))
    settings = {"epochs": 4, "batch_size": 5, "progress": False, "observers": [Terms()]}
    lb.fit(
        model,
        lb.ELBO(),
        binary((6,)),
        compile=compile,
        precision="bfloat16",
        validation=0.2,
        **settings,
    )
    assert {(torch.float32, torch.bfloat16), (torch.float32, torch.float32)} == set(
        seen
    )  # training, evaluation
    assert dtypes == {torch.float32}
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert all(
        module.network_dtype is None for module in (model.prior, model.posterior, model.likelihood)
    )


@pytest.mark.parametrize("which", ["ELBO", "IWAE", "DReG", "STL"])
def test_the_step_in_bfloat16_agrees_with_float32_to_its_precision(which, lowered):
    results = []
    objective = OBJECTIVES.get(which, OBJECTIVES["ELBO"])
    for dtype in (None, torch.bfloat16):
        for compiled in (False, True):
            steps = make_step(make_vae(), objective(), binary((6,)))
            results.append(after(steps, compiled=compiled, network_dtype=dtype)[1]["bound"])
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[3] == pytest.approx(results[2], rel=5e-3)
    assert results[2] == pytest.approx(results[0], rel=5e-3)
    assert results[2] != results[0]


@pytest.mark.parametrize("bfloat16", [True, False])
def test_a_run_goes_on_in_the_precision_that_was_chosen(bfloat16, tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "multiplies_bfloat16", lambda device: True)
    Clock(monkeypatch, {"uncompiled": 2.0, "uncompiled in bfloat16": 1.0 if bfloat16 else 3.0})
    settings = {
        "batch_size": 6,
        "progress": False,
        "pictures_every": 0,
        "directory": tmp_path / "run",
    }
    settings |= {"compile": "never"}
    lb.fit(make_vae(), lb.ELBO(), binary((6,)), epochs=14, precision="auto", **settings)
    taken = []

    class Precisions(Observer):
        def on_step(self, loop):
            taken.append(loop.autotuner.option.bfloat16)

    settings |= {"resume": True, "observers": [Precisions()]}
    lb.fit(make_vae(), lb.ELBO(), binary((6,)), epochs=16, precision="auto", **settings)
    assert taken == [bfloat16] * 4
    lb.fit(make_vae(), lb.ELBO(), binary((6,)), epochs=17, precision="float32", **settings)
    assert taken[4:] == [False] * 2


def test_the_code_that_calls_kernels_is_compiled_where_they_are_a_processors():
    def options(**asked):
        return {
            kind: compiled_step._choose_code_options(torch.device(kind), **asked)
            for kind in ("cpu", "cuda")
        }

    one = {"cpp.threads": 1, "cpp.dynamic_threads": False}
    assert options() == {"cpu": one, "cuda": {}}
    assert options(profiled=True)["cpu"] == one | {"cpp.enable_kernel_profile": True}
    assert options(thoroughly=True) == {"cpu": one | {"cpp_wrapper": True}, "cuda": {}}
    assert options(threads=2)["cpu"] == {"cpp.threads": 2, "cpp.dynamic_threads": True}


class Scaled(nn.Module):
    factor = 1.0

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        return self.linear(x) * self.factor


@pytest.mark.parametrize("change", ["setting", "shape", "mode"])
def test_the_compiler_says_whether_its_code_is_still_valid(change, traced):
    model, x = Scaled(), torch.zeros(3, 2)
    made = CompiledFunction(model.forward)
    made(x)
    holds = made.guards_of_last_call()
    assert holds(x)
    if change == "shape":
        assert not holds(torch.zeros(4, 2))
    elif change == "mode":
        with torch.no_grad():
            assert not holds(x)
    else:
        model.factor = 2.0
        assert not holds(x)
        made(x)
        assert not holds(x)
        assert made.guards_of_last_call()(x)


def test_all_that_a_step_changes_stays_where_it_lies():
    """As a graph of the device's needs it."""
    steps = make_step(make_vae(), lb.ELBO(beta=lb.Ramp(0.0, 1.0, steps=3)), binary((6,)))
    steps.run({"beta": 0.5})
    before = [tensor.data_ptr() for tensor in steps.step.tensors_in_place]
    steps.run({"beta": 0.7})
    assert [tensor.data_ptr() for tensor in steps.step.tensors_in_place] == before


def _make_scaled_gradient(factor: float):
    class Scaled(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.square()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            return gradient * x * factor

    def differentiate(x):
        return torch.autograd.grad(Scaled.apply(x).sum(), x)[0]

    return differentiate


def test_cached_code_belongs_to_the_gradients_of_a_function(monkeypatch, tmp_path):
    """Two functions that differ only in their own gradient do not share what was compiled."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    counts, x = torch._dynamo.utils.counters["aot_autograd"], torch.ones(3, requires_grad=True)
    for factor, hits in ((2.0, 0), (3.0, 0), (2.0, 1)):
        torch.compiler.reset()
        made = CompiledFunction(_make_scaled_gradient(factor))
        assert made(x).tolist() == [factor] * 3
        assert counts["autograd_cache_hit"] == hits


def test_a_step_for_any_number_of_threads_is_compiled_once(traced):
    def double(x):
        return x * 2

    made = CompiledFunction(double, any_threads=True)
    x, before = torch.ones(3), torch.get_num_threads()
    for count in (1, 2, 3, 4, 5):
        with restoring_threads(count):
            assert made(x).tolist() == [2.0] * 3
    assert torch.get_num_threads() == before
    assert graphs() == 1
    with torch.no_grad():  # another state of the process is noticed
        made(x)
    assert graphs() == 2
