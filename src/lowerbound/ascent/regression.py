"""Coordinate ascent for linear regression with unknown scales."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Gamma, MultivariateNormal

from lowerbound.ascent.base import CoordinateAscent, Factor
from lowerbound.ascent.gaussian import check_positive, expected_gamma_log_prob, expected_log
from lowerbound.errors import DataError

_LOG_TWO_PI = math.log(2 * math.pi)


class LinearRegression(CoordinateAscent):
    r"""Bayesian linear regression with :math:`q(w, \alpha, \beta) = q(w) q(\alpha) q(\beta)`.

    .. math:: y_n \sim N(w^\top x_n, \beta^{-1}), \quad w \sim N(0, \alpha^{-1} I), \quad
        \alpha \sim \operatorname{Gamma}(a_0, b_0), \quad \beta \sim \operatorname{Gamma}(c_0, d_0)

    The last column of the data is ``y``, and the others are ``x`` (Bishop 2006, section 10.3).

    Args:
        concentration: ``a_0`` and ``c_0``.
        rate: ``b_0`` and ``d_0``.

    Raises:
        SettingsError: if one of them is not positive.

    Example:
        >>> table = torch.tensor([[1.0, 2.1], [2.0, 3.9], [3.0, 6.1], [4.0, 7.9]])
        >>> weights = LinearRegression().fit(table).factors["weights"]
        >>> round(float(weights.mean), 1)
        2.0
    """

    def __init__(self, concentration: float = 1e-6, rate: float = 1e-6) -> None:
        check_positive("LinearRegression", concentration=concentration, rate=rate)
        self.concentration = concentration
        self.rate = rate

    def prepare(self, x: Any) -> Tensor:
        """Convert the table to a tensor, ``[N, D + 1]``.

        Raises:
            DataError: if it has fewer than two columns, or all outputs are the same.
        """
        table = super().prepare(x)
        if table.dim() != 2 or table.shape[1] < 2:
            raise DataError(
                "data: expected a table [N, D + 1] with y in its last column, got the shape "
                f"{tuple(table.shape)}"
            )
        if len(table) > 1 and bool((table[:, -1] == table[0, -1]).all()):
            raise DataError(
                f"data: y, the last column, is {float(table[0, -1]):g} in all {len(table)} rows, "
                "so the noise's precision would be unbounded; give outputs that vary"
            )
        return table

    def start(self, x: Tensor, generator: torch.Generator) -> dict[str, Factor]:
        """Start with optimal weights for a prior precision of 1 and the outputs' own precision."""
        one = x.new_ones(())
        weights_precision = Gamma(one, one)
        noise_precision = Gamma(
            one, x[:, -1].var(correction=0).clamp(min=torch.finfo(x.dtype).tiny)
        )
        weights = self._update_weights(x, weights_precision, noise_precision)
        return {
            "weights": weights,
            "weights_precision": weights_precision,
            "noise_precision": noise_precision,
        }

    def update(self, name: str, factors: Mapping[str, Any], x: Tensor) -> Factor:
        """Compute a Gaussian for the weights, or a gamma distribution for a precision."""
        weights = factors["weights"]
        if name == "weights":
            return self._update_weights(x, factors["weights_precision"], factors["noise_precision"])
        if name == "weights_precision":
            count, squares = weights.event_shape.numel(), self._expected_square_of_weights(weights)
        else:
            count, squares = len(x), self._expected_square_of_residuals(weights, x)
        return Gamma(x.new_tensor(self.concentration + 0.5 * count), self.rate + 0.5 * squares)

    def expected_log_joint(self, factors: Mapping[str, Any], x: Tensor) -> Tensor:
        """Sum the terms of the likelihood, the weights and the precisions."""
        weights, alpha, beta = (
            factors[name] for name in ("weights", "weights_precision", "noise_precision")
        )
        likelihood = len(x) * (
            expected_log(beta) - _LOG_TWO_PI
        ) - beta.mean * self._expected_square_of_residuals(weights, x)
        prior = weights.event_shape.numel() * (
            expected_log(alpha) - _LOG_TWO_PI
        ) - alpha.mean * self._expected_square_of_weights(weights)
        hyper = [
            expected_gamma_log_prob(gamma, self.concentration, self.rate) for gamma in (alpha, beta)
        ]
        found: Tensor = 0.5 * (likelihood + prior) + hyper[0] + hyper[1]
        return found

    @staticmethod
    def _update_weights(x: Tensor, alpha: Gamma, beta: Gamma) -> MultivariateNormal:
        inputs, outputs = x[:, :-1], x[:, -1]
        # Singular values are used because inputs.T @ inputs would square the ratio of the columns'
        # scales, so that rounding would destroy the smallest.
        left, values, right = torch.linalg.svd(
            inputs, full_matrices=inputs.shape[0] < inputs.shape[1]
        )
        values = torch.cat([values, values.new_zeros(len(right) - len(values))])
        left = torch.cat([left, left.new_zeros(len(left), len(values) - left.shape[1])], 1)
        precision = alpha.mean + beta.mean * values.square()
        mean = right.mT @ (beta.mean * values / precision * (left.mT @ outputs))
        triangle = torch.linalg.qr(right / precision.sqrt()[:, None]).R
        return MultivariateNormal(mean, scale_tril=triangle.mT * triangle.diagonal().sign())

    @staticmethod
    def _expected_square_of_weights(weights: MultivariateNormal) -> Tensor:
        """``E |w|^2``."""
        return weights.mean.square().sum() + weights.variance.sum()

    @staticmethod
    def _expected_square_of_residuals(weights: MultivariateNormal, x: Tensor) -> Tensor:
        """``E |y - X w|^2``."""
        inputs, outputs = x[:, :-1], x[:, -1]
        shift = outputs - inputs @ weights.mean
        return shift.square().sum() + (inputs @ weights.scale_tril).square().sum()
