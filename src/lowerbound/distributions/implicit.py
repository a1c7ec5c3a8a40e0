"""Implicit reparameterisation of mixtures of diagonal Gaussians.

Shapes: draws ``[*samples, *batch]`` = ``...``, K components, D entries of an event.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowerbound.distributions.normal import DiagonalNormal

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def reparameterise(z: Tensor, components: DiagonalNormal, log_weights: Tensor) -> Tensor:
    r"""Return the draws of a mixture with the gradient of its reparameterisation.

    A draw is determined by D uniform variables, the values of the conditional distribution
    functions of its entries:

    .. math:: u_d = F_d(z_d \mid z_{<d}) = \sum_k \omega_{kd} \, \Phi\left(
        \frac{z_d - \mu_{kd}}{\sigma_{kd}} \right), \qquad
        \omega_{kd} \propto w_k \prod_{e<d} N(z_e; \mu_{ke}, \sigma_{ke}^2)

    These do not change with the parameters :math:`\theta`, so
    :math:`\frac{\partial z}{\partial\theta} = -J^{-1} \frac{\partial F}{\partial\theta}`, with the
    lower triangular Jacobian :math:`J_{de} = \partial F_d / \partial z_e`. The gradient reaches
    weights, means and scales, and is unbiased.

    Args:
        z: draws, ``[*samples, *batch, *event]``.
        components: of batch shape ``[*batch, K]``.
        log_weights: normalised, ``[K]`` or ``[*batch, K]``.

    Source: Figurnov, Mohamed & Mnih 2018, "Implicit reparameterization gradients"; Graves 2016.
    """
    events = len(components.event_shape)
    shape = components.batch_shape + components.event_shape
    loc = components.loc.expand(shape).flatten(-events)
    log_scale = components.log_scale.expand(shape).flatten(-events)
    fixed = z.detach().flatten(-events)
    standardised = (fixed.unsqueeze(-2) - loc) * (-log_scale).exp()  # [..., K, D]
    log_density = -0.5 * standardised.square() - log_scale - _HALF_LOG_TWO_PI
    before = log_density.cumsum(-1) - log_density
    log_shares = (log_weights.unsqueeze(-1) + before).log_softmax(-2)
    shares = log_shares.exp()
    tails = _choose_tails(standardised, shares)
    level = (shares * tails).sum(-2)  # [..., D]
    with torch.no_grad():
        gradients = -standardised * (-log_scale).exp()  # of the log densities
        jacobian = (shares * (tails - level.unsqueeze(-2))).mT @ gradients
        # Every row is divided by its diagonal entry, a density, which may be tiny or large.
        density = (log_shares + log_density).logsumexp(-2).exp().unsqueeze(-1)
        eye = torch.eye(fixed.shape[-1], dtype=fixed.dtype, device=fixed.device)
        scaled = (jacobian / density).tril(-1) + eye
    shift = torch.linalg.solve_triangular(scaled, level.unsqueeze(-1) / density, upper=False)
    return z.detach() - _zero_of(shift.reshape(z.shape))


def _zero_of(value: Tensor) -> Tensor:
    """Return zeros with the gradient of ``value``."""
    return value - value.detach()


def _choose_tails(standardised: Tensor, shares: Tensor) -> Tensor:
    r"""Compute :math:`\Phi(x)`, or :math:`\Phi(x) - 1` above the median of the mixture.

    The difference is the same constant for all components, so it has no gradient. Without it small
    upper tails would be lost to rounding.
    """
    below = torch.special.ndtr(standardised)
    with torch.no_grad():
        is_above = (shares * below).sum(-2, keepdim=True) > 0.5
    return torch.where(is_above, -torch.special.ndtr(-standardised), below)
