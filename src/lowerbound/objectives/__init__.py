"""Objectives: from a draw to a bound for each example. They see neither networks nor data."""

from lowerbound.objectives.adversarial import AAE
from lowerbound.objectives.base import Objective
from lowerbound.objectives.dip import DIPVAE
from lowerbound.objectives.discrepancy import InfoVAE
from lowerbound.objectives.elbo import ELBO
from lowerbound.objectives.factor import FactorVAE
from lowerbound.objectives.importance import IWAE, Renyi
from lowerbound.objectives.penalised import PenalisedELBO, PenalisedReconstruction
from lowerbound.objectives.quantized import QuantizedELBO
from lowerbound.objectives.regularised import RAE
from lowerbound.objectives.schedules import Ramp, Schedule
from lowerbound.objectives.supervised import SupervisedELBO
from lowerbound.objectives.total_correlation import BetaTCVAE

__all__ = [
    "AAE",
    "DIPVAE",
    "ELBO",
    "IWAE",
    "RAE",
    "BetaTCVAE",
    "FactorVAE",
    "InfoVAE",
    "Objective",
    "PenalisedELBO",
    "PenalisedReconstruction",
    "QuantizedELBO",
    "Ramp",
    "Renyi",
    "Schedule",
    "SupervisedELBO",
]
