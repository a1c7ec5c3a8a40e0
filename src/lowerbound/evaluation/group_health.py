"""The information that one group of latents carries, as values and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Var_x(E_q[z_j]) above which a unit is active (Burda et al. 2016).
_ACTIVE_VARIANCE = 0.01

# A unit that is not active and whose rate is below this many nats is switched off.
_OFF_NATS = 0.01

# Examples are too few if a draw's own posterior has a share in the mixture q(z) that exceeds its
# share in a mixture of equal posteriors by this much, see ``saturated``.
_OWN_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class CodeUse:
    """How a discrete group of latents uses its codes.

    Args:
        probabilities: the mean over examples of q(z_j = c|x), ``[J, C]``.
        used: whether a code is the most probable one for some example, ``[J, C]``.
    """

    probabilities: Tensor
    used: Tensor

    @property
    def usage(self) -> Tensor:
        """The number of codes that each unit uses, ``[J]``."""
        return self.used.sum(1)

    @property
    def perplexity(self) -> Tensor:
        """The exponential of the entropy of each unit's mean probabilities, ``[J]``.

        It is between 1, if all examples have the same code, and C, if all codes are equally
        frequent.
        """
        entropy: Tensor = torch.special.entr(self.probabilities).sum(1)
        return entropy.exp()

    def line(self) -> str:
        """Usage and perplexity in words."""
        units, count = self.probabilities.shape
        where = ""
        if units > 1:
            where = f" (means over {units} units)"
        usage, perplexity = float(self.usage.double().mean()), float(self.perplexity.mean())
        return f"codes: {usage:.3g} of {count} used, perplexity {perplexity:.2f}{where}"


@dataclass(frozen=True, eq=False, kw_only=True)
class GroupHealth:
    """The information that one group of latents carries, in nats per example.

    Args:
        rate: KL(q(z|x) || p(z)).
        rate_per_unit: the rate of each unit, ``[J]``; ``None`` if there is no closed form, or units
            are not independent.
        variances: of the means of each unit over all examples, ``[J]``. For a unit that is one of
            several codes, the sum over the codes.
        mutual_information: between x and z under q, at most ``log(components)``. It is an estimate,
            which may be below 0 by chance. ``None`` if it is not known, see ``unknown``.
        mutual_information_error: the standard error of ``mutual_information``, from the draws and
            from the examples.
        own_share: the mean share that a draw's own example has in q(z): from ``1 / components`` to
            1; ``None`` like ``mutual_information``.
        components: the number of examples whose posteriors are the mixture q(z).
        draws: the number of draws of z in these averages.
        marginal_kl: the sum over units of KL(q(z_j) || p(z_j)); ``None`` if units are not
            independent given x, or like ``mutual_information``.
        codes: the use of the codes of a discrete group; ``None`` for other groups.
        unknown: why the mutual information is not known; ``None`` if it is.
    """

    rate: float
    rate_per_unit: Tensor | None
    variances: Tensor
    mutual_information: float | None = None
    mutual_information_error: float | None = None
    own_share: float | None = None
    components: int = 0
    draws: int = 0
    marginal_kl: float | None = None
    codes: CodeUse | None = None
    unknown: str | None = None

    @property
    def units(self) -> int:
        """J, the number of latent units."""
        return len(self.variances)

    @property
    def active(self) -> Tensor:
        """Whether each unit is active, ``[J]``: Var_x(E_q[z_j]) > 0.01 (Burda et al. 2016)."""
        return self.variances > _ACTIVE_VARIANCE

    @property
    def active_units(self) -> int:
        """The number of active units."""
        return int(self.active.sum())

    @property
    def saturated(self) -> bool:
        """Whether there are too few examples for q(z).

        A draw's own share in q(z) shows this: it exceeds the share in a mixture of equal posteriors
        by more than a fifth. A share s adds about -log(1 - s) to log q(z), here 0.2 nats or more.
        The mutual information is then a lower bound, limited by the logarithm of ``components``,
        and aggregate KL and total correlation are upper bounds.
        """
        if self.own_share is None:
            return False
        return self.own_share - 1 / self.components > _OWN_SHARE * (1 - 1 / self.components)

    @property
    def aggregate_kl(self) -> float | None:
        """KL(q(z) || p(z)) = rate - mutual information; ``None`` if that is not known.

        q(z) is the mean of the examples' posteriors.
        """
        if self.mutual_information is None:
            return None
        return self.rate - self.mutual_information

    @property
    def total_correlation(self) -> float | None:
        """KL(q(z) || prod_j q(z_j)) = aggregate KL - marginal KL, for a prior of independent units.

        ``None`` if one of them is not known.
        """
        if self.aggregate_kl is None or self.marginal_kl is None:
            return None
        return self.aggregate_kl - self.marginal_kl

    def switched_off(self) -> int:
        """The number of units that are not active and have no rate."""
        if self.rate_per_unit is None:
            return 0
        return int((~self.active & (self.rate_per_unit < _OFF_NATS)).sum())

    def carried(self) -> str:
        """The information about x that z carries, in nats and in words."""
        if self.mutual_information is None:
            return f"at most {format_nats(self.rate)}"
        error = self.mutual_information_error
        value = format_nats(self.mutual_information)
        if error is None or math.isnan(error):
            return value
        return f"{value} ± {error:.2f}"

    def describe(self, *, with_switched_off: bool) -> Iterator[str]:
        """The values in words.

        Args:
            with_switched_off: whether to count the units that are switched off.
        """
        off = ""
        if with_switched_off:
            off = self._describe_switched_off()
        yield f"active units: {self.active_units} of {self.units}{off}"
        yield f"rate: {self.rate:.2f} nats; {self._describe_rates()}"
        if self.codes is not None:
            yield self.codes.line()
        yield self._describe_information()

    def _describe_switched_off(self) -> str:
        off = self.switched_off()
        if not off:
            return ""
        if off == 1:
            return "; 1 superfluous one is switched off"
        return f"; {off} superfluous ones are switched off"

    def _describe_rates(self) -> str:
        if self.rate_per_unit is None:
            return "the rates of single units are not known in closed form"
        largest = self.rate_per_unit.sort(descending=True).values[:10].tolist()
        more = ", ..." * (self.units > 10)
        return f"by unit: {', '.join(f'{rate:.2f}' for rate in largest)}{more}"

    def _describe_information(self) -> str:
        if self.aggregate_kl is None:
            return (
                f"information about x: {self.carried()} nats, the rate. Information and aggregate "
                f"posterior are not known: {self.unknown}"
            )
        limit, bound = "", ""
        if self.saturated:
            limit = f" (saturated: a lower bound, limited by log {self.components:,})"
            bound = " (an upper bound, and so is the total correlation)"
        return (
            f"information about x: {self.carried()} nats{limit}; aggregate posterior to prior: "
            f"{format_nats(self.aggregate_kl)} nats{bound}"
        )


def format_nats(value: float) -> str:
    """Format a value with two decimals, and as 0.00 rather than -0.00."""
    return f"{round(value, 2) + 0.0:.2f}"
