"""Mean-field variational inference by coordinate ascent, for models with exact updates."""

from lowerbound.ascent.base import Ascent, CoordinateAscent
from lowerbound.ascent.gaussian import KnownGaussian, MeanAndPrecision
from lowerbound.ascent.mixture import Assignments, GaussianMixture, NormalWishart
from lowerbound.ascent.regression import LinearRegression

__all__ = [
    "Ascent",
    "Assignments",
    "CoordinateAscent",
    "GaussianMixture",
    "KnownGaussian",
    "LinearRegression",
    "MeanAndPrecision",
    "NormalWishart",
]
