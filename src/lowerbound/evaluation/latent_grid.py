"""The cells of latents on the stack of :mod:`lowerbound.evaluation.bits_back`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The mean and the standard deviation of latents in cells.
Moments = tuple[NDArray[np.float64], NDArray[np.float64]]

# The coder gives each cell a probability of at least 2^-24. If q covered all cells, one latent in a
# few thousand would land far from its posterior and cost hundreds of nats. So q has cells only so
# many standard deviations from its mean; a value beyond them is rarer than 1 in 500 million.
_DEVIATIONS_OF_Q = 6


@dataclass(frozen=True)
class _Window:
    """Latents whose posteriors have about the same number of cells.

    Args:
        places: where they are among all latents of a layer.
        half: their posteriors reach this many cells to either side of their centres.
        centres: the cells of their means.
        moments: their means relative to their centres, and their standard deviations, in cells.
    """

    places: NDArray[np.intp]
    half: int
    centres: NDArray[np.int32]
    moments: Moments


@dataclass(frozen=True)
class LatentGrid:
    """Pops the cells of latents from a stack with q, and pushes them back.

    Args:
        coders: the package of the entropy coder.
        cells: the number of cells to either side of 0.
    """

    coders: Any
    cells: int

    @property
    def whole(self) -> Any:
        """The family of distributions over all cells, as of priors."""
        return self._family(self.cells)

    def pop(self, stack: Any, moments: Moments) -> NDArray[np.int32]:
        """Pop the cells of latents with these moments."""
        u = np.zeros(moments[0].shape, np.int32)
        for window in self._split(moments):
            found = stack.decode(self._family(window.half), *window.moments)
            u[window.places] = found + window.centres
        return u

    def push(self, stack: Any, u: NDArray[np.int32], moments: Moments) -> None:
        """Push the cells that :meth:`pop` returned for these moments.

        Raises:
            KeyError: if it cannot have returned them.
        """
        for window in reversed(list(self._split(moments))):
            values = u[window.places] - window.centres
            stack.encode_reverse(values, self._family(window.half), *window.moments)

    def _family(self, half: int) -> Any:
        return self.coders.stream.model.QuantizedGaussian(-half, half)

    def _split(self, moments: Moments) -> Iterator[_Window]:
        """Split latents by the power of two above their standard deviation in cells."""
        mean, deviation = moments
        powers = np.frexp(deviation)[1]
        for power in np.unique(powers):
            places = np.flatnonzero(powers == power)
            half = min(self.cells, math.ceil(_DEVIATIONS_OF_Q * 2.0**power))
            furthest = self.cells - half
            centres = mean[places].round().clip(-furthest, furthest).astype(np.int32)
            around = mean[places] - centres, deviation[places]
            yield _Window(places, half, centres, around)
