"""Refined posteriors of linear Gaussian models, where the best one is known."""

import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

import lowerbound as lb
from lowerbound.errors import SettingsError, UnsupportedError

sys.path.insert(0, str(Path(__file__).parent))
from linear_models import NOISE, ORTHOGONAL, SLANTED, linear_vae


def find_exact_bounds(q, x, loadings, evidence, precision):
    """The bound of each example without noise: log p(x) - KL(q || p(z|x))."""
    means = x @ torch.linalg.solve(precision, loadings.T).T / NOISE**2
    posterior = MultivariateNormal(means, precision_matrix=precision)
    own = MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return evidence.log_prob(x) - kl_divergence(own, posterior)


# Only where the exact posterior is diagonal, the gradient at the optimum has no noise. But the
# draws that choose between two rounds cannot tell apart means that differ by 0.01 standard
# deviations.
@pytest.mark.parametrize(("loadings", "tolerance"), [(ORTHOGONAL, 0.03), (SLANTED, 0.1)])
def test_the_refined_posterior_is_the_known_optimum(loadings, tolerance, monkeypatch):
    """The best diagonal q has the posterior's means, and the variances 1 / P_jj."""
    monkeypatch.setattr("lowerbound.evaluation.search._DRAWS", 50)
    model, evidence, precision = linear_vae(loadings, shift=0.7)
    with torch.no_grad():  # a variance that is twice the best
        model.posterior.network.layers[0].bias[len(precision) :] += 0.7
    x = evidence.sample((6,))
    refined = lb.refine(model, x, steps=100, samples=100, learning_rate=0.1)
    means = x @ torch.linalg.solve(precision, loadings.T).T / NOISE**2
    variances = (1 / precision.diagonal()).expand(6, -1)
    error = (refined.embeddings - means) / variances.sqrt()
    assert float(error.abs().max()) < tolerance
    torch.testing.assert_close(refined.q.variance, variances, rtol=tolerance, atol=0)
    assert refined.warning is None
    # The known optimum's bound, below the evidence by the divergence of the best diagonal q.
    loss = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    found = find_exact_bounds(refined.q, x, loadings, evidence, precision)
    torch.testing.assert_close(found, evidence.log_prob(x) - loss, rtol=0, atol=tolerance**2)


@pytest.mark.parametrize("shift", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("loadings", [ORTHOGONAL, SLANTED])
def test_the_bound_of_no_example_falls(loadings, shift):
    model, evidence, precision = linear_vae(loadings, shift)
    x = evidence.sample((8,))
    refined = lb.refine(model, x, steps=30, samples=100)
    before = lb.refine(model, x, steps=0, samples=2)
    old, new = (
        find_exact_bounds(each.q, x, loadings, evidence, precision) for each in (before, refined)
    )
    assert float((new - old).min()) > -1e-6
    gains = refined.gain.per_example
    assert bool((gains >= 0).all())
    kept = refined.parameters == before.parameters
    assert torch.equal(kept.all(1), gains == 0)
    if shift == 1.0:
        assert float(gains.min()) > 0.1


def test_bounds_are_those_of_the_gaps():
    model, evidence, _ = linear_vae(SLANTED, shift=0.5)
    x = evidence.sample((4,))
    refined = lb.refine(model, x, steps=8, samples=25, seed=3)
    gaps = lb.inference_gaps(model, x, steps=8, samples=25, seed=3)
    assert torch.equal(refined.amortised_bound.per_example, gaps.amortised_bound.per_example)
    rises = refined.gain.per_example > 0
    assert bool(rises.any())
    assert torch.equal(
        refined.gain.per_example, torch.where(rises, gaps.amortisation.per_example, 0.0)
    )
    assert refined.last_gain == gaps.last_gain


def test_results_do_not_depend_on_the_batches():
    model, evidence, _ = linear_vae(SLANTED, shift=0.5)
    x = evidence.sample((4,))
    whole = lb.refine(model, x, samples=25, steps=8)
    parts = lb.refine(model, x, samples=25, steps=8, batch_size=3)
    torch.testing.assert_close(parts.parameters, whole.parameters, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts.bound.per_example, whole.bound.per_example)


def test_without_steps_it_is_the_encoder_s_posterior():
    model, evidence, _ = linear_vae(SLANTED, shift=0.5)
    x = evidence.sample((5,))
    refined = lb.refine(model, x, steps=0, samples=20)
    torch.testing.assert_close(refined.embeddings, model.encode(x))
    torch.testing.assert_close(refined.reconstruct(), model.reconstruct(x))
    torch.testing.assert_close(refined.q.variance, model.posterior(x).variance.detach())
    assert refined.gain.mean == 0.0
    assert "gain=0" in repr(refined)


def test_refined_posteriors_reconstruct_better_and_use_the_fields():
    torch.manual_seed(0)
    digits = lb.load_data("digits").test.spread(6)
    model = lb.LatentModel(
        lb.StandardNormal(3),
        lb.Given(lb.Gaussian(lb.mlp((11, 8, 8), 6)), "label", categories=10),
        lb.Given(lb.Gaussian(lb.mlp(13, (1, 8, 8)), scale=0.1), "label", categories=10),
    )
    refined = lb.refine(model, digits, steps=20, samples=10)
    x = digits.batch(torch.arange(6))
    error, before = (
        (y - x).square().mean() for y in (refined.reconstruct(), model.reconstruct(digits))
    )
    assert error < before
    expected = model.decode(refined.embeddings, label=digits.labels)
    torch.testing.assert_close(refined.reconstruct(), expected)
    sevens = model.decode(refined.embeddings, label=7)
    torch.testing.assert_close(refined.reconstruct(label=7), sevens)


def test_a_search_that_stops_short_says_so():
    model, evidence, _ = linear_vae(ORTHOGONAL, shift=5.0)
    refined = lb.refine(model, evidence.sample((3,)), samples=20, steps=2, learning_rate=0.01)
    assert refined.last_gain > 0.05
    assert refined.warning.startswith("the search for the best bound had not converged")
    assert refined.warning.endswith("take more steps")


def test_mistakes_are_named():
    model, evidence, _ = linear_vae(ORTHOGONAL)
    x = evidence.sample((3,))
    for wrong in (
        {"samples": 0},
        {"samples": 1},
        {"steps": -1},
        {"learning_rate": 0.0},
        {"seed": -1},
    ):
        with pytest.raises(SettingsError, match=f"refine.*{next(iter(wrong))}"):
            lb.refine(model, x, **wrong)
    binary = lb.LatentModel(
        lb.Bernoulli(lb.constant(2)), lb.Bernoulli(lb.mlp(4, 2)), lb.Gaussian(lb.mlp(2, 8))
    )
    with pytest.raises(UnsupportedError, match=r"^refine: the posterior returned FactorialBern"):
        lb.refine(binary, torch.rand(3, 4))
