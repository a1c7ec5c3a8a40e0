"""The latent-variable model whose few discrete latents are summed out exactly."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from lowerbound.describe import describable
from lowerbound.errors import UnsupportedError
from lowerbound.models import checks
from lowerbound.models.draw import Draw
from lowerbound.models.groups import once
from lowerbound.models.latent import LatentModel
from lowerbound.models.sampling import Gradient, score_latents
from lowerbound.runtime import noise


class _Sums:
    """Expectations under q, and the evidence, by sums over all states of the latents.

    Suffixes of shapes: S states, B examples.

    Args:
        q: the posterior, batch shape ``[B]``.
        prior: the prior.
        log_likelihood: log p(x|z) of each state, ``[S, B]``.
        states: ``[S, B, *event]``.
    """

    def __init__(
        self, q: Distribution, prior: Distribution, log_likelihood: Tensor, states: Tensor
    ) -> None:
        self.q = q
        self.prior = prior
        self.states = states
        self.log_likelihood_SB = log_likelihood

    @once
    def log_prior_SB(self) -> Tensor:
        """log p(z) of each state."""
        return self.prior.log_prob(self.states)

    @once
    def log_q_SB(self) -> Tensor:
        """log q(z|x) of each state."""
        return score_latents(self.q, self.states)

    def expect(self, name: str) -> Tensor:
        """The expectation under q of one of the terms, ``[B]``."""
        terms: Tensor = getattr(self, name)
        return (self.log_q_SB.exp() * terms).sum(0)

    def evidence(self) -> Tensor:
        """log p(x), ``[B]``."""
        return (self.log_likelihood_SB + self.log_prior_SB).logsumexp(0)


@describable
class EnumeratedModel(LatentModel):
    r"""A latent-variable model whose discrete latents are summed out instead of drawn.

    .. math:: \mathcal L(x) = \sum_z q(z \mid x) \log \frac{p(x \mid z)\, p(z)}{q(z \mid x)},
        \qquad \log p(x) = \log \sum_z p(x \mid z)\, p(z)

    With :class:`lowerbound.ELBO` the bound and the gradients of all parameters are exact: they have
    no noise. The importance weight of every draw is the evidence itself, so
    :func:`lowerbound.log_likelihood` gives log p(x) exactly from one sample, and
    :class:`lowerbound.IWAE` maximises it. Train with the ELBO, because IWAE does not train the
    posterior, which ``encode`` and ``reconstruct`` use. The ``elbo_weight`` of IWAE and the
    ``alpha`` of :class:`lowerbound.Renyi` change nothing here. Only ``gradient="pathwise"`` is
    allowed, because the bound needs no draws.

    The likelihood is evaluated once for each state: :math:`2^D` times for D binary latents, and
    :math:`C^J` times for J variables of C categories. At most 65,536 states are allowed. In all
    other respects it is a :class:`LatentModel`, with the same arguments.

    Args:
        prior: p(z), such as ``lb.OneHot(lb.constant((J, C), learned=False))``.
        posterior: q(z|x), :class:`lowerbound.OneHot` or :class:`lowerbound.Bernoulli`.
        likelihood: p(x|z).

    Raises:
        UnsupportedError: at the first draw, if the latents cannot be enumerated, or for a
            likelihood with ``scale="optimal"``.
        SettingsError: at the first draw, if there are too many states.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.EnumeratedModel(
        ...     prior=lb.OneHot(lb.constant((2, 5), learned=False)),
        ...     posterior=lb.OneHot(lb.mlp(6, 16, (2, 5))),
        ...     likelihood=lb.Bernoulli(lb.mlp((2, 5), 16, 6)),
        ... )
        >>> draw = model.draw(torch.zeros(3, 6))
        >>> bool((lb.ELBO()(draw) <= lb.IWAE(samples=1)(draw)).all())
        True
    """

    def draw(
        self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise", **given: Any
    ) -> Draw:
        """The exact terms of the bound, repeated ``samples`` times, and draws of z from q.

        Raises:
            UnsupportedError: if the latents cannot be enumerated.
            ShapeError: if the parts do not fit each other or the data.
            DataError: if a field that the model needs is not given.
        """
        checks.refuse_learning_from_scores(self.likelihood, type(self).__name__)
        parts = self.conditioned(x, given)
        q, prior = parts.q, parts.prior
        checks.check_posterior(q, prior, x)
        states = _list_states(q)
        likelihood = parts.likelihood(states)
        checks.check_likelihood(likelihood, x, len(states))
        sums = _Sums(q, prior, likelihood.log_prob(x), states)
        with torch.no_grad(), noise.for_foreign(samples, len(x)):
            z = q.sample(Size((samples,)))

        def expand(compute: Any) -> Tensor:
            value: Tensor = compute()
            return value.expand(samples, len(x))

        return Draw(
            z=z,
            likelihood_term=partial(expand, partial(sums.expect, "log_likelihood_SB")),
            prior_term=partial(expand, partial(sums.expect, "log_prior_SB")),
            posterior_term=partial(expand, partial(sums.expect, "log_q_SB")),
            weight_term=partial(expand, sums.evidence),
            q=q,
            prior=prior,
            p=parts.likelihood(z),
        )


def _list_states(q: Distribution) -> Tensor:
    """List all states of the latents, ``[S, B, *event]``."""
    try:
        return q.enumerate_support(expand=True)
    except NotImplementedError:
        raise UnsupportedError(
            f"EnumeratedModel: the posterior returned {type(q).__name__}, whose values cannot be "
            "enumerated; use lb.OneHot with draws='exact' or lb.Bernoulli, or a LatentModel"
        ) from None
