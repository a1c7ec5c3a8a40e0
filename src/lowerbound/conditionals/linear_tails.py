"""Linear tails for zuko's flows that are inverted by bisection within an interval.

Outside of the interval a bisection finds no inverse. Without tails, draws would stop at its ends,
with the densities of other points.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, transforms

# The bisections search between -10 and 10.
_BOUND = 10.0

# The map of a Gaussianization flow ends near -4.9 and 4.9, where float32 has no digits left.
_HIGHEST_QUANTILE = 4.0


@cache
def import_zuko() -> Any:
    """Import zuko, and leave torch's checks of arguments as they are."""
    checks = Distribution._validate_args
    import zuko.flows
    import zuko.transforms

    # Importing zuko switches these checks off.
    Distribution.set_default_validate_args(checks)
    return zuko


class LinearTails(transforms.Transform):
    """An increasing map between two points, continued outside by its tangents at these points.

    So it maps the real numbers one to one onto the real numbers. In the tails its inverse is exact.

    Args:
        inner: the map, one of zuko's transforms of single numbers.
        find_edges: finds the two points for values of a given shape, type and device.
    """

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, inner: Any, find_edges: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.inner = inner
        self.find_edges = find_edges

    def _call(self, x: Tensor) -> Tensor:
        y, _ = self.call_and_ladj(x)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        lower, upper = self.find_edges(y)
        lowest, lower_ladj = self.inner.call_and_ladj(lower)
        highest, upper_ladj = self.inner.call_and_ladj(upper)
        x: Tensor = self.inner.inv(y.clamp(lowest.detach(), highest.detach()))
        x = torch.where(y < lowest, lower + (y - lowest) * (-lower_ladj).exp(), x)
        return torch.where(y > highest, upper + (y - highest) * (-upper_ladj).exp(), x)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the slope, which is constant in each tail."""
        _, ladj = self.call_and_ladj(x)
        return ladj

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The values and the logarithms of the slopes there."""
        within = x.clamp(*self.find_edges(x))
        y, ladj = self.inner.call_and_ladj(within)
        return y + (x - within) * ladj.exp(), ladj


def with_linear_tails(transform: Any) -> Any:
    """Give linear tails to all of zuko's transforms inside ``transform`` that need them.

    Between their edges they stay as they are. The map to an interval that zuko puts between two of
    them gets tails as well, since otherwise some numbers would not have an inverse.
    """
    of_zuko = import_zuko().transforms
    if isinstance(transform, of_zuko.ComposedTransform):
        transform.transforms = [with_linear_tails(part) for part in transform.transforms]
    elif isinstance(transform, of_zuko.DependentTransform):
        transform.base = with_linear_tails(transform.base)
    elif isinstance(transform, of_zuko.AutoregressiveTransform):
        meta = transform.meta
        transform.meta = lambda x: with_linear_tails(meta(x))
    elif isinstance(transform, of_zuko.SoftclipTransform):
        return LinearTails(transform, lambda like: _invert(transform, like, _BOUND))
    elif isinstance(transform, of_zuko.GaussianizationTransform):
        return LinearTails(transform, lambda like: _find_quantiles(transform, like))
    elif isinstance(transform, of_zuko.MonotonicTransform) and not isinstance(
        transform, of_zuko.BernsteinTransform
    ):
        return LinearTails(transform, _find_bounds)
    return transform


def _find_bounds(like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full_like(like, -_BOUND), torch.full_like(like, _BOUND)


def _invert(transform: Any, like: Tensor, value: float) -> tuple[Tensor, Tensor]:
    lower, upper = torch.full_like(like, -value), torch.full_like(like, value)
    return transform.inv(lower), transform.inv(upper)


def _find_quantiles(transform: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """Find where the transform reaches the quantiles, or the bounds if these come first."""
    lower, upper = _find_bounds(like)
    lower_quantile, upper_quantile = _invert(transform, like, _HIGHEST_QUANTILE)
    return (
        torch.where(transform(lower) > -_HIGHEST_QUANTILE, lower, lower_quantile),
        torch.where(transform(upper) < _HIGHEST_QUANTILE, upper, upper_quantile),
    )
