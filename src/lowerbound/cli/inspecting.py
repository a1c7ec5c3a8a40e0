"""``lowerbound sample``, ``reconstruct`` and ``encode`` write what a trained model makes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.given import GivenFields, check_given, parse_given
from lowerbound.cli.runs import (
    Data,
    Directory,
    ScoredPart,
    Seed,
    Split,
    choose_part,
    load_examples,
    open_run,
)
from lowerbound.errors import SettingsError

if TYPE_CHECKING:
    from lowerbound.data import Examples

Part = Annotated[Split, typer.Option(help="The part of the data.")]
Draws = Annotated[int, typer.Option(min=1, help="The number of draws.")]
Pairs = Annotated[int, typer.Option(min=1, help="The number of examples.")]


def register(app: typer.Typer) -> None:
    """Add the three commands."""
    for command in (sample, reconstruct, encode):
        app.command()(command)


def sample(  # noqa: PLR0917 (typer calls it by name)
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .png for pictures, .npy for an array.", show_default=False
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
    """Draw z from the prior, decode it, and write pictures or an array."""
    _check_suffix(out, (".png", ".npy"))
    model, _ = open_run(directory)
    if mean is None:
        mean = out.suffix == ".png"
    fields = parse_given(given, model)
    check_given(fields, model)
    _write(model.sample(count, mean=mean, seed=seed, **fields), out, "samples")


def reconstruct(  # noqa: PLR0917 (typer calls it by name)
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .png for pairs of pictures with the original on the left, or "
            ".npy for an array.",
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

    from lowerbound.report.figures import save_pairs

    _check_suffix(out, (".png", ".npy"))
    model, config = open_run(directory)
    fields = parse_given(given, model)
    examples = load_examples(config, data, split or choose_part(data), model)
    model.check_data(examples)
    if out.suffix == ".npy":
        _write(model.reconstruct(examples.first(count), **fields), out, "reconstructions")
        return
    # Evenly spaced examples include all classes, even if the data are sorted by class.
    shown = examples.spread(count)
    images = model.reconstruct(shown, **fields)
    _check_pictures(images)
    originals = shown.prepare("as-is").batch(torch.arange(len(shown)))
    save_pairs(originals, images, out)
    fewer = ""
    if len(shown) < count:
        fewer = ", one for each example,"
    print(f"wrote {len(shown)} pairs{fewer} to {out}: the originals are on the left")


def encode(
    directory: Directory,
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write: .npy for an array, or .csv for a table with rows, files and "
            "labels.",
            show_default=False,
        ),
    ],
    data: Data = None,
    split: Part = "all",
) -> None:
    """Write one point z for each example, such as the mean of q(z|x), in the order of the data.

    If the model has several groups of latents, their points are concatenated.
    """
    _check_suffix(out, (".npy", ".csv"))
    model, config = open_run(directory)
    examples = load_examples(config, data, split, model)
    model.check_data(examples)
    codes = model.encode(examples)
    if out.suffix == ".npy":
        array = _concatenate_codes(codes)
        _write(array, out, f"codes of {array[0].numel()} values")
        return
    columns = _make_columns(codes)
    _write_table(columns, examples, out)
    print(f"wrote {len(examples)} codes of {len(columns)} values to {out}")


def _concatenate_codes(codes: Any) -> Any:
    """Concatenate the codes of several groups of latents to ``[N, J]``; keep those of one group."""
    import torch

    if not isinstance(codes, dict):
        return codes
    return torch.cat([group.reshape(len(group), -1) for group in codes.values()], 1)


def _make_columns(codes: Any) -> dict[str, list[Any]]:
    """Make a column for each unit: ``z0``, ``z1``, ..., or ``GROUP_0``, ... for several groups."""
    groups = {"z": codes}
    if isinstance(codes, dict):
        groups = {f"{name}_": group for name, group in codes.items()}
    return {
        f"{name}{unit}": column
        for name, group in groups.items()
        for unit, column in enumerate(group.reshape(len(group), -1).T.tolist())
    }


def _write_table(codes: dict[str, list[Any]], examples: "Examples", out: Path) -> None:
    """Write a row for each example: its row in the source, its file, its label, and its code."""
    import csv

    from lowerbound.runtime.outputs import write_whole

    rows = list(range(len(examples)))
    if examples.rows is not None:
        rows = examples.rows.tolist()
    columns: dict[str, list[Any]] = {"row": rows}
    if examples.files is not None:
        columns["file"] = list(examples.files)
    if examples.labels is not None:
        columns["label"] = examples.labels.tolist()
        if examples.label_names:
            columns["label"] = [examples.label_names[label] for label in columns["label"]]
    columns |= codes
    with write_whole(out) as path, path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _check_suffix(out: Path, allowed: tuple[str, ...]) -> None:
    if out.suffix not in allowed:
        raise SettingsError(f"--out {out}: give a file that ends in {' or '.join(allowed)}")


def _check_pictures(images: Any) -> None:
    from lowerbound.report.figures import is_image

    if not is_image(tuple(images.shape[1:])):
        raise SettingsError(
            f"examples of shape {tuple(images.shape[1:])} are not pictures; write an array: "
            "--out FILE.npy"
        )


def _write(array: Any, out: Path, what: str) -> None:
    import io

    import numpy as np

    from lowerbound.report.figures import save_grid
    from lowerbound.runtime.outputs import write_whole

    if out.suffix == ".png":
        _check_pictures(array)
        save_grid(array, out)
    else:
        content = io.BytesIO()  # because np.save to a file on a full disk does not say why it fails
        np.save(content, array.cpu().numpy())
        with write_whole(out) as path:
            path.write_bytes(content.getbuffer())
    print(f"wrote {len(array)} {what} to {out}")
