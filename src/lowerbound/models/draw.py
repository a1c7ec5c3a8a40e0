"""What one pass through a model holds: the narrow waist between models and objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import closed_form_kl, closed_form_unit_kl
from lowerbound.errors import UnsupportedError

Gradient = Literal["pathwise", "sticking-the-landing", "dreg", "score-function"]
Value = TypeVar("Value")


class _once(Generic[Value]):
    """A property that is computed when first read. Unlike functools.cached_property it holds no lock, so that it compiles."""

    def __init__(self, compute: Callable[[Any], Value]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Value:
        if instance is None:
            return cast(Value, self)
        value = self.compute(instance)
        instance.__dict__[self.name] = value
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """One pass through a model: ``K`` draws of the latents of ``B`` examples. Each term is computed when first read.

    Args:
        z: the latents, ``[K, B, J]``.
        likelihood_term: computes log p(x given z), ``[K, B]``.
        prior_term: computes log p(z), ``[K, B]``.
        posterior_term: computes log q(z given x), ``[K, B]``.
        held_posterior_term: computes log q(z given x) with the posterior's parameters held fixed, ``[K, B]``; ``None`` where
            the posterior cannot score a given point.
        fixed_point_term: computes log q(z given x) with z held fixed, ``[K, B]``; ``None`` as above.
        q: the posterior q(z given x), batch shape ``[B]``.
        prior: the prior p(z).
        p: the likelihood p(x given z), batch shape ``[K, B]``.
        extra: whatever else an objective of one's own wants to read.
    """

    z: Tensor
    likelihood_term: Callable[[], Tensor]
    prior_term: Callable[[], Tensor]
    posterior_term: Callable[[], Tensor]
    held_posterior_term: Callable[[], Tensor] | None = None
    fixed_point_term: Callable[[], Tensor] | None = None
    q: Distribution | None = None
    prior: Distribution | None = None
    p: Distribution | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @_once
    def log_likelihood(self) -> Tensor:
        """log p(x given z), ``[K, B]``, in nats."""
        return self.likelihood_term()

    @_once
    def log_prior(self) -> Tensor:
        """log p(z), ``[K, B]``, in nats."""
        return self.prior_term()

    @_once
    def log_q(self) -> Tensor:
        """log q(z given x), ``[K, B]``, in nats."""
        return self.posterior_term()

    @_once
    def log_w(self) -> Tensor:
        """The log importance weights ``log p(x given z) + log p(z) - log q(z given x)``, ``[K, B]``."""
        return self.log_likelihood + self.log_prior - self.log_q

    @_once
    def log_q_held(self) -> Tensor:
        """log q(z given x) whose gradient goes through z alone, ``[K, B]``: the posterior's parameters are held fixed.

        Raises:
            UnsupportedError: if the posterior cannot score a given point.
        """
        return _term(self, self.held_posterior_term)

    @_once
    def log_q_at_fixed_z(self) -> Tensor:
        """log q(z given x) whose gradient goes to the posterior's parameters alone, ``[K, B]``: z is held fixed.

        Raises:
            UnsupportedError: if the posterior cannot score a given point.
        """
        return _term(self, self.fixed_point_term)

    def with_scaled_paths(self, surrogate: Tensor, scale: Tensor) -> Tensor:
        """``surrogate``, ``[B]``, whose gradient is multiplied by ``scale``, ``[K, B]``, where it comes back to the latents.

        So what reaches the posterior's parameters through z is weighted anew, and no other gradient is changed. It costs a
        pass backward from the surrogate to z; the result can be added to other terms of the same draw.
        """
        if not self.z.requires_grad:
            return surrogate
        (path,) = torch.autograd.grad(surrogate.sum(), self.z, retain_graph=True)
        missing = path * (scale - 1).reshape(*scale.shape, *(1,) * (path.dim() - scale.dim()))
        # Linear in z, with the slope that is missing; its value is taken away again.
        return surrogate + (missing * (self.z - self.z.detach())).flatten(2).sum(2).sum(0)

    @_once
    def unit_rates(self) -> Tensor | None:
        """KL(q(z given x) || p(z)) of each latent unit in closed form, ``[B, *units]``; ``None`` where units are not independent."""
        if self.q is None or self.prior is None:
            return None
        return closed_form_unit_kl(self.q, self.prior)

    @_once
    def analytic_rate(self) -> Tensor | None:
        """KL(q(z given x) || p(z)) in closed form, ``[B]``, or ``None`` where none is registered with torch."""
        if self.q is None or self.prior is None:
            return None
        kl = closed_form_kl(self.q, self.prior)
        return None if kl is None else kl.expand(self.z.shape[1:2])

    @_once
    def sampled_rate(self) -> Tensor:
        """The Monte-Carlo estimate ``mean_k [log q(z_k given x) - log p(z_k)]``, ``[B]``."""
        return (self.log_q - self.log_prior).mean(0)

    @property
    def rate(self) -> Tensor:
        """KL(q(z given x) || p(z)), ``[B]``: in closed form where there is one, else sampled."""
        return self.sampled_rate if self.analytic_rate is None else self.analytic_rate


def _term(draw: Draw, compute: Callable[[], Tensor] | None) -> Tensor:
    if compute is None:
        kind = "the posterior" if draw.q is None else type(draw.q).__name__
        raise UnsupportedError(
            f"{kind} cannot score a given point, which this gradient needs; use gradient='pathwise'"
        )
    return compute()
