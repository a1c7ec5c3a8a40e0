"""What the commands share: opening a run, its data and its objective, and saying an estimate."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from lowerbound.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Examples
    from lowerbound.evaluation import Estimate
    from lowerbound.objectives import Objective

Split = Literal["train", "test", "all"]


def section(config: Mapping[str, Any], name: str, file: Path | str = "the run's config.yaml") -> dict[str, Any]:
    """A copy of one mapping of a configuration.

    Raises:
        StorageError: if it is missing, or not a mapping.
    """
    entry = config.get(name)
    if not isinstance(entry, dict):
        found = "has no section" if name not in config else f"has {entry!r} for the section"
        raise StorageError(f"{file}: {found} {name!r}; restore the file as it was written")
    return dict(entry)


def load_for_run(config: dict[str, Any]) -> "Dataset":
    """The data that a configuration names.

    Raises:
        SettingsError: if it names none.
    """
    from lowerbound.data import load_data

    source, settings = _data_of(config, None)
    return load_data(source, **settings)


def examples_of(config: dict[str, Any], source: str | None, split: Split) -> "Examples":
    """One part of a run's data, or all of it in the order of its source; or of another source, prepared in the same way."""
    from lowerbound.data import load_data
    from lowerbound.data.reading import read_all

    named, settings = _data_of(config, source)
    return read_all(named, **settings) if split == "all" else getattr(load_data(named, **settings), split)


def _data_of(config: dict[str, Any], source: str | None) -> tuple[str, dict[str, Any]]:
    from lowerbound.data import load_data
    from lowerbound.settings import checked

    data = section(config, "data") if config.get("data") else {}
    named = data.pop("source", None)
    if source is None and named is None:
        raise SettingsError("the run was made in Python and records no data by name; say which: --data NAME|PATH")
    return source or named, checked(load_data, data, name="data")


def open_run(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The model and the configuration of a run.

    Raises:
        StorageError: if there is no run.
    """
    from lowerbound.training import load
    from lowerbound.training.record import RunDirectory

    if not directory.is_dir():
        raise StorageError(f"{directory}: there is no such directory; give the --out of a lowerbound train")
    return load(directory), RunDirectory(directory).read_config()


def objective_of(config: dict[str, Any], samples: int | None) -> "Objective":
    """The objective that a run was trained with, perhaps with another number of samples."""
    from lowerbound import objectives  # also registers what a configuration can name
    from lowerbound.describe import build

    described = section(config, "objective")
    objective: Any = build(described)
    if not isinstance(objective, objectives.Objective):
        raise StorageError(f"the run's config.yaml: {described!r} is no objective; restore the file as it was written")
    return objective if samples is None else dataclasses.replace(cast(Any, objective), samples=samples)


def describe_examples(train: "Examples", validation: "Examples | None", test: "Examples") -> str:
    """What is about to be trained on, on one line."""
    held_out = 0 if validation is None else len(validation)
    size = " x ".join(str(side) for side in train.shape)
    values = (
        f"{train.levels} levels" if train.levels else f"values in [{train.values.min():.4g}, {train.values.max():.4g}]"
    )
    pixels = "" if train.pixels == "as-is" else f", pixels {train.pixels}"
    classes = "" if train.labels is None else f", {len(train.labels.unique())} classes"
    return (
        f"{len(train):,} training, {held_out:,} validation and {len(test):,} test examples of {size}, "
        f"{values}{pixels}{classes}"
    )


def describe_estimate(estimate: "Estimate", part: str) -> str:
    """The bound with its terms and standard errors, on one line."""
    bits = "" if estimate.bits_per_dimension is None else f", {estimate.bits_per_dimension:.4f} bits per dimension"
    terms = ", ".join(f"{name} {_figure(term)}" for name, term in estimate.terms.items())
    count = len(estimate.per_example)
    examples = f"{count:,} examples" if count > 1 else "1 example, which has no standard error"
    return f"{part} bound {_figure(estimate)} nats per example ({terms}; {examples}{bits})"


def _figure(estimate: "Estimate") -> str:
    error = "" if math.isnan(estimate.standard_error) else f" ± {estimate.standard_error:.2f}"
    return f"{estimate.mean:.2f}{error}"
