"""Kullback-Leibler divergences in closed form, and draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence, register_kl

from lowerbound.distributions.bernoulli import FactorialBernoulli
from lowerbound.distributions.codes import CodePoint, FactorialCodeVectors
from lowerbound.distributions.entries import unwrap_independent
from lowerbound.distributions.normal import DiagonalNormal
from lowerbound.distributions.one_hot import FactorialOneHot, compute_unit_kl
from lowerbound.distributions.vectors import Lebesgue
from lowerbound.runtime import noise


def _normal_unit_kl(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    # [ (sigma_q / sigma_p)^2 - 1 - 2 log(sigma_q / sigma_p) + ((mu_q - mu_p) / sigma_p)^2 ] / 2
    log_ratio = q.log_scale - p.log_scale
    squared_shift = ((q.loc - p.loc) * (-p.log_scale).exp()).square()
    return 0.5 * (torch.expm1(2 * log_ratio) - 2 * log_ratio + squared_shift)


def _bernoulli_unit_kl(q: FactorialBernoulli, p: FactorialBernoulli) -> Tensor:
    # pi_q (eta_q - eta_p) - log(1 + e^eta_q) + log(1 + e^eta_p)
    return (
        q.mean * (q.logits - p.logits)
        - nn.functional.softplus(q.logits)
        + nn.functional.softplus(p.logits)
    )


@register_kl(DiagonalNormal, DiagonalNormal)  # type: ignore[untyped-decorator]
def _kl_diagonal_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    return q._sum_over_event(_normal_unit_kl(q, p))


@register_kl(FactorialBernoulli, FactorialBernoulli)  # type: ignore[untyped-decorator]
def _kl_bernoulli_bernoulli(q: FactorialBernoulli, p: FactorialBernoulli) -> Tensor:
    return _bernoulli_unit_kl(q, p).flatten(-q.event_dims).sum(-1)


def as_diagonal(distribution: Distribution) -> DiagonalNormal | None:
    """Return a diagonal Gaussian as ours, also if it is torch's ``Independent(Normal)``.

    Returns ``None`` for any other distribution.
    """
    if isinstance(distribution, DiagonalNormal):
        return distribution
    base = getattr(distribution, "base_dist", None)
    if not isinstance(distribution, Independent) or not isinstance(base, Normal):
        return None
    return DiagonalNormal(base.loc, base.scale.log(), len(distribution.event_shape))


def _as_diagonal(distribution: Distribution) -> DiagonalNormal:
    ours = as_diagonal(distribution)
    if ours is None:
        raise NotImplementedError  # torch's protocol: no closed form
    return ours


@register_kl(DiagonalNormal, Independent)  # type: ignore[untyped-decorator]
def _kl_diagonal_independent(q: DiagonalNormal, p: Independent[Any]) -> Tensor:
    kl: Tensor = _kl_diagonal_diagonal(q, _as_diagonal(p))
    return kl


@register_kl(Independent, DiagonalNormal)  # type: ignore[untyped-decorator]
def _kl_independent_diagonal(q: Independent[Any], p: DiagonalNormal) -> Tensor:
    kl: Tensor = _kl_diagonal_diagonal(_as_diagonal(q), p)
    return kl


@register_kl(Distribution, Lebesgue)  # type: ignore[untyped-decorator]
def _kl_to_lebesgue(q: Distribution, p: Lebesgue) -> Tensor:
    return -q.entropy()


def closed_form_unit_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each entry of the event, ``[*batch, *event]``, in nats.

    A unit of one-hot codes is a variable, so theirs are ``[*batch, J]``, and for code vectors they
    are those of each code, ``[*batch, S, *sides]``. ``None`` unless both distributions have
    independent units and a closed form is known.

    Example:
        >>> q = DiagonalNormal(torch.ones(2), torch.zeros(2))
        >>> p = DiagonalNormal(torch.zeros(2), torch.zeros(2))
        >>> closed_form_unit_kl(q, p)
        tensor([0.5000, 0.5000])
    """
    if isinstance(q, FactorialOneHot) and isinstance(p, FactorialOneHot):
        return compute_unit_kl(q, p)
    if isinstance(q, CodePoint) and isinstance(p, FactorialCodeVectors):
        return -p.unit_log_probs(q.codes)
    if isinstance(q, FactorialBernoulli) and isinstance(p, FactorialBernoulli):
        units = _bernoulli_unit_kl(q, p)
    else:
        try:
            units = _normal_unit_kl(_as_diagonal(q), _as_diagonal(p))
        except NotImplementedError:
            found = _find_unit_kl_of_entries(q, p)
            if found is None:
                return None
            units = found
    return units.expand(q.batch_shape + q.event_shape)


def _find_unit_kl_of_entries(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each entry of torch's ``Independent``, if it is registered with torch."""
    if not isinstance(q, Independent) or not isinstance(p, Independent):
        return None
    entries = unwrap_independent(q), unwrap_independent(p)
    if any(entry.event_shape for entry in entries):
        return None
    return closed_form_kl(*entries)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats if a closed form is registered with torch, else ``None``.

    Example:
        >>> q = DiagonalNormal(torch.ones(2), torch.zeros(2))
        >>> p = DiagonalNormal(torch.zeros(2), torch.zeros(2))
        >>> closed_form_kl(q, p)
        tensor(1.)
    """
    try:
        kl: Tensor = kl_divergence(q, p)
        return kl
    except NotImplementedError:
        return None


def draw_samples(distribution: Distribution, samples: int) -> Tensor:
    """Make draws ``[samples, B, *event]`` from a distribution of batch shape ``[B]``.

    They are reparameterised if the distribution allows it, and take their noise from the examples'
    streams if these are active.
    """
    size = torch.Size((samples,))
    with noise.for_foreign(samples, distribution.batch_shape[0]):
        if distribution.has_rsample:
            return distribution.rsample(size)
        return distribution.sample(size)
