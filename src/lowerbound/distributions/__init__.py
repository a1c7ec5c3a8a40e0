"""Distributions that torch lacks, or that need better numerics or fewer passes over memory than torch's."""

from lowerbound.distributions.bernoulli import FactorialBernoulli
from lowerbound.distributions.divergence import (
    as_diagonal,
    closed_form_kl,
    closed_form_unit_kl,
    drawn,
)
from lowerbound.distributions.mixture import Mixture
from lowerbound.distributions.normal import DiagonalNormal, TriangularNormal, soft_clamp
from lowerbound.distributions.vectors import Lebesgue, SideBySide

__all__ = [
    "DiagonalNormal",
    "FactorialBernoulli",
    "Lebesgue",
    "Mixture",
    "SideBySide",
    "TriangularNormal",
    "as_diagonal",
    "closed_form_kl",
    "closed_form_unit_kl",
    "drawn",
    "soft_clamp",
]
