"""A log density that is minus infinity where it would fail."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowerbound.errors import LogJointError


class ForgivingDensity:
    """A log density that is minus infinity at points where it would raise an error.

    It fails for all points together if it fails for one, such as a matrix without a Cholesky
    factor, so the points are then evaluated one by one.

    Args:
        log_density: of points ``[N, J]``, ``[N]``. The first error that it raises is kept as
            ``first_error``.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density
        self.first_error: LogJointError | None = None

    def __call__(self, points_NJ: Tensor) -> Tensor:
        """The log density at points ``[N, J]``, ``[N]``."""
        try:
            return self.log_density(points_NJ)
        except LogJointError as error:
            self.first_error = self.first_error or error
            if len(points_NJ) == 1:
                return points_NJ.new_full((1,), -math.inf)
        return torch.cat([self(point_1J) for point_1J in points_NJ.split(1)])
