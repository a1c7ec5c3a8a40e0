"""Modules that return distributions: priors, posteriors and likelihoods are of this one kind."""

from lowerbound.conditionals.autoregressive import Autoregressive
from lowerbound.conditionals.base import Conditional, Parametric, event_dims_of, networks_in
from lowerbound.conditionals.bernoulli import Bernoulli
from lowerbound.conditionals.binomial import Binomial
from lowerbound.conditionals.categorical import Categorical
from lowerbound.conditionals.code_prior import AutoregressivePrior, CodePrior
from lowerbound.conditionals.column_inputs import ColumnInputs
from lowerbound.conditionals.columns import Columns
from lowerbound.conditionals.counts import NegativeBinomial, Poisson
from lowerbound.conditionals.discretized import DiscretizedLogistic
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
from lowerbound.conditionals.heavy_tails import Laplace, StudentT
from lowerbound.conditionals.location_scale import LocationScale
from lowerbound.conditionals.log_input import LogInput
from lowerbound.conditionals.mixture import GaussianMixture, MixturePrior
from lowerbound.conditionals.one_hot import OneHot
from lowerbound.conditionals.ordinal import Ordinal
from lowerbound.conditionals.point import Point
from lowerbound.conditionals.positive import Gamma, LogNormal
from lowerbound.conditionals.quantized import FiniteScalarQuantized, VectorQuantized
from lowerbound.conditionals.self_masked import SelfMasked
from lowerbound.conditionals.sphere import PowerSpherical, SphereUniform
from lowerbound.conditionals.standardized import (
    Standardization,
    Standardized,
    StandardizedInput,
)
from lowerbound.conditionals.structured import ByVariable, Parts
from lowerbound.conditionals.unit_interval import Beta, ContinuousBernoulli
from lowerbound.conditionals.vamp import VampPrior
from lowerbound.conditionals.zeros import Hurdle, ZeroInflated

__all__ = [
    "Autoregressive",
    "AutoregressivePrior",
    "Bernoulli",
    "Beta",
    "Binomial",
    "ByVariable",
    "Categorical",
    "CodePrior",
    "ColumnInputs",
    "Columns",
    "Conditional",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FiniteScalarQuantized",
    "Flow",
    "FullRankGaussian",
    "Gamma",
    "Gaussian",
    "GaussianMixture",
    "Given",
    "Hurdle",
    "Laplace",
    "LocationScale",
    "LogInput",
    "LogNormal",
    "LowRankGaussian",
    "Masked",
    "MixturePrior",
    "NegativeBinomial",
    "OneHot",
    "Ordinal",
    "Parametric",
    "Parts",
    "Point",
    "Poisson",
    "PowerSpherical",
    "SelfMasked",
    "SphereUniform",
    "StandardNormal",
    "Standardization",
    "Standardized",
    "StandardizedInput",
    "StudentT",
    "VampPrior",
    "VectorQuantized",
    "ZeroInflated",
    "event_dims_of",
    "full_rank",
    "low_rank",
    "mean_field",
    "networks_in",
]
