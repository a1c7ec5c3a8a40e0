"""Bounds that put several samples under one logarithm: importance-weighted and Rényi bounds.

Suffixes of shapes: M groups, G samples in each, K = M G samples in all, B examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import SettingsError
from lowerbound.models import Draw, Gradient
from lowerbound.objectives.base import (
    Objective,
    check_baseline,
    check_common,
    check_plain_weight,
)
from lowerbound.objectives.schedules import Schedule, check_number, get_value, is_always
from lowerbound.settings import check_whole_number

# A normalised weight that is below the rounding error of every floating type.
_NEGLIGIBLE = 1e-20

# For orders 1 - alpha nearer to 0 than this, the logarithm of a mean would be inaccurate, so
# another formula computes the difference from the mean of the logarithms. It adds and subtracts
# exponentials of order * difference. If order * difference exceeds this limit, these cancel each
# other or overflow, but there the logarithm is accurate.
_SMALL_ORDER = 0.1
_LARGEST_EXPONENT = 1.0

# Replaces an order of 0, by which that formula would divide.
_LEAST_ORDER = 1e-12

_Order = float | Tensor


@dataclass(frozen=True)
class PowerMean:
    r"""The logarithm of a power mean of weights, averaged over groups of samples.

    Its methods are the derivatives from which every gradient here is made.

    .. math:: f(w) = \lambda \frac1K \sum_k \log w_k + (1 - \lambda) \frac1M \sum_m \frac1{1-\alpha}
              \log \frac1G \sum_g w_{mg}^{1-\alpha}

    Args:
        alpha: 0 for the mean of the weights, 1 for their geometric mean.
        groups: M.
        elbo_weight: lambda.
    """

    alpha: float | Tensor = 0.0
    groups: int = 1
    elbo_weight: float | Tensor = 0.0

    @property
    def _is_elbo(self) -> bool:
        return is_always(self.alpha, 1.0) or is_always(self.elbo_weight, 1.0)

    def value(self, log_w_KB: Tensor) -> Tensor:
        """f, ``[B]``, from log weights ``[K, B]``."""
        mean = log_w_KB.mean(0)
        if self._is_elbo:
            return mean
        return self._blend(mean, self._log_power_means(self._group(log_w_KB)).mean(0))

    def _blend(self, of_elbo: Tensor, of_power: Tensor) -> Tensor:
        if is_always(self.elbo_weight, 0.0):
            return of_power
        blended = self.elbo_weight * of_elbo + (1 - self.elbo_weight) * of_power
        if not isinstance(self.elbo_weight, Tensor):
            return blended
        # The ELBO of a weight of zero is -inf, and a schedule's 0 * -inf would be nan.
        return torch.where(self.elbo_weight == 0, of_power, blended)

    def _log_power_means(self, log_w_MGB: Tensor) -> Tensor:
        """The logarithm of each group's power mean, ``[M, B]``; alpha is not 1."""

        def small(order: _Order, log_w: Tensor) -> Tensor:
            mean = log_w.mean(1, keepdim=True)
            excess = torch.expm1(order * (log_w - mean)).mean(1, keepdim=True)
            return mean + excess.log1p() / order

        def large(order: _Order, log_w: Tensor) -> Tensor:
            total = torch.logsumexp(_raise_to_floor(order * log_w), 1, keepdim=True)
            return (total - math.log(log_w.shape[1])) / order

        return self._choose_by_order(small, large, log_w_MGB).squeeze(1)

    def _choose_by_order(
        self, small: Callable[..., Tensor], large: Callable[..., Tensor], *log_w: Tensor
    ) -> Tensor:
        """Choose the one of two formulas that is accurate for the order 1 - alpha."""
        order = 1 - self.alpha
        if isinstance(order, Tensor):
            order = torch.where(order.abs() < _LEAST_ORDER, _LEAST_ORDER, order)
        elif abs(order) >= _SMALL_ORDER:
            return large(order, *log_w)
        # Both are computed. The unused one gets values at which it and its gradient are finite.
        exponents = (order * (log_w[0] - log_w[0].mean(1, keepdim=True))).detach()
        # A weight of zero makes the exponents nan, which are not below the limit.
        is_even = (exponents.abs() < _LARGEST_EXPONENT).all(1, keepdim=True)
        is_small = is_even & (torch.as_tensor(order).abs() < _SMALL_ORDER)
        of_small = small(order, *(torch.where(is_small, w, 0.0) for w in log_w))
        of_large = large(order, *(torch.where(is_small, 0.0, w) for w in log_w))
        return torch.where(is_small, of_small, of_large)

    def weights(self, log_w_KB: Tensor) -> Tensor:
        """``df / d log w_k``, ``[K, B]``; they sum to 1 over the samples."""
        return self._mix(log_w_KB, self._normalise(log_w_KB))

    def path_weights(self, log_w_KB: Tensor) -> Tensor:
        """The factor of ``d log w_k / dz_k`` in the doubly reparameterised gradient, ``[K, B]``.

        It is the weight less its own derivative, ``v_k - dv_k / d log w_k``. The second term comes
        from reparameterising the score, ``v_k grad log q(z_k|x)``, once more. For IWAE the
        factor is the square of the normalised weight.
        """
        share_MGB = self._normalise(log_w_KB)
        return self._mix(log_w_KB, self.alpha * share_MGB + (1 - self.alpha) * share_MGB.square())

    def advantages(self, log_w_KB: Tensor) -> Tensor:
        """The decrease of f if a log weight is replaced by the mean of the others (VIMCO).

        ``[K, B]``; see Mnih & Rezende 2016.
        """
        log_w_MGB = self._group(log_w_KB)
        count = log_w_MGB.shape[1]
        others_MGB = _average_others(log_w_MGB)
        of_elbo_MGB = (log_w_MGB - others_MGB) / count
        if self._is_elbo:
            return of_elbo_MGB.flatten(0, 1) / self.groups
        of_power_MGB = self._log_power_means(log_w_MGB)[:, None] - self._replace_each_weight(
            log_w_MGB, others_MGB
        )
        return self._blend(of_elbo_MGB, of_power_MGB).flatten(0, 1) / self.groups

    def _replace_each_weight(self, log_w_MGB: Tensor, others_MGB: Tensor) -> Tensor:
        """The logarithm of each group's power mean with one log weight replaced, ``[M, G, B]``.

        Each log weight of the group is replaced in turn.
        """
        count = log_w_MGB.shape[1]

        def small(order: _Order, log_w: Tensor, others: Tensor) -> Tensor:
            mean = log_w.mean(1, keepdim=True)
            own, stand_in = (torch.expm1(order * (weights - mean)) for weights in (log_w, others))
            return mean + ((own.sum(1, keepdim=True) - own + stand_in) / count).log1p() / order

        def large(order: _Order, log_w: Tensor, others: Tensor) -> Tensor:
            # The sum without a term is the sum of the terms before and after it, because
            # subtracting the term would be inaccurate.
            terms = order * log_w
            edge = torch.full_like(terms[:, :1], -math.inf)
            before = torch.cat([edge, terms.logcumsumexp(1)[:, :-1]], 1)
            after = torch.cat([terms.flip(1).logcumsumexp(1).flip(1)[:, 1:], edge], 1)
            total = torch.logaddexp(torch.logaddexp(before, after), order * others)
            return (total - math.log(count)) / order

        return self._choose_by_order(small, large, log_w_MGB, others_MGB)

    def _group(self, log_w_KB: Tensor) -> Tensor:
        return log_w_KB.reshape(self.groups, -1, *log_w_KB.shape[1:])

    def _normalise(self, log_w_KB: Tensor) -> Tensor:
        """Normalise the weights within each group, ``[M, G, B]``."""
        terms_MGB = (1 - self.alpha) * self._group(log_w_KB)
        shares_MGB = terms_MGB.softmax(1)
        return torch.where(terms_MGB < _compute_floor(terms_MGB), 0.0, shares_MGB)

    def _mix(self, log_w_KB: Tensor, of_groups_MGB: Tensor) -> Tensor:
        power_KB = of_groups_MGB.flatten(0, 1) / self.groups
        return self.elbo_weight / len(log_w_KB) + (1 - self.elbo_weight) * power_KB


def _average_others(log_w_MGB: Tensor) -> Tensor:
    """Average the other log weights of the group, ``[M, G, B]``; -inf if one of them is."""
    is_zero_MGB = log_w_MGB == -math.inf
    # Not the sum less the own term, which would be nan beside a weight of zero.
    finite_MGB = torch.where(is_zero_MGB, 0.0, log_w_MGB)
    mean_MGB = (finite_MGB.sum(1, keepdim=True) - finite_MGB) / (log_w_MGB.shape[1] - 1)
    other_zeros_MGB = is_zero_MGB.sum(1, keepdim=True) - is_zero_MGB.long()
    return torch.where(other_zeros_MGB > 0, -math.inf, mean_MGB)


def _compute_floor(terms_MGB: Tensor) -> Tensor:
    """Compute the smallest log weight that counts. A smaller one would not change its group's sum.

    Its share would be a denormal number, with which a CPU multiplies matrices many times slower.
    """
    return terms_MGB.detach().amax(1, keepdim=True) + 2.5 * math.log(
        torch.finfo(terms_MGB.dtype).eps
    )


def _raise_to_floor(terms_MGB: Tensor) -> Tensor:
    """Raise the terms of a sum of exponentials to the floor. Raised terms get no gradient."""
    floor_M1B = _compute_floor(terms_MGB)
    return torch.where(terms_MGB < floor_M1B, floor_M1B, terms_MGB)


class _PowerBound(Objective):
    """A bound that is a power mean of the weights. Its encoder may maximise another one."""

    def _make_power_means(self) -> tuple[PowerMean, PowerMean]:
        """Make the power means that the model's and the posterior's parameters maximise.

        The first is also the bound. If both are the same, they are one object.
        """
        raise NotImplementedError

    def bound(self, draw: Draw) -> Tensor:
        """The power mean's logarithm, ``[B]``."""
        return self._make_power_means()[0].value(draw.log_w)

    def surrogate(self, draw: Draw) -> Tensor:
        """A sum with the chosen gradient, ``[B]``."""
        model, posterior = self._make_power_means()
        if self.gradient == "pathwise" and model is posterior:
            return model.value(draw.log_w)
        check_plain_weight(draw, self.gradient)
        log_w_KB = draw.log_w.detach()
        model_KB = model.weights(log_w_KB)
        posterior_KB = model_KB if model is posterior else posterior.weights(log_w_KB)
        joint_KB = draw.log_likelihood + draw.log_prior
        # A weight of zero has no gradient, and its logarithm, -inf, would turn 0 * -inf into nan.
        joint_KB = torch.where(joint_KB.isfinite(), joint_KB, torch.zeros_like(joint_KB))
        if self.gradient == "score-function":
            signal_KB = posterior.advantages(log_w_KB)
            return (model_KB * joint_KB + (signal_KB - posterior_KB) * draw.log_q).sum(0)
        path_KB = posterior.path_weights(log_w_KB) if self.gradient == "dreg" else posterior_KB
        log_w_path_KB = joint_KB - draw.log_q_stopgrad_parameters
        log_w_path_KB = torch.where(
            log_w_path_KB.isfinite(), log_w_path_KB, torch.zeros_like(log_w_path_KB)
        )
        # So far the gradient at z has the weight for the model's parameters. On the path to the
        # posterior's parameters a division gives it another weight. The floor makes the division
        # possible, and is below the rounding error.
        floored_KB = model_KB.clamp_min(_NEGLIGIBLE)
        surrogate = (floored_KB * log_w_path_KB).sum(0)
        if path_KB is not model_KB:
            surrogate = draw.with_scaled_paths(surrogate, path_KB / floored_KB)
        if self.gradient == "pathwise":
            surrogate = surrogate - (posterior_KB * draw.log_q_stopgrad_z).sum(0)
        return surrogate


def _check_settings(objective: Objective, name: str, settings: tuple[PowerMean, ...]) -> None:
    check_common(objective)
    for mean in settings:
        if objective.samples % mean.groups:
            raise SettingsError(
                f"{name}: samples={objective.samples} cannot be divided into {mean.groups} "
                "equal groups"
            )
        if objective.gradient == "score-function":
            check_baseline(name, objective.samples // mean.groups)


@describable
@dataclass(frozen=True)
class IWAE(_PowerBound):
    r"""The importance-weighted bound and its relatives, in nats per example.

    .. math:: \mathcal L_K(x) = \mathbb E\left[\log \frac1K \sum_{k=1}^K w_k\right] \le \log p(x),
              \qquad w_k = \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}

    (Burda, Grosse & Salakhutdinov 2016). It rises with K to log p(x), and is the ELBO with sampled
    KL at K = 1. More samples improve the gradient of the decoder and worsen that of the encoder, so
    Rainforth et al. 2018 divide the samples:

    - ``groups=M``: MIWAE, the mean of M bounds of K / M samples each.
    - ``encoder_groups=M``: PIWAE: the decoder maximises the bound of all samples, the encoder the
      mean of M bounds.
    - ``elbo_weight=b``: CIWAE, ``b`` times the ELBO plus ``1 - b`` times this bound.

    With the doubly reparameterised gradient (``gradient="dreg"``) the encoder's gradient improves
    too.

    Args:
        samples: K, the draws for each example, in all groups together.
        gradient: see :class:`lowerbound.Objective`.
        groups: the number of groups, M; divides ``samples``.
        encoder_groups: the groups of the bound that the encoder maximises, if it is a different
            one; divides ``samples``.
        elbo_weight: from 0 to 1, or a schedule.

    Raises:
        SettingsError: for settings that are unknown or out of range.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> draw = vae.draw(torch.zeros(5, 6), samples=64)
        >>> bound = IWAE(samples=64)(draw)
        >>> bound.shape, bool((bound >= IWAE(samples=64, groups=8)(draw)).all())
        (torch.Size([5]), True)
    """

    samples: int = 50
    gradient: Gradient = "pathwise"
    groups: int = 1
    encoder_groups: int | None = None
    elbo_weight: float | Schedule = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", check_whole_number("IWAE: groups", self.groups))
        if self.encoder_groups is not None:
            object.__setattr__(
                self,
                "encoder_groups",
                check_whole_number("IWAE: encoder_groups", self.encoder_groups),
            )
        check_number("IWAE: elbo_weight", self.elbo_weight, 0, 1)
        _check_settings(self, "IWAE", self._make_power_means())

    def with_samples(self, samples: int) -> IWAE:
        """The same bound from another number of samples, without the encoder's other bound."""
        return replace(self, samples=samples, encoder_groups=None)

    def _make_power_means(self) -> tuple[PowerMean, PowerMean]:
        model = PowerMean(0.0, self.groups, get_value(self.elbo_weight))
        groups = self.encoder_groups or self.groups
        if groups == self.groups:
            return model, model
        return model, replace(model, groups=groups)


@describable
@dataclass(frozen=True)
class Renyi(_PowerBound):
    r"""The variational Rényi bound, estimated by K samples, in nats per example.

    .. math:: \mathcal L_\alpha(x) = \frac1{1-\alpha} \log \mathbb E_{q}\left[w^{1-\alpha}\right]
              \le \log p(x) \quad (\alpha \ge 0)

    (Li & Turner 2016). At ``alpha=0`` the estimate is IWAE's, and towards ``alpha=1`` it becomes
    the ELBO's. Above 1 the bound is lower still and q seeks modes. For ``alpha`` between 0 and 1
    the estimate from K samples is on average below the bound and rises to it with K, so it stays a
    lower bound. Above 1 the estimate decreases with K to the bound, and never exceeds the ELBO on
    average.

    Args:
        alpha: at least 0, or a schedule; below 0 the limit would be an upper bound.
        samples: K, the draws for each example.
        gradient: see :class:`lowerbound.Objective`.

    Raises:
        SettingsError: for settings that are unknown or out of range.

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        ... )
        >>> draw = vae.draw(torch.zeros(5, 6), samples=50)
        >>> bool((Renyi(alpha=0.0)(draw) == lb.IWAE(samples=50)(draw)).all())
        True
    """

    alpha: float | Schedule = 0.5
    samples: int = 50
    gradient: Gradient = "pathwise"

    def __post_init__(self) -> None:
        check_number("Renyi: alpha", self.alpha, 0)
        _check_settings(self, "Renyi", self._make_power_means())

    def _make_power_means(self) -> tuple[PowerMean, PowerMean]:
        mean = PowerMean(get_value(self.alpha))
        return mean, mean
