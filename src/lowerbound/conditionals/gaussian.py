"""Gaussians with parameters from a network: diagonal, of full rank, and of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal

from lowerbound.conditionals.base import (
    Conditional,
    Parametric,
    event_dims_of,
    to_full_precision,
)
from lowerbound.conditionals.moments import average_entries, spread_entries
from lowerbound.describe import describable
from lowerbound.distributions import DiagonalNormal, TriangularNormal, soft_clamp
from lowerbound.errors import SettingsError, ShapeError
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
class Gaussian(Parametric):
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

    Args:
        network: from the input to the parameters.
        scale: ``"network"``: the network gives a scale for every entry of every event.
            ``"shared"``: one learned scale. ``"elementwise"``: one learned scale for each entry of
            the event. A positive number: this scale, fixed.
        mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1].
        min_scale: the smallest value of a learned scale, in the unit of the data.
        max_scale: its ceiling.

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

    def __init__(
        self,
        network: nn.Module,
        scale: float | Literal["network", "shared", "elementwise"] = "network",
        mean: Literal["identity", "sigmoid"] = "identity",
        min_scale: float = 1e-3,
        max_scale: float = 1e3,
    ) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.mean = mean
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.event_dims = event_dims_of(network)
        if mean not in ("identity", "sigmoid"):
            raise SettingsError(
                f"Gaussian: mean={mean!r} is unknown; choose 'identity' or 'sigmoid'"
            )
        check_scale_limits(self)
        self._declare_scale()

    def _declare_scale(self) -> None:
        declared: Shape | None = getattr(self.network, "output_shape", None)
        if self.scale == "network":
            if declared is not None and declared[0] % 2:
                raise ShapeError(
                    f"Gaussian: a network with output shape {declared} cannot be split into mean "
                    f"and log variance; let it give {(2 * declared[0], *declared[1:])}, or pass "
                    "scale='shared' or a number"
                )
        elif self.scale == "shared":
            self.log_variance = nn.Parameter(torch.zeros(()))
        elif self.scale == "elementwise":
            if declared is None:
                raise ShapeError(
                    "Gaussian: scale='elementwise' needs a network that declares its output_shape"
                )
            self.log_variance = nn.Parameter(torch.zeros(declared))
        elif isinstance(self.scale, int | float) and 0 < self.scale < math.inf:
            self.register_buffer("log_scale", torch.tensor(math.log(self.scale)), persistent=False)
        else:
            raise SettingsError(
                f"Gaussian: scale={self.scale!r} is unknown; choose 'network', 'shared', "
                "'elementwise' or a positive number"
            )

    def from_parameters(self, raw: Tensor) -> DiagonalNormal:
        """The Gaussian of these outputs of the network."""
        if self.scale == "network":
            raw, log_variance = raw.chunk(2, -self.event_dims)
            log_scale = self._bound_log_scale(log_variance)
        elif isinstance(self.scale, str):
            log_scale = self._bound_log_scale(self.log_variance).to(raw.dtype)
        else:
            log_scale = cast(Tensor, self.log_scale).to(raw.dtype)
        if self.mean == "sigmoid":
            raw = raw.sigmoid()
        return DiagonalNormal(raw, log_scale, self.event_dims)

    def _bound_log_scale(self, log_variance: Tensor) -> Tensor:
        return bound_log_scale(self, log_variance)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The mean of each entry, and its log variance if the network gives scales."""
        mean = average_entries(x)
        if self.mean == "sigmoid":
            mean = mean.logit(eps=1e-3)
        if self.scale != "network":
            return mean
        return torch.cat([mean, self._find_log_variance(x)])

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the network's bias, and a learned scale, to the moments of the data."""
        # First the scale, because the weights of the last layer are scaled by what it allows.
        if self.scale == "shared":
            self.log_variance.copy_(self._find_log_variance(x).exp().mean().log())
        elif self.scale == "elementwise":
            self.log_variance.copy_(self._find_log_variance(x))
        super().start_from(x, **fields)

    def _find_log_variance(self, x: Tensor) -> Tensor:
        """The log variance of each entry, well within the limits of the scale."""
        low, high = 2 * math.log(self.min_scale), 2 * math.log(self.max_scale)
        return spread_entries(x).log().clamp(low + 1, high - 1)


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
        min_scale: the floor of the diagonal of ``L``.
        max_scale: its ceiling.

    Raises:
        ShapeError: if the network declares a number of outputs that is not ``J (J + 3) / 2`` for
            any ``J``.

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
        min_scale: the floor of ``sigma``.
        max_scale: its ceiling.

    Raises:
        SettingsError: for a rank that is not a whole number of at least 1.
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

    def from_parameters(self, raw: Tensor) -> LowRankMultivariateNormal:
        """The Gaussian of these outputs of the network."""
        size = raw.shape[-1] // (2 + self.rank)
        loc, log_variance, columns = raw.split((size, size, size * self.rank), -1)
        variance = (2 * bound_log_scale(self, log_variance)).exp()
        return LowRankMultivariateNormal(
            loc, columns.unflatten(-1, (size, self.rank)), variance, validate_args=False
        )


def mean_field(size: int) -> Gaussian:
    """The mean-field posterior of :class:`lowerbound.LogJoint`.

    Every dimension has its own Gaussian, N(0, 1) at the start.

    Example:
        >>> mean_field(3)().event_shape
        torch.Size([3])
    """
    return Gaussian(constant(2 * size), min_scale=1e-6, max_scale=1e6)


def full_rank(size: int) -> FullRankGaussian:
    """The full-rank posterior of :class:`lowerbound.LogJoint`.

    It is a Gaussian with any covariance, N(0, I) at the start.

    Example:
        >>> full_rank(3)().covariance_matrix.detach()
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    return FullRankGaussian(constant(size * (size + 3) // 2))


def low_rank(rank: int) -> Callable[[int], LowRankGaussian]:
    """A posterior of :class:`lowerbound.LogJoint` with ``rank`` directions of correlation.

    It is used as ``LogJoint(f, low_rank(3), ...)``.

    Example:
        >>> low_rank(2)(5)().covariance_matrix.shape
        torch.Size([5, 5])
    """
    return lambda size: LowRankGaussian(constant(size * (2 + rank), spread=0.01), rank)


class _ScaleLimits(Protocol):
    min_scale: float
    max_scale: float


def check_scale_limits(conditional: _ScaleLimits) -> None:
    """Check ``min_scale`` and ``max_scale``.

    Raises:
        SettingsError: if they are not positive, or too close to each other.
    """
    low, high = conditional.min_scale, conditional.max_scale
    if not 0 < low * math.e < high / math.e < math.inf:
        raise SettingsError(
            f"{type(conditional).__name__}: min_scale={low} and max_scale={high} must be positive, "
            "and max_scale more than e^2 times min_scale"
        )


def bound_log_scale(conditional: _ScaleLimits, log_variance: Tensor) -> Tensor:
    """The logarithm of a scale between ``min_scale`` and ``max_scale``, from a log variance."""
    return 0.5 * soft_clamp(
        log_variance, 2 * math.log(conditional.min_scale), 2 * math.log(conditional.max_scale)
    )
