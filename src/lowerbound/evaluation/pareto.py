"""Whether an average of importance weights can be trusted: the shape of their upper tail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A prior worth this many observations pulls the shape towards one half (Vehtari et al. 2024,
# appendix G).
_PRIOR_COUNT = 10.0
_FEWEST_WEIGHTS = 5

# Weights without a tail: log weights that differ by less than a thousandth, or by less than float32
# can resolve.
_EVEN, _ROUNDING = 1e-3, 1e-6


def tail_length(samples: int) -> int:
    """The number of weights in the tail: ``min(S / 5, 3 sqrt(S))``, rounded up.

    Vehtari, Simpson, Gelman, Yao & Gabry 2024, *Pareto smoothed importance sampling*.
    """
    return math.ceil(min(samples / 5, 3 * math.sqrt(samples)))


def reliable_shape(samples: int) -> float:
    """The largest k-hat at which an average of S weights is reliable.

    It is ``min(1 - 1 / log10 S, 0.7)`` (Vehtari et al. 2024, section 3.2.4), and minus infinity for
    a single weight.
    """
    if samples < 2:
        return -math.inf
    return min(1 - 1 / math.log10(samples), 0.7)


def shape_error(shape: float, samples: int) -> float:
    """The standard error of k-hat from S weights, ``(1 + k) / sqrt(tail length)``.

    This is the error of the maximum-likelihood estimate (Smith 1987). It is 0 for weights without a
    tail, whose k-hat is minus infinity.
    """
    return max(0.0, 1 + shape) / math.sqrt(tail_length(samples))


def describe_shape(shape: float, name: str = "k-hat") -> str:
    """Describe k-hat with its name, in words if the weights are equal or too few."""
    if math.isnan(shape):
        return f"{name} unknown (too few weights)"
    if shape == -math.inf:
        return f"{name} minus infinity (the largest weights are equal)"
    return f"{name} {shape:.2f}"


def pareto_shape(largest_log_w: Tensor) -> Tensor:
    """k-hat: the shape of a generalised Pareto distribution for each example's largest weights.

    The fit is a posterior mean on a grid (Zhang & Stephens 2009), with the weak prior of Vehtari et
    al. 2024.

    Args:
        largest_log_w: ``[T + 1, B]``, in any order: the tail, and the largest log weight below it.

    Returns:
        ``[B]``, float64. Below 0.5 the weights have a finite variance; above 1 they do not even
        have a mean. It is nan if the tail has fewer than 5 weights, and minus infinity if all of
        them are equal.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> uniform = torch.rand(200_000, 1, generator=generator, dtype=torch.float64)
        >>> heavy = -0.8 * uniform.log()  # the logarithm of a Pareto variable of shape 0.8
        >>> tail = tail_length(200_000)
        >>> abs(float(pareto_shape(heavy.topk(tail + 1, dim=0).values)) - 0.8) < 0.08
        True
    """
    ordered = largest_log_w.double().sort(0).values
    count = len(ordered) - 1
    if count < _FEWEST_WEIGHTS:
        return torch.full_like(ordered[0], math.nan)
    weights = (ordered - ordered[-1]).exp()
    excess = weights[1:] - weights[0]  # [T, B], ascending
    flat = ~(ordered[-1] - ordered[0] > (_ROUNDING * ordered[-1].abs()).clamp_min(_EVEN))
    excess = torch.where(
        flat,
        torch.linspace(0.5, 1, count, dtype=excess.dtype, device=excess.device)[:, None],
        excess,
    )
    tiny = torch.finfo(excess.dtype).tiny
    excess = excess.clamp_min(tiny)
    # theta = -k / sigma has a profile likelihood in one dimension, which is averaged over a grid of
    # quantiles of its prior.
    grid = 30 + int(math.sqrt(count))
    steps = torch.arange(1, grid + 1, dtype=excess.dtype, device=excess.device)[:, None]
    quartile = excess[max(0, int(count / 4 + 0.5) - 1)]
    theta = 1 / excess[-1] + (1 - (grid / (steps - 0.5)).sqrt()) / (3 * quartile)  # [grid, B]
    shape = torch.log1p(-theta[:, None] * excess).mean(1)
    log_likelihood = count * ((-theta / shape).log() - shape - 1)
    best = (theta * log_likelihood.softmax(0)).sum(0)
    fitted = torch.log1p(-best * excess).mean(0)
    k_hat = (count * fitted + 0.5 * _PRIOR_COUNT) / (count + _PRIOR_COUNT)
    return torch.where(flat, torch.full_like(k_hat, -math.inf), k_hat)
