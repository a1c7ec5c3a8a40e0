"""Entries on a circle, such as the hour of the day, with a density between knots."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints

from lowerbound.distributions.categorical import FactorialCodes
from lowerbound.distributions.factorial import Factorial
from lowerbound.runtime import noise


class FactorialPhases(Factorial):
    r"""Independent phases in [0, 1), where 1 is 0 again, with a density linear between L knots.

    .. math:: p(x) = \prod_d L \, \bigl( (1 - a_d) \, \pi_{k_d} + a_d \, \pi_{k_d + 1} \bigr),
        \qquad k_d + a_d = L \, x_d, \qquad \pi = \operatorname{softmax}(\eta)

    Here k is a whole number, a is the rest, and the knot L is the knot 0. It is a mixture of L
    triangular densities of the width 2 / L, one around each knot, so it integrates to 1 for all
    logits. Draws come from :mod:`lowerbound.runtime.noise`, so an evaluation does not depend on its
    batches.

    Args:
        logits: ``eta``, ``[*batch, L, *event]``.
        event_dims: the number of trailing dimensions that make one event.

    Example:
        >>> p = FactorialPhases(torch.tensor([[0.0], [math.log(3.0)]]))
        >>> [round(float(p.log_prob(torch.tensor([x])).exp()), 4) for x in (0.0, 0.25, 0.5, 0.999)]
        [0.5, 1.0, 1.5, 0.502]
    """

    def __init__(self, logits: Tensor, event_dims: int = 1) -> None:
        self.logits = logits
        self.axis = -event_dims - 1
        self.levels = logits.shape[self.axis]
        super().__init__(logits, event_dims=event_dims, inner_dims=1)

    @property
    def support(self) -> Any:
        """Numbers from 0 to 1."""
        return constraints.independent(constraints.unit_interval, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The expected value as a number from 0 to 1, ``[*batch, *event]``."""
        return self._average(self._moments()[0])

    @property
    def variance(self) -> Tensor:
        """The variance as a number from 0 to 1, ``[*batch, *event]``."""
        return self._average(self._moments()[1]) - self.mean.square()

    @property
    def mode(self) -> Tensor:
        """The knot of the largest density, ``[*batch, *event]``."""
        return self.logits.argmax(self.axis).to(self.logits.dtype) / self.levels

    def _moments(self) -> tuple[Tensor, Tensor]:
        """The first two moments of each triangle, ``[L]``; that of the knot 0 is in two halves."""
        knots = torch.arange(self.levels, dtype=self.logits.dtype) / self.levels
        width = 1 / self.levels
        first, second = knots.clone(), knots.square() + width**2 / 6
        first[0], second[0] = 0.5, 0.5 - width / 3 + width**2 / 6
        return first, second

    def _average(self, values: Tensor) -> Tensor:
        values = values.to(self.logits.device).reshape(-1, *(1,) * self.event_dims)
        return (self.logits.softmax(self.axis) * values).sum(self.axis)

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> FactorialPhases:
        """The same kind of distribution after a change of its logits."""
        return FactorialPhases(change(self.logits), self.event_dims)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``: a knot, and a triangular deviation."""
        size = Size(sample_shape)
        knots = FactorialCodes(self.logits, self.event_dims).sample(size)
        axis, shape = noise.examples_axis(self.batch_shape, size), tuple(knots.shape)
        u, v = (
            noise.uniform(shape, axis, dtype=knots.dtype, device=knots.device) for _ in range(2)
        )
        phases = ((knots + u + v - 1) / self.levels) % 1
        return torch.where(phases < 1, phases, 0.0)  # the remainder of -1e-9 is rounded to 1

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry of ``value``, in nats, ``[*batch, *event]``."""
        shape = torch.broadcast_shapes(value.shape, self._extended_shape())
        place = value.expand(shape) * self.levels
        knot = place.detach().floor()
        share = place - knot
        leading = shape[: len(shape) - self.event_dims]
        log_probs = self.logits.log_softmax(self.axis)
        log_probs = log_probs.expand(leading + log_probs.shape[self.axis :])
        left, right = (
            log_probs.gather(self.axis, (each.long() % self.levels).unsqueeze(self.axis)).squeeze(
                self.axis
            )
            for each in (knot, knot + 1)
        )
        largest = torch.maximum(left, right)
        density = (1 - share) * (left - largest).exp() + share * (right - largest).exp()
        tiny = torch.finfo(density.dtype).tiny
        return largest + density.clamp(min=tiny).log() + math.log(self.levels)
