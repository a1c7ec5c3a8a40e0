"""Scores of disentanglement, from codes and the factors that made the data.

Shapes: N examples, J units of a code, F factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.errors import DataError

Array = NDArray[Any]

# A numeric factor with more distinct values than this, or than this share of the examples, is
# divided into bins of equal width.
_MOST_VALUES, _LARGEST_SHARE = 100, 0.25

# For each vote of the FactorVAE score: the number of examples that share the value of a factor.
_EXAMPLES_OF_A_VOTE = 64
_TRAINING_VOTES, _TEST_VOTES = 2000, 1000


@dataclass(frozen=True, eq=False)
class Factor:
    """A factor of variation.

    Args:
        name: its name.
        values: its value for each example, ``[N]``: integers are categories, floats are numeric.
        levels: the values as integers from 0, ``[N]``, with numeric values in bins if necessary.
    """

    name: str
    values: Array
    levels: Array

    @classmethod
    def of(cls, name: str, values: Array, bins: int) -> Factor:
        """Find the levels of a factor.

        Raises:
            DataError: if all examples have the same value, or most categories occur only once,
                naming the factor.
        """
        distinct, levels = np.unique(values, return_inverse=True)
        if len(distinct) < 2:
            raise DataError(
                f"disentanglement: the factor {name!r} has the same value for all examples; leave "
                "it out of factors="
            )
        if values.dtype.kind == "f":
            if len(distinct) > min(_MOST_VALUES, _LARGEST_SHARE * len(values)):
                levels = divide_into_bins(values[:, None], bins)[:, 0]
        elif len(distinct) > 0.5 * len(values):
            raise DataError(
                f"disentanglement: the factor {name!r} has {len(distinct)} categories for "
                f"{len(values)} examples; give more examples, or a numeric factor as "
                "floating-point values"
            )
        return cls(name, values, levels)

    @property
    def is_numeric(self) -> bool:
        """Whether values are numeric, rather than categories."""
        return self.values.dtype.kind == "f"


def divide_into_bins(codes: Array, bins: int) -> Array:
    """Divide the range of each unit into bins of equal width, ``[N, J]``.

    Example:
        >>> divide_into_bins(np.array([[0.0, 7.0], [0.4, 7.0], [1.0, 7.0]]), bins=2).tolist()
        [[0, 0], [0, 0], [1, 0]]
    """
    low = codes.min(0)
    width = codes.max(0) - low
    share = (codes - low) / np.where(width > 0, width, 1)
    divided: Array = np.minimum((share * bins).astype(np.int64), bins - 1)
    return divided


def compute_information(codes: Array, factors: list[Factor], bins: int) -> Array:
    """The mutual information of each unit and each factor, ``[J, F]``, in nats.

    It is that of the empirical distribution, with units in ``bins`` bins of equal width.
    """
    divided = divide_into_bins(codes, bins)
    return np.array(
        [[_measure_information(unit, factor.levels) for factor in factors] for unit in divided.T]
    )


def _measure_information(first: Array, second: Array) -> float:
    counts = np.zeros((first.max() + 1, second.max() + 1))
    np.add.at(counts, (first, second), 1)
    joint = counts / counts.sum()
    return _measure_entropy(joint.sum(0)) + _measure_entropy(joint.sum(1)) - _measure_entropy(joint)


def _measure_entropy(shares: Array) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


def compute_gaps(scores: Array) -> Array:
    """By how much the best unit of each factor exceeds the second best, ``[F]``, from ``[J, F]``.

    Example:
        >>> compute_gaps(np.array([[0.9, 0.5], [0.2, 0.5]])).tolist()
        [0.7, 0.0]
    """
    padded = np.sort(np.vstack([np.zeros_like(scores[0]), scores]), axis=0)
    gaps: Array = padded[-1] - padded[-2]
    return gaps


def compute_mig(information: Array, factors: list[Factor]) -> Array:
    """The mutual information gap of each factor, as a share of its entropy, ``[F]``."""
    entropies = [_measure_entropy(np.bincount(f.levels) / len(f.levels)) for f in factors]
    gaps: Array = compute_gaps(information) / np.array(entropies)
    return gaps


def compute_modularity(information: Array) -> float:
    """How nearly each unit has information about one factor only, averaged over units.

    A unit without information about any factor counts as 0.

    Example:
        >>> compute_modularity(np.array([[1.0, 0.0], [0.0, 2.0]]))
        1.0
    """
    squares = information**2
    best = squares.max(1)
    others = squares.sum(1) - best
    scale = best * (squares.shape[1] - 1)
    informed = best > 0
    scores = np.where(informed, 1 - others / np.where(informed, scale, 1), 0.0)
    return float(scores.mean())


def compute_sap(
    train: Array, test: Array, factors: list[Factor], split: tuple[Array, Array]
) -> Array:
    """How well each unit alone predicts each factor, ``[J, F]``.

    It is the squared correlation for a numeric factor. For categories, thresholds are placed on the
    unit, and the score is the balanced accuracy on test data.
    """
    from sklearn.metrics import recall_score
    from sklearn.tree import DecisionTreeClassifier

    scores = np.zeros((train.shape[1], len(factors)))
    for column, factor in enumerate(factors):
        values, test_values = (factor.values[rows] for rows in split)
        for unit in range(train.shape[1]):
            if factor.is_numeric:
                scores[unit, column] = _correlate(train[:, unit], values) ** 2
                continue
            thresholds = DecisionTreeClassifier(
                max_leaf_nodes=len(np.unique(values)), class_weight="balanced", random_state=0
            )
            predicted = thresholds.fit(train[:, [unit]], values).predict(test[:, [unit]])
            known = np.unique(test_values)
            scores[unit, column] = recall_score(
                test_values, predicted, labels=known, average="macro", zero_division=0
            )
    return scores


def _correlate(first: Array, second: Array) -> float:
    """The correlation of two variables; 0 if one of them is constant."""
    if first.max() == first.min() or second.max() == second.min():
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def compute_importance(
    train: Array, test: Array, factors: list[Factor], split: tuple[Array, Array]
) -> tuple[Array, Array]:
    """The importance of each unit for predicting each factor by gradient boosting.

    Returns:
        The importances, ``[J, F]``, and how well test data are predicted, ``[F]``: the accuracy for
        categories, and the coefficient of determination for a numeric factor.
    """
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor

    importance, quality = [], []
    for factor in factors:
        make = GradientBoostingClassifier
        if factor.is_numeric:
            make = GradientBoostingRegressor
        boosted = make(random_state=0).fit(train, factor.values[split[0]])
        importance.append(np.abs(boosted.feature_importances_))
        quality.append(boosted.score(test, factor.values[split[1]]))
    return np.array(importance).T, np.array(quality)


def compute_disentanglement(importance: Array) -> float:
    """How nearly each unit is important for one factor only, weighted by its importance.

    Args:
        importance: ``[J, F]``.

    Example:
        >>> compute_disentanglement(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
        1.0
    """
    weights = importance.sum(1)
    if not weights.sum():
        return 0.0
    return float((_concentrate(importance) * weights / weights.sum()).sum())


def compute_completeness(importance: Array) -> float:
    """How nearly one unit alone is important for each factor, weighted by its importance."""
    return compute_disentanglement(importance.T)


def _concentrate(weights: Array) -> Array:
    """1 less the entropy of each row's shares in its largest possible entropy, ``[rows]``."""
    totals = weights.sum(1, keepdims=True)
    shares = weights / np.where(totals > 0, totals, 1)
    entropies = np.array([_measure_entropy(row) for row in shares])
    if weights.shape[1] == 1:
        return np.ones(len(weights))
    concentration: Array = 1 - entropies / np.log(weights.shape[1])
    return concentration


def compute_factor_vae_score(codes: Array, factors: list[Factor], seed: int) -> float:
    """How often the unit that varies least among examples with a common factor reveals the factor.

    For each vote a factor and one of its values are chosen, and the unit whose variance over
    examples of that value is the smallest share of its variance over all examples. A majority vote
    for each unit is learned, and its accuracy on other votes is the score. Units that never vary
    are left out; without any other the score is 0.
    """
    variances = codes.var(0)
    varying = codes[:, variances > 0] / np.sqrt(variances[variances > 0])
    if not varying.shape[1]:
        return 0.0
    random = np.random.default_rng(seed)
    members = [_find_members(factor) for factor in factors]
    counts = []
    for votes in (_TRAINING_VOTES, _TEST_VOTES):
        table = np.zeros((len(factors), varying.shape[1]))
        chosen = random.integers(len(factors), size=votes)
        for number, rows_by_example in enumerate(members):
            for example in random.integers(len(rows_by_example), size=(chosen == number).sum()):
                rows = rows_by_example[example]
                batch = rows[random.integers(len(rows), size=_EXAMPLES_OF_A_VOTE)]
                table[number, varying[batch].var(0).argmin()] += 1
        counts.append(table)
    learned, tested = counts
    return float(tested[learned.argmax(0), np.arange(varying.shape[1])].sum() / tested.sum())


def _find_members(factor: Factor) -> list[Array]:
    """For each example with others of the same level: the rows of that level, as many times."""
    order = np.argsort(factor.levels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(factor.levels[order])) + 1)
    return [group for group in groups if len(group) > 1 for _ in group]


def compute_all_scores(
    codes: Array, factors: Mapping[str, Array], *, bins: int, seed: int
) -> dict[str, Any]:
    """All scores, as arguments of :class:`~lowerbound.evaluation.Disentanglement`."""
    found = [Factor.of(name, values, bins) for name, values in factors.items()]
    order = np.random.default_rng(seed).permutation(len(codes))
    split = (order[len(order) // 2 :], order[: len(order) // 2])
    train, test = (codes[rows] for rows in split)
    for factor in found:
        if len(np.unique(factor.values[split[0]])) < 2:
            raise DataError(
                f"disentanglement: nearly all examples have the same value of {factor.name!r}; "
                "give more examples, or leave it out of factors="
            )
    information = compute_information(codes, found, bins)
    importance, quality = compute_importance(train, test, found, split)
    by_factor = {
        "mig": compute_mig(information, found),
        "sap": compute_gaps(compute_sap(train, test, found, split)),
        "informativeness": quality,
    }
    return {
        **{name: float(scores.mean()) for name, scores in by_factor.items()},
        "disentanglement": compute_disentanglement(importance),
        "completeness": compute_completeness(importance),
        "factor_vae": compute_factor_vae_score(codes, found, seed),
        "modularity": compute_modularity(information),
        "by_factor": {
            factor.name: {name: float(scores[column]) for name, scores in by_factor.items()}
            for column, factor in enumerate(found)
        },
    }
