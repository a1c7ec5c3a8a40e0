"""Variational auto-encoders and variational inference, with bounds that are right to the last nat.

Importing this package does no work: torch is imported when the first name below is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Bernoulli": "conditionals",
    "Conditional": "conditionals",
    "Dataset": "data",
    "Draw": "models",
    "ELBO": "objectives",
    "Estimate": "evaluation",
    "Examples": "data",
    "Gaussian": "conditionals",
    "LatentModel": "models",
    "Model": "models",
    "Objective": "objectives",
    "Run": "training",
    "StandardNormal": "conditionals",
    "conv": "networks",
    "describable": "describe",
    "errors": "",
    "evaluate": "evaluation",
    "fit": "training",
    "flatten_leading": "networks",
    "load": "training",
    "load_data": "data",
    "mlp": "networks",
    "recipes": "",
    "save": "storage",
}

__all__ = [
    "ELBO",
    "Bernoulli",
    "Conditional",
    "Dataset",
    "Draw",
    "Estimate",
    "Examples",
    "Gaussian",
    "LatentModel",
    "Model",
    "Objective",
    "Run",
    "StandardNormal",
    "conv",
    "describable",
    "errors",
    "evaluate",
    "fit",
    "flatten_leading",
    "load",
    "load_data",
    "mlp",
    "recipes",
    "save",
]

if TYPE_CHECKING:
    from lowerbound import errors, recipes
    from lowerbound.conditionals import Bernoulli, Conditional, Gaussian, StandardNormal
    from lowerbound.data import Dataset, Examples, load_data
    from lowerbound.describe import describable
    from lowerbound.evaluation import Estimate, evaluate
    from lowerbound.models import Draw, LatentModel, Model
    from lowerbound.networks import conv, flatten_leading, mlp
    from lowerbound.objectives import ELBO, Objective
    from lowerbound.storage import save
    from lowerbound.training import Run, fit, load


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(f"lowerbound.{home}"), name) if home else import_module(f"lowerbound.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
