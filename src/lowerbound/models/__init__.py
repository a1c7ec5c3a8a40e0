"""Models: anything with a ``draw``, and what one draw holds."""

from lowerbound.models.base import (
    Model,
    batches,
    device_of,
    dtype_of,
    evaluating,
    examples_per_pass,
    fitting,
    gathered,
    rows_per_pass,
    seeded,
    synchronize,
    watching,
)
from lowerbound.models.draw import Draw, Gradient
from lowerbound.models.joint import LogJoint
from lowerbound.models.latent import LatentModel

__all__ = [
    "Draw",
    "Gradient",
    "LatentModel",
    "LogJoint",
    "Model",
    "batches",
    "device_of",
    "dtype_of",
    "evaluating",
    "examples_per_pass",
    "fitting",
    "gathered",
    "rows_per_pass",
    "seeded",
    "synchronize",
    "watching",
]
