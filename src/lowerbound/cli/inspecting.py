"""``lowerbound sample``, ``reconstruct`` and ``encode`` write what a trained model makes."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.given import GivenFields, check_given, parse_given
from lowerbound.cli.run_data import Split, choose_part, find_data, keep_source, load_examples
from lowerbound.cli.runs import (
    Data,
    Directory,
    ScoredPart,
    Seed,
    open_run,
)
from lowerbound.cli.tables import Trained, list_identifiers, load_model, write_rows
from lowerbound.errors import SettingsError

if TYPE_CHECKING:
    from lowerbound.data import Examples
    from lowerbound.report.drawing import Drawing

_WRITTEN_BY_PYARROW = (".tsv", ".parquet", ".feather", ".arrow")

Part = Annotated[Split, typer.Option(help="The part of the data.")]
Draws = Annotated[int, typer.Option(min=1, help="The number of draws.")]
Pairs = Annotated[int, typer.Option(min=1, help="The number of examples.")]


def register(app: typer.Typer) -> None:
    """Add the three commands."""
    for command in (sample, reconstruct, encode):
        app.command()(command)


def sample(  # noqa: PLR0917 (typer calls it by name)
    directory: Trained,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .png for a picture of signals, pictures or volumes, .npy for "
            "an array, or .csv, .tsv, .parquet or .feather for the rows of a table.",
            show_default=False,
        ),
    ],
    count: Draws = 64,
    seed: Seed = 0,
    mean: Annotated[
        bool | None,
        typer.Option(
            "--mean/--draw",
            help="Write the mean of p(x|z), or a draw from it. The default is the mean for .png "
            "and a draw for .npy.",
        ),
    ] = None,
    given: GivenFields = None,
) -> None:
    """Draw z from the prior, decode it, and write pictures, an array or the rows of a table.

    With --given FILE, a model of a table draws --count rows for each row of the file, given the
    entries of that row.
    """
    from lowerbound.models import TableModel

    model = load_model(directory)
    if isinstance(model, TableModel):
        write_rows(model, out, count, seed, mean=bool(mean), given=given)
        return
    _check_suffix(out, (".png", ".npy"))
    if mean is None:
        mean = out.suffix == ".png"
    fields = parse_given(given, model)
    check_given(fields, model)
    samples = model.sample(count, mean=mean, seed=seed, **fields)
    _write(samples, out, "samples", _find_limits(model, samples))


def reconstruct(  # noqa: PLR0917 (typer calls it by name)
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .png for pairs with the original on the left, or behind the "
            "reconstruction of a signal; or .npy for an array.",
            show_default=False,
        ),
    ],
    count: Pairs = 16,
    data: Data = None,
    split: ScoredPart = None,
    given: GivenFields = None,
) -> None:
    """Encode and decode some examples. With --given, decode them as if they had other fields.

    A .png shows evenly spaced examples next to their reconstructions; a .npy contains the
    reconstructions of the first examples.
    """
    import torch

    from lowerbound.report.drawing import is_signal, save_pairs

    _check_suffix(out, (".png", ".npy"))
    model, config = open_run(directory)
    keep_source(config, data, out)
    fields = parse_given(given, model)
    examples = load_examples(config, data, split or choose_part(data), model)
    model.check_data(examples)
    if out.suffix == ".npy":
        _write(model.reconstruct(examples.first(count), **fields), out, "reconstructions")
        return
    # Evenly spaced examples include all classes, even if the data are sorted by class.
    shown = examples.spread(count)
    reconstructions = model.reconstruct(shown, **fields)
    _check_drawable(reconstructions)
    originals = shown.prepare("as-is").batch(torch.arange(len(shown)))
    drawing = save_pairs(originals, reconstructions, out, limits=_find_limits(model, originals))
    fewer = ""
    if len(shown) < count:
        fewer = ", one for each example,"
    where = "on the left"
    if is_signal(shown.shape):
        where = "the broad pale lines"
    print(f"wrote {len(shown)} pairs{fewer} to {out}: the originals are {where}")
    _print_note(drawing)


def encode(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .npy for an array; or .csv, .tsv, .parquet or .feather for a "
            "table with rows, identifiers, files and labels.",
            show_default=False,
        ),
    ],
    data: Data = None,
    split: Part = "all",
) -> None:
    """Write the embedding of each example, such as the mean of q(z|x), in the order of the data.

    If the model has several groups of latents, their embeddings are concatenated. A table begins
    with the number of the row in the data, counted from 0.
    """
    from lowerbound.data.table_writing import check_target

    _check_suffix(out, (".npy", ".csv", *_WRITTEN_BY_PYARROW))
    if out.suffix in _WRITTEN_BY_PYARROW:
        check_target(out)
    model, config = open_run(directory)
    keep_source(config, data, out)
    examples = load_examples(config, data, split, model)
    model.check_data(examples)
    embeddings = model.encode(examples)
    if out.suffix == ".npy":
        array = _concatenate_groups(embeddings)
        _write(array, out, f"embeddings of {array[0].numel()} values")
        return
    columns = _make_columns(embeddings)
    about = _describe_rows(examples)
    identifiers = _read_identifiers(model, find_data(config, data)[0], about["row"], columns)
    _write_table(about | identifiers | columns, out)
    print(f"wrote {len(examples)} embeddings of {len(columns)} values to {out}")


def _concatenate_groups(embeddings: Any) -> Any:
    """Concatenate those of several groups of latents to ``[N, J]``; keep those of one group."""
    import torch

    if not isinstance(embeddings, dict):
        return embeddings
    return torch.cat([group.reshape(len(group), -1) for group in embeddings.values()], 1)


def _make_columns(embeddings: Any) -> dict[str, list[Any]]:
    """Make a column for each unit: ``z0``, ``z1``, ..., or ``GROUP_0``, ... for several groups."""
    groups = {"z": embeddings}
    if isinstance(embeddings, dict):
        groups = {f"{name}_": group for name, group in embeddings.items()}
    return {
        f"{name}{unit}": column
        for name, group in groups.items()
        for unit, column in enumerate(group.reshape(len(group), -1).T.tolist())
    }


def _describe_rows(examples: "Examples") -> dict[str, list[Any]]:
    """Describe each example: its row in the source, its file and its label."""
    rows = list(range(len(examples)))
    if examples.rows is not None:
        rows = examples.rows.tolist()
    columns: dict[str, list[Any]] = {"row": rows}
    if examples.files is not None:
        columns["file"] = list(examples.files)
    if examples.labels is not None:
        columns["label"] = examples.labels.tolist()
        if examples.label_names:
            names = dict(enumerate(examples.label_names))  # -1 is a label that is not known
            columns["label"] = [names.get(label, str(label)) for label in columns["label"]]
    return columns


def _read_identifiers(
    model: Any, source: str, rows: list[int], others: Iterable[str]
) -> dict[str, Any]:
    """Read the identifiers of some rows of a file with a table; other data have none."""
    from lowerbound.data.table_files import is_table_file, load_table
    from lowerbound.models import TableModel

    path = Path(source).expanduser()
    if not isinstance(model, TableModel) or not is_table_file(path):
        return {}
    table = load_table(path, model.schema).take(rows)
    return list_identifiers(table, model.schema, ("row", *others))


def _write_table(columns: dict[str, Any], out: Path) -> None:
    """Write a table. A .csv file does not need pyarrow."""
    import csv

    from lowerbound.data.frames import make_frame
    from lowerbound.data.table_writing import TableWriter
    from lowerbound.runtime.outputs import write_whole

    if out.suffix in _WRITTEN_BY_PYARROW:
        with TableWriter(out) as writer:
            writer.write(make_frame(columns, "pyarrow"))
        return
    lists = (each if isinstance(each, list) else each.to_pylist() for each in columns.values())
    with write_whole(out) as path, path.open("w", newline="", encoding="utf8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows(zip(*lists, strict=True))


def _check_suffix(out: Path, allowed: tuple[str, ...]) -> None:
    if out.suffix not in allowed:
        *others, last = allowed
        raise SettingsError(f"--out {out}: give a file that ends in {', '.join(others)} or {last}")


def _check_drawable(values: Any) -> None:
    from lowerbound.report.drawing import can_draw

    shape = tuple(values.shape[1:])
    if not can_draw(shape):
        raise SettingsError(
            f"examples of shape {shape} are not signals, pictures or volumes; write an array: "
            "--out FILE.npy"
        )


def _find_limits(model: Any, values: Any) -> tuple[float, float]:
    """Find the values that are black and white: 0 and 1 if the model was trained on pixels."""
    from lowerbound.report.drawing import find_limits

    made = model.preprocessing
    if made is None or (made.levels is not None and made.value_kind is None):
        return 0.0, 1.0
    return find_limits(values)


def _write(array: Any, out: Path, what: str, limits: tuple[float, float] = (0.0, 1.0)) -> None:
    from lowerbound.report.drawing import save_examples
    from lowerbound.runtime.outputs import write_array

    if out.suffix == ".png":
        _check_drawable(array)
        drawing = save_examples(array, out, limits=limits)
        print(f"wrote {len(array)} {what} to {out}")
        _print_note(drawing)
        return
    write_array(array.cpu().numpy(), out)
    print(f"wrote {len(array)} {what} to {out}")


def _print_note(drawing: "Drawing") -> None:
    """Print what the picture does not show as it is, such as examples that did not fit."""
    if drawing.note:
        print(f"{drawing.path}: {drawing.note}")
