"""Densities that take a shorter way than their formula."""

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from lowerbound.distributions import FactorialBernoulli, TriangularNormal, bernoulli
from lowerbound.distributions.bernoulli import _compute_in_one_pass, _exp_of_negative
from lowerbound.runtime.compiler import CompiledFunction


@pytest.mark.parametrize("dimensions", [0, 1, 2, 3, 31, 32, 33, 63, 65, 97, 784, 1000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("leading", [(3, 4), (4,), (5, 3, 4)])
def test_a_bernoulli_is_its_formula(dimensions, scale, leading):
    torch.manual_seed(dimensions)
    logits, value = (
        scale * torch.randn(*leading, dimensions),
        (torch.rand(4, dimensions) < 0.5).float(),
    )
    exact = nn.functional.logsigmoid((2 * value - 1).double() * logits.double()).sum(-1)
    torch.testing.assert_close(
        FactorialBernoulli(logits).log_prob(value).double(), exact, rtol=1e-5, atol=1e-4
    )
    torch.testing.assert_close(
        _compute_in_one_pass(value, logits).double(), exact, rtol=1e-5, atol=1e-4
    )  # what is compiled
    found = FactorialBernoulli(logits.double()).log_prob(value.double())
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-11)


def test_the_exponential_that_is_compiled_is_the_exponential():
    x = -torch.cat([torch.linspace(0, 88, 100_001), torch.tensor([1e-30, 1e4, 1e30, torch.inf])])
    assert (_exp_of_negative(x).double() - x.double().exp()).abs().max() < 2e-7
    assert _exp_of_negative(torch.tensor(torch.nan)).isnan()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_compiled_of_a_bernoulli_agrees(monkeypatch):
    calls = []
    monkeypatch.setattr(
        bernoulli,
        "_compute_in_one_pass",
        lambda *given: calls.append(1) or _compute_in_one_pass(*given),
    )
    torch.manual_seed(0)
    torch.compiler.reset()
    logits, value = (30 * torch.randn(5, 4, 77)).requires_grad_(), (torch.rand(4, 77) < 0.5).float()

    def log_prob(logits):
        return FactorialBernoulli(logits).log_prob(value)

    plain, compiled = log_prob(logits), CompiledFunction(log_prob)(logits)
    assert calls
    torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-4)
    slopes = [torch.autograd.grad(found.sum(), logits)[0] for found in (compiled, plain)]
    torch.testing.assert_close(*slopes)


def test_a_bernoulli_s_gradients_are_its_formula_s_to_the_second_order():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, 7, dtype=torch.float64, requires_grad=True)
    value = torch.rand(4, 7, dtype=torch.float64, requires_grad=True)

    def log_prob(value, logits):
        return FactorialBernoulli(logits).log_prob(value)

    def formula(value, logits):
        return (value * logits - nn.functional.softplus(logits)).sum(-1)

    slope = torch.randn(3, 4, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad(f(value, logits), (value, logits), slope) for f in (log_prob, formula)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(log_prob, (value, logits))
    one_by_one = torch.func.vmap(torch.func.grad(lambda eta: log_prob(value[0].detach(), eta)))(
        logits[:, 0].detach()
    )
    torch.testing.assert_close(one_by_one, (value[0] - logits[:, 0].sigmoid()).detach())


def test_a_bernoulli_s_own_logits_are_left_as_they_are():
    logits = torch.randn(3, 4, 2, 5)
    before = logits.clone()
    with torch.no_grad():
        found = FactorialBernoulli(logits, event_dims=2).log_prob(torch.ones(4, 2, 5))
    assert torch.equal(logits, before)
    torch.testing.assert_close(found, -nn.functional.softplus(-logits).sum((-1, -2)))


def test_extreme_logits_are_finite():
    with torch.no_grad():
        found = FactorialBernoulli(torch.full((2, 100), 1e4)).log_prob(
            torch.tensor([[1.0], [0.0]]).expand(2, 100)
        )
    assert found.tolist() == pytest.approx([0.0, -1e6], abs=0.1)


@pytest.mark.parametrize(
    ("dimensions", "size"), [(784, 15.0), (784, 30.0), (12288, 20.0), (12288, 100.0)]
)
def test_entries_that_are_fitted_well_cancel_before_they_are_summed(dimensions, size):
    """Nearly all logits are large and of the right sign, so the sum is small beside its terms."""
    torch.manual_seed(0)
    value = (torch.rand(20, dimensions) < 0.3).float()
    logits = (2 * value - 1) * size * (0.5 + torch.rand(20, dimensions))
    unsure = torch.rand(20, dimensions) < 0.03
    logits[unsure] = torch.randn(int(unsure.sum()))
    found = FactorialBernoulli(logits).log_prob(value).double()
    exact = nn.functional.logsigmoid((2 * value - 1).double() * logits.double()).sum(-1)
    torch.testing.assert_close(found, exact, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(("of_value", "of_logits", "result"), [
    (torch.bool, torch.float32, torch.float32),
    (torch.float64, torch.float32, torch.float64),
    (torch.float32, torch.float64, torch.float64),
])  # fmt: skip
def test_types_are_promoted(of_value, of_logits, result):
    logits, value = torch.randn(3, 4, 5).to(of_logits), (torch.rand(4, 5) < 0.5).to(of_value)
    assert FactorialBernoulli(logits).log_prob(value).dtype == result


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 1), (1, 3)])
def test_a_factor_of_a_batch_goes_with_its_own_rows(batch):
    torch.manual_seed(0)
    factor = torch.tril(torch.rand(*batch, 4, 4, dtype=torch.float64)) + torch.eye(
        4, dtype=torch.float64
    )
    loc = (
        torch.randn(2, 3, 4, dtype=torch.float64)
        if len(batch) == 2
        else torch.randn(*batch, 4, dtype=torch.float64)
    )
    ours = TriangularNormal(loc, factor)
    theirs = MultivariateNormal(loc, scale_tril=factor)
    value = torch.randn(5, *ours.batch_shape, 4, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value), rtol=1e-12, atol=1e-12)
    torch.manual_seed(1)
    draws = ours.rsample((50_000,))
    torch.testing.assert_close(draws.var(0), theirs.variance, rtol=0.1, atol=0)
    assert ours.expand((0, *ours.batch_shape)).rsample((3,)).shape == (3, 0, *ours.batch_shape, 4)
