"""A training that stops by itself: averages of the weights at falling learning rates, compared in nats.

At one learning rate, stochastic gradients leave the weights wandering about the best ones, at a distance that does not shrink however long one waits.
Their average over a window of steps is much nearer (Polyak & Juditsky 1992), and the smaller the rate, the nearer. Whether
going on is worth it can be seen in the bound alone: the bounds of two averages on the same noise differ by far less noise than either has.

So the steps are taken in windows. After each, the average of its weights is compared with the best average so far:

- it gains more than the tolerance: the weights are still on their way; on at the same rate;
- it does not: the rate is halved and the window doubled, and the weights go on from the best average;
- it did not three times in a row, so that a quarter of the rate and four times the window did not help: the training has settled.

That a fixed rate be left only once its iterates are stationary, that the rate then be cut by a constant factor, and that the training end once
a cut promises too little, is the idea of Welandawe, Andersen, Vehtari & Huggins 2022 (*Robust, automated, and accurate black-box variational
inference*), who measure the gain by a divergence between Gaussians; here it is the bound itself, for any model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lowerbound.evaluation.scoring import dataset_terms
from lowerbound.models import Model
from lowerbound.training.optim import average_weights

if TYPE_CHECKING:
    from lowerbound.training.loop import Loop

# Steps of the first window at least; what becomes of the rate and the window where a window does not gain; and how many in a row end it.
_WINDOW = 200
_CUT, _GROWTH = 0.5, 2
_IDLE = 3

# Examples on which averages are compared, or repetitions where there are none; where each is all data, so that they come to so many in all.
_EXAMPLES, _IN_ALL = 1000, 1_000_000


@dataclass(eq=False)
class Settling:
    """The rule, with the average of the window under way. What else it must remember is in :class:`~lowerbound.training.loop.Progress`.

    Args:
        model: that is trained.
        tolerance: the gain in nats that is worth going on for.
        warmup_steps: over which the learning rate rises; no window begins before.
    """

    model: Model
    tolerance: float
    warmup_steps: int = 0
    average: AveragedModel = field(init=False)

    def __post_init__(self) -> None:
        self.average = average_weights(self.model, None)
        self.best: Tensor | None = None

    def likely_left(self, loop: Loop) -> int:
        """How many steps there will be at least, as far as can be told: windows that do not gain, up to the end."""
        progress = loop.progress
        window, left = progress.window or _WINDOW, (progress.window_end or _WINDOW) - progress.step
        for _ in range(_IDLE - 1 - progress.idle):
            window *= _GROWTH
            left += window
        return max(1, min(left, loop.total_steps - progress.step))

    def consider(self, loop: Loop) -> dict[str, float] | None:
        """After an epoch: if a window ends here, see what it gained, and decide how to go on.

        Returns:
            What was found, or ``None`` within a window.
        """
        progress = loop.progress
        if not self._begun(loop):
            return None
        cut_short = progress.step < progress.window_end
        if cut_short and (progress.step < loop.total_steps or loop.best_weights is not None):
            return None
        bounds, steps = self._bounds(loop), int(self.average.n_averaged)
        gain, error = self._gain(loop, bounds)
        if gain > 0:
            self.best = bounds
            progress.best_bound, progress.best_epoch = float(bounds.mean()), progress.epoch + 1
            loop.best_weights = {
                name: value.clone() for name, value in self.average.module.state_dict().items()
            }
        found = {
            "bound": float(bounds.mean()),
            "gain": gain,
            "gain_error": error,
            "steps": steps,
            "pace": progress.pace,
        }
        if not cut_short:
            self._decide(loop, gain > max(self.tolerance, error))
            self.average.n_averaged.zero_()
            progress.window_end = progress.step + progress.window
        rate = loop.base_rates[0] * found["pace"]
        loop.tell(
            f"{steps:,} steps at learning rate {rate:.3g}: their average has the bound {found['bound']:.3f}"
            + ("" if math.isinf(gain) else f", {gain:+.2g} ± {error:.1g} nats")
        )
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _begun(self, loop: Loop) -> bool:
        """Whether windows have begun: of whole epochs, and not before the objective is what it will be and the rate has risen."""
        progress = loop.progress
        if not progress.window:
            epoch = -(-len(loop.train) // loop.batch_size)
            progress.window = -(-_WINDOW // epoch) * epoch
            progress.window_end = progress.window
        changing = loop.changing or progress.step < self.warmup_steps
        if changing:
            self.average.n_averaged.zero_()
            progress.window_end = progress.step + progress.window
        return not changing

    def resume(self, loop: Loop, tolerance: float | None) -> None:
        """Go on from a training that had this tolerance: with a smaller one, where it had settled."""
        progress = loop.progress
        if progress.settled and tolerance is not None and self.tolerance < tolerance:
            progress.settled, progress.idle, progress.finished = (
                False,
                0,
                progress.step >= loop.total_steps,
            )

    def unfinished(self, loop: Loop) -> str:
        """What to say where the steps ran out before."""
        windows = [record["window"] for record in loop.progress.history if "window" in record]
        gain = windows[-1].get("gain") if windows else None
        last = (
            ""
            if gain is None
            else f"; the last window of {windows[-1]['steps']:,} steps gained {gain:+.2g} nats"
        )
        return f"the training has not settled to tolerance={self.tolerance:g} in {loop.progress.step:,} steps{last}: train longer"

    def _decide(self, loop: Loop, moving: bool) -> None:
        progress = loop.progress
        progress.idle = 0 if moving else progress.idle + 1
        progress.settled = progress.idle >= _IDLE and loop.best_weights is not None
        if not moving and not progress.settled:
            progress.pace *= _CUT
            progress.window *= _GROWTH
            if loop.best_weights is not None:
                loop.model.load_state_dict(loop.best_weights)

    def _gain(self, loop: Loop, bounds: Tensor) -> tuple[float, float]:
        """How much these bounds are above the best average's, in nats, and the standard error of that."""
        if not bool(bounds.isfinite().all()):
            return -math.inf, math.inf
        if loop.best_weights is None:
            return math.inf, 0.0
        if self.best is None:  # of an earlier process
            now = {name: value.clone() for name, value in self.average.module.state_dict().items()}
            self.average.module.load_state_dict(loop.best_weights)
            self.best = self._bounds(loop)
            self.average.module.load_state_dict(now)
        difference = bounds - self.best
        return float(difference.mean()), float(difference.std() / math.sqrt(len(difference)))

    def _bounds(self, loop: Loop) -> Tensor:
        """The bound of the averaged weights on each of some examples, always the same ones with the same noise."""
        model = cast(Model, self.average.module)
        data = loop.train if loop.validation is None else loop.validation
        count = max(8, min(_EXAMPLES, _IN_ALL // len(data)))
        model, examples = model.for_evaluation(data, repetitions=count)
        examples = examples.spread(_EXAMPLES)
        return dataset_terms(model, loop.objective, examples, seed=loop.seed)["bound"]
