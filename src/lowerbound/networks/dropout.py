"""Dropout whose masks are drawn quickly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Each value of a mask takes a quarter of a random whole number of 64 bits.
_BITS, _VALUES_PER_NUMBER = 16, 4


def _is_at_least(numbers: Tensor, least: int) -> Tensor:
    return numbers >= least


def _map_is_at_least(
    info: object, dims: Sequence[int | None], numbers: Tensor, least: int
) -> tuple[Tensor, int | None]:
    return numbers >= least, dims[0]


# torch's compiler does not vectorise loops that read whole numbers of 16 bits. Without an operation
# of its own, the comparison would be part of the loops of activations and of their gradients, which
# would then take twice as long. The operation exists already if this module is loaded again.
if not hasattr(torch.ops.lowerbound, "is_at_least"):
    torch.library.define("lowerbound::is_at_least", "(Tensor numbers, int least) -> Tensor")
    torch.library.impl("lowerbound::is_at_least", "CompositeExplicitAutograd", _is_at_least)
    torch.library.register_fake("lowerbound::is_at_least", _is_at_least)
    torch.library.register_vmap("lowerbound::is_at_least", _map_is_at_least)


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014), which sets each value to 0 with probability ``p``.

    The others are divided by 1 - p, so that expectations stay the same. On one processor
    core, drawing a mask takes about a fifth of the time that it takes in ``torch.nn.Dropout``,
    where it is a third of a training step of the recipe ``table``. In return, the share that is
    kept is rounded to a multiple of 2^-16, and is at least 2^-16.

    Example:
        >>> half = Dropout(0.5)(torch.ones(1000, 100))
        >>> half.unique().tolist(), bool(abs(half.mean() - 1) < 0.02)
        ([0.0, 2.0], True)
    """

    def forward(self, x: Tensor) -> Tensor:
        """Values of any shape, to the same shape."""
        if not self.training or self.p == 0:
            return x
        numbers = torch.randint(
            -(2**63), 2**63 - 1, (-(-x.numel() // _VALUES_PER_NUMBER),), device=x.device
        )
        values = numbers.view(torch.int16)[: x.numel()].view(x.shape)
        dropped = min(round(self.p * 2**_BITS), 2**_BITS - 1)
        is_kept = torch.ops.lowerbound.is_at_least(values, dropped - 2 ** (_BITS - 1))
        factors: Tensor = is_kept.to(x.dtype) * (2**_BITS / (2**_BITS - dropped))
        return x * factors
