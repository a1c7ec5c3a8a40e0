"""One dictionary of constructors for each concept, over which the property tests run.

A new entry costs one line.
"""

import torch
import zuko
from torch import nn

import lowerbound as lb
from lowerbound.conditionals import Standardization, Standardized
from lowerbound.data import Column, Schema
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.schema import make_table_examples
from lowerbound.recipes import RECIPES

IMAGE = (1, 9, 7)

NETWORKS = {
    "mlp without hidden layers": (lambda: lb.mlp(6, 4), (6,), (4,)),
    "mlp": (lambda: lb.mlp(6, 8, 4), (6,), (4,)),
    "deep mlp between shapes": (
        lambda: lb.mlp(IMAGE, 8, 8, 8, (2, 3, 3), activation="gelu"),
        IMAGE,
        (2, 3, 3),
    ),
    "mlp with a class as activation": (lambda: lb.mlp(6, 8, 4, activation=nn.PReLU), (6,), (4,)),
    "conv encoder": (lambda: lb.conv(IMAGE, 4, 8, 5, activation="tanh"), IMAGE, (5,)),
    "conv decoder": (lambda: lb.conv(5, 8, 4, (2, 9, 7)), (5,), (2, 9, 7)),
    "conv with strides 3 and 1": (
        lambda: lb.conv((3, 10, 11), 4, 4, 5, stride=(3, 1)),
        (3, 10, 11),
        (5,),
    ),
    "conv back with strides 1 and 3": (
        lambda: lb.conv(5, 4, 4, (3, 10, 11), stride=(1, 3)),
        (5,),
        (3, 10, 11),
    ),
    "conv with a hidden layer": (
        lambda: lb.conv((1, 64, 64), 2, 2, 2, 5, hidden=(8,)),
        (1, 64, 64),
        (5,),
    ),
    "gated mlp": (lambda: lb.mlp(6, 8, 8, 4, activation="gated"), (6,), (4,)),
    "normalised mlp": (lambda: lb.mlp(6, 8, 8, 4, norm="layer"), (6,), (4,)),
    "residual mlp": (lambda: lb.mlp(6, 8, 8, 9, 4, residual=True), (6,), (4,)),
    "residual, gated, normalised mlp": (
        lambda: lb.mlp(6, 8, 8, 4, activation="gated", residual=2, norm="layer"),
        (6,),
        (4,),
    ),
    "mlp with dropout": (lambda: lb.mlp(6, 8, 8, 4, dropout=0.3), (6,), (4,)),
    "mlp with a linear function added": (lambda: lb.mlp(6, 8, (4,), skip=True), (6,), (4,)),
    "residual mlp with dropout": (lambda: lb.mlp(6, 8, 4, residual=True, dropout=0.3), (6,), (4,)),
    "gated, normalised conv encoder": (
        lambda: lb.conv(IMAGE, 4, 8, 5, activation="gated", norm="group"),
        IMAGE,
        (5,),
    ),
    "gated, normalised conv decoder": (
        lambda: lb.conv(5, 8, 4, (2, 9, 7), activation="gated", norm="group"),
        (5,),
        (2, 9, 7),
    ),
    "residual conv encoder": (
        lambda: lb.conv(IMAGE, 4, 8, 5, activation="silu", residual=True, norm="group"),
        IMAGE,
        (5,),
    ),
    "residual conv decoder by resizing": (
        lambda: lb.conv(5, 8, 4, (6, 9, 7), activation="silu", residual=2, upsampling="resize"),
        (5,),
        (6, 9, 7),
    ),
    "residual, gated conv with strides 1 and 2": (
        lambda: lb.conv(IMAGE, 4, 8, 5, activation="gated", stride=(1, 2), residual=True),
        IMAGE,
        (5,),
    ),
    "conv of signals": (lambda: lb.conv((2, 21), 4, 8, 5, activation="tanh"), (2, 21), (5,)),
    "conv to signals": (
        lambda: lb.conv(5, 8, 4, (2, 21), stride=(2, 3), upsampling="resize"),
        (5,),
        (2, 21),
    ),
    "conv of volumes": (lambda: lb.conv((1, 5, 6, 7), 3, 4, 2), (1, 5, 6, 7), (2,)),
    "conv to volumes": (lambda: lb.conv(2, 4, 3, (2, 5, 6, 7)), (2,), (2, 5, 6, 7)),
    "residual conv of signals": (
        lambda: lb.conv((2, 21), 4, 8, 5, activation="silu", residual=True, norm="group"),
        (2, 21),
        (5,),
    ),
    "residual conv to volumes": (
        lambda: lb.conv(2, 4, 3, (2, 5, 6, 7), residual=True, upsampling="resize"),
        (2,),
        (2, 5, 6, 7),
    ),
    "conv to a smaller picture": (
        lambda: lb.conv(IMAGE, 4, 8, (3, 2, 1), activation="tanh"),
        IMAGE,
        (3, 2, 1),
    ),
    "conv from a smaller picture": (
        lambda: lb.conv((3, 2, 1), 8, 4, (2, 9, 7), activation="tanh"),
        (3, 2, 1),
        (2, 9, 7),
    ),
    "flatten_leading": (
        lambda: lb.flatten_leading(nn.Conv2d(1, 2, 3), IMAGE, (2, 7, 5)),
        IMAGE,
        (2, 7, 5),
    ),
    "embedding of codes": (lambda: lb.embed(5, 4, 3), (5,), (3, 5)),
}

# Networks whose inputs are codes, which have no gradient, and the number of their values.
OF_CODES = {"embedding of codes": 4}

# Two numbers, one of them with an atom, a count, and categories with an order and without.
COLUMNS = Schema(
    (
        Column("height", "real", centre=1.7, spread=0.1),
        Column("income", "positive", atoms=(0.0,), centre=7.0, high=1e6, has_missing=True),
        Column("visits", "count", has_missing=True),
        Column("answer", "ordinal", categories=(0, 1, 2), has_missing=True),
    )
)

# Times of several years, with weekdays and hours.
TIMES = Schema(
    (
        Column("load", "real"),
        Column(
            "time",
            "time",
            spread=5e6,
            low=0.0,
            high=1e8,
            season="year",
            cycles=("week", "day"),
        ),
    )
)

# What is given to each has the shape (4,).
CONDITIONALS = {
    "StandardNormal": (lambda: lb.StandardNormal(3), (3,)),
    "StandardNormal over images": (lambda: lb.StandardNormal((2, 3, 3)), (2, 3, 3)),
    "Gaussian": (lambda: lb.Gaussian(lb.mlp(4, 8, 6)), (3,)),
    "Gaussian over images": (lambda: lb.Gaussian(lb.mlp(4, 8, (2, 5, 4))), (1, 5, 4)),
    "Gaussian with fixed scale": (lambda: lb.Gaussian(lb.mlp(4, 3), scale=0.1), (3,)),
    "Gaussian with shared scale": (
        lambda: lb.Gaussian(lb.mlp(4, (1, 5, 4)), scale="shared"),
        (1, 5, 4),
    ),
    "Gaussian with elementwise scale": (
        lambda: lb.Gaussian(lb.mlp(4, (1, 5, 4)), scale="elementwise"),
        (1, 5, 4),
    ),
    "Gaussian with sigmoid mean": (lambda: lb.Gaussian(lb.mlp(4, 6), mean="sigmoid"), (3,)),
    "Gaussian of one's own network": (lambda: lb.Gaussian(nn.Linear(4, 6)), (3,)),
    "Gaussian with optimal scale": (
        lambda: lb.Gaussian(lb.mlp(4, (1, 5, 4)), scale="optimal"),
        (1, 5, 4),
    ),
    "Gaussian that depends on nothing": (lambda: lb.Gaussian(lb.constant(6)), (3,)),
    "FullRankGaussian": (lambda: lb.FullRankGaussian(lb.mlp(4, 8, 9)), (3,)),
    "LowRankGaussian": (lambda: lb.LowRankGaussian(lb.mlp(4, 8, 12), rank=2), (3,)),
    "Bernoulli that depends on nothing": (
        lambda: lb.Bernoulli(lb.constant(3, learned=False)),
        (3,),
    ),
    "Bernoulli": (lambda: lb.Bernoulli(lb.mlp(4, 8, (1, 5, 4))), (1, 5, 4)),
    "Categorical": (lambda: lb.Categorical(lb.mlp(4, 8, (6, 5, 4)), levels=6), (1, 5, 4)),
    "Categorical over vectors": (lambda: lb.Categorical(lb.mlp(4, 6), levels=2), (3,)),
    "Autoregressive": (lambda: lb.Autoregressive(lb.recurrent(4, 8, (5, 3)), end=0), (5,)),
    "Autoregressive by attention": (
        lambda: lb.Autoregressive(lb.attention(4, 8, (5, 3), heads=2)),
        (5,),
    ),
    "Laplace": (lambda: lb.Laplace(lb.mlp(4, 8, (2, 5, 4))), (1, 5, 4)),
    "StudentT": (lambda: lb.StudentT(lb.mlp(4, 8, 6)), (3,)),
    "StudentT with fixed degrees": (lambda: lb.StudentT(lb.mlp(4, 3), 9.0, scale="shared"), (3,)),
    "LogNormal": (lambda: lb.LogNormal(lb.mlp(4, 3), scale=0.2), (3,)),
    "Gamma": (lambda: lb.Gamma(lb.mlp(4, 8, (2, 5, 4))), (1, 5, 4)),
    "Beta": (lambda: lb.Beta(lb.mlp(4, 8, (2, 5, 4))), (1, 5, 4)),
    "ContinuousBernoulli": (lambda: lb.ContinuousBernoulli(lb.mlp(4, 8, (1, 5, 4))), (1, 5, 4)),
    "Categorical over codes": (
        lambda: lb.Categorical(lb.mlp(4, 12), levels=4, codes=True),
        (3,),
    ),
    "Binomial": (lambda: lb.Binomial(lb.mlp(4, 8, (1, 5, 4)), trials=3), (1, 5, 4)),
    "Ordinal": (lambda: lb.Ordinal(lb.mlp(4, 3), levels=4), (3,)),
    "Ordinal with shared thresholds": (
        lambda: lb.Ordinal(lb.mlp(4, (1, 5, 4)), levels=2, thresholds="shared"),
        (1, 5, 4),
    ),
    "DiscretizedLogistic": (lambda: lb.DiscretizedLogistic(lb.mlp(4, (2, 5, 4))), (1, 5, 4)),
    "DiscretizedLogistic with three components": (
        lambda: lb.DiscretizedLogistic(lb.mlp(4, 18), levels=5, components=3),
        (2,),
    ),
    "Poisson": (lambda: lb.Poisson(lb.mlp(4, (1, 5, 4))), (1, 5, 4)),
    "NegativeBinomial": (lambda: lb.NegativeBinomial(lb.mlp(4, (2, 5, 4))), (1, 5, 4)),
    "NegativeBinomial with shared dispersion": (
        lambda: lb.NegativeBinomial(lb.mlp(4, 3), dispersion="shared"),
        (3,),
    ),
    "NegativeBinomial with elementwise dispersion": (
        lambda: lb.NegativeBinomial(lb.mlp(4, 3), dispersion="elementwise"),
        (3,),
    ),
    "NegativeBinomial with shares": (
        lambda: lb.NegativeBinomial(lb.mlp(4, (2, 5, 4)), shares=True),
        (1, 5, 4),
    ),
    "Poisson with shares": (lambda: lb.Poisson(lb.mlp(4, 3), shares=True), (3,)),
    "NegativeBinomial with fixed dispersion": (
        lambda: lb.NegativeBinomial(lb.mlp(4, 3), dispersion=2.0),
        (3,),
    ),
    "ZeroInflated": (
        lambda: lb.ZeroInflated(lb.NegativeBinomial(lb.mlp(4, 6)), lb.mlp(4, 3)),
        (3,),
    ),
    "Hurdle of counts": (
        lambda: lb.Hurdle(lb.NegativeBinomial(lb.mlp(4, (2, 5, 4))), lb.constant((1, 5, 4))),
        (1, 5, 4),
    ),
    "Hurdle of a density": (lambda: lb.Hurdle(lb.Gaussian(lb.mlp(4, 6)), lb.mlp(4, 3)), (3,)),
    "Point": (lambda: lb.Point(lb.mlp(4, 3)), (3,)),
    "LogInput": (lambda: lb.LogInput(lb.Gaussian(lb.mlp(4, 6))), (3,)),
    "Masked": (lambda: lb.Masked(lb.Gaussian(lb.mlp(4, 6))), (3,)),
    "Standardized": (
        lambda: Standardized(lb.Gaussian(lb.mlp(4, 6)), Standardization(3)),
        (3,),
    ),
    "VectorQuantized": (lambda: lb.VectorQuantized(lb.mlp(4, 8, (3, 2)), codes=5), (3, 2)),
    "VectorQuantized in stages": (
        lambda: lb.VectorQuantized(lb.mlp(4, 8, 3), codes=5, stages=2, decay=None),
        (3,),
    ),
    "FiniteScalarQuantized": (
        lambda: lb.FiniteScalarQuantized(lb.mlp(4, 8, (3, 2)), levels=(4, 3, 2)),
        (3, 2),
    ),
    "CodePrior": (
        lambda: lb.CodePrior(lb.VectorQuantized(lb.mlp(4, (3, 2)), codes=5, stages=2)),
        (3, 2),
    ),
    "CodePrior that is learned": (
        lambda: lb.CodePrior(
            lb.FiniteScalarQuantized(lb.mlp(4, (3, 2)), levels=(4, 3, 2)), learned=True
        ),
        (3, 2),
    ),
    "AutoregressivePrior": (
        lambda: lb.AutoregressivePrior(
            lb.VectorQuantized(lb.mlp(4, (3, 2)), codes=5, stages=2), lb.recurrent(1, 8, (4, 5))
        ),
        (3, 2),
    ),
    "Flow": (lambda: lb.Flow("nsf", 3, context=4, transforms=2), (3,)),
    "Flow that depends on nothing": (lambda: lb.Flow("MAF", 3, hidden_features=(8,)), (3,)),
    "Flow, inverse autoregressive": (lambda: lb.Flow("iaf", 3, context=4, transforms=2), (3,)),
    "MixturePrior": (lambda: lb.MixturePrior(3, components=4), (3,)),
    "MixturePrior over images": (lambda: lb.MixturePrior((2, 3, 3), components=4), (2, 3, 3)),
    "GaussianMixture": (lambda: lb.GaussianMixture(lb.mlp(4, 8, 14), components=2), (3,)),
    "GaussianMixture that depends on nothing": (
        lambda: lb.GaussianMixture(lb.constant(14, spread=1.0), components=2),
        (3,),
    ),
    "SphereUniform": (lambda: lb.SphereUniform(3), (3,)),
    "PowerSpherical": (lambda: lb.PowerSpherical(lb.mlp(4, 8, 4)), (3,)),
    "PowerSpherical that depends on nothing": (lambda: lb.PowerSpherical(lb.constant(4)), (3,)),
    "OneHot": (lambda: lb.OneHot(lb.mlp(4, 8, (3, 5))), (3, 5)),
    "OneHot that depends on nothing": (lambda: lb.OneHot(lb.constant((3, 5))), (3, 5)),
    "OneHot, straight-through": (
        lambda: lb.OneHot(lb.mlp(4, 8, (3, 5)), "straight-through"),
        (3, 5),
    ),
    "OneHot, relaxed": (lambda: lb.OneHot(lb.mlp(4, 8, (3, 5)), "relaxed", 0.5), (3, 5)),
    "VampPrior": (lambda: lb.VampPrior(lb.Gaussian(lb.mlp(5, 6)), torch.rand(7, 5)), (3,)),
    "VampPrior of a full-rank posterior": (
        lambda: lb.VampPrior(lb.FullRankGaussian(lb.mlp(5, 9)), torch.rand(7, 5)),
        (3,),
    ),
    "VampPrior of a low-rank posterior": (
        lambda: lb.VampPrior(lb.LowRankGaussian(lb.mlp(5, 9), rank=1), torch.rand(7, 5)),
        (3,),
    ),
    "Columns": (lambda: lb.Columns(lb.mlp(4, 10), COLUMNS), (5,)),
    "Columns of times": (lambda: lb.Columns(lb.mlp(4, 41), TIMES), (4,)),
    "SelfMasked": (lambda: lb.SelfMasked(lb.Columns(lb.mlp(4, 10), COLUMNS)), (5,)),
    "VampPrior of binary latents": (
        lambda: lb.VampPrior(lb.Bernoulli(lb.mlp(5, 3)), torch.rand(7, 5)),
        (3,),
    ),
}

# Whatever they are given, they ignore.
UNCONDITIONAL = {
    name
    for name in CONDITIONALS
    if name.startswith(
        (
            "StandardNormal",
            "VampPrior",
            "MixturePrior",
            "SphereUniform",
            "CodePrior",
            "AutoregressivePrior",
        )
    )
    or "on nothing" in name
}

# Mean and variance have no closed form.
WITHOUT_MOMENTS = {
    name
    for name in CONDITIONALS
    if name.startswith(("Flow", "Autoregressive")) or name.endswith("relaxed")
}

# What is given to each has the shape (4,). The label is below 3, the size is a number, and the
# exposure a positive one.
CONDITIONALS_OF_A_FIELD = {
    "Gaussian": lambda: lb.Given(lb.Gaussian(lb.mlp(7, 8, 6)), "label", categories=3),
    "number": lambda: lb.Given(lb.Bernoulli(lb.mlp(5, 8, 3)), "size"),
    "two fields": lambda: lb.Given(
        lb.Given(lb.Gaussian(lb.mlp(8, 6)), "label", categories=3), "size"
    ),
    "exposure": lambda: lb.Given(lb.NegativeBinomial(lb.mlp(5, 6), exposure=True), "size"),
    "zero-inflated exposure": lambda: lb.Given(
        lb.ZeroInflated(lb.Poisson(lb.mlp(5, 3), exposure=True), lb.mlp(5, 3)), "size"
    ),
    "masked": lambda: lb.Masked(lb.Given(lb.Gaussian(lb.mlp(7, 6)), "label", categories=3)),
    "given masked": lambda: lb.Given(lb.Masked(lb.Gaussian(lb.mlp(7, 6))), "label", categories=3),
    "point": lambda: lb.Given(lb.Point(lb.mlp(7, 3)), "label", categories=3),
    "mixture": lambda: lb.Given(lb.GaussianMixture(lb.mlp(7, 14), 2), "label", categories=3),
    "sphere": lambda: lb.Given(lb.PowerSpherical(lb.mlp(7, 4)), "label", categories=3),
    "flow": lambda: lb.Given(lb.Flow("nsf", 3, context=7, transforms=1), "label", categories=3),
}

OBJECTIVES = {
    "ELBO": lb.ELBO,
    "ELBO, 7 samples": lambda: lb.ELBO(samples=7),
    "ELBO, estimator A": lambda: lb.ELBO(samples=3, kl="sampled"),
    "ELBO, estimator B": lambda: lb.ELBO(samples=3, kl="closed-form"),
    "ELBO, sticking the landing": lambda: lb.ELBO(samples=3, gradient="sticking-the-landing"),
    "ELBO, score function": lambda: lb.ELBO(samples=3, gradient="score-function"),
    "ELBO, sampled score function": lambda: lb.ELBO(
        samples=3, kl="sampled", gradient="score-function"
    ),
    "ELBO, beta": lambda: lb.ELBO(beta=4.0),
    "ELBO, warm-up": lambda: lb.ELBO(beta=lb.Ramp(0.0, 1.0, epochs=2)),
    "ELBO, capacity": lambda: lb.ELBO(beta=10.0, capacity=lb.Ramp(0.0, 5.0, steps=3)),
    "IWAE": lambda: lb.IWAE(5),
    "IWAE, sticking the landing": lambda: lb.IWAE(5, "sticking-the-landing"),
    "IWAE, dreg": lambda: lb.IWAE(5, "dreg"),
    "IWAE, score function": lambda: lb.IWAE(5, "score-function"),
    "MIWAE": lambda: lb.IWAE(6, groups=3),
    "MIWAE, score function": lambda: lb.IWAE(6, "score-function", groups=3),
    "PIWAE": lambda: lb.IWAE(6, encoder_groups=3),
    "PIWAE, dreg": lambda: lb.IWAE(6, "dreg", encoder_groups=3),
    "CIWAE": lambda: lb.IWAE(6, elbo_weight=0.05),
    "Renyi": lambda: lb.Renyi(0.5, 4),
    "Renyi, dreg": lambda: lb.Renyi(0.5, 4, "dreg"),
    "Renyi above one": lambda: lb.Renyi(2.0, 4),
    "BetaTCVAE": lambda: lb.BetaTCVAE(beta=lb.Ramp(1.0, 6.0, steps=3), size=60, samples=2),
    "DIPVAE I": lambda: lb.DIPVAE("I", diagonal=100.0),
    "DIPVAE II": lambda: lb.DIPVAE("II", samples=3),
    "InfoVAE": lambda: lb.InfoVAE(alpha=0.5, weight=10.0, samples=2),
    "InfoVAE without a rate": lambda: lb.InfoVAE(1.0, 10.0, "rbf", scales=(0.5, 1)),
    "RAE": lambda: lb.RAE(weight=0.1),
    "RAE, gradient penalty": lambda: lb.RAE(0.1, gradient_penalty=0.5, samples=2),
}

# Those with a critic, which depends on the number of units of z, and those for some models only.
OTHER_OBJECTIVES = {
    "FactorVAE": lambda units: lb.FactorVAE(lb.mlp(units, 8, 1)),
    "AAE": lambda units: lb.AAE(lb.mlp(units, 8, 1)),
    "QuantizedELBO": lambda units: lb.QuantizedELBO(),
    "SupervisedELBO": lambda units: lb.SupervisedELBO(),
}

# The reasons for which an objective refuses some posteriors. All others take every model.
_DEPENDS = "depends on other latents"
_POINT = "all probability at one point"
REASONS = {
    "ELBO, estimator B": "no closed-form KL is registered for",
    "BetaTCVAE": f"entries of a .* are not independent|which has no density|{_DEPENDS}",
    "DIPVAE I": f"mean of a .* is not known in closed form|{_DEPENDS}",
    "DIPVAE II": f"mean of a .* is not known|entries of a .* are not independent|{_DEPENDS}",
    "InfoVAE": f"a prior {_DEPENDS}",
    "InfoVAE without a rate": f"a prior {_DEPENDS}",
    "FactorVAE": f"cannot be independent of each other|{_DEPENDS}",
    "AAE": f"a prior {_DEPENDS}",
    "QuantizedELBO": "for a posterior with a learned codebook",
    "SupervisedELBO": "for a model that classifies",
} | {name: _POINT for name in OBJECTIVES if name.endswith(("dreg", "score function"))}


def _vae(posterior=None, prior=None, likelihood=None, shape=IMAGE, latent=2):
    return lb.LatentModel(
        prior or lb.StandardNormal(latent),
        posterior or lb.Gaussian(lb.mlp(shape, 16, 2 * latent, activation="tanh")),
        likelihood or lb.Gaussian(lb.mlp(latent, 16, (2, *shape[1:]), activation="tanh")),
    )


def _with_vamp_prior():
    posterior = lb.Gaussian(lb.mlp(IMAGE, 16, 4, activation="tanh"))
    return _vae(posterior, lb.VampPrior(posterior, torch.rand(5, *IMAGE)))


def _with_standardized_data():
    model = _vae()
    model.standardize(torch.rand(20, *IMAGE))
    return model


def _with_codes(draws, draws_of_prior):
    return _vae(
        lb.OneHot(lb.mlp(IMAGE, 16, (3, 4), activation="tanh"), draws),
        lb.OneHot(lb.constant((3, 4)), draws_of_prior),
        lb.Gaussian(lb.mlp((3, 4), 16, (2, 9, 7), activation="tanh")),
    )


def _layered(inference="bottom up", likelihood=None):
    """Two layers of 3 and 2 units, with every way to merge what is above."""
    priors = [lb.Gaussian(lb.mlp(2, 8, 6)), lb.StandardNormal(2)]
    p = likelihood or lb.Gaussian(lb.mlp(3, (2, 9, 7), activation="tanh"))
    if inference == "bottom up":
        posteriors = [lb.Gaussian(lb.mlp(IMAGE, 8, 6)), lb.Gaussian(lb.mlp(3, 8, 4))]
        return lb.LayeredModel(priors, posteriors, p)
    features = [lb.mlp(IMAGE, 8, 5), lb.mlp(5, 8, 5)]
    inputs, states = {"product": 5}.get(inference, 7), None
    if inference == "residual":
        priors = [lb.Gaussian(lb.mlp(4, 6)), lb.StandardNormal(2)]
        states, inputs = [lb.mlp(4 + 3, 8, 3), lb.mlp(2, 8, 4)], 9
    posteriors = [lb.Gaussian(lb.mlp(inputs, 6)), lb.Gaussian(lb.mlp(5, 4))]
    return lb.LayeredModel(priors, posteriors, p, features=features, states=states, merge=inference)


def _coded(posterior, learned=False):
    decoder = lb.Gaussian(lb.mlp((3, 2, 2), (2, 9, 7), activation="tanh"))
    return _vae(posterior, lb.CodePrior(posterior, learned), decoder)


class Flatten(nn.Module):
    """A flow takes vectors; this gives it an image."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x):
        return self.flow(x.flatten(1))


# All take images of shape IMAGE, binary where the name says so.
MODELS = {
    "Gaussian": _vae,
    "fixed scale": lambda: _vae(likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale=0.3)),
    "shared scale": lambda: _vae(likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale="shared")),
    "elementwise scale": lambda: _vae(
        likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale="elementwise", mean="sigmoid")
    ),
    "optimal scale": lambda: _vae(likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale="optimal")),
    "Laplace": lambda: _vae(
        lb.Laplace(lb.mlp(IMAGE, 16, 4)), likelihood=lb.Laplace(lb.mlp(2, 16, (2, 9, 7)))
    ),
    "StudentT": lambda: _vae(
        lb.StudentT(lb.mlp(IMAGE, 16, 4)), likelihood=lb.StudentT(lb.mlp(2, 16, (2, 9, 7)))
    ),
    "log-normal": lambda: _vae(likelihood=lb.LogNormal(lb.mlp(2, IMAGE), scale="elementwise")),
    "gamma": lambda: _vae(likelihood=lb.Gamma(lb.mlp(2, IMAGE), scale="shared")),
    "beta": lambda: _vae(likelihood=lb.Beta(lb.mlp(2, 16, (2, 9, 7)))),
    "continuous Bernoulli": lambda: _vae(likelihood=lb.ContinuousBernoulli(lb.mlp(2, 16, IMAGE))),
    "binary": lambda: _vae(likelihood=lb.Bernoulli(lb.mlp(2, 16, IMAGE))),
    "binary, by levels": lambda: _vae(likelihood=lb.Categorical(lb.mlp(2, (2, 9, 7)), levels=2)),
    "standardized": _with_standardized_data,
    "binary, by logistics": lambda: _vae(
        likelihood=lb.DiscretizedLogistic(lb.mlp(2, (2, 9, 7)), levels=2)
    ),
    "counts": lambda: _vae(likelihood=lb.NegativeBinomial(lb.mlp(2, IMAGE), "elementwise")),
    "zero-inflated counts": lambda: _vae(
        likelihood=lb.ZeroInflated(lb.NegativeBinomial(lb.mlp(2, (2, 9, 7))), lb.mlp(2, IMAGE))
    ),
    "hurdle counts": lambda: _vae(
        likelihood=lb.Hurdle(lb.Poisson(lb.mlp(2, IMAGE)), lb.mlp(2, IMAGE))
    ),
    "counts of successes": lambda: _vae(likelihood=lb.Binomial(lb.mlp(2, IMAGE), trials=3)),
    "counts of categories": lambda: _vae(likelihood=lb.Ordinal(lb.mlp(2, IMAGE), levels=4)),
    "masked": lambda: _vae(likelihood=lb.Masked(lb.Gaussian(lb.mlp(2, IMAGE), scale=0.3))),
    "convolutional": lambda: _vae(
        lb.Gaussian(lb.conv(IMAGE, 4, 8, 4)), likelihood=lb.Gaussian(lb.conv(2, 8, 4, (2, 9, 7)))
    ),
    "own networks": lambda: _vae(
        lb.Gaussian(nn.Sequential(nn.Flatten(), nn.Linear(63, 4))),
        likelihood=lb.Gaussian(
            lb.flatten_leading(
                nn.Sequential(nn.Linear(2, 126), nn.Unflatten(1, (2, 9, 7))), 2, (2, 9, 7)
            )
        ),
    ),
    "image latents": lambda: _vae(
        lb.Gaussian(lb.mlp(IMAGE, (4, 2, 2))),
        lb.StandardNormal((2, 2, 2)),
        lb.Gaussian(lb.mlp((2, 2, 2), (2, 9, 7))),
    ),
    "full rank posterior": lambda: _vae(lb.FullRankGaussian(lb.mlp(IMAGE, 16, 5))),
    "low rank posterior": lambda: _vae(lb.LowRankGaussian(lb.mlp(IMAGE, 16, 6), rank=1)),
    "learned prior": lambda: _vae(prior=lb.Gaussian(lb.constant(4))),
    "Flow prior": lambda: _vae(prior=lb.Flow("nsf", 2, transforms=1, hidden_features=(8,))),
    "Flow posterior": lambda: _vae(
        lb.Flow("maf", 2, context=IMAGE, transforms=2, hidden_features=(8,))
    ),
    "VampPrior": _with_vamp_prior,
    "mixture prior": lambda: _vae(prior=lb.MixturePrior(2, components=3)),
    "mixture posterior": lambda: _vae(
        lb.GaussianMixture(lb.mlp(IMAGE, 16, 15, activation="tanh"), components=3)
    ),
    "sphere": lambda: _vae(
        lb.PowerSpherical(lb.mlp(IMAGE, 16, 3, activation="tanh")), lb.SphereUniform(2)
    ),
    "straight-through codes": lambda: _with_codes("straight-through", "exact"),
    "relaxed codes": lambda: _with_codes("relaxed", "relaxed"),
    "inverse autoregressive flow posterior": lambda: _vae(
        lb.Flow("iaf", 2, context=IMAGE, transforms=2, hidden_features=(8,))
    ),
    "layered, bottom up": _layered,
    "layered, binary": lambda: _layered(likelihood=lb.Bernoulli(lb.mlp(3, IMAGE))),
    "layered, concatenated": lambda: _layered("concatenate"),
    "layered, ladder": lambda: _layered("product"),
    "layered, states": lambda: _layered("residual"),
    "codes": lambda: _coded(lb.VectorQuantized(lb.mlp(IMAGE, 8, (3, 2, 2)), codes=7)),
    "codes in stages": lambda: _coded(
        lb.VectorQuantized(lb.mlp(IMAGE, 8, (3, 2, 2)), codes=5, stages=2), learned=True
    ),
    "codes on a grid": lambda: _coded(
        lb.FiniteScalarQuantized(lb.mlp(IMAGE, 8, (3, 2, 2)), levels=(4, 3, 2))
    ),
    "flow prior": lambda: _vae(prior=zuko.flows.NSF(2, transforms=1, hidden_features=(8,))),
    "flow posterior": lambda: _vae(
        Flatten(zuko.flows.MAF(2, 63, transforms=2, hidden_features=(8,)))
    ),
}


def _enumerate():
    model = lb.EnumeratedModel(
        lb.OneHot(lb.constant((2, 3))),
        lb.OneHot(lb.mlp(4, (2, 3))),
        lb.Gaussian(lb.mlp((2, 3), 8)),
    )
    return model, lb.Examples.of(torch.rand(6, 4))


def _classify():
    model = lb.SemiSupervised(
        lb.StandardNormal(2),
        classifier=lb.mlp(4, 8, 3),
        posterior=lb.Given(lb.Gaussian(lb.mlp(4 + 3, 4)), "y", categories=3),
        likelihood=lb.Given(lb.Gaussian(lb.mlp(2 + 3, 8)), "y", categories=3),
        categories=3,
    )
    return model, lb.Examples(torch.rand(6, 4), labels=torch.tensor([0, 1, 2, -1, -1, -1]))


def _tabulate():
    table = torch.randn(6, 3).numpy()
    table[::3, 2] = float("nan")
    examples = make_table_examples(table, infer_schema(open_table(table)))
    small = {"latent": 2, "hidden": 8, "layers": 1}
    return RECIPES["table"].build(examples, small)[0], examples


# Of data that are not images: the model and its examples.
OTHER_MODELS = {"enumerated": _enumerate, "semi-supervised": _classify, "table": _tabulate}


def examples_for(recipe) -> lb.Examples:
    """Ten small examples of the kind that a recipe takes."""
    draw = torch.Generator().manual_seed(0)
    if recipe.kind == "codes":
        return lb.Examples(torch.randint(3, (10, 6), generator=draw), kind="codes", levels=3)
    if recipe.name in ("table", "missing-not-at-random"):
        table = torch.randn(10, 6, generator=draw).numpy()
        table[::3, 2] = float("nan")
        return make_table_examples(table, infer_schema(open_table(table)))
    if recipe.kind == "counts":
        return lb.Examples(torch.randint(1, 9, (10, 6), generator=draw), kind="counts")
    pixels = (torch.rand(10, 1, 8, 8, generator=draw) * 255).byte()
    grey = lb.Examples(pixels, levels=256, labels=torch.arange(10))
    return grey.prepare(recipe.pixels)


# Their posteriors are points, so the seed of an evaluation changes nothing.
WITHOUT_NOISE = {name for name in MODELS if name.startswith("codes")}


def images(model_name: str, count: int = 11) -> torch.Tensor:
    """Images that the model of that name can take: binary, counts up to 3, or grey."""
    grey = torch.rand(count, *IMAGE, generator=torch.Generator().manual_seed(1))
    if "binary" in model_name:
        return (grey > 0.5).float()
    if "counts" in model_name:
        return (4 * grey).floor()
    return grey
