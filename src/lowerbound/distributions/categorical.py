"""Entries with a few evenly spaced levels, such as the grey values of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.distributions.supports import Grid, Support, Values
from lowerbound.runtime import noise


class FactorialCategorical(Distribution):
    r"""Independent entries with ``L`` evenly spaced levels from 0 to 1, given by their logits.

    .. math:: \log p(x) = \sum_d \left( \eta_{l_d, d} - \log \sum_l e^{\eta_{l, d}} \right),
        \qquad l_d = (L - 1) \, x_d

    It is a probability mass, so pixels of 256 levels are scored without dequantisation. Draws come
    from :mod:`lowerbound.runtime.noise`, so an evaluation does not depend on its batches.

    Args:
        logits: ``eta``, ``[*batch, L, *event]``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> p = FactorialCategorical(torch.zeros(3, 256, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.tensor([1.0, 51 / 255]))
        (torch.Size([3]), torch.Size([2]), tensor([-11.0904, -11.0904, -11.0904]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, logits: Tensor, event_dims: int = 1) -> None:
        self.logits = logits
        self.event_dims = event_dims
        self.axis = -event_dims - 1
        self.levels = logits.shape[self.axis]
        batch_dims = logits.dim() - event_dims - 1
        shape = logits.shape
        super().__init__(shape[:batch_dims], shape[batch_dims + 1 :], validate_args=False)

    @property
    def support(self) -> Any:
        """Multiples of ``1 / (L - 1)`` from 0 to 1."""
        return constraints.independent(Levels(self.levels), self.event_dims)

    @property
    def probs(self) -> Tensor:
        """The probability of each level, ``[*batch, L, *event]``."""
        return self.logits.softmax(self.axis)

    @property
    def mean(self) -> Tensor:
        """The expected value, ``[*batch, *event]``."""
        return (self.probs * self._arrange_levels()).sum(self.axis)

    @property
    def variance(self) -> Tensor:
        """The variance, ``[*batch, *event]``."""
        deviation = self._arrange_levels() - self.mean.unsqueeze(self.axis)
        return (self.probs * deviation.square()).sum(self.axis)

    @property
    def mode(self) -> Tensor:
        """The most probable level, ``[*batch, *event]``."""
        return self._scale(self.logits.argmax(self.axis))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution, repeated over ``batch_shape``."""
        own = self.logits.shape[self.axis :]
        return self.change_parameters(lambda logits: logits.expand(torch.Size(batch_shape) + own))

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same kind of distribution after a change of its logits."""
        return type(self)(change(self.logits), self.event_dims)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``, by inverting the distribution function."""
        size, logits = torch.Size(sample_shape), self.logits.detach()
        axis = noise.examples_axis(self.batch_shape, size)
        shape = tuple(self._extended_shape(size))
        u = noise.uniform(shape, axis, dtype=logits.dtype, device=logits.device)
        cumulative = logits.softmax(self.axis).cumsum(self.axis)
        level = (cumulative <= u.unsqueeze(self.axis)).sum(self.axis)
        # Rounding may leave the last cumulative probability below 1, and u above it.
        return self._scale(level.clamp(max=self.levels - 1))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, summed over the event's dimensions."""
        return self.entrywise_log_prob(value).flatten(-self.event_dims).sum(-1)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        shape = torch.broadcast_shapes(value.shape, self._extended_shape())
        level = self._find_level(value.expand(shape)).unsqueeze(self.axis)
        leading = shape[: len(shape) - self.event_dims]
        logits = self.logits.expand(leading + self.logits.shape[self.axis :])
        chosen = logits.gather(self.axis, level.clamp(0, self.levels - 1)).squeeze(self.axis)
        return chosen - self.logits.logsumexp(self.axis)

    def log_prob_of_positive(self) -> Tensor:
        """The log probability of all levels but the first, which is 0, ``[*batch, *event]``."""
        others = self.logits.narrow(self.axis, 1, self.levels - 1)
        return others.logsumexp(self.axis) - self.logits.logsumexp(self.axis)

    def sample_positive(self, sample_shape: Any = ()) -> Tensor:
        """Draws given that they are not 0, ``[*sample_shape, *batch, *event]``."""
        first, others = self.logits.split((1, self.levels - 1), self.axis)
        logits = torch.cat([torch.full_like(first, -math.inf), others], self.axis)
        return type(self)(logits, self.event_dims).sample(sample_shape)

    def stop_gradient(self) -> Self:
        """The same distribution with a stop-gradient on its parameters."""
        return self.change_parameters(Tensor.detach)

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        log_probs = self.logits.log_softmax(self.axis)
        return -(log_probs.exp() * log_probs).flatten(self.axis).sum(-1)

    def _arrange_levels(self) -> Tensor:
        """Arrange the levels in a shape that broadcasts with the logits."""
        levels = torch.arange(self.levels, device=self.logits.device)
        return self._scale(levels).reshape(-1, *(1,) * self.event_dims)

    def _scale(self, level: Tensor) -> Tensor:
        return level.to(self.logits.dtype) / (self.levels - 1)

    def _find_level(self, value: Tensor) -> Tensor:
        return (value * (self.levels - 1)).round().long()


class FactorialCodes(FactorialCategorical):
    r"""Independent entries with integer codes from 0 to ``L - 1``, given by their logits.

    .. math:: \log p(x) = \sum_d \left( \eta_{x_d, d} - \log \sum_l e^{\eta_{l, d}} \right)

    It differs from :class:`FactorialCategorical` in its values: codes are names of categories, so
    that they are not scaled. Their natural point is the most probable code.

    Args:
        logits: ``eta``, ``[*batch, L, *event]``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> p = FactorialCodes(torch.zeros(3, 4, 2))
        >>> p.event_shape, p.log_prob(torch.tensor([0.0, 3.0]))
        (torch.Size([2]), tensor([-2.7726, -2.7726, -2.7726]))
    """

    @property
    def support(self) -> Any:
        """Whole numbers from 0 to ``L - 1``."""
        codes = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(codes, self.event_dims)

    def _scale(self, level: Tensor) -> Tensor:
        return level.to(self.logits.dtype)

    def _find_level(self, value: Tensor) -> Tensor:
        return value.round().long()


class Levels(Support):
    """Multiples of ``1 / (levels - 1)`` from 0 to 1, up to rounding.

    Example:
        >>> Levels(256).check(torch.tensor([0.2, 0.25, 1.0]))
        tensor([ True, False,  True])
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each entry is such a multiple."""
        level = value * (self.levels - 1)
        whole = (level - level.round()).abs() < 0.01  # float32 of a multiple is off by far less
        return whole & (value >= 0) & (value <= 1)

    @property
    def values(self) -> Values:
        """The levels."""
        return Values(points=Grid(0, 1, self.levels - 1))

    def __repr__(self) -> str:
        return f"multiples of 1/{self.levels - 1} from 0 to 1"
