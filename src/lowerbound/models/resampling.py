"""Chooses draws in proportion to their importance weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowerbound.errors import NonFiniteError
from lowerbound.models.draw import Draw
from lowerbound.models.sampling import check_log_weights


def resample_by_weight(
    draw: Callable[[int], Draw], count: int, *, candidates: int, chunk: int
) -> Tensor:
    """Choose draws in proportion to their importance weights, with replacement.

    The expected number of copies of a draw is ``count`` times its normalised weight. Candidates are
    made chunk by chunk. After each chunk ``count`` of them are kept, and share the weight of all
    candidates so far, so memory does not grow with the number of candidates.

    Args:
        draw: makes the given number of draws for one example.
        count: how many draws to return.
        candidates: how many draws to choose from.
        chunk: the number of draws to make at once.

    Returns:
        The draws in random order, ``[count, J]``.

    Raises:
        NonFiniteError: if fewer candidates have a finite weight, or one has an infinite weight.
    """
    kept, kept_log_w, finite = torch.empty(0), torch.empty(0), 0
    for start in range(0, candidates, chunk):
        some = draw(min(chunk, candidates - start))
        log_w = check_log_weights(some.log_w[:, 0])
        finite += int(log_w.isfinite().sum())
        kept = torch.cat([kept.reshape(-1, some.z.shape[-1]).to(some.z), some.z[:, 0]])
        log_w = torch.cat([kept_log_w.to(log_w), log_w])
        total = log_w.logsumexp(0)
        if not bool(total.isfinite()):
            kept, kept_log_w = kept[:0], log_w[:0]
            continue
        kept = kept[choose_systematically(log_w, count)]
        kept_log_w = (total - math.log(count)).expand(count)
    if finite < count:
        raise NonFiniteError(
            f"posterior_sample: fewer than {count} of {candidates} draws have a finite log joint. "
            "Likely cause: the posterior has draws where the log joint is non-finite. Remedy: "
            "train it longer, or check the log joint",
            step=0,
            term="log_w",
            tensor="the log joint",
        )
    return kept[torch.randperm(count, device=kept.device)]


def choose_systematically(log_w: Tensor, count: int) -> Tensor:
    """Choose ``count`` positions in proportion to their weights, with replacement.

    One uniform number places ``count`` points at equal distances on the interval that the
    normalised weights divide. So the number of copies of a position differs by less than 1 from its
    expectation, and none is drawn twice by chance (systematic sampling, Madow 1949).

    Args:
        log_w: log weights, ``[N]``, float64; at least one is finite.
        count: how many positions.

    Returns:
        Positions in increasing order, ``[count]``.

    Example:
        >>> choose_systematically(torch.tensor([0.25, 0.0, 0.75]).double().log(), 4)
        tensor([0, 2, 2, 2])
    """
    ends = log_w.softmax(0).cumsum(0)
    steps = torch.arange(count, dtype=ends.dtype, device=ends.device)
    points = (steps + torch.rand_like(ends[:1])) / count
    positions = torch.searchsorted(ends / ends[-1], points, right=True)
    # A point that rounds to 1 lies beyond the last interval.
    return positions.clamp_max(int(log_w.isfinite().nonzero()[-1]))
