"""The groups of examples of :mod:`lowerbound.evaluation.bits_back`, which grow with the stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The first examples find few bits on the stack, so their cells are wider, by up to 2 to this power.
# The widest, of four to eight standard deviations of q, need almost no bits. They cost up to about
# two nats for each unit with information, but soon there are enough bits for narrower ones.
COARSEST = 6

# A group of examples pops all of its latents before it pushes anything. So before a larger group or
# narrower cells, the stack must hold this many times the bits that they are expected to pop.
SURPLUS = 1.25


@dataclass(frozen=True)
class Grouping:
    """How examples are coded.

    Args:
        size: the number of examples in a group.
        coarseness: the width of their cells is multiplied by two to this power.
    """

    size: int
    coarseness: int


def list_groupings(largest: int) -> list[Grouping]:
    """List the groupings in the order in which they are used.

    Args:
        largest: the size of the largest group.
    """
    doublings = range(1, math.ceil(math.log2(largest)) + 1)
    return [
        *(Grouping(1, coarseness) for coarseness in range(COARSEST, -1, -1)),
        *(Grouping(min(largest, 1 << doubling), 0) for doubling in doublings),
    ]


def expand_groups(numbers: Sequence[int], largest: int, count: int) -> list[tuple[slice, int]]:
    """The examples of each group, and the coarseness of their cells.

    Args:
        numbers: how many groups each grouping has. The last group may be smaller.
        largest: the size of the largest group.
        count: the number of examples.

    Raises:
        ValueError: if the numbers of groups are not those of this many examples.
    """
    wrong = ValueError(f"{numbers} are not numbers of groups of {count} examples")
    if not numbers or numbers[0] < 1 or min(numbers) < 0 or sum(numbers) > count:
        raise wrong
    expanded: list[tuple[slice, int]] = []
    start = 0
    for grouping, number in zip(list_groupings(largest), numbers, strict=False):
        for _ in range(number):
            stop = min(count, start + grouping.size)
            expanded.append((slice(start, stop), grouping.coarseness))
            start = stop
    if start < count or len(expanded) < sum(numbers) or expanded[-1][0].start == count:
        raise wrong
    return expanded
