"""A dataset's figure with its standard error, and the bound as such a figure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lowerbound.errors import SettingsError
from lowerbound.evaluation.scoring import dataset_terms
from lowerbound.models import Model
from lowerbound.models.passes import Progress
from lowerbound.objectives import Objective
from lowerbound.objectives.base import check_types

# Evaluations of a model that holds its data itself.
_REPETITIONS = 100


@dataclass(frozen=True, eq=False)
class Estimate:
    """A dataset's figure: a mean over its examples, with the standard error of that mean.

    Args:
        per_example: the value of each example, ``[N]``, in nats, float64.
        terms: estimates of the terms it is made of, by name.
        bits_per_dimension: the same figure in bits per dimension, for dequantised data only.
    """

    per_example: Tensor
    terms: dict[str, Estimate] = field(default_factory=dict)
    bits_per_dimension: float | None = None

    @property
    def mean(self) -> float:
        """The mean over examples, in nats."""
        return float(self.per_example.mean())

    @property
    def standard_error(self) -> float:
        """The standard deviation over examples, divided by the square root of their number; nan for a single example."""
        count = len(self.per_example)
        return float(self.per_example.std()) / math.sqrt(count) if count > 1 else math.nan

    def __repr__(self) -> str:
        figures = f"mean={self.mean:.6g}, standard_error={self.standard_error:.2g}, examples={len(self.per_example)}"
        terms = "".join(f", {name}={term.mean:.6g}" for name, term in self.terms.items())
        return f"{type(self).__name__}({figures}{terms})"


def check_seed(name: str, seed: int) -> None:
    """Refuse a seed that is out of range.

    Raises:
        SettingsError: naming who was given it.
    """
    if not 0 <= seed < 2**31:
        raise SettingsError(f"{name}: seed={seed} must be from 0 to 2^31 - 1")


def evaluate(
    model: Model,
    objective: Objective,
    data: Any = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """The objective's true bound on some data, with its terms: nats per example, averaged over examples.

    The same ``seed`` gives the same figure whatever the batch size, beyond rounding, see
    :func:`lowerbound.evaluation.scoring.dataset_terms`.

    Args:
        model: any model.
        objective: which bound, with how many samples.
        data: examples, an array or a tensor, ``[N, *event]``; none for a :class:`lowerbound.LogJoint` that holds its data itself. A LogJoint
            is evaluated 100 times, on all data, so that the standard error is that of the draws.
        seed: of the latents' noise, and of the pixels' where those are random.
        batch_size: examples taken at once; by default what keeps memory small.
        progress: is called after each batch with the number of examples done, and of all.

    Returns:
        An :class:`Estimate` with the terms ``rate`` and ``distortion``.

    Raises:
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (2, 8, 8)))
        ... )
        >>> estimate = evaluate(vae, lb.ELBO(), digits.test)
        >>> abs(estimate.mean + estimate.terms["rate"].mean + estimate.terms["distortion"].mean) < 1e-4
        True
    """
    check_types("evaluate", model, objective)
    check_seed("evaluate", seed)
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"evaluate: batch_size={batch_size} must be at least 1")
    model, examples = model.for_evaluation(data, repetitions=_REPETITIONS)
    model.check_data(examples)
    terms = dataset_terms(
        model, objective, examples, seed=seed, batch_size=batch_size, progress=progress
    )
    bound = terms.pop("bound")
    return Estimate(
        bound,
        {name: Estimate(term) for name, term in terms.items()},
        examples.bits_per_dimension(float(bound.mean())),
    )
