"""A log density that is minus infinity where it would fail."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowerbound.errors import LogJointError


class ForgivingDensity:
    """A log density that is minus infinity at points where it would raise an error.

    A function of many points fails if it fails for one of them, such as a matrix without a Cholesky
    factor, so the points are then evaluated one by one. If no single point raises the error, the
    log joint has a mistake, and the error is raised again.

    Args:
        log_density: of points ``[N, J]``, ``[N]``. The first error that it raises is kept as
            ``first_error``.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density
        self.first_error: LogJointError | None = None

    def __call__(self, points_NJ: Tensor) -> Tensor:
        """The log density at points ``[N, J]``, ``[N]``.

        Raises:
            LogJointError: if the log joint fails for all points together and for none by itself.
        """
        try:
            return self.log_density(points_NJ)
        except LogJointError as error:
            values = [self._evaluate_one(point_1J) for point_1J in points_NJ.split(1)]
            if not any(value is None for value in values):
                raise
            self.first_error = self.first_error or error
        impossible = points_NJ.new_full((1,), -math.inf)
        return torch.cat([impossible if value is None else value for value in values])

    def _evaluate_one(self, point_1J: Tensor) -> Tensor | None:
        """The log density at one point, ``[1]``; ``None`` if it fails there."""
        try:
            return self.log_density(point_1J)
        except LogJointError:
            return None
