"""The data of a run: its own, or others that are prepared in the same way."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lowerbound.errors import DataError, SettingsError, StorageError

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Examples
    from lowerbound.models import Model

Split = Literal["train", "test", "all"]

STORAGE = ("keep_in", "cache")
"""Settings of data that say where values are stored, and do not change them."""


def choose_part(data: str | None) -> Split:
    """Choose the part of the data to evaluate if the user does not name one."""
    return "test" if data is None else "all"


def read_section(
    config: Mapping[str, Any], name: str, file: Path | str = "the run's config.yaml"
) -> dict[str, Any]:
    """Copy one section of a configuration.

    Raises:
        StorageError: if the section is missing, or not a mapping.
    """
    entry = config.get(name)
    if not isinstance(entry, dict):
        found = f"has {entry!r} for the section" if name in config else "has no section"
        raise StorageError(f"{file}: {found} {name!r}; restore the file as it was written")
    return dict(entry)


def load_run_data(config: dict[str, Any]) -> "Dataset":
    """Load the data that a configuration names.

    Raises:
        SettingsError: if it does not name data.
    """
    from lowerbound.data import load_data

    source, settings = find_data(config, None)
    return load_data(source, **settings)


def load_examples(
    config: dict[str, Any], source: str | None, split: Split, model: "Model | None" = None
) -> "Examples":
    """Load one part of a run's data, or all of it in the order of its source.

    If another ``source`` is given, its data are loaded and prepared in the same way. The ``model``
    stores how; if it does not, the configuration says so.

    Raises:
        DataError: if a part of the run's own data is asked for, and they have changed.
    """
    from lowerbound.data import load_data
    from lowerbound.data.raw import make_load_settings, read_raw
    from lowerbound.data.reading import read_all

    named, settings = find_data(config, source)
    known = None if model is None else model.preprocessing
    if split == "all":
        # The types of a table's columns are inferred from its rows, which may have changed.
        if model is None or known is None or (source is None and known.schema is None):
            return read_all(named, **settings)
        files = {name: settings[name] for name in STORAGE}
        return read_raw(named, known, fields=(*model.needs, *model.accepts), **files)
    if source is not None and known is not None:
        settings |= make_load_settings(known, source)
    dataset = load_data(named, **settings)
    if source is None:
        _refuse_changed(dataset.train, config, named)
    examples: Examples = getattr(dataset, split)
    return examples


def _refuse_changed(train: "Examples", config: Mapping[str, Any], source: str) -> None:
    """Refuse data that are not those of the run, since they are split in another way.

    Only training examples are compared, not the test part or fields, and nothing if the
    configuration does not describe them. Values that are not in memory are recognised by their
    number alone.
    """
    from torch import Tensor

    try:
        parts, seed = config["examples"], config["training"]["seed"]
        count, digest = parts["train"]["count"], parts["train"]["sha256"]
        held_out = len(train) - count
        if held_out and held_out == parts.get("validation", {}).get("count"):
            train, _ = train.split(held_out / len(train), seed=seed)
        is_same = len(train) == count
        if is_same and isinstance(train.values, Tensor):
            is_same = train.digest() == digest
    except (KeyError, TypeError, AttributeError):
        return  # evaluating needs nothing else of these sections
    if not is_same:
        raise DataError(
            f"{source}: the data have changed since the run was trained, and it is not known which "
            "of them were in its training part; restore them, or use all of the data: "
            f"--data {shlex.quote(source)}"
        )


def find_data(config: dict[str, Any], source: str | None) -> tuple[str, dict[str, Any]]:
    """Find the source of a run's data and the settings that prepare it.

    A given ``source`` replaces that of the run.

    Raises:
        SettingsError: if the run does not name its data and ``source`` is not given.
    """
    from lowerbound.data import load_data
    from lowerbound.settings import check_arguments

    data: dict[str, Any] = {"pixels": _find_pixels(config)}
    if config.get("data"):
        data = read_section(config, "data")
    named = data.pop("source", None)
    if source is None and named is None:
        raise SettingsError(
            "the run was made in Python and does not name its data; name it: --data NAME|PATH"
        )
    return source or named, check_arguments(load_data, data, name="data")


def keep_source(config: dict[str, Any], source: str | None, out: Path) -> None:
    """Raise ``StorageError`` if a result would be written over the data that it comes from."""
    from lowerbound.data.table_writing import refuse_source

    refuse_source(out, Path(find_data(config, source)[0]).expanduser())


def _find_pixels(config: dict[str, Any]) -> str:
    """Find how a run that was made in Python treated pixels."""
    try:
        return str(config["examples"]["train"]["pixels"])
    except (KeyError, TypeError):
        return "as-is"
