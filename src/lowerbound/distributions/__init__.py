"""Distributions that torch lacks, or that are more exact or faster than torch's."""

from lowerbound.distributions.bernoulli import FactorialBernoulli
from lowerbound.distributions.categorical import FactorialCategorical
from lowerbound.distributions.divergence import (
    as_diagonal,
    closed_form_kl,
    closed_form_unit_kl,
    drawn,
)
from lowerbound.distributions.entries import (
    MaskedDistribution,
    check_independent_entries,
    entry_support,
    entrywise_log_prob,
    is_mass,
    support_of,
)
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.normal import DiagonalNormal, TriangularNormal, soft_clamp
from lowerbound.distributions.point_mass import PointMass
from lowerbound.distributions.points import natural_point, point_of
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
    "entry_support",
    "entrywise_log_prob",
    "is_mass",
    "natural_point",
    "point_of",
    "soft_clamp",
    "support_of",
]
