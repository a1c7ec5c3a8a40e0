"""Independent entries, each with a location from a network and a scale from one of five sources."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.distributions import ReportingDistribution, soft_clamp
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.runtime.modes import evaluating
from lowerbound.settings import is_positive_number

Scale = float | Literal["network", "shared", "elementwise", "optimal"]
"""Where a scale comes from, see :class:`LocationScale`."""

# The weight of a new batch in the running estimate of an optimal scale.
_MOMENTUM = 0.1


class LocationScale(Parametric):
    r"""A conditional of independent entries with a location and a scale each.

    The network gives the locations. The scale of an entry is

    - ``scale="network"``: an output of the network. The outputs are split along the first dimension
      of the event into locations and log variances :math:`v`: an event ``[J]`` needs the outputs
      ``[2J]``, and an event ``[C, H, W]`` needs ``[2C, H, W]``;
    - ``scale="shared"``: one learned value;
    - ``scale="elementwise"``: one learned value for each entry of the event;
    - ``scale="optimal"``: one value, the scale under which the data so far are most probable,
      in closed form. Some families have it, such as :class:`lowerbound.Gaussian`;
    - a positive number: this scale, fixed.

    In all cases but the last, :math:`\log\sigma = \tfrac12 \operatorname{clamp}(v)`, where a smooth
    clamp keeps every scale between ``min_scale`` and ``max_scale``. It is the identity except near
    these two.

    To write your own: subclass, and write

    - :meth:`make_distribution`, from locations and log scales to the distribution;
    - :meth:`fit_marginal`, from data to the location and squared scale of each entry;
    - for ``scale="optimal"``, the class attribute ``optimal_power``, p, if the most probable scale
      is the mean of ``deviation ** p`` to the power 1 / p. Deviations are absolute differences from
      the location, unless :meth:`find_deviations` is overridden.

    Args:
        network: from the input to the parameters.
        scale: where the scale comes from.
        mean: ``"identity"``, or ``"sigmoid"`` for locations in [0, 1].
        min_scale: the smallest value of a scale that is not fixed.
        max_scale: the largest value of such a scale.

    Raises:
        SettingsError: for a scale that is none of these, or bounds too close to each other.
        ShapeError: if the output cannot be split in two, or an elementwise scale is requested and
            the network does not declare its ``output_shape``.
    """

    optimal_power: int | None = None
    """The power p of deviations whose mean gives the optimal scale; ``None`` if none does."""

    deviation: Tensor
    deviation_weight: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: Scale = "network",
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
                f"{self._name}: mean={mean!r} is unknown; choose 'identity' or 'sigmoid'"
            )
        check_scale_limits(self)
        self._declare_scale()

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _declare_scale(self) -> None:
        declared: Shape | None = getattr(self.network, "output_shape", None)
        if self.scale == "network":
            if declared is not None and declared[0] % 2:
                raise ShapeError(
                    f"{self._name}: a network with output shape {declared} cannot be split into "
                    f"mean and log variance; let it give {(2 * declared[0], *declared[1:])}, or "
                    "pass scale='shared' or a number"
                )
        elif self.scale == "shared":
            self.log_variance = nn.Parameter(torch.zeros(()))
        elif self.scale == "elementwise":
            if declared is None:
                raise ShapeError(
                    f"{self._name}: scale='elementwise' needs a network that declares its "
                    "output_shape"
                )
            self.log_variance = nn.Parameter(torch.zeros(declared))
        elif self.scale == "optimal" and self.optimal_power is not None:
            self.learns_from_scores = True
            self.register_buffer("deviation", torch.zeros(()))
            self.register_buffer("deviation_weight", torch.zeros(()))
        elif is_positive_number(self.scale):
            self.register_buffer("log_scale", torch.tensor(math.log(self.scale)), persistent=False)
        else:
            learned = ["network", "shared", "elementwise"]
            if self.optimal_power is not None:
                learned.append("optimal")
            choices = ", ".join(map(repr, learned))
            raise SettingsError(
                f"{self._name}: scale={self.scale!r} is unknown; choose {choices} or a positive "
                "number"
            )

    @abstractmethod
    def make_distribution(self, loc: Tensor, log_scale: Tensor) -> Distribution:
        """The distribution of these locations and log scales.

        Args:
            loc: ``[*leading, *event]``; an event has ``self.event_dims`` dimensions.
            log_scale: in a shape that broadcasts with ``loc``.
        """

    @abstractmethod
    def fit_marginal(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The location and the squared scale of each entry of data, by moments.

        Args:
            x: ``[N, *event]``; NaN where an entry was not observed.

        Returns:
            Two tensors ``[*event]``. The location is an output of the network: before a sigmoid.
        """

    def find_deviations(self, value: Tensor, loc: Tensor) -> Tensor:
        """The distances between values and locations, in the unit of the scale."""
        return (value - loc).abs()

    def from_parameters(self, raw: Tensor) -> Distribution:
        """The distribution of these outputs of the network."""
        if self.scale == "network":
            raw, log_variance = raw.chunk(2, -self.event_dims)
            log_scale = self._bound_log_scale(log_variance)
        elif self.scale == "optimal":
            log_scale = self._bound_log_scale(self._find_optimal_log_variance(raw.dtype))
        elif isinstance(self.scale, str):
            log_scale = self._bound_log_scale(self.log_variance).to(raw.dtype)
        else:
            log_scale = cast(Tensor, self.log_scale).to(raw.dtype)
        if self.mean == "sigmoid":
            raw = raw.sigmoid()
        p = self.make_distribution(raw, log_scale)
        if self.scale == "optimal" and self.training and torch.is_grad_enabled():
            return ReportingDistribution(p, partial(self._update_deviation, raw))
        return p

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The location of each entry, and its log variance if the network gives scales."""
        loc, squared_scale = self.fit_marginal(x)
        if self.scale != "network":
            return loc
        return torch.cat([loc, self._find_log_variance(squared_scale)])

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set a scale that is not fixed, and the network's bias, to the moments of the data."""
        # First the scale, because the weights of the last layer are scaled by what it allows.
        if self.scale in ("shared", "elementwise", "optimal"):
            self._start_scale(self._find_log_variance(self.fit_marginal(x)[1]))
        with evaluating(self):
            super().start_from(x, **fields)

    def _start_scale(self, log_variance: Tensor) -> None:
        """Set a scale that is not the network's, given the log variance of each entry."""
        if self.scale == "elementwise":
            self.log_variance.copy_(log_variance)
            return
        log_variance = log_variance.exp().mean().log()
        if self.scale == "shared":
            self.log_variance.copy_(log_variance)
            return
        # As after one batch.
        self.deviation.copy_(_MOMENTUM * (0.5 * cast(int, self.optimal_power) * log_variance).exp())
        self.deviation_weight.fill_(_MOMENTUM)

    def invert_mean(self, mean: Tensor) -> Tensor:
        """The output of the network that gives this mean."""
        if self.mean == "sigmoid":
            return mean.logit(eps=1e-3)
        return mean

    def _bound_log_scale(self, log_variance: Tensor) -> Tensor:
        return bound_log_scale(self, log_variance)

    def _find_log_variance(self, squared_scale: Tensor) -> Tensor:
        """The log of squared scales, well within the limits of the scale."""
        low, high = 2 * math.log(self.min_scale), 2 * math.log(self.max_scale)
        return squared_scale.log().clamp(low + 1, high - 1)

    def _find_optimal_log_variance(self, dtype: torch.dtype) -> Tensor:
        """Twice the log of the optimal scale so far, or 0 if nothing was seen yet."""
        tiny = torch.finfo(dtype).tiny
        deviation, weight = self.deviation.to(dtype), self.deviation_weight.to(dtype)
        average = (deviation / weight.clamp(min=tiny)).clamp(min=tiny)
        log_variance = 2 / cast(int, self.optimal_power) * average.log()
        return torch.where(weight > 0, log_variance, 0.0)

    def _update_deviation(self, loc: Tensor, value: Tensor, observed: Tensor | None) -> None:
        with torch.no_grad():  # not as a decorator, which the compiler does not follow
            powers = self.find_deviations(value, loc) ** cast(int, self.optimal_power)
            counts = torch.ones_like(powers)
            if observed is not None:
                counts = counts * observed
            total = counts.sum()
            average = (powers * counts).sum() / total.clamp(min=1)
            weight = (_MOMENTUM * total.clamp(max=1)).to(self.deviation.dtype)
            # Both decay alike, so their ratio is an average from the first batch on.
            self.deviation.lerp_(average.to(self.deviation.dtype), weight)
            self.deviation_weight.lerp_(torch.ones_like(self.deviation_weight), weight)


class _ScaleLimits(Protocol):
    min_scale: float
    max_scale: float


def check_scale_limits(conditional: _ScaleLimits) -> None:
    """Refuse limits of a scale between which there is not enough room.

    Raises:
        SettingsError: naming both.
    """
    low, high = conditional.min_scale, conditional.max_scale
    are_positive = is_positive_number(low) and is_positive_number(high)
    if not are_positive or not low * math.e < high / math.e:
        raise SettingsError(
            f"{type(conditional).__name__}: min_scale={low!r} and max_scale={high!r} must be "
            "positive numbers, and max_scale more than e^2 times min_scale"
        )


def bound_log_scale(conditional: _ScaleLimits, log_variance: Tensor) -> Tensor:
    """Half of a log variance, smoothly bounded by the limits of the conditional's scale."""
    return 0.5 * soft_clamp(
        log_variance, 2 * math.log(conditional.min_scale), 2 * math.log(conditional.max_scale)
    )
