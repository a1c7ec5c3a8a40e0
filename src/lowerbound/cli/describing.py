"""The data of a training, on one line."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Examples


def describe_examples(train: "Examples", validation: "Examples | None", dataset: "Dataset") -> str:
    """Describe the data of a training run on one line."""
    from lowerbound.data.rows import Rows

    held_out = 0 if validation is None else len(validation)
    test = len(dataset.test) if dataset.has_test else 0
    parts = f"{len(train):,} training, {held_out:,} validation and {test:,} test"
    if dataset.schema is not None:
        return f"{parts} rows of {dataset.schema.summary}"
    size = " x ".join(str(side) for side in train.shape)
    if train.levels:
        values = f"{train.levels} levels"
    elif isinstance(train.values, Rows):
        # To find the range of the values, the whole file would have to be read again.
        values = str(train.values.dtype).removeprefix("torch.")
    else:
        values = f"values in [{train.values.min():.4g}, {train.values.max():.4g}]"
    if train.pixels != "as-is":
        values += f", pixels {train.pixels}"
    if train.labels is not None:
        values += f", {len(train.labels[train.labels >= 0].unique())} classes"
    return f"{parts} examples of {size}, {values}"
