"""Examples in two parts, one for training and one for testing."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lowerbound.data.columns import Schema
from lowerbound.data.examples import Examples
from lowerbound.data.options import Pixels
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.rows import Rows, Values
from lowerbound.errors import DataError


class Dataset:
    """A training part and a test part, whose examples are of the same kind.

    A few examples may have no test part: then ``has_test`` is false.

    Args:
        train: the examples to train on.
        test: the examples to test with, or ``None``.
        name: the name of the data in messages.

    Example:
        >>> from lowerbound.data import load_data
        >>> digits = load_data("digits")
        >>> digits.shape, len(digits.train), len(digits.test)
        ((1, 8, 8), 1617, 180)
    """

    def __init__(self, train: Examples, test: Examples | None, name: str) -> None:
        self.train = train
        self.name = name
        self._test = test

    @property
    def has_test(self) -> bool:
        """Whether there is a test part."""
        return self._test is not None

    @property
    def test(self) -> Examples:
        """The examples of the test part.

        Raises:
            DataError: if there is none.
        """
        if self._test is None:
            count = len(self.train)
            raise DataError(
                f"{self.name}: there is no test part, only {count} training "
                f"example{'s' * (count != 1)}; use .train (--split train), or set a larger "
                "test_fraction (--test-fraction 0.5)"
            )
        return self._test

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.shape

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the examples were made from raw data; ``None`` if it is not known."""
        return self.train.preprocessing

    @property
    def schema(self) -> Schema | None:
        """The columns of a table; ``None`` for other data."""
        return getattr(self.preprocessing, "schema", None)

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.shape)
        if self.schema is not None:
            size = self.schema.summary
        test = "no test part"
        if self.has_test:
            test = f"{len(self.test):,} test"
        return f"Dataset({self.name}: {len(self.train):,} train, {test}, {size})"

    def prepare(self, pixels: Pixels, *, seed: int = 0) -> Dataset:
        """Make a data set with another treatment of pixels, see :class:`Examples`.

        ``"as-is"`` changes nothing.
        """
        if pixels == "as-is":
            return self
        test = self._test
        if test is not None:
            test = test.prepare(pixels, seed=seed + 1)
        return Dataset(self.train.prepare(pixels, seed=seed), test, self.name)

    def all(self) -> Examples:
        """Join both parts.

        If the parts come from a random split, the examples are in the order of their source;
        otherwise the training part comes first.
        """
        if self._test is None:
            return replace(self.train, rows=None)
        train, test = self.train, self._test
        labels: Tensor | None = None
        if train.labels is not None and test.labels is not None:
            labels = torch.cat([train.labels, test.labels])
        files: tuple[str, ...] | None = None
        if train.files is not None and test.files is not None:
            files = train.files + test.files
        whole = replace(
            train,
            values=_join(train.values, test.values),
            labels=labels,
            rows=None,
            files=files,
            fields={
                name: torch.cat([field, test.fields[name]])
                for name, field in train.fields.items()
                if name in test.fields
            },
        )
        if train.rows is None or test.rows is None:
            return whole
        return replace(whole.subset(torch.cat([train.rows, test.rows]).argsort()), rows=None)


def _join(first: Values, second: Values) -> Values:
    if isinstance(first, Rows) and type(first) is type(second):
        return first.joined(second)
    return torch.cat([first.to("cpu"), second.to("cpu")])


Parts = Examples | tuple[Examples, Examples]
"""The content of a source: one set of examples, or a training and a test part."""
