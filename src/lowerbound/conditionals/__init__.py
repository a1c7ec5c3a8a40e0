"""Modules that return distributions: priors, posteriors and likelihoods are of this one kind."""

from lowerbound.conditionals.base import Conditional, Parametric, event_dims_of, networks_in
from lowerbound.conditionals.bernoulli import Bernoulli
from lowerbound.conditionals.categorical import Categorical
from lowerbound.conditionals.flow import Flow
from lowerbound.conditionals.gaussian import (
    FullRankGaussian,
    Gaussian,
    LowRankGaussian,
    StandardNormal,
    full_rank,
    low_rank,
    mean_field,
)
from lowerbound.conditionals.given import Given, Masked
from lowerbound.conditionals.mixture import GaussianMixture, MixturePrior
from lowerbound.conditionals.one_hot import OneHot
from lowerbound.conditionals.point import Point
from lowerbound.conditionals.sphere import PowerSpherical, SphereUniform
from lowerbound.conditionals.standardized import (
    Standardization,
    Standardized,
    StandardizedInput,
)
from lowerbound.conditionals.structured import ByVariable, Parts
from lowerbound.conditionals.vamp import VampPrior

__all__ = [
    "Bernoulli",
    "ByVariable",
    "Categorical",
    "Conditional",
    "Flow",
    "FullRankGaussian",
    "Gaussian",
    "GaussianMixture",
    "Given",
    "LowRankGaussian",
    "Masked",
    "MixturePrior",
    "OneHot",
    "Parametric",
    "Parts",
    "Point",
    "PowerSpherical",
    "SphereUniform",
    "StandardNormal",
    "Standardization",
    "Standardized",
    "StandardizedInput",
    "VampPrior",
    "event_dims_of",
    "full_rank",
    "low_rank",
    "mean_field",
    "networks_in",
]
