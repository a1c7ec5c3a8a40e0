"""Compiled steps without the compiler's checks: what they compute, and when they are repeated."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.errors import NonFiniteError
from lowerbound.runtime.compiler import CompiledFunction, LastCall
from lowerbound.training.compiling import StepAutotuner, StepOptions
from lowerbound.training.observing import Observer

sys.path.insert(0, str(Path(__file__).parent))
from test_compiling import Steps, after, binary, graphs, make_step, make_vae

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("fresh_compiler", "traced"),
]


def make_steps(optimizer: str = "adam", model: lb.LatentModel | None = None) -> Steps:
    """Steps of which three have been taken; the compiled ones, the last two, can be repeated."""
    objective = lb.ELBO(beta=lb.Ramp(0.5, 1.0, steps=4))
    steps = make_step(model or make_vae(), objective, binary((6,)), optimizer, clip_norm=1.0)
    after(steps, 2, compiled=True)
    repeat(steps)
    return steps


def repeat(steps: Steps, beta: float = 1.0) -> None:
    steps.step.is_unchanged = True
    steps.run({"beta": beta}, compiled=True)


def state_of(steps: Steps) -> list[torch.Tensor]:
    states = [value for own in steps.step.optimizer.state.values() for value in own.values()]
    tensors = [*steps.step.model.state_dict().values(), *states]
    return [value.clone() for value in tensors if isinstance(value, torch.Tensor)]


def assert_same_bits(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.fixture
def calls(monkeypatch) -> list[object]:
    """The calls of compiled functions that the compiler checks."""
    made: list[object] = []
    call = CompiledFunction.__call__

    def count(self, *given, **named):
        made.append(self)
        return call(self, *given, **named)

    monkeypatch.setattr(CompiledFunction, "__call__", count)
    return made


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_repeated_steps_give_the_same_bits_as_checked_ones(optimizer, calls):
    ends = []
    for is_unchanged in (True, False):
        steps = make_steps(optimizer)
        torch.manual_seed(5)
        checked = len(calls)
        for number in range(6):
            steps.step.optimizer.param_groups[0]["lr"] = 0.01 * (1 + number)
            steps.step.is_unchanged = is_unchanged
            steps.run({"beta": 0.3 * number}, compiled=True)
        assert len(calls) - checked == 6 * (not is_unchanged)
        assert steps.step.taken == 9 == steps.step.accepted
        ends.append((state_of(steps), steps.step.totals))
    assert_same_bits(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert graphs() == 2  # one for each of the two trainings


def test_a_repeated_step_that_is_refused_changes_nothing():
    steps = make_steps()
    repeat(steps)
    before, totals = state_of(steps), steps.step.totals
    with pytest.raises(NonFiniteError, match="step 5"):
        repeat(steps, beta=torch.nan)
    assert_same_bits(state_of(steps), before)
    assert steps.step.totals == totals
    assert steps.step.taken == 4 == steps.step.accepted


def test_a_step_with_a_batch_of_another_size_is_checked(calls):
    steps = make_steps()
    checked = len(calls)
    steps.batch = lambda: make_batch(steps, 5)
    repeat(steps)
    assert len(calls) == checked + 1
    assert steps.step.taken == 4


def make_batch(steps: Steps, size: int):
    whole = Steps.batch(steps)
    return type(whole)(whole.tensor[:size], {}, whole.examples, on_device=True)


def test_uncompiled_and_repeated_steps_may_alternate():
    mixed, plain = make_steps(), make_steps()
    for number in range(4):
        for steps in (mixed, plain):
            torch.manual_seed(number)
            steps.step.is_unchanged = True
            steps.run({"beta": 1.0}, compiled=steps is mixed and number % 2 == 1)
    for one, other in zip(state_of(mixed), state_of(plain), strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_that_is_interrupted_after_its_update_is_counted(monkeypatch):
    steps = make_steps()
    run = LastCall.repeat

    def interrupt(self, changing):
        run(self, changing)
        raise KeyboardInterrupt

    monkeypatch.setattr(LastCall, "repeat", interrupt)
    with pytest.raises(KeyboardInterrupt):
        repeat(steps)
    assert steps.step.taken == 4 == steps.step.accepted


def test_an_error_of_the_optimiser_in_a_repeated_step_is_raised_unchanged(monkeypatch):
    steps = make_steps("rmsprop")
    run = LastCall.repeat

    def fail():
        raise ZeroDivisionError

    def convert(self, changing):
        try:
            return run(self, changing)
        except ZeroDivisionError:
            raise RuntimeError from None  # as the C++ code of a step does

    monkeypatch.setattr(steps.step.optimizer, "step", fail)
    monkeypatch.setattr(LastCall, "repeat", convert)
    # After an error, compiled code leaves gradients switched off until the end of this block.
    with torch.enable_grad(), pytest.raises(ZeroDivisionError):
        repeat(steps)
    assert torch.is_grad_enabled()


class Remembering(nn.Module):
    """Keeps its last output, which the compiled code returns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 6)
        self.last = torch.zeros(())

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.last = self.linear(z).detach()
        return self.linear(z)


def test_code_that_changes_more_than_tensors_is_not_repeated(calls):
    network = Remembering()
    steps = make_steps(model=make_vae(lb.Bernoulli(network)))
    checked, before = len(calls), network.last
    repeat(steps)
    assert len(calls) == checked + 1
    assert network.last is not before


class Alternating(nn.Module):
    """Alternates between two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 6)
        self.is_first = True
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        self.is_first = not self.is_first
        self.scale.fill_(1.0 + self.is_first)
        return self.scale * self.linear(z)


def test_code_that_changes_a_setting_is_not_repeated_with_the_old_one():
    network = Alternating()
    steps = make_steps(model=make_vae(lb.Bernoulli(network)))
    scales = []
    for _ in range(4):
        repeat(steps)
        scales.append(float(network.scale))
    assert scales == [2.0, 1.0, 2.0, 1.0]


def make_autotuner(steps: Steps) -> StepAutotuner:
    """Take six steps: an uncompiled one, two compiled ones that are checked, and repeated ones."""
    tuner = StepAutotuner(steps.step, StepOptions("always"), 12, lambda line: None)
    for _ in range(6):
        tuner.run(steps.batch(), {"beta": 1.0}, 100)
        steps.step.is_unchanged = True
    return tuner


def test_a_change_before_the_step_of_another_function_is_seen(calls):
    steps = make_step(make_vae(), lb.ELBO(beta=lb.Ramp(0.5, 1.0, steps=4)), binary((6,)))
    tuner = make_autotuner(steps)
    assert tuner.option.compiled
    posterior, checked = steps.step.model.posterior, len(calls)
    posterior.requires_grad_(False)
    steps.step.is_unchanged = False
    tuner.run(make_batch(steps, 5), {"beta": 1.0}, 100)  # uncompiled, since it is short
    before = [parameter.clone() for parameter in posterior.parameters()]
    steps.step.is_unchanged = True
    tuner.run(steps.batch(), {"beta": 1.0}, 100)
    assert_same_bits(list(posterior.parameters()), before)
    assert len(calls) == checked + 1


def test_steps_of_one_function_are_repeated(calls):
    steps = make_step(make_vae(), lb.ELBO(beta=lb.Ramp(0.5, 1.0, steps=4)), binary((6,)))
    make_autotuner(steps)
    assert len(calls) == 2


def test_a_step_that_fails_is_not_repeated(calls, monkeypatch):
    steps = make_step(make_vae(), lb.ELBO(beta=lb.Ramp(0.5, 1.0, steps=4)), binary((6,)))
    tuner = make_autotuner(steps)

    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(LastCall, "repeat", fail)
        with pytest.raises(ZeroDivisionError):
            tuner.run(steps.batch(), {"beta": 1.0}, 100)
    checked = len(calls)
    tuner.run(steps.batch(), {"beta": 1.0}, 100)
    assert len(calls) == checked + 1


class Watching(Observer):
    """Looks for gradients after each step, and freezes the encoder after one of them."""

    def __init__(self, freeze_at: int) -> None:
        self.freeze_at = freeze_at
        self.gradients: list[bool] = []
        self.weights: list[torch.Tensor] = []

    def on_step(self, loop) -> None:
        first = next(loop.model.posterior.parameters())
        self.gradients.append(first.grad is not None)
        self.weights.append(first.detach().clone())
        if loop.progress.step == self.freeze_at:
            loop.model.posterior.requires_grad_(False)


class Reading(Watching):
    only_reads = True


def fit(observer: Observer, **changes) -> None:
    settings = {"epochs": 3, "batch_size": 3, "compile": "always", "progress": False} | changes
    lb.fit(make_vae(), lb.ELBO(), binary((6,)), observers=[observer], **settings)


def test_an_observer_sees_gradients_and_may_change_the_training():
    watching = Watching(freeze_at=6)
    fit(watching)
    assert all(watching.gradients[:6])
    moved = [not torch.equal(*pair) for pair in pairwise(watching.weights)]
    assert moved == 5 * [True] + 6 * [False]


class Keeping(Observer):
    """Keeps the gradients that it finds after each step."""

    def __init__(self) -> None:
        self.after_steps: list[list[torch.Tensor]] = []

    def on_step(self, loop) -> None:
        self.after_steps.append([p.grad for p in loop.model.parameters()])


class LookingAtEpochs(Observer):
    """Looks for gradients after each epoch."""

    def __init__(self) -> None:
        self.found: list[bool] = []

    def on_epoch(self, loop, record) -> None:
        self.found.append(any(p.grad is not None for p in loop.model.parameters()))


def test_gradients_after_a_step_are_those_that_the_optimiser_used():
    """After clipping, and each step has tensors of its own."""
    kept = []
    for choice in ("never", "always"):
        kept.append(Keeping())
        fit(kept[-1], compile=choice, clip_norm=0.1)
    uncompiled, compiled = (each.after_steps for each in kept)
    assert len(compiled) == 12
    for one, other in zip(uncompiled, compiled, strict=True):
        torch.testing.assert_close(one, other)
        total = torch.stack([gradient.norm() for gradient in other]).norm()
        assert float(total) == pytest.approx(0.1, rel=1e-3)


def test_gradients_are_not_promised_after_an_epoch():
    found = {}
    for choice in ("never", "always"):
        observer = LookingAtEpochs()
        fit(observer, compile=choice)
        found[choice] = observer.found
    assert found == {"never": 3 * [True], "always": 3 * [False]}


def test_steps_are_repeated_unless_an_observer_may_interfere(calls):
    fit(Watching(freeze_at=-1))
    watched = len(calls)
    calls.clear()
    fit(Reading(freeze_at=-1))
    # The first of 12 steps is uncompiled. The next two, and the first two of epochs, are checked.
    assert (watched, len(calls)) == (11, 6)


class Adding(Observer):
    """Adds another observer before the first step."""

    def __init__(self, other: Observer) -> None:
        self.other = other

    def on_start(self, loop) -> None:
        loop.observers.append(self.other)


def test_an_observer_that_another_one_adds_sees_gradients():
    watching = Watching(freeze_at=-1)
    fit(Adding(watching))
    assert watching.gradients == 12 * [True]


def test_a_subclass_that_overrides_a_method_may_interfere():
    class Plain(Observer):
        only_reads = True

    class Stepping(Plain):
        def on_step(self, loop) -> None:
            pass

    class Saying(Stepping):
        only_reads = True

    class Starting(Saying):
        def on_start(self, loop) -> None:
            pass

    kinds = (Observer, Plain, Stepping, Saying, Starting)
    assert [kind().may_interfere for kind in kinds] == [False, False, True, False, False]


def test_a_method_of_one_instance_may_interfere():
    observer = Observer()
    observer.on_step = lambda loop: None
    assert observer.may_interfere
