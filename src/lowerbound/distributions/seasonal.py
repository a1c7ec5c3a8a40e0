"""Times of a few years, weeks or days, in which some phases are more frequent than others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from lowerbound.distributions.cells import Cells
from lowerbound.distributions.factorial import Factorial
from lowerbound.runtime import noise

# The least that the periodic factor can be, so that no season is impossible.
_LEAST = 1e-3

# Proposals for each draw. At least a quarter of them is accepted, unless the scale is below the
# period.
_PROPOSALS = 32

# Below this u, a series is used for a second derivative.
_SERIES_BELOW = 0.1

# Cells: their number, and the largest coordinate.
_CELLS = 256
_REACH = 12.0


class SeasonalLogistic(Factorial):
    r"""Independent entries with a logistic density times a periodic function for the seasons.

    .. math::

        p(x) = \prod_d \frac1{Z_d} \, \frac{e^{-t_d}}{\sigma_d (1 + e^{-t_d})^2} \, g_d(x_d), \qquad
        t_d = \frac{x_d - \mu_d}{\sigma_d}, \qquad
        g(x) = \Bigl| 1 + \sum_{k=1}^{K} c_k e^{i k (\omega x + \alpha)} \Bigr|^2 + 0.001

    The coefficients c are complex numbers. The function g is a sum of the waves
    :math:`a_m e^{i m (\omega x + \alpha)}`, whose averages under the logistic density have a closed
    form, and so has the normalising constant:

    .. math:: Z = \sum_{m=-K}^{K} a_m e^{i m (\omega \mu + \alpha)} \frac{u_m}{\sinh u_m}, \qquad
        u_m = \pi m \omega \sigma

    If the scale is far below the period, Z is about :math:`g(\mu)` and the density is logistic; so
    nothing is lost if a time is known exactly. Draws are proposed by the logistic density and
    accepted in proportion to g. They come from :mod:`lowerbound.runtime.noise`, so an evaluation
    does not depend on its batches.

    Args:
        loc: ``mu``, ``[*batch, *event]``.
        log_scale: the logarithm of ``sigma``, ``[*batch, *event]``.
        waves: the real parts of the K coefficients and then the imaginary parts, each of shape
            ``[*batch, *event]``.
        angle: ``omega`` and ``alpha``, in radians, in shapes that broadcast with ``loc``.
        event_dims: the number of trailing dimensions that make one event.

    Source: the characteristic function of the logistic distribution; Fernández-Durán 2004,
    "Circular distributions based on nonnegative trigonometric sums", for g.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> p = SeasonalLogistic(zero, zero, [0.8 * one, zero], (2 * math.pi * one, zero))
        >>> summer, winter = p.log_prob(torch.tensor([[0.0], [0.5]])).exp()
        >>> round(float(summer / winter), 1)
        84.1
    """

    def __init__(
        self,
        loc: Tensor,
        log_scale: Tensor,
        waves: Sequence[Tensor],
        angle: tuple[Tensor, Tensor],
        event_dims: int = 1,
    ) -> None:
        self.loc = loc
        self.log_scale = log_scale
        self.waves = tuple(waves)
        self.rate, self.start = angle
        super().__init__(loc, log_scale, *waves, *angle, event_dims=event_dims)

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.independent(constraints.real, self.event_dims)

    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> SeasonalLogistic:
        """The same kind of distribution after a change of each parameter."""
        waves = [change(each) for each in self.waves]
        angle = change(self.rate), change(self.start)
        return SeasonalLogistic(
            change(self.loc), change(self.log_scale), waves, angle, self.event_dims
        )

    def _list_coefficients(self) -> list[tuple[Tensor, Tensor]]:
        """The real and the imaginary parts of 1 and the coefficients."""
        one, count = torch.ones_like(self.loc), len(self.waves) // 2
        pairs = zip(self.waves[:count], self.waves[count:], strict=True)
        return [(one, torch.zeros_like(one)), *pairs]

    def _correlate(self) -> list[tuple[Tensor, Tensor]]:
        """The real and the imaginary parts of a_m, m = 0 to K; a_-m is the conjugate of a_m."""
        c, zero = self._list_coefficients(), torch.zeros_like(self.loc)
        found = []
        for lag in range(len(c)):
            real, imaginary = zero, zero
            for a, b in zip(c[lag:], c, strict=False):
                real = real + a[0] * b[0] + a[1] * b[1]
                imaginary = imaginary + a[1] * b[0] - a[0] * b[1]
            found.append((real, imaginary))
        found[0] = found[0][0] + _LEAST, zero
        return found

    def _find_angle(self, place: Tensor) -> Tensor:
        angle = self.rate * place + self.start
        return angle - 2 * math.pi * (angle / (2 * math.pi)).detach().floor()

    def _weigh(self, place: Tensor) -> Tensor:
        """The function g at places x."""
        angle = self._find_angle(place)
        real, imaginary = torch.zeros_like(angle), torch.zeros_like(angle)
        for m, (a, b) in enumerate(self._list_coefficients()):
            cosine, sine = torch.cos(m * angle), torch.sin(m * angle)
            real, imaginary = real + a * cosine - b * sine, imaginary + a * sine + b * cosine
        return real * real + imaginary * imaginary + _LEAST

    def _sum_waves(self, place: Tensor, share: Callable[[int], tuple[Any, Any]]) -> Tensor:
        """The sum over m of a_m s_m e^{i m (omega x + alpha)}, which is real.

        Args:
            place: x.
            share: the real and the imaginary part of s_m, for m from 0 to K; that of -m is its
                conjugate.
        """
        angle, total = self._find_angle(place), torch.zeros_like(place)
        for m, (real, imaginary) in enumerate(self._correlate()):
            a, b = share(m)
            cosine, sine = torch.cos(m * angle), torch.sin(m * angle)
            wave = (real * a - imaginary * b) * cosine - (real * b + imaginary * a) * sine
            total = total + (wave if m == 0 else 2 * wave)
        return total

    def _find_u(self, m: int) -> Tensor:
        return (math.pi * m * self.rate.abs() * self.log_scale.exp()).clamp(1e-4, 80.0)

    def _damp(self, m: int) -> tuple[Tensor, Tensor]:
        """u / sinh u, and u coth u, for the wave m; both are 1 at u = 0."""
        u = self._find_u(m)
        return u / torch.sinh(u), u / torch.tanh(u)

    def _normalize(self) -> Tensor:
        """Z, ``[*batch, *event]``."""
        average = self._sum_waves(self.loc, lambda m: (self._damp(m)[0] if m else 1.0, 0.0))
        return average.clamp(min=_LEAST / 2)  # rounding errors can make it too small

    @property
    def mean(self) -> Tensor:
        r"""The expected value, ``[*batch, *event]``.

        Derivatives of the waves' averages give it: the average of
        :math:`(x - \mu) e^{i m \omega (x - \mu)}` is that of the wave times
        :math:`i (u_m \coth u_m - 1) / (m \omega)`.
        """

        def shift(m: int) -> tuple[Any, Any]:
            if m == 0:
                return 0.0, 0.0
            damping, slope = self._damp(m)
            return 0.0, damping * (slope - 1) / (m * self.rate)

        return self.loc + self._sum_waves(self.loc, shift) / self._normalize()

    @property
    def variance(self) -> Tensor:
        r"""The variance, ``[*batch, *event]``, from second derivatives, see :attr:`mean`."""

        def bend(m: int) -> tuple[Any, Any]:
            size = (math.pi * self.log_scale.exp()).square()
            if m == 0:
                return size / 3, 0.0
            damping, slope = self._damp(m)
            square = self._find_u(m).square()
            # The second derivative of u / sinh u, which cancels near 0.
            closed = damping * (2 * slope.square() - 2 * slope - square) / square
            series = -1 / 3 + square * (7 / 30 - square * 31 / 504)
            is_small = square < _SERIES_BELOW**2
            return -size * torch.where(is_small, series, closed), 0.0

        square = self._sum_waves(self.loc, bend) / self._normalize()
        return square - (self.mean - self.loc).square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``, by rejection."""
        size = Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape = _PROPOSALS, *self._extended_shape(size)
        u, v = (
            noise.uniform(shape, axis + 1, dtype=self.loc.dtype, device=self.loc.device)
            for _ in range(2)
        )
        tiny = torch.finfo(u.dtype).eps
        proposed = self.loc + self.log_scale.exp() * u.clamp(tiny, 1 - tiny).logit()
        sizes = [torch.hypot(*each) for each in self._list_coefficients()]
        most = torch.stack(sizes).sum(0).square() + _LEAST
        ratio = v * most / self._weigh(proposed)
        is_accepted = ratio < 1
        first = is_accepted.to(torch.uint8).argmax(0, keepdim=True)
        # Without one, as if the bound were lowered until one is accepted.
        chosen = torch.where(is_accepted.any(0), first, ratio.argmin(0, keepdim=True))
        return proposed.gather(0, chosen).squeeze(0).detach()

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log density of each entry of ``value``, in nats, ``[*batch, *event]``."""
        t = (value - self.loc) * (-self.log_scale).exp()
        logistic = -softplus(t) - softplus(-t) - self.log_scale
        return logistic + self._weigh(value).log() - self._normalize().log()

    def cells(self) -> Cells:
        r"""The values of vectors of entries in 256 cells of the same width, as multiples of sigma.

        A season may be shorter than a cell. So an expectation uses the logistic density and the
        function at the nodes, but the average of g over each cell, in which a wave is damped by
        :math:`\operatorname{sinc}(m \omega \Delta / 2)`.
        """
        inner = (1,) * len(self._extended_shape())
        width = 2 * _REACH / _CELLS
        left = torch.arange(_CELLS, dtype=self.loc.dtype, device=self.loc.device) * width - _REACH
        left = left.reshape(-1, *inner)

        def locate(coordinate: Tensor) -> Tensor:
            return self.loc + self.log_scale.exp() * coordinate

        def log_density(coordinate: Tensor) -> Tensor:
            season = self._weigh(locate(coordinate)).log()
            return season - softplus(coordinate) - softplus(-coordinate)

        node = left + 0.5 * width
        half = 0.5 * width * self.rate * self.log_scale.exp() / math.pi
        average = self._sum_waves(locate(node), lambda m: (torch.sinc(m * half), 0.0))
        step = width * average.clamp(min=_LEAST / 2) / self._weigh(locate(node))
        return Cells(left, torch.full_like(left, width), node, locate, log_density, step)
