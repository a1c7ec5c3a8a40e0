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
    find_entry_support,
    entrywise_log_prob,
    is_mass,
    find_support,
)
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.normal import DiagonalNormal, TriangularNormal, soft_clamp
from lowerbound.distributions.point_mass import PointMass
from lowerbound.distributions.points import natural_point, choose_point
from lowerbound.distributions.vectors import Lebesgue, SideBySide

__all__ = [
    "DiagonalNormal",
    "FactorialBernoulli",
    "FactorialCategorical",
    "Lebesgue",
    "MaskedDistribution",
    "Mixture",
    "PointMass",
    "SideBySide",
    "TriangularNormal",
    "as_diagonal",
    "check_independent_entries",
    "closed_form_kl",
    "closed_form_unit_kl",
    "drawn",
    "find_entry_support",
    "entrywise_log_prob",
    "is_mass",
    "natural_point",
    "choose_point",
    "soft_clamp",
    "unwrap_independent",
    "find_support",
]
