"""Why a model's latents carry nothing about the data: each likely cause is one function that measures it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from lowerbound.data.examples import Examples
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli, drawn
from lowerbound.models import LatentModel
from lowerbound.models.passes import batches
from lowerbound.objectives.schedules import cut_short
from lowerbound.runtime import noise
from lowerbound.runtime.memory import examples_per_pass
from lowerbound.runtime.modes import evaluating

# Examples and draws that are looked at.
_EXAMPLES = 500
_DRAWS = 4

# What a number moves relative to its size, below which it counts as constant: rounding of float32 is below it.
_CONSTANT = 1e-6

# A scale within this factor of its bound counts as having reached it.
_NEAR = 1.05

# A likelihood that moves by fewer nats when z is redrawn hardly depends on z.
_IGNORED = 0.5


@dataclass(frozen=True)
class Finding:
    """Something about a model that its user should know.

    Args:
        what: what was observed.
        cause: the likely cause, with the measurement that speaks for it.
        remedy: what to try.
    """

    what: str
    cause: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}. Likely cause: {self.cause}. Remedy: {self.remedy}"


@dataclass(frozen=True, eq=False)
class Look:
    """A model's passes over some examples, from which causes are measured.

    Args:
        model: the model.
        x: the examples, ``[B, *event]``.
        q: their posteriors.
        p: the likelihood at draws from the posterior, ``[K, B]`` of them.
        log_likelihood: at draws from the prior, ``[K, B]``.
        dead: for each activation in encoder and decoder, by its path, the share of its units that never change.
    """

    model: LatentModel
    x: Tensor
    q: Distribution
    p: Distribution
    log_likelihood: Tensor
    dead: Mapping[str, float]

    @property
    def scale(self) -> Tensor | None:
        """The likelihood's standard deviation at draws from the posterior, ``[K, B, *event]``; ``None`` if it is no Gaussian."""
        if isinstance(self.p, DiagonalNormal):
            return self.p.stddev.double()
        normal = isinstance(self.p, Independent) and isinstance(
            self.p.base_dist, torch.distributions.Normal
        )
        return self.p.stddev.double() if normal else None


def look_at(model: LatentModel, examples: Examples, seed: int) -> Look:
    """Pass a few examples, at even distances, through the model."""
    per_pass = examples_per_pass(_DRAWS * math.prod(examples.shape))
    few = examples.spread(min(_EXAMPLES, max(16, per_pass)))
    with evaluating(model):
        _, x, given = next(batches(few, model, seed=seed, batch_size=len(few)))
        dead: dict[str, float] = {}
        with noise.per_example(noise.derived_seed(seed, "look"), torch.arange(len(x))):
            with _watching(model, dead, (len(x),)):
                parts = model.conditioned(x, given)
                q = parts.q
            with _watching(model, dead, (_DRAWS, len(x))):
                p = parts.likelihood(drawn(q, _DRAWS))
                z = parts.prior_draws(_DRAWS, len(x))
                log_likelihood = parts.likelihood(z).log_prob(x).double()
    return Look(model, x, q, p, log_likelihood, dead)


@contextmanager
def _watching(model: LatentModel, dead: dict[str, float], given: tuple[int, ...]) -> Iterator[None]:
    """Within the block, the share of units that never change is noted for every activation of torch's that is passed.

    Args:
        model: whose modules to watch.
        dead: where to note it.
        given: the leading shape of what goes into the model's part; a network may flatten it.
    """

    def note(path: str) -> Any:
        def hook(module: nn.Module, arguments: Any, y: Tensor) -> None:
            leading = len(given) if y.shape[: len(given)] == given else 1
            units = y.detach().flatten(0, leading - 1).flatten(1).double()
            low, high = units.amin(0), units.amax(0)
            constant = high - low <= _CONSTANT * (1 + high.abs())
            dead[path] = min(dead.get(path, 1.0), float(constant.double().mean()))

        return hook

    hooks = [
        module.register_forward_hook(note(path))
        for path, module in model.named_modules()
        if type(module).__module__ == "torch.nn.modules.activation" and not list(module.children())
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# Causes: each returns (cause, remedy), or None where its measurement does not speak for it.

Cause = tuple[str, str]


def constant_data(look: Look) -> Cause | None:
    """The examples are all the same, so there is nothing to tell."""
    if len(look.x) > 1 and bool((look.x == look.x[:1]).all()):
        return (
            "the examples are all the same, so there is nothing that z could tell",
            "evaluate on data that vary",
        )
    return None


def dead_units(look: Look) -> Cause | None:
    """A layer's units are all zero or saturated, or the encoder's output does not depend on x for another reason."""
    remedy = "use another activation (gelu, tanh), smaller initial weights or a lower learning rate, and train anew"
    layers = [path for path, share in look.dead.items() if share == 1.0]
    if layers:
        part = "encoder" if layers[0].startswith("posterior") else "decoder"
        return (
            f"all units of {layers[0]}, in the {part}, are constant (zero or saturated) whatever it is given",
            remedy,
        )
    names = ("mean", "stddev") if not isinstance(look.q, FactorialBernoulli) else ("mean",)
    try:
        parameters = [getattr(look.q, name) for name in names]
    except NotImplementedError:
        return None
    moves = [float(((value - value[:1]).abs() / (1 + value.abs())).max()) for value in parameters]
    if max(moves) <= _CONSTANT:
        return "the encoder's output does not vary with x at all", remedy
    return None


def strong_rate_weight(
    objective: Any, schedules: Mapping[str, Mapping[str, float]]
) -> Cause | None:
    """The objective weighs the rate above 1, asks for next to none, or lets it be spent on nothing."""
    beta, capacity = (_reached(objective, schedules, name) for name in ("beta", "capacity"))
    free_bits = float(getattr(objective, "free_bits", 0.0) or 0.0)
    if capacity is not None and capacity < 0.5:
        return (
            f"the objective aims at a rate of {capacity:g} nats (capacity)",
            "raise capacity over the training",
        )
    if beta is not None and beta > 1:
        return (
            f"the objective weighs the rate by beta = {beta:g}, so that a nat of it must save more than {beta:g} nats of distortion",
            "use beta=1 or a smaller one, reached by a warm-up such as beta=lb.Ramp(0.0, 1.0, epochs=...)",
        )
    if free_bits:
        return (
            f"free bits of {free_bits:g} nats are spent on a shift of q that is the same for every x",
            "use a warm-up of beta in the place of free_bits, or a weaker decoder",
        )
    return None


def _reached(
    objective: Any, schedules: Mapping[str, Mapping[str, float]], name: str
) -> float | None:
    value = schedules[name]["reached"] if name in schedules else getattr(objective, name, None)
    value = getattr(value, "end", value)
    return None if value is None else float(value)


def broad_scale(look: Look) -> Cause | None:
    r"""The likelihood's scale exceeds the data's standard deviation in every direction.

    For a linear decoder a unit pays for itself only along directions whose variance is above that of the noise (Tipping & Bishop
    1999; Lucas et al. 2019): the largest eigenvalue of the covariance of ``x / scale`` has to be above 1.
    """
    scale = look.scale
    if scale is None or len(look.x) < 2:
        return None
    per_entry = scale.square().mean((0, 1)).sqrt().flatten()
    x = look.x.double().flatten(1)
    if float(_variances(x / per_entry)[-1]) > 1:
        return None
    variances = _variances(x)
    units = math.prod(look.q.event_shape)
    left = float(variances[: max(0, len(variances) - units)].sum()) / max(1, x.shape[1] - units)
    advice = math.sqrt(left) if left > 0 else 0.1 * math.sqrt(float(variances.sum()) / x.shape[1])
    learned = isinstance(getattr(look.model.likelihood, "scale", None), str)
    floor = getattr(look.model.likelihood, "min_scale", 0.0)
    remedy = (
        f"{f'lower the floor min_scale={floor:g}' if floor >= advice else f'fix the scale near {advice:.2g}'}, or train for longer"
        if learned
        else f"learn the scale (scale='shared'), or set it near {advice:.2g}, which as many principal components leave"
    )
    return (
        f"the likelihood's scale ({float(per_entry.mean()):.3g}) is above the data's standard deviation in every direction "
        f"(at most {math.sqrt(float(variances[-1])):.3g}), so that what z costs is never earned back",
        remedy,
    )


def _variances(x: Tensor) -> Tensor:
    """The variances along the principal axes of ``[B, D]``, ascending, without those that must be zero."""
    centred = x - x.mean(0)
    gram = centred @ centred.T if len(x) <= x.shape[1] else centred.T @ centred
    return cast(Tensor, torch.linalg.eigvalsh(gram)).clamp_min(0) / (len(x) - 1)


def free_running(look: Look) -> Cause | None:
    """The likelihood hardly depends on z, and is yet far better than entries that are independent of each other."""
    moves = float(look.log_likelihood.std(0).mean())
    if moves > _IGNORED or isinstance(look.p, DiagonalNormal | FactorialBernoulli):
        return None
    gain = look.log_likelihood.mean(0) - _independent_entries(look.x)
    error = float(gain.std()) / math.sqrt(len(gain)) if len(gain) > 1 else math.inf
    if float(gain.mean()) < max(1.0, 3 * error):
        return None
    return (
        f"the decoder models x without z: log p(x|z) moves by {moves:.2g} nats when z is redrawn, and is {float(gain.mean()):.3g} nats "
        "better than independent entries",
        "weaken the decoder (a smaller receptive field, dropped inputs), or keep a rate by free_bits or a warm-up of beta",
    )


def _independent_entries(x: Tensor) -> Tensor:
    """log p of each example, ``[B]``, if entries were independent: binary ones, or Gaussians fitted to the same data."""
    x = x.double().flatten(1)
    if bool(((x == 0) | (x == 1)).all()):
        share = (x.sum(0) + 0.5) / (len(x) + 1)
        return (x * share.log() + (1 - x) * (1 - share).log()).sum(1)
    scale = x.std(0, correction=0).clamp_min(1e-3)
    return DiagonalNormal(x.mean(0), scale.log()).log_prob(x)


def causes_of_collapse(
    look: Look, objective: Any, schedules: Mapping[str, Mapping[str, float]]
) -> Iterator[Cause]:
    """The causes for which a measurement speaks; one of the first two makes any other meaningless."""
    for certain in (constant_data(look), dead_units(look)):
        if certain is not None:
            yield certain
            return
    weight, scale = strong_rate_weight(objective, schedules), broad_scale(look)
    if weight is not None and isinstance(getattr(look.model.likelihood, "scale", None), str):
        scale = None  # a learned scale widens where z carries nothing: that is what followed, and not the cause
    found = [cause for cause in (weight, scale, free_running(look)) if cause is not None]
    yield from found or [
        (
            "none found: scale, weight of the rate, dead units and a decoder that needs no z were measured and are not it",
            "try a KL warm-up (beta=lb.Ramp(0.0, 1.0, epochs=...), --kl-warmup), free_bits (--free-bits), a lower learning "
            "rate, or longer training",
        )
    ]


# What else is worth saying of a model that has not collapsed.


def scale_bounds(look: Look) -> tuple[float, float] | None:
    """The shares of a learned likelihood scale's entries within 5% of its floor and of its ceiling; ``None`` for other likelihoods."""
    likelihood, scale = look.model.likelihood, look.scale
    low, high = getattr(likelihood, "min_scale", None), getattr(likelihood, "max_scale", None)
    if (
        scale is None
        or low is None
        or high is None
        or not isinstance(getattr(likelihood, "scale", None), str)
    ):
        return None
    return float((scale < low * _NEAR).double().mean()), float(
        (scale > high / _NEAR).double().mean()
    )


def bounds_reached(likelihood: nn.Module, shares: tuple[float, float]) -> Iterator[Finding]:
    """Findings about a learned scale that its bounds hold, at more than one entry in a hundred."""
    low, high = shares
    if low > 0.01:
        yield Finding(
            f"{100 * low:.0f}% of the likelihood's scales are at their floor min_scale={likelihood.min_scale:g}",
            "these entries hardly vary, and would make the bound arbitrarily high without the floor",
            "compare this bound only with others for the same floor; or dequantise (pixels='dequantize'), or use scale='shared'",
        )
    if high > 0.01:
        yield Finding(
            f"{100 * high:.0f}% of the likelihood's scales are at their ceiling max_scale={likelihood.max_scale:g}",
            "the data are larger than that in some entries",
            "rescale the data, or raise max_scale",
        )


def unfinished(schedules: Mapping[str, Mapping[str, float]]) -> Iterator[Finding]:
    """Findings about schedules whose end the model's weights have not seen, as far as three digits show it."""
    for name, schedule in schedules.items():
        if not cut_short(schedule):
            continue
        reached, end = (f"{schedule[key]:.3g}" for key in ("reached", "end"))
        if "epoch" in schedule:
            yield Finding(
                f"the weights are those of epoch {schedule['epoch']:g}, when {name} was {reached}, on its way to {end}",
                "the validation bound was best before the schedule came to its end",
                "train without validation, which keeps the last weights, or shorten the schedule; or train for longer if it had not ended",
            )
        else:
            yield Finding(
                f"the training ended while {name} was {reached}, on its way to {end}",
                f"the schedule of {name} is longer than the training",
                "train for longer (--resume goes on), or shorten the schedule",
            )
