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
from lowerbound.conditionals.given import unwrap
from lowerbound.data.examples import Examples
from lowerbound.distributions import choose_point, draw_samples
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.checks import check_batch_size, check_model, check_normalized
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate, WeightSums
from lowerbound.models import LatentModel, Model
from lowerbound.models.passes import ProgressCallback, gather, iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

# The number of draws of z for each example in a chunk, and in each step of the search.
_DRAWS = 10

# Adam's settings. With the default ones Adam would not converge at the optimum, and its averages
# would contain the first, large gradients until the search ends.
_BETAS = (0.9, 0.9)
_EPSILON = 0.1

# The search ends after a round with a mean gain below this many nats, or after so many rounds.
_CONVERGED_NATS, _MOST_ROUNDS = 0.05, 10


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
        )
        best_bound, amortised = Estimate(estimates["best"]), Estimate(estimates["amortised"])
        return SearchResult(log_likelihood, best_bound, amortised, gain)

    def refine(self, examples: Examples, batch_size: int | None) -> Refinement:
        """Search round by round, and return the best q, with the bounds on new noise."""
        device = get_device(self.model)
        parameters, points, bounds = [], [], []
        with evaluating(self.model), seeded(self.seed, device):
            best, gain = self._search_rounds(examples, batch_size)
            for batch, raw in self._iterate_batches(examples, batch_size, best):
                both = self._pair_with_start(batch, raw)
                bounds.append(self._estimate_bounds(both, batch, "report").cpu())
                parameters.append(both[1])
                points.append(choose_point(self._posterior.from_parameters(both[1]), device))
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
        return {name: result.cpu() for name, result in results.items()}

    def _pair_with_start(self, batch: _Batch, best: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the encoder's parameters of q, and the best ones, which are the same at first."""
        start = self._encode(batch)
        if best is None:
            best = start
        return start, best

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
        both = [self._posterior.from_parameters(raw) for raw in raws]
        bounds = batch.x.new_zeros(2, len(batch.x), dtype=torch.float64)
        for start, count in self._chunks():
            for own, q in enumerate(both):
                with self._using_noise(batch.rows, purpose, start):
                    z = draw_samples(q, count)
                log_joint = self._log_joint(z, batch).double()
                bounds[own] += (log_joint - q.log_prob(z).double()).sum(0)
        return bounds / self.samples

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


def prepare_search(
    name: str,
    model: Model,
    examples: Examples,
    *,
    samples: int,
    steps: int,
    learning_rate: float,
    seed: int,
    batch_size: int | None,
    progress: ProgressCallback | None,
) -> Search:
    """Check the arguments of a function that searches for the best q, and make its search.

    Args:
        name: the name of the function.
        model: the model that it was given.
        examples: the data that it was given.
        samples: as for :class:`Search`, like the other settings.

    Raises:
        UnsupportedError: for a model or a posterior that does not allow the search, by name.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.
    """
    check_seed(name, seed)
    check_batch_size(name, batch_size)
    samples = check_whole_number(f"{name}: samples", samples)
    if steps < 0:
        raise SettingsError(f"{name}: steps={steps} must be at least 0")
    if not 0 < learning_rate < math.inf:
        raise SettingsError(f"{name}: learning_rate={learning_rate} must be positive")
    model = check_refinable(name, model, examples)
    return Search(model, samples, steps, learning_rate, seed, progress)


def check_refinable(name: str, model: Model, examples: Examples) -> LatentModel:
    """Return the model if a better q can be searched for each example.

    Args:
        name: the name of the function that searches.
        model: the model that it was given.
        examples: the data that it was given.

    Raises:
        UnsupportedError: saying why it cannot.
    """
    model = check_model(name, model, LatentModel, "it searches for the best q of each example")
    check_normalized(name, model)
    posterior = unwrap(model.posterior)
    missing = [
        needed
        for needed in ("network", "parameters_from", "from_parameters")
        if not hasattr(posterior, needed)
    ]
    if missing:
        raise UnsupportedError(
            f"{name}: the posterior is a {type(posterior).__name__}, which has no {missing[0]}, so "
            "its parameters for an example cannot be refined; use lowerbound.Gaussian, or a "
            "subclass of lowerbound.conditionals.Parametric"
        )
    model.check_data(examples)
    with evaluating(model):
        _, x, given = next(iterate_batches(examples, model, seed=0, batch_size=1))
        q = model.conditioned(x, given).q
    if not q.has_rsample:
        raise UnsupportedError(
            f"{name}: the posterior returned {type(q).__name__}, which cannot be reparameterised, "
            "so gradients cannot refine it; use a posterior with rsample, such as "
            "lowerbound.Gaussian"
        )
    return model


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
