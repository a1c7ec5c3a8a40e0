"""Draws from a posterior in the form that ArviZ reads, for its plots and summaries."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import lowerbound
from lowerbound.errors import SettingsError
from lowerbound.evaluation.checks import check_model
from lowerbound.models import LogJoint
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_whole_number


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

    Its group ``posterior`` has one variable for each variable of the model, ``[1, draws, *shape]``.
    All draws are one chain, because they are independent. So R-hat and autocorrelations say nothing
    about the fit; see :func:`lowerbound.posterior_health` for that. This function needs the extra
    ``arviz``.

    Args:
        model: a :class:`lowerbound.LogJoint`.
        draws: the number of draws.
        resample: whether to resample the draws by their importance weights, see
            :meth:`lowerbound.LogJoint.posterior_sample`.
        data: all examples, for a log joint that takes its data in batches; needed only with
            ``resample``.
        seed: of the draws.
        coords: the names of the values along a dimension, as ArviZ takes them.
        dims: the names of each variable's dimensions, as ArviZ takes them.

    Raises:
        UnsupportedError: for another model.
        SettingsError: if ArviZ is not installed, or ``draws`` is less than 1.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import Normal
        >>> model = lb.LogJoint(
        ...     lambda mean: Normal(0.0, 1.0).log_prob(mean).sum(-1), lb.mean_field, {"mean": 3}
        ... )
        >>> draws = lb.to_arviz(model, 500, dims={"mean": ["group"]})  # doctest: +SKIP
        >>> draws.posterior["mean"].sizes  # doctest: +SKIP
        Frozen({'chain': 1, 'draw': 500, 'group': 3})
    """
    model = check_model(
        "to_arviz", model, LogJoint, "only a log joint has one posterior over named variables"
    )
    draws = check_whole_number("to_arviz: draws", draws)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # ArviZ warns when it is imported
            import arviz
    except ImportError:
        raise SettingsError(
            "to_arviz: ArviZ is not installed; install it by pip install 'lowerbound[arviz]'"
        ) from None
    whole = model
    if data is not None:
        whole = model.with_all_data(data)
    with evaluating(model), seeded(seed, get_device(model)), torch.no_grad():
        values = whole.posterior_sample(draws, resample=resample, seed=seed)
    return arviz.from_dict(
        posterior={name: value[None].cpu().numpy() for name, value in values.items()},
        coords=dict(coords or {}),
        dims={name: list(given) for name, given in (dims or {}).items()},
        attrs={
            "inference_library": "lowerbound",
            "inference_library_version": lowerbound.__version__,
            "resampled": str(resample),
        },
    )
