"""``lowerbound sample``, ``reconstruct`` and ``encode``: what a trained run can make."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.runs import (
    Data,
    Directory,
    ScoredPart,
    Seed,
    Split,
    examples_of,
    open_run,
    usual_part,
)
from lowerbound.errors import SettingsError

if TYPE_CHECKING:
    from lowerbound.data import Examples

Part = Annotated[Split, typer.Option(help="Which part of the data.")]
Count = Annotated[int, typer.Option(min=1, help="How many.")]


def register(app: typer.Typer) -> None:
    """Add the three commands."""
    for command in (sample, reconstruct, encode):
        app.command()(command)


def sample(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .png for pictures, .npy for numbers.", show_default=False
        ),
    ],
    count: Count = 64,
    seed: Seed = 0,
    mean: Annotated[
        bool | None,
        typer.Option(
            "--mean/--draw",
            help="The mean of p(x|z), or a draw from it; if not given: means in .png, draws in .npy.",
        ),
    ] = None,
) -> None:
    """Draw z from the prior, decode it, and write pictures or numbers."""
    _refuse_suffix(out, (".png", ".npy"))
    model, _ = open_run(directory)
    images = model.sample(count, mean=out.suffix == ".png" if mean is None else mean, seed=seed)
    _write(images, out)


def reconstruct(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .png of pairs, original on the left, or .npy.", show_default=False
        ),
    ],
    count: Count = 16,
    data: Data = None,
    split: ScoredPart = None,
) -> None:
    """Encode and decode some examples: spread over the data, beside their originals, in .png; the first in .npy."""
    import torch

    from lowerbound.report.figures import save_pairs
    from lowerbound.runs.tensor_files import writing

    _refuse_suffix(out, (".png", ".npy"))
    model, config = open_run(directory)
    examples = examples_of(config, data, split or usual_part(data), model)
    model.check_data(examples)
    in_order = (
        out.suffix == ".npy"
    )  # a picture shows some of all classes, also where they are sorted
    shown = examples.first(count) if in_order else examples.spread(count)
    images = model.reconstruct(shown)
    if out.suffix == ".npy":
        _write(images, out)
        return
    _refuse_vectors(images)
    originals = shown.prepare("as-is").batch(torch.arange(len(shown)))
    with writing(out):
        save_pairs(originals, images, out)
    all_there_are = "" if len(shown) == count else ", all there are,"
    print(f"wrote {len(shown)} pairs{all_there_are} to {out}: originals on the left")


def encode(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write: .npy, or .csv with rows, files and labels.", show_default=False
        ),
    ],
    data: Data = None,
    split: Part = "all",
) -> None:
    """Write the mean of q(z|x) for every example, in the order of the data."""
    _refuse_suffix(out, (".npy", ".csv"))
    model, config = open_run(directory)
    examples = examples_of(config, data, split, model)
    model.check_data(examples)
    codes = model.encode(examples)
    if out.suffix == ".npy":
        _write(codes, out)
        return
    _write_table(codes, examples, out)
    print(f"wrote {len(examples)} codes of {codes.shape[1]} numbers to {out}")


def _write_table(codes: Any, examples: "Examples", out: Path) -> None:
    """A row for each example: its position in the source, its file and label where there are such, and its code."""
    import csv

    columns: dict[str, list[Any]] = {
        "row": list(range(len(examples))) if examples.rows is None else examples.rows.tolist()
    }
    if examples.files is not None:
        columns["file"] = list(examples.files)
    if examples.labels is not None:
        names = examples.label_names
        columns["label"] = [names[label] if names else label for label in examples.labels.tolist()]
    columns |= {f"z{unit}": column for unit, column in enumerate(codes.flatten(1).T.tolist())}
    with _opened(out) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _refuse_suffix(out: Path, allowed: tuple[str, ...]) -> None:
    if out.suffix not in allowed:
        raise SettingsError(f"--out {out}: give a file that ends in {' or '.join(allowed)}")


def _refuse_vectors(images: Any) -> None:
    from lowerbound.report.figures import is_image

    if not is_image(tuple(images.shape[1:])):
        raise SettingsError(
            f"examples of shape {tuple(images.shape[1:])} are not pictures; write numbers: --out FILE.npy"
        )


def _write(array: Any, out: Path) -> None:
    import numpy as np

    from lowerbound.report.figures import save_grid
    from lowerbound.runs.tensor_files import writing

    if out.suffix == ".png":
        _refuse_vectors(array)
        with writing(out):
            save_grid(array, out)
    else:
        with _opened(out, binary=True) as file:
            np.save(file, array.cpu().numpy())
    print(f"wrote {len(array)} to {out}")


def _opened(out: Path, *, binary: bool = False) -> Any:
    from lowerbound.runs.tensor_files import writing

    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.open("wb") if binary else out.open("w", newline="", encoding="utf8")
