"""The estimators ``VAE`` and ``VAEImputer``."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, ClassVar, Literal, Self

import narwhals as nw
import numpy as np
import torch
from sklearn.base import (
    ClassNamePrefixFeaturesOutMixin,
    OneToOneFeatureMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_array, check_is_fitted

from lowerbound.data.columns import Floats
from lowerbound.data.frames import convert_to_polars, is_frame
from lowerbound.data.schema import decode_columns, make_table
from lowerbound.errors import DoubtfulEstimateWarning
from lowerbound.evaluation.imputing import describe_unfilled, find_unfilled, impute_examples
from lowerbound.sklearn.fitting import TableEstimator


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, TableEstimator):  # type: ignore[misc]
    """Embeddings, scores and samples of a table by a variational auto-encoder.

    Columns may be numbers, categories, truth values and times, on any scale, and entries may be
    missing. The types of the columns are inferred, see :func:`lowerbound.load_data`; those of an
    array are numbers.

    Args:
        latent: number of dimensions of the embedding.
        hidden: units of each hidden layer.
        layers: number of hidden layers of each network.
        samples: number K of draws of z for each row in the bound of the training.
        steps: number of optimiser steps. By default 100 epochs, between 300 and 4,000 steps.
        batch_size: number of rows in a step.
        learning_rate: learning rate of the optimiser Adam.
        columns: types of some columns by name, such as ``{"age": "count"}``.
        missing_values: a value, or several, that stand for missing ones, in addition to NaN and
            empty ones.
        unknown: what becomes of a category that the training data do not have: ``"error"``, or
            ``"other"`` for the category of all others.
        score_samples_draws: number of draws of z for each row by which log p(x) is estimated.
        warm_start: whether ``fit`` continues from the last result, with the same columns.
        random_state: seed of the initial weights and of the training.
        verbose: whether to show the progress.

    Attributes:
        model_: the :class:`lowerbound.TableModel`.
        schema_: its columns.
        n_features_in_: the number of columns of the training data.
        feature_names_in_: their names, if the data had names.
        n_iter_: the number of steps.

    Source: Kingma & Welling 2013; Mattei & Frellsen 2019.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from lowerbound.sklearn import VAE
        >>> X = load_wine().data
        >>> vae = VAE(latent=2, steps=20, random_state=0).fit(X)
        >>> vae.transform(X).shape, vae.score_samples(X).shape, vae.sample(3).shape
        ((178, 2), (178,), (3, 13))
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableEstimator._parameter_constraints,
        "score_samples_draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        latent: int = 5,
        *,
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
        self.score_samples_draws = score_samples_draws

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the auto-encoder to a table.

        Args:
            X: an array ``[rows, columns]`` or a DataFrame.
            y: ignored.
            sample_weight: how much each row counts, ``[rows]``.
        """
        self._fit_model(X, sample_weight)
        return self

    def transform(self, X: Any) -> Floats:
        """The mean of q(z|x) of each row, ``[rows, latent]``: the embedding."""
        examples = self._get_examples(X)
        points: Any = self.model_.encode(examples)
        embedding: Floats = points.numpy()
        return embedding

    def inverse_transform(self, X: Any) -> Any:
        """Rows whose embedding these are: the natural points of p(x|z)."""
        check_is_fitted(self)
        z = check_array(X, input_name="X")
        if z.shape[1] != self._n_features_out:
            raise ValueError(
                f"X has {z.shape[1]} features, but the embedding has {self._n_features_out}"
            )
        # A copy, because the values of a DataFrame may not be written to.
        values = self.model_.decode(torch.from_numpy(np.array(z, dtype=float)))
        return make_table(decode_columns(values, self.schema_), self.schema_)

    def score_samples(self, X: Any) -> Floats:
        """log p(x) of each row, in nats, ``[rows]``; the same numbers at every call.

        Of a row with missing entries it is that of the others. It is estimated by importance
        sampling, see :func:`lowerbound.log_likelihood`.

        A number that is impossible according to the training data, such as a new one in an ordinal
        column or a negative one in a positive column, is replaced by the nearest possible number.
        The score of its row is then lower by log(N + 1) + 2 log(1 + d / r), where N is the number
        of training rows, d the distance to the nearest possible number, and r the range of the
        column in the training data. So all scores are finite.
        """
        examples, added = self._get_scored_examples(X)
        return self._score(examples, self.score_samples_draws) + added

    def score(self, X: Any, y: Any = None) -> float:
        """The average of :meth:`score_samples`: larger is better."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """Draw rows from the model."""
        check_is_fitted(self)
        random = check_random_state(self.random_state if random_state is None else random_state)
        return self.model_.sample(n_samples, seed=int(random.randint(2**31 - 1)))

    @property
    def _n_features_out(self) -> int:
        latent: int = self._arguments["latent"]
        return latent


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, TableEstimator):  # type: ignore[misc]
    """Fills in the missing entries of a table by a variational auto-encoder.

    See :func:`lowerbound.impute`. Entries that are observed do not change.

    Args:
        latent: number of dimensions of z.
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
        point: ``"auto"``, ``"mean"``, ``"median"`` or ``"mode"``, see :func:`lowerbound.impute`.
        draws: number of draws of z for each row by which entries are imputed.
        warm_start: whether ``fit`` continues from the last result, with the same columns.
        random_state: seed of the initial weights and of the training.
        verbose: whether to show the progress.

    Attributes:
        model_: the :class:`lowerbound.TableModel`.
        schema_: its columns.
        n_features_in_: the number of columns of the training data.
        feature_names_in_: their names, if the data had names.
        n_iter_: the number of steps.

    Source: Mattei & Frellsen 2019, "MIWAE".

    Example:
        >>> import numpy as np
        >>> from lowerbound.sklearn import VAEImputer
        >>> X = np.random.default_rng(0).normal(size=(50, 3))
        >>> X[::7, 1] = np.nan
        >>> bool(np.isnan(VAEImputer(steps=20, random_state=0).fit_transform(X)).any())
        False
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableEstimator._parameter_constraints,
        "point": [StrOptions({"auto", "mean", "median", "mode"})],
        "draws": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        latent: int = 5,
        *,
        hidden: int = 64,
        layers: int = 2,
        samples: int = 10,
        steps: int | None = None,
        batch_size: int = 64,
        learning_rate: float = 0.003,
        columns: Any = None,
        missing_values: Any = None,
        unknown: str = "error",
        point: Literal["auto", "mean", "median", "mode"] = "auto",
        draws: int = 200,
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
        self.point = point
        self.draws = draws

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the auto-encoder to a table, which may have missing entries.

        Args:
            X: an array ``[rows, columns]`` or a DataFrame.
            y: ignored.
            sample_weight: how much each row counts, ``[rows]``.

        Warns:
            UserWarning: if missing entries stay missing, because their columns are left out.
        """
        self._fit_model(X, sample_weight)
        unfilled = find_unfilled(self._check_input(X, reset=False), self.schema_)
        if unfilled:
            message = f"VAEImputer: {describe_unfilled(unfilled)}"
            warnings.warn(message, UserWarning, stacklevel=2)
        return self

    def transform(self, X: Any) -> Any:
        """The table with its missing entries filled in."""
        checked = self._check_input(X, reset=False)
        examples = self._make_examples(checked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DoubtfulEstimateWarning)
            found = impute_examples(
                self.model_, checked, examples, samples=self.draws, point=self.point
            )
        wanted = _get_output_config("transform", self)["dense"]
        if is_frame(found.table) and wanted == "pandas":
            return nw.from_native(found.table, eager_only=True).to_pandas()
        if is_frame(found.table) and wanted == "polars":
            return convert_to_polars(found.table, self.schema_)
        return found.table
