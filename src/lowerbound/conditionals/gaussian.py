"""Gaussians with parameters from a network: diagonal, of full rank, and of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Conditional, Parametric, to_full_precision
from lowerbound.conditionals.location_scale import (
    LocationScale,
    bound_log_scale,
    check_scale_limits,
)
from lowerbound.conditionals.moments import average_entries, estimate_variances
from lowerbound.describe import describable
from lowerbound.distributions import DiagonalNormal, LowRankNormal, TriangularNormal
from lowerbound.errors import ShapeError
from lowerbound.networks import Shape, as_shape, constant
from lowerbound.settings import check_whole_number


@describable
class StandardNormal(Conditional):
    """N(0, I) over events of a given shape. It ignores its input.

    Args:
        shape: the number of dimensions, or the event's shape.

    Example:
        >>> StandardNormal(10)().sample((3,)).shape
        torch.Size([3, 10])
    """

    zeros: Tensor

    def __init__(self, shape: int | Shape) -> None:
        super().__init__()
        self.shape = as_shape(shape)
        self.register_buffer("zeros", torch.zeros(self.shape), persistent=False)

    def forward(self, *given: Tensor) -> DiagonalNormal:
        """N(0, I)."""
        zeros = to_full_precision(self.zeros)
        return DiagonalNormal(zeros, zeros, len(self.shape))


@describable
class Gaussian(LocationScale):
    r"""A diagonal Gaussian whose mean, and by default whose scale, a network gives.

    .. math::

        N(y; \mu(\cdot), \operatorname{diag} \sigma(\cdot)^2), \qquad
        \log\sigma^2 = \operatorname{bound}(v)

    With ``scale="network"`` the network's output is split along the first dimension of the event
    into mean and log variance: a Gaussian over ``[J]`` reads ``[2J]``, one over ``[C, H, W]`` reads
    ``[2C, H, W]``.

    The log variance passes through a smooth bound that keeps every scale between ``min_scale`` and
    ``max_scale``, and is the identity except near these two. The lower limit matters for a
    likelihood: a learned scale makes the bound arbitrarily high wherever pixels are constant, so
    bounds can be compared only if their ``min_scale`` is the same.

    With ``scale="optimal"`` (Rybkin, Daniilidis & Levine 2021, "Simple and effective VAE training
    with calibrated decoders") the scale is not learned by gradients. It is the root of the mean
    squared error, which makes the data most probable. A running average over the batches of the
    training estimates this error. Each step scores its batch with the average of the steps before
    it, so the reported value is a bound in training too. Evaluations leave the average as it is, so
    they do not depend on their batches. The option is for likelihoods.

    Args:
        network: from the input to the parameters.
        scale: ``"network"``: the network gives a scale for every entry of every event.
            ``"shared"``: one learned scale. ``"elementwise"``: one learned scale for each entry of
            the event. ``"optimal"``: one scale, the root of the mean squared error. A positive
            number: this scale, fixed.
        mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1].
        min_scale: the smallest value of a scale that is not fixed, in the unit of the data.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.

    Example:
        >>> from lowerbound.networks import mlp
        >>> q = Gaussian(mlp((1, 8, 8), 32, 20))(torch.zeros(5, 1, 8, 8))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([10]))
    """

    optimal_power = 2

    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> DiagonalNormal:
        """The Gaussian of these means and log scales."""
        return DiagonalNormal(loc, log_scale, self.event_dims)

    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean, before a sigmoid if there is one, and the variance of each entry."""
        return self.invert_mean(average_entries(x)), estimate_variances(x)


@describable
class FullRankGaussian(Parametric):
    r"""A Gaussian with any covariance, whose mean and Cholesky factor a network gives.

    .. math::

        N(y; \mu, L L^\top), \qquad
        L = \operatorname{diag}(\sigma) + \text{a strictly lower triangle}

    Over ``J`` dimensions the network gives ``J`` means, ``J`` log variances, which are bounded as
    those of :class:`Gaussian`, and the ``J (J - 1) / 2`` entries below the diagonal, row by row.

    Args:
        network: from what is given to the parameters, ``[*leading, J (J + 3) / 2]``.
        min_scale: the smallest value on the diagonal of ``L``.
        max_scale: the largest value on the diagonal of ``L``.

    Raises:
        ShapeError: if the network declares a number of outputs that is not ``J (J + 3) / 2`` for
            any ``J``.
        SettingsError: for limits of the scale that are too close to each other.

    Example:
        >>> from lowerbound.networks import mlp
        >>> q = FullRankGaussian(mlp(4, 32, 9))(torch.zeros(5, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def __init__(self, network: nn.Module, min_scale: float = 1e-6, max_scale: float = 1e6) -> None:
        super().__init__()
        self.network = network
        self.min_scale = min_scale
        self.max_scale = max_scale
        check_scale_limits(self)
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None:
            self._find_dimensions(math.prod(declared))

    def from_parameters(self, raw: Tensor) -> TriangularNormal:
        """The Gaussian of these outputs of the network."""
        size = self._find_dimensions(raw.shape[-1])
        loc, log_variance, lower = raw.split((size, size, raw.shape[-1] - 2 * size), -1)
        scale = bound_log_scale(self, log_variance).exp()
        rows, columns = torch.tril_indices(size, size, -1, device=raw.device)
        factor = torch.diag_embed(scale)
        factor[..., rows, columns] = lower
        return TriangularNormal(loc, factor)

    @staticmethod
    def _find_dimensions(outputs: int) -> int:
        """Find J, the positive root of J (J + 3) / 2 = outputs."""
        size = (math.isqrt(9 + 8 * outputs) - 3) // 2
        if size < 1 or size * (size + 3) != 2 * outputs:
            raise ShapeError(
                "FullRankGaussian: a full-rank Gaussian over J dimensions needs J (J + 3) / 2 "
                f"outputs; the network gives {outputs} ({size * (size + 3) // 2} for J = {size}, "
                f"{(size + 1) * (size + 4) // 2} for J = {size + 1})"
            )
        return size


@describable
class LowRankGaussian(Parametric):
    r"""A Gaussian whose covariance is diagonal plus a product of few columns, given by a network.

    .. math:: N(y; \mu, \operatorname{diag}(\sigma^2) + W W^\top), \qquad W \text{ of } J \times r

    Over ``J`` dimensions the network gives ``J`` means, ``J`` log variances and the ``J r`` entries
    of ``W``, row by row.

    Args:
        network: from what is given to the parameters, ``[*leading, J (2 + r)]``.
        rank: r, the number of columns.
        min_scale: the smallest value of ``sigma``.
        max_scale: the largest value of ``sigma``.

    Raises:
        SettingsError: for a rank that is not a whole number of at least 1, or limits of the scale
            that are too close to each other.
        ShapeError: if the network declares a number of outputs that is not a multiple of ``2 + r``.

    Example:
        >>> from lowerbound.networks import mlp
        >>> q = LowRankGaussian(mlp(4, 32, 12), rank=2)(torch.zeros(5, 4))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    def __init__(
        self, network: nn.Module, rank: int, min_scale: float = 1e-6, max_scale: float = 1e6
    ) -> None:
        super().__init__()
        self.network = network
        self.rank = check_whole_number("LowRankGaussian: rank", rank)
        self.min_scale = min_scale
        self.max_scale = max_scale
        check_scale_limits(self)
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None and math.prod(declared) % (2 + self.rank):
            raise ShapeError(
                "LowRankGaussian: a Gaussian over J dimensions needs J (2 + rank) outputs; the "
                f"network gives {math.prod(declared)}, which is not a multiple of 2 + rank = "
                f"{2 + self.rank}"
            )

    def from_parameters(self, raw: Tensor) -> LowRankNormal:
        """The Gaussian of these outputs of the network."""
        size = raw.shape[-1] // (2 + self.rank)
        loc, log_variance, columns = raw.split((size, size, size * self.rank), -1)
        log_scale = bound_log_scale(self, log_variance)
        return LowRankNormal(loc, columns.unflatten(-1, (size, self.rank)), log_scale)


def mean_field(size: int) -> Gaussian:
    r"""The mean-field posterior of :class:`lowerbound.LogJoint`.

    .. math:: q(u) = \prod_j N(u_j; \mu_j, \sigma_j^2)

    Every dimension has its own Gaussian, which is N(0, 1) at the start.

    Args:
        size: the number J of dimensions.

    Example:
        >>> mean_field(3)().event_shape
        torch.Size([3])
    """
    return Gaussian(constant(2 * size), min_scale=1e-6, max_scale=1e6)


def full_rank(size: int) -> FullRankGaussian:
    r"""The full-rank posterior of :class:`lowerbound.LogJoint`.

    .. math:: q(u) = N(u; \mu, L L^\top)

    It is a Gaussian with any covariance, which is N(0, I) at the start.

    Args:
        size: the number J of dimensions.

    Example:
        >>> full_rank(3)().covariance_matrix.detach()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    return FullRankGaussian(constant(size * (size + 3) // 2))


def low_rank(rank: int) -> Callable[[int], LowRankGaussian]:
    r"""A posterior of :class:`lowerbound.LogJoint` with ``rank`` directions of correlation.

    .. math:: q(u) = N(u; \mu, \operatorname{diag}(\sigma^2) + W W^\top)

    It is used as ``LogJoint(f, low_rank(3), ...)``.

    Args:
        rank: the number of columns of W.

    Returns:
        A function from the number J of dimensions to the posterior.

    Example:
        >>> low_rank(2)(5)().covariance_matrix.shape
        torch.Size([5, 5])
    """
    return lambda size: LowRankGaussian(constant(size * (2 + rank), spread=0.01), rank)
