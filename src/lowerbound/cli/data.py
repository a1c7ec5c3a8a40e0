"""``lowerbound data inspect`` shows the columns of a table before a training."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from lowerbound.errors import StorageError


def register(app: typer.Typer) -> None:
    """Add the group of commands."""
    data = typer.Typer(help="Look at data before a training.", no_args_is_help=True)
    data.command()(inspect)
    app.add_typer(data, name="data")


def inspect(
    file: Annotated[
        Path,
        typer.Argument(help="The table: a .csv, .tsv, .parquet or .feather file; or a .h5ad file."),
    ],
    columns: Annotated[
        str | None,
        typer.Option(help="Types of some columns, such as age=count,job=categorical."),
    ] = None,
    missing_values: Annotated[
        str | None,
        typer.Option(help="Values that stand for missing ones, separated by commas: ?,-999"),
    ] = None,
) -> None:
    """Show the columns of a table: their types, ranges and missing values.

    Of a .h5ad file, show the matrices, the names of the variables and the columns of obs.
    """
    if file.suffix.lower() == ".h5ad":
        _inspect_h5ad(file)
        return
    from lowerbound.data.describing import describe_columns
    from lowerbound.data.frames import open_table
    from lowerbound.data.suspects import suggest_marks
    from lowerbound.data.table_files import load_table, parse_column_types, parse_missing_values

    placeholders = parse_missing_values(missing_values)
    lines, suspects = describe_columns(
        open_table(load_table(file, missing_values=placeholders), str(file)),
        types=parse_column_types(columns),
        placeholders=placeholders,
        name=str(file),
    )
    _print_table(("column", "type", "missing", "values"), lines)
    print(
        "\nto correct a type: --columns NAME=TYPE, with real, positive, proportion, count, "
        "ordinal, categorical, boolean, time, or identifier to leave the column out"
    )
    if suspects:
        marks = ",".join(map(str, suggest_marks(suspects, placeholders)))
        print(
            f"if the values marked with missing? stand for missing ones: --missing-values "
            f"{shlex.quote(marks)}"
        )


def _inspect_h5ad(file: Path) -> None:
    from lowerbound.data.h5ad import describe_h5ad

    if not file.is_file():
        raise StorageError(f"{file}: does not exist; give a .h5ad file")
    size, entries = describe_h5ad(file)
    print(size)
    _print_table(("part", "name", "contents"), entries)
    print(
        "\nto choose: --layer NAME for a matrix other than X, --fields NAME,NAME for columns of obs"
    )


def _print_table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table, whose last column may be broken into several lines."""
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading != headings[-1])
    for line in lines:
        table.add_row(*line)
    Console(highlight=False, markup=False).print(table)
