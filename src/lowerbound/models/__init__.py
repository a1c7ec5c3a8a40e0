"""Models: anything with a ``draw``, and what one draw holds."""

from lowerbound.models.base import Model
from lowerbound.models.draw import Draw, Gradient
from lowerbound.models.joint import LogJoint
from lowerbound.models.latent import LatentModel
from lowerbound.models.plan import TrainingPlan

__all__ = ["Draw", "Gradient", "LatentModel", "LogJoint", "Model", "TrainingPlan"]
