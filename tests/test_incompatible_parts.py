"""Priors, posteriors, likelihoods and objectives that do not fit each other say why."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
import zuko
from torch import nn

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, FactorialCodeVectors
from lowerbound.errors import DataError, SettingsError, ShapeError, UnsupportedError


def make_model(prior, posterior, latent):
    return lb.LatentModel(prior, posterior, lb.Gaussian(lb.mlp(latent, 10)))


def make_codes(draws, network=None):
    return lb.OneHot(network or lb.mlp(5, (3, 4)), draws)


APART = {
    "a sphere's prior, real draws": (
        lambda: lb.SphereUniform(3),
        lambda: lb.Gaussian(lb.mlp(5, 6)),
        r"SphereUniform is over vectors of norm 1, .*DiagonalNormal is over Real\(\)",
    ),
    "a real prior, draws on a sphere": (
        lambda: lb.StandardNormal(3),
        lambda: lb.PowerSpherical(lb.mlp(5, 4)),
        r"DiagonalNormal is over Real\(\), .*PowerSpherical is over vectors of norm 1",
    ),
    "a real prior, relaxed codes": (
        lambda: lb.StandardNormal((3, 4)),
        lambda: make_codes("relaxed"),
        r"RelaxedOneHot is over Simplex\(\)",
    ),
    "a relaxed prior, exact codes": (
        lambda: make_codes("relaxed", lb.constant((3, 4))),
        lambda: make_codes("straight-through"),
        "RelaxedOneHot is continuous .*StraightThroughOneHot is discrete",
    ),
    "a positive prior, real draws": (
        lambda: lb.Gamma(lb.constant(3), scale=1.0),
        lambda: lb.Gaussian(lb.mlp(5, 6)),
        r"Gamma is over .*0.*DiagonalNormal is over Real\(\)",
    ),
    "a positive prior, a flow": (
        lambda: lb.LogNormal(lb.constant(6)),
        lambda: lb.Flow("maf", 3, context=5, transforms=1),
        r"LogNormal is over .*0.*NormalizingFlow is over Real\(\)",
    ),
    "a flow on intervals, real draws": (
        lambda: lb.Flow("ncsf", 3, transforms=1),
        lambda: lb.Gaussian(lb.mlp(5, 6)),
        r"NormalizingFlow is over Interval\(.*DiagonalNormal is over Real\(\)",
    ),
    "a prior of unit intervals, positive draws": (
        lambda: lb.Beta(lb.constant(6)),
        lambda: lb.LogNormal(lb.mlp(5, 6)),
        r"Beta is over Interval\(.*LogNormal is over GreaterThan",
    ),
    "a prior of few counts, counts without a limit": (
        lambda: lb.Binomial(lb.constant(3), trials=3),
        lambda: lb.Poisson(lb.mlp(5, 3)),
        r"FactorialCodes is over IntegerInterval\(.*FactorialPoisson is over IntegerGreaterThan",
    ),
    "a prior of three levels, four levels": (
        lambda: lb.Categorical(lb.constant(9), levels=3),
        lambda: lb.Categorical(lb.mlp(5, 12), levels=4),
        r"over multiples of 1/2 from 0 to 1, .*over multiples of 1/3 from 0 to 1",
    ),
    "a flow, binary draws": (
        lambda: lb.Flow("nsf", 3, transforms=1),
        lambda: lb.Bernoulli(lb.mlp(5, 3)),
        "NormalizingFlow is continuous .*FactorialBernoulli is discrete",
    ),
    "a flow of zuko, binary draws": (
        lambda: zuko.flows.NSF(3, transforms=1, hidden_features=(8,)),
        lambda: lb.Bernoulli(lb.mlp(5, 3)),
        "NormalizingFlow is continuous .*FactorialBernoulli is discrete",
    ),
    "binary prior, a flow": (
        lambda: lb.Bernoulli(lb.constant(3)),
        lambda: lb.Flow("nsf", 3, context=5, transforms=1),
        "FactorialBernoulli is discrete .*NormalizingFlow is continuous",
    ),
    "a density, a point mass among a density": (
        lambda: lb.StandardNormal(3),
        lambda: lb.Hurdle(lb.Gaussian(lb.mlp(5, 6)), lb.mlp(5, 3)),
        r"DiagonalNormal is over Real\(\), .*HurdleDistribution is over zero or Real\(\)",
    ),
    "binary prior, a point mass among a density": (
        lambda: lb.Bernoulli(lb.constant(3)),
        lambda: lb.Hurdle(lb.Gaussian(lb.mlp(5, 6)), lb.mlp(5, 3)),
        r"FactorialBernoulli is over Boolean\(\), .*HurdleDistribution is over zero or Real\(\)",
    ),
    "a point mass among a density, binary draws": (
        lambda: lb.Hurdle(lb.Gaussian(lb.constant(6)), lb.constant(3)),
        lambda: lb.Bernoulli(lb.mlp(5, 3)),
        r"HurdleDistribution is over zero or Real\(\), .*FactorialBernoulli is over Boolean\(\)",
    ),
    "a point, real draws": (
        lambda: lb.Point(lb.constant(3)),
        lambda: lb.Gaussian(lb.mlp(5, 6)),
        "PointMass has all its probability at single points, .*DiagonalNormal",
    ),
    "a mixture of points, a point": (
        lambda: lb.VampPrior(lb.Point(lb.mlp(5, 3)), torch.rand(4, 5)),
        lambda: lb.Point(lb.mlp(5, 3)),
        "Mixture has all its probability at single points, .*PointMass",
    ),
    "a positive prior, a point": (
        lambda: lb.Gamma(lb.constant(3), scale=1.0),
        lambda: lb.Point(lb.mlp(5, 3)),
        r"Gamma is over .*0.*PointMass is over Real\(\)",
    ),
    "a sphere's prior, a point": (
        lambda: lb.SphereUniform(3),
        lambda: lb.Point(lb.mlp(5, 3)),
        r"SphereUniform is over vectors of norm 1, .*PointMass is over Real\(\)",
    ),
    "a prior of one-hot codes, binary draws": (
        lambda: make_codes("exact", lb.constant((3, 4))),
        lambda: lb.Bernoulli(lb.mlp(5, (3, 4))),
        r"FactorialOneHot is over OneHot\(\).*FactorialBernoulli is over Boolean\(\)",
    ),
    "a prior of a codebook, one-hot codes": (
        lambda: lb.CodePrior(lb.VectorQuantized(lb.mlp(5, (3, 4)), codes=5)),
        lambda: make_codes("straight-through"),
        r"FactorialCodeVectors is over vectors from the codebook",
    ),
}


@pytest.mark.parametrize("name", APART)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_posterior_without_a_density_under_the_prior_is_refused(name, layers):
    make_prior, make_posterior, message = APART[name]
    prior, posterior = make_prior(), make_posterior()
    shape = tuple(prior().event_shape)
    gradient = {True: "pathwise", False: "score-function"}[posterior(torch.zeros(1, 5)).has_rsample]
    model = make_model(prior, posterior, shape)
    if layers == 2:
        model = lb.LayeredModel(
            [lb.Gaussian(lb.mlp(shape, 10)), prior],
            [lb.Gaussian(lb.mlp(5, 10)), posterior],
            lb.Gaussian(lb.mlp(5, 10)),
        )
    state = torch.get_rng_state()
    with pytest.raises(UnsupportedError, match=message):
        model.draw(torch.zeros(2, 5), 2, gradient)
    assert torch.equal(torch.get_rng_state(), state)  # refused before anything is drawn


def make_layers(top_down, units=(3, 2)):
    """Two layers of three and two units, whose priors are over ``units``."""
    priors = [lb.Gaussian(lb.mlp(2, 2 * units[0])), lb.StandardNormal(units[1])]
    features, inputs = None, (5, 3)
    if top_down:
        features, inputs = [lb.mlp(5, 4), lb.mlp(4, 4)], (4 + 2, 4)
    posteriors = [lb.Gaussian(lb.mlp(inputs[0], 6)), lb.Gaussian(lb.mlp(inputs[1], 4))]
    likelihood = lb.Gaussian(lb.mlp(3, 10))
    return lb.LayeredModel(priors, posteriors, likelihood, features=features)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize(("units", "layer"), [((4, 2), "z1"), ((3, 3), "z2")])
def test_layers_of_other_shapes_are_refused_by_name_before_anything_is_drawn(
    top_down, units, layer
):
    model, x = make_layers(top_down, units), torch.randn(4, 5)
    state = torch.get_rng_state()
    for use in (model.draw, lambda x: lb.evaluate(model, lb.ELBO(), x)):
        with pytest.raises(ShapeError, match=rf"^the posterior of '{layer}' .* but its prior is"):
            use(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_whose_network_needs_several_examples_are_checked():
    model, x = make_layers(top_down=False), torch.randn(4, 5)
    normalise = nn.BatchNorm1d(6, track_running_stats=False)
    model.posteriors[0] = lb.Gaussian(nn.Sequential(nn.Linear(5, 6), normalise))
    assert model.draw(x).log_w.shape == (1, 4)


@pytest.mark.parametrize("top_down", [False, True])
def test_layers_are_checked_again_if_one_is_replaced(top_down):
    model, x = make_layers(top_down), torch.randn(4, 5)
    model.draw(x)
    model.priors[1] = lb.SphereUniform(2)
    state = torch.get_rng_state()
    with pytest.raises(UnsupportedError, match="prior of 'z2''s SphereUniform"):
        model.draw(x)
    assert torch.equal(torch.get_rng_state(), state)


def make_quantizer(kind):
    if kind == "VectorQuantized":
        return lb.VectorQuantized(lb.mlp(5, (3, 4)), codes=5)
    return lb.FiniteScalarQuantized(lb.mlp(5, (3, 4)), levels=(3, 3, 2))


@pytest.mark.parametrize("kind", ["VectorQuantized", "FiniteScalarQuantized"])
@pytest.mark.parametrize("autoregressive", [False, True])
def test_a_prior_over_the_codes_of_another_quantizer_is_refused(kind, autoregressive):
    def make_prior(quantizer):
        if not autoregressive:
            return lb.CodePrior(quantizer)
        codes = prior_codes[kind]
        return lb.AutoregressivePrior(quantizer, lb.recurrent(1, 4, (4, codes)))

    prior_codes = {"VectorQuantized": 5, "FiniteScalarQuantized": 18}
    own, other = make_quantizer(kind), make_quantizer(kind)
    x = torch.zeros(2, 5)
    with pytest.raises(UnsupportedError, match=f"codes of another {kind} than the posterior"):
        make_model(make_prior(other), own, (3, 4)).draw(x, 2)
    model = make_model(make_prior(own), own, (3, 4))
    assert model.draw(x, 2).log_w.isfinite().all()
    assert copy.deepcopy(model).draw(x, 2).log_w.isfinite().all()


def make_autoregressive(quantizer):
    return lb.AutoregressivePrior(quantizer, lb.recurrent(1, 4, (4, 5)))


class OwnPrior(lb.Conditional):
    """A prior of the user, which finds codes by a method of its own."""

    def __init__(self, quantizer):
        super().__init__()
        self.quantizer = quantizer

    def find(self, z):
        return self.quantizer.find(z)

    def forward(self):
        tables = self.quantizer.get_tables()
        return FactorialCodeVectors(torch.zeros(1, 4, 5), tables, self.find, event_dims=2)


def test_a_prior_that_does_not_name_its_codebook_is_accepted():
    quantizer = make_quantizer("VectorQuantized")
    model = make_model(OwnPrior(quantizer), quantizer, (3, 4))
    assert model.draw(torch.zeros(2, 5), 2).log_w.isfinite().all()


@pytest.mark.parametrize("kind", [lb.CodePrior, make_autoregressive])
def test_changed_distributions_of_codes_keep_their_codebook(kind):
    quantizer = make_quantizer("VectorQuantized")
    prior = kind(quantizer)()
    changed = [prior.expand((2,))]
    if kind is lb.CodePrior:
        changed.append(prior.stop_gradient())
    assert all(each.support.codebook is quantizer for each in changed)


def make_gaussian():
    return lb.Gaussian(lb.mlp(5, 6))


def make_hurdle():
    return lb.Hurdle(make_gaussian(), lb.mlp(5, 3))


def make_levels():
    return lb.Categorical(lb.mlp(5, 9), levels=3)


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [
        (lambda: lb.StandardNormal(3), lambda: lb.LogNormal(lb.mlp(5, 6))),
        (lambda: lb.StandardNormal(3), lambda: lb.Beta(lb.mlp(5, 6))),
        (lambda: lb.Hurdle(lb.Gaussian(lb.constant(6)), lb.constant(3)), make_hurdle),
        (lambda: lb.Hurdle(lb.Gaussian(lb.constant(6)), lb.constant(3)), make_gaussian),
        (lambda: lb.Bernoulli(lb.constant((3, 4))), lambda: make_codes("straight-through")),
        (lambda: lb.Categorical(lb.constant(15), levels=5), make_levels),
        (lambda: lb.Flow("nsf", 3), lambda: lb.Flow("maf", 3, context=5)),
        (lambda: lb.Flow("ncsf", 3), lambda: lb.Flow("ncsf", 3, context=5)),
        (lambda: lb.MixturePrior(3, 2), lambda: lb.StudentT(lb.mlp(5, 6))),
    ],
)
def test_a_posterior_whose_draws_the_prior_can_score_is_not_refused(prior, posterior):
    prior, posterior = prior(), posterior()
    with torch.no_grad():  # so that draws need not be reparameterised
        draw = make_model(prior, posterior, prior().event_shape).draw(torch.zeros(2, 5), 4)
        assert draw.log_w.isfinite().all()


POINTS = {
    "Point": lambda: (lb.StandardNormal(3), lb.Point(lb.mlp(5, 3))),
    "VectorQuantized": lambda: _with_prior(lb.VectorQuantized(lb.mlp(5, 3), codes=4)),
    "FiniteScalarQuantized": lambda: _with_prior(
        lb.FiniteScalarQuantized(lb.mlp(5, 3), levels=(3, 3, 3))
    ),
}


def _with_prior(posterior):
    return lb.CodePrior(posterior), posterior


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize(
    "objective",
    [
        lb.ELBO(samples=2, gradient="score-function"),
        lb.IWAE(4, "score-function"),
        lb.IWAE(4, "dreg"),
        lb.Renyi(0.5, 4, "dreg"),
    ],
)
def test_gradients_that_a_point_does_not_have_are_refused(name, objective):
    """They would leave the encoder untrained, or give it a gradient of another size."""
    prior, posterior = POINTS[name]()
    model, x = make_model(prior, posterior, 3), torch.randn(20, 5)
    with pytest.raises(UnsupportedError, match="all probability at one point"):
        lb.fit(model, objective, x, epochs=1, progress=False)
    assert math.isfinite(lb.evaluate(model, objective, x).mean)  # needs no gradient


@pytest.mark.parametrize("gradient", ["pathwise", "score-function", "sticking-the-landing", "dreg"])
def test_a_posterior_never_learns_from_its_own_draws(gradient):
    posterior = lb.Gaussian(lb.mlp(5, 3), scale="optimal")
    model = make_model(lb.StandardNormal(3), posterior, 3)
    with pytest.raises(UnsupportedError, match=r"scale='optimal', is for likelihoods"):
        model.draw(torch.randn(20, 5), 2, gradient)
    assert float(posterior.deviation_weight) == 0


@pytest.mark.parametrize("gradient", ["score-function", "sticking-the-landing", "dreg"])
def test_a_likelihood_has_an_optimal_scale_under_every_gradient(gradient):
    torch.manual_seed(0)
    likelihood = lb.Gaussian(lb.mlp(3, 5), scale="optimal")
    model = lb.LatentModel(lb.StandardNormal(3), lb.Gaussian(lb.mlp(5, 6)), likelihood)
    x = torch.randn(20, 5)
    draw = model.draw(x, 4, gradient)
    lb.IWAE(4, gradient)(draw).sum().backward()
    error = (x - draw.p.mean).square().mean()
    torch.testing.assert_close(likelihood.deviation / likelihood.deviation_weight, error)


def test_the_elbo_of_codes_is_logged_beside_a_score():
    prior, posterior = POINTS["FiniteScalarQuantized"]()
    model, x = make_model(prior, posterior, 3), torch.randn(20, 5)
    terms = lb.InfoVAE(samples=2).terms(model.draw(x, 2))
    torch.testing.assert_close(terms["elbo"], lb.ELBO(2)(model.draw(x, 2)))


@pytest.mark.parametrize("objective", [lb.FactorVAE, lb.AAE])
@pytest.mark.parametrize("own", [False, True])
def test_a_critic_of_other_latents_is_refused_by_name(objective, own):
    critic = nn.Linear(3, 1) if own else lb.mlp(3, 4, 1)
    model = make_model(lb.StandardNormal(2), lb.Gaussian(lb.mlp(5, 4)), 2)
    message = f"^{objective.__name__}: the critic cannot take draws of 2 latents, .* that many"
    with pytest.raises(ShapeError, match=message):
        lb.fit(model, objective(critic), torch.randn(20, 5), epochs=1, progress=False)


@pytest.mark.parametrize("family", ["Gamma", "LogNormal", "Beta", "Laplace", "StudentT"])
def test_zero_inflation_of_a_density_is_refused_and_its_hurdle_is_trained(family):
    def make(wrapper):
        likelihood = getattr(lb, family)(lb.mlp(2, 8, 8))
        return lb.LatentModel(
            lb.MixturePrior(2, components=3),
            lb.StudentT(lb.mlp(4, 8, 4)),
            wrapper(likelihood, lb.mlp(2, 8, 4)),
        )

    x = 0.9 * torch.rand(20, 4) * (torch.rand(20, 4) < 0.6)
    with pytest.raises(UnsupportedError, match=r"^the likelihood's \w+ is not a .* use lb\.Hurdle"):
        lb.fit(make(lb.ZeroInflated), lb.ELBO(), x, steps=1, progress=False)
    model = make(lb.Hurdle)
    lb.fit(model, lb.IWAE(3, "dreg"), x, steps=2, progress=False)
    assert math.isfinite(lb.evaluate(model, lb.ELBO(), x).mean)


@pytest.mark.parametrize("network", [lambda: lb.mlp(2, 8, 6), lambda: nn.Linear(2, 6)])
def test_a_prior_whose_network_needs_an_input_says_what_to_use(network):
    model = make_model(lb.Gaussian(network()), lb.Gaussian(lb.mlp(5, 6)), 3)
    for use in (model.draw, lambda x: lb.fit(model, lb.ELBO(), x, steps=1, progress=False)):
        with pytest.raises(UnsupportedError, match=r"so use lb\.constant\(\.\.\.\) as its network"):
            use(torch.zeros(4, 5))


NOT_PARTS = {
    "a number": (8, "not 8"),
    "a class": (lb.StandardNormal, r"not the class StandardNormal; call it: StandardNormal\(...\)"),
    "a distribution": (torch.distributions.Normal(0.0, 1.0), "not the distribution itself, a Norm"),
    "nothing": (None, "not None"),
}


def make_layered(prior, posterior, likelihood):
    return lb.LayeredModel([prior], [posterior], likelihood)


def make_semi_supervised(prior, posterior, likelihood):
    return lb.SemiSupervised(prior, lb.mlp(4, 3), posterior, likelihood, categories=3)


@pytest.mark.parametrize("make", [lb.LatentModel, make_layered, make_semi_supervised])
@pytest.mark.parametrize("role", [0, 1, 2])
@pytest.mark.parametrize("what", NOT_PARTS)
def test_models_say_that_a_part_is_not_a_module(make, role, what):
    value, said = NOT_PARTS[what]
    parts = [lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8))]
    parts[role] = value
    with pytest.raises(SettingsError, match=f"must be a module, such as lb.*{said}"):
        make(*parts)


def fit_a_prior(prior, posterior, likelihood):
    vae = lb.LatentModel(lb.StandardNormal(2), posterior, likelihood)
    return lb.fit_prior(vae, prior, torch.rand(8, 4), epochs=1, progress=False)


@pytest.mark.parametrize("make", [lb.LatentModel, make_layered, make_semi_supervised, fit_a_prior])
def test_models_say_that_a_network_alone_is_not_a_prior(make):
    parts = lb.mlp(2, 2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8))
    with pytest.raises(
        UnsupportedError, match=r"the prior, a MLP, does not accept .* argument: 'x'"
    ):
        make(*parts).sample(3)


class FromField(lb.LatentModel):
    """A model whose own code gives the prior's network a field."""

    needs = ("u",)

    def prior_given(self, given):
        loc = self.prior(given["u"])
        return DiagonalNormal(loc, torch.zeros_like(loc))


def test_a_subclass_may_give_its_prior_an_input():
    parts = lb.mlp(3, 2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8))
    assert FromField(*parts).sample(5, u=torch.rand(5, 3)).shape == (5, 4)


class Broken(nn.Module):
    def forward(self):
        return torch.zeros(2) + "z"


def test_an_error_within_a_prior_is_its_own():
    vae = lb.LatentModel(Broken(), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8)))
    with pytest.raises(TypeError, match="unsupported operand"):
        vae.sample(3)


WRAPPERS = {
    "Gaussian: network": lb.Gaussian,
    "FullRankGaussian: network": lb.FullRankGaussian,
    "Bernoulli: network": lb.Bernoulli,
    "Categorical: network": lambda network: lb.Categorical(network, 3),
    "VectorQuantized: network": lambda network: lb.VectorQuantized(network, 3),
    "Given: part": lambda part: lb.Given(part, "label", 3),
    "Masked: part": lb.Masked,
    "LogInput: part": lb.LogInput,
    "Hurdle: part": lambda part: lb.Hurdle(part, lb.constant(3)),
    "ZeroInflated: gate": lambda gate: lb.ZeroInflated(lb.Poisson(lb.constant(3)), gate),
    "VampPrior: posterior": lambda posterior: lb.VampPrior(posterior, torch.rand(3, 4)),
    "SemiSupervised: classifier": lambda network: lb.SemiSupervised(
        lb.StandardNormal(2), network, nn.Identity(), nn.Identity(), 3
    ),
}


@pytest.mark.parametrize("where", WRAPPERS)
@pytest.mark.parametrize("value", [8, None, nn.Linear, len])
def test_conditionals_say_that_a_part_is_not_a_module(where, value):
    with pytest.raises(SettingsError, match=f"^{where} must be a module, such as lb"):
        WRAPPERS[where](value)


@pytest.mark.parametrize("parts", [3, nn.Identity(), [nn.Identity(), "z2"]])
def test_layers_are_lists_of_modules(parts):
    with pytest.raises(SettingsError, match=r"LayeredModel: priors.* must be a"):
        lb.LayeredModel(parts, [nn.Identity()], nn.Identity())


@pytest.mark.parametrize("kind", ["features", "states"])
def test_networks_of_layers_are_recommended_as_networks(kind):
    said = rf"LayeredModel: {kind}: that of z1 must be a module, such as lb\.mlp\(\.\.\.\), not 3"
    with pytest.raises(SettingsError, match=said):
        lb.LayeredModel([lb.StandardNormal(2)], [nn.Identity()], nn.Identity(), **{kind: [3]})


WRONG_SETTINGS = {
    "min_scale='x'": lambda: lb.Gaussian(lb.mlp(4, 6), min_scale="x"),
    "max_scale=None": lambda: lb.LowRankGaussian(lb.mlp(4, 9), 1, max_scale=None),
    "decay='x'": lambda: lb.VectorQuantized(lb.mlp(4, 6), 3, decay="x"),
    "levels=8": lambda: lb.FiniteScalarQuantized(lb.mlp(4, 6), levels=8),
    "dropout='x'": lambda: lb.mlp(4, 6, dropout="x"),
    "skip=1": lambda: lb.mlp(4, 6, skip=1),
    r"activation=\[\]": lambda: lb.mlp(4, 6, 3, activation=[]),
    "field=3": lambda: lb.Given(lb.Gaussian(lb.mlp(4, 6)), 3),
}


@pytest.mark.parametrize("said", WRONG_SETTINGS)
def test_settings_of_another_type_are_named(said):
    with pytest.raises(SettingsError, match=said):
        WRONG_SETTINGS[said]()


def test_a_scale_may_be_a_number_of_numpy():
    likelihood = lb.Gaussian(lb.mlp(4, 3), scale=np.float32(0.5), min_scale=np.float32(0.01))
    assert likelihood(torch.zeros(2, 4)).stddev.tolist() == [[0.5] * 3] * 2


def make_latent():
    return lb.LatentModel(
        lb.StandardNormal(3), lb.Gaussian(lb.mlp(4, 6)), lb.Gaussian(lb.mlp(3, 8))
    )


def make_two_layers():
    return lb.LayeredModel(
        [lb.Gaussian(lb.mlp(3, 12)), lb.StandardNormal(3)],
        [lb.Gaussian(lb.mlp(4, 12)), lb.Gaussian(lb.mlp(6, 6))],
        lb.Gaussian(lb.mlp(6, 8)),
    )


@pytest.mark.parametrize("make", [make_latent, make_two_layers])
def test_latents_to_decode_may_be_arrays_and_lists(make):
    model, z = make(), np.arange(6.0).reshape(2, 3)
    expected = model.decode(torch.from_numpy(z))
    assert torch.equal(model.decode(z), expected)
    assert torch.equal(model.decode(z.tolist()), expected)
    assert torch.equal(model.decode(pd.DataFrame(z)), expected)
    assert torch.equal(model.decode(list(torch.from_numpy(z))), expected)
    assert torch.equal(model.decode(z[::-1]), expected.flip(0))


@pytest.mark.parametrize("make", [make_latent, make_two_layers])
@pytest.mark.parametrize(
    ("z", "said"),
    [
        ([[0.0] * 3, [0.0, math.nan, 0.0]], "row 1 of the latents.* has the value nan"),
        (torch.full((1, 3), math.inf), "row 0 of the latents.* has the value inf"),
        (torch.zeros(0, 3), r"the latents.* of shape \(0, 3\) are empty"),
        (None, "latents.* cannot be read as an array of numbers"),
        ("latents.csv", "latents.* cannot be read as an array of numbers"),
    ],
)
def test_latents_that_cannot_be_decoded_are_refused(make, z, said):
    with pytest.raises(DataError, match=f"^decode: .*{said}"):
        make().decode(z)
