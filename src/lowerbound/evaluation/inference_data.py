"""Draws from a posterior as ArviZ has them, for its plots and summaries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import lowerbound
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import LogJoint
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import whole_number


def to_arviz(
    model: Any,
    draws: int = 1000,
    *,
    resample: bool = False,
    data: Any = None,
    seed: int = 0,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """Draws from the posterior of a :class:`lowerbound.LogJoint` as ``arviz.InferenceData``.

    Its group ``posterior`` has a variable for each of the model's, ``[1, draws, *shape]``: one chain, for the draws are independent, so that R-hat
    and autocorrelations say nothing about the fit: see :func:`lowerbound.posterior_health` for that. Needs the extra ``arviz``.

    Args:
        model: a :class:`lowerbound.LogJoint`.
        draws: how many.
        resample: importance-resampled ones, see :meth:`lowerbound.LogJoint.posterior_sample`.
        data: all examples, where the log joint is given them in batches and draws are to be resampled.
        seed: of the draws.
        coords: names of the values along a dimension, as ArviZ takes them.
        dims: names of each variable's dimensions, as ArviZ takes them.

    Raises:
        UnsupportedError: for another model.
        SettingsError: if ArviZ is not installed, or there are no draws.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import Normal
        >>> model = lb.LogJoint(lambda mean: Normal(0.0, 1.0).log_prob(mean).sum(-1), lb.mean_field, {"mean": 3})
        >>> lb.to_arviz(model, 500, dims={"mean": ["group"]}).posterior["mean"].sizes  # doctest: +SKIP
        Frozen({'chain': 1, 'draw': 500, 'group': 3})
    """
    if not isinstance(model, LogJoint):
        raise UnsupportedError(
            f"to_arviz: a {type(model).__name__} has no posterior by name; it takes a lowerbound.LogJoint"
        )
    draws = whole_number("to_arviz: draws", draws)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # which it raises at import, about itself
            import arviz
    except ImportError:
        raise SettingsError(
            "to_arviz: ArviZ is not installed; pip install 'lowerbound[arviz]'"
        ) from None
    whole = model if data is None else model.with_all_data(data)
    with evaluating(model), seeded(seed, device_of(model)), torch.no_grad():
        values = whole.posterior_sample(draws, resample=resample, seed=seed)
    return arviz.from_dict(
        posterior={name: value[None].cpu().numpy() for name, value in values.items()},
        coords=None if coords is None else dict(coords),
        dims=None if dims is None else {name: list(given) for name, given in dims.items()},
        attrs={
            "inference_library": "lowerbound",
            "inference_library_version": lowerbound.__version__,
            "resampled": str(resample),
        },
    )
