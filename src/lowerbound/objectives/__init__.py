"""Objectives: from a draw to a bound for each example. They see neither networks nor data."""

from lowerbound.objectives.base import Objective
from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.factor import FactorVAE
from lowerbound.objectives.importance import IWAE, Renyi
from lowerbound.objectives.quantized import QuantizedELBO
from lowerbound.objectives.schedules import Ramp, Schedule
from lowerbound.objectives.supervised import SupervisedELBO

__all__ = [
    "ELBO",
    "IWAE",
    "FactorVAE",
    "Objective",
    "QuantizedELBO",
    "Ramp",
    "Renyi",
    "Schedule",
    "SupervisedELBO",
]
