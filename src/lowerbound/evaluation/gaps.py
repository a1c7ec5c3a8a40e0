"""Where the nats between the bound and the log likelihood go: to the family of q, or to the encoder that picks from it."""

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
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.evaluation.checks import check_seed
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate, WeightSums
from lowerbound.models import LatentModel, Model
from lowerbound.models.passes import Progress, batches, gathered
from lowerbound.runtime import noise
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import whole_number

# Draws of z held at once for each example, and in each step of the refinement.
_DRAWS = 10

# With Adam's usual ones it would keep jumping about the optimum, and forget its first, large gradients only after the search.
_BETAS = (0.9, 0.9)
_EPSILON = 0.1

# A gap below this many nats is not worth working on.
_SMALL = 0.5

# The search goes on, round by round, until one gains fewer nats than this in the mean, or there were so many.
_SETTLED, _ROUNDS = 0.05, 10


class _Refinable(Protocol):
    """A posterior whose parameters are its network's output, see :class:`lowerbound.conditionals.Parametric`."""

    network: nn.Module

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor: ...

    def from_parameters(self, raw: Tensor) -> Distribution: ...


@dataclass(frozen=True, eq=False)
class Gaps:
    """The log likelihood and two bounds on it, over the same examples; ``str()`` of it is a table.

    Args:
        log_likelihood: by importance sampling; its ``warning`` says whether the weights speak against it.
        best_bound: with q refined for each example.
        amortised_bound: with the encoder's q.
        train_log_likelihood: of as many training examples, where those were given.
        last_gain: nats that the last round of the search gained in the mean.
    """

    log_likelihood: LikelihoodEstimate
    best_bound: Estimate
    amortised_bound: Estimate
    train_log_likelihood: LikelihoodEstimate | None = None
    last_gain: float = 0.0

    @property
    def warning(self) -> str | None:
        """That the search for the best q had not converged; ``None`` where it had."""
        if self.last_gain < _SETTLED:
            return None
        return (
            f"the search for the best bound had not converged: its last round still gained {self.last_gain:.2f} nats, so that the "
            "approximation gap is too large and the amortisation gap too small; take more steps"
        )

    @property
    def approximation(self) -> Estimate:
        """Log likelihood minus best bound: the KL from the best q of its family to the posterior."""
        return Estimate(self.log_likelihood.per_example - self.best_bound.per_example)

    @property
    def amortisation(self) -> Estimate:
        """Best bound minus amortised bound: what the encoder misses of the best q."""
        return Estimate(self.best_bound.per_example - self.amortised_bound.per_example)

    @property
    def inference(self) -> Estimate:
        """Log likelihood minus amortised bound: the sum of the two."""
        return Estimate(self.log_likelihood.per_example - self.amortised_bound.per_example)

    @property
    def generalisation(self) -> tuple[float, float] | None:
        """Log likelihood of training examples minus that of these, with its standard error; ``None`` without the former."""
        train = self.train_log_likelihood
        if train is None:
            return None
        return train.mean - self.log_likelihood.mean, math.hypot(
            train.standard_error, self.log_likelihood.standard_error
        )

    @property
    def advice(self) -> str:
        """What to enlarge, in one sentence."""
        approximation, amortisation = self.approximation.mean, self.amortisation.mean
        gap, error = self.generalisation or (0.0, 0.0)
        if gap > max(_SMALL, 2 * error, approximation, amortisation):
            return (
                f"generalisation dominates ({gap:.2f} nats between training and other examples): regularise, stop earlier, "
                "or get more data"
            )
        if max(approximation, amortisation) < _SMALL:
            return (
                f"inference is fine (the bound is {approximation + amortisation:.2f} nats below the log likelihood): only a "
                "better decoder or prior can raise the likelihood"
            )
        if self.warning is not None and approximation > amortisation:
            return (
                f"approximation cannot be told from amortisation ({approximation + amortisation:.2f} nats in all): the search for "
                "the best bound had not converged; take more steps before changing the posterior"
            )
        if amortisation >= approximation:
            return (
                f"amortisation dominates ({amortisation:.2f} of {approximation + amortisation:.2f} nats): enlarge the encoder, "
                "or train it for longer"
            )
        return (
            f"approximation dominates ({approximation:.2f} of {approximation + amortisation:.2f} nats): use a richer "
            "posterior, such as a flow"
        )

    def rows(self) -> Iterator[tuple[str, float, float]]:
        """What the table holds: names, means and standard errors."""
        parts = {
            "log likelihood": self.log_likelihood,
            "best bound": self.best_bound,
            "amortised bound": self.amortised_bound,
            "approximation gap": self.approximation,
            "amortisation gap": self.amortisation,
            "inference gap": self.inference,
        }
        yield from ((name, part.mean, part.standard_error) for name, part in parts.items())
        if self.train_log_likelihood is not None and self.generalisation is not None:
            yield (
                "train log likelihood",
                self.train_log_likelihood.mean,
                self.train_log_likelihood.standard_error,
            )
            yield "generalisation gap", *self.generalisation

    def __str__(self) -> str:
        header = f"{'nats per example':<22}{'mean':>10}  standard error ({len(self.log_likelihood.per_example):,} examples)"
        return "\n".join(
            [
                header,
                *(f"{name:<22}{mean:>10.3f}  ±{error:.3f}" for name, mean, error in self.rows()),
            ]
        )


def inference_gaps(
    model: Model,
    data: Any,
    *,
    train: Any = None,
    samples: int = 500,
    steps: int = 200,
    learning_rate: float = 0.03,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Gaps:
    r"""What lies between a model's bound and its log likelihood (Cremer, Li & Duvenaud 2018, arXiv:1801.03558).

    .. math:: \log p(x) - \mathcal L_\phi(x) =
        \underbrace{\log p(x) - \mathcal L^*(x)}_{\text{approximation}} +
        \underbrace{\mathcal L^*(x) - \mathcal L_\phi(x)}_{\text{amortisation}}

    The best bound :math:`\mathcal L^*` has a q of its own for each example: from the encoder's output, which becomes free, it
    is climbed by Adam with a cosine decay, by the pathwise gradient that sticks the landing (Roeder et al. 2017), whose noise
    vanishes as q comes near the posterior. Start or end is kept, whichever is better on fresh noise that both share. Such
    rounds follow each other until one gains less than 0.05 nats in the mean over the examples; after ten,
    :attr:`Gaps.warning` says that the search had not converged. The bounds are then estimated on noise that had no part in
    any of this.

    log p(x) is estimated by importance sampling from both the refined and the encoder's q, whose mixture is the proposal
    (Owen & Zhou 2000): a lower bound in expectation, as the larger of two estimates would not be, and close if either q
    covers the posterior. The approximation gap is too large as far as the search falls short of the best q, and too small
    as far as the importance sampling falls short of log p(x).

    The noise of an example depends on ``seed`` and its row alone, so its figures do not depend on the batches. The weights
    of the model get no gradients.

    Args:
        model: a :class:`~lowerbound.LatentModel` whose posterior has ``from_parameters``, such as ``lb.Gaussian``.
        data: examples, an array or a tensor, ``[N, *event]``. The cost of a round is that of ``30 * steps`` passes for each, and
            there are usually one or two; so a few hundred, as ``Examples.spread`` gives them, do.
        train: training data, of which as many examples are taken at even distances, for the generalisation gap.
        samples: K, the draws for each bound; for log p(x) twice as many.
        steps: of Adam in each round; 0 leaves the encoder's q.
        learning_rate: its step size at the start, in units of the parameters of q.
        seed: of all noise.
        batch_size: examples taken at once; by default what keeps memory small.
        progress: is called after each batch of a round with the number of examples done, and of all.

    Returns:
        :class:`Gaps`: ``print`` it for a table; its ``advice`` says what to enlarge.

    Raises:
        UnsupportedError: for a model or a posterior that cannot be refined, by name.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (2, 8, 8)))
        ... )
        >>> gaps = inference_gaps(vae, digits.test.spread(5), samples=20, steps=20)
        >>> abs(gaps.approximation.mean + gaps.amortisation.mean - gaps.inference.mean) < 1e-9
        True
    """
    check_seed("inference_gaps", seed)
    samples = whole_number("inference_gaps: samples", samples)
    if steps < 0 or not 0 < learning_rate < math.inf:
        raise SettingsError(
            f"inference_gaps: steps={steps} must be at least 0, and learning_rate={learning_rate} positive"
        )
    examples = Examples.of(data)
    others = (
        None if train is None else Examples.of(train, name="training data").spread(len(examples))
    )
    if others is not None and others.shape != examples.shape:
        raise ShapeError(
            f"inference_gaps: training examples of shape {others.shape}, data of shape {examples.shape}"
        )
    search = _Search(
        check_refinable(model, examples), samples, steps, learning_rate, seed, progress
    )
    parts = [search.over(part, batch_size) for part in (examples, others) if part is not None]
    likelihood, best, amortised, gain = parts[0]
    return Gaps(likelihood, best, amortised, parts[1][0] if others is not None else None, gain)


def check_refinable(model: Model, examples: Examples) -> LatentModel:
    """The model, if the posterior of each example can be searched for.

    Raises:
        UnsupportedError: saying why it cannot.
    """
    if not isinstance(model, LatentModel):
        raise UnsupportedError(
            f"inference_gaps: a {type(model).__name__} has no posterior to refine; it takes a lowerbound.LatentModel"
        )
    posterior = model.posterior
    lacking = [
        name
        for name in ("network", "parameters_from", "from_parameters")
        if not hasattr(posterior, name)
    ]
    if lacking:
        raise UnsupportedError(
            f"inference_gaps: the posterior is a {type(posterior).__name__}, which has no {lacking[0]}, so its parameters for an "
            "example cannot be refined; use lowerbound.Gaussian, or a subclass of lowerbound.conditionals.Parametric"
        )
    model.check_data(examples)
    with evaluating(model):
        _, x, given = next(batches(examples, model, seed=0, batch_size=1))
        q = model.conditioned(x, given).q
    if not q.has_rsample:
        raise UnsupportedError(
            f"inference_gaps: the posterior returned {type(q).__name__}, which cannot be reparameterised, so there is no gradient "
            "to refine it by; use a posterior with rsample, such as lowerbound.Gaussian"
        )
    return model


class _Batch(NamedTuple):
    """Some examples, ``[B, *event]``, their row numbers, and the fields that the model needs."""

    x: Tensor
    rows: Tensor
    given: dict[str, Tensor]


@dataclass(frozen=True)
class _Search:
    """The best q for each example, and the figures with it."""

    model: LatentModel
    samples: int
    steps: int
    learning_rate: float
    seed: int
    progress: Progress | None = None

    def over(
        self, examples: Examples, batch_size: int | None
    ) -> tuple[LikelihoodEstimate, Estimate, Estimate, float]:
        """The log likelihood, the best and the amortised bound of some examples, and what the last round gained."""
        with evaluating(self.model), seeded(self.seed, device_of(self.model)):
            found: list[Tensor | None] = []
            gain = 0.0
            for turn in range(_ROUNDS if self.steps else 0):
                # Whether to go on is asked of all examples together, so that it does not depend on the batches.
                climbed = [
                    self._climb(batch, raw, turn)
                    for batch, raw in self._batches(examples, batch_size, found)
                ]
                found = [raw for raw, _ in climbed]
                gain = float(torch.cat([gains for _, gains in climbed]).mean())
                if gain < _SETTLED:
                    break
            parts = (
                self._figures(batch, raw)
                for batch, raw in self._batches(examples, batch_size, found)
            )
            figures = gathered(len(examples), parts)
        log_likelihood = LikelihoodEstimate(
            figures["log_likelihood"],
            samples=2 * self.samples,
            effective_sample_sizes=figures["effective"],
            pareto_k=figures["pareto_k"],
        )
        return log_likelihood, Estimate(figures["refined"]), Estimate(figures["amortised"]), gain

    def _batches(
        self, examples: Examples, batch_size: int | None, found: list[Tensor | None]
    ) -> Iterator[tuple[_Batch, Tensor | None]]:
        """Batches, with what has been found for them so far, if anything."""
        passes = batches(
            examples,
            self.model,
            seed=self.seed,
            samples=_DRAWS,
            batch_size=batch_size,
            progress=self.progress,
        )
        for number, (rows, x, given) in enumerate(passes):
            yield _Batch(x, rows, given), found[number] if found else None

    def _start(self, batch: _Batch) -> Tensor:
        """The encoder's parameters of q."""
        posterior = cast(_Refinable, self.model.posterior)
        fields = fields_for(self.model.posterior, batch.given)
        return posterior.parameters_from(posterior.network, batch.x, **fields)

    def _climb(self, batch: _Batch, found: Tensor | None, turn: int) -> tuple[Tensor, Tensor]:
        """Another round for a batch: the better parameters, ``[B, ...]``, and what they gain on fixed noise, ``[B]``."""
        start = self._start(batch) if found is None else found
        with self._noise(batch.rows, "refine", turn):
            end = self._refined(start, batch)
        (started, ended), _ = self._scores((start, end), batch, "choose")
        worse = (ended <= started) | ~torch.isfinite(ended)
        best = torch.where(worse.reshape(-1, *[1] * (start.dim() - 1)), start, end)
        return best, torch.where(worse, 0.0, ended - started).cpu()

    def _figures(self, batch: _Batch, found: Tensor | None) -> dict[str, Tensor]:
        """What is known of a batch ``[B, *event]``, ``[B]`` each."""
        start = self._start(batch)
        bounds, weights = self._scores((start, start if found is None else found), batch, "report")
        figures = weights.results() | {"refined": bounds[1], "amortised": bounds[0]}
        return {name: figure.cpu() for name, figure in figures.items()}

    def _noise(self, rows: Tensor, *purpose: str | int) -> Any:
        return noise.per_example(derived_seed(self.seed, "gaps", *purpose), rows)

    @torch.enable_grad()
    def _refined(self, start: Tensor, batch: _Batch) -> Tensor:
        """The parameters of q after Adam, ``[B, ...]``: every example climbs by itself, as if it were alone."""
        posterior = cast(_Refinable, self.model.posterior)
        raw = start.detach().clone().requires_grad_()
        adam = torch.optim.Adam([raw], lr=self.learning_rate, betas=_BETAS, eps=_EPSILON)
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = (
                self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            )
            z = drawn(posterior.from_parameters(raw), _DRAWS)
            held = posterior.from_parameters(
                raw.detach()
            )  # q's own parameters get no gradient by its score
            bound = (self._log_joint(z, batch) - held.log_prob(z)).mean(0)
            (gradient,) = torch.autograd.grad(-bound.sum(), raw)
            raw.grad = gradient.nan_to_num(
                0.0, 0.0, 0.0
            )  # an example that left the numbers stays, and its start is kept
            adam.step()
        return raw.detach()

    def _log_joint(self, z: Tensor, batch: _Batch) -> Tensor:
        """log p(x, z), ``[draws, B]``."""
        p = self.model.likelihood_given(batch.given)(z)
        prior = self.model.prior_given(batch.given)
        log_joint: Tensor = p.log_prob(batch.x) + prior.log_prob(z)
        return log_joint

    def _scores(
        self, raws: tuple[Tensor, Tensor], batch: _Batch, purpose: str
    ) -> tuple[Tensor, WeightSums]:
        """The bounds with two q, ``[2, B]``, on the same noise, and the weights of their mixture as a proposal."""
        posterior = cast(_Refinable, self.model.posterior)
        both = [posterior.from_parameters(raw) for raw in raws]
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
