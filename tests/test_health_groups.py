"""What latents carry: conditional priors, several groups of latents, and discrete ones."""

import math

import pytest
import torch
import zuko
from torch import nn
from torch.distributions import Categorical, Independent, Normal, OneHotCategorical

import lowerbound as lb
from lowerbound.errors import DataError, UnsupportedError

LABELS = 3


def given_label(inputs: int, outputs: int) -> lb.Given:
    """A Gaussian that depends on the label beside its input."""
    return lb.Given(lb.Gaussian(lb.mlp(inputs + LABELS, 2 * outputs)), "label", categories=LABELS)


def cells(count: int = 30) -> lb.Examples:
    values = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return lb.Examples(values, labels=torch.arange(count) % LABELS)


def conditional_vae(prior=None) -> lb.LatentModel:
    torch.manual_seed(0)
    return lb.LatentModel(prior or given_label(0, 2), given_label(4, 2), given_label(2, 4))


# Conditional models


def test_with_a_conditional_prior_there_is_no_aggregate_kl():
    model = conditional_vae()
    health = lb.latent_health(model, cells())
    assert health.aggregate_kl is None
    assert health.marginal_kl is None
    assert health.total_correlation is None
    assert health.mutual_information is None
    assert not health.saturated
    assert "each example has its own prior, which depends on its fields" in str(health)
    terms = lb.evaluate(model, lb.ELBO(), cells()).terms
    assert health.rate == pytest.approx(terms["rate"].mean, rel=1e-6)
    assert float(health.rate_per_unit.sum()) == pytest.approx(health.rate, rel=1e-6)
    assert (health.units, len(health.variances)) == (2, 2)


def test_with_a_conditional_prior_a_small_rate_is_a_collapse():
    """The rate bounds the information about x for a given label."""
    model = conditional_vae()
    prior, posterior = (part.network.layers[0] for part in (model.prior, model.posterior))
    with torch.no_grad():
        posterior.weight[:, :4] = 0
        posterior.weight[:, 4:] = prior.weight
        posterior.bias.copy_(prior.bias)
    health = lb.latent_health(model, cells())
    assert health.collapsed
    assert "z carries at most 0.00 nats about x" in health.findings[0].what


def test_with_a_plain_prior_the_aggregate_is_known():
    """The posterior and the likelihood depend on the label, and the prior does not."""
    model = conditional_vae(lb.StandardNormal(2))
    health = lb.latent_health(model, cells())
    assert health.unknown is None
    assert health.aggregate_kl == pytest.approx(health.rate - health.mutual_information)


def test_gaps_of_a_conditional_model():
    gaps = lb.inference_gaps(conditional_vae(), cells(5), samples=50, steps=20)
    assert gaps.inference.mean == pytest.approx(
        gaps.approximation.mean + gaps.amortisation.mean, abs=1e-9
    )
    assert gaps.amortisation.mean > 0


def test_gaps_refuse_what_is_inside_of_a_wrapper_by_name():
    flow = lb.Given(zuko.flows.MAF(2, 4 + LABELS, hidden_features=(8,)), "label", categories=LABELS)
    model = lb.LatentModel(lb.StandardNormal(2), flow, given_label(2, 4))
    with pytest.raises(UnsupportedError, match="the posterior is a MAF, which has no network"):
        lb.inference_gaps(model, cells(5))


def test_the_scale_of_a_likelihood_in_a_wrapper_is_examined():
    model = conditional_vae(lb.StandardNormal(2))
    with torch.no_grad():
        model.likelihood.network.layers[0].weight[4:] = 0
        model.likelihood.network.layers[0].bias[4:] = -100.0
    health = lb.latent_health(model, cells())
    assert health.scale_floor_reached == 1.0
    assert any("at their floor" in finding.what for finding in health.findings)


def test_a_missing_field_is_named():
    model, x = conditional_vae(), cells().values
    for evaluation in (lb.latent_health, lb.inference_gaps, lb.annealed_log_likelihood):
        with pytest.raises(DataError, match="needs the field 'label'"):
            evaluation(model, x)
    with pytest.raises(DataError, match="needs the field 'label'"):
        lb.bidirectional(model, 2)


def test_annealing_of_a_conditional_model_comes_to_its_log_likelihood():
    """The standard deviation of an estimate is below 0.02 nats."""
    model, data = conditional_vae().double(), cells(4)
    annealed = lb.annealed_log_likelihood(
        model, data, distributions=30, chains=200, leapfrog_steps=2, check_length=False
    )
    sampled = lb.log_likelihood(model, data, 20_000)
    assert annealed.mean == pytest.approx(sampled.mean, abs=0.1)
    interval = lb.bidirectional(model, 4, distributions=30, chains=100, leapfrog_steps=2, label=1)
    assert abs(interval.gap.mean) < 0.2


# Several groups of latents


def normal(loc, scale=1.0):
    return Independent(Normal(loc, scale), 1)


class Ladder(lb.Model):
    """A top layer whose posterior is fixed by the data, and a bottom layer that depends on it."""

    def __init__(self, slope):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))

    def draw(self, x, samples=1, gradient="pathwise"):
        top = lb.Latent.draw(normal(self.slope * x[:, :1], 0.5), normal(x.new_zeros(1)), samples)
        bottom = lb.Latent.draw(normal(top.z + 1), normal(top.z), samples)
        p = normal(torch.cat([bottom.z, top.z], -1))
        return lb.Draw.of({"top": top, "bottom": bottom}, lambda: p.log_prob(x), p=p)


def test_each_group_is_examined():
    x = torch.randn(60, 2)
    health = lb.latent_health(Ladder(1.0), x)
    top, bottom = health.groups["top"], health.groups["bottom"]
    expected = 0.5 * (x[:, 0].square() + 0.25 - 1 - 2 * math.log(0.5)).mean()
    assert top.rate == pytest.approx(float(expected), rel=1e-5)
    assert bottom.rate == pytest.approx(0.5, rel=1e-5)  # KL(N(z + 1, 1) || N(z, 1))
    assert health.rate == pytest.approx(top.rate + bottom.rate)
    assert health.rate_per_unit.tolist() == [*top.rate_per_unit, *bottom.rate_per_unit]
    assert top.mutual_information == pytest.approx(top.rate - top.aggregate_kl)
    assert 0.3 < top.mutual_information < math.log(60)
    assert bottom.mutual_information is None
    assert bottom.unknown == "the posterior depends on other latents"
    assert health.mutual_information is None
    assert top.variances[0] == pytest.approx(float(x[:, 0].var(correction=0)), rel=1e-5)
    assert bottom.variances[0] == pytest.approx(float(top.variances[0]), rel=0.2)
    lines = str(health).splitlines()
    assert lines[0] == f"rate: {health.rate:.2f} nats in 2 groups of latents"
    assert lines[1] == "top: active units: 1 of 1"
    assert any(line.startswith("bottom: information about x: at most 0.50 nats") for line in lines)


def test_draws_of_other_latents_do_not_make_a_unit_active():
    """The means of many examples are averages of few draws, whose noise is not theirs."""
    x = torch.randn(6000, 2)
    health = lb.latent_health(Ladder(0.02), x, samples=1)
    expected = 4e-4 * float(x[:, 0].var(correction=0))
    assert health.groups["top"].variances[0] == pytest.approx(expected, rel=1e-5)
    # The standard error is 0.25 / 8 * sqrt(2 / 6000); without the correction 0.03 is added.
    assert health.groups["bottom"].variances[0] == pytest.approx(expected, abs=0.0025)
    assert health.active_units == 0


def test_groups_that_carry_nothing_have_collapsed():
    class Empty(Ladder):
        def draw(self, x, samples=1, gradient="pathwise"):
            prior = normal(x.new_zeros(1))
            q = normal(x.new_zeros(len(x), 1))
            groups = {name: lb.Latent.draw(q, prior, samples) for name in ("top", "bottom")}
            p = normal(x.new_zeros(samples, len(x), 2))
            return lb.Draw.of(groups, lambda: p.log_prob(x), p=p)

    health = lb.latent_health(Empty(0.0), torch.randn(30, 2), objective=lb.ELBO(beta=5.0))
    assert health.collapsed
    assert "beta = 5" in health.findings[0].cause
    (finding,) = lb.latent_health(Empty(0.0), torch.randn(30, 2)).findings
    assert finding.cause.startswith("none found")


# Discrete latents


class Codes(lb.Model):
    """One of four codes by the signs of two entries, as categorical or one-hot latents."""

    def __init__(self, kind, units=1):
        super().__init__()
        self.kind, self.units = kind, units
        self.offset = nn.Parameter(torch.zeros(()))

    def q(self, x):
        code = 2 * (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        logits = 50.0 * nn.functional.one_hot(code, 4) + self.offset
        if self.kind is OneHotCategorical:
            return OneHotCategorical(logits=logits)
        return Independent(Categorical(logits=logits[:, None].expand(-1, self.units, -1)), 1)

    def prior(self):
        logits = self.offset.expand(4)
        if self.kind is OneHotCategorical:
            return OneHotCategorical(logits=logits)
        return Independent(Categorical(logits=logits.expand(self.units, 4)), 1)

    def draw(self, x, samples=1, gradient="pathwise"):
        latent = lb.Latent.draw(self.q(x), self.prior(), samples, gradient)
        p = normal(x.new_zeros(samples, len(x), 2))
        return lb.Draw.of({"code": latent}, lambda: p.log_prob(x), p=p)

    def numbers_per_draw(self, examples):
        return 8


@pytest.mark.parametrize(
    "model", [Codes(Categorical), Codes(OneHotCategorical), Codes(Categorical, units=2)]
)
def test_codes_have_a_usage_and_a_perplexity(model):
    """Three of four codes, in the ratio 2 to 1 to 1: entropy 1.5 log 2."""
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]]).repeat(8, 1)
    health = lb.latent_health(Scored(model), x)
    units = model.units
    assert health.codes.usage.tolist() == [3] * units
    assert health.codes.perplexity.tolist() == pytest.approx([2**1.5] * units, rel=1e-5)
    assert health.codes.probabilities.shape == (units, 4)
    assert health.units == units
    assert health.active_units == units
    # The variances of one-hot codes: sum of p (1 - p).
    assert health.variances.tolist() == pytest.approx([0.25 + 2 * 0.1875] * units, rel=1e-5)
    assert health.mutual_information == pytest.approx(1.5 * math.log(2), abs=1e-4)
    assert "codes: 3 of 4 used, perplexity 2.83" in str(health)


class Scored(lb.Model):
    """A model whose latents have no pathwise gradient."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def draw(self, x, samples=1, gradient="pathwise"):
        return self.inner.draw(x, samples, "score-function")


def test_binary_units_have_a_perplexity_too():
    model = lb.LatentModel(
        lb.Bernoulli(lb.constant(2)), lb.Bernoulli(lb.mlp(2, 2)), lb.Bernoulli(lb.mlp(2, 2))
    )
    with torch.no_grad():
        model.posterior.network.layers[0].weight.copy_(torch.diag(torch.tensor([60.0, 0.0])))
        model.posterior.network.layers[0].bias.copy_(torch.tensor([-30.0, -30.0]))
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(5, 1)
    health = lb.latent_health(model, x)
    assert health.codes.usage.tolist() == [2, 1]
    assert health.codes.perplexity.tolist() == pytest.approx([2.0, 1.0], abs=1e-6)
    assert "codes: 1.5 of 2 used, perplexity 1.50 (means over 2 units)" in str(health)
