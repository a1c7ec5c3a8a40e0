"""``lowerbound impute``, ``score`` and ``sensitivity``: commands for models of tables."""

import math
import statistics
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.runs import Seed
from lowerbound.data.unused import list_names
from lowerbound.errors import DoubtfulEstimateWarning, SettingsError, StorageError

if TYPE_CHECKING:
    from lowerbound.data.columns import Schema
    from lowerbound.models.table import TableModel

# The number of draws of z from which those given known entries are chosen.
_DRAWS_GIVEN = 1000

# The number of rows that are read, completed and written at once.
_ROWS = 20_000

Trained = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="The directory of a run, or a .safetensors file.", show_default=False
    ),
]
Table = Annotated[
    Path,
    typer.Option(
        "--data", help="The table: a .csv, .tsv, .parquet or .feather file.", show_default=False
    ),
]
Written = Annotated[
    Path,
    typer.Option(help="The file to write: .csv, .tsv, .parquet or .feather.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (impute, score, sensitivity):
        app.command()(command)


def impute(  # noqa: PLR0917 (typer calls it by name)
    run: Trained,
    data: Table,
    out: Written,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write this many tables with random draws instead of one with point estimates. "
            "With --draws 20 --out done.csv, they are done-01.csv, done-02.csv, ..., done-20.csv: "
            "all numbers have as many digits as the last.",
        ),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=2, help="The number K of draws of z for each row.")
    ] = 200,
    seed: Seed = 0,
) -> None:
    """Fill in the missing entries of a table.

    Observed entries do not change: a .csv or .tsv file keeps the text of its cells and what
    separates them, and other files the types of their columns. A single table gets point estimates:
    means of numbers, medians of counts and ordered categories, and the most probable category. For
    intervals and tests, write several tables with random draws, and combine the estimates from them
    by lb.pool.
    """
    from lowerbound.data.completing import complete_text, keep_types, widen_columns
    from lowerbound.data.schema import make_table_examples
    from lowerbound.data.table_files import find_delimiter_of, iterate_parts
    from lowerbound.data.table_writing import TableWriter, check_target
    from lowerbound.evaluation.imputing import find_unfilled, impute_examples

    targets = [out]
    if draws is not None:
        digits = len(str(draws))
        numbers = [f"{number:0{digits}}" for number in range(1, draws + 1)]
        targets = [out.with_name(f"{out.stem}-{number}{out.suffix}") for number in numbers]
    for target in targets:
        check_target(target, data)
    model = open_table_model(run)
    schema, is_text = model.schema, out.suffix.lower() in (".csv", ".tsv")
    rows, incomplete, doubtful, unfilled = 0, 0, list[int](), dict[str, None]()
    names = set[str]()
    with ExitStack() as files:
        delimiter = find_delimiter_of(data, out)
        writers = [files.enter_context(TableWriter(path, delimiter)) for path in targets]
        for part, text in iterate_parts(data, _ROWS, schema):
            examples = make_table_examples(part, schema, name=str(data), first_row=rows)
            wide = widen_columns(part, schema)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DoubtfulEstimateWarning)
                found = impute_examples(
                    model, wide, examples, draws, samples=samples, point="auto", seed=seed
                )
            for writer, table in zip(writers, found.tables, strict=True):
                completed = keep_types(part, table, schema)
                if text is not None and is_text:
                    completed = complete_text(text, part, completed, schema)
                writer.write(completed)
            names = set(part.column_names)
            unfilled |= dict.fromkeys(find_unfilled(part, schema))
            doubtful += (rows + found.doubtful.nonzero().flatten()).tolist()
            rows += len(found.incomplete)
            incomplete += int(found.incomplete.sum())
    dots = ", ..., " if len(targets) > 2 else ", "
    written = dots.join(map(str, dict.fromkeys((targets[0], targets[-1]))))
    print(f"imputed {incomplete:,} of {_count_rows(rows)} to {written}")
    absent = [each.name for each in schema.modelled if each.name not in names]
    if absent:
        print(f"not filled in, because the table does not have them: {', '.join(absent)}")
    if unfilled:
        print(f"not filled in, because the model leaves them out: {', '.join(unfilled)}")
    if doubtful:
        print(
            f"the imputed entries of {_name_rows(doubtful)} are not to be trusted, because a few "
            "draws of z carry most of the weight; use more --samples"
        )


def score(
    run: Trained,
    data: Table,
    out: Written,
    samples: Annotated[
        int, typer.Option(min=2, help="The number K of draws of z for each row.")
    ] = 500,
    seed: Seed = 0,
) -> None:
    """Write log p(x) of each row of a table, its standard error, and which values are surprising.

    The first columns are the number of the row, counted from 0, and the identifiers of the table.
    If another column of the result has the name of an identifier, the identifier gets a final
    underscore. The column doubtful says which estimates are not to be trusted. The columns
    given_others:NAME are log p of a value given all other values of its row, in nats.
    """
    from lowerbound.data.frames import make_frame
    from lowerbound.data.schema import make_table_examples
    from lowerbound.data.table_files import iterate_tables
    from lowerbound.data.table_writing import TableWriter, check_target
    from lowerbound.evaluation import score as score_table

    check_target(out, data)
    model = open_table_model(run)
    rows, total, doubtful = 0, 0.0, list[int]()
    with TableWriter(out) as writer:
        for part in iterate_tables(data, _ROWS, model.schema):
            examples = make_table_examples(part, model.schema, name=str(data), first_row=rows)
            found = score_table(model, examples, samples, seed=seed)
            scores = found.to_frame("pyarrow")
            columns = dict(zip(scores.column_names, scores.columns, strict=True))
            numbers = {"row": range(rows, rows + part.num_rows)}
            identifiers = list_identifiers(part, model.schema, ("row", *columns))
            writer.write(make_frame(numbers | identifiers | columns, "pyarrow"))
            doubtful += (rows + found.doubtful.nonzero().flatten()).tolist()
            rows += part.num_rows
            total += float(found.per_example.sum())
    print(f"scored {_count_rows(rows)} to {out}: on average {total / rows:.2f} nats")
    if doubtful:
        print(
            f"the scores of {_name_rows(doubtful)} are not to be trusted, see the column doubtful; "
            "use more --samples"
        )


def list_identifiers(table: Any, schema: "Schema", taken: Iterable[str]) -> dict[str, Any]:
    """The identifiers of a table of pyarrow; those with names that are taken get an underscore."""
    names, others = set(table.column_names), set(taken)
    return {
        f"{each.name}_" if each.name in others else each.name: table[each.name]
        for each in schema.columns
        if each.type == "identifier" and each.name in names
    }


def _count_rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _name_rows(rows: Sequence[int]) -> str:
    """Say how many rows there are, and the numbers of the first ones.

    Example:
        >>> _name_rows([17])
        '1 row (17, counted from 0)'
    """
    return f"{_count_rows(len(rows))} ({list_names([*map(str, rows)])}, counted from 0)"


def sensitivity(  # noqa: PLR0917 (typer calls it by name)
    run: Trained,
    data: Table,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Also write the table: .csv, .tsv, .parquet or .feather.", show_default=False
        ),
    ] = None,
    slopes: Annotated[
        str,
        typer.Option(
            help="By how much the log odds of being missing rise for each standard deviation of "
            "the value: numbers separated by commas."
        ),
    ] = "-1,-0.5,0,0.5,1",
    draws: Annotated[
        int, typer.Option(min=2, help="The number of draws of each missing entry.")
    ] = 200,
    samples: Annotated[
        int, typer.Option(min=2, help="The number K of draws of z for each row.")
    ] = 200,
    seed: Seed = 0,
) -> None:
    """Show what would change if values were missing because of their size.

    For each incomplete column of numbers or ordered categories, and for each slope, the table has
    the mean of the imputed entries and that of the completed column. With a slope of 1, each
    standard deviation of the value multiplies the odds of being missing by 2.7; with a slope of 0,
    values are missing at random. The data cannot tell you the slope, so see whether your conclusion
    holds for all plausible slopes. For a model of the recipe missing-not-at-random, the first line
    of each column shows the result of what the model has learned.
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    from lowerbound.data.table_writing import TableWriter, check_target
    from lowerbound.evaluation import sensitivity as compute_sensitivity
    from lowerbound.evaluation import tabulate_sensitivity

    assumed = _parse_slopes(slopes)
    if out is not None:
        check_target(out, data)
    model = open_table_model(run)
    found = compute_sensitivity(model, data, assumed, draws=draws, samples=samples, seed=seed)
    if not found:
        print("no column of ordered values has missing entries")
        return
    table = RichTable(box=None, pad_edge=False)
    table.add_column("column", no_wrap=True)
    for heading in ("missing", "slope", "odds", "mean of imputed", "mean"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        assumption = ("learned", "")
        if each.slope is not None:
            assumption = (f"{each.slope:g}", f"x {each.odds_ratio:.2f}")
        means = _show_number(each.mean_of_imputed), _show_number(each.mean)
        table.add_row(each.column, f"{each.missing:.1%}", *assumption, *means)
    Console(highlight=False, markup=False).print(table)
    if out is not None:
        with TableWriter(out) as writer:
            writer.write(tabulate_sensitivity(found, "pyarrow"))
        print(f"wrote {_count_rows(len(found))} to {out}")


def _show_number(value: float) -> str:
    """A number with at least four digits, and without an exponent."""
    digits = 3
    if value and math.isfinite(value):
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _parse_slopes(text: str) -> list[float]:
    """Read numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(
            f"--slopes {text}: give numbers separated by commas, such as -1,0,1"
        ) from None


def load_model(path: Path) -> Any:
    """Load the model of a run, or of a file that :func:`lowerbound.save` wrote.

    Raises:
        StorageError: if there is none.
    """
    from lowerbound.runs.saving import load

    if not path.exists():
        raise StorageError(
            f"{path}: does not exist; give the --out of a lowerbound train command, or a "
            ".safetensors file"
        )
    return load(path)


def open_table_model(path: Path) -> "TableModel":
    """Load the model of a table from a run or a file.

    Raises:
        StorageError: if there is none.
        SettingsError: if the model is not one of a table.
    """
    from lowerbound.models import TableModel

    model = load_model(path)
    if not isinstance(model, TableModel):
        raise SettingsError(
            f"{path}: the model is a {type(model).__name__} and not one of a table; train one: "
            "lowerbound train table --data FILE"
        )
    return model


def write_rows(
    model: "TableModel",
    out: Path,
    count: int,
    seed: int,
    *,
    mean: bool,
    given: Sequence[str] | None,
) -> None:
    """Write draws of the rows of a table, new ones or given the entries in a file."""
    import narwhals as nw

    from lowerbound.data.frames import make_frame
    from lowerbound.data.table_files import load_table
    from lowerbound.data.table_writing import TableWriter, check_target

    check_target(out, Path(given[0]) if given else None)
    known = None
    if given:
        path = Path(given[0])
        if len(given) > 1 or not path.is_file():
            reason = ""
            if len(given) == 1 and "=" not in path.name:
                reason = "there is no such file; "
            raise SettingsError(
                f"--given {' '.join(given)}: {reason}for a table, give one file with some of its "
                "columns"
            )
        known = load_table(path, model.schema)
    with TableWriter(out) as writer:
        about = ""
        if known is None:
            rows = model.sample(count, mean=mean, seed=seed)
        else:
            rows, effective = model.sample_given(
                known, count, mean=mean, seed=seed, samples=_DRAWS_GIVEN
            )
            about = _describe_effective(effective.tolist())
        if model.schema.library is None:  # an array
            rows = make_frame(dict(zip(model.schema.names, rows.T, strict=True)), "pyarrow")
        table = nw.from_native(rows, eager_only=True).to_arrow()
        writer.write(table)
    print(f"wrote {_count_rows(table.num_rows)} to {out}{about}")


def _describe_effective(effective: list[float]) -> str:
    """Describe the effective sample sizes from which the draws of each given row come."""
    from lowerbound.models.table import FEWEST_EFFECTIVE

    worst = min(effective)
    text = f"; effective sample size of {_DRAWS_GIVEN:,} draws of z: "
    if len(effective) == 1:
        text += f"{worst:,.0f}"
    else:
        text += f"smallest {worst:,.0f} (row {effective.index(worst)}, counted from 0), "
        text += f"median {statistics.median(effective):,.0f}"
    if worst < FEWEST_EFFECTIVE:
        text += f". The draws of rows with less than {FEWEST_EFFECTIVE:g} are not to be trusted"
    return text
