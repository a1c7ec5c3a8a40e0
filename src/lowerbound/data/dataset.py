"""Examples in two parts, one for training and one for testing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.data.options import Pixels
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.rows import Rows, Values


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training part and a test part, whose examples are of the same kind.

    Example:
        >>> from lowerbound.data import load_data
        >>> digits = load_data("digits")
        >>> digits.shape, len(digits.train), len(digits.test)
        ((1, 8, 8), 1617, 180)
    """

    train: Examples
    test: Examples
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.train.shape

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How the examples were made from raw data; ``None`` if it is not known."""
        return self.train.preprocessing

    def __repr__(self) -> str:
        size = " x ".join(str(side) for side in self.shape)
        return f"Dataset({self.name}: {len(self.train):,} train, {len(self.test):,} test, {size})"

    def prepare(self, pixels: Pixels, *, seed: int = 0) -> Dataset:
        """Make a data set with another treatment of pixels, see :class:`Examples`.

        ``"as-is"`` changes nothing.
        """
        if pixels == "as-is":
            return self
        return replace(
            self,
            train=self.train.prepare(pixels, seed=seed),
            test=self.test.prepare(pixels, seed=seed + 1),
        )

    def all(self) -> Examples:
        """Join both parts.

        If the parts come from a random split, the examples are in the order of their source;
        otherwise the training part comes first.
        """
        train, test = self.train, self.test
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
