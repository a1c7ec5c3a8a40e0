"""Standardisation of the data of a latent-variable model, by wrappers of its parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lowerbound.conditionals import Standardization, Standardized, StandardizedInput
from lowerbound.data.fields import OBSERVED
from lowerbound.runtime.devices import get_device, get_dtype


def standardize_parts(
    model: Any, encoder: nn.Module, x: Tensor, given: Mapping[str, Tensor]
) -> None:
    """Wrap encoder and likelihood of a model so that both see standardised data.

    A model that is standardised already stays as it is.

    Args:
        model: a model with the attribute ``likelihood``.
        encoder: the part of the model that receives the data, such as its posterior.
        x: data, ``[N, *event]``, from which the mean and the standard deviation are taken.
        given: the fields that the model needs or accepts, ``[N, ...]`` each.
    """
    if isinstance(model.likelihood, Standardized):
        return
    if OBSERVED in given:
        x = x.masked_fill(~given[OBSERVED], math.nan)
    standardization = Standardization(tuple(x.shape[1:])).to(get_device(model), get_dtype(model))
    standardization.measure(x)
    model.likelihood = Standardized(model.likelihood, standardization)
    _replace(model, encoder, StandardizedInput(encoder, standardization))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, also where parts share it, as a VampPrior does."""
    for module in list(model.modules()):
        for name, part in list(module.named_children()):
            if part is old and module is not new:
                setattr(module, name, new)
