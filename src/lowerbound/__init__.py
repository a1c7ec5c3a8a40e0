"""Variational auto-encoders and variational inference, with bounds that are right to the last nat.

Importing this package does no work: torch is imported when the first name below is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "annealed_log_likelihood": "evaluation",
    "Bernoulli": "conditionals",
    "bidirectional": "evaluation",
    "ByVariable": "conditionals",
    "Conditional": "conditionals",
    "constant": "networks",
    "conv": "networks",
    "Dataset": "data",
    "describable": "describe",
    "Draw": "models",
    "ELBO": "objectives",
    "errors": "",
    "Estimate": "evaluation",
    "evaluate": "evaluation",
    "Examples": "data",
    "fit": "training",
    "flatten_leading": "networks",
    "full_rank": "conditionals",
    "FullRankGaussian": "conditionals",
    "Gaussian": "conditionals",
    "inference_gaps": "evaluation",
    "IWAE": "objectives",
    "latent_health": "evaluation",
    "LatentModel": "models",
    "load": "training",
    "load_data": "data",
    "log_likelihood": "evaluation",
    "LogJoint": "models",
    "low_rank": "conditionals",
    "LowRankGaussian": "conditionals",
    "mean_field": "conditionals",
    "mlp": "networks",
    "Model": "models",
    "Objective": "objectives",
    "paired_difference": "evaluation",
    "posterior_health": "evaluation",
    "Ramp": "objectives",
    "recipes": "",
    "Renyi": "objectives",
    "Run": "training",
    "save": "storage",
    "StandardNormal": "conditionals",
    "to_arviz": "evaluation",
    "Variable": "variables",
}

__all__ = [
    "ELBO",
    "IWAE",
    "Bernoulli",
    "ByVariable",
    "Conditional",
    "Dataset",
    "Draw",
    "Estimate",
    "Examples",
    "FullRankGaussian",
    "Gaussian",
    "LatentModel",
    "LogJoint",
    "LowRankGaussian",
    "Model",
    "Objective",
    "Ramp",
    "Renyi",
    "Run",
    "StandardNormal",
    "Variable",
    "annealed_log_likelihood",
    "bidirectional",
    "constant",
    "conv",
    "describable",
    "errors",
    "evaluate",
    "fit",
    "flatten_leading",
    "full_rank",
    "inference_gaps",
    "latent_health",
    "load",
    "load_data",
    "log_likelihood",
    "low_rank",
    "mean_field",
    "mlp",
    "paired_difference",
    "posterior_health",
    "recipes",
    "save",
    "to_arviz",
]

if TYPE_CHECKING:
    from lowerbound import errors, recipes
    from lowerbound.conditionals import (
        Bernoulli,
        ByVariable,
        Conditional,
        FullRankGaussian,
        Gaussian,
        LowRankGaussian,
        StandardNormal,
        full_rank,
        low_rank,
        mean_field,
    )
    from lowerbound.data import Dataset, Examples, load_data
    from lowerbound.describe import describable
    from lowerbound.evaluation import (
        Estimate,
        annealed_log_likelihood,
        bidirectional,
        evaluate,
        inference_gaps,
        latent_health,
        log_likelihood,
        paired_difference,
        posterior_health,
        to_arviz,
    )
    from lowerbound.models import Draw, LatentModel, LogJoint, Model
    from lowerbound.networks import constant, conv, flatten_leading, mlp
    from lowerbound.objectives import ELBO, IWAE, Objective, Ramp, Renyi
    from lowerbound.storage import save
    from lowerbound.training import Run, fit, load
    from lowerbound.variables import Variable


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lowerbound' has no attribute {name!r}")
    home = _HOMES[name]
    value = getattr(import_module(f"lowerbound.{home}"), name) if home else import_module(f"lowerbound.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
