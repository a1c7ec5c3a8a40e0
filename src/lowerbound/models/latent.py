"""The latent-variable model with an amortised posterior: the variational auto-encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals import Conditional
from lowerbound.data.examples import Examples
from lowerbound.describe import describable
from lowerbound.errors import ShapeError, UnsupportedError
from lowerbound.models.base import Model
from lowerbound.models.draw import Draw, Gradient
from lowerbound.models.passes import batches, watching
from lowerbound.models.sampling import held, not_a_distribution, sampler, scored
from lowerbound.runtime import noise
from lowerbound.runtime.devices import device_of, dtype_of
from lowerbound.runtime.memory import examples_per_pass
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed

# Draws that stand in for a mean without a closed form.
_MEAN_DRAWS = 256

# Examples that stand for all where one has the values that another has.
_ALIKE = 64


@describable
class LatentModel(Model):
    r"""The latent-variable model :math:`p(x, z) = p(z)\, p(x \mid z)` with an amortised posterior :math:`q(z \mid x)`.

    Kingma & Welling 2013. Each part is a module whose ``forward`` returns a ``torch.distributions.Distribution``; any
    three that fit make a model.

    Args:
        prior: p(z), given nothing.
        posterior: q(z given x), given ``[B, *event]``.
        likelihood: p(x given z), given ``[K, B, J]``.

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.StandardNormal(2),
        ...     posterior=lb.Gaussian(lb.mlp((1, 8, 8), 32, 4)),
        ...     likelihood=lb.Bernoulli(lb.mlp(2, 32, (1, 8, 8))),
        ... )
        >>> vae.draw(torch.zeros(5, 1, 8, 8), samples=3).log_w.shape
        torch.Size([3, 5])
        >>> vae.sample(4).shape, vae.encode(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([4, 1, 8, 8]), torch.Size([5, 2]))
    """

    def __init__(self, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood

    def draw(self, x: Tensor, samples: int = 1, gradient: Gradient = "pathwise") -> Draw:
        """``samples`` draws from q(z given x), and the terms of the bound at them.

        Args:
            x: data, ``[B, *event]``.
            samples: K.
            gradient: which way the gradient takes to the posterior, see :class:`lowerbound.Objective`.

        Raises:
            UnsupportedError: if the posterior does not allow that gradient, by name.
            ShapeError: if the parts do not fit each other or the data.
        """
        q, prior = self._given(x)
        return self._drawn(q, prior, x, samples, gradient)

    def draws(
        self,
        x: Tensor,
        sizes: Iterable[int],
        gradient: Gradient = "pathwise",
        likelihood: Callable[[Tensor], Distribution] | None = None,
    ) -> Iterator[Draw]:
        """For each of ``sizes``, so many draws from the q(z given x) of one batch, which is computed once.

        Args:
            x: data, ``[B, *event]``.
            sizes: K of each.
            gradient: as for :meth:`draw`.
            likelihood: p(x given z) in the place of the model's own.
        """
        if type(self).draw is not LatentModel.draw:  # a subclass's own
            yield from super().draws(x, sizes, gradient)
            return
        q, prior = self._given(x)
        for samples in sizes:
            yield self._drawn(q, prior, x, samples, gradient, likelihood=likelihood)

    def _given(self, x: Tensor) -> tuple[Distribution, Distribution]:
        """What does not depend on the draws: q(z given x) and p(z)."""
        q, prior = self.posterior(x), self.prior()
        if not isinstance(q, Distribution):
            raise UnsupportedError(not_a_distribution("posterior", q))
        return q, prior

    def _drawn(
        self,
        q: Distribution,
        prior: Distribution,
        x: Tensor,
        samples: int,
        gradient: Gradient,
        *,
        likelihood: Callable[[Tensor], Distribution] | None = None,
    ) -> Draw:
        with noise.for_foreign(samples, len(x)):
            z, posterior_term = sampler(q, gradient)(q, Size((samples,)))
        p = (likelihood or self.likelihood)(z)
        _check_fit(q, prior, p, x, samples)
        return Draw(
            z=z,
            likelihood_term=lambda: p.log_prob(x),
            prior_term=lambda: prior.log_prob(z),
            posterior_term=posterior_term,
            held_posterior_term=lambda: scored(held(q, self.posterior, x), z),
            fixed_point_term=lambda: scored(q, z.detach()),
            q=q,
            prior=prior,
            p=p,
        )

    def check_support(self, examples: Examples) -> None:
        """Refuse data outside of the likelihood's support.

        Raises:
            DataError: saying where.
        """
        check = getattr(self.likelihood, "check_data", None)
        if check is not None and getattr(check, "__func__", None) is not Conditional.check_data:
            # Pixels that are drawn as 0 or 1 are alike everywhere.
            some = examples.first(_ALIKE) if examples.pixels == "binarize" else examples
            with watching(None):
                for rows, x in batches(some, self, seed=0):
                    check(x, rows, examples.name)

    @torch.no_grad()
    def sample(self, count: int, *, mean: bool = False, seed: int | None = None) -> Tensor:
        """Draws of data: z from the prior, then x from p(x given z).

        Args:
            count: how many.
            mean: give the mean of p(x given z) instead of a draw from it, as pictures in papers do.
            seed: makes the draws reproducible, and leaves torch's own generator alone.

        Returns:
            ``[count, *event]``.
        """
        with (
            evaluating(self),
            seeded(None if seed is None else derived_seed(seed, "sample"), device_of(self)),
        ):
            z = self.prior().sample((count,))
            return torch.cat(
                [self._observe(part, mean) for part in z.split(self._examples_per_pass(z))]
            )

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x given z), ``[N, *event]``, for latents ``[N, J]``."""
        z = z.to(device_of(self), dtype_of(self))
        with evaluating(self):
            return torch.cat(
                [self._observe(part, mean=True) for part in z.split(self._examples_per_pass(z))]
            )

    @torch.no_grad()
    def encode(self, data: Any) -> Tensor:
        """The mean of q(z given x), ``[N, J]``: the same at every call.

        A posterior without a mean in closed form, such as a flow, is averaged over 256 draws from a fixed seed.

        Args:
            data: examples, an array or a tensor, ``[N, *event]``.
        """
        with evaluating(self):
            return torch.cat([_mean(self.posterior(x)) for _, x in batches(data, self, seed=0)])

    @torch.no_grad()
    def reconstruct(self, data: Any) -> Tensor:
        """The mean of p(x given z) at the mean of q(z given x), ``[N, *event]``: the same at every call."""
        return self.decode(self.encode(data))

    def _observe(self, z: Tensor, mean: bool) -> Tensor:
        p = self.likelihood(z[None])
        return (_mean(p) if mean else p.sample())[0]

    def _examples_per_pass(self, z: Tensor) -> int:
        p = self.likelihood(z[None, :1])
        return examples_per_pass(math.prod(p.event_shape))


def _check_fit(
    q: Distribution, prior: Distribution, p: Distribution, x: Tensor, samples: int
) -> None:
    """Shapes broadcast silently, so each mismatch is refused by name."""
    for role, part in (("prior", prior), ("likelihood", p)):
        if not isinstance(part, Distribution):
            raise UnsupportedError(not_a_distribution(role, part))
    if q.batch_shape != x.shape[:1]:
        raise ShapeError(
            f"the posterior returned batch shape {tuple(q.batch_shape)} and event shape {tuple(q.event_shape)} for "
            f"{len(x)} examples; expected the batch shape ({len(x)},): see torch.distributions.Independent"
        )
    if q.event_shape != prior.event_shape:
        raise ShapeError(
            f"the posterior is over events of shape {tuple(q.event_shape)} and the prior over {tuple(prior.event_shape)}"
        )
    if not torch.compiler.is_compiling() and {_is_discrete(q), _is_discrete(prior)} == {
        True,
        False,
    }:
        kinds = ("continuous", "discrete")
        raise UnsupportedError(
            f"the prior's {type(prior).__name__} is {kinds[bool(_is_discrete(prior))]} and the posterior's "
            f"{type(q).__name__} is {kinds[bool(_is_discrete(q))]}: neither has a density under the other; use two of one kind"
        )
    if p.event_shape != x.shape[1:] or p.batch_shape != (samples, len(x)):
        raise ShapeError(
            f"the likelihood is over events of shape {tuple(p.event_shape)} with batch shape {tuple(p.batch_shape)}, but "
            f"the data has events of shape {tuple(x.shape[1:])}, and the batch shape is to be {(samples, len(x))}: "
            "samples, examples (torch.distributions.Independent makes batch dimensions part of the event)"
        )


def _is_discrete(distribution: Distribution) -> bool | None:
    """Whether draws are from a countable set; ``None`` if it does not say."""
    try:
        support = distribution.support
    except NotImplementedError:
        return None
    return None if support is None else bool(support.is_discrete)


def _mean(distribution: Distribution) -> Tensor:
    """The mean, or where it has no closed form the average of draws that are the same at every call."""
    try:
        return distribution.mean
    except NotImplementedError:
        first = distribution.sample()
        same = torch.zeros(
            len(first), dtype=torch.long
        )  # the same noise for all, wherever they stand in the data
        with (
            seeded(0, first.device),
            noise.per_example(0, same),
            noise.for_foreign(_MEAN_DRAWS, len(first)),
        ):
            return distribution.sample(Size((_MEAN_DRAWS,))).mean(0)
