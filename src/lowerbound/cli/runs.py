"""What the commands share: opening a run, its data and its objective, and saying an estimate."""

import dataclasses
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


def load_for_run(config: dict[str, Any], source: str | None = None) -> "Dataset":
    """The data that a configuration names, or another source prepared in the same way.

    Raises:
        SettingsError: if the configuration names none.
    """
    from lowerbound.data import load_data
    from lowerbound.settings import checked

    data = section(config, "data") if config.get("data") else {}
    named = data.pop("source", None)
    if source is None and named is None:
        raise SettingsError("the run was made in Python and records no data by name; say which: --data NAME|PATH")
    return load_data(source or named, **checked(load_data, data, name="data"))


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


def examples_of(dataset: "Dataset", split: Split) -> "Examples":
    """One part of a dataset, or all of it in the order of its source."""
    return dataset.all() if split == "all" else getattr(dataset, split)


def objective_of(config: dict[str, Any], samples: int | None) -> "Objective":
    """The objective that a run was trained with, perhaps with another number of samples."""
    from lowerbound import objectives  # also registers what a configuration can name
    from lowerbound.describe import build

    described = section(config, "objective")
    objective: Any = build(described)
    if not isinstance(objective, objectives.Objective):
        raise StorageError(f"the run's config.yaml: {described!r} is no objective; restore the file as it was written")
    return objective if samples is None else dataclasses.replace(cast(Any, objective), samples=samples)


def describe_estimate(estimate: "Estimate", part: str) -> str:
    """The bound with its terms and standard errors, on one line."""
    bits = "" if estimate.bits_per_dimension is None else f", {estimate.bits_per_dimension:.4f} bits per dimension"
    terms = ", ".join(f"{name} {term.mean:.2f} ± {term.standard_error:.2f}" for name, term in estimate.terms.items())
    return (
        f"{part} bound {estimate.mean:.2f} ± {estimate.standard_error:.2f} nats per example "
        f"({terms}; {len(estimate.per_example):,} examples{bits})"
    )
