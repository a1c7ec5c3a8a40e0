"""Bijections from real numbers to the values of a variable.

They are torch's, except where torch's lose the digits of small components: one minus a share that
is almost 1 has hardly any correct digit in float32. Those are computed from logarithms instead.
They are the same maps, so posteriors do not depend on who computes them.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transforms
from torch.distributions.utils import vec_to_tril_matrix
from torch.nn.functional import logsigmoid, pad, softplus


def find_bijection(support: Any) -> transforms.Transform:
    """The bijection from real numbers to a support, one of ``torch.distributions.constraints``.

    Raises:
        NotImplementedError: if there is none.

    Example:
        >>> values = find_bijection(constraints.simplex)(torch.tensor([60.0, 0.0]))
        >>> (values[1] * 1e27).round(decimals=1)  # with torch's own bijection it would be 0
        tensor(8.8000)
    """
    if support is constraints.simplex:
        return StickBreaking()
    if support is constraints.corr_cholesky:
        return CorrelationFactor()
    return cast(transforms.Transform, biject_to(support))


class StickBreaking(transforms.StickBreakingTransform):
    r"""To a simplex: :math:`y_k = \sigma(s_k) \prod_{j<k} \sigma(-s_j)`, the last one is the rest.

    Here :math:`s_k = x_k - \log(K - k)` for K shares. Each share has as many correct digits as the
    type has, down to the type's smallest number.
    """

    def _call(self, x: Tensor) -> Tensor:
        # softmax changes only rounding errors, so that the sum is 1.
        shares = _log_shares(_shifted(x)).softmax(-1)
        return shares.clamp_min(torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        rest = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        log_odds = y[..., :-1].log() - rest.log()
        return log_odds + _log_counts(log_odds)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log absolute determinant, from x alone, since y may be rounded."""
        shifted = _shifted(x)
        return (logsigmoid(-shifted) + _log_shares(shifted)[..., :-1]).sum(-1)


def _log_counts(x: Tensor) -> Tensor:
    """The logarithms of the number of shares that follow."""
    return torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device).log()


def _shifted(x: Tensor) -> Tensor:
    return x - _log_counts(x)


def _log_shares(shifted: Tensor) -> Tensor:
    log_rest = pad(logsigmoid(-shifted).cumsum(-1), (1, 0))
    return pad(logsigmoid(shifted), (0, 1)) + log_rest


class CorrelationFactor(transforms.CorrCholeskyTransform):
    r"""To Cholesky factors of correlation matrices.

    :math:`L_{ij} = \tanh(x_{ij}) \prod_{k<j} \operatorname{sech}(x_{ik})`, and on the diagonal
    :math:`L_{ii} = \prod_{k<i} \operatorname{sech}(x_{ik})`.
    """

    def _call(self, x: Tensor) -> Tensor:
        below = vec_to_tril_matrix(x, diag=-1)
        diagonal = torch.eye(below.shape[-1], dtype=x.dtype, device=x.device)
        lengths = _log_lengths(below).exp().clamp_min(torch.finfo(x.dtype).tiny)
        return (below.tanh() + diagonal) * lengths.tril()

    def _inverse(self, y: Tensor) -> Tensor:
        rest = y.square().flip(-1).cumsum(-1).flip(-1).sqrt()
        row, column = torch.tril_indices(y.shape[-1], y.shape[-1], offset=-1)
        return torch.asinh(y[..., row, column] / rest[..., row, column + 1])

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor, intermediates: Any = None) -> Tensor:
        """The log absolute determinant, from x alone, since y may be rounded."""
        below = vec_to_tril_matrix(x, diag=-1)
        each = 2 * _log_sech(below) + _log_lengths(below)
        return each.tril(-1).sum((-2, -1))


def _log_sech(x: Tensor) -> Tensor:
    distance = x.abs()
    return math.log(2) - distance - softplus(-2 * distance)


def _log_lengths(below: Tensor) -> Tensor:
    """The log of what the entries to the left of each entry leave of a row of length 1."""
    return pad(_log_sech(below).tril(-1).cumsum(-1)[..., :-1], (1, 0))
