"""The estimator ``VAEOutlierDetector``."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import OutlierMixin
from sklearn.utils._param_validation import Interval

from lowerbound.data.columns import Floats
from lowerbound.sklearn.fitting import TableEstimator


class VAEOutlierDetector(OutlierMixin, TableEstimator):  # type: ignore[misc]
    """Finds unusual rows of a table: those with a low log p(x) under an auto-encoder.

    A missing entry counts with the average log p of its draws, so that rows with and without
    missing entries can be compared.

    Args:
        latent: number of dimensions of z.
        contamination: the share of outliers in the training data, which sets the threshold.
        hidden: units of each hidden layer.
        layers: number of hidden layers of each network.
        samples: number K of draws of z for each row in the bound of the training.
        steps: number of optimiser steps. By default 100 epochs, between 300 and 4,000 steps.
        batch_size: number of rows in a step.
        learning_rate: learning rate of the optimiser Adam.
        columns: types of some columns by name.
        missing_values: a value, or several, that stand for missing ones, in addition to NaN and
            empty ones.
        unknown: what becomes of a category that the training data do not have: ``"error"``, or
            ``"other"`` for the category of all others.
        score_samples_draws: number of draws of z for each row by which log p(x) is estimated.
        warm_start: whether ``fit`` continues from the last result, with the same columns.
        random_state: seed of the initial weights and of the training.
        verbose: whether to show the progress.

    Attributes:
        offset_: the threshold of log p(x), in nats.
        model_: the :class:`lowerbound.TableModel`.
        schema_: its columns.
        n_features_in_: the number of columns of the training data.
        feature_names_in_: their names, if the data had names.
        n_iter_: the number of steps.

    Example:
        >>> import numpy as np
        >>> from lowerbound.sklearn import VAEOutlierDetector
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> detector = VAEOutlierDetector(steps=300, random_state=0).fit(X)
        >>> detector.predict([[0.0, 0.0], [50.0, 50.0]]).tolist()
        [1, -1]
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableEstimator._parameter_constraints,
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
        "score_samples_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        latent: int = 5,
        *,
        contamination: float = 0.1,
        hidden: int = 64,
        layers: int = 2,
        samples: int = 10,
        steps: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 0.003,
        columns: Any = None,
        missing_values: Any = None,
        unknown: str = "error",
        score_samples_draws: int = 100,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int | bool = 0,
    ) -> None:
        super().__init__(
            latent,
            hidden=hidden,
            layers=layers,
            samples=samples,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            columns=columns,
            missing_values=missing_values,
            unknown=unknown,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.contamination = contamination
        self.score_samples_draws = score_samples_draws

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the auto-encoder, and find the threshold.

        Args:
            X: an array ``[rows, columns]`` or a DataFrame.
            y: ignored.
            sample_weight: how much each row counts, ``[rows]``.
        """
        fitted = self._fit_model(X, sample_weight)
        scores = self._score_completed(fitted.examples, self.score_samples_draws)
        scores = scores.repeat(fitted.repetitions)
        self.offset_ = float(np.quantile(scores, self.contamination))
        return self

    def score_samples(self, X: Any) -> Floats:
        """log p(x) of each row, in nats, ``[rows]``; the same numbers at every call.

        Impossible numbers count as in :meth:`lowerbound.sklearn.VAE.score_samples`.
        """
        examples, added = self._get_scored_examples(X)
        return self._score_completed(examples, self.score_samples_draws) + added

    def decision_function(self, X: Any) -> Floats:
        """log p(x) less the threshold: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """-1 for outliers, and 1 for other rows."""
        return np.where(self.decision_function(X) < 0, -1, 1)
