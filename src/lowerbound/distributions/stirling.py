"""The remainder of Stirling's formula for the gamma function, and the excess of an exponential."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# The series is c_1 / y + c_2 / y^3 + c_3 / y^5 + ..., with B_2k / (2k (2k - 1)) as c_k.
# From y = 12 on, the error of these terms is below 1e-14, and that of the first two below 4e-9.
_LARGE = 12.0
_COEFFICIENTS = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_FEW = 2  # enough for float32


def exceed_tangent(d: Tensor) -> Tensor:
    """``h(d) = e^d - 1 - d``: by how much the exponential exceeds its tangent at 0.

    Example:
        >>> exceed_tangent(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.7183])
    """
    return torch.expm1(d) - d


def compute_stirling_remainder(y: Tensor) -> Tensor:
    r"""The remainder of Stirling's formula, for ``y > 0``.

    .. math::

        s(y) = \log \Gamma(y) - \left( (y - \tfrac12) \log y - y + \tfrac12 \log 2 \pi \right)
            = \frac{1}{12 y} - \frac{1}{360 y^3} + \dots

    Differences of log gamma functions, which cancel in float32, can be written as differences of
    remainders, which are small.

    Example:
        >>> compute_stirling_remainder(torch.tensor([1.0, 1e6]))
        tensor([8.1061e-02, 8.3333e-08])
    """
    coefficients: tuple[float, ...] = _COEFFICIENTS
    if y.dtype == torch.float32:
        coefficients = _COEFFICIENTS[:_FEW]
    # Each branch gets values at which its gradient is finite.
    inverse, small = y.clamp(min=_LARGE).reciprocal(), y.clamp(max=_LARGE)
    step = inverse.square()
    series: Tensor | float = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        series = step * series + coefficient
    exact = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - _HALF_LOG_2PI
    return torch.where(y < _LARGE, exact, inverse * series)
