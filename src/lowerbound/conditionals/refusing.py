"""Refusal of data to which a likelihood gives no probability, with the row and the remedy."""

from __future__ import annotations

from torch import Tensor

from lowerbound.distributions.categorical import Levels
from lowerbound.errors import DataError


def refuse_outside(x: Tensor, outside: Tensor, rows: Tensor, advice: str, name: str) -> None:
    """Refuse some entries of data.

    Args:
        x: data, ``[B, *event]``.
        outside: which entries are refused, ``[B, *event]``.
        rows: the positions of the examples in the dataset, ``[B]``.
        advice: what the likelihood takes, and the remedy.
        name: what the message calls the dataset.

    Raises:
        DataError: naming the first such row.
    """
    bad = outside.flatten(1).any(1)
    if bool(bad.any()):
        place = int(bad.nonzero()[0])
        worst = x[place][outside[place]][0].item()
        raise DataError(f"{name}: row {int(rows[place])} has the value {worst:.6g}, and {advice}")


def refuse_other_levels(x: Tensor, rows: Tensor, levels: int, name: str, likelihood: str) -> None:
    """Refuse values that are not multiples of ``1 / (levels - 1)`` from 0 to 1.

    Raises:
        DataError: naming the first such row.
    """
    refuse_outside(
        x,
        ~Levels(levels).check(x),
        rows,
        f"a {likelihood} likelihood of {levels} levels takes multiples of 1/{levels - 1} from 0 to "
        "1; pass the number of levels of the data as levels=..., leave pixels='as-is', use "
        "lb.Categorical(..., codes=True) for integer codes, or a density such as lb.Gaussian",
        name,
    )


def refuse_other_codes(x: Tensor, rows: Tensor, levels: int, name: str, likelihood: str) -> None:
    """Refuse values that are not integer codes from 0 to ``levels - 1``.

    Raises:
        DataError: naming the first such row.
    """
    refuse_outside(
        x,
        (x < 0) | (x > levels - 1) | (x != x.round()),
        rows,
        f"a {likelihood} likelihood of {levels} codes takes the whole numbers from 0 to "
        f"{levels - 1}; pass kind='codes' (--kind codes) if 8-bit values are codes, and the number "
        "of levels of the data as levels=...",
        name,
    )
