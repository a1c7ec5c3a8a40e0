"""Models: anything with a method ``draw``, and the results of one draw."""

from lowerbound.models.base import Model
from lowerbound.models.draw import Draw
from lowerbound.models.enumerated import EnumeratedModel
from lowerbound.models.generative import GenerativeModel
from lowerbound.models.groups import Latent, sample_posterior
from lowerbound.models.joint import LogJoint
from lowerbound.models.latent import LatentModel
from lowerbound.models.layered import LayeredModel
from lowerbound.models.plan import TrainingPlan
from lowerbound.models.sampling import Gradient
from lowerbound.models.semi_supervised import SemiSupervised
from lowerbound.models.table import TableModel

__all__ = [
    "Draw",
    "EnumeratedModel",
    "GenerativeModel",
    "Gradient",
    "Latent",
    "LatentModel",
    "LayeredModel",
    "LogJoint",
    "Model",
    "SemiSupervised",
    "TableModel",
    "TrainingPlan",
    "sample_posterior",
]
