"""Logistic distributions over a few evenly spaced levels, such as the grey values of pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from lowerbound.distributions.categorical import Levels
from lowerbound.distributions.factorial import Factorial


class DiscretizedLogistics(Factorial):
    r"""Independent entries with ``L`` evenly spaced levels from 0 to 1, by mixtures of logistics.

    .. math::

        \log p(x) = \sum_d \log \sum_m w_{m, d} \left(
            \sigma\!\left(\frac{x_d + h - \mu_{m, d}}{s_{m, d}}\right)
            - \sigma\!\left(\frac{x_d - h - \mu_{m, d}}{s_{m, d}}\right) \right),
        \qquad h = \frac{1}{2 (L - 1)}

    The first level has the whole tail below it, and the last one the whole tail above, so the
    probabilities sum to 1. They are computed from logarithms, which keeps them exact in float32 far
    out in the tails:

    .. math:: \log(\sigma(a) - \sigma(b)) = \log\sigma(a) + \log\sigma(-b) + \log(1 - e^{b - a})

    Args:
        loc: :math:`\mu`, ``[*batch, M, *event]``, on the scale of the values.
        log_scale: :math:`\log s`, in a shape that broadcasts with it.
        logits: the weights :math:`w` are their softmax over the M components; also in such a shape.
        levels: L.
        event_dims: the number of trailing dimensions that make one event.

    Source: Salimans, Karpathy, Chen & Kingma 2017, "PixelCNN++".

    Example:
        >>> zeros = torch.zeros(3, 1, 2)
        >>> p = DiscretizedLogistics(zeros + 0.5, zeros, zeros, levels=2)
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.tensor([0.0, 1.0])).exp()
        (torch.Size([3]), torch.Size([2]), tensor([0.2500, 0.2500, 0.2500]))
    """

    def __init__(
        self,
        loc: Tensor,
        log_scale: Tensor,
        logits: Tensor,
        levels: int = 256,
        event_dims: int = 1,
    ) -> None:
        self.loc = loc
        self.log_scale = log_scale
        self.logits = logits
        self.levels = levels
        self.axis = -event_dims - 1
        super().__init__(loc, log_scale, logits, event_dims=event_dims, inner_dims=1)

    @property
    def support(self) -> Any:
        """Multiples of ``1 / (L - 1)`` from 0 to 1."""
        return constraints.independent(Levels(self.levels), self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The expected value, ``[*batch, *event]``."""
        total = torch.zeros((), dtype=self.loc.dtype, device=self.loc.device)
        for _, beyond in self._compute_upper_shares():
            total = total + beyond
        return total / (self.levels - 1)

    @property
    def variance(self) -> Tensor:
        """The variance, ``[*batch, *event]``."""
        # For x = 0, 1, ..., L - 1 the expectation of x^2 is the sum over l of (2 l - 1) P(x >= l).
        # Deviations are from a level near the mean, so that little cancels in float32.
        middle = (self.mean * (self.levels - 1)).round()
        first = second = torch.zeros_like(middle)
        for level, beyond in self._compute_upper_shares():
            share = torch.where(level > middle, beyond, beyond - 1)
            first = first + share
            second = second + (2 * (level - middle) - 1) * share
        return (second - first.square()) / (self.levels - 1) ** 2

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> DiscretizedLogistics:
        """The same levels, after a change of the parameters."""
        parameters = change(self.loc), change(self.log_scale), change(self.logits)
        return DiscretizedLogistics(*parameters, self.levels, self.event_dims)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        each = self._score_components(value.unsqueeze(self.axis))
        if self.logits.shape[self.axis] == 1:
            return each.squeeze(self.axis)
        return (each + self.logits.log_softmax(self.axis)).logsumexp(self.axis)

    def log_prob_of_positive(self) -> Tensor:
        """The log probability of all levels but the first, which is 0, ``[*batch, *event]``."""
        half = 0.5 / (self.levels - 1)
        above = logsigmoid((self.loc - half) * (-self.log_scale).exp())
        return (above + self.logits.log_softmax(self.axis)).logsumexp(self.axis)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``: rounded draws of the logistics."""
        size = torch.Size(sample_shape)
        with torch.no_grad():
            cumulative = self.logits.softmax(self.axis).cumsum(self.axis)
            u, v = self._draw_uniform(size, self.loc), self._draw_uniform(size, self.loc)
            # Rounding may leave the last cumulative weight below 1, and u above it.
            last = cumulative.shape[self.axis] - 1
            chosen = (cumulative < u.unsqueeze(self.axis)).sum(self.axis).clamp(max=last)
            loc, scale = self._select(self.loc, chosen), self._select(self.log_scale, chosen).exp()
            level = (loc + scale * v.logit()) * (self.levels - 1)
            return level.round().clamp(0, self.levels - 1) / (self.levels - 1)

    def _score_components(self, value: Tensor) -> Tensor:
        """The log probability of values under each component, ``[*batch, M, *event]``."""
        inverse = (-self.log_scale).exp()
        half = 0.5 / (self.levels - 1)
        centred = value - self.loc
        below = logsigmoid((centred + half) * inverse)
        above = logsigmoid((half - centred) * inverse)
        between = (-torch.expm1(-2 * half * inverse)).log()
        inner = below + above + between
        is_first, is_last = value < half, value > 1 - half
        return torch.where(is_first, below, torch.where(is_last, above, inner))

    def _compute_upper_shares(self) -> Iterator[tuple[int, Tensor]]:
        """Yield each level from 1 on, and the probability of it and all levels above.

        All levels at once would need L times the memory.
        """
        inverse, weights = (-self.log_scale).exp(), self.logits.softmax(self.axis)
        for level in range(1, self.levels):
            threshold = (level - 0.5) / (self.levels - 1)
            shares = ((self.loc - threshold) * inverse).sigmoid()
            yield level, (weights * shares).sum(self.axis)

    def _select(self, parameter: Tensor, chosen: Tensor) -> Tensor:
        """Select the chosen component of each entry, ``[*samples, *batch, *event]``."""
        own = self.batch_shape + self.logits.shape[self.axis : self.axis + 1] + self.event_shape
        index = chosen.unsqueeze(self.axis)
        shape = index.shape[: index.dim() - len(own)] + own
        return parameter.expand(shape).gather(self.axis, index).squeeze(self.axis)
