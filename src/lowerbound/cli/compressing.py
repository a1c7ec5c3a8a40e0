"""``lowerbound compress`` and ``decompress``: lossless compression by bits-back coding."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lowerbound.cli.progress_bar import show_progress
from lowerbound.cli.run_data import Split, keep_source, load_examples
from lowerbound.cli.runs import (
    AsJson,
    Data,
    Directory,
    Seed,
    dumps,
    open_run,
)
from lowerbound.errors import SettingsError, StorageError


def register(app: typer.Typer) -> None:
    """Add the two commands."""
    for command in (compress, decompress):
        app.command()(command)


def compress(  # noqa: PLR0917 (typer calls it by name)
    directory: Directory,
    out: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
    data: Data = None,
    split: Annotated[Split, typer.Option(help="The part of the data.")] = "all",
    pixels: Annotated[
        Literal["binarize-once"] | None,
        typer.Option(
            help="Draw binary pixels once, with --seed, and compress them. A run that draws binary "
            "pixels from grey ones at every use needs this."
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compress discrete data without loss, to about the size that the bound of a model predicts.

    The latents must be diagonal Gaussians, and the likelihood a probability mass. Flows, mixtures,
    categories, codes, and models that need labels or other fields are refused. Only the same run
    can decompress the file.
    """
    from lowerbound.evaluation.compression import check_parts, compress
    from lowerbound.runtime.outputs import write_whole

    model, config = open_run(directory)
    keep_source(config, data, out)
    check_parts(model)
    examples = load_examples(config, data, split, model)
    if pixels is not None:
        examples = examples.prepare("as-is").prepare(pixels, seed=seed)
    with show_progress("compress") as progress:
        packed, size = compress(model, examples, progress=progress)
    with write_whole(out) as path:
        path.write_bytes(packed)
    if as_json:
        print(dumps(vars(size) | {"overhead": size.overhead}))
        return
    print(
        f"wrote {size.examples:,} examples to {out}: {size.bytes:,} bytes, {size.overhead:+.1%} "
        f"from the {size.bound_bytes:,.0f} that the bound predicts; the raw data have "
        f"{size.raw_bytes:,.0f}"
    )


def decompress(
    directory: Directory,
    file: Annotated[Path, typer.Argument(help="The compressed file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The .npy file to write.", show_default=False)],
) -> None:
    """Restore the data in a file that lowerbound compress wrote, byte for byte.

    The array contains levels: the integers that uint8 pixels, binary pixels or codes are stored as.
    """
    import numpy as np

    from lowerbound.evaluation.compression import decompress
    from lowerbound.runtime.outputs import write_array

    if out.suffix != ".npy":
        raise SettingsError(f"--out {out}: give a file that ends in .npy")
    try:
        packed = file.read_bytes()
    except OSError as error:
        raise StorageError(f"{file} cannot be read ({error.strerror}); give another file") from None
    model, _ = open_run(directory)
    with show_progress("decompress") as progress:
        examples = decompress(model, packed, progress=progress)
    write_array(np.asarray(examples.values), out)
    print(f"wrote {len(examples):,} examples to {out}")
