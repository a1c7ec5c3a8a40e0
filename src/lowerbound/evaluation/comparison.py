"""Whether one model is better than another, judged by the same examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.evaluation.estimate import DOUBTFUL_SHARE, Estimate
from lowerbound.evaluation.intervals import mean_interval


@dataclass(frozen=True, eq=False)
class Difference:
    """The difference of two estimates over the same examples, in nats.

    ``str()`` of it is one sentence.

    Args:
        per_example: the first estimate minus the second, ``[N]``, float64.
        low: the lower end of the interval for the mean; nan for a single example.
        high: the upper end of the interval.
        level: the probability that such an interval covers the true mean.
        doubtful: the shares of doubtful examples in the first and in the second estimate, see
            :attr:`lowerbound.Estimate.doubtful_share`. The estimates of these examples are too low,
            and the interval does not say by how much.
        shortfall: by how many nats each estimate may still be too low as a whole, see
            :attr:`lowerbound.Estimate.shortfall`.
    """

    per_example: Tensor
    low: float
    high: float
    level: float
    doubtful: tuple[float, float] = (0.0, 0.0)
    shortfall: tuple[float, float] = (0.0, 0.0)

    @property
    def mean(self) -> float:
        """The mean over examples, in nats; positive if the first is better."""
        return float(self.per_example.mean())

    @property
    def standard_error(self) -> float:
        """The standard error of the mean; nan for a single example."""
        return Estimate(self.per_example).standard_error

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    @property
    def is_certain(self) -> bool:
        """Whether one is better than the other.

        The interval excludes 0, and both estimates are free of doubt: fewer than one example in
        twenty is doubtful, and neither estimate may be too low by as much as the interval is away
        from 0.
        """
        return self.excludes_zero and not any(self._doubts("the first", "the second"))

    def _doubts(self, first: str, second: str) -> Iterator[str]:
        """What speaks against a verdict, for each of the two estimates."""
        distance = max(self.low, -self.high)
        for name, share, shortfall in zip(
            (first, second), self.doubtful, self.shortfall, strict=True
        ):
            if share >= DOUBTFUL_SHARE:
                yield f"that of {name} is doubtful in {100 * share:.0f}% of the examples"
            elif shortfall >= distance:
                yield (
                    f"that of {name} may still be {shortfall:.2g} nats too low, judged by chains "
                    "of half the length"
                )

    def sentence(self, first: str = "the first", second: str = "the second") -> str:
        """Describe the difference in one sentence, with names for the two estimates."""
        count = len(self.per_example)
        if count == 1:
            return (
                "a difference cannot be judged by a single example "
                f"({first} - {second}: {self.mean:+.4g} nats)"
            )
        method = f"{100 * self.level:g}% paired interval over {count:,} examples"
        if not self.excludes_zero:
            return (
                f"the two cannot be distinguished: {first} - {second} is {self.mean:+.4g} nats "
                f"[{self.low:.4g}, {self.high:.4g}] ({method})"
            )
        better, low, high = first, self.low, self.high
        if self.mean < 0:
            better, low, high = second, -self.high, -self.low
        by = f"by {abs(self.mean):.4g} nats [{low:.4g}, {high:.4g}] per example ({method})"
        if self.is_certain:
            return f"{better} is better {by}"
        doubts = ", and ".join(self._doubts(first, second))
        return (
            f"it is unclear which is better: the estimate of {better} is higher {by}, but {doubts}"
            ". Take more samples, or anneal with more distributions and chains, until neither "
            "estimate is doubtful"
        )

    def __str__(self) -> str:
        return self.sentence()


def paired_difference(
    a: Estimate, b: Estimate, *, resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> Difference:
    r"""The mean difference of two estimates over the same examples, with its interval.

    .. math:: \bar d = \frac1N \sum_i (a_i - b_i)

    Examples differ from each other far more than two models differ on one example. So the interval
    is that of the mean of the examples' differences, see
    :func:`lowerbound.evaluation.mean_interval`.

    The interval is about the choice of the examples. It includes the noise of the estimates, such
    as that of importance sampling, which differs from example to example, but it does not include
    their bias. So the difference is certain only if neither estimate is doubtful. An estimate that
    is too low by an unknown amount may belong to the better model.

    Args:
        a: one estimate, for instance from :func:`lowerbound.evaluate`.
        b: another estimate over the same examples in the same order, best with the same seed.
        resamples: the number of sets of examples that are drawn with replacement.
        level: the probability with which such an interval should cover the true mean.
        seed: of the resampling.

    Returns:
        A :class:`Difference`; ``str()`` of it is one sentence.

    Raises:
        ShapeError: if the estimates are over different numbers of examples.
        DataError: if the value of an example is not finite, with the first such example.
        SettingsError: for a level that is not between 0 and 1, fewer than 100 resamples, or a
            score that is compared with a bound, see :func:`lowerbound.evaluate`.

    Example:
        >>> import torch
        >>> noise = torch.linspace(-1, 1, 50, dtype=torch.float64)
        >>> print(paired_difference(Estimate(10 * noise + 0.3), Estimate(10 * noise + 0.1 * noise)))
        the first is better by 0.3 nats [0.2829, 0.3173] per example
        (95% paired interval over 50 examples)
    """
    for each in (a, b):
        if not isinstance(each, Estimate):
            raise SettingsError(
                "paired_difference: compare two estimates, such as those of lb.evaluate, not "
                f"{type(each).__name__}"
            )
    if a.label != b.label and "score" in (a.label, b.label):
        first, second = ("not a score" if each.label != "score" else "a score" for each in (a, b))
        raise SettingsError(
            f"paired_difference: the first estimate is {first} and the second {second}. A score is "
            "not a bound on log p(x), so it does not say which model is better: evaluate both by "
            "the same bound, such as lb.ELBO(). A model with a part that is not normalised, such "
            "as lb.Point, does not have a bound"
        )
    if len(a.per_example) != len(b.per_example):
        raise ShapeError(
            f"paired_difference: the first estimate is over {len(a.per_example)} examples and the "
            f"second over {len(b.per_example)}; evaluate both on the same data"
        )
    check_finite(a, "the first estimate")
    check_finite(b, "the second estimate")
    difference = a.per_example - b.per_example
    low, high = mean_interval(difference, level=level, resamples=resamples, seed=seed)
    return Difference(
        difference,
        low,
        high,
        level,
        (a.doubtful_share, b.doubtful_share),
        (a.shortfall, b.shortfall),
    )


def check_finite(estimate: Estimate, name: str) -> None:
    """Check that the value of each example is finite, so that their mean is meaningful.

    Raises:
        DataError: naming the estimate, the first faulty example, and the remedy.
    """
    faulty = (~estimate.per_example.isfinite()).nonzero().flatten()
    if not len(faulty):
        return
    row = int(faulty[0])
    raise DataError(
        f"{name} is {float(estimate.per_example[row]):g} at row {row} (counted from 0; "
        f"{len(faulty):,} such of {len(estimate.per_example):,} examples), so a mean difference "
        "is meaningless. Take more samples; if the density of the example is zero under the model, "
        "leave it out of both estimates"
    )
