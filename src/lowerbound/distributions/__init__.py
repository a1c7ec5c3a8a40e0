"""Distributions that torch lacks, or that are more exact or faster than torch's."""

from lowerbound.distributions.bernoulli import FactorialBernoulli
from lowerbound.distributions.categorical import FactorialCategorical, FactorialCodes
from lowerbound.distributions.cells import Cells
from lowerbound.distributions.codes import CodePoint, EmbeddedSequence, FactorialCodeVectors
from lowerbound.distributions.columns import RowDistribution, Units, choose_distributions
from lowerbound.distributions.continuous_bernoulli import (
    FactorialContinuousBernoulli,
    find_logit_of_mean,
)
from lowerbound.distributions.counts import FactorialNegativeBinomial, FactorialPoisson
from lowerbound.distributions.discretized import DiscretizedLogistics
from lowerbound.distributions.divergence import (
    as_diagonal,
    closed_form_kl,
    closed_form_unit_kl,
    draw_samples,
)
from lowerbound.distributions.entries import (
    MaskedDistribution,
    ReportingDistribution,
    check_independent_entries,
    entrywise_log_prob,
    learns_from_values,
    unwrap_independent,
)
from lowerbound.distributions.flow import NormalizingFlow
from lowerbound.distributions.gamma import Beta, Gamma
from lowerbound.distributions.hierarchy import Hierarchy, outline
from lowerbound.distributions.low_rank import LowRankNormal
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.normal import (
    DiagonalNormal,
    TriangularNormal,
    multiply_normals,
    shift_normal,
    soft_clamp,
)
from lowerbound.distributions.one_hot import (
    FactorialOneHot,
    RelaxedOneHot,
    StraightThroughOneHot,
)
from lowerbound.distributions.phases import FactorialPhases
from lowerbound.distributions.point_mass import PointMass, is_point
from lowerbound.distributions.points import choose_point, natural_point
from lowerbound.distributions.rescaled import Rescaled
from lowerbound.distributions.seasonal import SeasonalLogistic
from lowerbound.distributions.self_masked import (
    CodeOdds,
    MissingOdds,
    SelfMaskedDistribution,
)
from lowerbound.distributions.sequences import CodeSequence
from lowerbound.distributions.sphere import PowerSpherical, SphereUniform
from lowerbound.distributions.stirling import compute_stirling_remainder
from lowerbound.distributions.student import FactorialStudentT
from lowerbound.distributions.supports import (
    find_entry_support,
    find_support,
    has_point_masses,
    is_mass,
    lies_within,
)
from lowerbound.distributions.vectors import Lebesgue, SideBySide
from lowerbound.distributions.zeros import HurdleDistribution, ZeroInflatedDistribution

__all__ = [
    "Beta",
    "Cells",
    "CodeOdds",
    "CodePoint",
    "CodeSequence",
    "DiagonalNormal",
    "DiscretizedLogistics",
    "EmbeddedSequence",
    "FactorialBernoulli",
    "FactorialCategorical",
    "FactorialCodeVectors",
    "FactorialCodes",
    "FactorialContinuousBernoulli",
    "FactorialNegativeBinomial",
    "FactorialOneHot",
    "FactorialPhases",
    "FactorialPoisson",
    "FactorialStudentT",
    "Gamma",
    "Hierarchy",
    "HurdleDistribution",
    "Lebesgue",
    "LowRankNormal",
    "MaskedDistribution",
    "MissingOdds",
    "Mixture",
    "NormalizingFlow",
    "PointMass",
    "PowerSpherical",
    "RelaxedOneHot",
    "ReportingDistribution",
    "Rescaled",
    "RowDistribution",
    "SeasonalLogistic",
    "SelfMaskedDistribution",
    "SideBySide",
    "SphereUniform",
    "StraightThroughOneHot",
    "TriangularNormal",
    "Units",
    "ZeroInflatedDistribution",
    "as_diagonal",
    "check_independent_entries",
    "choose_distributions",
    "choose_point",
    "closed_form_kl",
    "closed_form_unit_kl",
    "compute_stirling_remainder",
    "draw_samples",
    "entrywise_log_prob",
    "find_entry_support",
    "find_logit_of_mean",
    "find_support",
    "has_point_masses",
    "is_mass",
    "is_point",
    "learns_from_values",
    "lies_within",
    "multiply_normals",
    "natural_point",
    "outline",
    "shift_normal",
    "soft_clamp",
    "unwrap_independent",
]
