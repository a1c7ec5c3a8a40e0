"""The results of one draw of a model, which are all that objectives see of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.errors import UnsupportedError
from lowerbound.models.groups import Latent, check_groups, once, split_log_q
from lowerbound.models.paths import partial_gradients, zero_with_gradients
from lowerbound.runtime.renaming import OldAttribute, accept_old_keywords


@dataclass(frozen=True, eq=False, kw_only=True)
class Draw:
    """``K`` draws of the latents of ``B`` examples, and the terms of a bound at them.

    Each term is computed when first read. A model with several groups of latents, such as one with
    several stochastic layers, makes its draws with :meth:`Draw.of`.

    Args:
        z: the latents, ``[K, B, *units]``; several groups are concatenated as vectors.
        likelihood_term: computes log p(x|z), ``[K, B]``.
        prior_term: computes log p(z), ``[K, B]``.
        posterior_term: computes log q(z|x), ``[K, B]``.
        stopgrad_parameters_term: computes log q(z|x) with a stop-gradient on the posterior's
            parameters, ``[K, B]``; ``None`` if the posterior cannot score a given point.
        stopgrad_z_term: computes log q(z|x) with a stop-gradient on z, ``[K, B]``; ``None``
            in the same case.
        weight_term: computes the log importance weight, ``[K, B]``, if it is not
            ``log p(x|z) + log p(z) - log q(z|x)``: the marginal weight of a model in
            which some latents are summed out.
        q: the posterior q(z|x), batch shape ``[B]``; ``None`` for several groups.
        prior: the prior p(z); ``None`` for several groups.
        p: the likelihood p(x|z), batch shape ``[K, B]``.
        groups: the groups of latents by name, in the order in which they are drawn. Empty for a
            model without groups.
        extra: other values that an objective of your own reads.
    """

    z: Tensor
    likelihood_term: Callable[[], Tensor]
    prior_term: Callable[[], Tensor]
    posterior_term: Callable[[], Tensor]
    stopgrad_parameters_term: Callable[[], Tensor] | None = None
    stopgrad_z_term: Callable[[], Tensor] | None = None
    weight_term: Callable[[], Tensor] | None = None
    q: Distribution | None = None
    prior: Distribution | None = None
    p: Distribution | None = None
    groups: Mapping[str, Latent] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        latents: Mapping[str, Latent],
        likelihood: Callable[[], Tensor],
        *,
        p: Distribution | None = None,
        weight_term: Callable[[], Tensor] | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> Draw:
        """A draw of latents in groups. Densities and rates are sums over the groups.

        Args:
            latents: by name, in the order in which they were drawn.
            likelihood: computes log p(x given all latents), ``[K, B]``.
            p: the likelihood's distribution, batch shape ``[K, B]``.
            weight_term: as in :class:`Draw`.
            extra: as in :class:`Draw`.

        Raises:
            ShapeError: if a group's draws, posterior and prior do not fit.
            UnsupportedError: if the groups are not in the order in which they were drawn.

        Example:
            >>> from torch.distributions import Independent, Normal
            >>> def normal(loc):
            ...     return Independent(Normal(loc, 1.0), 1)
            >>> x = torch.zeros(5, 2)
            >>> top = Latent.draw(normal(x), normal(torch.zeros(2)), samples=3)
            >>> bottom = Latent.draw(normal(x + top.z), normal(top.z), samples=3)
            >>> p = normal(bottom.z)
            >>> draw = Draw.of({"top": top, "bottom": bottom}, lambda: p.log_prob(x))
            >>> draw.log_w.shape, draw.rate.shape, draw.log_q_stopgrad_z_of("top").shape
            (torch.Size([3, 5]), torch.Size([5]), torch.Size([3, 5]))
        """
        check_groups(latents)
        groups = dict(latents)
        members = list(groups.values())
        z, q, prior = _join([latent.z for latent in members]), None, None
        if len(members) == 1:
            q, prior = members[0].q, members[0].prior
        return cls(
            z=z,
            likelihood_term=likelihood,
            prior_term=lambda: _sum([latent.log_prior for latent in members]),
            posterior_term=lambda: _sum([latent.log_q for latent in members]),
            weight_term=weight_term,
            q=q,
            prior=prior,
            p=p,
            groups=groups,
            extra=extra or {},
        )

    @once
    def latents(self) -> Mapping[str, Latent]:
        """The groups of latents by name.

        A draw without groups has one, ``"z"``; it has none if q and the prior were not given to it.
        """
        if self.groups or self.q is None or self.prior is None:
            return self.groups
        return {"z": Latent(z=self.z, q=self.q, prior=self.prior)}

    @once
    def z_from_prior(self) -> Tensor:
        """Draws from the prior in the shape of ``z``, as many as from q; made when first read.

        Raises:
            UnsupportedError: if the prior is not known, or the prior of a group depends on others.
        """
        if not self.latents:
            raise UnsupportedError(
                "the draws of this model do not say what its prior is; give Draw q and prior, or "
                "use Draw.of"
            )
        return _join([latent.z_from_prior for latent in self.latents.values()])

    @once
    def log_likelihood(self) -> Tensor:
        """log p(x|z), ``[K, B]``, in nats."""
        return self.likelihood_term()

    @once
    def log_prior(self) -> Tensor:
        """log p(z), ``[K, B]``, in nats."""
        return self.prior_term()

    @once
    def log_q(self) -> Tensor:
        """log q(z|x), ``[K, B]``, in nats."""
        return self.posterior_term()

    @once
    def log_w(self) -> Tensor:
        """The log importance weights, ``[K, B]``, in nats.

        They are ``log p(x|z) + log p(z) - log q(z|x)``, or the marginal weight if some
        latents are summed out.
        """
        if self.weight_term is not None:
            return self.weight_term()
        return self.log_likelihood + self.log_prior - self.log_q

    @once
    def log_q_stopgrad_parameters(self) -> Tensor:
        """log q(z|x) with a stop-gradient on the posterior's parameters, ``[K, B]``.

        Its gradient goes only through z; with several groups, through all latents.

        Raises:
            UnsupportedError: if the posterior cannot score a given point.
        """
        if self.groups:
            return _sum([through_z for through_z, _ in self._split.values()])
        return self._score_again(self.stopgrad_parameters_term)

    @once
    def log_q_stopgrad_z(self) -> Tensor:
        """log q(z|x) with a stop-gradient on z, ``[K, B]``.

        Its gradient goes only to the posterior's parameters.

        Raises:
            UnsupportedError: if the posterior cannot score a given point.
        """
        if self.groups:
            return _sum([direct for _, direct in self._split.values()])
        return self._score_again(self.stopgrad_z_term)

    log_q_held = OldAttribute("log_q_stopgrad_parameters")
    log_q_at_fixed_z = OldAttribute("log_q_stopgrad_z")

    def log_q_stopgrad_parameters_of(self, name: str) -> Tensor:
        """:attr:`log_q_stopgrad_parameters` of one group of latents, ``[K, B]``."""
        return self._split[name][0]

    def log_q_stopgrad_z_of(self, name: str) -> Tensor:
        """:attr:`log_q_stopgrad_z` of one group of latents, ``[K, B]``."""
        return self._split[name][1]

    @once
    def _split(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Both stop-gradient versions of log q for each group."""
        earlier: list[Tensor] = []
        found = {}
        for name, latent in self.latents.items():
            found[name] = split_log_q(latent, earlier)
            earlier.append(latent.z)
        return found

    def _score_again(self, term: Callable[[], Tensor] | None) -> Tensor:
        if term is None:
            kind = "the posterior" if self.q is None else type(self.q).__name__
            raise UnsupportedError(
                f"{kind} cannot score a given point, which this gradient needs; "
                "use gradient='pathwise'"
            )
        return term()

    def with_scaled_paths(self, surrogate: Tensor, scale: Tensor) -> Tensor:
        """``surrogate``, with its gradient at the latents multiplied by ``scale``.

        So the gradient that reaches the posterior's parameters through the latents has another
        weight, and no other gradient changes. It costs a backward pass from the surrogate to the
        latents, and with several groups one more from each group to those before. The result can be
        added to other terms of the same draw.

        With several groups this is the gradient with respect to all latents as the coordinates of
        one vector, on the path of their joint sampler. That is what the doubly reparameterised
        gradient of a hierarchical posterior needs (Bauer & Mnih 2021, section 4).

        Args:
            surrogate: ``[B]``.
            scale: ``[K, B]``.
        """
        groups = [latent.z for latent in self.groups.values()] or [self.z]
        on_path = [z for z in groups if z.requires_grad]
        if not on_path:
            return surrogate
        missing = [
            gradient * (scale - 1).reshape(*scale.shape, *(1,) * (gradient.dim() - scale.dim()))
            for gradient in partial_gradients(surrogate, on_path)
        ]
        return surrogate + zero_with_gradients(missing, on_path).sum(0)

    @once
    def unit_rates(self) -> Tensor | None:
        """KL(q || prior) of each latent unit in closed form, ``[B, *units]``.

        Those of several groups are concatenated, ``[B, J]``. ``None`` if units are not independent,
        or if there is no closed form.
        """
        rates = [latent.unit_rates for latent in self.latents.values()]
        found = [rate for rate in rates if rate is not None]
        if not found or len(found) < len(rates):
            return None
        if len(found) == 1:
            return found[0]
        return torch.cat([rate.flatten(1) for rate in found], 1)

    @once
    def analytic_rate(self) -> Tensor | None:
        """KL(q(z|x) || p(z)) in closed form, ``[B]``.

        For several groups it is the sum over the groups, each averaged over the latents on which it
        depends. ``None`` if a group has no closed form.
        """
        rates = [latent.analytic_rate for latent in self.latents.values()]
        found = [rate for rate in rates if rate is not None]
        if not found or len(found) < len(rates):
            return None
        return _sum(found)

    @once
    def sampled_rate(self) -> Tensor:
        """The Monte-Carlo estimate ``mean_k [log q(z_k|x) - log p(z_k)]``, ``[B]``."""
        return (self.log_q - self.log_prior).mean(0)

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) || p(z)), ``[B]``: in closed form if it has one, else sampled.

        For several groups it is the sum of their rates.
        """
        if len(self.groups) > 1:
            return _sum([latent.rate for latent in self.groups.values()])
        if self.analytic_rate is None:
            return self.sampled_rate
        return self.analytic_rate

    @property
    def has_closed_form_rate(self) -> bool:
        """Whether the rate of some group of latents has a closed form."""
        return any(latent.analytic_rate is not None for latent in self.latents.values())


def _join(latents: list[Tensor]) -> Tensor:
    """Concatenate the latents of several groups as vectors, ``[K, B, J]``; one stays as it is."""
    if len(latents) == 1:
        return latents[0]
    return torch.cat([z.reshape(*z.shape[:2], -1) for z in latents], -1)


def _sum(terms: list[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0])


Draw.__init__ = accept_old_keywords(  # type: ignore[method-assign]
    held_posterior_term="stopgrad_parameters_term", fixed_point_term="stopgrad_z_term"
)(Draw.__init__)
