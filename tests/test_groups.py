"""Latents in groups: several stochastic layers, and latents that are summed out."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    VonMises,
)

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, natural_point
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.models import sample_posterior
from lowerbound.models.paths import partial_gradients, zero_with_gradients

sys.path.insert(0, str(Path(__file__).parent))
from test_compiling import assert_agreement, make_step

DOUBLE = torch.float64
GRADIENTS = ("pathwise", "sticking-the-landing", "dreg", "score-function")
TOP_DOWN = pytest.mark.parametrize("top_down", [True, False], ids=["top down", "bottom up"])


def affine(loc, scale=1.0):
    return Independent(Normal(loc, scale), 1)


class Layer(nn.Module):
    """A Gaussian whose mean is affine in its input; each copy of an example may have its own."""

    def __init__(self, inputs, outputs, scale, copies=None):
        super().__init__()
        leading = () if copies is None else (copies,)
        weight, bias = 0.7 * torch.randn(outputs, inputs), 0.3 * torch.randn(outputs)
        self.weight = nn.Parameter(weight.expand(*leading, -1, -1).clone())
        self.bias = nn.Parameter(bias.expand(*leading, -1).clone())
        self.log_scale = nn.Parameter(torch.full((*leading, outputs), math.log(scale)))

    def forward(self, given):
        loc = (self.weight @ given[..., None])[..., 0] + self.bias
        return DiagonalNormal(loc, self.log_scale.expand(loc.shape))


class TwoLayers(lb.Model):
    """p(z2) p(z1 | z2) p(x | z1), and q(z1 | x) q(z2 | z1) or q(z2 | x) q(z1 | z2, x)."""

    def __init__(self, top_down=False, copies=None, sizes=(4, 2, 2)):
        super().__init__()
        x, one, two = sizes
        self.top_down, self.units = top_down, two
        self.p1, self.p0 = Layer(two, one, 0.8), Layer(one, x, 0.5)
        self.q1 = Layer(x + two if top_down else x, one, 0.6, copies)
        self.q2 = Layer(x if top_down else one, two, 0.7, copies)

    def draw(self, x, samples=1, gradient="pathwise"):
        p2 = DiagonalNormal(x.new_zeros(self.units), x.new_zeros(()))
        if self.top_down:
            z2 = lb.Latent.draw(self.q2(x), p2, samples, gradient)
            both = torch.cat([x.expand(samples, *x.shape), z2.z], -1)
            z1 = lb.Latent.draw(self.q1(both), self.p1(z2.z), samples, gradient)
            latents = {"z2": z2, "z1": z1}
        else:
            q1 = self.q1(x)
            first = sample_posterior(q1, samples, gradient)
            z2 = lb.Latent.draw(self.q2(first), p2, samples, gradient)
            z1 = lb.Latent(z=first, q=q1, prior=self.p1(z2.z))
            latents = {"z1": z1, "z2": z2}
        p = self.p0(z1.z)
        return lb.Draw.of(latents, lambda: p.log_prob(x), p=p)

    @torch.no_grad()
    def evidence(self):
        """p(x) in closed form: all is linear and Gaussian."""
        mean = self.p0.weight @ self.p1.bias + self.p0.bias
        deep = self.p0.weight @ self.p1.weight
        covariance = (
            deep @ deep.mT
            + self.p0.weight @ torch.diag((2 * self.p1.log_scale).exp()) @ self.p0.weight.mT
            + torch.diag((2 * self.p0.log_scale).exp())
        )
        return MultivariateNormal(mean, covariance)


def two_layers(top_down, copies=None, sizes=(4, 2, 2)):
    torch.manual_seed(0)
    model = TwoLayers(top_down, copies, sizes).double()
    return model, model.evidence().sample((3,))


def gradients(model, value):
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return dict(zip(names, found, strict=True))


def of_encoder(model, objective, x, seed):
    """The gradient of the encoder's parameters, ``[B, P]``, each example having its own."""
    torch.manual_seed(seed)
    draw = model.draw(x, objective.samples, objective.gradient)
    found = gradients(model, objective.surrogate(draw).sum())
    return torch.cat([g.flatten(1) for name, g in found.items() if name.startswith("q")], 1)


COPIES = 10_000


def largest_t(top_down, first, second):
    """Over the encoder's parameters, between two objectives on independent noise."""
    model, x = two_layers(top_down, COPIES)
    copies = x[:1].expand(COPIES, -1)
    difference = of_encoder(model, first, copies, 1) - of_encoder(model, second, copies, 2)
    return float((difference.mean(0) / difference.std(0) * math.sqrt(COPIES)).abs().max())


# Unbiased gradients


@TOP_DOWN
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lb.IWAE(5, "dreg"), lb.IWAE(5)),
        (lb.IWAE(5, "score-function"), lb.IWAE(5)),
        (lb.Renyi(0.5, 5, "dreg"), lb.Renyi(0.5, 5)),
        (lb.ELBO(2, gradient="sticking-the-landing"), lb.ELBO(2, "sampled")),
        (lb.ELBO(2, gradient="score-function"), lb.ELBO(2, "sampled")),
        (lb.ELBO(2, "sampled", "score-function"), lb.ELBO(2)),
        (lb.IWAE(4, encoder_groups=2), lb.IWAE(4, groups=2)),
    ],
    ids=["dreg", "vimco", "renyi", "landing", "score", "sampled score", "piwae"],
)
def test_gradients_agree_in_mean(top_down, first, second):
    """Paired over 10,000 copies, 30 parameters: by chance one of 14 fails for one seed in 40."""
    assert largest_t(top_down, first, second) < 4


class TotalPaths(lb.IWAE):
    """A mistake on purpose: what one latent gives through another is counted twice."""

    def surrogate(self, draw):
        log_w = draw.log_w.detach()
        weight = log_w.softmax(0)
        z = [latent.z for latent in draw.groups.values()]
        plain = draw.log_likelihood + draw.log_prior - draw.log_q_stopgrad_parameters
        value = (weight * plain).sum(0)
        total = torch.autograd.grad(value.sum(), z, retain_graph=True)
        missing = [(weight - 1)[..., None] * gradient for gradient in total]
        return value + zero_with_gradients(missing, z).sum(0)


class FixedParameters(lb.IWAE):
    """A mistake on purpose: no gradient goes through the parameters of a later layer's log q."""

    def surrogate(self, draw):
        weight = draw.log_w.detach().softmax(0)
        log_q = sum(latent.q.stop_gradient().log_prob(latent.z) for latent in draw.groups.values())
        value = (weight * (draw.log_likelihood + draw.log_prior - log_q)).sum(0)
        return draw.with_scaled_paths(value, weight)


@pytest.mark.parametrize("mistaken", [TotalPaths, FixedParameters])
def test_the_test_finds_what_a_hierarchy_gets_wrong(mistaken):
    assert largest_t(False, mistaken(5), lb.IWAE(5)) > 4


@TOP_DOWN
def test_a_partial_gradient_leaves_the_others_fixed(top_down):
    model, x = two_layers(top_down)
    draw = model.draw(x, 3)
    latents = [latent.z for latent in draw.groups.values()]
    found = partial_gradients(draw.log_w, latents)
    fixed = [z.detach().requires_grad_() for z in latents]
    z1, z2 = reversed(fixed) if top_down else fixed
    p2 = DiagonalNormal(x.new_zeros(2), x.new_zeros(()))
    joint = p2.log_prob(z2) + model.p1(z2).log_prob(z1) + model.p0(z1).log_prob(x)
    if top_down:
        both = torch.cat([x.expand(3, *x.shape), z2], -1)
        log_q = model.q2(x).log_prob(z2) + model.q1(both).log_prob(z1)
    else:
        log_q = model.q1(x).log_prob(z1) + model.q2(z1).log_prob(z2)
    expected = torch.autograd.grad((joint - log_q).sum(), fixed)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@TOP_DOWN
def test_both_stop_gradients_make_up_the_gradient(top_down):
    model, x = two_layers(top_down)
    draw = model.draw(x, 3)
    whole = gradients(model, draw.log_q.sum())
    through_z = gradients(model, draw.log_q_stopgrad_parameters.sum())
    direct = gradients(model, draw.log_q_stopgrad_z.sum())
    torch.testing.assert_close(draw.log_q_stopgrad_z, draw.log_q)
    torch.testing.assert_close(draw.log_q_stopgrad_parameters, draw.log_q)
    for name, gradient in whole.items():
        if gradient is None:
            assert through_z[name] is None
            continue
        torch.testing.assert_close(through_z[name] + direct[name], gradient)
    parts = [draw.log_q_stopgrad_z_of(name) for name in ("z1", "z2")]
    torch.testing.assert_close(sum(parts), draw.log_q_stopgrad_z)
    fixed = {name: latent.z.detach() for name, latent in draw.groups.items()}
    if not top_down:
        again = model.q1(x).log_prob(fixed["z1"]) + model.q2(fixed["z1"]).log_prob(fixed["z2"])
        for name, gradient in gradients(model, again.sum()).items():
            if gradient is not None:
                torch.testing.assert_close(direct[name], gradient, rtol=1e-10, atol=1e-10)


# Oracles


def at_the_exact_posterior():
    """One dimension each, so that q(z1 | x) q(z2 | z1) is the posterior."""
    model = TwoLayers(sizes=(1, 1, 1)).double()
    p1, p0, sd1, sd0 = 0.7, 0.9, 0.8, 0.5
    posterior_1 = 1 / (1 / (p1**2 + sd1**2) + p0**2 / sd0**2)  # of z1 given x
    posterior_2 = 1 / (1 + p1**2 / sd1**2)  # of z2 given z1
    with torch.no_grad():
        for layer, weight, scale in (
            (model.p1, p1, sd1),
            (model.p0, p0, sd0),
            (model.q1, posterior_1 * p0 / sd0**2, math.sqrt(posterior_1)),
            (model.q2, posterior_2 * p1 / sd1**2, math.sqrt(posterior_2)),
        ):
            layer.weight.fill_(weight)
            layer.bias.fill_(0.0)
            layer.log_scale.fill_(math.log(scale))
    return model


def test_at_the_exact_posterior_every_weight_is_the_evidence():
    """And the gradients without the score are 0 for each draw, where the plain one is not."""
    model, x = at_the_exact_posterior(), torch.randn(4, 1, dtype=DOUBLE)
    exact = model.evidence().log_prob(x)
    torch.testing.assert_close(model.draw(x, 7).log_w, exact.expand(7, 4), rtol=0, atol=1e-12)

    def largest(objective):
        draw = model.draw(x, 5, objective.gradient)
        found = gradients(model, objective.surrogate(draw).sum())
        return max(float(g.abs().max()) for name, g in found.items() if name.startswith("q"))

    assert largest(lb.IWAE(5, "dreg")) < 1e-12
    assert largest(lb.IWAE(5, "sticking-the-landing")) < 1e-12
    assert largest(lb.ELBO(5, gradient="sticking-the-landing")) < 1e-12
    assert largest(lb.IWAE(5)) > 0.1


def test_estimates_near_the_evidence_where_q_is_off():
    """The estimate's standard error is 0.0005, and the least distance of two bounds 6 of theirs."""
    torch.manual_seed(0)
    model = at_the_exact_posterior()
    with torch.no_grad():
        for layer in (model.q1, model.q2):
            layer.bias.add_(0.2)
            layer.log_scale.add_(0.2)
    x = model.evidence().sample((50,))
    exact = float(model.evidence().log_prob(x).mean())
    estimate = lb.log_likelihood(model, x, samples=20_000)
    assert estimate.mean == pytest.approx(exact, abs=0.003)
    assert estimate.warning is None
    # Each bound is the mean of 200 estimates with noise of their own.
    bounds = [lb.evaluate(model, lb.IWAE(k), x.repeat(200, 1)).mean for k in (1, 10, 100)]
    assert bounds == sorted(bounds)
    assert bounds[0] < exact - 0.1


@pytest.mark.parametrize(
    ("top_down", "objective", "epochs"),
    [
        (True, lb.IWAE(10, "dreg"), 60),
        (False, lb.IWAE(10, "dreg"), 30),
        (True, lb.ELBO(free_bits=0.01), 30),
    ],
    ids=["dreg top down", "dreg bottom up", "free bits"],
)
def test_the_bound_of_a_trained_model_nears_its_own_evidence(top_down, objective, epochs):
    """With one unit for each layer the exact posterior is in the family, so the gap closes."""
    model, _ = two_layers(top_down, sizes=(4, 1, 1))
    x = model.evidence().sample((500,))
    gap = float(model.evidence().log_prob(x).mean()) - lb.evaluate(model, lb.IWAE(10), x).mean
    settings = {"epochs": epochs, "batch_size": 25, "learning_rate": 0.04, "schedule": "cosine"}
    run = lb.fit(model, objective, x, progress=False, **settings)
    assert {"rate z1", "rate z2"} < run.history[-1]["train"].keys()
    exact = float(model.evidence().log_prob(x).mean())
    assert gap > 1
    assert lb.evaluate(model, lb.IWAE(10), x).mean == pytest.approx(exact, abs=0.05)
    assert lb.log_likelihood(model, x, samples=2000).mean == pytest.approx(exact, abs=0.01)


# Rates


@TOP_DOWN
def test_rates_are_sums_over_groups(top_down):
    """In mean, closed forms and samples agree: a paired t of 50,000 draws below 4."""
    model, x = two_layers(top_down)
    with torch.no_grad():
        draw = model.draw(x, 50_000)
        z1, z2 = draw.groups["z1"], draw.groups["z2"]
        torch.testing.assert_close(draw.rate, z1.rate + z2.rate)
        torch.testing.assert_close(draw.sampled_rate, z1.sampled_rate + z2.sampled_rate)
        torch.testing.assert_close(draw.log_prior, z1.log_prior + z2.log_prior)
        for latent in (z1, z2):
            if latent.draw_rates is None:
                continue
            difference = latent.log_q - latent.log_prior - latent.draw_rates
            t = difference.mean(0) / difference.std(0) * math.sqrt(50_000)
            assert (t.abs() < 4).all()
            torch.testing.assert_close(latent.unit_rates.sum(1), latent.analytic_rate)
    assert (z1.analytic_rate is None) == (not top_down)
    terms = lb.ELBO().terms(draw)
    assert list(terms) == ["bound", "rate", "distortion", *(f"rate {name}" for name in draw.groups)]
    torch.testing.assert_close(terms["rate z1"] + terms["rate z2"], terms["rate"])
    torch.testing.assert_close(terms["bound"], -(terms["rate"] + terms["distortion"]))
    sampled = lb.ELBO(kl="sampled").terms(draw)
    torch.testing.assert_close(sampled["bound"], draw.log_w.mean(0))
    torch.testing.assert_close(sampled["rate z1"] + sampled["rate z2"], draw.sampled_rate)


def test_a_closed_form_of_a_prior_that_depends_on_later_latents_would_be_wrong():
    """It is 0.16 nats and more off, at a noise of 0.01, so that group's rate is sampled."""
    model, x = two_layers(False)
    with torch.no_grad():
        draw = model.draw(x, 100_000)
        z1 = draw.groups["z1"]
        wrong = lb.Latent(z=z1.z, q=z1.q, prior=z1.prior, top_down=True).analytic_rate
    assert z1.rate is z1.sampled_rate
    assert ((wrong - z1.rate).abs() > 0.1).all()


def test_free_bits_are_sums_over_the_units_of_all_groups():
    model, x = two_layers(True)
    draw = model.draw(x, 3)
    units = torch.cat([latent.unit_rates for latent in draw.groups.values()], 1)
    torch.testing.assert_close(draw.unit_rates, units)
    least = float(units.detach().mean(0).sort().values[1:3].mean())
    found = gradients(model, lb.ELBO(3, free_bits=least).surrogate(draw).mean())
    value = draw.log_likelihood.mean() - units.mean(0).clamp_min(least).sum()
    for name, gradient in gradients(model, value).items():
        torch.testing.assert_close(found[name], gradient)


# Latents that are summed out


class Switched(lb.Model):
    """p(c) p(z | c) p(x | z) with a binary c, which is summed out for every draw of z."""

    def __init__(self):
        super().__init__()
        self.q = Layer(2, 2, 0.9)
        with torch.no_grad():
            self.q.weight.copy_(0.7 * torch.eye(2))
            self.q.bias.zero_()
        self.logit = nn.Parameter(torch.tensor(0.4))
        self.means = nn.Parameter(torch.tensor([[-1.0, -0.5], [1.0, 0.5]]))
        self.qc = nn.Linear(2, 1)

    def draw(self, x, samples=1, gradient="pathwise"):
        q = self.q(x)
        z = sample_posterior(q, samples, gradient)
        chance = self.qc(x)[:, 0].sigmoid()
        shares = torch.stack([1 - chance, chance], -1)  # q(c | x), [B, 2]
        prior_c = torch.stack([1 - self.logit.sigmoid(), self.logit.sigmoid()])
        of_z = affine(self.means).log_prob(z[..., None, :]) + prior_c.log()  # [K, B, 2]
        p = affine(z, 0.6)
        return lb.Draw(
            z=z,
            likelihood_term=lambda: p.log_prob(x),
            prior_term=lambda: (shares * of_z).sum(-1),
            posterior_term=lambda: q.log_prob(z) + (shares * shares.log()).sum(-1),
            weight_term=lambda: p.log_prob(x) + of_z.logsumexp(-1) - q.log_prob(z),
        )

    @torch.no_grad()
    def evidence(self):
        spread = torch.full((2, 2), math.sqrt(1 + 0.6**2), dtype=DOUBLE)
        chance = self.logit.detach().sigmoid()
        return MixtureSameFamily(
            Categorical(torch.stack([1 - chance, chance])), affine(self.means.detach(), spread)
        )


def test_latents_may_be_summed_out_of_the_weight():
    torch.manual_seed(0)
    model = Switched().double()
    x = model.evidence().sample((20,))
    exact = float(model.evidence().log_prob(x).mean())
    assert lb.log_likelihood(model, x, samples=5000).mean == pytest.approx(exact, abs=0.02)
    draw = model.draw(x, 50)
    for kl in ("auto", "sampled"):
        terms = lb.ELBO(50, kl).terms(draw)
        torch.testing.assert_close(terms["bound"], -(terms["rate"] + terms["distortion"]))
    assert (draw.log_w.mean(0) > terms["bound"]).all()  # for any draws, by Jensen's inequality
    lb.fit(model, lb.IWAE(5), x, epochs=2, progress=False)
    for objective in (lb.IWAE(5, "dreg"), lb.ELBO(2, gradient="score-function")):
        with pytest.raises(UnsupportedError, match="sums some latents out of it"):
            lb.fit(model, objective, x, epochs=1, progress=False)


# What is refused, and what is forgiven


def normal(*shape):
    return affine(torch.zeros(shape), 1.0)


@pytest.mark.parametrize(
    ("latents", "error", "message"),
    [
        (dict, SettingsError, "at least one group of latents"),
        (
            lambda: {
                "a": lb.Latent.draw(normal(5, 2), normal(2), 3),
                "b": lb.Latent.draw(normal(5, 2), normal(2), 4),
            },
            ShapeError,
            r"the draws of 'b' have the shape \(4, 5, 2\); it must be .* \(3, 5\)",
        ),
        (
            lambda: {"a": lb.Latent(z=torch.zeros(3, 5, 2), q=normal(2), prior=normal(2))},
            ShapeError,
            r"the posterior of 'a' has batch shape \(\) and event shape \(2,\)",
        ),
        (
            lambda: {"a": lb.Latent.draw(normal(5, 2), normal(3), 3)},
            ShapeError,
            r"the prior of 'a' has batch shape \(\) and event shape \(3,\)",
        ),
        (lambda: {"a": lb.Latent.draw(normal(4, 5, 2), normal(2), 3)}, ShapeError, r"\(3, B\)"),
    ],
)
def test_groups_that_do_not_fit_say_why(latents, error, message):
    with pytest.raises(error, match=message):
        lb.Draw.of(latents(), lambda: torch.zeros(3, 5))


def test_another_order_than_that_of_drawing_is_refused():
    model, x = two_layers(True)
    groups = model.draw(x, 2).groups
    with pytest.raises(UnsupportedError, match="'z1' depends on latents that come after it"):
        lb.Draw.of(dict(reversed(groups.items())), lambda: torch.zeros(2, 3))


def test_what_a_group_lacks_is_named():
    model, x = two_layers(False)
    draw = model.draw(x, 2)
    for objective, message in (
        (
            lb.ELBO(free_bits=0.1),
            "not known for the latents 'z1', whose",
        ),
        (lb.ELBO(kl="closed-form"), "no closed-form KL is registered for the latents 'z1', whose"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            objective(draw)
    model, x = two_layers(True)
    objective = lb.ELBO(2, gradient="score-function", free_bits=0.1)
    with pytest.raises(UnsupportedError, match="that of 'z1' depends on other latents"):
        objective(model.draw(x, 2, "score-function"))


def test_a_group_with_a_posterior_that_offers_both_at_once_is_scored_anew():
    """As a flow does, which computes log q with its draw, from other tensors than the draw."""

    class Together(DiagonalNormal):
        def rsample_and_log_prob(self, shape):
            z = self.rsample(shape)
            return z, self.log_prob(z)

        def expand(self, batch_shape, _instance=None):
            plain = super().expand(batch_shape)
            return Together(plain.loc, plain.log_scale)

    plain, x = two_layers(True)
    together, _ = two_layers(True)

    class Flowing(Layer):
        def forward(self, given):
            q = super().forward(given)
            return Together(q.loc, q.log_scale)

    together.q1.__class__ = together.q2.__class__ = Flowing
    values = []
    for model in (plain, together):
        torch.manual_seed(1)
        draw = model.draw(x, 4, "dreg")
        values.append(gradients(model, lb.IWAE(4, "dreg").surrogate(draw).sum()))
    for name, gradient in values[0].items():
        torch.testing.assert_close(values[1][name], gradient)


def test_old_names_of_the_stop_gradients_work_for_now():
    q = affine(torch.zeros(5, 2, requires_grad=True))
    z = q.rsample((3,))
    with pytest.warns(DeprecationWarning, match="is now called stopgrad_z_term="):
        draw = lb.Draw(
            z=z,
            likelihood_term=lambda: z.sum(-1),
            prior_term=lambda: z.sum(-1),
            posterior_term=lambda: q.log_prob(z),
            fixed_point_term=lambda: q.log_prob(z.detach()),
        )
    with pytest.warns(DeprecationWarning, match="is now called Draw.log_q_stopgrad_z"):
        assert draw.log_q_at_fixed_z is draw.log_q_stopgrad_z
    with pytest.raises(UnsupportedError, match="the posterior cannot score a given point"):
        draw.log_q_stopgrad_parameters  # noqa: B018


def test_one_group_is_the_same_as_none():
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8))
    )
    x = torch.randn(3, 4)
    for objective in (lb.ELBO(), lb.ELBO(free_bits=0.1), lb.IWAE(6, "dreg"), lb.IWAE(6)):
        found = []
        for grouped in (False, True):
            torch.manual_seed(1)
            draw = model.draw(x, 6)
            if grouped:
                only = lb.Latent(z=draw.z, q=draw.q, prior=draw.prior)
                draw = lb.Draw.of({"z": only}, draw.likelihood_term, p=draw.p)
            found.append(gradients(model, objective.surrogate(draw).sum()))
            assert list(objective.terms(draw)) == ["bound", "rate", "distortion"]
        for name, gradient in found[0].items():
            torch.testing.assert_close(found[1][name], gradient)


# Points for examples


@TOP_DOWN
def test_several_groups_are_encoded_by_name(top_down):
    model, x = two_layers(top_down)
    codes = model.encode(x)
    assert {name: code.shape for name, code in codes.items()} == {"z1": (3, 2), "z2": (3, 2)}
    for name, code in model.encode(x).items():
        assert torch.equal(code, codes[name])
    if not top_down:
        torch.testing.assert_close(codes["z1"], model.q1(x).mean.detach())
        exact = model.q2(model.q1(x).mean).mean.detach()  # all is linear
        error = model.q2.weight.detach().norm() * 0.6 / math.sqrt(256)
        assert ((codes["z2"] - exact).abs() < 4 * error).all()
    torch.testing.assert_close(model.encode(x[1:2])["z2"][0], codes["z2"][1])


def test_a_model_that_does_not_say_what_q_is_cannot_encode():
    with pytest.raises(UnsupportedError, match="Switched do not say what q is"):
        Switched().encode(torch.zeros(3, 2))


class Dial(torch.distributions.Normal):
    """Registers a point of its own."""


natural_point.register(Dial, lambda dial: dial.loc + 1)


def test_natural_points():
    loc = torch.tensor([0.5, 3.0])
    assert torch.equal(natural_point(Normal(loc, 1.0)), loc)
    assert torch.equal(natural_point(Independent(Dial(loc, 1.0), 1)), loc + 1)
    assert torch.equal(natural_point(VonMises(loc, 1.0)), loc)
    assert natural_point(Categorical(torch.tensor([[0.1, 0.7, 0.2]]))).tolist() == [1]
    assert natural_point(Independent(Bernoulli(torch.tensor([0.25])), 1)).tolist() == [0.25]


# Scores


class Similarity(lb.Gaussian):
    normalized = False


def test_an_objective_says_whether_its_value_is_a_bound():
    def vae(likelihood):
        return lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), likelihood)

    class Score(lb.ELBO):
        is_bound = False

    plain, perceptual = vae(lb.Gaussian(lb.mlp(2, 8))), vae(Similarity(lb.mlp(2, 8)))
    assert plain.unnormalized_parts() == ()
    assert perceptual.unnormalized_parts() == ("likelihood (Similarity)",)
    assert TwoLayers().unnormalized_parts() == ()
    assert lb.ELBO().label(plain) == "bound"
    assert lb.ELBO().label(perceptual) == "score"
    assert Score().label(plain) == "score"


@pytest.mark.parametrize("top_down", [True, False])
def test_order_of_layers_does_not_change_the_noise_of_an_example(top_down):
    model, _ = two_layers(top_down)
    x = model.evidence().sample((11,))
    whole = lb.evaluate(model, lb.IWAE(5), x, batch_size=11).per_example
    for size in (3, 10):
        again = lb.evaluate(model, lb.IWAE(5), x, batch_size=size).per_example
        torch.testing.assert_close(again, whole, rtol=1e-12, atol=1e-12)


# Compiling


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("fresh_compiler")
@TOP_DOWN
@pytest.mark.parametrize(
    "objective",
    [lb.ELBO(2), lb.IWAE(4, "dreg"), lb.ELBO(2, gradient="sticking-the-landing")],
    ids=["elbo", "dreg", "landing"],
)
def test_a_step_of_several_groups_is_one_graph(top_down, objective, traced):
    def make():
        model, _ = two_layers(top_down)
        torch.manual_seed(2)
        return make_step(model.float(), objective, lb.Examples.of(torch.randn(12, 4)))

    assert_agreement(make)


class Chained(lb.Model):
    """Two discrete groups of latents, the second of which is drawn given the first."""

    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.randn(3, 4))

    def draw(self, x, samples=1, gradient="pathwise", **given):
        first = lb.Latent.draw(
            Categorical(logits=x[:, :3]), Categorical(torch.ones(3)), samples, gradient
        )
        second = lb.Latent.draw(
            Categorical(logits=self.logits[first.z]), Categorical(torch.ones(4)), samples, gradient
        )
        score = x[:, 0] * second.z
        return lb.Draw.of({"first": first, "second": second}, lambda: score)


def test_discrete_latents_of_a_later_group_do_not_depend_on_the_batches():
    torch.manual_seed(0)
    model, x = Chained(), torch.randn(6, 3)
    objective = lb.ELBO(samples=3, gradient="score-function", kl="sampled")
    whole = lb.evaluate(model, objective, x).per_example
    parts = lb.evaluate(model, objective, x, batch_size=2).per_example
    torch.testing.assert_close(whole, parts)
