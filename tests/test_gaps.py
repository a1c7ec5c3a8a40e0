"""Inference gaps of linear Gaussian models, where each of them has a closed form."""

import math
import sys
from pathlib import Path

import pytest
import torch
import zuko
from torch.distributions import MultivariateNormal, kl_divergence

import lowerbound as lb
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.evaluation import LikelihoodEstimate
from lowerbound.evaluation.gaps import Gaps, inference_gaps
from lowerbound.evaluation.search import Search

sys.path.insert(0, str(Path(__file__).parent))
from linear_models import DOUBLE, ORTHOGONAL, SLANTED, linear_vae


@pytest.fixture
def _large_chunks(monkeypatch):
    """Use fewer and larger chunks, for bounds with thousands of draws."""
    monkeypatch.setattr("lowerbound.evaluation.search._DRAWS", 50)


def test_at_the_exact_posterior_there_are_no_gaps():
    model, evidence, _ = linear_vae(ORTHOGONAL)
    x = evidence.sample((30,))
    gaps = inference_gaps(model, x, samples=20, steps=10)
    torch.testing.assert_close(
        gaps.log_likelihood.per_example, evidence.log_prob(x), rtol=0, atol=1e-9
    )
    for gap in (gaps.approximation, gaps.amortisation, gaps.inference):
        assert float(gap.per_example.abs().max()) < 1e-6
    assert gaps.advice.startswith("inference is fine")


@pytest.mark.usefixtures("_large_chunks")
def test_a_wrecked_encoder_is_an_amortisation_gap_of_the_known_divergence():
    """Its mean is shifted by 1: KL = sum_j P_jj / 2.

    Means of 40 examples at five standard errors: one false alarm in 1.7 million runs for each.
    """
    model, evidence, precision = linear_vae(ORTHOGONAL, shift=1.0)
    x = evidence.sample((40,))
    expected = 0.5 * float(precision.diagonal().sum())
    gaps = inference_gaps(model, x, samples=1000, steps=120)
    # The best q is exact, and so is the best bound. A weight under the mixture of both q is between
    # 0 and 2 p(x).
    torch.testing.assert_close(gaps.best_bound.per_example, evidence.log_prob(x), rtol=0, atol=1e-3)
    assert abs(gaps.approximation.mean) < 5 / math.sqrt(2 * 1000 * 40)
    # Under the encoder's q, Var(log w) = sum_j P_jj, and draws are independent.
    error = math.sqrt(float(precision.diagonal().sum()) / (1000 * 40))
    assert abs(gaps.amortisation.mean - expected) < 5 * error
    assert gaps.advice.startswith("amortisation dominates")


@pytest.mark.usefixtures("_large_chunks")
def test_a_correlated_posterior_is_an_approximation_gap_of_the_known_divergence():
    """KL(best mean field || posterior) = (sum_j log P_jj - log det P) / 2.

    Var(log w) under the best mean field is sum_(j != k) P_jk^2 / (2 P_jj P_kk) = 0.405. Five
    standard errors over 40 examples of 2,000 draws are 0.011, which gives one false alarm in 1.7
    million runs. The other 0.009 are for the bias of importance sampling and of the search.
    """
    model, evidence, precision = linear_vae(SLANTED, shift=0.7)
    x = evidence.sample((40,))
    expected = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    exact = MultivariateNormal(torch.zeros(4, dtype=DOUBLE), precision_matrix=precision)
    field = MultivariateNormal(torch.zeros(4, dtype=DOUBLE), torch.diag(1 / precision.diagonal()))
    assert float(kl_divergence(field, exact)) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.2
    gaps = inference_gaps(model, x, samples=2000, steps=80)
    assert gaps.log_likelihood.mean == pytest.approx(float(evidence.log_prob(x).mean()), abs=0.01)
    assert gaps.approximation.mean == pytest.approx(expected, abs=0.02)
    shift = torch.full((4,), 0.7, dtype=DOUBLE)
    assert gaps.amortisation.mean == pytest.approx(0.5 * float(shift @ precision @ shift), abs=0.1)
    assert int(gaps.log_likelihood.doubtful.sum()) <= 4


def widened(factor: float) -> tuple[lb.LatentModel, MultivariateNormal]:
    """A model whose mean-field posterior is exact, except for its standard deviation."""
    model, evidence, _ = linear_vae(ORTHOGONAL)
    with torch.no_grad():
        model.posterior.network.layers[0].bias[2:] += 2 * math.log(factor)
    return model, evidence


@pytest.mark.usefixtures("_large_chunks")
def test_a_search_that_starts_far_away_takes_several_rounds():
    """After one round, tens of nats are missing, which would count as an approximation gap."""
    model, evidence = widened(30.0)
    gaps = inference_gaps(model, evidence.sample((10,)), samples=100, steps=60)
    assert abs(gaps.approximation.mean) < 0.05
    assert gaps.advice.startswith("amortisation dominates")
    assert gaps.warning is None


def test_a_search_that_stops_short_says_so():
    model, evidence = widened(30.0)
    gaps = inference_gaps(model, evidence.sample((5,)), samples=50, steps=3, learning_rate=0.01)
    assert gaps.last_gain > 0.05
    assert gaps.warning.startswith(
        "the search for the best bound had not converged: its last round still gained"
    )
    assert "richer posterior" not in gaps.advice
    assert gaps.advice.startswith("approximation and amortisation cannot be separated")


@pytest.mark.parametrize(("shift", "rounds"), [(0.0, 1), (1.0, 2)])
def test_a_search_that_is_done_takes_one_more_round_at_most(shift, rounds, monkeypatch):
    taken = []
    real = Search._search_round
    monkeypatch.setattr(
        Search, "_search_round", lambda self, *given: taken.append(1) or real(self, *given)
    )
    model, evidence, _ = linear_vae(ORTHOGONAL, shift=shift)
    inference_gaps(model, evidence.sample((5,)), samples=50, steps=80)
    assert len(taken) == rounds


def test_results_do_not_depend_on_the_batches():
    model, evidence, _ = linear_vae(SLANTED, shift=0.5)
    x = evidence.sample((4,))
    whole = inference_gaps(model, x, samples=25, steps=8, seed=3)
    for batch_size in (1, 3):
        parts = inference_gaps(model, x, samples=25, steps=8, seed=3, batch_size=batch_size)
        for name in ("log_likelihood", "best_bound", "amortised_bound"):
            torch.testing.assert_close(
                getattr(parts, name).per_example,
                getattr(whole, name).per_example,
                rtol=1e-9,
                atol=1e-9,
            )
    assert (
        inference_gaps(model, x, samples=25, steps=8, seed=4).best_bound.mean
        != whole.best_bound.mean
    )


def test_no_steps_leave_the_encoder_s_posterior():
    model, evidence, _ = linear_vae(SLANTED, shift=0.5)
    gaps = inference_gaps(model, evidence.sample((5,)), samples=30, steps=0)
    assert float(gaps.amortisation.per_example.abs().max()) == 0
    assert gaps.inference.mean > 0


def test_a_search_that_goes_astray_keeps_its_start():
    model, evidence, _ = linear_vae(SLANTED)
    x = evidence.sample((5,))
    lost = inference_gaps(model, x, samples=50, steps=3, learning_rate=1e6)
    assert float(lost.amortisation.per_example.abs().max()) == 0


def test_the_model_is_left_as_it_was():
    model, evidence, _ = linear_vae(ORTHOGONAL)
    model.train()
    model.likelihood.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    inference_gaps(model, evidence.sample((3,)), samples=10, steps=3)
    torch.random.set_rng_state(generator)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model.posterior.training
    assert not model.likelihood.training


def test_the_generalisation_gap_is_the_difference_of_the_likelihoods():
    model, evidence, _ = linear_vae(ORTHOGONAL)
    train, test = 0.1 * evidence.sample((60,)), evidence.sample((20,))
    gaps = inference_gaps(model, test, train=train, samples=10, steps=0)
    some = train[torch.linspace(0, 59, 20).round().long()]
    expected = float(evidence.log_prob(some).mean() - evidence.log_prob(test).mean())
    gap, error = gaps.generalisation
    assert gap == pytest.approx(expected, abs=1e-9)
    assert error == pytest.approx(
        math.hypot(gaps.log_likelihood.standard_error, gaps.train_log_likelihood.standard_error)
    )
    assert gaps.advice.startswith("generalisation dominates")
    assert "generalisation gap" in str(gaps)


@pytest.mark.parametrize(
    ("approximation", "amortisation", "train", "advice"),
    [
        (0.1, 0.2, None, "inference is fine"),
        (0.1, 3.0, None, "amortisation dominates"),
        (3.0, 0.1, None, "approximation dominates"),
        (3.0, 0.1, 10.0, "generalisation dominates"),
        (3.0, 0.1, 1.0, "approximation dominates"),
        (0.1, 0.1, -10.0, "inference is fine"),
    ],
)
def test_the_advice_names_the_largest_gap(approximation, amortisation, train, advice):
    level = torch.linspace(-1, 1, 50, dtype=DOUBLE)
    likelihood, best = LikelihoodEstimate(level), lb.Estimate(level - approximation)
    others = None
    if train is not None:
        others = LikelihoodEstimate(level + train)
    gaps = Gaps(likelihood, best, lb.Estimate(best.per_example - amortisation), others)
    assert gaps.advice.startswith(advice)
    lines = str(gaps).splitlines()
    assert f"{approximation:.3f}  ±0.000" in next(
        line for line in lines if line.startswith("approximation")
    )
    assert f"{amortisation:.3f}  ±0.000" in next(
        line for line in lines if line.startswith("amortisation")
    )
    assert len(lines) == 7 + 2 * (train is not None)


def test_what_cannot_be_refined_is_refused_by_name():
    x = torch.rand(4, 4)
    likelihood = lb.Gaussian(lb.mlp(2, 8))
    flow = lb.LatentModel(
        lb.StandardNormal(2), zuko.flows.MAF(2, 4, hidden_features=(8,)), likelihood
    )
    with pytest.raises(
        UnsupportedError,
        match=r"the posterior is a MAF, which has no network.*lowerbound\.Gaussian",
    ):
        inference_gaps(flow, x)
    binary = lb.LatentModel(lb.Bernoulli(lb.constant(2)), lb.Bernoulli(lb.mlp(4, 2)), likelihood)
    with pytest.raises(
        UnsupportedError, match="FactorialBernoulli, which cannot be reparameterised"
    ):
        inference_gaps(binary, x)

    class Other(lb.Model):
        def draw(self, x, samples=1, gradient="pathwise"):
            raise AssertionError

    with pytest.raises(UnsupportedError, match=r"takes a lowerbound\.LatentModel, not a Other"):
        inference_gaps(Other(), x)


def test_mistakes_are_named():
    model, evidence, _ = linear_vae(ORTHOGONAL)
    x = evidence.sample((3,))
    for wrong in ({"samples": 0}, {"steps": -1}, {"learning_rate": 0.0}, {"seed": -1}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            inference_gaps(model, x, **wrong)
    with pytest.raises(ShapeError, match=r"\(5,\)"):
        inference_gaps(model, x, train=torch.rand(3, 5))
    with pytest.raises(ShapeError, match=r"\(4,\)"):
        inference_gaps(model, torch.rand(3, 5))


def test_no_draw_counts_twice_if_the_encoder_s_q_is_kept():
    """Both proposals are then one q: on the same noise, each draw would count as two."""
    model, evidence, _ = linear_vae(SLANTED, shift=0.4)
    x = evidence.sample((40,))
    gaps = inference_gaps(model, x, samples=100, steps=0)
    twice = lb.log_likelihood(model, x, samples=200)
    assert gaps.log_likelihood.samples == 200
    found = gaps.log_likelihood.effective_sample_sizes.mean()
    assert float(found / twice.effective_sample_sizes.mean()) == pytest.approx(1.0, abs=0.1)
    # What the weights claim is the error of the estimates, which the closed form tells.
    errors = gaps.log_likelihood.per_example - evidence.log_prob(x)
    claimed = (1 / gaps.log_likelihood.effective_sample_sizes - 1 / 200).mean()
    assert float(errors.square().mean() / claimed) == pytest.approx(1.0, abs=0.6)
    assert gaps.amortisation.mean == 0.0
