"""The bound at the end of a training, next to that of independent entries."""

from __future__ import annotations

from lowerbound.data.examples import Examples
from lowerbound.evaluation.baseline import Gain
from lowerbound.evaluation.scoring import compute_dataset_terms
from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.training.progress import Progress
from lowerbound.training.records import average_terms

# A bound of training data with all of their entries is that of at most this many examples.
_MOST_EXAMPLES = 10_000


def measure_gain(
    progress: Progress, model: Model, objective: Objective, train: Examples, *, seed: int
) -> Gain | None:
    """Compare the last bound with that of independent entries; ``None`` if it is not known.

    If entries of training batches were hidden, the bound of training data is computed again.
    """
    if progress.baseline is None or not progress.history:
        return None
    last = progress.history[-1]
    part = "validation" if "validation" in last else "train"
    bound = last[part]["bound"]
    if part == "validation" and progress.best_bound is not None:
        bound = progress.best_bound
    if part == "train" and model.hides_entries:
        terms = compute_dataset_terms(model, objective, train.spread(_MOST_EXAMPLES), seed=seed)
        bound = average_terms(terms, progress)["bound"]
    return Gain(bound, progress.baseline, f"{part} bound")
