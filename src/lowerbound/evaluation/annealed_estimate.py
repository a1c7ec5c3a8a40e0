"""An annealed log likelihood, and whether to trust it.

Shapes: C chains, N examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.evaluation.estimate import LARGEST_SHORTFALL, Estimate
from lowerbound.evaluation.intervals import mean_interval

# An example is doubtful if it has fewer effective chains than a quarter of all, where this limit is
# at most the first and at least the second of these; or if it has fewer chains than the third.
_FEWEST_EFFECTIVE, _LEAST_EFFECTIVE, _FEWEST_CHAINS = 10.0, 2.0, 4

# An example is doubtful if its two halves of chains differ by more than this many nats.
_FARTHEST_HALVES = 2.0


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AnnealedEstimate(Estimate):
    """An annealed log likelihood, with diagnostics of its chains.

    Args:
        acceptance: the share of accepted trajectories of each example, ``[N]``; nan if there were
            no trajectories.
        effective_sample_sizes: ``(sum w)^2 / sum w^2`` over each example's chains, ``[N]``, which
            is from 1 to C.
        halves: the same estimate from the first and from the second half of the chains, ``[2, N]``.
            They are independent.
        shorter: the estimates from independent chains with half as many distributions, ``[N]``;
            ``None`` if those were not run.
        settings: ``distributions``, ``chains``, ``leapfrog_steps`` and ``seed``.
        is_upper: whether it is an upper bound in expectation, see :func:`lowerbound.bidirectional`.
            Doubtful values are then most likely too high.
    """

    acceptance: Tensor
    effective_sample_sizes: Tensor
    halves: Tensor
    settings: Mapping[str, int]
    shorter: Tensor | None = None
    is_upper: bool = False

    @property
    def doubtful(self) -> Tensor:
        """Whether the estimate of each example should not be trusted, ``[N]``.

        Few of its chains share the weight, or its two halves of chains disagree.
        """
        chains = self.settings["chains"]
        fewest = min(_FEWEST_EFFECTIVE, max(_LEAST_EFFECTIVE, chains / 4))
        few = ~(self.effective_sample_sizes >= fewest)
        apart = ~((self.halves[0] - self.halves[1]).abs() <= _FARTHEST_HALVES)
        return few | apart | torch.tensor(chains < _FEWEST_CHAINS)

    @property
    def doubtful_share(self) -> float:
        """The share of doubtful examples."""
        return float(self.doubtful.double().mean())

    @property
    def growth(self) -> Estimate | None:
        """What the second half of the distributions has added; ``None`` without shorter chains.

        The error of an annealed estimate falls about in proportion to the number of distributions.
        So the estimate is still too low by about as much as it has grown.
        """
        if self.shorter is None:
            return None
        return Estimate(self.per_example - self.shorter)

    @property
    def shortfall(self) -> float:
        """By how many nats the mean may still be too low: the upper end of the growth's interval.

        For a single example it is the growth itself. Examples without a finite estimate do not
        count here; they are doubtful. Without shorter chains the shortfall is unknown, and it is
        given as 0.
        """
        growth = self._finite_growth
        if len(growth) < 2:
            return max(0.0, float(growth.sum()))
        return max(0.0, mean_interval(growth)[1])

    @property
    def _finite_growth(self) -> Tensor:
        """The growth of the examples where it is finite; of none without shorter chains."""
        if self.growth is None:
            return self.per_example[:0]
        growth = self.growth.per_example
        return growth[growth.isfinite()]

    @property
    def warning(self) -> str | None:
        """Why the estimate cannot be trusted, in words; ``None`` if nothing speaks against it."""
        reasons = list(self._reasons_for_doubt())
        if not reasons:
            return None
        direction = "high" if self.is_upper else "low"
        return (
            f"the annealed log likelihood is not to be trusted: {'; and '.join(reasons)}. It is "
            f"then most likely too {direction}: take more distributions, and more chains"
        )

    def _reasons_for_doubt(self) -> Iterator[str]:
        finite, total = self.per_example.isfinite(), len(self.per_example)
        if not finite.all():
            yield f"{int((~finite).sum()):,} of {total:,} examples have no finite estimate"
        few = self.doubtful & finite
        if self.settings["chains"] == 1:
            yield "with a single chain for each example, nothing shows whether it is right"
        elif few.any():
            apart = float((self.halves[0] - self.halves[1])[few].abs().max())
            effective = float(self.effective_sample_sizes[few].min())
            yield (
                f"in {int(few.sum()):,} of {total:,} examples a few chains carry most of the "
                f"weight (least effective sample size {effective:.1f} of "
                f"{self.settings['chains']:,}; halves of the chains differ by up to {apart:.1f} "
                "nats)"
            )
        if self.shortfall > LARGEST_SHORTFALL:
            growth = float(self._finite_growth.mean())
            yield (
                f"chains of half the length give {growth:.2g} nats less on average, so the mean "
                f"may still be too low by up to {self.shortfall:.2g} nats"
            )
