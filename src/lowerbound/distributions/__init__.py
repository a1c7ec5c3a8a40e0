"""Distributions that torch lacks, or that are more exact or faster than torch's."""

from lowerbound.distributions.bernoulli import FactorialBernoulli
from lowerbound.distributions.categorical import FactorialCategorical
from lowerbound.distributions.divergence import (
    as_diagonal,
    closed_form_kl,
    closed_form_unit_kl,
    draw_samples,
)
from lowerbound.distributions.entries import (
    MaskedDistribution,
    check_independent_entries,
    entrywise_log_prob,
    find_entry_support,
    find_support,
    is_mass,
    unwrap_independent,
)
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.normal import DiagonalNormal, TriangularNormal, soft_clamp
from lowerbound.distributions.one_hot import (
    FactorialOneHot,
    RelaxedOneHot,
    StraightThroughOneHot,
)
from lowerbound.distributions.point_mass import PointMass
from lowerbound.distributions.points import choose_point, natural_point
from lowerbound.distributions.rescaled import Rescaled
from lowerbound.distributions.sphere import PowerSpherical, SphereUniform
from lowerbound.distributions.vectors import Lebesgue, SideBySide

__all__ = [
    "DiagonalNormal",
    "FactorialBernoulli",
    "FactorialCategorical",
    "FactorialOneHot",
    "Lebesgue",
    "MaskedDistribution",
    "Mixture",
    "PointMass",
    "PowerSpherical",
    "RelaxedOneHot",
    "Rescaled",
    "SideBySide",
    "SphereUniform",
    "StraightThroughOneHot",
    "TriangularNormal",
    "as_diagonal",
    "check_independent_entries",
    "choose_point",
    "closed_form_kl",
    "closed_form_unit_kl",
    "draw_samples",
    "entrywise_log_prob",
    "find_entry_support",
    "find_support",
    "is_mass",
    "natural_point",
    "soft_clamp",
    "unwrap_independent",
]
