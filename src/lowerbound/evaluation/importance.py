"""The log likelihood by importance sampling, and whether to trust it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions.codes import CodePoint
from lowerbound.evaluation.checks import check_batch_size, check_normalized
from lowerbound.evaluation.doubt import warn_if_doubtful
from lowerbound.evaluation.estimate import Estimate, bits_per_dimension
from lowerbound.evaluation.pareto import describe_shape, pareto_shape, reliable_shape, tail_length
from lowerbound.evaluation.tuned_score import TunedScore, can_tune
from lowerbound.models import Draw, Model
from lowerbound.models.passes import ProgressCallback, explaining_shapes, gather, iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.compiler import Choice, check_choice
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.memory import choose_pairs_per_batch, keeping_freed_memory
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_seed, check_whole_number

# With fewer effective samples than this, a few weights determine the average.
_FEWEST_EFFECTIVE = 10.0

# The number of examples in a batch if the samples of a single example fill a chunk.
_SMALL_BATCH_EXAMPLES = 8

# Weights with at least this share of effective samples are so even that their tail does not matter,
# unless its shape is above 1, where the tail has no mean.
_EVEN_SHARE = 0.9


@dataclass(frozen=True, eq=False, repr=False)
class LikelihoodEstimate(Estimate):
    """An importance-sampled log likelihood, with diagnostics of the weights.

    Args:
        samples: K, the number of draws for each example.
        effective_sample_sizes: ``(sum w)^2 / sum w^2`` of each example's weights, ``[N]``, which is
            from 1 to K.
        pareto_k: the shape of the upper tail of each example's weights, ``[N]``. Above about 0.7
            the estimate is too low by an unknown amount.
        pace: whether likelihoods were compiled, with the time of a chunk compiled and uncompiled;
            ``None`` if compiling was not considered.
        has_one_code: whether q, or that of a layer, has all its probability on one code, as that of
            :class:`lowerbound.VectorQuantized` has. For any number of samples the estimate then
            covers only this code, so all examples are doubtful.
    """

    samples: int = 0
    effective_sample_sizes: Tensor = None  # type: ignore[assignment]
    pareto_k: Tensor = None  # type: ignore[assignment]
    pace: str | None = None
    has_one_code: bool = False

    def __repr__(self) -> str:
        count = int(self.doubtful.sum())
        if not count:
            return super().__repr__()
        return f"{super().__repr__()[:-1]}, doubtful={count} of {len(self.per_example)})"

    @property
    def doubtful(self) -> Tensor:
        """Whether the estimate of each example should not be trusted, ``[N]``."""
        effective = self.effective_sample_sizes  # nan if all weights are zero or nan
        if self.has_one_code:
            return torch.ones_like(effective, dtype=torch.bool)
        few = ~(effective >= min(_FEWEST_EFFECTIVE, self.samples * (1 - 1e-6)))
        even = (effective >= _EVEN_SHARE * self.samples) & (self.samples > 1)
        even &= ~(self.pareto_k > 1)
        return few | (~even & ~(self.pareto_k <= reliable_shape(self.samples)))

    @property
    def doubtful_share(self) -> float:
        """The share of doubtful examples."""
        return float(self.doubtful.double().mean())

    @property
    def warning(self) -> str | None:
        """Why the estimate cannot be trusted, in words; ``None`` if no example is doubtful."""
        count, total = int(self.doubtful.sum()), len(self.per_example)
        if not count:
            return None
        if self.has_one_code:
            return (
                "the log likelihood is not to be trusted: q has all its probability on one code, "
                "and the estimate covers no other, however many samples there are. The log "
                "likelihood, to which all codes contribute, may be many nats higher"
            )
        return (
            f"the log likelihood of {count:,} of {total:,} examples is not to be trusted: "
            f"{self._reason_for_doubt}. It is then most likely too low: take more samples, anneal "
            "(lb.annealed_log_likelihood, or --anneal 500 in the command), or train a posterior "
            "that fits better"
        )

    @property
    def _reason_for_doubt(self) -> str:
        if bool(self.pareto_k.isnan().all()):
            draws = f"{self.samples} draws" if self.samples > 1 else "1 draw"
            return f"{draws} of z cannot tell whether their weights can be trusted"
        worst = float(self.pareto_k.nan_to_num(nan=-math.inf).max())
        shape = describe_shape(worst, "largest Pareto k-hat")
        return (
            f"a few draws carry most of the weight ({shape}, where at most "
            f"{reliable_shape(self.samples):.2f} is reliable; least effective sample size "
            f"{float(self.effective_sample_sizes.min()):.1f} of {self.samples:,})"
        )


def has_one_code(q: Distribution | None) -> bool:
    """Whether a posterior has all its probability on one code."""
    return isinstance(q, CodePoint)


class WeightSums:
    """Sums over each example's weights, ``[B]`` each, which are updated chunk by chunk.

    Apart from the sums, only the largest log weights are stored.

    Args:
        samples: K, the number of log weights that each example will have in all.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.keep = min(samples, tail_length(samples) + 1)
        self.largest: Tensor | None = None

    def add(self, log_w: Tensor) -> None:
        """Add a chunk of log weights, ``[k, B]``."""
        log_w = log_w.double()
        if self.largest is None:
            self.largest = log_w[:0]
            # Finite, so that weights that are all zero do not give nan.
            self.top = torch.full_like(log_w[0], torch.finfo(log_w.dtype).min)
            self.total, self.squares, self.logs = (torch.zeros_like(self.top) for _ in range(3))
        top = torch.maximum(self.top, log_w.max(0).values)
        rescale, weights = (self.top - top).exp(), (log_w - top).exp()
        self.total = self.total * rescale + weights.sum(0)
        self.squares = self.squares * rescale.square() + weights.square().sum(0)
        self.logs = self.logs + log_w.sum(0)
        self.top = top
        candidates = torch.cat([self.largest, log_w])
        self.largest = candidates.topk(min(self.keep, len(candidates)), dim=0).values

    def results(self) -> dict[str, Tensor]:
        """The estimates and diagnostics after the last chunk, ``[B]`` each."""
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
    progress: ProgressCallback | None = None,
) -> LikelihoodEstimate:
    r"""log p(x) by importance sampling with q(z|x), in nats per example.

    .. math:: \log \hat p(x) =
        \log \frac1K \sum_{k=1}^K \frac{p(x \mid z_k)\, p(z_k)}{q(z_k \mid x)},
        \qquad z_k \sim q(z \mid x)

    On average this is at most log p(x) (Burda et al. 2016), and it approaches log p(x) as the
    number of samples increases, unless q(z|x) excludes some z. The posterior of
    :class:`lowerbound.VectorQuantized` does, because it has all its probability on one code. For
    each example exactly ``samples`` latents are drawn and decoded. They are drawn chunk by chunk
    and only sums of their weights are stored, so memory is bounded for any number of samples and
    examples. Neither ``batch_size`` nor ``chunk_size`` changes the result beyond rounding. With the
    same ``seed`` it is the result of ``evaluate(model, IWAE(samples), data)``. A posterior whose
    noise comes neither from :mod:`lowerbound.noise` nor from torch's functions for random numbers,
    such as torch's ``VonMises``, gives the same result only for the same batch size.

    Args:
        model: any model whose likelihood is a density or a mass function.
        data: examples, or raw data that the model takes, ``[N, *event]``.
        samples: K.
        seed: of the latents' noise, and of the pixels if they are random.
        batch_size: the number of examples in a batch; by default one that keeps memory small.
        chunk_size: the number of samples in a chunk; by default one that keeps memory small.
        compile: whether torch's compiler computes the likelihoods. ``"always"``: from the second
            chunk on. ``"never"``: not at all. ``"auto"``: if the first chunks show that the rest
            would take a minute and a half, and that compiled chunks are faster. Compiled and
            uncompiled results agree to rounding. Chunks of another shape than the first run
            uncompiled, and so do models other than :class:`lowerbound.LatentModel` and
            :class:`lowerbound.LayeredModel` and models that override ``draw``.
        progress: is called after each batch with the number of examples done, and of all examples.

    Returns:
        A :class:`LikelihoodEstimate`: the mean over examples with its standard error, the value,
        effective sample size and Pareto k-hat of each example, and a ``warning`` if the weights
        cannot be trusted. Its term ``elbo`` is the bound from the same draws. If at least one
        example in twenty is doubtful, the warning is also issued as a
        :class:`lowerbound.errors.DoubtfulEstimateWarning`.

    Raises:
        UnsupportedError: if a part of the model is not normalised, naming the part.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (2, 8, 8))),
        ... )
        >>> estimate = log_likelihood(vae, digits.test, samples=100)
        >>> estimate.mean >= estimate.terms["elbo"].mean, estimate.effective_sample_sizes.shape
        (True, torch.Size([180]))
    """
    check_seed("log_likelihood", seed)
    check_choice("log_likelihood", compile)
    check_batch_size("log_likelihood", batch_size)
    samples = check_whole_number("log_likelihood: samples", samples)
    check_normalized("log_likelihood", model)
    model, examples = model.for_evaluation(data)
    model.check_support(examples)
    rows = choose_pairs_per_batch(model.numbers_per_draw(examples))
    size = batch_size or min(1024, max(rows // samples, min(_SMALL_BATCH_EXAMPLES, rows)))
    chunk = check_whole_number(
        "log_likelihood: chunk_size",
        chunk_size or _choose_chunk_size(samples, max(1, rows // size)),
    )
    draws: Callable[..., Iterator[Draw]] = model.draws
    score: TunedScore | None = None
    one_code = False
    if compile != "never" and can_tune(model):
        score = TunedScore(model.likelihood, compile, get_device(model), samples * len(examples))
        draws = partial(model.draws, score=score)

    def of_batches() -> Iterator[dict[str, Tensor]]:
        nonlocal one_code
        for _, x, given in iterate_batches(
            examples,
            model,
            seed=seed,
            batch_size=size,
            progress=progress,
            is_settled=lambda: score is None or score.tuner.decided,
        ):
            weights = WeightSums(samples)
            with noise.in_chunks() as next_chunk, explaining_shapes(examples):
                for draw in draws(x, _iterate_sizes(samples, chunk, next_chunk), **given):
                    weights.add(draw.log_w)
                    one_code |= any(has_one_code(each.q) for each in draw.latents.values())
                    if score is not None:
                        score.finish_chunk()
            yield weights.results()

    with evaluating(model), seeded(seed, get_device(model)), keeping_freed_memory():
        results = gather(len(examples), of_batches())
    value = results["log_likelihood"]
    estimate = LikelihoodEstimate(
        value,
        {"elbo": Estimate(results["elbo"])},
        bits_per_dimension(
            model, examples, float(value.mean()), mass=model.likelihood_is_mass(examples)
        ),
        samples=samples,
        effective_sample_sizes=results["effective"],
        pareto_k=results["pareto_k"],
        pace=getattr(score, "line", None),
        has_one_code=one_code,
    )
    warn_if_doubtful(estimate)
    return estimate


def _choose_chunk_size(samples: int, most: int) -> int:
    """Choose chunks of at most ``most`` samples, with the last one as long as possible."""
    return math.ceil(samples / math.ceil(samples / most))


def _iterate_sizes(samples: int, chunk: int, next_chunk: Callable[[], None]) -> Iterator[int]:
    """Yield the sizes of the chunks. The noise of each continues that of the one before."""
    for start in range(0, samples, chunk):
        next_chunk()
        yield min(chunk, samples - start)
