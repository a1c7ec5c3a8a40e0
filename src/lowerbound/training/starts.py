"""One posterior from each optimum of a log joint, and the comparison of their bounds."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.errors import LogJointError, NonFiniteError, SettingsError
from lowerbound.evaluation.checks import check_model
from lowerbound.evaluation.estimate import Estimate, evaluate
from lowerbound.evaluation.optima_search import search_optima
from lowerbound.models import LogJoint
from lowerbound.models.optima import Optimum
from lowerbound.objectives import Objective
from lowerbound.objectives.base import check_types
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_settings, check_whole_number
from lowerbound.training.fitting import fit
from lowerbound.training.settings import FitKeywords

# The number of draws that locate a posterior.
_DRAWS = 1000

# Two posteriors are at the same place if no mean differs by more standard deviations than this.
_FAR_DEVIATIONS = 4.0

# The posterior that the model had before is listed if it has at least this share of the best.
_LEAST_SHARE = 0.01


@dataclass(frozen=True, eq=False)
class Start:
    """A posterior that was trained from one starting point.

    Args:
        bound: the bound, in nats; the standard error is that of the draws. Its label is
            ``"score"`` if it is not a bound on log p(x).
        optimum: where it started; ``None`` for a random start.
        mean: of its draws in unconstrained coordinates, ``[J]``.
        scale: their standard deviations, ``[J]``.
        is_earlier: whether it is the posterior that the model had before, which is not trained.
    """

    bound: Estimate
    optimum: Optimum | None
    mean: Tensor
    scale: Tensor
    is_earlier: bool = False

    def is_near(self, other: Start) -> bool:
        """Whether both posteriors are at the same place."""
        wider = torch.maximum(self.scale, other.scale)
        return bool(((self.mean - other.mean).abs() <= _FAR_DEVIATIONS * wider).all())


@dataclass(frozen=True, eq=False)
class Starts:
    """Posteriors from several starting points, the best first; ``str()`` gives a table.

    Args:
        starts: the posteriors, sorted by their bounds. The model has the weights of the first.
    """

    starts: tuple[Start, ...]

    @property
    def separate(self) -> tuple[Start, ...]:
        """The best posterior of each place."""
        kept: list[Start] = []
        for start in self.starts:
            if not any(start.is_near(other) for other in kept):
                kept.append(start)
        return tuple(kept)

    @property
    def are_bounds(self) -> bool:
        """Whether the values bound log p(x), which those of a score or of a point mass do not."""
        return all(start.bound.label == "bound" for start in self.starts)

    @property
    def shares(self) -> tuple[float, ...]:
        """The approximate share of the posterior at each separate place; nan without bounds.

        Posteriors at separate places do not overlap, so the sum of their exponentiated bounds is at
        most p(x). A place's share is its part of this sum.
        """
        return tuple(self._separate_bounds().softmax(0).tolist())

    @property
    def log_evidence(self) -> float:
        """A lower bound on log p(x): the log-sum-exp of the separate bounds; nan without bounds."""
        return float(self._separate_bounds().logsumexp(0))

    def _separate_bounds(self) -> Tensor:
        bounds = torch.tensor([start.bound.mean for start in self.separate], dtype=torch.float64)
        if not self.are_bounds:
            return torch.full_like(bounds, math.nan)
        return bounds

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        separate = self.separate
        evidence = "the values are scores, not bounds on log p(x)"
        if self.are_bounds:
            evidence = f"log p(x) is at least {self.log_evidence:.3f} nats"
        yield (
            f"{len(self.starts)} starts end at {len(separate)} separate "
            f"place{'s' * (len(separate) != 1)}; the model has the weights of the first. {evidence}"
        )
        for start, share in zip(separate, self.shares, strict=True):
            count = sum(start.is_near(other) for other in self.starts)
            value = f"{start.bound.mean:.3f} ± {start.bound.standard_error:.3f}"
            if self.are_bounds:
                value = f"bound {value}, about {100 * share:.0f}% of the posterior"
            else:
                value = f"score {value}"
            starts = f"{count} start{'s' * (count != 1)}"
            yield f"{value}, {starts}, first from {_describe_origin(start)}"


def _describe_origin(start: Start) -> str:
    if start.is_earlier:
        return "the posterior before"
    if start.optimum is None:
        return "a random start"
    return str(start.optimum)


def fit_from_optima(
    model: LogJoint,
    objective: Objective,
    data: Any = None,
    *,
    starts: int = 10,
    optima: Sequence[Optimum] | None = None,
    seed: int = 0,
    **keywords: Any,
) -> Starts:
    """Train a posterior from each of several starting points, and keep the best.

    A log joint that has a gradient is searched for separate optima, as by
    :func:`lowerbound.posterior_health`, and ``model.optima`` are added. One posterior is trained
    from each: q is moved there and stretched to the width of the optimum, whatever its location and
    width were. Without a gradient, or where q takes discrete values, the posterior's parameters
    start at random: N(0, 1) is added to each of them.

    A posterior covers the modes that its family can cover, often one. The bounds say which mode has
    the larger share, and :attr:`Starts.log_evidence` adds them up. The posterior that the model had
    before is compared too. It is listed if it has at least 1% of the share of the best one, and no
    better posterior is at its place.

    Args:
        model: the log joint. At the end it has the weights with the largest bound, which are its
            own if no training led to a larger one.
        objective: what to maximise.
        data: all examples, if the log joint takes them in batches.
        starts: the number of paths to modes, or of random starts.
        optima: start at these instead of searching, such as
            ``lb.posterior_health(model).optima``, which are far from q.
        seed: of the starting points and of each training.
        keywords: of :func:`lowerbound.fit`.

    Returns:
        :class:`Starts`; ``print`` it for a table.

    Raises:
        UnsupportedError: for another model.
        SettingsError: if a directory is given, which several trainings cannot share; or if
            ``optima`` contains other things than optima, or optima of other variables.
        LogJointError, NonFiniteError: if no optimum can be found.
        SettingsError, NonFiniteError: as :func:`lowerbound.fit`. A start at which the training
            becomes non-finite is left out if another one succeeds.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import Normal
        >>> def two_modes(a):
        ...     modes = Normal(torch.tensor([3.0, -3.0]), torch.tensor([0.3, 0.6]))
        ...     return (modes.log_prob(a[:, None]) + torch.tensor([0.7, 0.3]).log()).logsumexp(-1)
        >>> model = lb.LogJoint(two_modes, lb.full_rank, {"a": ()})
        >>> found = lb.fit_from_optima(
        ...     model, lb.ELBO(samples=10), steps=300, learning_rate=0.01, progress=False
        ... )
        >>> len(found.separate), [round(share, 1) for share in found.shares]
        (2, [0.7, 0.3])
    """
    model = check_model("fit_from_optima", model, LogJoint, "others have no optima to start from")
    check_seed("fit_from_optima", seed)
    starts = check_whole_number("fit_from_optima: starts", starts)
    if keywords.get("directory") is not None:
        raise SettingsError(
            "fit_from_optima: several trainings cannot write to one directory; save the best model "
            "with lb.save, or train it further with lb.fit(..., directory=...)"
        )
    check_types("fit_from_optima", model, objective)
    check_settings(FitKeywords, keywords, name="fit")
    results: list[tuple[Start, LogJoint]] = []
    failures: list[NonFiniteError] = []
    for optimum, trained in _make_starts(model, data, starts, optima, seed):
        try:
            fit(trained, objective, data, seed=seed, **keywords)
            bound = evaluate(trained, objective, data, seed=seed)
        except NonFiniteError as error:
            failures.append(error)
            continue
        results.append((Start(bound, optimum, *_locate(trained, seed)), trained))
    if not results:
        raise failures[0]
    results.sort(key=_order_by_bound)
    model_optima = tuple(start.optimum for start, _ in results if start.optimum is not None)
    earlier = _evaluate_earlier(model, objective, data, seed)
    if earlier is not None and _is_listed(earlier, [start for start, _ in results]):
        results.append((earlier, model))
        results.sort(key=_order_by_bound)
    model.load_state_dict(results[0][1].state_dict())
    model.optima = model_optima
    return Starts(tuple(start for start, _ in results))


def _order_by_bound(result: tuple[Start, LogJoint]) -> float:
    """Sort the largest bound first, and nan last."""
    bound = result[0].bound.mean
    return math.inf if math.isnan(bound) else -bound


def _evaluate_earlier(model: LogJoint, objective: Objective, data: Any, seed: int) -> Start | None:
    """The posterior before the training; ``None`` if the log joint cannot be evaluated there."""
    try:
        bound = evaluate(model, objective, data, seed=seed)
    except (LogJointError, NonFiniteError):
        return None
    return Start(bound, None, *_locate(model, seed), is_earlier=True)


def _is_listed(earlier: Start, others: list[Start]) -> bool:
    """Whether the posterior before is probable, and the best of its place."""
    best = max(other.bound.mean for other in others)
    if not earlier.bound.mean >= best + math.log(_LEAST_SHARE):
        return False
    near = [other.bound.mean for other in others if other.is_near(earlier)]
    return not near or earlier.bound.mean > max(near)


def _make_starts(
    model: LogJoint, data: Any, count: int, optima: Sequence[Optimum] | None, seed: int
) -> Iterator[tuple[Optimum | None, LogJoint]]:
    """Copies of the model at their starting points."""
    if optima is not None:
        _check_optima(model, optima)
    whole, _ = model.for_evaluation(data)
    if optima is None and whole.has_gradient:
        optima = _search(whole, count, seed)
    if optima is not None:
        for optimum in optima:
            yield optimum, _move_q_to(optimum, copy.deepcopy(model), seed)
        return
    for number in range(count):
        begun = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(derived_seed(seed, "start", number))
        with torch.no_grad():
            for parameter in begun.posterior.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter))
        yield None, begun


def _check_optima(model: LogJoint, optima: Sequence[Optimum]) -> None:
    if not optima:
        raise SettingsError(
            "fit_from_optima: optima is empty; leave it out to search for optima, also far from q"
        )
    size = model.variables.size
    for optimum in optima:
        if not isinstance(optimum, Optimum) or len(optimum.gaussian.mean) != size:
            raise SettingsError(
                f"fit_from_optima: {optimum!r} is not an optimum over the {size} dimensions of the "
                "model; pass model.optima, or the optima of lb.posterior_health(model)"
            )


def _search(whole: LogJoint, count: int, seed: int) -> tuple[Optimum, ...]:
    """Search as posterior_health does."""
    mean, scale = (part.numpy() for part in _locate(whole, seed))
    generator = np.random.default_rng(derived_seed(seed, "probes"))
    with evaluating(whole), seeded(seed, get_device(whole)):
        found = search_optima(whole, mean, scale, generator, paths=count)
    # If all paths failed, this search says why.
    return found or whole.find_optima(count, seed=seed)


@torch.no_grad()
def _move_q_to(optimum: Optimum, model: LogJoint, seed: int) -> LogJoint:
    """Choose centre and spread such that q has the means and deviations of an optimum."""
    model.start(at=optimum)
    mean, scale = _measure_q(model, seed)
    model.spread.div_(scale.to(model.spread))
    model.centre.sub_(model.spread * mean.to(model.spread))
    return model


@torch.no_grad()
def _measure_q(model: LogJoint, seed: int) -> tuple[Tensor, Tensor]:
    """The location and scale of q in its own space, ``[J]``; a point mass has the scale 1.

    They are means and standard deviations, or medians and half the distance between the 16% and 84%
    quantiles of draws, where q, such as a flow, does not say its moments.
    """
    with evaluating(model), seeded(seed, get_device(model)):
        q = model.posterior()
        draws = q.sample(torch.Size((_DRAWS,))).double()
    low, location, high = draws.quantile(draws.new_tensor([0.16, 0.5, 0.84]), dim=0)
    scale = (high - low) / 2
    try:
        mean, deviation = q.mean.double(), q.stddev.double()
    except (NotImplementedError, AttributeError):
        pass
    else:
        known = mean.isfinite() & deviation.isfinite()
        location, scale = mean.where(known, location), deviation.where(known, scale)
    return location, scale.where(scale > 0, 1.0)


@torch.no_grad()
def _locate(model: LogJoint, seed: int) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of the draws of a posterior, ``[J]`` each."""
    with evaluating(model), seeded(seed, get_device(model)):
        u = model.posterior().sample(torch.Size((_DRAWS,)))
    points = (model.centre + model.spread * u).double().cpu()
    return points.mean(0), points.std(0)
