"""The evidence lower bound, and the penalties that may replace its rate in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Draw, Gradient
from lowerbound.objectives.base import (
    Objective,
    check_baseline,
    check_common,
    check_plain_weight,
)
from lowerbound.objectives.schedules import Schedule, check_number, get_value, is_always


@describable
@dataclass(frozen=True)
class ELBO(Objective):
    r"""The evidence lower bound, in nats per example (Kingma & Welling 2013, equations 3, 6 to 8).

    .. math:: \mathcal L(x) = \mathbb E_{q(z \mid x)}[\log p(x \mid z)]
              - \mathrm{KL}(q(z \mid x) \,\|\, p(z)) \le \log p(x)

    estimated by ``samples`` draws of z. The KL term is computed in closed form where one is
    registered with torch, which is the paper's estimator B, or sampled, which is its estimator A.
    For several groups of latents the KL term is a sum over the groups, each in closed form if it
    has one. The closed form lowers the variance of the rate, but can raise that of the bound.

    ``beta``, ``free_bits`` and ``capacity`` change the maximised value, not the reported one: the
    bound stays the formula above, so runs with different settings can be compared. With the rate
    ``R = KL(q || p)``, rates ``R_j`` of the units of z, and means over the batch denoted by a bar,
    the gradient is that of ``E[log p(x|z)] - penalty`` with the penalty

    .. math:: \beta R, \qquad \beta \sum_j \max(\lambda, \bar R_j), \qquad
              \beta\, |\bar R - C|

    Args:
        samples: L, the draws for each example.
        kl: ``"auto"``: in closed form if torch knows one, else sampled. ``"closed-form"``: an error
            if torch knows none. ``"sampled"``: estimator A.
        gradient: see :class:`lowerbound.Objective`. All but ``"pathwise"`` and ``"score-function"``
            use the sampled KL term for the gradient; ``"dreg"`` is ``"sticking-the-landing"`` here.
        beta: the weight of the rate (Higgins et al. 2017), or a schedule such as
            ``Ramp(0.0, 1.0, epochs=100)``, the KL warm-up of Bowman et al. 2016 and Sønderby et al.
            2016.
        group_weights: further weights of the rates of some groups of latents, by name, or
            schedules; the rate R in the penalty is the weighted sum. With ``{"z1": Ramp(10.0, 1.0,
            epochs=20)}`` the layer z1 carries little at first, so that those above learn to carry
            more.
        free_bits: lambda in nats, or a schedule: the rate of a unit below which it is not penalised
            (Kingma et al. 2016).
        capacity: C in nats, or a schedule: the rate to aim for (Burgess et al. 2018, whose gamma is
            ``beta``).

    Raises:
        SettingsError: for settings that are unknown, out of range or exclude each other.
        UnsupportedError: on use, if ``kl="closed-form"`` or ``free_bits`` needs a closed form that
            does not exist.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp(6, 4)),
        ...     lb.Gaussian(lb.mlp(2, 6), scale=1.0),
        ... )
        >>> draw = vae.draw(torch.zeros(5, 6), samples=7)
        >>> ELBO(samples=7)(draw).shape
        torch.Size([5])
        >>> weighted = ELBO(samples=7, beta=4.0)
        >>> bool((weighted(draw) == ELBO(samples=7)(draw)).all())  # the bound is reported
        True
    """

    linear_in_log_weights: ClassVar[bool] = True

    samples: int = 1
    kl: Literal["auto", "closed-form", "sampled"] = "auto"
    gradient: Gradient = "pathwise"
    beta: float | Schedule = 1.0
    free_bits: float | Schedule = 0.0
    capacity: float | Schedule | None = None
    group_weights: Mapping[str, float | Schedule] | None = None

    def __post_init__(self) -> None:
        check_common(self)
        if self.kl not in ("auto", "closed-form", "sampled"):
            raise SettingsError(
                f"ELBO: kl={self.kl!r} is unknown; choose 'auto', 'closed-form' or 'sampled'"
            )
        if self.gradient == "score-function":
            check_baseline("ELBO", self.samples)
        if self._samples_the_path and self.kl == "closed-form":
            raise SettingsError(
                f"ELBO: gradient={self.gradient!r} uses the sampled KL term, so it excludes "
                "kl='closed-form'"
            )
        check_number("ELBO: beta", self.beta, 0)
        check_number("ELBO: free_bits", self.free_bits, 0)
        self._check_group_weights()
        if self.capacity is not None:
            check_number("ELBO: capacity", self.capacity, 0)
        if self.free_bits and (
            self.capacity is not None or self.kl == "sampled" or self._samples_the_path
        ):
            raise SettingsError(
                "ELBO: free_bits needs each unit's rate in closed form; it excludes capacity, "
                "kl='sampled', and the gradients 'sticking-the-landing' and 'dreg'"
            )

    def _check_group_weights(self) -> None:
        for group, weight in (self.group_weights or {}).items():
            check_number(f"ELBO: the weight of {group}", weight, 0)
        if self.group_weights and (
            self.gradient != "pathwise" or self.free_bits or self.capacity is not None
        ):
            raise SettingsError(
                "ELBO: group_weights needs the rate of each group; it excludes free_bits, capacity "
                "and all gradients but 'pathwise'"
            )

    @property
    def _samples_the_path(self) -> bool:
        return self.gradient in ("sticking-the-landing", "dreg")

    def bound(self, draw: Draw) -> Tensor:
        """``mean_k log p(x|z_k) - KL``, ``[B]``."""
        if self._is_sampled(draw) and draw.weight_term is None:
            return draw.log_w.mean(0)
        return draw.log_likelihood.mean(0) - self.rate(draw)

    def rate(self, draw: Draw) -> Tensor:
        """The KL term as ``kl`` says, ``[B]``: ``bound = -(rate + distortion)``."""
        if self.kl == "sampled":
            return draw.sampled_rate
        if self.kl == "closed-form" and draw.analytic_rate is None:
            raise UnsupportedError(
                f"no closed-form KL is registered for {_name_pair(draw, 'analytic_rate')}; "
                "use kl='auto'"
            )
        return draw.rate

    def group_rates(self, draw: Draw) -> dict[str, Tensor]:
        """The KL term of each group of latents as ``kl`` says, ``[B]`` by name."""
        if self.kl == "sampled":
            return {name: latent.sampled_rate for name, latent in draw.latents.items()}
        return super().group_rates(draw)

    def _is_sampled(self, draw: Draw) -> bool:
        return self.kl == "sampled" or (self.kl == "auto" and not draw.has_closed_form_rate)

    def surrogate(self, draw: Draw) -> Tensor:
        """``mean_k log p(x|z_k) - penalty`` with the chosen gradient, ``[B]``."""
        if self._is_plain and self.gradient == "pathwise":
            return self.bound(draw)
        check_plain_weight(draw, self.gradient)
        if self.gradient == "score-function":
            return self._score_function_surrogate(draw)
        rate = self.rate(draw)
        if self._samples_the_path:
            rate = (draw.log_q_stopgrad_parameters - draw.log_prior).mean(0)
        return draw.log_likelihood.mean(0) - self._penalty(draw, rate)

    @property
    def _is_plain(self) -> bool:
        """Whether the penalty is the rate."""
        groups = (self.group_weights or {}).values()
        weights = [get_value(weight) for weight in (self.beta, *groups)]
        others = self.capacity is None and not self._frees_bits
        return others and all(is_always(weight, 1.0) for weight in weights)

    @property
    def _frees_bits(self) -> bool:
        return not is_always(get_value(self.free_bits), 0.0)

    def _penalty(self, draw: Draw, rate: Tensor) -> Tensor:
        """The penalty that is subtracted instead of the rate, ``[B]``."""
        if self.group_weights:
            return get_value(self.beta) * self._weight_groups(draw)
        if not self._frees_bits:
            return self._weight(rate) * rate
        units = draw.unit_rates
        if units is None:
            raise UnsupportedError(
                "free_bits needs the rate of each unit in closed form, which is not known for "
                f"{_name_pair(draw, 'unit_rates')}; use free_bits=0"
            )
        least = get_value(self.free_bits)
        freed = torch.where(units.mean(0) > least, units, least)
        return get_value(self.beta) * freed.flatten(1).sum(1)

    def _weight_groups(self, draw: Draw) -> Tensor:
        """The sum of the rates of all groups, ``[B]``, each with its weight."""
        assert self.group_weights is not None
        rates = self.group_rates(draw)
        unknown = [name for name in self.group_weights if name not in rates]
        if unknown:
            raise UnsupportedError(
                f"group_weights: the model has no latents {', '.join(map(repr, unknown))}; its "
                f"groups are {', '.join(map(repr, rates)) or 'not known'}"
            )
        weights = {name: get_value(weight) for name, weight in self.group_weights.items()}
        total = torch.zeros_like(draw.log_likelihood[0])
        for name, rate in rates.items():
            total = total + weights.get(name, 1.0) * rate
        return total

    def _weight(self, rate: Tensor) -> float | Tensor:
        """The derivative of the penalty: beta, with the sign of ``mean rate - capacity`` if any."""
        beta = get_value(self.beta)
        if self.capacity is None:
            return beta
        return beta * (rate.detach().mean() - get_value(self.capacity)).sign()

    def _score_function_surrogate(self, draw: Draw) -> Tensor:
        """The score-function surrogate: each sample is compared with the mean of the others."""
        signal = draw.log_likelihood.detach()
        if self._is_sampled(draw):
            # The explicit dependence on q is the mean of a score, which would only add noise.
            rates = draw.log_q.detach() - draw.log_prior
            rate = rates.mean(0)
            signal = signal - self._weight(rate) * rates.detach()
        else:
            rate = self.rate(draw)
            if len(draw.groups) > 1:
                rate, by_draws = self._rate_of_groups(draw)
                signal = signal - self._weight(rate) * by_draws
        others = (signal.sum(0) - signal) / (self.samples - 1)
        explicit = draw.log_likelihood.mean(0) - self._penalty(draw, rate)
        return explicit + ((signal - others) * draw.log_q).mean(0)

    def _rate_of_groups(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """The rate, ``[B]``, and the part of it that differs between draws, ``[K, B]``.

        A rate in closed form can depend on draws of other groups, and a sampled one does.
        """
        rate, by_draws = torch.zeros_like(draw.log_q[0]), torch.zeros_like(draw.log_q.detach())
        for name, latent in draw.groups.items():
            rates = latent.draw_rates
            if rates is None:
                rates = latent.log_q.detach() - latent.log_prior
            if rates.dim() == 1:
                rate = rate + rates
                continue
            if self._frees_bits:
                raise UnsupportedError(
                    f"free_bits with gradient='score-function' needs rates that do not depend on "
                    f"draws, and that of {name!r} depends on other latents; use "
                    "gradient='pathwise', or free_bits=0"
                )
            rate, by_draws = rate + rates.mean(0), by_draws + rates.detach()
        return rate, by_draws


def _name_pair(draw: Draw, attribute: str) -> str:
    """Name the posterior and the prior whose rate lacks a closed form, for messages."""
    if not draw.groups and draw.q is None:
        return "a model whose draws do not say what q and the prior of its latents are"
    for name, latent in draw.latents.items():
        if getattr(latent, attribute) is not None:
            continue
        pair = f"{type(latent.q).__name__} against {type(latent.prior).__name__}"
        if len(draw.groups) < 2:
            return pair
        if latent.closed_form_is_biased:
            return (
                f"the latents {name!r}, whose prior depends on other latents (Latent.draw draws "
                "latents whose prior depends on earlier ones only)"
            )
        return f"{pair} of the latents {name!r}"
    return f"{type(draw.q).__name__} against {type(draw.prior).__name__}"
