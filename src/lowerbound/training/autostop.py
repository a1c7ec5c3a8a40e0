"""The rule by which training stops automatically: averages of weights at falling learning rates.

At one learning rate, stochastic gradients keep the weights moving around the optimum, at a distance
that does not shrink with time. The average of the weights over a window of steps is much nearer to
the optimum (Polyak & Juditsky 1992), and nearer still if the learning rate is smaller. The bound
shows whether it is worth continuing: the difference of the bounds of two averages on the same noise
has far less noise than either bound.

So the steps are taken in windows. After each, the average of its weights is compared with the best
average so far:

- It gains more than the tolerance: the weights still improve. The learning rate stays the same.
- It does not: the learning rate is halved, the window is doubled, and training continues from the
  best average.
- Three windows in a row did not gain: a quarter of the learning rate and four times the window did
  not help, so training has settled.

The idea is that of Welandawe, Andersen, Vehtari & Huggins 2022 (*Robust, automated, and accurate
black-box variational inference*): keep a learning rate until its iterates are stationary, then
reduce it by a constant factor, and end when a reduction promises too little. They measure the gain
by a divergence between Gaussians. Here the gain is that of the bound itself, for any model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lowerbound.data.examples import Examples
from lowerbound.evaluation.scoring import compute_dataset_terms
from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.training.optim import average_weights
from lowerbound.training.progress import Progress, Windows

# The smallest number of steps of the first window; the factors of the learning rate and of the
# window after a window that does not gain; and the number of such windows in a row after which
# training ends.
_FIRST_WINDOW_STEPS = 200
_CUT, _GROWTH = 0.5, 2
_IDLE_WINDOWS = 3

# Averages are compared on this many examples, or on this many repetitions for a model that stores
# its own data. If each repetition uses all data, the second constant limits the examples of all
# repetitions together.
_EXAMPLES, _EXAMPLES_IN_ALL = 1000, 1_000_000


@dataclass(frozen=True)
class Decision:
    """What the rule decides after an epoch; the loop acts on it.

    Args:
        windows: the present state of the rule.
        record: the result of the window that ended; ``None`` within a window.
        is_best: whether its average is the best one.
        goes_back: whether the training continues from the best average.
        settled: whether the training ends.
        restarts_average: whether a new average begins with the next step.
        bounds: if this average is the best one, its bounds on the examples of the comparison.
    """

    windows: Windows
    record: dict[str, float] | None = None
    is_best: bool = False
    goes_back: bool = False
    settled: bool = False
    restarts_average: bool = False
    bounds: Tensor | None = None

    def describe(self, learning_rate: float, label: str = "bound") -> str:
        """Describe the result of the window in one line; ``label`` names its value."""
        assert self.record is not None
        line = (
            f"{self.record['steps']:,} steps at learning rate {learning_rate:.3g}: "
            f"their average has the {label} {self.record['bound']:.3f}"
        )
        if math.isinf(self.record["gain"]):
            return line
        return f"{line}, {self.record['gain']:+.2g} ± {self.record['gain_error']:.1g} nats"


@dataclass(eq=False)
class AutoStop:
    """The rule, with the average of the current window.

    Args:
        model: the model that is trained.
        tolerance: training continues at the same learning rate for gains above this, in nats.
        warmup_steps: the steps over which the learning rate rises. No window begins before their
            end.
    """

    model: Model
    tolerance: float
    warmup_steps: int = 0
    average: AveragedModel = field(init=False)

    def __post_init__(self) -> None:
        self.average = average_weights(self.model, None)
        self._best_bounds: Tensor | None = None

    def reconsider(self, progress: Progress, earlier_tolerance: float) -> None:
        """Continue a training that had settled, if its tolerance was larger."""
        if progress.settled and self.tolerance < earlier_tolerance:
            progress.settled = False
            progress.windows = replace(progress.windows, idle=0)

    def count_fewest_steps_left(self, progress: Progress) -> int:
        """Count the remaining steps if no further window gains, which are the fewest possible."""
        windows = progress.windows
        length = windows.length or _FIRST_WINDOW_STEPS
        left = (windows.end or _FIRST_WINDOW_STEPS) - progress.step
        for _ in range(_IDLE_WINDOWS - 1 - windows.idle):
            length *= _GROWTH
            left += length
        return left

    def consider(
        self,
        progress: Progress,
        *,
        epoch_steps: int,
        last: bool,
        changing: bool,
        best_weights: Mapping[str, Tensor] | None,
        bounds_of: Callable[[Model], Tensor],
    ) -> Decision:
        """Decide after an epoch how to continue. If a window ends here, measure its gain first.

        The loop carries out the decision, with :meth:`follow`. Nothing on which a later decision
        depends changes here, so that a training can be interrupted during the comparison and
        resumed before it. Only the bounds of the best average are kept, once they are computed.

        Args:
            progress: the progress of the training.
            epoch_steps: the number of steps in an epoch.
            last: whether this was the last step that is allowed.
            changing: whether the objective's schedules still change.
            best_weights: the best average so far; ``None`` before the first one.
            bounds_of: computes a model's bounds on some examples, always with the same noise.
        """
        windows = progress.windows
        if not windows.length:
            length = -(-_FIRST_WINDOW_STEPS // epoch_steps) * epoch_steps
            windows = replace(windows, length=length, end=length)
        if changing or progress.step < self.warmup_steps:
            windows = replace(windows, end=progress.step + windows.length)
            return Decision(windows, restarts_average=True)
        cut_short = progress.step < windows.end
        if cut_short and (not last or best_weights is not None):
            return Decision(windows)
        averaged_model = cast(Model, self.average.module)
        bounds = bounds_of(averaged_model)
        gain, error = self._measure_gain(bounds, best_weights, bounds_of)
        record = {
            "bound": float(bounds.mean()),
            "gain": gain,
            "gain_error": error,
            "steps": int(self.average.n_averaged),
            "pace": windows.rate_factor,
        }
        is_best = gain > 0
        decision = Decision(windows, record, is_best)
        if not cut_short:
            decision = self._decide(progress, windows, record, is_best, best_weights is not None)
        if is_best:
            return replace(decision, bounds=bounds)
        return decision

    def follow(self, decision: Decision) -> None:
        """Apply a decision to the state of the rule and of the average."""
        if decision.is_best:
            self._best_bounds = decision.bounds
        if decision.restarts_average:
            self.average.n_averaged.zero_()

    def _decide(
        self,
        progress: Progress,
        windows: Windows,
        record: dict[str, float],
        is_best: bool,
        had_best: bool,
    ) -> Decision:
        has_best = is_best or had_best
        gained = record["gain"] > max(self.tolerance, record["gain_error"])
        idle = 0 if gained else windows.idle + 1
        settled = idle >= _IDLE_WINDOWS and has_best
        windows = replace(windows, idle=idle)
        if not gained and not settled:
            factor, length = windows.rate_factor * _CUT, windows.length * _GROWTH
            windows = replace(windows, rate_factor=factor, length=length)
        return Decision(
            replace(windows, end=progress.step + windows.length),
            record,
            is_best,
            goes_back=has_best and not gained and not settled,
            settled=settled,
            restarts_average=True,
        )

    def _measure_gain(
        self,
        bounds: Tensor,
        best_weights: Mapping[str, Tensor] | None,
        bounds_of: Callable[[Model], Tensor],
    ) -> tuple[float, float]:
        """Measure the mean gain over the best average, in nats, and its standard error."""
        if not bool(bounds.isfinite().all()):
            return -math.inf, math.inf
        if best_weights is None:
            return math.inf, 0.0
        if self._best_bounds is None:  # the best average was found by an earlier process
            self._best_bounds = self._compute_bounds_at(best_weights, bounds_of)
        difference = bounds - self._best_bounds
        return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))

    def _compute_bounds_at(
        self, weights: Mapping[str, Tensor], bounds_of: Callable[[Model], Tensor]
    ) -> Tensor:
        model = cast(Model, self.average.module)
        now = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(weights)
        try:
            return bounds_of(model)
        finally:
            model.load_state_dict(now)

    def describe_unfinished(self, progress: Progress) -> list[str]:
        """Describe training whose steps ran out before it had settled."""
        if not progress.history:
            return []
        line = (
            f"the training has not settled to tolerance={self.tolerance:g} in "
            f"{progress.step:,} steps"
        )
        ended = [record["window"] for record in progress.history if "window" in record]
        if ended and ended[-1].get("gain") is not None:
            steps, gain = ended[-1]["steps"], ended[-1]["gain"]
            line += f"; the last window of {steps:,} steps gained {gain:+.2g} nats"
        return [f"{line}: train longer"]


def compute_comparable_bounds(
    model: Model,
    objective: Objective,
    train: Examples,
    validation: Examples | None,
    *,
    seed: int,
) -> Tensor:
    """Compute a model's bounds on fixed examples with fixed noise."""
    data = train if validation is None else validation
    count = max(8, min(_EXAMPLES, _EXAMPLES_IN_ALL // len(data)))
    whole, examples = model.for_evaluation(data, repetitions=count)
    return compute_dataset_terms(whole, objective, examples.spread(_EXAMPLES), seed=seed)["bound"]
