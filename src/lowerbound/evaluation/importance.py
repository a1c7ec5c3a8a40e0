"""The log likelihood by importance sampling, and whether to believe it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowerbound.evaluation.estimate import Estimate, check_seed
from lowerbound.evaluation.pareto import pareto_shape, reliable_shape, tail_length
from lowerbound.evaluation.tuned_score import TunedScore, can_tune
from lowerbound.models import Draw, Model
from lowerbound.models.passes import Progress, batches, fitting, gathered
from lowerbound.runtime import noise
from lowerbound.runtime.compiler import Choice, check_choice
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.memory import keeping_freed_memory, rows_per_pass
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import whole_number

# Fewer effective samples than this say that a few weights decide.
_FEWEST_EFFECTIVE = 10.0

# Examples taken at once where there are so many samples of each that one alone would fill a pass.
_TOGETHER = 8

# Weights with at least this share of effective samples are so even that their tail does not matter.
_EVEN = 0.9


@dataclass(frozen=True, eq=False, repr=False)
class LikelihoodEstimate(Estimate):
    """An importance-sampled log likelihood, with what the weights say of it.

    Args:
        samples: K, the draws for each example.
        effective_sample_sizes: ``(sum w)^2 / sum w^2`` of each example's weights, ``[N]``: from 1 to K.
        pareto_k: the shape of the weights' upper tail, ``[N]``: above about 0.7 the estimate is too low by an unknown amount.
        pace: whether likelihoods were compiled, and what that cost and gained; ``None`` where that was not considered.
    """

    samples: int = 0
    effective_sample_sizes: Tensor = None  # type: ignore[assignment]
    pareto_k: Tensor = None  # type: ignore[assignment]
    pace: str | None = None

    def __repr__(self) -> str:
        count = int(self.doubtful.sum())
        return super().__repr__()[:-1] + (
            f", doubtful={count} of {len(self.per_example)})" if count else ")"
        )

    @property
    def doubtful(self) -> Tensor:
        """Which examples' figures are not to be trusted, ``[N]``."""
        effective = self.effective_sample_sizes  # nan: all weights were zero, or not numbers
        few = ~(effective >= min(_FEWEST_EFFECTIVE, self.samples * (1 - 1e-6)))
        even = effective >= _EVEN * self.samples if self.samples > 1 else torch.zeros_like(few)
        return few | (~even & ~(self.pareto_k <= reliable_shape(self.samples)))

    @property
    def warning(self) -> str | None:
        """In plain language, whether and why the figure is not to be trusted; ``None`` where nothing speaks against it."""
        count, total = int(self.doubtful.sum()), len(self.per_example)
        if not count:
            return None
        worst = float(self.pareto_k.nan_to_num(nan=-math.inf).max())
        reason = (
            f"{self.samples} draw{'s' if self.samples > 1 else ''} of z cannot tell whether their weights can be trusted"
            if bool(self.pareto_k.isnan().all())
            else f"a few draws carry most of the weight (largest Pareto k-hat {worst:.2f}, where at most "
            f"{reliable_shape(self.samples):.2f} is reliable; least effective sample size {float(self.effective_sample_sizes.min()):.1f} of {self.samples:,})"
        )
        return (
            f"the log likelihood of {count:,} of {total:,} examples is not to be trusted: {reason}. It is then most likely "
            "too low: take more samples, anneal (lb.annealed_log_likelihood), or train a posterior that fits better"
        )


class WeightSums:
    """Sums over an example's log weights, ``[B]`` each, that never hold more than a chunk of them and the largest."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.keep = min(samples, tail_length(samples) + 1)
        self.largest: Tensor | None = None

    def add(self, log_w: Tensor) -> None:
        """Take in a chunk of log weights, ``[k, B]``."""
        log_w = log_w.double()
        if self.largest is None:
            self.largest = log_w[:0]
            self.top = torch.full_like(
                log_w[0], torch.finfo(log_w.dtype).min
            )  # finite, for weights that are all zero
            self.total, self.squares, self.logs = (torch.zeros_like(self.top) for _ in range(3))
        top = torch.maximum(self.top, log_w.max(0).values)
        rescale, weights = (self.top - top).exp(), (log_w - top).exp()
        self.total = self.total * rescale + weights.sum(0)
        self.squares = self.squares * rescale.square() + weights.square().sum(0)
        self.logs = self.logs + log_w.sum(0)
        self.top = top
        held = torch.cat([self.largest, log_w])
        self.largest = held.topk(min(self.keep, len(held)), dim=0).values

    def figures(self) -> dict[str, Tensor]:
        """What is known when all chunks are in, ``[B]`` each."""
        assert self.largest is not None
        return {
            "log_likelihood": self.top + self.total.log() - math.log(self.samples),
            "elbo": self.logs / self.samples,
            "effective": self.total.square() / self.squares,
            "pareto_k": pareto_shape(self.largest),
        }


def log_likelihood(
    model: Model,
    data: Any = None,
    samples: int = 5000,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    chunk_size: int | None = None,
    compile: Choice = "auto",
    progress: Progress | None = None,
) -> LikelihoodEstimate:
    r"""log p(x) by importance sampling with q(z given x), in nats per example.

    .. math:: \log \hat p(x) = \log \frac1K \sum_{k=1}^K \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)}, \qquad z_k \sim q(z \mid x)

    On average this is at most log p(x) (Burda et al. 2016), and nears it as the samples increase. For each example exactly
    ``samples`` latents are drawn and decoded. They come a chunk at a time and only sums of their weights are
    kept, so memory is bounded for any number of samples and examples; neither ``batch_size`` nor ``chunk_size`` changes the
    figures beyond rounding, and with the same ``seed`` they are those of ``evaluate(model, IWAE(samples), data)``. (Posteriors
    of other libraries that draw otherwise than by torch's normal or Bernoulli noise are reproducible for one batch size.)

    Args:
        model: any model whose likelihood is a density.
        data: examples, an array or a tensor, ``[N, *event]``.
        samples: K.
        seed: of the latents' noise, and of the pixels' where those are random.
        batch_size: examples taken at once; by default what keeps memory small.
        chunk_size: samples of each taken at once; by default what keeps memory small.
        compile: ``"always"``: likelihoods are computed by torch's compiler, from the second chunk on. ``"never"``. ``"auto"``:
            where what is left, timed by the first chunks, takes a minute and a half, and compiled ones prove quicker. The two
            agree to rounding. A chunk of another shape than the first is taken uncompiled; so is every one of a model other than
            :class:`lowerbound.LatentModel`, or with a ``draw`` of its own.
        progress: is called after each batch with the number of examples done, and of all.

    Returns:
        A :class:`LikelihoodEstimate`: the mean over examples with its standard error, per-example values, effective sample
        sizes, Pareto k-hat, and a warning where the weights say that it is not to be trusted. Its term ``elbo`` is the bound
        from the same draws.

    Raises:
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (2, 8, 8)))
        ... )
        >>> estimate = log_likelihood(vae, digits.test, samples=100)
        >>> estimate.mean >= estimate.terms["elbo"].mean, estimate.effective_sample_sizes.shape
        (True, torch.Size([180]))
    """
    check_seed("log_likelihood", seed)
    check_choice("log_likelihood", compile)
    samples = whole_number("log_likelihood: samples", samples)
    model, examples = model.for_evaluation(data)
    model.check_support(examples)
    rows = rows_per_pass(model.numbers_per_draw(examples))
    size = whole_number(
        "log_likelihood: batch_size",
        batch_size or min(1024, max(rows // samples, min(_TOGETHER, rows))),
    )
    chunk = whole_number(
        "log_likelihood: chunk_size", chunk_size or _even(samples, max(1, rows // size))
    )
    draws: Callable[..., Iterator[Draw]] = model.draws
    score: TunedScore | None = None
    if compile != "never" and can_tune(model):
        score = TunedScore(model.likelihood, compile, device_of(model), samples * len(examples))
        draws = partial(model.draws, score=score)

    def of_batches() -> Iterator[dict[str, Tensor]]:
        for _, x, given in batches(examples, model, seed=seed, batch_size=size, progress=progress):
            weights = WeightSums(samples)
            with noise.in_chunks() as next_chunk, fitting(examples):
                for draw in draws(x, _sizes(samples, chunk, next_chunk), **given):
                    weights.add(draw.log_w)
                    if score is not None:
                        score.done(draw.z)
            yield weights.figures()

    with evaluating(model), seeded(seed, device_of(model)), keeping_freed_memory():
        figures = gathered(len(examples), of_batches())
    score_line = None
    if score is not None:
        score_line = score.line
    value = figures["log_likelihood"]
    return LikelihoodEstimate(
        value,
        {"elbo": Estimate(figures["elbo"])},
        examples.bits_per_dimension(float(value.mean())),
        samples,
        figures["effective"],
        figures["pareto_k"],
        score_line,
    )


def _even(samples: int, most: int) -> int:
    """The size of chunks of ``most`` samples or a little less, which leave the last one as long as can be."""
    return math.ceil(samples / math.ceil(samples / most))


def _sizes(samples: int, chunk: int, next_chunk: Callable[[], None]) -> Iterator[int]:
    """The sizes of chunks, whose noise goes on where that of the last one ended."""
    for start in range(0, samples, chunk):
        next_chunk()
        yield min(chunk, samples - start)
