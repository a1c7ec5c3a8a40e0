"""Modules that return distributions: priors, posteriors and likelihoods are all of this one kind."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.describe import KINDS, describable
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli, soft_clamp
from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.networks import Shape, as_shape

_HALF = (torch.float16, torch.bfloat16)


class Conditional(nn.Module, ABC):
    """A distribution that depends on what it is given: ``forward(*given)`` returns a ``torch.distributions.Distribution``.

    A prior p(z) is given nothing, an encoder q(z given x) is given x ``[B, *event]``, a decoder p(x given z) is given z
    ``[K, B, J]`` and must keep the leading dimensions as the batch shape of what it returns.

    To write your own: subclass :class:`Parametric` if a network gives all parameters, else this class, and return a
    distribution from ``forward``. Override :meth:`check_data` if data can lie outside of the support.
    Any other module whose ``forward`` returns a distribution, such as a flow of the library zuko, serves as well.
    """

    network_dtype: torch.dtype | None = None  # see networks_in

    @abstractmethod
    def forward(self, *given: Tensor) -> Distribution:
        """The distribution, given these values."""

    def extra_repr(self) -> str:
        """The settings of a describable conditional, apart from its network."""
        if type(self).__name__ not in KINDS:
            return ""
        names = [name for name in inspect.signature(type(self)).parameters if name != "network"]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data") -> None:
        """Refuse observations outside of the distribution's support, by name.

        Args:
            x: observations as they would be scored, ``[B, *event]``.
            rows: their positions in the dataset, ``[B]``.
            name: what the message calls the dataset.

        Raises:
            DataError: if there is something to refuse.
        """

    def parameters_from(self, network: nn.Module, *given: Tensor) -> Tensor:
        """The network's output, in float32 at least: terms of a bound are never computed in half precision."""
        own = next((parameter.dtype for parameter in network.parameters()), None)
        if own in _HALF:
            given = tuple(value.to(own) for value in given)
        if own == torch.float32 and self.network_dtype is not None and given:
            with torch.autocast(given[0].device.type, self.network_dtype, cache_enabled=False):
                raw: Tensor = network(*given)
        else:
            raw = network(*given)
        return raw.float() if raw.dtype in _HALF else raw


@contextmanager
def networks_in(model: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Within the block, networks of a model's conditionals multiply matrices in this floating type.

    Their parameters stay as they are, and so does everything after their output: terms of a bound are computed in float32. A
    flow of another library is not a conditional of ours, and computes as ever.
    """
    ours = [] if dtype is None else [module for module in model.modules() if isinstance(module, Conditional)]
    for module in ours:
        module.network_dtype = dtype
    try:
        yield
    finally:
        for module in ours:
            module.network_dtype = None


class Parametric(Conditional):
    """A conditional whose parameters are the output of ``self.network``, which can therefore be refined for each example.

    To write your own: subclass, keep the network under ``self.network``, and return a distribution from
    :meth:`from_parameters`.
    """

    network: nn.Module

    @abstractmethod
    def from_parameters(self, raw: Tensor) -> Distribution:
        """The distribution of these outputs of the network, ``[*leading, *outputs]``."""

    def forward(self, *given: Tensor) -> Distribution:
        """The distribution, given these values."""
        return self.from_parameters(self.parameters_from(self.network, *given))


def event_dims_of(network: nn.Module) -> int:
    """How many trailing dimensions of a network's output make one event; 1 where the network does not declare it."""
    return len(getattr(network, "output_shape", None) or (1,))


@describable
class StandardNormal(Conditional):
    """N(0, I) over events of a given shape; whatever it is given, it ignores.

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
        zeros = self.zeros.float() if self.zeros.dtype in _HALF else self.zeros
        return DiagonalNormal(zeros, zeros, len(self.shape))


@describable
class Gaussian(Parametric):
    r"""A diagonal Gaussian whose mean, and by default whose scale, a network gives.

    .. math:: N(y; \mu(\cdot), \operatorname{diag} \sigma(\cdot)^2), \qquad \log\sigma^2 = \operatorname{bound}(v)

    With ``scale="network"`` the network's output is split along the first dimension of the event into mean and log
    variance: a Gaussian over ``[J]`` reads ``[2J]``, one over ``[C, H, W]`` reads ``[2C, H, W]``.

    The log variance passes through a smooth bound that keeps every scale between ``min_scale`` and ``max_scale`` and is
    the identity except near the two. The floor matters for a likelihood: a learned scale makes the bound arbitrarily high
    wherever pixels are constant, so a figure is comparable only with figures for the same floor.

    Args:
        network: from what is given to the parameters.
        scale: ``"network"``: one for every entry of every event, given by the network. ``"shared"``: one learned number.
            ``"elementwise"``: one learned number for each entry of the event. A positive number: fixed at that.
        mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1].
        min_scale: the floor of a learned scale, in the unit of the data.
        max_scale: its ceiling.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is asked of a network that does not declare
            its output's shape.

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
            raise SettingsError(f"Gaussian: mean={mean!r} is unknown; choose 'identity' or 'sigmoid'")
        if not 0 < min_scale * math.e < max_scale / math.e < math.inf:
            raise SettingsError(
                f"Gaussian: min_scale={min_scale} and max_scale={max_scale} must be positive, and max_scale more than "
                "e^2 times min_scale"
            )
        self._declare_scale()

    def _declare_scale(self) -> None:
        declared: Shape | None = getattr(self.network, "output_shape", None)
        if self.scale == "network":
            if declared is not None and declared[0] % 2:
                raise ShapeError(
                    f"Gaussian: a network with output shape {declared} cannot be split into mean and log variance; "
                    f"let it give {(2 * declared[0], *declared[1:])}, or pass scale='shared' or a number"
                )
        elif self.scale == "shared":
            self.log_variance = nn.Parameter(torch.zeros(()))
        elif self.scale == "elementwise":
            if declared is None:
                raise ShapeError("Gaussian: scale='elementwise' needs a network that declares its output_shape")
            self.log_variance = nn.Parameter(torch.zeros(declared))
        elif isinstance(self.scale, int | float) and 0 < self.scale < math.inf:
            self.register_buffer("log_scale", torch.tensor(math.log(self.scale)), persistent=False)
        else:
            raise SettingsError(
                f"Gaussian: scale={self.scale!r} is unknown; choose 'network', 'shared', 'elementwise' or a positive number"
            )

    def from_parameters(self, raw: Tensor) -> DiagonalNormal:
        """The Gaussian of these outputs of the network."""
        if self.scale == "network":
            raw, log_variance = raw.chunk(2, -self.event_dims)
            log_scale = self._bounded_log_scale(log_variance)
        elif isinstance(self.scale, str):
            log_scale = self._bounded_log_scale(self.log_variance).to(raw.dtype)
        else:
            log_scale = cast(Tensor, self.log_scale).to(raw.dtype)
        return DiagonalNormal(raw.sigmoid() if self.mean == "sigmoid" else raw, log_scale, self.event_dims)

    def _bounded_log_scale(self, log_variance: Tensor) -> Tensor:
        return 0.5 * soft_clamp(log_variance, 2 * math.log(self.min_scale), 2 * math.log(self.max_scale))


@describable
class Bernoulli(Parametric):
    r"""Independent binary entries with probabilities from a network, which gives their logits.

    .. math:: \log p(x) = \sum_d \left( x_d \eta_d - \log(1 + e^{\eta_d}) \right)

    Args:
        network: from what is given to the logits ``eta``, ``[*leading, *event]``.

    Example:
        >>> from lowerbound.networks import mlp
        >>> Bernoulli(mlp(2, 32, (1, 8, 8)))(torch.zeros(7, 5, 2)).log_prob(torch.ones(5, 1, 8, 8)).shape
        torch.Size([7, 5])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.event_dims = event_dims_of(network)

    def from_parameters(self, raw: Tensor) -> FactorialBernoulli:
        """The Bernoulli distribution of these logits."""
        return FactorialBernoulli(raw, self.event_dims)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data") -> None:
        """Refuse values that are neither 0 nor 1.

        Raises:
            DataError: for values outside of [0, 1], and for grey values, whose Bernoulli "likelihood" would not be one.
        """
        outside = ((x < 0) | (x > 1)).flatten(1).any(1)
        if outside.any():
            worst = x[outside][0]
            raise DataError(
                f"{name}: a Bernoulli likelihood wants values in [0, 1], but row {int(rows[outside.cpu()][0])} spans "
                f"[{worst.min():.4g}, {worst.max():.4g}]; rescale the data, or use a Gaussian likelihood"
            )
        grey = ((x != 0) & (x != 1)).flatten(1).any(1)
        if grey.any():
            raise DataError(
                f"{name}: row {int(rows[grey.cpu()][0])} has grey values, and a Bernoulli likelihood of those is not a likelihood: "
                "set pixels='binarize' (--pixels binarize) to draw binary pixels at every pass, pixels='binarize-once' to "
                "draw them once, or use a Gaussian likelihood"
            )
