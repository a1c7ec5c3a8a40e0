"""The search for the best q of each example, without the encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import select_fields
from lowerbound.data.examples import Examples
from lowerbound.distributions import choose_point, draw_samples
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate, WeightSums, has_one_code
from lowerbound.models import LatentModel
from lowerbound.models.passes import ProgressCallback, gather, iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed

# The number of draws of z for each example in a chunk, and in each step of the search.
_DRAWS = 10

# Adam's settings. With the default ones Adam would not converge at the optimum, and its averages
# would contain the first, large gradients until the search ends.
_BETAS = (0.9, 0.9)
_EPSILON = 0.1

# The search ends after a round with a mean gain below this many nats, or after this many rounds.
_CONVERGED_NATS, _MOST_ROUNDS = 0.05, 10

# A gain of more standard errors than this is not due to the draws: once in 740 examples it is.
_CLEAR_ERRORS = 3.0


class _RefinablePosterior(Protocol):
    """A posterior with parameters that are its network's output.

    See :class:`lowerbound.conditionals.Parametric`.
    """

    network: nn.Module

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor: ...

    def from_parameters(self, raw: Tensor) -> Distribution: ...


class SearchResult(NamedTuple):
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


class Refinement(NamedTuple):
    """The best q of each example that a search found.

    Args:
        parameters: the parameters of each q, ``[N, *outputs]``.
        points: the natural point of each q, ``[N, *units]``.
        best_bound: the bound with the best q.
        amortised_bound: the bound with the encoder's q.
        last_gain: the mean gain of the last round, in nats.
    """

    parameters: Tensor
    points: Tensor
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
    progress: ProgressCallback | None = None

    def run(self, examples: Examples, batch_size: int | None) -> SearchResult:
        """Search round by round, and estimate bounds and log likelihood on new noise."""
        with evaluating(self.model), seeded(self.seed, get_device(self.model)):
            best, gain = self._search_rounds(examples, batch_size)
            estimates = gather(
                len(examples),
                (
                    self._estimate(batch, raw)
                    for batch, raw in self._iterate_batches(examples, batch_size, best)
                ),
            )
        log_likelihood = LikelihoodEstimate(
            estimates["log_likelihood"],
            samples=2 * self.samples,
            effective_sample_sizes=estimates["effective"],
            pareto_k=estimates["pareto_k"],
            has_one_code=bool(estimates["one_code"].any()),
        )
        best_bound, amortised = Estimate(estimates["best"]), Estimate(estimates["amortised"])
        return SearchResult(log_likelihood, best_bound, amortised, gain)

    def refine(self, examples: Examples, batch_size: int | None) -> Refinement:
        """Search round by round, and return the best q, with the bounds on new noise.

        An example whose bound does not rise clearly on the new noise keeps the encoder's q.
        """
        device = get_device(self.model)
        parameters, points, bounds = [], [], []
        with evaluating(self.model), seeded(self.seed, device):
            best, gain = self._search_rounds(examples, batch_size)
            for batch, raw in self._iterate_batches(examples, batch_size, best):
                chosen, both_bounds = self._choose_better(batch, raw)
                bounds.append(both_bounds.cpu())
                parameters.append(chosen)
                points.append(choose_point(self._posterior.from_parameters(chosen), device))
        amortised, found = torch.cat(bounds, 1)
        return Refinement(
            torch.cat(parameters),
            torch.cat(points),
            Estimate(found, label="bound"),
            Estimate(amortised, label="bound"),
            gain,
        )

    def _search_rounds(
        self, examples: Examples, batch_size: int | None
    ) -> tuple[list[Tensor | None], float]:
        """Search round by round, until a round gains little.

        Returns:
            The best parameters of each batch, or an empty list without any steps, and the mean gain
            of the last round.
        """
        best: list[Tensor | None] = []
        gain = 0.0
        for turn in range(_MOST_ROUNDS):
            if not self.steps:
                break
            # Whether to continue is decided for all examples together, so that it does not depend
            # on the batches.
            results = [
                self._search_round(batch, raw, turn)
                for batch, raw in self._iterate_batches(examples, batch_size, best)
            ]
            best = [raw for raw, _ in results]
            gain = float(torch.cat([gains for _, gains in results]).mean())
            if gain < _CONVERGED_NATS:
                break
        return best, gain

    def _iterate_batches(
        self, examples: Examples, batch_size: int | None, best: list[Tensor | None]
    ) -> Iterator[tuple[_Batch, Tensor | None]]:
        """Yield batches with their best parameters so far; ``None`` before the first round."""
        batches = iterate_batches(
            examples,
            self.model,
            seed=self.seed,
            samples=_DRAWS,
            batch_size=batch_size,
            progress=self.progress,
        )
        for number, (rows, x, given) in enumerate(batches):
            raw = None
            if best:
                raw = best[number]
            yield _Batch(x, rows, given), raw

    @property
    def _posterior(self) -> _RefinablePosterior:
        return cast(_RefinablePosterior, self.model.posterior)

    def _encode(self, batch: _Batch) -> Tensor:
        """Compute the encoder's parameters of q."""
        fields = select_fields(self.model.posterior, batch.given)
        return self._posterior.parameters_from(self._posterior.network, batch.x, **fields)

    def _search_round(self, batch: _Batch, best: Tensor | None, turn: int) -> tuple[Tensor, Tensor]:
        """Search one more round for a batch.

        Returns:
            The better parameters, ``[B, ...]``, and their gain on common noise, ``[B]``.
        """
        start = best
        if start is None:
            start = self._encode(batch)
        with self._using_noise(batch.rows, "refine", turn):
            end = self._maximise(start, batch)
        started, ended = self._estimate_bounds((start, end), batch, "choose")
        worse = (ended <= started) | ~torch.isfinite(ended)
        better = torch.where(worse.reshape(-1, *[1] * (start.dim() - 1)), start, end)
        return better, torch.where(worse, 0.0, ended - started).cpu()

    def _estimate(self, batch: _Batch, best: Tensor | None) -> dict[str, Tensor]:
        """Estimate both bounds, the log likelihood and its diagnostics, ``[B]`` each."""
        both = self._pair_with_start(batch, best)
        amortised, found = self._estimate_bounds(both, batch, "report")
        weights = self._weigh_mixture(both, batch)
        results = weights.results() | {"best": found, "amortised": amortised}
        is_code = has_one_code(self._posterior.from_parameters(both[0]))
        results["one_code"] = torch.full((len(batch.x),), is_code)
        return {name: result.cpu() for name, result in results.items()}

    def _pair_with_start(self, batch: _Batch, best: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the encoder's parameters of q, and the best ones, which are the same at first."""
        start = self._encode(batch)
        if best is None:
            best = start
        return start, best

    def _choose_better(self, batch: _Batch, best: Tensor | None) -> tuple[Tensor, Tensor]:
        """Choose between the encoder's q and the best one.

        Returns:
            The parameters of q, ``[B, ...]``, and the bounds with the encoder's q and this one,
            ``[2, B]``.
        """
        start, best = self._pair_with_start(batch, best)
        (amortised, found), error = self._compare_bounds((start, best), batch, "report")
        is_clear = torch.isfinite(found) & ~(found - amortised <= _CLEAR_ERRORS * error)
        chosen = torch.where(is_clear.reshape(-1, *[1] * (start.dim() - 1)), best, start)
        return chosen, torch.stack([amortised, torch.where(is_clear, found, amortised)])

    def _using_noise(self, rows: Tensor, *purpose: str | int) -> Any:
        return noise.per_example(derived_seed(self.seed, "gaps", *purpose), rows)

    @torch.enable_grad()
    def _maximise(self, start: Tensor, batch: _Batch) -> Tensor:
        """Maximise the bound by Adam's steps over each example's parameters of q, ``[B, ...]``."""
        raw = start.detach().clone().requires_grad_()
        adam = torch.optim.Adam([raw], lr=self.learning_rate, betas=_BETAS, eps=_EPSILON)
        for step in range(self.steps):
            decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            adam.param_groups[0]["lr"] = self.learning_rate * decay
            z = draw_samples(self._posterior.from_parameters(raw), _DRAWS)
            # The score of q, whose mean is zero, is left out: the gradient goes only through z.
            q_stopgrad = self._posterior.from_parameters(raw.detach())
            bound = (self._log_joint(z, batch) - q_stopgrad.log_prob(z)).mean(0)
            (gradient,) = torch.autograd.grad(-bound.sum(), raw)
            # A non-finite gradient leaves its example where it is, and the start is kept.
            raw.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            adam.step()
        return raw.detach()

    def _log_joint(self, z: Tensor, batch: _Batch) -> Tensor:
        """log p(x, z), ``[draws, B]``."""
        p = self.model.likelihood_given(batch.given)(z)
        prior = self.model.prior_given(batch.given)
        log_joint: Tensor = p.log_prob(batch.x) + prior.log_prob(z)
        return log_joint

    def _estimate_bounds(self, raws: tuple[Tensor, Tensor], batch: _Batch, purpose: str) -> Tensor:
        """Estimate the bounds of two q on the same noise, ``[2, B]``."""
        return self._compare_bounds(raws, batch, purpose)[0]

    def _compare_bounds(
        self, raws: tuple[Tensor, Tensor], batch: _Batch, purpose: str
    ) -> tuple[Tensor, Tensor]:
        """Estimate the bounds of two q on the same noise, and how exact their difference is.

        Returns:
            The bounds ``[2, B]``, and the standard error of their difference, ``[B]``.
        """
        both = [self._posterior.from_parameters(raw) for raw in raws]
        bounds = batch.x.new_zeros(2, len(batch.x), dtype=torch.float64)
        squares = torch.zeros_like(bounds[0])
        for start, count in self._chunks():
            log_weights = []
            for own, q in enumerate(both):
                with self._using_noise(batch.rows, purpose, start):
                    z = draw_samples(q, count)
                log_joint = self._log_joint(z, batch).double()
                log_weights.append(log_joint - q.log_prob(z).double())
                bounds[own] += log_weights[own].sum(0)
            squares += (log_weights[1] - log_weights[0]).square().sum(0)
        scatter = squares - (bounds[1] - bounds[0]).square() / self.samples
        error = (scatter.clamp(min=0) / (self.samples * max(self.samples - 1, 1))).sqrt()
        return bounds / self.samples, error

    def _weigh_mixture(self, raws: tuple[Tensor, Tensor], batch: _Batch) -> WeightSums:
        """Weigh as many draws from each of two q, under the mixture of both.

        Each q has noise of its own. On the same noise, two equal q would give the same draws, and
        each draw would count as two.
        """
        both = [self._posterior.from_parameters(raw) for raw in raws]
        weights = WeightSums(2 * self.samples)
        for start, count in self._chunks():
            for own, q in enumerate(both):
                with self._using_noise(batch.rows, "weigh", own, start):
                    z = draw_samples(q, count)
                log_joint = self._log_joint(z, batch).double()
                log_q = torch.stack([other.log_prob(z).double() for other in both])
                weights.add(log_joint - log_q.logsumexp(0) + math.log(2))
        return weights

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """The first draw and the number of draws of each chunk."""
        for start in range(0, self.samples, _DRAWS):
            yield start, min(_DRAWS, self.samples - start)


def describe_convergence(last_gain: float) -> str | None:
    """Say in words that a search did not converge; ``None`` if it did.

    Args:
        last_gain: the mean gain of its last round, in nats.
    """
    if last_gain < _CONVERGED_NATS:
        return None
    return (
        "the search for the best bound had not converged: its last round still gained "
        f"{last_gain:.2f} nats"
    )
