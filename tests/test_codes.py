"""Categorical latents: against torch, quadrature and sums over all states."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import (
    Independent,
    OneHotCategorical,
    RelaxedOneHotCategorical,
    kl_divergence,
)

import lowerbound as lb
from lowerbound.distributions import (
    FactorialBernoulli,
    FactorialOneHot,
    RelaxedOneHot,
    StraightThroughOneHot,
    closed_form_unit_kl,
)
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError

sys.path.insert(0, str(Path(__file__).parent))
from quadrature import integrate

LOGITS = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_exact_codes_are_torch_s():
    ours = FactorialOneHot(LOGITS)
    theirs = Independent(OneHotCategorical(logits=LOGITS), 1)
    z = theirs.sample((5,))
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    torch.testing.assert_close(ours.mean, theirs.mean)
    other = Independent(OneHotCategorical(logits=2 * LOGITS.flip(0)), 1)
    found = kl_divergence(ours, FactorialOneHot(2 * LOGITS.flip(0)))
    torch.testing.assert_close(found, kl_divergence(theirs, other))
    units = closed_form_unit_kl(ours, FactorialOneHot(2 * LOGITS.flip(0)))
    assert units.shape == (2, 3)
    torch.testing.assert_close(units.sum(1), found)
    assert torch.equal(ours.mode.argmax(-1), LOGITS.argmax(-1))


def test_relaxed_codes_are_torch_s():
    ours = RelaxedOneHot(LOGITS, 0.6)
    theirs = Independent(RelaxedOneHotCategorical(torch.tensor(0.6).double(), logits=LOGITS), 1)
    z = ours.rsample((5,))
    torch.testing.assert_close(z.sum(-1), torch.ones(5, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z))
    torch.testing.assert_close(ours.probs, LOGITS.softmax(-1))


@pytest.mark.parametrize("temperature", [0.4, 2.0])
def test_a_relaxed_density_integrates_to_one(temperature):
    q = RelaxedOneHot(torch.tensor([[0.3, -0.4]], dtype=torch.float64), temperature)

    def density(log_odds):
        z = torch.stack([log_odds, -log_odds], -1)[:, None].sigmoid()
        return q.log_prob(z).exp() * z[:, 0].prod(-1)

    assert integrate(density, -300.0, 0.0, 300.0) == pytest.approx(1, abs=1e-12)


def test_the_largest_entry_of_a_relaxed_draw_has_the_exact_probabilities():
    """Each of 24 shares of 20,000 draws, within 4.5 standard errors."""
    z = RelaxedOneHot(LOGITS, 0.5).rsample((20_000,))
    codes = (z == z.amax(-1, keepdim=True)).double()
    probs = LOGITS.softmax(-1)
    assert ((codes.mean(0) - probs).abs() < 4.5 * (probs * (1 - probs) / 20_000).sqrt()).all()


def test_relaxed_codes_in_single_precision_are_never_zero():
    q = RelaxedOneHot(torch.tensor([[40.0, 0.0, -40.0]]).requires_grad_(), 0.1)
    z = q.rsample((1000,))
    assert z.min() > 0
    (gradient,) = torch.autograd.grad(q.log_prob(z).sum(), q.logits)
    assert gradient.isfinite().all()


def test_all_states_are_listed_once_and_their_probabilities_sum_to_one():
    for q in (FactorialOneHot(LOGITS), FactorialBernoulli(LOGITS[:, 0])):
        states = q.enumerate_support()
        assert states.shape[1:] == (2, *q.event_shape)
        assert len(states.unique(dim=0)) == len(states)
        torch.testing.assert_close(q.log_prob(states).exp().sum(0), torch.ones(2).double())
        assert q.enumerate_support(expand=False).shape[1] == 1


# Models


def make_model(cls=lb.LatentModel, draws="exact", prior_draws="exact", seed=0):
    """Two variables of three categories, over five binary entries."""
    torch.manual_seed(seed)
    return cls(
        prior=lb.OneHot(lb.constant((2, 3), spread=1.0), prior_draws),
        posterior=lb.OneHot(lb.mlp(5, (2, 3)), draws, 0.7),
        likelihood=lb.Bernoulli(lb.mlp((2, 3), 5)),
    ).double()


X = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]], dtype=torch.float64)


def list_terms(model, x):
    """log p(x, z) and log q(z|x) of every state, written out, ``[S]`` each."""
    prior = model.prior().logits.log_softmax(-1)
    q = model.posterior(x).logits[0].log_softmax(-1)
    joint, log_q = [], []
    for state in itertools.product(range(3), repeat=2):
        z = torch.nn.functional.one_hot(torch.tensor(state), 3).double()
        logits = model.likelihood.network(z)
        log_p = -torch.nn.functional.softplus(torch.where(x[0] > 0, -logits, logits)).sum()
        joint.append(log_p + sum(prior[j, c] for j, c in enumerate(state)))
        log_q.append(sum(q[j, c] for j, c in enumerate(state)))
    return torch.stack(joint), torch.stack(log_q)


def compute_gradient(value, model):
    gradients = torch.autograd.grad(
        value,
        list(model.parameters()),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return torch.cat([each.flatten() for each in gradients])


def average_gradients(model, objective, batches=300, copies=40):
    """Gradients of independent batches of one repeated example, ``[batches, parameters]``."""
    x = X.expand(copies, -1)
    return torch.stack(
        [
            compute_gradient(
                objective(model.draw(x, objective.samples, objective.gradient)).mean(), model
            )
            for _ in range(batches)
        ]
    )


def find_largest_t(found, expected):
    error = found.std(0) / math.sqrt(len(found))
    return float(((found.mean(0) - expected) / error.clamp_min(1e-12)).abs().max())


def test_enumeration_gives_the_bound_the_evidence_and_all_gradients():
    model = make_model(lb.EnumeratedModel)
    joint, log_q = list_terms(model, X)
    elbo = (log_q.exp() * (joint - log_q)).sum()
    draw = model.draw(X, samples=2)
    for objective, expected in (
        (lb.ELBO(2), elbo),
        (lb.ELBO(2, kl="sampled"), elbo),
        (lb.IWAE(2), joint.logsumexp(0)),
    ):
        bound = objective(draw)
        torch.testing.assert_close(bound[0], expected, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            compute_gradient(bound.sum(), model), compute_gradient(expected, model)
        )


def test_the_evidence_of_twelve_binary_latents_is_a_sum_over_4096_states():
    torch.manual_seed(0)
    model = lb.EnumeratedModel(
        lb.Bernoulli(lb.constant(12, spread=1.0)),
        lb.Bernoulli(lb.mlp(5, 12)),
        lb.Bernoulli(lb.mlp(12, 5)),
    ).double()
    found = lb.log_likelihood(model, X, samples=1)
    z = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12)), dtype=torch.float64)
    logits = model.likelihood.network(z)
    of_prior = model.prior().logits
    total = (z * of_prior).sum(1) - torch.nn.functional.softplus(of_prior).sum()
    total = total + (X * logits - torch.nn.functional.softplus(logits)).sum(1)
    assert found.mean == pytest.approx(float(total.logsumexp(0).detach()), rel=1e-12)


def test_an_enumerated_model_is_saved_and_its_bound_has_no_noise(tmp_path):
    model = make_model(lb.EnumeratedModel).float()
    data = (torch.rand(13, 5) < 0.5).float()
    first = lb.evaluate(model, lb.ELBO(), data, batch_size=13)
    again = lb.evaluate(model, lb.ELBO(samples=3), data, seed=7, batch_size=4)
    torch.testing.assert_close(first.per_example, again.per_example, rtol=1e-5, atol=1e-5)
    lb.save(model, tmp_path / "model.safetensors")
    loaded = lb.load(tmp_path / "model.safetensors")
    assert isinstance(loaded, lb.EnumeratedModel)
    assert lb.evaluate(loaded, lb.ELBO(), data, batch_size=13).mean == first.mean
    assert model.reconstruct(data).shape == model.sample(13).shape
    grey = torch.full((2, 5), 0.5)
    with pytest.raises(DataError, match="row 0 has grey values"):
        lb.evaluate(model, lb.ELBO(), grey)


@pytest.mark.parametrize("kl", ["auto", "sampled"])
def test_the_score_function_is_unbiased(kl):
    """All 41 derivatives, within four standard errors."""
    model = make_model()
    joint, log_q = list_terms(model, X)
    exact = compute_gradient((log_q.exp() * (joint - log_q)).sum(), model)
    found = average_gradients(model, lb.ELBO(3, kl=kl, gradient="score-function"))
    assert find_largest_t(found, exact) < 4


def test_vimco_is_unbiased():
    """The expectation over both draws is a sum over 81 pairs of states."""
    model = make_model()
    joint, log_q = list_terms(model, X)
    log_w = joint - log_q
    pairs = torch.logaddexp(log_w[:, None], log_w) - math.log(2)
    exact = compute_gradient(((log_q[:, None] + log_q).exp() * pairs).sum(), model)
    assert find_largest_t(average_gradients(model, lb.IWAE(2, "score-function")), exact) < 4


def test_the_straight_through_gradient_is_that_of_the_relaxed_draw():
    direction, gradients = torch.randn(7, 2, 3, 4, dtype=torch.float64), []
    for kind in (RelaxedOneHot, StraightThroughOneHot):
        torch.manual_seed(0)
        logits = LOGITS.clone().requires_grad_()
        z = kind(logits, 0.3).rsample((7,))
        gradients += torch.autograd.grad((z * direction).sum(), logits)
    torch.testing.assert_close(*gradients)
    assert torch.equal(z.detach().amax(-1), torch.ones(7, 2, 3, dtype=torch.float64))


def test_straight_through_has_an_unbiased_bound_and_a_biased_gradient():
    model = make_model(draws="straight-through")
    joint, log_q = list_terms(model, X)
    elbo = (log_q.exp() * (joint - log_q)).sum()
    bounds = lb.ELBO()(model.draw(X.expand(20_000, -1))).detach()
    assert abs(float((bounds.mean() - elbo.detach()) / bounds.std())) * math.sqrt(20_000) < 4
    exact = compute_gradient(elbo, model)
    found = average_gradients(model, lb.ELBO())
    assert find_largest_t(found, exact) > 6
    # The parameters of prior and likelihood get their exact gradients.
    names = [name for name, each in model.named_parameters() for _ in range(each.numel())]
    others = [place for place, name in enumerate(names) if not name.startswith("posterior")]
    assert find_largest_t(found[:, others], exact[others]) < 4


def test_the_gradient_of_a_relaxed_bound_is_unbiased():
    """Two estimators of one gradient agree: through the draws, and without."""
    model = make_model(draws="relaxed", prior_draws="relaxed")
    pathwise = average_gradients(model, lb.ELBO(2))
    without_path = average_gradients(model, lb.ELBO(2, gradient="score-function"))
    assert find_largest_t(pathwise - without_path, 0.0) < 4


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lb.OneHot(lb.mlp(4, 6)), ShapeError, r"output shape \(6,\) does not give"),
        (lambda: lb.OneHot(lb.mlp(4, (3, 1))), ShapeError, r"\(3, 1\) does not give the logits"),
        (lambda: lb.OneHot(lb.mlp(4, (3, 2)), "soft"), SettingsError, "draws='soft' is unknown"),
        (
            lambda: lb.OneHot(lb.mlp(4, (3, 2)), "relaxed", 0.0),
            SettingsError,
            "temperature=0.0 must be",
        ),
        (
            lambda: make_model(draws="relaxed").draw(X),
            UnsupportedError,
            "FactorialOneHot is discrete and the posterior's RelaxedOneHot is continuous",
        ),
        (lambda: make_model().draw(X), UnsupportedError, "cannot be reparameterised"),
        (
            lambda: make_model(lb.EnumeratedModel, "relaxed", "relaxed").draw(X),
            UnsupportedError,
            "RelaxedOneHot, whose values cannot be enumerated",
        ),
        (
            lambda: lb.IWAE(2, "score-function")(make_model(lb.EnumeratedModel).draw(X, 2)),
            UnsupportedError,
            "use gradient='pathwise'",
        ),
        (
            lambda: FactorialOneHot(torch.zeros(20, 10)).enumerate_support(),
            SettingsError,
            "20 variables of 10 categories have 100,000,000,000,000,000,000 joint states",
        ),
    ],
)
def test_invalid_codes_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("draws", ["exact", "straight-through"])
def test_the_use_of_codes_is_reported(draws):
    model = make_model(draws=draws).float()
    health = lb.latent_health(model, (torch.rand(60, 5) < 0.5).float())
    assert health.codes.probabilities.shape == (2, 3)
    assert health.rate_per_unit.shape == (2,)
    assert model.encode(X.float()).sum(-1).tolist() == [[1.0, 1.0]]
