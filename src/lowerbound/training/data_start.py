"""The start from the data: the likelihood begins at the mean and the spread of each entry.

A network's first outputs are near 0, whatever the data are. The first steps of a training would
only move them to the mean of the data, and the scale to its spread. For data in physical units this
takes thousands of steps.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor, nn

from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.distributions import is_mass
from lowerbound.errors import NonFiniteError, SettingsError, TrainingWarning
from lowerbound.evaluation.baseline import score_entries_alone
from lowerbound.evaluation.scoring import compute_dataset_terms
from lowerbound.models import Model
from lowerbound.models.measuring import draw_likelihood
from lowerbound.models.passes import iterate_batches
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.memory import choose_sample_size
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.training.loop import Loop
from lowerbound.training.units import describe_units

# The start uses at most this many examples.
_MOST_EXAMPLES = 1000

# Whether the start raises the bound is judged by this many of them.
_JUDGES = 100

# The mean and the standard deviation of the data are those of at most this many examples.
_MOST_STANDARDIZED_EXAMPLES = 10_000


def examine_data(loop: Loop, *, start: bool) -> None:
    """Before the first step, look at the units of the data and let the model start from them.

    The score of independent entries, next to which bounds are shown, is that of the validation
    data, or else of the training data.

    A run that is continued from a checkpoint before its first step has started already, and its
    weights must not be scaled twice.

    Args:
        loop: the training that is about to begin.
        start: whether the model starts from the data.
    """
    model, seed = loop.model, derived_seed(loop.seed, "start")
    if type(model).start_from is Model.start_from:
        return
    examples = _choose_examples(loop.train, seed)
    with torch.no_grad(), evaluating(model), seeded(seed, loop.device):
        x, given = _read(examples, model, seed)
    p = draw_likelihood(model, examples)
    if p is not None:
        seen = given.get(OBSERVED)
        observed = x if seen is None else x.masked_fill(~seen, math.nan)
        if (line := describe_units(model, p, examples, observed)) is not None:
            warnings.warn(line, TrainingWarning, stacklevel=3)
        if loop.objective.label(model) == "bound":
            judged = loop.validation or loop.train
            loop.progress.baseline = score_entries_alone(model, judged, is_mass(p), seed=loop.seed)
    if start and loop.progress.start is None:
        _start_from(loop, examples, x, given, seed)


def _start_from(
    loop: Loop, examples: Examples, x: Tensor, given: dict[str, Tensor], seed: int
) -> None:
    """Let the model start from some of its training data, if that raises their bound.

    The bound before and after is recorded as ``start`` in the checkpoints, and in the first record
    of ``metrics.jsonl``. A model that was trained well has a better bound already, so its weights
    stay as they are. So do parameters that are not trained. No random state changes.
    """
    model = loop.model
    weights = [*model.parameters(), *model.buffers()]
    before = [weight.detach().clone() for weight in weights]
    judges = examples.first(_JUDGES)
    bound = _average_bound(loop, judges, seed)
    with torch.no_grad(), evaluating(model), seeded(seed, loop.device):
        model.start_from(x, **given)
        for old, new in zip(before, weights, strict=True):
            if isinstance(new, nn.Parameter) and not new.requires_grad:
                new.copy_(old)
    if all(torch.equal(old, new) for old, new in zip(before, weights, strict=True)):
        return
    started = _average_bound(loop, judges, seed)
    if started <= bound:
        with torch.no_grad():
            for old, new in zip(before, weights, strict=True):
                new.copy_(old)
        return
    loop.progress.start = {"examples": len(examples), "after": started}
    if math.isfinite(bound):
        loop.progress.start["before"] = bound
    loop.notes.append(
        f"the likelihood starts at the mean and the spread of {len(examples):,} examples, which "
        f"raises the {loop.objective.label(model)} from {bound:.2f} to {started:.2f} nats"
    )


def standardize_model(model: Model, train: Examples, seed: int) -> None:
    """Let the model see standardised data, see :meth:`lowerbound.Model.standardize`.

    Raises:
        SettingsError: if the model cannot do so, or the data are counts, codes or binary.
    """
    if train.is_discrete or train.kind is not None:
        raise SettingsError(
            f"fit: standardize=True is for real numbers, and {train.name} has discrete values; "
            "leave it out"
        )
    seed = derived_seed(seed, "start")
    examples = _choose_examples(train, seed, _MOST_STANDARDIZED_EXAMPLES)
    with torch.no_grad(), seeded(seed, get_device(model)):
        x, given = _read(examples, model, seed)
        model.standardize(x, **given)


def _read(examples: Examples, model: Model, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Read some examples as one batch, with the fields that the model needs."""
    batches = iterate_batches(examples, model, seed=seed, batch_size=len(examples))
    ((_, x, given),) = batches
    return x, given


def _choose_examples(train: Examples, seed: int, most: int = _MOST_EXAMPLES) -> Examples:
    count = choose_sample_size(train.shape, most)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    return train.subset(order[:count].sort().values.to(train.values.device))


def _average_bound(loop: Loop, examples: Examples, seed: int) -> float:
    """Average the bound of some examples; minus infinity if it is not finite."""
    try:
        terms = compute_dataset_terms(loop.model, loop.objective, examples, seed=seed)
    except NonFiniteError:
        return -math.inf
    average = float(terms["bound"].mean())
    return average if math.isfinite(average) else -math.inf
