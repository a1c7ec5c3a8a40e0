"""Wrappers that give a likelihood more zeros: zero inflation and hurdles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import Conditional, Parametric, select_fields
from lowerbound.conditionals.given import Masked, keep_entries, unwrap
from lowerbound.conditionals.moments import smooth_frequencies
from lowerbound.describe import describable
from lowerbound.distributions import (
    HurdleDistribution,
    ZeroInflatedDistribution,
    entrywise_log_prob,
)
from lowerbound.errors import SettingsError
from lowerbound.networks import set_output_bias


class _Gated(Conditional):
    """A likelihood whose entries are 0 where a gate is closed.

    Args:
        part: the likelihood of entries whose gate is open.
        gate: a network from the likelihood's input to the logits of closed gates.
    """

    modules_by_name: ClassVar[Mapping[str, str]] = {
        "part": "lb.Poisson(...)",
        "gate": "lb.mlp(...)",
    }

    def __init__(self, part: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        if isinstance(part, Masked):
            raise SettingsError(
                f"{type(self).__name__}: lb.Masked must be outside, because a missing entry is "
                f"not scored at all: lb.Masked(lb.{type(self).__name__}(likelihood, gate))"
            )
        self.part = part
        self.gate = gate
        self.needs: tuple[str, ...] = getattr(part, "needs", ())
        self.accepts: tuple[str, ...] = getattr(part, "accepts", ())
        self.normalized: bool = getattr(part, "normalized", True)

    @property
    def network(self) -> nn.Module:
        """The network of the likelihood inside; the gate's takes the same input."""
        return cast(nn.Module, self.part.network)

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution, given these values and the fields that the likelihood needs."""
        p = cast(Distribution, self.part(*given, **select_fields(self.part, fields)))
        return self.add_zeros(p, self.parameters_from(self.gate, *given))

    def add_zeros(self, p: Distribution, gate: Tensor) -> Distribution:
        """Add the zeros of closed gates to the distribution ``p`` of entries with open gates."""
        raise NotImplementedError

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse the data that the likelihood inside refuses."""
        check = getattr(self.part, "check_data", None)
        if check is not None:
            check(x, rows, name, **select_fields(self.part, fields))

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Start the likelihood from the values that are not 0, and the gate from the zeros."""
        others = x.masked_fill(x == 0, torch.nan)
        if isinstance(self.part, Conditional):
            self.part.start_from(others, **select_fields(self.part, fields))
        zeros = smooth_frequencies((x == 0).to(x.dtype).masked_fill(x.isnan(), torch.nan))
        set_output_bias(self.gate, self._find_closed(zeros, others).logit())

    def _find_closed(self, zeros: Tensor, others: Tensor) -> Tensor:
        """Find how often each gate is closed, from the frequencies of 0 and from other values."""
        return zeros


@describable
class ZeroInflated(_Gated):
    r"""Any probability mass with independent entries, in which zeros are more frequent.

    .. math::

        p(x_d = 0) = \pi_d + (1 - \pi_d) \, p_0(0), \qquad
        p(x_d) = (1 - \pi_d) \, p_0(x_d) \quad (x_d \neq 0), \qquad \pi_d = \sigma(g_d)

    So a zero-inflated negative binomial distribution is ``lb.ZeroInflated(lb.NegativeBinomial(...),
    gate)``. The result is a probability mass. A density gives 0 no probability that could be
    inflated; use :class:`Hurdle` instead.

    Args:
        part: a likelihood :math:`p_0` of counts or other discrete values, such as :class:`Poisson`.
        gate: a network from the input of the likelihood to the logits g of the additional zeros,
            ``[*leading, *event]``; ``lb.constant(shape)`` for logits that do not depend on it. To
            share layers with the likelihood's network, build both from the same modules.

    Raises:
        SettingsError: if ``part`` is :class:`Masked`, which must be outside.
        UnsupportedError: at the first draw, if ``part`` is not a mass or its entries are not
            independent.

    Source: Lambert 1992, "Zero-inflated Poisson regression"; with negative binomial counts, Lopez
    et al. 2018.

    Example:
        >>> import torch, lowerbound as lb
        >>> likelihood = ZeroInflated(
        ...     lb.NegativeBinomial(lb.mlp(2, 32, 6), "elementwise"), gate=lb.mlp(2, 6)
        ... )
        >>> likelihood(torch.zeros(7, 5, 2)).log_prob(torch.zeros(5, 6)).shape
        torch.Size([7, 5])
    """

    def __init__(self, part: nn.Module, gate: nn.Module) -> None:
        super().__init__(part, gate)

    def add_zeros(self, p: Distribution, gate: Tensor) -> ZeroInflatedDistribution:
        """``p`` with additional zeros."""
        return ZeroInflatedDistribution(p, gate)

    def _find_closed(self, zeros: Tensor, others: Tensor) -> Tensor:
        # The likelihood itself explains some of the zeros.
        inside = unwrap(self.part)
        if not isinstance(inside, Parametric):
            return zeros
        outputs = inside.marginal_outputs(others)
        if outputs is None:
            return zeros
        p = inside.from_parameters(outputs)
        own = entrywise_log_prob(p, torch.zeros_like(zeros)).exp()
        return ((zeros - own) / (1 - own)).nan_to_num(0.0).clamp(0.01, 0.99)


@describable
class Hurdle(_Gated):
    r"""Zeros with a probability of their own, and other values from a likelihood without its zeros.

    .. math::

        p(x_d = 0) = \pi_d, \qquad
        p(x_d) = (1 - \pi_d) \frac{p_0(x_d)}{1 - p_0(0)} \quad (x_d \neq 0), \qquad
        \pi_d = \sigma(g_d)

    - If :math:`p_0` is a probability mass, such as :class:`NegativeBinomial`, so is the result.
    - If :math:`p_0` is a density, such as one of positive values, zero gets a probability and all
      other values a density (:math:`p_0(0)` is 0 in the formula). Such a mixed distribution is
      neither a mass nor a density. Its log probabilities are with respect to the sum of a point
      mass at 0 and Lebesgue measure, so bounds can be compared between models of the same data.
      Bits per dimension are not reported, and dequantised pixels are refused.

    Args:
        part: a likelihood :math:`p_0` with independent entries.
        gate: a network from the input of the likelihood to the logits g of a zero,
            ``[*leading, *event]``; ``lb.constant(shape)`` for logits that do not depend on it.

    Raises:
        SettingsError: if ``part`` is :class:`Masked`, which must be outside.
        UnsupportedError: at the first draw, if the entries of ``part`` are not independent, or its
            distribution does not declare its support.

    Source: Mullahy 1986, "Specification and testing of some modified count data models"; Cragg 1971
    for densities.

    Example:
        >>> import torch, lowerbound as lb
        >>> likelihood = Hurdle(lb.Poisson(lb.mlp(2, 32, 6)), gate=lb.mlp(2, 32, 6))
        >>> likelihood(torch.zeros(7, 5, 2)).log_prob(torch.zeros(5, 6)).shape
        torch.Size([7, 5])
    """

    def __init__(self, part: nn.Module, gate: nn.Module) -> None:
        super().__init__(part, gate)

    def add_zeros(self, p: Distribution, gate: Tensor) -> HurdleDistribution:
        """Zeros with the gate's probability, and other values from ``p``."""
        return HurdleDistribution(p, gate)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse the data that the likelihood inside refuses, apart from zeros."""
        x, rows, fields = keep_entries(x != 0, x, rows, fields)
        super().check_data(x, rows, name, **fields)
