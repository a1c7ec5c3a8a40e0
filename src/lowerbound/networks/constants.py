"""The parameters of a distribution that does not depend on anything."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.networks.shapes import Shape, as_shape


@describable
class Constant(nn.Module):
    """A module that returns the same tensor for any input; made by :func:`constant`."""

    def __init__(
        self, outputs: int | Shape, value: float = 0.0, learned: bool = True, spread: float = 0.0
    ) -> None:
        super().__init__()
        self.outputs = self.output_shape = as_shape(outputs)
        self.value = value
        self.learned = learned
        self.spread = spread
        numbers = torch.full(self.outputs, float(value))
        if spread:
            numbers += spread * torch.randn(self.outputs)
        if learned:
            self.numbers = nn.Parameter(numbers)
        else:
            # A tensor without noise follows from ``value``; random values must be saved.
            self.register_buffer("numbers", numbers, persistent=bool(spread))

    def forward(self, *given: Tensor) -> Tensor:
        """The tensor, ``[*outputs]``."""
        return self.numbers


def constant(
    outputs: int | Shape, value: float = 0.0, *, learned: bool = True, spread: float = 0.0
) -> Constant:
    """The parameters of a distribution that does not depend on anything, in place of a network.

    Args:
        outputs: the shape of the parameters.
        value: their initial value.
        learned: whether they are trained.
        spread: the standard deviation of the noise that is added to ``value``.

    Example:
        >>> import lowerbound as lb
        >>> lb.Bernoulli(lb.constant(3, learned=False))().mean  # three fair coins
        tensor([0.5000, 0.5000, 0.5000])
        >>> lb.Gaussian(lb.constant(6))().event_shape  # a prior whose mean and scale are learned
        torch.Size([3])
    """
    return Constant(outputs, value, learned, spread)
