"""One group of latents: its draws, the distribution that they come from, and its prior."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from lowerbound.distributions import closed_form_kl, closed_form_unit_kl, draw_samples
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.models.checks import check_measures
from lowerbound.models.paths import depends_on, partial_gradients, zero_with_gradients
from lowerbound.models.sampling import (
    Gradient,
    choose_sampler,
    score_by_prior,
    score_latents,
)
from lowerbound.runtime import noise

Value = TypeVar("Value")


class once(Generic[Value]):
    """A property that is computed when first read.

    Unlike ``functools.cached_property`` it does not use a lock, so torch's compiler can trace it.
    """

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
class Latent:
    r"""One group of latents of a draw: draws ``z`` from a posterior ``q``, and their prior.

    A model with several stochastic layers has a group for each layer. :meth:`Draw.of` puts them
    together. If the prior is known before the latents are drawn, as in top-down inference,
    :meth:`Latent.draw` also makes the draws.

    Args:
        z: the draws, ``[K, B, *units]``.
        q: their distribution: of batch shape ``[B]``, or ``[K, B]`` if it depends on latents that
            were drawn before.
        prior: of batch shape ``[]`` or ``[B]``, or ``[K, B]`` if it depends on other latents.
        top_down: whether those other latents were all drawn before ``z``. :meth:`Latent.draw` sets
            it. Only then is the closed form of KL(q || prior), averaged over the other latents, the
            expected rate: a latent that was drawn *given* ``z`` carries information about ``z``, so
            the KL divergence of this group to a prior that depends on it is a different quantity.
        posterior_term: computes log q at ``z``, ``[K, B]``, if it is computed together with the
            draws, as for a flow. By default ``q`` scores ``z``.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.ones(5, 2), 1.0), 1)  # of 5 examples
        >>> prior = Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> latent = Latent(z=q.rsample((3,)), q=q, prior=prior)
        >>> latent.log_q.shape, latent.rate
        (torch.Size([3, 5]), tensor([1., 1., 1., 1., 1.]))
    """

    z: Tensor
    q: Distribution
    prior: Distribution
    top_down: bool = False
    posterior_term: Callable[[], Tensor] | None = None

    @classmethod
    def draw(
        cls, q: Distribution, prior: Distribution, samples: int, gradient: Gradient = "pathwise"
    ) -> Latent:
        """Draw latents whose prior is known, as for each layer of top-down inference.

        Args:
            q: of batch shape ``[B]``, or ``[K, B]`` if it depends on latents drawn before.
            prior: of batch shape ``[]``, ``[B]``, or ``[K, B]`` likewise.
            samples: K.
            gradient: see :class:`lowerbound.Objective`.

        Raises:
            UnsupportedError: if q does not allow that gradient.

        Example:
            >>> from torch.distributions import Independent, Normal
            >>> q = Independent(Normal(torch.zeros(5, 2), 1.0), 1)
            >>> Latent.draw(q, q, samples=3).z.shape
            torch.Size([3, 5, 2])
        """
        z, posterior_term = draw_with_log_q(q, samples, gradient)
        return cls(z=z, q=q, prior=prior, top_down=True, posterior_term=posterior_term)

    @property
    def closed_form_is_biased(self) -> bool:
        """Whether the prior depends on other latents that may have been drawn after these."""
        return len(self.prior.batch_shape) == 2 and not self.top_down

    @once
    def log_q(self) -> Tensor:
        """The log density of z under q, ``[K, B]``, in nats."""
        if self.posterior_term is not None:
            return self.posterior_term()
        return score_latents(self.q, self.z)

    @once
    def log_prior(self) -> Tensor:
        """The log density of z under the prior, ``[K, B]``, in nats."""
        return score_by_prior(self.prior, self.q, self.z)

    @once
    def z_from_prior(self) -> Tensor:
        """Draws from the prior in the shape of ``z``, made when first read.

        Raises:
            UnsupportedError: if the prior depends on other latents of the draw, or has no draws.
        """
        if len(self.prior.batch_shape) == 2:
            raise UnsupportedError(
                "a prior depends on other latents, which were drawn from q here, so draws from the "
                "joint prior are not available; use a model whose priors are independent"
            )
        try:
            return draw_samples(self.prior.expand(self.z.shape[1:2]), len(self.z))
        except NotImplementedError:
            raise UnsupportedError(
                f"the prior is a {type(self.prior).__name__}, which cannot be drawn from; use a "
                "prior with a method sample, such as lb.StandardNormal"
            ) from None

    @once
    def unit_rates(self) -> Tensor | None:
        """KL(q || prior) of each unit in closed form, ``[B, *units]``.

        It is the mean over the latents on which q and the prior depend. ``None`` if units are not
        independent, or if there is no closed form.
        """
        parts = self._find_closed_form_parts()
        units = None if parts is None else closed_form_unit_kl(*parts)
        if units is None or units.dim() < self.z.dim():
            return units
        return units.mean(0)

    @once
    def draw_rates(self) -> Tensor | None:
        """KL(q || prior) in closed form: ``[B]``, or ``[K, B]`` if it depends on other latents."""
        parts = self._find_closed_form_parts()
        kl = None if parts is None else closed_form_kl(*parts)
        if kl is None or kl.dim() == 2:
            return kl
        return kl.expand(self.z.shape[1:2])

    @once
    def analytic_rate(self) -> Tensor | None:
        """KL(q || prior) in closed form, ``[B]``: the mean over the latents that it depends on.
        ``None`` if no closed form is registered with torch, or if the prior depends on latents that
        were drawn later.
        """
        if self.draw_rates is None or self.draw_rates.dim() == 1:
            return self.draw_rates
        return self.draw_rates.mean(0)

    @once
    def sampled_rate(self) -> Tensor:
        """The Monte-Carlo estimate ``mean_k [log q(z_k) - log prior(z_k)]``, ``[B]``."""
        return (self.log_q - self.log_prior).mean(0)

    @property
    def rate(self) -> Tensor:
        """The rate of this group, ``[B]``: in closed form if it has one, else sampled."""
        if self.analytic_rate is None:
            return self.sampled_rate
        return self.analytic_rate

    def _find_closed_form_parts(self) -> tuple[Distribution, Distribution] | None:
        """Return q and the prior in one batch shape, or ``None`` if their KL is not the rate."""
        if self.closed_form_is_biased:
            return None
        if len(self.prior.batch_shape) < 2:
            return self.q, self.prior
        return self.q.expand(self.z.shape[:2]), self.prior


def sample_posterior(q: Distribution, samples: int, gradient: Gradient = "pathwise") -> Tensor:
    """Draws of one group of latents for a kind of gradient, ``[K, B, *units]``.

    Use it for layers whose prior depends on latents that are drawn later, as in bottom-up
    inference. For other layers use :meth:`Latent.draw`.

    Args:
        q: of batch shape ``[B]``, or ``[K, B]`` if it depends on latents drawn before.
        samples: K.
        gradient: see :class:`lowerbound.Objective`.

    Raises:
        UnsupportedError: if q does not allow that gradient.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q1 = Independent(Normal(torch.zeros(5, 2), 1.0), 1)
        >>> z1 = sample_posterior(q1, samples=3)
        >>> q2 = Independent(Normal(z1, 1.0), 1)  # depends on z1
        >>> sample_posterior(q2, samples=3).shape
        torch.Size([3, 5, 2])
    """
    return draw_with_log_q(q, samples, gradient)[0]


def draw_with_log_q(
    q: Distribution, samples: int, gradient: Gradient
) -> tuple[Tensor, Callable[[], Tensor]]:
    """Draw as :func:`sample_posterior` does, and return a function that computes log q as well."""
    if len(q.batch_shape) not in (1, 2) or (
        len(q.batch_shape) == 2 and q.batch_shape[0] != samples
    ):
        raise ShapeError(
            f"a posterior of batch shape {tuple(q.batch_shape)} cannot give {samples} draws; "
            f"it must be (B,), or ({samples}, B) if it depends on latents drawn before"
        )
    of_pairs = len(q.batch_shape) == 2
    size = Size() if of_pairs else Size((samples,))
    with noise.for_foreign(samples, q.batch_shape[-1], of_pairs=of_pairs):
        return choose_sampler(q, gradient)(q, size)


def check_groups(latents: Mapping[str, Latent]) -> None:
    """Check that groups of latents fit each other, and are in the order of drawing.

    Raises:
        SettingsError: if no group is given.
        ShapeError: if draws, posterior and prior of a group do not have the shapes of one draw.
        UnsupportedError: if a latent depends on one that comes later, or its posterior has no
            density with respect to its prior.
    """
    if not latents:
        raise SettingsError("Draw.of needs at least one group of latents; give each by its name")
    leading = next(iter(latents.values())).z.shape[:2]
    for name, latent in latents.items():
        _check_shapes(name, latent, leading)
    if torch.compiler.is_compiling():
        return  # the first steps of a training run are not compiled, and have checked this
    names = list(latents)
    for name, latent in latents.items():
        check_measures(latent.q, latent.prior, f" of {name!r}")
    for place, name in enumerate(names):
        if depends_on(latents[name].z, [latents[later].z for later in names[place + 1 :]]):
            raise UnsupportedError(
                f"Draw.of: {name!r} depends on latents that come after it. Give the latents in the "
                "order in which they are drawn"
            )


def _check_shapes(name: str, latent: Latent, leading: Size) -> None:
    """Refuse a mismatch of shapes by name, because shapes would broadcast silently."""
    if len(leading) != 2 or latent.z.shape[:2] != leading:
        raise ShapeError(
            f"Draw.of: the draws of {name!r} have the shape {tuple(latent.z.shape)}; it must be "
            f"[K, B, ...] with the same K and B for all groups, {tuple(leading)}"
        )
    allowed = (leading, leading[1:])
    for role, part in (("posterior", latent.q), ("prior", latent.prior)):
        batch_fits = part.batch_shape in allowed or (role == "prior" and not part.batch_shape)
        if part.event_shape != latent.z.shape[2:] or not batch_fits:
            raise ShapeError(
                f"Draw.of: the {role} of {name!r} has batch shape {tuple(part.batch_shape)} and "
                f"event shape {tuple(part.event_shape)}; they must be {tuple(leading[1:])} or "
                f"{tuple(leading)}, and {tuple(latent.z.shape[2:])}, see "
                "torch.distributions.Independent"
            )


def split_log_q(latent: Latent, earlier: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute log q of one group with two different gradients, ``[K, B]`` each.

    log q depends on the posterior's parameters in two ways: directly, and through the latents,
    including those on which q depends. The first result has only the gradient through latents, the
    second only the direct one. Both work for any posterior that can score its draws, because the
    gradients at the latents are measured rather than derived.

    Args:
        latent: the group.
        earlier: latents that were drawn before.

    Raises:
        UnsupportedError: if q cannot score a given point.
    """
    # A gradient at this view does not continue into the parameters of q.
    z = latent.z.view_as(latent.z)
    log_q = score_latents(latent.q, z)
    on_path = [other for other in (*earlier, z) if other.requires_grad]
    if not on_path:
        return log_q.detach(), log_q
    through_latents = zero_with_gradients(partial_gradients(log_q, on_path), on_path)
    return log_q.detach() + through_latents, log_q - through_latents
