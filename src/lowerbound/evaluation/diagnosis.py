"""The causes of a posterior collapse: each likely cause has a function that measures it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.given import unwrap
from lowerbound.data.examples import Examples
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    MaskedDistribution,
    as_diagonal,
    draw_samples,
)
from lowerbound.evaluation.estimate import Estimate
from lowerbound.models import LatentModel
from lowerbound.models.passes import iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.memory import choose_batch_size
from lowerbound.runtime.modes import evaluating
from lowerbound.runtime.renaming import forward_old_names

# The number of examples that are measured, and of draws for each.
_EXAMPLES = 500
_DRAWS = 4

# A value whose relative change is below this counts as constant. Float32 rounds more finely.
_CONSTANT_CHANGE = 1e-6

# A scale within this factor of its bound counts as being at the bound.
_NEAR_FACTOR = 1.05

# If log p(x|z) changes by fewer nats than this when z is redrawn, it hardly depends on z.
_IGNORED_NATS = 0.5


@dataclass(frozen=True, eq=False)
class Probe:
    """A model's distributions for some examples, from which the causes are measured.

    Args:
        model: the model.
        x: the examples, ``[B, *event]``.
        q: their posteriors.
        p: the likelihood at draws from the posterior, batch shape ``[K, B]``.
        log_likelihood: log p(x|z) at draws from the prior, ``[K, B]``.
        dead: the share of constant units of each activation in encoder and decoder, by its path.
    """

    model: LatentModel
    x: Tensor
    q: Distribution
    p: Distribution
    log_likelihood: Tensor
    dead: Mapping[str, float]

    @property
    def likelihood(self) -> nn.Module:
        """The likelihood inside of any wrappers."""
        return unwrap(self.model.likelihood)

    @property
    def scale(self) -> Tensor | None:
        """The likelihood's standard deviation, ``[K, B, *event]``; ``None`` if not Gaussian."""
        if as_diagonal(self.p) is None:
            return None
        return self.p.stddev.double()


def probe_model(model: LatentModel, examples: Examples, seed: int) -> Probe:
    """Compute a model's distributions for a few examples, evenly spaced.

    Args:
        model: the model.
        examples: the data; up to 500 examples are used.
        seed: of all noise.
    """
    per_pass = choose_batch_size(_DRAWS * math.prod(examples.shape))
    few = examples.spread(min(_EXAMPLES, max(16, per_pass)))
    with evaluating(model):
        _, x, given = next(iterate_batches(few, model, seed=seed, batch_size=len(few)))
        dead: dict[str, float] = {}
        with noise.per_example(noise.derived_seed(seed, "look"), torch.arange(len(x))):
            with _record_dead_units(model, dead, (len(x),)):
                parts = model.conditioned(x, given)
                q = parts.q
            with _record_dead_units(model, dead, (_DRAWS, len(x))):
                p = parts.likelihood(draw_samples(q, _DRAWS))
                z = parts.draw_from_prior(_DRAWS, len(x))
                log_likelihood = parts.likelihood(z).log_prob(x).double()
    return Probe(model, x, q, p, log_likelihood, dead)


@contextmanager
def _record_dead_units(
    model: LatentModel, dead: dict[str, float], given: tuple[int, ...]
) -> Iterator[None]:
    """Within the block, record the share of constant units of each of torch's activations.

    Args:
        model: the model whose modules to watch.
        dead: where to record the share, by the path of the activation.
        given: the leading shape of the part's input. A network may flatten it.
    """

    def record(path: str) -> Any:
        def hook(module: nn.Module, arguments: Any, y: Tensor) -> None:
            leading = 1
            if y.shape[: len(given)] == given:
                leading = len(given)
            units = y.detach().flatten(0, leading - 1).flatten(1).double()
            low, high = units.amin(0), units.amax(0)
            constant = high - low <= _CONSTANT_CHANGE * (1 + high.abs())
            dead[path] = min(dead.get(path, 1.0), float(constant.double().mean()))

        return hook

    hooks = [
        module.register_forward_hook(record(path))
        for path, module in model.named_modules()
        if type(module).__module__ == "torch.nn.modules.activation" and not list(module.children())
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# Each function below returns a cause and its remedy, or None if the measurement contradicts it.

Cause = tuple[str, str]


def find_constant_data(probe: Probe) -> Cause | None:
    """Find whether the examples are all the same, so that z has nothing to distinguish."""
    if len(probe.x) < 2 or not bool((probe.x == probe.x[:1]).all()):
        return None
    return (
        "the examples are all the same, so z cannot carry information about them",
        "evaluate on data that vary",
    )


def find_dead_units(probe: Probe) -> Cause | None:
    """Find a layer whose units are all zero or saturated, or a constant output of the encoder."""
    remedy = (
        "use another activation (gelu, tanh), smaller initial weights or a lower learning rate, "
        "and train again"
    )
    layers = [path for path, share in probe.dead.items() if share == 1.0]
    if layers:
        part = "decoder"
        if layers[0].startswith("posterior"):
            part = "encoder"
        cause = f"all units of {layers[0]}, in the {part}, are constant (zero or saturated)"
        return f"{cause} for every input", remedy
    names = ["mean", "stddev"]
    if isinstance(probe.q, FactorialBernoulli):
        names.remove("stddev")
    try:
        parameters = [getattr(probe.q, name) for name in names]
    except NotImplementedError:
        return None
    changes = [float(((value - value[:1]).abs() / (1 + value.abs())).max()) for value in parameters]
    if max(changes) > _CONSTANT_CHANGE:
        return None
    return "the encoder's output does not depend on x", remedy


def find_strong_rate_weight(
    objective: Any, schedules: Mapping[str, Mapping[str, float]]
) -> Cause | None:
    """Find a weight of the rate above 1, a capacity near 0, or free bits."""
    beta, capacity = (
        _find_reached_value(objective, schedules, name) for name in ("beta", "capacity")
    )
    free_bits = float(getattr(objective, "free_bits", 0.0) or 0.0)
    if capacity is not None and capacity < 0.5:
        return (
            f"the objective aims at a rate of {capacity:g} nats (capacity)",
            "increase capacity during the training",
        )
    if beta is not None and beta > 1:
        return (
            f"the objective has the weight beta = {beta:g} on the rate, so information pays only "
            f"if a nat of it saves more than {beta:g} nats of distortion",
            "use beta=1 or less, with a warm-up such as beta=lb.Ramp(0.0, 1.0, epochs=...)",
        )
    if free_bits:
        return (
            f"q uses the free bits of {free_bits:g} nats for a shift that is the same for every x",
            "use a warm-up of beta instead of free_bits, or a weaker decoder",
        )
    return None


def _find_reached_value(
    objective: Any, schedules: Mapping[str, Mapping[str, float]], name: str
) -> float | None:
    if name in schedules:
        return float(schedules[name]["reached"])
    value = getattr(objective, name, None)
    if value is None:
        return None
    return float(getattr(value, "end", value))


def find_broad_scale(probe: Probe) -> Cause | None:
    r"""Find whether the likelihood's scale exceeds the data's deviation in every direction.

    With a linear decoder, a unit raises the bound only along a direction in which the data have a
    larger variance than the noise (Tipping & Bishop 1999; Lucas et al. 2019): the largest
    eigenvalue of the covariance of ``x / scale`` must be above 1.
    """
    scale = probe.scale
    if scale is None or len(probe.x) < 2:
        return None
    per_entry = scale.square().mean((0, 1)).sqrt().flatten()
    x = probe.x.double().flatten(1)
    if float(_variances(x / per_entry)[-1]) > 1:
        return None
    variances = _variances(x)
    units = math.prod(probe.q.event_shape)
    cause = (
        f"the likelihood's scale ({float(per_entry.mean()):.3g}) is above the data's standard "
        f"deviation in every direction (at most {math.sqrt(float(variances[-1])):.3g}), so "
        "information in z costs more than it gains"
    )
    return cause, _advise_on_scale(probe.likelihood, _residual_scale(variances, units, x))


def _variances(x: Tensor) -> Tensor:
    """The variances along the principal axes of ``[B, D]``, ascending.

    There are min(B, D) of them; the others are zero.
    """
    centred = x - x.mean(0)
    gram = centred.T @ centred
    if len(x) <= x.shape[1]:
        gram = centred @ centred.T
    return cast(Tensor, torch.linalg.eigvalsh(gram)).clamp_min(0) / (len(x) - 1)


def _residual_scale(variances: Tensor, units: int, x: Tensor) -> float:
    """The residual standard deviation of an entry after as many principal components as units."""
    rest = variances[: max(0, len(variances) - units)]
    left = float(rest.sum()) / max(1, x.shape[1] - units)
    if left > 0:
        return math.sqrt(left)
    return 0.1 * math.sqrt(float(variances.sum()) / x.shape[1])


def _advise_on_scale(likelihood: nn.Module, advice: float) -> str:
    if not has_learned_scale(likelihood):
        return (
            f"learn the scale (scale='shared'), or set it near {advice:.2g}, the residual "
            "standard deviation after as many principal components"
        )
    floor: float = getattr(likelihood, "min_scale", 0.0)
    if floor >= advice:
        return f"lower the floor min_scale={floor:g}, or train for longer"
    return f"fix the scale near {advice:.2g}, or train for longer"


def has_learned_scale(likelihood: nn.Module) -> bool:
    """Whether a likelihood has a scale that is learned, rather than fixed."""
    return isinstance(getattr(likelihood, "scale", None), str)


def find_free_decoder(probe: Probe) -> Cause | None:
    """Find a likelihood that hardly depends on z, but is far better than independent entries."""
    if len(probe.x) < 2:
        return None
    change = float(probe.log_likelihood.std(0).mean())
    independent = DiagonalNormal | FactorialBernoulli | MaskedDistribution
    if change > _IGNORED_NATS or isinstance(probe.p, independent):
        return None
    gain = probe.log_likelihood.mean(0) - _score_independent_entries(probe.x)
    error = Estimate(gain).standard_error
    if not float(gain.mean()) >= max(1.0, 3 * error):
        return None
    return (
        f"the decoder models x without z: log p(x|z) changes by {change:.2g} nats when z is "
        f"redrawn, and is {float(gain.mean()):.3g} nats better than with independent entries",
        "weaken the decoder (a smaller receptive field, dropped inputs), or keep a rate with "
        "free_bits or a warm-up of beta",
    )


def _score_independent_entries(x: Tensor) -> Tensor:
    """Score each example by independent entries that are fitted to the same data, ``[B]``."""
    x = x.double().flatten(1)
    if bool(((x == 0) | (x == 1)).all()):
        share = (x.sum(0) + 0.5) / (len(x) + 1)
        return (x * share.log() + (1 - x) * (1 - share).log()).sum(1)
    scale = x.std(0, correction=0).clamp_min(1e-3)
    return DiagonalNormal(x.mean(0), scale.log()).log_prob(x)


def find_causes_of_collapse(
    probe: Probe, objective: Any, schedules: Mapping[str, Mapping[str, float]]
) -> Iterator[Cause]:
    """Find the causes that a measurement supports.

    Args:
        probe: the model's distributions for the examples.
        objective: the objective that the model was trained with.
        schedules: the values that its schedules had reached.
    """
    # Each of these two alone explains a collapse, whatever the other measurements are.
    for certain in (find_constant_data(probe), find_dead_units(probe)):
        if certain is not None:
            yield certain
            return
    weight, scale = find_strong_rate_weight(objective, schedules), find_broad_scale(probe)
    if weight is not None and has_learned_scale(probe.likelihood):
        scale = None  # a learned scale becomes broad because of the collapse
    found = [cause for cause in (weight, scale, find_free_decoder(probe)) if cause is not None]
    measured = "scale, weight of the rate, dead units and a decoder that does not need z"
    yield from found or [(f"none found: {measured} were measured", _GENERAL_REMEDY)]


def find_causes_without_probe(
    objective: Any, schedules: Mapping[str, Mapping[str, float]]
) -> Iterator[Cause]:
    """Find the causes of a collapse of a model that is not a :class:`~lowerbound.LatentModel`.

    Only the objective can be examined.

    Args:
        objective: the objective that the model was trained with.
        schedules: the values that its schedules had reached.
    """
    weight = find_strong_rate_weight(objective, schedules)
    yield weight or ("none found: only the weight of the rate was measured", _GENERAL_REMEDY)


_GENERAL_REMEDY = (
    "try a KL warm-up (beta=lb.Ramp(0.0, 1.0, epochs=...), --kl-warmup), free_bits (--free-bits), "
    "a lower learning rate, or longer training"
)


def measure_scale_bounds(probe: Probe) -> tuple[float, float] | None:
    """Measure the shares of a learned scale's entries within 5% of its floor and its ceiling.

    ``None`` if the likelihood has no learned scale.
    """
    likelihood, scale = probe.likelihood, probe.scale
    low, high = getattr(likelihood, "min_scale", None), getattr(likelihood, "max_scale", None)
    if scale is None or low is None or high is None or not has_learned_scale(likelihood):
        return None
    at_floor, at_ceiling = scale < low * _NEAR_FACTOR, scale > high / _NEAR_FACTOR
    return float(at_floor.double().mean()), float(at_ceiling.double().mean())


__getattr__ = forward_old_names(__name__, {"Finding": "lowerbound.evaluation.findings.Finding"})
