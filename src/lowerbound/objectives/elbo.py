"""The evidence lower bound, and what trains it in other ways than climbing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Draw, Gradient
from lowerbound.objectives.base import Objective, check_common, refuse_no_others
from lowerbound.objectives.schedules import Schedule, check_number, is_always, value_of


@describable
@dataclass(frozen=True)
class ELBO(Objective):
    r"""The evidence lower bound (Kingma & Welling 2013, equations 3 and 6 to 8), in nats per example.

    .. math:: \mathcal L(x) = \mathbb E_{q(z \mid x)}[\log p(x \mid z)] - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \le \log p(x)

    estimated by ``samples`` draws of z. The KL term is computed in closed form where one is registered with torch, which is
    the paper's estimator B, or sampled, which is its estimator A.

    ``beta``, ``free_bits`` and ``capacity`` change what is climbed, not what is reported: the bound stays the formula above,
    so runs with different settings compare. With rate ``R = KL(q || p)``, rates ``R_j`` of the units of z, and means over the
    batch denoted by a bar, the gradient is that of ``E[log p(x given z)] - penalty`` with

    .. math:: \beta R, \qquad \beta \sum_j \max(\lambda, \bar R_j), \qquad \beta\, |\bar R - C|

    Args:
        samples: L, the draws for each example.
        kl: ``"auto"``: in closed form if there is one. ``"closed-form"``: refused if there is none. ``"sampled"``: estimator A.
        gradient: see :class:`lowerbound.Objective`. Anything but ``"pathwise"`` and ``"score-function"`` samples the KL term
            of what is climbed; ``"dreg"`` is ``"sticking-the-landing"`` here.
        beta: the weight of the rate (Higgins et al. 2017), or a schedule such as ``Ramp(0.0, 1.0, epochs=100)``, the KL
            warm-up of Bowman et al. 2016 and Sønderby et al. 2016.
        free_bits: lambda in nats, or a schedule: the rate of a unit below which it is not penalised (Kingma et al. 2016).
        capacity: C in nats, or a schedule: the rate that is aimed at (Burgess et al. 2018, whose gamma is ``beta``).

    Raises:
        SettingsError: for settings that are unknown, out of range or exclude each other.
        UnsupportedError: on use, if ``kl="closed-form"`` or ``free_bits`` wants a closed form that there is not.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 6), scale=1.0)
        ... )
        >>> draw = vae.draw(torch.zeros(5, 6), samples=7)
        >>> ELBO(samples=7)(draw).shape
        torch.Size([5])
        >>> bool((ELBO(samples=7, beta=4.0)(draw) == ELBO(samples=7)(draw)).all())  # what is reported is the bound
        True
    """

    linear_in_log_weights: ClassVar[bool] = True

    samples: int = 1
    kl: Literal["auto", "closed-form", "sampled"] = "auto"
    gradient: Gradient = "pathwise"
    beta: float | Schedule = 1.0
    free_bits: float | Schedule = 0.0
    capacity: float | Schedule | None = None

    def __post_init__(self) -> None:
        check_common(self)
        if self.kl not in ("auto", "closed-form", "sampled"):
            raise SettingsError(
                f"ELBO: kl={self.kl!r} is unknown; choose 'auto', 'closed-form' or 'sampled'"
            )
        if self.gradient == "score-function":
            refuse_no_others("ELBO", self.samples)
        if self._samples_the_path and self.kl == "closed-form":
            raise SettingsError(
                f"ELBO: gradient={self.gradient!r} is about the sampled KL term; it excludes kl='closed-form'"
            )
        check_number("ELBO: beta", self.beta, 0)
        check_number("ELBO: free_bits", self.free_bits, 0)
        if self.capacity is not None:
            check_number("ELBO: capacity", self.capacity, 0)
        if self.free_bits and (
            self.capacity is not None or self.kl == "sampled" or self._samples_the_path
        ):
            raise SettingsError(
                "ELBO: free_bits needs each unit's rate in closed form; it excludes capacity, kl='sampled', and the "
                "gradients 'sticking-the-landing' and 'dreg'"
            )

    @property
    def _samples_the_path(self) -> bool:
        return self.gradient in ("sticking-the-landing", "dreg")

    def bound(self, draw: Draw) -> Tensor:
        """``mean_k log p(x given z_k) - KL``, ``[B]``."""
        return (
            draw.log_w.mean(0)
            if self._is_sampled(draw)
            else draw.log_likelihood.mean(0) - self.rate(draw)
        )

    def rate(self, draw: Draw) -> Tensor:
        """The KL term as ``kl`` has it, ``[B]``: ``bound = -(rate + distortion)``."""
        if self.kl == "sampled":
            return draw.sampled_rate
        if self.kl == "closed-form" and draw.analytic_rate is None:
            raise UnsupportedError(
                f"no closed-form KL is registered for {type(draw.q).__name__} against {type(draw.prior).__name__}; use kl='auto'"
            )
        return draw.rate

    def _is_sampled(self, draw: Draw) -> bool:
        return self.kl == "sampled" or (self.kl == "auto" and draw.analytic_rate is None)

    def surrogate(self, draw: Draw) -> Tensor:
        """``mean_k log p(x given z_k) - penalty`` with the gradient asked for, ``[B]``."""
        plain = (
            self.capacity is None and not self._frees_bits and is_always(value_of(self.beta), 1.0)
        )
        if plain and self.gradient == "pathwise":
            return self.bound(draw)
        if self.gradient == "score-function":
            return self._scored(draw)
        rate = (
            (draw.log_q_held - draw.log_prior).mean(0)
            if self._samples_the_path
            else self.rate(draw)
        )
        return draw.log_likelihood.mean(0) - self._penalty(draw, rate)

    @property
    def _frees_bits(self) -> bool:
        return not is_always(value_of(self.free_bits), 0.0)

    def _penalty(self, draw: Draw, rate: Tensor) -> Tensor:
        """What is subtracted in the place of the rate, ``[B]``."""
        beta = value_of(self.beta)
        if self._frees_bits:
            least = value_of(self.free_bits)
            if draw.unit_rates is None:
                raise UnsupportedError(
                    f"free_bits needs a rate of each unit, and {type(draw.q).__name__} against {type(draw.prior).__name__} "
                    "has none in closed form; use free_bits=0"
                )
            units = draw.unit_rates
            return beta * torch.where(units.mean(0) > least, units, least).flatten(1).sum(1)
        return self._weight(rate) * rate

    def _weight(self, rate: Tensor) -> float | Tensor:
        """The slope of the penalty: beta, and with a capacity its sign on the batch's side of it."""
        beta = value_of(self.beta)
        if self.capacity is None:
            return beta
        return beta * (rate.detach().mean() - value_of(self.capacity)).sign()

    def _scored(self, draw: Draw) -> Tensor:
        """The score-function surrogate, whose signal for a sample is what it has above the mean of the others."""
        signal = draw.log_likelihood.detach()
        if self._is_sampled(draw):
            # Of the explicit dependence on q, which is the mean of a score, nothing but noise would remain.
            rates = draw.log_q.detach() - draw.log_prior
            rate = rates.mean(0)
            signal = signal - self._weight(rate) * rates.detach()
        else:
            rate = self.rate(draw)
        others = (signal.sum(0) - signal) / (self.samples - 1)
        explicit = draw.log_likelihood.mean(0) - self._penalty(draw, rate)
        return explicit + ((signal - others) * draw.log_q).mean(0)
