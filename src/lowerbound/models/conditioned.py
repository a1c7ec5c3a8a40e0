"""The distributions of a latent-variable model for one batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Size, Tensor
from torch.distributions import Distribution


@dataclass(frozen=True, eq=False)
class ConditionedParts:
    """The three distributions of a latent-variable model for one batch and its fields.

    Args:
        q: the posterior q(z|x), batch shape ``[B]``.
        prior: the prior p(z), batch shape ``[]``, or ``[B]`` if it depends on fields.
        likelihood: from z, ``[K, B, *latent]``, to p(x|z).
    """

    q: Distribution
    prior: Distribution
    likelihood: Callable[[Tensor], Distribution]

    def draw_from_prior(self, samples: int, examples: int) -> Tensor:
        """Draws from the prior, ``[samples, examples, *latent]``."""
        if self.prior.batch_shape:
            return self.prior.sample(Size((samples,)))
        return self.prior.sample(Size((samples, examples)))
