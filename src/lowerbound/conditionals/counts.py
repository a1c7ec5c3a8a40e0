"""Likelihoods of counts: Poisson and negative binomial, with an exposure for each example."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.moments import (
    average_entries,
    find_inverse_dispersions,
    find_rates,
)
from lowerbound.conditionals.refusing import refuse_outside
from lowerbound.data.fields import EXPOSURE
from lowerbound.describe import describable
from lowerbound.distributions import FactorialNegativeBinomial, FactorialPoisson, soft_clamp
from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.networks import Shape, set_output_bias
from lowerbound.settings import check_flag, is_positive_number

# Logarithms of means and of inverse dispersions stay within these limits, and change only near
# them. The means are from 1e-13 to 1e13.
_LARGEST_LOG_MEAN = 30.0
_LOG_DISPERSIONS = (-10.0, 18.0)

# The start from the data does not assume a more extreme inverse dispersion.
_STARTING_DISPERSIONS = (0.05, 100.0)


class _Counts(Parametric):
    """A likelihood of counts whose network gives the logarithms of rates first."""

    def __init__(self, network: nn.Module, exposure: bool, shares: bool) -> None:
        super().__init__()
        self.network = network
        self.exposure = check_flag(f"{type(self).__name__}: exposure", exposure)
        self.shares = check_flag(f"{type(self).__name__}: shares", shares)
        self.event_dims = event_dims_of(network)
        if exposure:
            self.needs = (EXPOSURE,)

    @abstractmethod
    def _split(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Split the network's outputs: the log rates, and those of other parameters, if any."""

    @abstractmethod
    def _make(self, log_mean: Tensor, *others: Tensor) -> Any:
        """Make the distribution of these log means and other parameters."""

    def forward(self, *given: Any, **fields: Any) -> Any:
        """The distribution, given these values and the exposures if it needs them."""
        exposure = fields.pop(EXPOSURE, None)
        raw = self.parameters_from(self.network, *given, **fields)
        if exposure is None:
            return self.from_parameters(raw)
        log_rate, *others = self._find_log_rates(raw)
        return self._make_bounded(log_rate + self._align(exposure).to(raw.dtype).log(), *others)

    def from_parameters(self, raw: Tensor) -> Any:
        """The distribution of these outputs of the network, at exposure 1."""
        return self._make_bounded(*self._find_log_rates(raw))

    def _find_log_rates(self, raw: Tensor) -> tuple[Tensor, ...]:
        """Find the log rates and the other parameters, if any, from the network's outputs."""
        log_rate, *others = self._split(raw)
        if self.shares:
            entries = tuple(range(-self.event_dims, 0))
            log_rate = log_rate - log_rate.logsumexp(entries, keepdim=True)
        return log_rate, *others

    def _make_bounded(self, log_mean: Tensor, *others: Tensor) -> Any:
        return self._make(soft_clamp(log_mean, -_LARGEST_LOG_MEAN, _LARGEST_LOG_MEAN), *others)

    def _align(self, exposure: Tensor) -> Tensor:
        """Bring exposures ``[B]`` or ``[B, *event]`` to a shape that broadcasts with the means."""
        return exposure.reshape(*exposure.shape, *(1,) * (self.event_dims + 1 - exposure.dim()))

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the bias of the network's last layer to the moments of the counts."""
        exposure = x.new_ones(len(x))
        if self.exposure:
            exposure = fields[EXPOSURE].to(x.dtype)
        exposure = self._align(exposure).expand_as(x).masked_fill(x.isnan(), math.nan)
        outputs = self._fit(x, exposure)
        # How far an output may move for one nat depends on the mean, so use that of the counts.
        log_rate, *others = self._split(outputs)
        means = torch.cat([log_rate + average_entries(exposure).log(), *others])
        set_output_bias(self.network, outputs, self._find_one_nat_steps(means))

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The logarithms of the means, and of the inverse dispersions if the network gives them."""
        exposure = torch.ones_like(x).masked_fill(x.isnan(), math.nan)
        return self._find_outputs(x, exposure)

    def _fit(self, x: Tensor, exposure: Tensor) -> Tensor:
        """Find the network's outputs from counts and their exposures, and set own parameters."""
        return self._find_outputs(x, exposure)

    def _find_outputs(self, x: Tensor, exposure: Tensor) -> Tensor:
        """Find the network's outputs from counts and their exposures, ``[N, *event]`` both."""
        return find_rates(x, exposure).log()

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not counts.

        Raises:
            DataError: naming the first such row.
        """
        refuse_outside(
            x,
            (x < 0) | (x != x.round()),
            rows,
            f"a {type(self).__name__} likelihood takes counts, which are whole numbers from 0 on; "
            "give the counts themselves, neither normalised nor as logarithms; pass kind='counts' "
            "(--kind counts) if 8-bit values are counts, or use a density such as lb.Gaussian",
            name,
        )

    def check_fields(self, fields: Mapping[str, Tensor], rows: Tensor, name: str = "data") -> None:
        """Refuse exposures that are not positive, or have neither one value nor one for each entry.

        Raises:
            DataError: naming the first such row.
        """
        exposure = fields.get(EXPOSURE)
        if exposure is None or not self.exposure:
            return
        where = f"{name}: the field {EXPOSURE!r}"
        if exposure.dim() not in (1, 1 + self.event_dims):
            raise DataError(
                f"{where} has the shape {tuple(exposure.shape[1:])} for each example; give one "
                "exposure for each example, or one for each of its entries"
            )
        bad = ~(exposure > 0).reshape(len(exposure), -1)
        if bool(bad.any()):
            place = int(bad.any(1).nonzero()[0])
            worst = exposure.reshape(len(exposure), -1)[place][bad[place]][0].item()
            raise DataError(
                f"{where} is {worst:g} in row {int(rows[place])}, and an exposure must be "
                "positive. If it is the sum of the counts, as it is by default, then drop the rows "
                "that have no counts"
            )


@describable
class Poisson(_Counts):
    r"""Independent counts with a Poisson distribution, whose log rates a network gives.

    .. math:: \log p(x) = \sum_d \left( x_d \log\mu_d - \mu_d - \log x_d! \right), \qquad
        \mu_d = e \cdot \exp(r_d)

    Large counts are scored accurately in float32, see
    :class:`~lowerbound.distributions.FactorialPoisson`.

    Args:
        network: from the input to the log rates r, ``[*leading, *event]``.
        exposure: whether each example has an exposure e, by which its rates are multiplied: the
            field ``exposure``, positive, ``[N]``, or ``[N, *event]`` for one of each entry. For
            examples of ``kind="counts"`` without this field it is the sum of their counts. If
            False, e is 1.
        shares: whether the rates are shares, which sum to 1 over the entries:
            :math:`\exp(r_d) / \sum_c \exp(r_c)` in place of :math:`\exp(r_d)`. The exposure is then
            the expected sum of the counts.

    Raises:
        SettingsError: for an exposure or shares that are not True or False.
        DataError: before training or evaluation, for values that are not counts and exposures that
            are not positive; the message names the row.

    Example:
        >>> import torch, lowerbound as lb
        >>> p = Poisson(lb.mlp(2, 32, 6), exposure=True)
        >>> x = p(torch.zeros(7, 5, 2), exposure=torch.full((5,), 1000.0))
        >>> x.batch_shape, x.event_shape
        (torch.Size([7, 5]), torch.Size([6]))
    """

    def __init__(self, network: nn.Module, exposure: bool = False, shares: bool = False) -> None:
        super().__init__(network, exposure, shares)

    def _split(self, raw: Tensor) -> tuple[Tensor, ...]:
        return (raw,)

    def _make(self, log_mean: Tensor, *others: Tensor) -> FactorialPoisson:
        return FactorialPoisson(log_mean, self.event_dims)


@describable
class NegativeBinomial(_Counts):
    r"""Independent counts with a negative binomial distribution, which varies more than Poisson's.

    .. math:: \operatorname{E} x_d = \mu_d = e \cdot \exp(r_d), \qquad
        \operatorname{Var} x_d = \mu_d + \mu_d^2 / \theta_d

    :math:`\theta` is the inverse dispersion: the larger it is, the closer the distribution is to
    Poisson's. With ``dispersion="network"`` the network's output is split along the first dimension
    of the event into log rates r and :math:`\log\theta`: counts ``[D]`` need the output ``[2 D]``,
    and ``[C, H, W]`` need ``[2 C, H, W]``. Large counts are scored accurately in float32, see
    :class:`~lowerbound.distributions.FactorialNegativeBinomial`.

    Args:
        network: from the input to the log rates, and to :math:`\log\theta` if it gives that.
        dispersion: ``"network"``: the network gives :math:`\theta` for every entry of every
            example. ``"elementwise"``: one learned value for each entry. ``"shared"``: one learned
            value. A positive number: this value of :math:`\theta`, fixed.
        exposure: whether each example has an exposure e, by which its rates are multiplied: the
            field ``exposure``, positive, ``[N]``, or ``[N, *event]`` for one of each entry. For
            examples of ``kind="counts"`` without this field it is the sum of their counts. If
            False, e is 1.
        shares: whether the rates are shares, which sum to 1 over the entries:
            :math:`\exp(r_d) / \sum_c \exp(r_c)` in place of :math:`\exp(r_d)`. The exposure is then
            the expected sum of the counts.

    Raises:
        SettingsError: for a dispersion that is none of these, or an exposure or shares that are not
            True or False.
        ShapeError: if the output cannot be split in two, or an elementwise dispersion is requested
            and the network does not declare its ``output_shape``.
        DataError: before training or evaluation, for values that are not counts and exposures that
            are not positive; the message names the row.

    Source: Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics".

    Example:
        >>> import torch, lowerbound as lb
        >>> p = NegativeBinomial(lb.mlp(2, 32, 6), dispersion="elementwise", exposure=True)
        >>> x = p(torch.zeros(7, 5, 2), exposure=torch.full((5,), 1000.0))
        >>> x.batch_shape, x.event_shape
        (torch.Size([7, 5]), torch.Size([6]))
    """

    def __init__(
        self,
        network: nn.Module,
        dispersion: float | Literal["network", "elementwise", "shared"] = "network",
        exposure: bool = False,
        shares: bool = False,
    ) -> None:
        super().__init__(network, exposure, shares)
        self.dispersion = dispersion
        self._declare_dispersion()

    def _declare_dispersion(self) -> None:
        declared: Shape | None = getattr(self.network, "output_shape", None)
        if self.dispersion == "network":
            if declared is not None and declared[0] % 2:
                raise ShapeError(
                    f"NegativeBinomial: a network with output shape {declared} cannot be split "
                    "into rates and inverse dispersions; let it give "
                    f"{(2 * declared[0], *declared[1:])}, or pass dispersion='elementwise', "
                    "'shared' or a number"
                )
        elif self.dispersion == "shared":
            self.log_inverse_dispersion = nn.Parameter(torch.zeros(()))
        elif self.dispersion == "elementwise":
            if declared is None:
                raise ShapeError(
                    "NegativeBinomial: dispersion='elementwise' needs a network that declares its "
                    "output_shape"
                )
            self.log_inverse_dispersion = nn.Parameter(torch.zeros(declared))
        elif is_positive_number(self.dispersion):
            fixed = torch.tensor(math.log(self.dispersion))
            self.register_buffer("log_inverse_dispersion", fixed, persistent=False)
        else:
            raise SettingsError(
                f"NegativeBinomial: dispersion={self.dispersion!r} is unknown; choose 'network', "
                "'elementwise', 'shared' or a positive number"
            )

    def _split(self, raw: Tensor) -> tuple[Tensor, ...]:
        if self.dispersion == "network":
            return raw.chunk(2, -self.event_dims)
        return (raw,)

    def _make(self, log_mean: Tensor, *others: Tensor) -> FactorialNegativeBinomial:
        (log_dispersion,) = others or (cast(Tensor, self.log_inverse_dispersion),)
        log_dispersion = soft_clamp(log_dispersion.to(log_mean.dtype), *_LOG_DISPERSIONS)
        return FactorialNegativeBinomial(log_mean, log_dispersion, self.event_dims)

    def _fit(self, x: Tensor, exposure: Tensor) -> Tensor:
        mean = exposure * find_rates(x, exposure)
        if self.dispersion == "shared":
            pooled = _find_start(x.reshape(-1, 1), mean.reshape(-1, 1))
            self.log_inverse_dispersion.copy_(pooled.squeeze())
        elif self.dispersion == "elementwise":
            self.log_inverse_dispersion.copy_(_find_start(x, mean))
        return super()._fit(x, exposure)

    def _find_outputs(self, x: Tensor, exposure: Tensor) -> Tensor:
        rate = find_rates(x, exposure)
        if self.dispersion == "network":
            return torch.cat([rate.log(), _find_start(x, exposure * rate)])
        return rate.log()


def _find_start(x: Tensor, mean: Tensor) -> Tensor:
    """Find the logarithms of the inverse dispersions from which training starts."""
    return find_inverse_dispersions(x, mean).clamp(*_STARTING_DISPERSIONS).log()
