"""The recipe photos beside aevb-gaussian, on faces and on patches of two colour photos.

    python reproductions/photos.py [--choose] [--report] [CELL ...]

Each cell trains a recipe on pictures of 64 x 64 pixels and evaluates it on others; a training that
was stopped resumes. Files of the runs go to runs/photos/, and results and pictures to
docs/results/photos/. With --choose, variants of the recipe photos are trained on faces and
compared by validation data, as was done to choose its settings. At the end, and with --report at
once, docs/results/photos.md is written from all results in that folder. The faces are the data set
olivetti; `lowerbound datasets` says where it is looked for. The photos come with scikit-learn.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from page_text import describe_machine, describe_machines, paragraph, read_results, table
from sklearn.datasets import load_sample_images

import lowerbound as lb
from lowerbound.recipes import find_recipe
from lowerbound.report.drawing import save_examples

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "photos"
RUNS = ROOT / "runs" / "photos"

SIDE, STRIDE = 64, 16
TEST_COLUMNS = 128  # at the right of each photo
STEPS = 4000
VALIDATION = 0.1
BOUND_SAMPLES = 16
SHOWN, COLUMNS = 12, 6


def load_faces() -> tuple[lb.Examples, lb.Examples]:
    """Faces for training and for the test, of the same people."""
    data = lb.load_data("olivetti", test_fraction=0.1, seed=0)
    return data.train, data.test


def load_patches() -> tuple[lb.Examples, lb.Examples]:
    """Patches of a temple and a flower; no pixel is in a training and in a test patch."""
    train, test = [], []
    for image in load_sample_images().images:
        photo = torch.from_numpy(image.copy()).permute(2, 0, 1)
        split = photo.shape[2] - TEST_COLUMNS
        for part, patches in ((photo[..., :split], train), (photo[..., split:], test)):
            windows = part.unfold(1, SIDE, STRIDE).unfold(2, SIDE, STRIDE)  # [C, rows, columns, ..]
            patches.append(windows.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return tuple(
        lb.Examples(torch.cat(patches).contiguous(), levels=256, name="patches")
        for patches in (train, test)
    )


@dataclass(frozen=True)
class Data:
    """A data set, and what the page says about it."""

    title: str
    text: str
    load: Callable[[], tuple[lb.Examples, lb.Examples]]


DATA = {
    "faces": Data(
        "Faces",
        "The 400 pictures of 40 people from AT&T Cambridge; 40 pictures, chosen at random, are for "
        "the test.",
        load_faces,
    ),
    "patches": Data(
        "Patches of two photos",
        f"Patches cut every {STRIDE} pixels from scikit-learn's photos of a temple and a flower. "
        f"The {TEST_COLUMNS} columns at the right of each photo are for the test.",
        load_patches,
    ),
}


@dataclass(frozen=True)
class Cell:
    """A recipe with its arguments, trained on a data set."""

    recipe: str
    data: str
    arguments: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


CELLS = {
    f"{data}-{recipe}": Cell(recipe, data)
    for data in DATA
    for recipe in ("aevb-gaussian", "photos")
}

# One change each to the settings of the recipe.
VARIANTS = {
    "choice-as-it-is": Cell("photos", "faces"),
    "choice-latent-8": Cell("photos", "faces", {"latent": 8}),
    "choice-latent-32": Cell("photos", "faces", {"latent": 32}),
    "choice-normal-prior": Cell("photos", "faces", {"transforms": 0}),
    "choice-embedding-weight-1": Cell("photos", "faces", {"embedding_weight": 1.0}),
    "choice-no-detail-warmup": Cell("photos", "faces", {"detail_warmup_steps": 0}),
    "choice-details-1": Cell("photos", "faces", {"details": 1}),
    "choice-details-4": Cell("photos", "faces", {"details": 4}),
    "choice-no-warmup": Cell("photos", "faces", {"kl_warmup_steps": 0}),
    "choice-channels-8": Cell("photos", "faces", {"channels": 8}),
    "choice-rate-0.001": Cell("photos", "faces", training={"learning_rate": 0.001}),
    "choice-rate-0.004": Cell("photos", "faces", training={"learning_rate": 0.004}),
    "choice-constant-rate": Cell("photos", "faces", training={"schedule": "constant"}),
}


def train(name: str, cell: Cell, train_data: lb.Examples, validation: lb.Examples) -> lb.Run:
    """Train a cell, or resume it; the weights with the best validation bound are kept."""
    recipe = find_recipe(cell.recipe)
    model, objective = recipe.build(train_data, cell.arguments, seed=0)
    directory = RUNS / name
    return lb.fit(
        model,
        objective,
        train_data,
        validation=validation,
        directory=directory,
        resume=(directory / "config.yaml").exists(),
        pictures_every=0,
        **({"steps": STEPS} | recipe.training | cell.training),
    )


def run(name: str, cell: Cell) -> None:
    """Train and evaluate a cell, and write its results and pictures, unless they exist already."""
    target = RESULTS / f"{name}.json"
    if target.exists():
        print(f"{target} exists already", file=sys.stderr)
        return
    # Dequantised, a density also has bits per dimension that are those of the pixels.
    pixels = {"photos": "as-is"}.get(cell.recipe, "dequantize")
    train_data, test = (part.prepare(pixels) for part in DATA[cell.data].load())
    train_data, validation = train_data.split(VALIDATION, seed=0)
    trained = train(name, cell, train_data, validation)
    model = trained.model
    if name in VARIANTS:
        test = validation
    else:
        draw(name, model, test)
    bound = lb.evaluate(model, lb.ELBO(BOUND_SAMPLES), test)
    originals = test.prepare("as-is").batch(torch.arange(len(test)))
    errors = model.reconstruct(test) - originals
    rates = {name: term.mean for name, term in bound.terms.items() if name.startswith("rate")}
    result = {
        "cell": name,
        "recipe": cell.recipe,
        "data": cell.data,
        "arguments": cell.arguments,
        "training": cell.training,
        "train_examples": len(train_data),
        "validation_examples": len(validation),
        "test_examples": len(test),
        "steps": trained.history[-1]["step"],
        "training_seconds": trained.history[-1]["seconds"],
        "bound": bound.mean,
        "bits_per_dimension": bound.bits_per_dimension,
        "standard_error": bound.standard_error,
        "rates": rates,
        "root_mean_squared_error": 255 * float(errors.square().mean().sqrt()),
        "machine": describe_machine(),
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


def draw(name: str, model: lb.Model, test: lb.Examples) -> None:
    """Draw test pictures, their reconstructions, and samples."""
    shown = test.spread(SHOWN)
    pictures = {
        "originals": shown.prepare("as-is").batch(torch.arange(len(shown))),
        "reconstructions": model.reconstruct(shown),
        "means": model.sample(2 * SHOWN, mean=True, seed=0),
        "samples": model.sample(2 * SHOWN, seed=0),
    }
    for what, values in pictures.items():
        file = RESULTS / f"{name}-{what}.png"
        if what == "originals":
            file = RESULTS / f"{CELLS[name].data}.png"
        save_examples(values.clamp(0, 1), file, columns=COLUMNS)


HEAD = "recipe | bits per dimension | error of reconstructions | rate | training time"


def table_row(result: dict[str, Any]) -> list[str]:
    return [
        f"`{result['recipe']}`",
        f"{result['bits_per_dimension']:.2f}",
        f"{result['root_mean_squared_error']:.1f}",
        f"{result['rates']['rate']:,.0f} nats",
        f"{result['training_seconds'] / 60:.1f} min",
    ]


def show_side_by_side(data: str, cells: list[str]) -> list[str]:
    """Show the pictures of these cells in tables, with a column for each cell."""

    def show(what: str) -> list[str]:
        return [f"![{what}](photos/{cell}-{what}.png)" for cell in cells]

    recipes = [f"`{CELLS[cell].recipe}`" for cell in cells]
    originals = f"![test pictures](photos/{data}.png)"
    return [
        *table(
            " | ".join(["test pictures", *(f"reconstructed by {recipe}" for recipe in recipes)]),
            [[originals, *show("reconstructions")]],
        ),
        "",
        *table(
            " | ".join(["", *recipes]),
            [["samples", *show("samples")], ["means of p(x given z)", *show("means")]],
        ),
    ]


def describe_variant(result: dict[str, Any]) -> str:
    changes = result["arguments"] | result["training"]
    return ", ".join(f"`{name}={value!r}`" for name, value in changes.items()) or "as it is"


def write_page() -> None:
    """Write docs/results/photos.md from all results."""
    done = read_results(RESULTS, [*CELLS, *VARIANTS])
    lines = [
        "# Photos: the recipe compared with a simple auto-encoder",
        "",
        paragraph(
            "`python reproductions/photos.py` writes this page. The latents of the recipe `photos`",
            "are a vector z2, whose prior is a flow, and a small picture z1 of details; its",
            "likelihood is discretised logistic. The recipe `aevb-gaussian` is a simple",
            "auto-encoder with 200 tanh units, 10 latents and a Gaussian likelihood. Each is",
            "trained with its usual settings, `aevb-gaussian` for as many steps as `photos`:",
            f"{STEPS:,}. A tenth of the training pictures are used for validation, and the weights",
            "of the epoch with the best validation bound are kept. The bits per dimension follow",
            "from the bound of the test pictures, and are those of 8-bit pixels for both:",
            "`aevb-gaussian` sees them dequantised. The error is the root mean squared difference",
            "of pixels, which are from 0 to 255. Reconstructions are means of p(x|z). A sample is",
            "x drawn from p(x|z), with z drawn from the prior, as `model.sample(n)` gives it. The",
            "means of p(x|z) are shown too, as `model.sample(n, mean=True)` gives them. For these,",
            "the details z1 of the recipe `photos` are the means of their prior given z2.",
        ),
        "",
    ]
    for data, about in DATA.items():
        results = [done[name] for name, cell in CELLS.items() if cell.data == data and name in done]
        if not results:
            continue
        lines += [f"## {about.title}", "", paragraph(about.text), ""]
        lines += [*table(HEAD, map(table_row, results)), ""]
        lines += [*show_side_by_side(data, [result["cell"] for result in results]), ""]
    chosen = [done[name] for name in VARIANTS if name in done]
    if chosen:
        lines += [
            "## The choice of the settings",
            "",
            paragraph(
                "`python reproductions/photos.py --choose` trains variants of the recipe on the",
                "faces, with one change each. The bits per dimension are those of the validation",
                "pictures; no test picture was used.",
            ),
            "",
            *table(
                "settings | bits per dimension | error of reconstructions | rate of z2 | training",
                (
                    [
                        describe_variant(result),
                        *table_row(result)[1:3],
                        f"{result['rates']['rate z2']:.0f} nats",
                        table_row(result)[-1],
                    ]
                    for result in chosen
                ),
            ),
            "",
        ]
    lines += [describe_machines(result["machine"] for result in done.values()), ""]
    (RESULTS.parent / "photos.md").write_text("\n".join(lines), encoding="utf8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", help=f"{', '.join([*CELLS, *VARIANTS])}")
    parser.add_argument("--choose", action="store_true", help="train the variants")
    parser.add_argument("--report", action="store_true", help="only write the page")
    asked = parser.parse_args()
    known = CELLS | VARIANTS
    for unknown in set(asked.cells) - known.keys():
        parser.error(f"{unknown} is not one of {', '.join(known)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    names = asked.cells or [*(VARIANTS if asked.choose else CELLS)]
    for name in [] if asked.report else names:
        run(name, known[name])
    write_page()
