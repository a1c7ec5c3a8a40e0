"""Agreement with closed forms and with other libraries, at stated tolerances."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, closed_form_kl, soft_clamp
from lowerbound.selftest.known import draw_rank_data, fit_linear_vae, make_linear_vae

DOUBLE = torch.float64


def diagonal(*shape: int) -> tuple[DiagonalNormal, Independent]:
    """The same random Gaussian, ours and torch's."""
    loc, log_scale = torch.randn(*shape, dtype=DOUBLE), 0.5 * torch.randn(*shape, dtype=DOUBLE)
    return DiagonalNormal(loc, log_scale, 2), Independent(Normal(loc, log_scale.exp()), 2)


# Densities and divergences


def test_densities_are_torch_s_and_scipy_s():
    ours, theirs = diagonal(4, 5, 3)
    x = torch.randn(7, 4, 5, 3, dtype=DOUBLE)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.entropy(), theirs.entropy(), rtol=1e-12, atol=1e-12)
    scipy = stats.norm(ours.loc.numpy(), ours.stddev.numpy()).logpdf(x.numpy()).sum((-1, -2))
    np.testing.assert_allclose(ours.log_prob(x).numpy(), scipy, rtol=1e-12)
    for name in ("mean", "variance", "stddev"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12
        )


def test_scales_that_broadcast_give_the_same_values():
    loc, x = torch.randn(4, 5, 3, dtype=DOUBLE), torch.randn(4, 5, 3, dtype=DOUBLE)
    for log_scale in (
        torch.tensor(0.3, dtype=DOUBLE),
        torch.randn(3, dtype=DOUBLE),
        torch.randn(5, 1, dtype=DOUBLE),
    ):
        ours = DiagonalNormal(loc, log_scale, 2)
        full = DiagonalNormal(loc, log_scale.expand(4, 5, 3), 2)
        torch.testing.assert_close(ours.log_prob(x), full.log_prob(x), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.entropy(), full.entropy(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            kl_divergence(full, ours), torch.zeros(4, dtype=DOUBLE), rtol=0, atol=1e-12
        )
        torch.testing.assert_close(ours.expand((6, 4)).log_prob(x), full.log_prob(x).expand(6, 4))


def test_closed_form_kl_is_torch_s():
    q, q_torch = diagonal(4, 5, 3)
    p, p_torch = diagonal(4, 5, 3)
    expected = kl_divergence(q_torch, p_torch)
    for ours, theirs in product((q, q_torch), (p, p_torch)):
        torch.testing.assert_close(closed_form_kl(ours, theirs), expected, rtol=0, atol=1e-10)


def test_closed_form_kl_is_monte_carlo_s():
    """At 4 standard errors: one false alarm in 16,000 runs for each of 4 entries."""
    (q, _), (p, _) = diagonal(4, 2, 2), diagonal(4, 2, 2)
    z = q.rsample((100_000,))
    terms = q.log_prob(z) - p.log_prob(z)
    error = terms.std(0) / math.sqrt(len(terms))
    assert ((terms.mean(0) - closed_form_kl(q, p)).abs() < 4 * error).all()


def test_kl_of_nearly_equal_gaussians_keeps_its_digits():
    base = torch.zeros(1, 1, dtype=DOUBLE)
    for step in (1e-3, 1e-5, 1e-7):
        kl = closed_form_kl(DiagonalNormal(base, base + step), DiagonalNormal(base, base))
        assert float(kl) == pytest.approx(step**2, rel=2e-3)


def test_a_smooth_bound_is_smooth_and_keeps_its_bounds():
    x = torch.linspace(-30, 30, 6001, dtype=DOUBLE, requires_grad=True)
    y = soft_clamp(x, -10, 10)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    inside = x.abs() <= 9
    assert torch.equal(y[inside], x[inside])
    assert (y.abs() < 10).all()
    assert (gradient > 0).all()
    assert (y[1:] > y[:-1]).all()
    # The gradient does not jump: its own gradient is at most 2 / knee.
    assert (gradient[1:] - gradient[:-1]).abs().max() < 2.5 * 0.01


# Linear Gaussian models, whose evidence is known


def test_every_log_weight_is_the_evidence_at_the_exact_posterior():
    loadings = torch.linalg.qr(torch.randn(5, 2, dtype=DOUBLE))[0] * torch.tensor(
        [2.0, 0.7], dtype=DOUBLE
    )
    model, evidence = make_linear_vae(
        loadings, torch.randn(5, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
    )
    x = torch.randn(6, 5, dtype=DOUBLE)
    log_w = model.draw(x, samples=50).log_w
    torch.testing.assert_close(log_w, evidence.log_prob(x).expand(50, 6), rtol=0, atol=1e-12)


def test_a_linear_vae_at_its_optimum_has_the_score_of_probabilistic_pca():
    """Lucas et al. 2019: a diagonal encoder suffices."""
    from sklearn.decomposition import PCA

    x = draw_rank_data(300, 5, 2)
    pca = PCA(2).fit(x.numpy())
    noise = float(pca.noise_variance_)
    lengths = torch.from_numpy(np.sqrt(pca.explained_variance_ - noise))
    loadings = torch.from_numpy(pca.components_.T) * lengths
    model, evidence = make_linear_vae(
        loadings, torch.from_numpy(pca.mean_), torch.tensor(noise, dtype=DOUBLE).sqrt()
    )
    bound = lb.evaluate(model, lb.ELBO(samples=3, kl="sampled"), x)
    assert bound.mean == pytest.approx(pca.score(x.numpy()), rel=1e-12)
    assert bound.mean == pytest.approx(float(evidence.log_prob(x).mean()), rel=1e-12)


def test_a_linear_vae_with_elementwise_noise_has_the_score_of_factor_analysis():
    from sklearn.decomposition import FactorAnalysis

    x = draw_rank_data(300, 5, 2)
    analysis = FactorAnalysis(2, tol=1e-8, max_iter=20_000).fit(x.numpy())
    noise = torch.from_numpy(np.sqrt(analysis.noise_variance_))
    loadings = torch.from_numpy(analysis.components_.T.copy())
    turn = torch.linalg.eigh(loadings.T @ (loadings / noise[:, None] ** 2))[1]
    model, _ = make_linear_vae(loadings @ turn, torch.from_numpy(analysis.mean_), noise)
    bound = lb.evaluate(model, lb.ELBO(samples=3, kl="sampled"), x)
    assert bound.mean == pytest.approx(analysis.score(x.numpy()), rel=1e-9)


def test_a_trained_linear_vae_reaches_probabilistic_pca():
    """Within 1e-4 nat of the maximum likelihood solution, whose covariance divides by n."""
    x = draw_rank_data(100, 5, 2)
    centred = x - x.mean(0)
    spectrum, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    noise = spectrum[:-2].mean()
    loadings = vectors[:, -2:] * (spectrum[-2:] - noise).sqrt()
    best = MultivariateNormal(x.mean(0), loadings @ loadings.T + noise * torch.eye(5, dtype=DOUBLE))
    model = fit_linear_vae(x)
    reached = lb.evaluate(model, lb.ELBO(samples=1000, kl="sampled"), x).mean
    expected = float(best.log_prob(x).mean())
    assert reached == pytest.approx(expected, abs=1e-4)


# The bound's estimators


def small_vae(likelihood: str) -> lb.LatentModel:
    decoder = lb.mlp(2, 8, 12 if likelihood == "gaussian" else 6, activation="tanh")
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(6, 8, 4, activation="tanh")),
        lb.Gaussian(decoder) if likelihood == "gaussian" else lb.Bernoulli(decoder),
    ).double()


def test_estimators_a_and_b_agree():
    """In mean, by a paired t below 4 over 2e5 draws: one false alarm in 16,000 runs."""
    model, x = small_vae("gaussian"), torch.rand(1, 6, dtype=DOUBLE)
    with torch.no_grad():
        draw = model.draw(x, samples=200_000)
        a = draw.log_likelihood + draw.log_prior - draw.log_q
        b = draw.log_likelihood - draw.analytic_rate
    difference = (a - b).squeeze(1)
    assert abs(float(difference.mean() / (difference.std() / math.sqrt(len(difference))))) < 4
    assert float(difference.std()) > 0.01
    torch.testing.assert_close(lb.ELBO(200_000, "sampled")(draw), a.mean(0))
    torch.testing.assert_close(lb.ELBO(200_000, "closed-form")(draw), b.mean(0))


def pyro_model_and_guide(vae: lb.LatentModel):
    import pyro
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("examples", len(x)):
            z = pyro.sample(
                "z",
                dist.Normal(torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)).to_event(1),
            )
            p = vae.likelihood(z)
            if isinstance(p, DiagonalNormal):
                pyro.sample("x", dist.Normal(p.mean, p.stddev).to_event(1), obs=x)
            else:
                pyro.sample("x", dist.Bernoulli(logits=p.logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("examples", len(x)):
            q = vae.posterior(x)
            pyro.sample("z", dist.Normal(q.mean, q.stddev).to_event(1))

    return model, guide


@pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"
)
@pytest.mark.parametrize("samples", [1, 7])
@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
@pytest.mark.parametrize(
    ("kl", "theirs"), [("closed-form", "TraceMeanField_ELBO"), ("sampled", "Trace_ELBO")]
)
def test_the_bound_and_its_gradient_are_pyro_s(samples, likelihood, kl, theirs):
    """On the same weights and noise, to a relative 1e-6."""
    from pyro import infer

    vae = small_vae(likelihood)
    x = torch.rand(5, 6, dtype=DOUBLE).round()
    model, guide = pyro_model_and_guide(vae)
    elbo = getattr(infer, theirs)(
        num_particles=samples, vectorize_particles=True, max_plate_nesting=1
    )
    torch.manual_seed(3)
    (elbo.differentiable_loss(model, guide, x) / len(x)).backward()
    torch.manual_seed(3)
    expected = -elbo.loss(model, guide, x) / len(x)
    gradients = {name: parameter.grad.clone() for name, parameter in vae.named_parameters()}
    vae.zero_grad()
    torch.manual_seed(3)
    ours = lb.ELBO(samples, kl)(vae.draw(x, samples)).mean()
    (-ours).backward()
    assert ours.item() == pytest.approx(expected, rel=1e-6)
    for name, parameter in vae.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-6, atol=1e-9)


def test_the_bound_is_below_the_evidence_and_rises_to_it_as_q_nears_the_posterior():
    loadings = torch.linalg.qr(torch.randn(5, 2, dtype=DOUBLE))[0] * 1.5
    model, evidence = make_linear_vae(
        loadings, torch.zeros(5, dtype=DOUBLE), torch.tensor(0.4, dtype=DOUBLE)
    )
    x = evidence.sample((200,))
    bounds = []
    for shift in (1.0, 0.5, 0.1, 0.0):
        with torch.no_grad():
            model.posterior.network.layers[0].bias[:2] = shift
            draw = model.draw(x, 500)
            gap = evidence.log_prob(x) - draw.log_w.mean(0)
            # The gap is KL(q || posterior), which is known here: half the squared shift, in units
            # of the posterior's scale.
            expected = 0.5 * (shift / draw.q.stddev[0]).square().sum()
            assert float(gap.mean()) == pytest.approx(float(expected), abs=0.05)
            bounds.append(float(draw.log_w.mean()))
    assert bounds == sorted(bounds)
