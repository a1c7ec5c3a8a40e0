"""``lowerbound train``: from a recipe or a configuration file to a run directory."""

import inspect
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.flags import flag, flags, with_flags
from lowerbound.cli.runs import (
    describe_estimate,
    describe_examples,
    elbo_beside,
    load_for_run,
    section,
)
from lowerbound.data.catalogue import CATALOGUE
from lowerbound.data.formats import PATHS
from lowerbound.data.load import load_data
from lowerbound.errors import SettingsError
from lowerbound.recipes import RECIPES, Recipe, find_recipe
from lowerbound.settings import checked, settings_of
from lowerbound.training.fitting import fit

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Examples
    from lowerbound.runs.run import Run
    from lowerbound.training.loop import Loop


def register(app: typer.Typer) -> None:
    """Add ``train``, with a subcommand for each recipe."""
    train = typer.Typer(
        help="Train a model by a recipe, by the config.yaml of an earlier run, or go on with a run.",
        invoke_without_command=True,
        subcommand_metavar="RECIPE [OPTIONS]",
    )
    train.callback()(from_file)
    for recipe in RECIPES.values():
        train.command(recipe.name, help=recipe.summary)(_command(recipe))
    app.add_typer(train, name="train")


def from_file(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Run again what this config.yaml says.")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the run in this directory from its newest checkpoint."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the new run, with --config.")
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Another number of epochs than the file says.")
    ] = None,
) -> None:
    """Train a model by a recipe, by the config.yaml of an earlier run, or go on with a run."""
    if context.invoked_subcommand is not None:
        if any(value is not None for value in (config, resume, out, epochs)):
            raise SettingsError(
                f"put flags after the recipe: lowerbound train {context.invoked_subcommand} --out DIR ..."
            )
        return
    if resume is not None and out is not None:
        raise SettingsError("train: --resume goes on in the run's own directory; leave --out away")
    if (config is None) == (resume is None):
        raise SettingsError(
            f"train: name a recipe ({', '.join(RECIPES)}), or give --config FILE, or --resume DIR"
        )
    from lowerbound.runs.directory import read_config

    path = config or (resume or Path()) / "config.yaml"
    plan = read_config(path)
    if "recipe" not in plan or "data" not in plan:
        raise SettingsError(
            f"{path}: records no recipe and data by name, because the run was made in Python; run that program again"
        )
    for name in ("recipe", "data", "training"):
        plan[name] = section(plan, name, path)
    if epochs is not None:
        plan["training"] |= {"epochs": epochs, "steps": None}
    _run(plan, resume or out, resume=resume is not None)


def _command(recipe: Recipe) -> Callable[..., Any]:
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        flag(
            "data",
            str,
            f"A name (lowerbound datasets), {PATHS}.",
            "Run",
        ),
        flag(
            "out",
            Path | None,
            "Directory of the run; a new one under runs/ if not given.",
            "Run",
            None,
        ),
        flag(
            "validation",
            float,
            "Fraction of the training data to hold out for validation; 0 for none.",
            "Run",
            0.1,
        ),
        *flags(recipe.make, f"Recipe {recipe.name}"),
        *flags(fit, "Training", recipe.training),
        *flags(
            load_data,
            "Data",
            {"pixels": recipe.pixels},
            leave_out=("seed",),
            more=_more_help(recipe),
        ),
    ]

    def train(context: typer.Context, **values: Any) -> None:
        if values["steps"] is not None and str(context.get_parameter_source("epochs")).endswith(
            "DEFAULT"
        ):
            values["epochs"] = None  # the recipe's usual number, which nobody asked for
        source = _absolute(values["data"])
        data = {"source": source, **_part(values, load_data), "seed": values["seed"]}
        if Path(source).is_dir():
            data["image_size"] = data["image_size"] or recipe.image_size
            data["cache"] = data["cache"] or str(
                (values["out"] or Path("runs", "new")).absolute().parent / "decoded"
            )
        plan = {
            "recipe": {"name": recipe.name, "arguments": _part(values, recipe.make)},
            "data": data,
            "validation": values["validation"],
            "training": _part(values, fit),
        }
        _run(plan, values["out"])

    return with_flags(train, parameters)


def _more_help(recipe: Recipe) -> dict[str, str]:
    usual = recipe.image_size
    size = (
        {} if usual is None else {"image_size": f"; {usual} for a folder of pictures if not given"}
    )
    return size | {"cache": ": decoded/ beside the run"}


def _part(values: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    return {
        name: value for name, value in values.items() if name in settings_of(function).model_fields
    }


def _absolute(source: str) -> str:
    """A path that still leads there from elsewhere; a name stays as it is."""
    path = Path(source).expanduser()
    return str(path.resolve()) if source not in CATALOGUE and path.exists() else source


def _run(plan: dict[str, Any], out: Path | None, *, resume: bool = False) -> None:
    """Load the data, build the model, train it, and say what came of it and where it is."""
    recipe = find_recipe(plan["recipe"].get("name"))
    training = checked(fit, plan["training"], name="training")
    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "5"
    )  # read with torch, whose profiler announces itself otherwise
    import torch

    import lowerbound as lb
    from lowerbound.runtime.modes import seeded

    dataset = load_for_run(plan)
    with seeded(training["seed"], torch.device("cpu")):
        model, objective = recipe.build(dataset.shape, plan["recipe"].get("arguments", {}))
    out = out or _free_directory(f"{recipe.name}-{dataset.name}")
    try:
        run = lb.fit(
            model,
            objective,
            dataset.train,
            validation=plan.get("validation") or None,
            directory=out,
            resume=resume,
            config={key: plan[key] for key in ("recipe", "data", "validation") if key in plan},
            observers=[_announcer(dataset, out)],
            **training,
        )
    except KeyboardInterrupt:
        print(
            f"lowerbound: interrupted; go on with: lowerbound train --resume {shlex.quote(str(out))}",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    _conclude(run, dataset.test, out)


def _announcer(dataset: "Dataset", out: Path) -> Any:
    """An observer that says what is trained on and where the run goes, once everything has been found in order."""
    from lowerbound.training.loop import Observer

    class Announcer(Observer):
        def on_start(self, loop: "Loop") -> None:
            parts = describe_examples(loop.train, loop.validation, dataset.test)
            print(f"{dataset.name}: {parts}; {loop.device} -> {out}", file=sys.stderr)

    return Announcer()


def _free_directory(name: str) -> Path:
    """``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, ... that is free."""
    names = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in names if not path.exists())


def _conclude(run: "Run", test: "Examples", out: Path) -> None:
    """The bound on the test data, where the pictures are, and what to do next."""
    import lowerbound as lb
    from lowerbound.report.figures import is_image

    estimate = lb.evaluate(run.model, run.objective, test)
    print(
        describe_estimate(
            estimate, "test", run.objective, elbo_beside(run.model, run.objective, test)
        )
    )
    pictures = [
        max((out / kind).glob("*.png"), default=None) for kind in ("samples", "reconstructions")
    ]
    pictures += [
        path if path.exists() else None for path in (out / "manifold.png", out / "bound.png")
    ]
    print("pictures: " + ", ".join(str(path) for path in pictures if path))  # bound.png at least
    print("next:")
    invoked = Path(sys.argv[0])
    program = (
        str(invoked)
        if invoked.name == "lowerbound" and not shutil.which("lowerbound")
        else "lowerbound"
    )
    run_directory, suffix = shlex.quote(str(out)), "png" if is_image(test.shape) else "npy"
    for command in (
        f"evaluate {run_directory} --log-likelihood 100",
        f"sample {run_directory} --count 100 --out samples.{suffix}",
        f"encode {run_directory} --out latents.csv",
    ):
        print(f"  {program} {command}")
