"""What the estimators share: their parameters, and how a model of a table is fitted."""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, MissingValues, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import lowerbound as lb
from lowerbound.data.columns import Floats, Schema
from lowerbound.data.fields import OBSERVED, WEIGHT
from lowerbound.data.frames import has_names, is_frame, open_table, take_rows
from lowerbound.data.inference import infer_schema
from lowerbound.data.oversights import warn_of_identifiers, warn_of_oversights
from lowerbound.data.raw_values import clean_marks, read_marks
from lowerbound.data.schema import decode_columns, encode_columns, make_table_examples
from lowerbound.errors import DoubtfulEstimateWarning
from lowerbound.evaluation.imputing import find_observed_columns
from lowerbound.models.table import TableModel, complete_rows
from lowerbound.recipes import find_recipe
from lowerbound.runtime.noise import derived_seed
from lowerbound.sklearn.impossible import Impossible, replace_impossible

# The limits of the number of steps, if it is not given.
_STEPS = 300, 4000
_EPOCHS = 100

# Weights that are not whole numbers are represented by about this many repetitions of a row, and by
# at most this many rows.
_FINENESS = 20
_MOST_ROWS = 1_000_000

# The number of draws of a row's missing entries for its score, and of rows drawn at once.
_COMPLETIONS, _ROWS = 10, 10_000

Array = NDArray[Any]


class TableEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator with a variational auto-encoder of a table, see :class:`lowerbound.TableModel`.

    To write your own: subclass, list further parameters in the constructor and in
    ``_parameter_constraints``, and use :meth:`_get_examples` and ``self.model_``.
    """

    model_: TableModel
    schema_: Schema
    _arguments: dict[str, Any]
    _fitted_rows: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "latent": [Interval(Integral, 1, None, closed="left")],
        "hidden": [Interval(Integral, 1, None, closed="left")],
        "layers": [Interval(Integral, 1, None, closed="left")],
        "samples": [Interval(Integral, 1, None, closed="left")],
        "steps": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "columns": [dict, None],
        "missing_values": ["array-like", Real, str, MissingValues()],
        "unknown": [StrOptions({"error", "other"})],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
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
        columns: Mapping[str, str] | None = None,
        missing_values: Any = None,
        unknown: str = "error",
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int | bool = 0,
    ) -> None:
        self.latent = latent
        self.hidden = hidden
        self.layers = layers
        self.samples = samples
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.columns = columns
        self.missing_values = missing_values
        self.unknown = unknown
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    def _check_input(self, X: Any, *, reset: bool, fewest: int = 1) -> Any:
        """Check a table of at least ``fewest`` rows, and remember or compare its columns' names.

        A frame whose columns have no names in text is an array.
        """
        if not reset:
            check_is_fitted(self)
        if isinstance(X, str | os.PathLike):
            raise TypeError(
                f"X={os.fspath(X)!r} is a path; give a DataFrame or an array, such as "
                f"pandas.read_csv({os.fspath(X)!r})"
            )
        takes_names = reset or self.schema_.library is not None
        if takes_names and is_frame(X) and has_names(X):
            if len(X):
                open_table(X, "X")  # refuses columns of the same name
            validate_data(self, X, reset=reset, skip_check_array=True)
            if len(X) < fewest:
                raise ValueError(f"Found a table with {len(X)} rows; at least {fewest} are needed")
            return X
        try:
            checked = validate_data(
                self,
                X,
                reset=reset,
                dtype="numeric",
                ensure_all_finite="allow-nan",
                ensure_min_samples=fewest,
            )
        except ValueError as error:
            if "could not convert string to float" not in str(error):
                raise
            raise ValueError(
                f"X: {error}. An array has numbers only; give columns of text and categories in a "
                "DataFrame whose columns have text as names"
            ) from None
        return np.asarray(checked, dtype=float)

    def _fit_model(self, X: Any, sample_weight: Any = None) -> Fitted:
        """Fit the model of a table."""
        self._validate_params()
        warm = self.warm_start and hasattr(self, "model_")
        try:  # one row does not say how columns vary
            X = self._check_input(X, reset=not warm, fewest=2)
        except ValueError as error:
            if warm:
                error.add_note(
                    "warm_start=True continues the model that was fitted, with the same columns; "
                    "set warm_start=False to fit a new one"
                )
            raise
        weights = np.ones(len(X))
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, _Rows(len(X)), ensure_non_negative=True)
        are_repetitions = bool((weights == np.round(weights)).all())
        rows = weights.sum() if are_repetitions else np.count_nonzero(weights)
        X, weights = merge_rows(X, weights)
        repetitions = _count_repetitions(weights)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if not warm:
            self.schema_ = self._infer_schema(X, repetitions)
        examples = make_table_examples(X, self.schema_, name="X")
        if (weights != weights[0]).any():
            fields = {**examples.fields, WEIGHT: torch.from_numpy(weights)}
            examples = replace(examples, fields=fields)
        arguments = {
            name: getattr(self, name) for name in ("latent", "hidden", "layers", "samples")
        }
        types = {
            "columns": dict(self.columns or {}),
            "missing_values": clean_marks(read_marks(self.missing_values)),
            "unknown": self.unknown,
        }
        if warm and arguments | types != self._arguments:
            raise ValueError(
                f"warm_start=True continues the model that was fitted with {self._arguments}, and "
                f"not with {arguments | types}; set warm_start=False to fit a new one"
            )
        self._arguments = arguments | types
        made, objective = find_recipe("table").build(examples, arguments, seed=seed)
        model = cast(TableModel, self.model_.float() if warm else made)
        steps = self.steps or int(np.clip(_EPOCHS * len(X) / self.batch_size, *_STEPS))
        lb.fit(
            model,
            objective,
            examples,
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="cosine",
            ema=0.99,
            seed=seed,
            device="cpu",
            threads=1,
            compile="never",
            progress=bool(self.verbose),
        )
        # In double precision the results for a row do not depend on the rows beside it.
        self.model_ = model.double().eval()
        self.n_iter_ = steps
        self._fitted_rows = int(rows)
        return Fitted(_align_noise(examples), repetitions)

    def _infer_schema(self, X: Any, repetitions: NDArray[np.int64]) -> Schema:
        """Infer the types of the columns; a row counts as often as its weight says."""
        rows = np.repeat(np.arange(len(X)), repetitions)
        table = open_table(take_rows(X, rows), "X")
        settings: Any = {
            "placeholders": read_marks(self.missing_values),
            "unknown": self.unknown,
            "name": "X",
        }
        types: Any = dict(self.columns or {})
        schema = infer_schema(table, types=types, **settings)
        suspected = warn_of_oversights(table, settings["placeholders"], types, "X")
        if table.library is not None:
            warn_of_identifiers(schema, suspected | types.keys(), len(table), "X")
            return schema
        # Numbers that are all different are values in an array, which has no columns of text.
        different = [each.name for each in schema.columns if each.type == "identifier"]
        types |= {name: "real" for name in different if name not in types}
        return infer_schema(table, types=types, **settings)

    def _score(self, examples: lb.Examples, draws: int) -> Floats:
        """log p(x) of each example, in nats."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DoubtfulEstimateWarning)
            estimate = lb.log_likelihood(self.model_, examples, samples=draws, compile="never")
        scores: Floats = estimate.per_example.numpy()
        return scores

    def _score_completed(self, examples: lb.Examples, draws: int) -> Floats:
        """log p(x) of each example, averaged over draws of its missing entries.

        So rows with and without missing entries can be compared, whatever the units are.
        """
        incomplete = ~find_observed_columns(examples, self.schema_).all(1)
        scores = np.empty(len(examples))
        for some, score in ((~incomplete, self._score), (incomplete, self._average_scores)):
            for rows in some.nonzero().flatten().split(_ROWS):
                if len(rows):
                    scores[rows.numpy()] = score(examples.subset(rows), draws)
        return scores

    def _average_scores(self, examples: lb.Examples, draws: int) -> Floats:
        drawn = complete_rows(
            self.model_, examples, samples=draws, draws=_COMPLETIONS, seed=derived_seed(0, "scores")
        )
        total = np.zeros(len(examples))
        for numbers in torch.cat([values for values, _ in drawn], 1):
            columns = decode_columns(numbers, self.schema_)
            values, observed = encode_columns(columns, self.schema_)
            completed = replace(examples, values=values, fields={OBSERVED: observed})
            total += self._score(completed, draws)
        return total / _COMPLETIONS

    def _get_examples(self, X: Any) -> lb.Examples:
        """The rows of a table as examples, which all have the same noise.

        So the results for a row do not depend on its position.
        """
        return self._make_examples(self._check_input(X, reset=False))

    def _make_examples(self, checked: Any) -> lb.Examples:
        examples, impossible = self._read_rows(checked)
        if impossible.first:
            warnings.warn(f"X: {impossible.describe()}", UserWarning, stacklevel=4)
        return examples

    def _get_scored_examples(self, X: Any) -> tuple[lb.Examples, Floats]:
        """The rows of a table, and what to add to the score of each for its impossible values.

        Each is an event of probability 1 / (N + 1), because it was not seen in N rows, and the
        density falls with the square of the distance from what is possible.
        """
        examples, impossible = self._read_rows(self._check_input(X, reset=False))
        if not impossible.first:
            return examples, impossible.log_tails
        return examples, impossible.log_tails - impossible.counts * math.log(self._fitted_rows + 1)

    def _read_rows(self, checked: Any) -> tuple[lb.Examples, Impossible]:
        table, impossible = replace_impossible(open_table(checked, "X"), self.schema_)
        return _align_noise(make_table_examples(table, self.schema_, name="X")), impossible

    def __getstate__(self) -> dict[str, Any]:
        """The state without the model, whose file is part of it instead."""
        state = dict(super().__getstate__())
        model = state.pop("model_", None)
        if model is not None:
            state["_model_file"] = _write_model(model)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        file = state.pop("_model_file", None)
        super().__setstate__(state)
        if file is not None:
            self.model_ = _read_model(file)

    def __sklearn_tags__(self) -> Any:
        """Missing values, text and categories are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a model was fitted to.

    Args:
        examples: the rows, each once.
        repetitions: how often each counts.
    """

    examples: lb.Examples
    repetitions: NDArray[np.int64]


def _align_noise(examples: lb.Examples) -> lb.Examples:
    """Give all rows the same noise."""
    return replace(examples, rows=torch.zeros(len(examples), dtype=torch.int64))


def merge_rows(X: Any, weights: Floats) -> tuple[Any, Floats]:
    """Merge the equal rows of an array, and sort them; rows with the weight 0 are left out.

    So a row that occurs twice is a row with the weight 2, whatever the order of the rows is. The
    rows of a frame are not merged.
    """
    X, weights = take_rows(X, np.flatnonzero(weights > 0)), weights[weights > 0]
    if not len(weights):
        raise ValueError("all sample weights are zero; give at least one row a positive weight")
    if is_frame(X):
        return X, weights
    # Equal numbers have equal bits, after -0.0 and the different kinds of NaN are made alike.
    bits = np.where(np.isnan(X), np.nan, X + 0.0).view(np.int64)
    _, first, place = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    merged: Floats = np.bincount(place.ravel(), weights).astype(float)
    return X[first], merged


def _count_repetitions(weights: Floats) -> NDArray[np.int64]:
    """How often each row counts: its weight if all are whole numbers, or else about that often."""
    if (weights == np.round(weights)).all() and weights.sum() <= max(_MOST_ROWS, len(weights)):
        return np.asarray(weights, dtype=np.int64)
    shares = weights / weights.sum() * min(_FINENESS * len(weights), max(_MOST_ROWS, len(weights)))
    return np.asarray(np.maximum(1, np.round(shares)), dtype=np.int64)


class _Rows:
    """The number of rows of a table, as scikit-learn's checks of weights ask for it."""

    def __init__(self, count: int) -> None:
        self.shape = (count, 1)
        self.dtype = np.dtype(float)

    def __len__(self) -> int:
        return self.shape[0]


def _write_model(model: TableModel) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return lb.save(model, Path(folder) / "model.safetensors").read_bytes()


def _read_model(content: bytes) -> TableModel:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(content)
        model: TableModel = lb.load(path)
    return model.double().eval()
