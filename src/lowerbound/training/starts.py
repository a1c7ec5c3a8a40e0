"""One posterior from each optimum of a log joint, and the comparison of their bounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.errors import SettingsError
from lowerbound.evaluation.checks import check_model
from lowerbound.evaluation.estimate import Estimate, evaluate
from lowerbound.models import LogJoint
from lowerbound.models.optima import Optimum
from lowerbound.objectives import Objective
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number
from lowerbound.training.fitting import fit

# The number of draws that locate a posterior.
_DRAWS = 1000

# Two posteriors are at the same place if no mean differs by more standard deviations than this.
_FAR_DEVIATIONS = 4.0


@dataclass(frozen=True, eq=False)
class Start:
    """A posterior that was trained from one starting point.

    Args:
        bound: the bound, in nats; the standard error is that of the draws.
        optimum: where it started; ``None`` for a random start.
        mean: of its draws in unconstrained coordinates, ``[J]``.
        scale: their standard deviations, ``[J]``.
    """

    bound: Estimate
    optimum: Optimum | None
    mean: Tensor
    scale: Tensor

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
    def shares(self) -> tuple[float, ...]:
        """The approximate share of the posterior at each separate place.

        Posteriors at separate places do not overlap, so the sum of their exponentiated bounds is at
        most p(x). A place's share is its part of this sum.
        """
        bounds = torch.tensor([start.bound.mean for start in self.separate], dtype=torch.float64)
        return tuple(bounds.softmax(0).tolist())

    @property
    def log_evidence(self) -> float:
        """A lower bound on log p(x): the log-sum-exp of the separate bounds."""
        bounds = torch.tensor([start.bound.mean for start in self.separate], dtype=torch.float64)
        return float(bounds.logsumexp(0))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        separate = self.separate
        yield (
            f"{len(self.starts)} starts end at {len(separate)} separate place(s); the model has "
            f"the weights of the first. log p(x) is at least {self.log_evidence:.3f} nats"
        )
        for start, share in zip(separate, self.shares, strict=True):
            count = sum(start.is_near(other) for other in self.starts)
            place = "a random start"
            if start.optimum is not None:
                place = str(start.optimum)
            yield (
                f"bound {start.bound.mean:.3f} ± {start.bound.standard_error:.3f}, about "
                f"{100 * share:.0f}% of the posterior, {count} start(s), first from {place}"
            )


def fit_from_optima(
    model: LogJoint,
    objective: Objective,
    data: Any = None,
    *,
    starts: int = 10,
    seed: int = 0,
    **keywords: Any,
) -> Starts:
    """Train a posterior from each of several starting points, and keep the best.

    A log joint that has a gradient is searched for separate optima
    (:meth:`lowerbound.LogJoint.start`), and one posterior is trained from each. Without a gradient,
    or where q takes discrete values, the posterior's parameters start at random: N(0, 1) is added
    to each of them.

    A posterior covers the modes that its family can cover, often one. The bounds say which mode has
    the larger share, and :attr:`Starts.log_evidence` adds them up.

    Args:
        model: the log joint. At the end it has the weights with the largest bound.
        objective: what to maximise.
        data: all examples, if the log joint takes them in batches.
        starts: the number of paths to modes, or of random starts.
        seed: of the starting points and of each training.
        keywords: of :func:`lowerbound.fit`.

    Returns:
        :class:`Starts`; ``print`` it for a table.

    Raises:
        UnsupportedError: for another model.
        SettingsError: if a directory is given, which several trainings cannot share.
        SettingsError, NonFiniteError: as :func:`lowerbound.fit`.

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
    results: list[tuple[Start, LogJoint]] = []
    for optimum, trained in _make_starts(model, data, starts, seed):
        fit(trained, objective, data, seed=seed, **keywords)
        bound = evaluate(trained, objective, data, seed=seed)
        results.append((Start(bound, optimum, *_locate(trained, seed)), trained))
    results.sort(key=lambda result: -result[0].bound.mean)
    model.load_state_dict(results[0][1].state_dict())
    model.optima = tuple(start.optimum for start, _ in results if start.optimum is not None)
    return Starts(tuple(start for start, _ in results))


def _make_starts(
    model: LogJoint, data: Any, count: int, seed: int
) -> Iterator[tuple[Optimum | None, LogJoint]]:
    """Copies of the model at their starting points."""
    whole, _ = model.for_evaluation(data)
    if whole.has_gradient:
        for optimum in whole.find_optima(count, seed=seed):
            yield optimum, copy.deepcopy(model).start(at=optimum)
        return
    for number in range(count):
        begun = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(derived_seed(seed, "start", number))
        with torch.no_grad():
            for parameter in begun.posterior.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter))
        yield None, begun


@torch.no_grad()
def _locate(model: LogJoint, seed: int) -> tuple[Tensor, Tensor]:
    """The means and standard deviations of the draws of a posterior, ``[J]`` each."""
    with evaluating(model), seeded(seed, get_device(model)):
        u = model.posterior().sample(torch.Size((_DRAWS,)))
    points = (model.centre + model.spread * u).double().cpu()
    return points.mean(0), points.std(0)
