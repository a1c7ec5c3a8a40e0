"""Chooses draws in proportion to their importance weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lowerbound.errors import NonFiniteError
from lowerbound.models.draw import Draw
from lowerbound.models.sampling import check_log_weights


def resample_by_weight(
    draw: Callable[[int], Draw], count: int, *, candidates: int, chunk: int
) -> Tensor:
    """Choose draws without replacement, in proportion to their importance weights.

    The chosen draws have the largest sum of log w and Gumbel noise (Efraimidis & Spirakis 2006),
    which can be found chunk by chunk.

    Args:
        draw: makes the given number of draws for one example.
        count: how many draws to return.
        candidates: how many draws to choose from.
        chunk: the number of draws to make at once.

    Returns:
        The draws, ``[count, J]``.

    Raises:
        NonFiniteError: if fewer candidates have a finite weight, or one has an infinite weight.
    """
    keys, kept, finite = torch.empty(0), torch.empty(0), 0
    for start in range(0, candidates, chunk):
        some = draw(min(chunk, candidates - start))
        log_w = check_log_weights(some.log_w[:, 0])
        finite += int(log_w.isfinite().sum())
        key = log_w - torch.empty_like(log_w).exponential_().log()
        keys = torch.cat([keys.to(key), key])
        kept = torch.cat([kept.reshape(-1, some.z.shape[-1]).to(some.z), some.z[:, 0]])
        best = keys.topk(min(count, len(keys))).indices
        keys, kept = keys[best], kept[best]
    if finite < count:
        raise NonFiniteError(
            f"posterior_sample: fewer than {count} of {candidates} draws have a finite log joint. "
            "Likely cause: the posterior has draws where the log joint is non-finite. Remedy: "
            "train it longer, or check the log joint",
            step=0,
            term="log_w",
            tensor="the log joint",
        )
    return kept
