"""The search for the best q of each example, without the encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import fields_for
from lowerbound.data.examples import Examples
from lowerbound.distributions import drawn
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate, WeightSums
from lowerbound.models import LatentModel
from lowerbound.models.passes import Progress, batches, gathered
from lowerbound.runtime import noise
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed

# The number of draws of z for each example in a chunk, and in each step of the search.
_DRAWS = 10

# Adam's settings. With the default ones Adam would not converge at the optimum, and its averages
# would contain the first, large gradients until the search ends.
_BETAS = (0.9, 0.9)
_EPSILON = 0.1

# The search ends after a round whose mean gain is below this many nats, or after the last round.
CONVERGED, _ROUNDS = 0.05, 10


class _Refinable(Protocol):
    """A posterior whose parameters are its network's output.

    See :class:`lowerbound.conditionals.Parametric`.
    """

    network: nn.Module

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor: ...

    def from_parameters(self, raw: Tensor) -> Distribution: ...


class Found(NamedTuple):
    """The results of a search over some examples.

    Args:
        log_likelihood: by importance sampling from both the encoder's q and the best q.
        best_bound: the bound with the best q.
        amortised_bound: the bound with the encoder's q.
        last_gain: the mean gain of the last round, in nats.
    """

    log_likelihood: LikelihoodEstimate
    best_bound: Estimate
    amortised_bound: Estimate
    last_gain: float


class _Batch(NamedTuple):
    """Some examples, ``[B, *event]``, their row numbers, and the fields that the model needs."""

    x: Tensor
    rows: Tensor
    given: dict[str, Tensor]


@dataclass(frozen=True)
class Search:
    """The search for the best q of each example, see :func:`lowerbound.inference_gaps`.

    Args:
        model: a model whose posterior has ``parameters_from`` and ``from_parameters``.
        samples: K, the draws for each bound.
        steps: the number of Adam's steps in each round.
        learning_rate: the learning rate at the start of a round.
        seed: of all noise.
        progress: is called after each batch of a round.
    """

    model: LatentModel
    samples: int
    steps: int
    learning_rate: float
    seed: int
    progress: Progress | None = None

    def run(self, examples: Examples, batch_size: int | None) -> Found:
        """Search round by round, and estimate the bounds on new noise."""
        with evaluating(self.model), seeded(self.seed, device_of(self.model)):
            best: list[Tensor | None] = []
            gain = 0.0
            for turn in range(_ROUNDS):
                if not self.steps:
                    break
                # Whether to continue is decided for all examples together, so that it does not
                # depend on the batches.
                results = [
                    self._round(batch, raw, turn)
                    for batch, raw in self._batches(examples, batch_size, best)
                ]
                best = [raw for raw, _ in results]
                gain = float(torch.cat([gains for _, gains in results]).mean())
                if gain < CONVERGED:
                    break
            estimates = gathered(
                len(examples),
                (
                    self._estimates(batch, raw)
                    for batch, raw in self._batches(examples, batch_size, best)
                ),
            )
        log_likelihood = LikelihoodEstimate(
            estimates["log_likelihood"],
            samples=2 * self.samples,
            effective_sample_sizes=estimates["effective"],
            pareto_k=estimates["pareto_k"],
        )
        best_bound, amortised = Estimate(estimates["best"]), Estimate(estimates["amortised"])
        return Found(log_likelihood, best_bound, amortised, gain)

    def _batches(
        self, examples: Examples, batch_size: int | None, best: list[Tensor | None]
    ) -> Iterator[tuple[_Batch, Tensor | None]]:
        """Batches, each with the best parameters so far; ``None`` before the first round."""
        passes = batches(
            examples,
            self.model,
            seed=self.seed,
            samples=_DRAWS,
            batch_size=batch_size,
            progress=self.progress,
        )
        for number, (rows, x, given) in enumerate(passes):
            raw = None
            if best:
                raw = best[number]
            yield _Batch(x, rows, given), raw

    @property
    def _posterior(self) -> _Refinable:
        return cast(_Refinable, self.model.posterior)

    def _encoded(self, batch: _Batch) -> Tensor:
        """The encoder's parameters of q."""
        fields = fields_for(self.model.posterior, batch.given)
        return self._posterior.parameters_from(self._posterior.network, batch.x, **fields)

    def _round(self, batch: _Batch, best: Tensor | None, turn: int) -> tuple[Tensor, Tensor]:
        """Another round for a batch.

        Returns:
            The better parameters, ``[B, ...]``, and their gain on common noise, ``[B]``.
        """
        start = best
        if start is None:
            start = self._encoded(batch)
        with self._noise(batch.rows, "refine", turn):
            end = self._maximised(start, batch)
        (started, ended), _ = self._bounds((start, end), batch, "choose")
        worse = (ended <= started) | ~torch.isfinite(ended)
        better = torch.where(worse.reshape(-1, *[1] * (start.dim() - 1)), start, end)
        return better, torch.where(worse, 0.0, ended - started).cpu()

    def _estimates(self, batch: _Batch, best: Tensor | None) -> dict[str, Tensor]:
        """Both bounds, the log likelihood and its diagnostics, ``[B]`` each."""
        start = self._encoded(batch)
        if best is None:
            best = start
        bounds, weights = self._bounds((start, best), batch, "report")
        results = weights.results() | {"best": bounds[1], "amortised": bounds[0]}
        return {name: result.cpu() for name, result in results.items()}

    def _noise(self, rows: Tensor, *purpose: str | int) -> Any:
        return noise.per_example(derived_seed(self.seed, "gaps", *purpose), rows)

    @torch.enable_grad()
    def _maximised(self, start: Tensor, batch: _Batch) -> Tensor:
        """The parameters of q after Adam's steps, ``[B, ...]``, for each example separately."""
        raw = start.detach().clone().requires_grad_()
        adam = torch.optim.Adam([raw], lr=self.learning_rate, betas=_BETAS, eps=_EPSILON)
        for step in range(self.steps):
            decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            adam.param_groups[0]["lr"] = self.learning_rate * decay
            z = drawn(self._posterior.from_parameters(raw), _DRAWS)
            # Without the score of q, whose mean is zero: the gradient goes only through z.
            q_stopgrad = self._posterior.from_parameters(raw.detach())
            bound = (self._log_joint(z, batch) - q_stopgrad.log_prob(z)).mean(0)
            (gradient,) = torch.autograd.grad(-bound.sum(), raw)
            # An example with a non-finite gradient stays where it is, and its start is kept.
            raw.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            adam.step()
        return raw.detach()

    def _log_joint(self, z: Tensor, batch: _Batch) -> Tensor:
        """log p(x, z), ``[draws, B]``."""
        p = self.model.likelihood_given(batch.given)(z)
        prior = self.model.prior_given(batch.given)
        log_joint: Tensor = p.log_prob(batch.x) + prior.log_prob(z)
        return log_joint

    def _bounds(
        self, raws: tuple[Tensor, Tensor], batch: _Batch, purpose: str
    ) -> tuple[Tensor, WeightSums]:
        """The bounds with two q on the same noise, ``[2, B]``, and the weights of their mixture."""
        both = [self._posterior.from_parameters(raw) for raw in raws]
        bounds = batch.x.new_zeros(2, len(batch.x), dtype=torch.float64)
        weights = WeightSums(2 * self.samples)
        for start in range(0, self.samples, _DRAWS):
            for own, q in enumerate(both):
                with self._noise(batch.rows, purpose, start):
                    z = drawn(q, min(_DRAWS, self.samples - start))
                log_joint = self._log_joint(z, batch).double()
                log_q = torch.stack([other.log_prob(z).double() for other in both])
                bounds[own] += (log_joint - log_q[own]).sum(0)
                weights.add(log_joint - log_q.logsumexp(0) + math.log(2))
        return bounds / self.samples, weights
