"""Compiled likelihoods in long evaluations: equal to rounding, and chosen for a reason."""

import gc
import re
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Uniform

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.evaluation import LikelihoodEstimate, tuned_score
from lowerbound.runtime import autotune

sys.path.insert(0, str(Path(__file__).parent))
from constructors import IMAGE, MODELS, images

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.usefixtures("fresh_compiler"),
]


def both(
    model: lb.LatentModel, data, samples: int = 10, **settings
) -> tuple[LikelihoodEstimate, LikelihoodEstimate]:
    """Uncompiled, and compiled in chunks of which the last is shorter, as is the last batch."""
    settings = {"batch_size": 4, "chunk_size": 4} | settings
    plain, compiled = (
        lb.log_likelihood(model, data, samples, compile=choice, **settings)
        for choice in ("never", "always")
    )
    assert plain.pace is None
    return plain, compiled


def same(one: LikelihoodEstimate, other: LikelihoodEstimate) -> bool:
    return torch.allclose(one.per_example, other.per_example, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_every_likelihood_is_compiled_as_one_graph_and_agrees(name, traced):
    torch.manual_seed(0)
    model = MODELS[name]().train()
    likelihood = model.likelihood
    plain, compiled = both(model, images(name))
    assert re.fullmatch(r"compiled: \d+ s to compile", compiled.pace)
    assert same(plain, compiled)
    assert model.likelihood is likelihood
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("name", ["Gaussian", "binary"])
def test_what_the_compiler_makes_agrees(name):
    torch.manual_seed(0)
    plain, compiled = both(MODELS[name](), images(name))
    assert compiled.pace.startswith("compiled")
    assert same(plain, compiled)
    assert torch.allclose(plain.effective_sample_sizes, compiled.effective_sample_sizes, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"batch_size": 1}, {"chunk_size": 1}, {"chunk_size": 10}, {"batch_size": 11}]
)
def test_chunks_of_another_shape_are_taken_uncompiled(settings, traced):
    torch.manual_seed(0)
    plain, quick = both(MODELS["binary"](), images("binary"), **settings)
    assert same(plain, quick)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Clock(nn.Linear):
    """A decoder that takes all of the time: so many seconds a chunk, uncompiled or compiled."""

    def __init__(
        self, monkeypatch, uncompiled: float, compiled: float, compiling: float = 20.0
    ) -> None:
        super().__init__(2, 63)
        self.now, self.next, self.taken = 0.0, [uncompiled, uncompiled, 10 * uncompiled], []
        self.uncompiled, self.compiled, self.compiling = uncompiled, compiled, compiling
        monkeypatch.setattr(autotune, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(tuned_score, "CompiledFunction", self.made)

    def forward(self, z):
        self.now += self.next.pop(0) if self.next else self.uncompiled
        self.taken.append(tuple(z.shape[:2]))
        return super().forward(z)

    def made(self, function):
        self.next = [self.compiling, self.compiled, 10 * self.compiled]

        def call(*given):
            self.next = self.next or [self.compiled]
            return function(*given)

        return call


@pytest.mark.parametrize(("uncompiled", "compiled", "line"), [
    (2.0, 1.0, "compiled: 1e+03 ms a chunk, uncompiled 2e+03 ms; 20 s to compile"),
    (2.0, 3.0, "uncompiled: 2e+03 ms a chunk, compiled 3e+03 ms; 20 s to compile"),
    (0.68, 0.1, "compiled: 100 ms a chunk, uncompiled 680 ms; 20 s to compile"),
    (0.67, 0.1, None),  # of 137.5 chunks there are 133.5 left when it is decided
])  # fmt: skip
@pytest.mark.parametrize("latent", [(2,), (2, 1, 3), ()])
def test_it_is_compiled_where_that_is_worth_it_and_quicker(
    uncompiled, compiled, line, latent, monkeypatch
):
    class Fixed(nn.Module):
        def forward(self, *given):
            zeros = torch.zeros([*(len(x) for x in given), *latent])
            return DiagonalNormal(zeros, zeros, len(latent))

    class Two(nn.Module):
        def forward(self, z):
            return z.flatten(2)[..., :2] if latent else torch.stack([z, z], -1)

    clock = Clock(monkeypatch, uncompiled, compiled)
    model = lb.LatentModel(Fixed(), Fixed(), lb.Bernoulli(nn.Sequential(Two(), clock)))
    found = lb.log_likelihood(model, torch.zeros(11, 63), 200, batch_size=4, chunk_size=4)
    assert found.pace == line
    assert clock.taken == [(4, 4)] * 100 + [(4, 3)] * 50


def test_few_long_chunks_are_not_compiled(monkeypatch):
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(63, 4)),
        lb.Bernoulli(Clock(monkeypatch, 100.0, 1.0)),
    )
    assert lb.log_likelihood(model, torch.zeros(4, 63), 7, chunk_size=1).pace is None


@pytest.mark.parametrize(("samples", "line"), [
    (4, "uncompiled: the compiler needs a second chunk of the same shape as the first"),
    (7, "uncompiled: the compiler needs a second chunk of the same shape as the first"),
    (8, "compiled: 20 s to compile"),
])  # fmt: skip
def test_who_asks_for_it_is_told_what_came_of_it(samples, line, monkeypatch):
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(63, 4)), lb.Bernoulli(Clock(monkeypatch, 2.0, 1.0))
    )
    assert (
        lb.log_likelihood(model, torch.zeros(3, 63), samples, chunk_size=4, compile="always").pace
        == line
    )


class Foreign(nn.Linear):
    """A decoder of one's own, whose distribution of torch's checks its data.

    Its support depends on the latents, so nothing can be refused beforehand.
    """

    def forward(self, z):
        low = super().forward(z).tanh() - 5
        return Independent(Uniform(low, low + 10), 1)


@pytest.mark.parametrize("choice", ["never", "always"])
def test_data_of_every_batch_are_checked_and_other_distributions_go_on_checking(
    choice, traced, monkeypatch
):
    monkeypatch.setattr(Distribution, "_validate_args", True)
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), Foreign(2, 6))
    data = torch.zeros(10, 6)
    estimates = [
        lb.log_likelihood(model, data, 9, batch_size=2, chunk_size=3, compile=c)
        for c in ("never", choice)
    ]
    assert same(*estimates)
    assert choice == "never" or estimates[1].pace.startswith("compiled")
    data[9, 0] = 7
    with pytest.raises(ValueError, match="within the support"):
        lb.log_likelihood(model, data, 9, batch_size=2, chunk_size=3, compile=choice)
    with pytest.raises(ValueError, match="scale"):
        torch.distributions.Normal(0.0, -1.0)


def test_what_a_subclass_holds_beside_its_parts_is_evaluated_too(traced):
    class Own(lb.LatentModel):
        def __init__(self):
            super().__init__(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), None)
            self.decoder, self.switched = nn.Sequential(nn.Linear(2, 6), nn.Dropout(0.5)), []
            self.likelihood = partial(Own.decoded, self)

        def decoded(self, z):
            return FactorialBernoulli(self.decoder(z))

        def train(self, mode=True):
            self.__dict__.setdefault("switched", []).append(mode)
            return super().train(mode)

    torch.manual_seed(0)
    model = Own().double()
    plain, compiled = both(model, torch.zeros(11, 6), samples=12)
    assert same(plain, compiled)
    assert compiled.pace.startswith("compiled")
    assert False in model.switched
    assert model.training


def test_what_was_compiled_goes_with_the_evaluation(traced):
    """And no limit of the compiler's counts it."""
    model, data = MODELS["binary"](), images("binary")
    kept = []
    for _ in range(3):
        assert both(model, data)[1].pace.startswith("compiled")
        gc.collect()
        kinds = Counter(map(type, gc.get_objects()))
        kept.append(sum(kinds[kind] for kind in kinds if issubclass(kind, torch.fx.GraphModule)))
    assert kept[2] == kept[1]


def test_a_short_evaluation_is_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it was asked"))
    assert lb.log_likelihood(MODELS["binary"](), images("binary"), 100).pace is None


@pytest.mark.parametrize("when", ["asked", "called"])
def test_a_compiler_that_fails_is_told_of_and_does_without(when, monkeypatch):
    def fail(*_, **__):
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand much more")

    monkeypatch.setattr(torch, "compile", fail if when == "asked" else lambda *_, **__: fail)
    plain, found = both(MODELS["binary"](), images("binary"))
    assert found.pace == "uncompiled: the compiler failed (no C++ compiler)"
    assert torch.equal(plain.per_example, found.per_example)


def test_a_decoder_that_is_no_graph_is_told_of_and_does_without(traced):
    class Breaking(nn.Module):
        def forward(self, z):
            torch._dynamo.graph_break()
            return z

    model = MODELS["binary"]()
    model.likelihood = lb.Bernoulli(
        lb.flatten_leading(nn.Sequential(Breaking(), lb.mlp(2, IMAGE)), 2, IMAGE)
    )
    plain, found = both(model, images("binary"))
    assert re.fullmatch(
        r"uncompiled: the compiler failed \(.* in tests/test_pacing.py, line \d+\)", found.pace
    )
    assert torch.equal(plain.per_example, found.per_example)


def test_a_decoder_that_changes_from_call_to_call_is_told_of_and_does_without(traced):
    class Counting(nn.Linear):
        calls = 0

        def forward(self, z):
            self.calls += 1
            return super().forward(z) + 0 * self.calls

    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Bernoulli(Counting(2, 6))
    )
    plain, found = both(model, torch.zeros(11, 6), samples=40)
    assert (
        found.pace
        == "uncompiled: the compiler failed (something in the model changes from call to call)"
    )
    assert same(plain, found)


def test_errors_that_are_not_the_compilers_are_not_hidden(monkeypatch):
    def fail(*_):
        raise ConnectionError("the weights are away")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(ConnectionError):
        lb.log_likelihood(MODELS["binary"](), images("binary"), 10, chunk_size=2, compile="always")


def test_a_model_that_draws_in_its_own_way_is_left_alone(monkeypatch):
    class Own(lb.LatentModel):
        def draw(self, x, samples=1, gradient="pathwise"):
            return super().draw(x, samples, gradient)

    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("it was asked"))
    parts = MODELS["binary"]()
    model = Own(parts.prior, parts.posterior, parts.likelihood)
    _, found = both(model, images("binary"))
    assert found.pace is None


def test_mistakes_are_told_as_ever(traced):
    with pytest.raises(
        SettingsError, match="log_likelihood: compile='yes' must be one of auto, always, never"
    ):
        lb.log_likelihood(MODELS["binary"](), images("binary"), 10, compile="yes")
    with pytest.raises(ShapeError, match="do not fit the model"):
        lb.log_likelihood(MODELS["binary"](), torch.zeros(5, 1, 4, 4), 10, compile="always")
