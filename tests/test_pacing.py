"""Likelihoods of a long evaluation as torch's compiler makes them: equal to rounding, chosen for a reason, told in one line."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.compiler import asked
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.evaluation import LikelihoodEstimate, pacing

sys.path.insert(0, str(Path(__file__).parent))
from constructors import IMAGE, MODELS, images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _afresh():
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


@pytest.fixture
def traced(monkeypatch):
    """The compiler's first stage alone: the graph is captured, and then run as it is."""
    monkeypatch.setattr(pacing, "asked", lambda **_: asked() | {"backend": "eager", "options": None})


def both(model: lb.LatentModel, data, samples: int = 10, **settings) -> tuple[LikelihoodEstimate, LikelihoodEstimate]:
    """Uncompiled, and compiled in chunks of which the last is shorter, as is the last batch."""
    settings = {"batch_size": 4, "chunk_size": 4} | settings
    plain, compiled = (
        lb.log_likelihood(model, data, samples, compile=choice, **settings) for choice in ("never", "always")
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


@pytest.mark.parametrize("settings", [{}, {"batch_size": 1}, {"chunk_size": 1}, {"chunk_size": 10}, {"batch_size": 11}])
def test_chunks_of_another_shape_are_taken_uncompiled(settings, traced):
    torch.manual_seed(0)
    plain, quick = both(MODELS["binary"](), images("binary"), **settings)
    assert same(plain, quick)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


class Clock:
    """Says how long the chunks of each way take, in seconds."""

    def __init__(self, monkeypatch, uncompiled: float, compiled: float, compiling: float = 20.0) -> None:
        class Timed(pacing.PacedLikelihood):
            def _consider(paced):
                seconds = uncompiled if paced.compiled is None else compiled if len(paced.seconds) > 1 else compiling
                paced.seconds[-1] = seconds
                super()._consider()

        monkeypatch.setattr(pacing, "PacedLikelihood", Timed)


@pytest.mark.parametrize(("uncompiled", "compiled", "line"), [
    (2.0, 1.0, "compiled: 1e+03 ms a chunk compiled, 2e+03 ms uncompiled; 20 s to compile"),
    (2.0, 3.0, "uncompiled: 3e+03 ms a chunk compiled, 2e+03 ms uncompiled; 20 s to compile"),
    (0.5, 0.1, None),
])  # fmt: skip
def test_it_is_compiled_where_that_is_worth_it_and_quicker(uncompiled, compiled, line, traced, monkeypatch):
    Clock(monkeypatch, uncompiled, compiled)
    model, data = MODELS["binary"](), images("binary")
    found = lb.log_likelihood(model, data, 200, batch_size=4, chunk_size=4)  # 150 chunks
    assert found.pace == line
    assert same(found, lb.log_likelihood(model, data, 200, batch_size=4, chunk_size=4, compile="never"))


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
    model.likelihood = lb.Bernoulli(lb.flatten_leading(nn.Sequential(Breaking(), lb.mlp(2, IMAGE)), 2, IMAGE))
    plain, found = both(model, images("binary"))
    assert found.pace.startswith("uncompiled: the compiler failed (")
    assert torch.equal(plain.per_example, found.per_example)


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
    with pytest.raises(SettingsError, match="log_likelihood: compile='yes' must be one of auto, always, never"):
        lb.log_likelihood(MODELS["binary"](), images("binary"), 10, compile="yes")
    with pytest.raises(ShapeError, match="do not go through the model"):
        lb.log_likelihood(MODELS["binary"](), torch.zeros(5, 1, 4, 4), 10, compile="always")
