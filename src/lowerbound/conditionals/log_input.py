"""A wrapper for posteriors whose data, such as counts, vary over many orders of magnitude."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import select_fields
from lowerbound.conditionals.given import Wrapper
from lowerbound.describe import describable


@describable
class LogInput(Wrapper):
    r"""A posterior that receives :math:`\log(1 + x)` in place of data x.

    It is for counts, and for positive values such as amounts of money. Otherwise the largest of
    them would dominate what a network computes from them. The likelihood still scores the values
    themselves. With :class:`Given` inside, fields that the posterior needs
    are not changed: ``lb.LogInput(lb.Given(posterior, "batch", categories=4))``.

    Args:
        part: the posterior.

    Example:
        >>> import torch, lowerbound as lb
        >>> q = LogInput(lb.Gaussian(lb.mlp(6, 32, 4)))(torch.tensor([[0.0, 1, 7, 90, 3, 10000]]))
        >>> q.batch_shape, q.event_shape
        (torch.Size([1]), torch.Size([2]))
    """

    def __init__(self, part: nn.Module) -> None:
        super().__init__(part)

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The posterior, given the data and the fields that it needs."""
        x, *others = given
        inputs = _take_logarithms(x)
        return cast(Distribution, self.part(inputs, *others, **select_fields(self.part, fields)))

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor:
        """The output of the network for the logarithms."""
        x, *others = given
        return super().parameters_from(network, _take_logarithms(x), *others, **fields)


def _take_logarithms(x: Tensor) -> Tensor:
    return x.clamp(min=0).log1p()  # a check of the likelihood refuses negative counts
