"""An estimate over a dataset with its standard error, and the bound as such an estimate."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.evaluation.baseline import Gain, score_entries_alone
from lowerbound.evaluation.checks import check_batch_size
from lowerbound.evaluation.intervals import mean_interval
from lowerbound.evaluation.scoring import compute_dataset_terms
from lowerbound.models import Model
from lowerbound.models.passes import ProgressCallback
from lowerbound.objectives import Objective
from lowerbound.objectives.base import check_types
from lowerbound.settings import check_seed

# With at least this share of doubtful examples, an estimate as a whole is doubtful.
DOUBTFUL_SHARE = 0.05

# If an estimate may be too low by more nats than this, it is doubtful as a whole.
LARGEST_SHORTFALL = 0.5

# A model that stores its own data is evaluated this many times.
_REPETITIONS = 100


@dataclass(frozen=True, eq=False)
class Estimate:
    """A mean over the examples of a dataset, with its standard error.

    Args:
        per_example: the value of each example, ``[N]``, in nats, float64.
        terms: estimates of the terms that add up to the value, by name.
        bits_per_dimension: the mean in bits per dimension, for a probability mass and for
            dequantised data only.
        label: what the value is: a ``"bound"`` on log p(x), or a ``"score"`` if the objective is
            not a bound, or a part of the model is not normalised.
        baseline: the score of independent entries on the same data, see
            :func:`lowerbound.evaluation.score_independent_entries`, or ``None``.
    """

    per_example: Tensor
    terms: dict[str, Estimate] = field(default_factory=dict)
    bits_per_dimension: float | None = None
    label: str = "mean"
    baseline: float | None = None

    @property
    def mean(self) -> float:
        """The mean over examples, in nats."""
        return float(self.per_example.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; nan for a single example.

        It is the standard deviation over examples, divided by the square root of their number.
        """
        count = len(self.per_example)
        if count < 2:
            return math.nan
        return float(self.per_example.std()) / math.sqrt(count)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """An interval that covers the mean with the given probability.

        See :func:`lowerbound.evaluation.mean_interval`. It is about the choice of the examples. The
        bias of an estimate is not in it.
        """
        return mean_interval(self.per_example, level=level)

    @property
    def doubtful_share(self) -> float:
        """The share of examples whose values should not be trusted; 0 where nothing can tell."""
        return 0.0

    @property
    def shortfall(self) -> float:
        """By how many nats the mean may still be too low; 0 where nothing can tell."""
        return 0.0

    @property
    def is_doubtful(self) -> bool:
        """Whether one example in twenty is doubtful, or the mean may be half a nat too low."""
        return self.doubtful_share >= DOUBTFUL_SHARE or self.shortfall > LARGEST_SHORTFALL

    @property
    def gain(self) -> Gain | None:
        """The mean next to the baseline; ``None`` if that is not known."""
        if self.baseline is None:
            return None
        return Gain(self.mean, self.baseline, self.label)

    @property
    def warning(self) -> str | None:
        """Why the estimate cannot be trusted, in words; ``None`` if nothing speaks against it.

        Of a bound: that it is not above the baseline.
        """
        return None if self.gain is None else self.gain.warning

    def __repr__(self) -> str:
        terms = "".join(f", {name}={term.mean:.6g}" for name, term in self.terms.items())
        if self.baseline is not None:
            terms += f", independent_entries={self.baseline:.6g}"
        return (
            f"{type(self).__name__}({self.label}={self.mean:.6g}, "
            f"standard_error={self.standard_error:.2g}, examples={len(self.per_example)}{terms})"
        )


def evaluate(
    model: Model,
    objective: Objective,
    data: Any = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> Estimate:
    """The objective's true bound on some data, with its terms, in nats per example.

    The value is a score, and not a bound on log p(x), if the objective is not a bound, or if a part
    of the model is not normalised, such as a posterior that is a point. The estimate's ``label``
    says which it is.

    The same ``seed`` gives the same result for every batch size, up to rounding; see
    :func:`lowerbound.evaluation.scoring.compute_dataset_terms`. The exceptions are values that
    depend on the other examples of a batch, such as a penalty on the aggregate posterior; the
    docstring of such an objective says so.

    Args:
        model: any model.
        objective: the bound, with its number of samples.
        data: examples, an array or a tensor, ``[N, *event]``. A :class:`lowerbound.LogJoint` that
            stores its own data takes none. A LogJoint is evaluated 100 times on all data, so the
            standard error is that of the draws.
        seed: of the latents' noise, and of the pixels if they are random.
        batch_size: the number of examples in a batch; by default one that keeps memory small.
        progress: is called after each batch with the number of examples done, and of all examples.

    Returns:
        An :class:`Estimate` with the terms ``rate`` and ``distortion``.

    Raises:
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
        >>> estimate = evaluate(vae, lb.ELBO(), digits.test)
        >>> rate, distortion = (estimate.terms[name].mean for name in ("rate", "distortion"))
        >>> abs(estimate.mean + rate + distortion) < 1e-4
        True
    """
    check_types("evaluate", model, objective)
    check_seed("evaluate", seed)
    check_batch_size("evaluate", batch_size)
    model, examples = model.for_evaluation(data, repetitions=_REPETITIONS)
    model.check_data(examples)
    terms = compute_dataset_terms(
        model, objective, examples, seed=seed, batch_size=batch_size, progress=progress
    )
    bound, label = terms.pop("bound"), objective.label(model)
    bits = baseline = None
    if label == "bound":
        mass = model.likelihood_is_mass(examples)
        bits = bits_per_dimension(model, examples, float(bound.mean()), mass=mass)
        baseline = score_entries_alone(model, examples, mass, seed=seed)
    estimates = {name: Estimate(term) for name, term in terms.items()}
    return Estimate(bound, estimates, bits, label, baseline)


def bits_per_dimension(
    model: Model, examples: Examples, bound: float, *, mass: bool | None
) -> float | None:
    """Convert a bound on log p(x) to bits per dimension; ``None`` where that is meaningless.

    It is meaningless for a density, and if the bound contains the probability of labels.

    ``mass`` says whether p(x) is a mass or a density, see :meth:`Examples.bits_per_dimension
    <lowerbound.Examples.bits_per_dimension>`. It follows from the support of the model's
    likelihood: :meth:`Model.likelihood_is_mass <lowerbound.Model.likelihood_is_mass>`.
    """
    fields = (examples.all_fields.get(name) for name in model.scored_fields)
    # A known label adds its own probability to the bound, but it is not a dimension of x.
    if any(field is not None and bool((field >= 0).any()) for field in fields):
        return None
    entries = None
    if mass:
        entries = model.count_scored_entries(examples)
    return examples.bits_per_dimension(bound, mass=mass, entries=entries)
