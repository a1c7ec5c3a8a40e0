"""``lowerbound train`` trains a model by a recipe, or repeats or continues a run."""

import inspect
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from lowerbound.cli.describing import describe_examples
from lowerbound.cli.flags import make_flag, make_flags, set_flags
from lowerbound.cli.given import suggest_given
from lowerbound.cli.remedies import write_as_options
from lowerbound.cli.run_data import load_run_data, read_section
from lowerbound.cli.runs import (
    describe_estimate,
    evaluate_elbo,
)
from lowerbound.data.catalogue import CATALOGUE
from lowerbound.data.formats import PATHS
from lowerbound.data.load import load_data
from lowerbound.errors import DataError, SettingsError
from lowerbound.recipes import RECIPES, Recipe, find_recipe
from lowerbound.runtime.interrupts import StopSignals
from lowerbound.settings import Settings, check_settings, read_settings
from lowerbound.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Examples
    from lowerbound.runs.run import Run
    from lowerbound.training.loop import Loop


_SEED = "It also covers the initial weights and random choices in the data."


class _RecipeGroup(TyperGroup):
    """The recipes as subcommands. An unknown one gets the error of :func:`find_recipe`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing:
            find_recipe(args[0])
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add ``train``, with a subcommand for each recipe."""
    train = typer.Typer(
        cls=_RecipeGroup,
        help=train_from_file.__doc__,
        invoke_without_command=True,
        subcommand_metavar="RECIPE [OPTIONS]",
    )
    train.callback()(set_flags(train_from_file, _make_flags_for_files()))
    for recipe in RECIPES.values():
        train.command(recipe.name, help=recipe.description, short_help=recipe.summary)(
            _make_command(recipe)
        )
    app.add_typer(train, name="train")


def train_from_file(
    context: typer.Context,
    config: Path | None,
    resume: Path | None,
    out: Path | None,
    **values: Any,
) -> None:
    """Train a model by a recipe, repeat a run from its config.yaml, or continue a run."""
    changed = {name: value for name, value in values.items() if value is not None}
    if context.invoked_subcommand is not None:
        if changed or any(value is not None for value in (config, resume, out)):
            for name, value in (("--resume", resume), ("--config", config)):
                if value is not None:
                    raise SettingsError(
                        f"train: {name} takes no recipe: lowerbound train {name} {value}"
                    )
            raise SettingsError(
                "put flags after the recipe: "
                f"lowerbound train {context.invoked_subcommand} --out DIR ..."
            )
        return
    if resume is not None and out is not None:
        raise SettingsError("train: --resume continues the run in its own directory; remove --out")
    if (config is None) == (resume is None):
        raise SettingsError(
            f"train: name a recipe ({', '.join(RECIPES)}), or give --config FILE or --resume DIR"
        )
    from lowerbound.runs.directory import read_config

    path = config or (resume or Path()) / "config.yaml"
    plan = read_config(path)
    if "recipe" not in plan or "data" not in plan:
        raise SettingsError(
            f"{path}: the file does not name a recipe and data, because the run was made in "
            "Python; run that program again"
        )
    for name in ("recipe", "data", "training"):
        plan[name] = read_section(plan, name, path)
    plan["training"] |= _replace_duration(changed) | changed
    if "seed" in changed:
        plan["data"]["seed"] = changed["seed"]
    _run(plan, resume or out, resume=resume is not None)


def _make_flags_for_files() -> list[inspect.Parameter]:
    """Make typer's context and the flags of ``train`` without a recipe.

    They are the settings of a training, whose defaults are those in the file.
    """
    names = TrainingSettings.model_fields
    return [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        make_flag(
            "config", Path | None, "Repeat the run that this config.yaml describes.", "Run", None
        ),
        make_flag(
            "resume",
            Path | None,
            "Continue the run in this directory from its newest checkpoint, or from the start if "
            "it has none yet. The seed, the batch size and how weights are averaged cannot change.",
            "Run",
            None,
        ),
        make_flag("out", Path | None, "The directory of the new run, with --config.", "Run", None),
        *make_flags(
            TrainingSettings,
            "Training, instead of the settings in the file",
            defaults=dict.fromkeys(names),
            more={"seed": _SEED},
        ),
    ]


def _make_command(recipe: Recipe) -> Callable[..., Any]:
    """Make the function of a recipe's subcommand, whose keywords are its flags."""
    of_recipe, of_data = read_settings(recipe.make), read_settings(load_data)

    def train(context: typer.Context, **values: Any) -> None:
        values |= _replace_duration({name for name in values if _is_given(context, name)})
        source = _resolve_source(values["data"])
        data = {"source": source, **_select(values, of_data), "seed": values["seed"]}
        if Path(source).is_dir():
            decoded = (values["out"] or Path("runs", "new")).absolute().parent / "decoded"
            data["image_size"] = data["image_size"] or recipe.image_size
            data["cache"] = data["cache"] or str(decoded)
        plan = {
            "recipe": {"name": recipe.name, "arguments": _select(values, of_recipe)},
            "data": data,
            "validation": values["validation"],
            "training": _select(values, TrainingSettings),
        }
        _run(plan, values["out"])

    return set_flags(train, _make_all_flags(recipe))


def _make_all_flags(recipe: Recipe) -> list[inspect.Parameter]:
    """Make the parameters of a recipe's subcommand: typer's context and the flags."""
    more = {"cache": "The default is decoded/ next to the run."}
    if recipe.image_size is not None:
        more["image_size"] = f"The default is {recipe.image_size} for a folder of pictures."
    return [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        make_flag(
            "data",
            str,
            f"The name of a data set (see lowerbound datasets), {PATHS}.",
            "Run",
        ),
        make_flag(
            "out",
            Path | None,
            "The directory of the run. The default is a new directory under runs/.",
            "Run",
            None,
        ),
        make_flag(
            "validation",
            float,
            "The fraction of the training data to hold out for validation. 0, or less than one "
            "example, disables validation.",
            "Run",
            0.1,
        ),
        *make_flags(read_settings(recipe.make), f"Recipe {recipe.name}"),
        *make_flags(TrainingSettings, "Training", defaults=recipe.training, more={"seed": _SEED}),
        *make_flags(
            read_settings(load_data),
            "Data",
            defaults={"pixels": recipe.pixels, "kind": recipe.kind},
            leave_out=("seed",),
            more=more,
        ),
    ]


def _replace_duration(given: Container[str]) -> dict[str, None]:
    """Unset the steps if the user gives epochs instead, and the other way round."""
    pairs = (("epochs", "steps"), ("steps", "epochs"))
    return {other: None for name, other in pairs if name in given and other not in given}


def _is_given(context: typer.Context, flag: str) -> bool:
    """Whether the user gave a flag."""
    return not str(context.get_parameter_source(flag)).endswith("DEFAULT")


def _select(values: Mapping[str, Any], schema: type[Settings]) -> dict[str, Any]:
    """Select the values of those flags that are settings of ``schema``."""
    return {name: value for name, value in values.items() if name in schema.model_fields}


def _resolve_source(source: str) -> str:
    """Make a path absolute, and return the name of a data set as it is."""
    path = Path(source).expanduser()
    if source in CATALOGUE or not path.exists():
        return source
    return str(path.resolve())


def _run(plan: dict[str, Any], out: Path | None, *, resume: bool = False) -> None:
    """Load the data, build the model, train it, and print the result and its path."""
    recipe = find_recipe(plan["recipe"].get("name"))
    settings = check_settings(TrainingSettings, plan["training"], name="training")
    # Without this variable, torch's profiler prints a line of its own. Torch reads it on import.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    import lowerbound as lb
    from lowerbound.data.fields import OBSERVED

    dataset = load_run_data(plan)
    model, objective = recipe.build(
        dataset, plan["recipe"].get("arguments", {}), seed=settings.seed
    )
    if OBSERVED not in (*model.needs, *model.accepts):
        _refuse_missing(dataset)
    directory = out or _find_free_directory(f"{recipe.name}-{dataset.name}")
    faults: list[str] = []
    with (
        StopSignals.catch() as signals,
        signals.explain(lambda: _describe_interrupt(directory, faults)),
    ):
        try:
            run = lb.fit(
                model,
                objective,
                dataset.train,
                validation=_choose_validation(dataset.train, plan.get("validation")),
                directory=directory,
                resume=resume,
                config={key: plan[key] for key in ("recipe", "data", "validation") if key in plan},
                observers=[_make_announcer(dataset, directory)],
                **dict(settings),
            )
        except KeyboardInterrupt as error:
            faults += getattr(error, "__notes__", [])
            raise
        _print_results(run, dataset, directory)


def _describe_interrupt(directory: Path, faults: list[str]) -> str:
    """Describe what an interrupted run has saved, and how to continue it.

    Args:
        directory: That of the run.
        faults: Why the last checkpoint could not be written.
    """
    from lowerbound.runs.directory import RunDirectory

    files = RunDirectory(directory)
    if not files.config.exists():
        return "interrupted before the training began, so nothing was saved"
    command = f"lowerbound train --resume {shlex.quote(str(directory))}"
    start, reason = "to continue", "".join(f"; {fault}" for fault in faults)
    newest = files.list_newest()[:1]
    if not newest:
        start = "there is no checkpoint yet; to start over"
    elif faults:
        start = f"to continue from {newest[0].name}"
    return f"interrupted{reason}; {start}: {command}"


def _choose_validation(train: "Examples", fraction: Any) -> Any:
    """Choose the fraction to hold out, or ``None`` if that is less than one example."""
    is_fraction = isinstance(fraction, int | float) and 0 < fraction < 1
    if not fraction or (is_fraction and round(len(train) * fraction) == 0):
        return None
    return fraction


def _refuse_missing(dataset: "Dataset") -> None:
    """Raise ``DataError`` if entries are missing, and the recipe needs all of them."""
    from lowerbound.data.fields import OBSERVED, count_missing

    parts = [dataset.train]
    if dataset.has_test:
        parts.append(dataset.test)
    masks = [part.fields[OBSERVED] for part in parts if OBSERVED in part.fields]
    if all(mask.all() for mask in masks):
        return
    raise DataError(
        f"{dataset.name}: {count_missing(*masks)} missing, but this recipe needs complete data; "
        "fill such entries or drop their rows. In Python, a model whose likelihood is lb.Masked "
        "takes missing entries"
    )


def _make_announcer(dataset: "Dataset", out: Path) -> Any:
    """Make an observer that prints the data and the run's directory when training starts."""
    from lowerbound.training.observing import Observer

    class Announcer(Observer):
        def on_start(self, loop: "Loop") -> None:
            parts = describe_examples(loop.train, loop.validation, dataset)
            print(f"{dataset.name}: {parts}; {loop.device} -> {out}", file=sys.stderr)

    return Announcer()


def _find_free_directory(name: str) -> Path:
    """Find the first of ``runs/NAME``, ``runs/NAME-2``, ``runs/NAME-3``, ... that is free."""
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = path.with_name(f"{name}-{number}")
    return path


def _print_results(run: "Run", dataset: "Dataset", out: Path) -> None:
    """Print the bound on the test data, the paths of the pictures, and the next commands.

    Without test data, the bound is that on the training data.
    """
    import lowerbound as lb
    from lowerbound.evaluation.column_scores import describe_columns_explained, score_columns
    from lowerbound.report.drawing import can_draw

    part, flag, examples = "train", " --split train", dataset.train
    if dataset.has_test:
        part, flag, examples = "test", "", dataset.test
    estimate = lb.evaluate(run.model, run.objective, examples)
    elbo = evaluate_elbo(run.model, run.objective, examples)
    print(describe_estimate(estimate, part, run.objective, elbo))
    if estimate.gain is not None:
        print(write_as_options(str(estimate.gain)))
    if isinstance(run.model, lb.TableModel):
        print(describe_columns_explained(score_columns(run.model, examples)))
    print("pictures: " + ", ".join(map(str, _find_pictures(out))))
    print("next:")
    directory, suffix = shlex.quote(str(out)), "npy"
    if can_draw(dataset.shape):
        suffix = "png"
    if isinstance(run.model, lb.TableModel):
        suffix = "csv"
    for command in (
        f"evaluate {directory}{flag} --log-likelihood 100",
        f"sample {directory} --count 100{suggest_given(run.model, examples)} "
        f"--out samples.{suffix}",
        f"encode {directory} --out latents.csv",
        *_suggest_for_tables(run.model, examples, directory),
    ):
        print(f"  {_find_program()} {command}")


def _suggest_for_tables(model: Any, examples: "Examples", directory: str) -> list[str]:
    """Suggest commands for a table, and for its missing entries, if there are any."""
    import lowerbound as lb
    from lowerbound.data.fields import OBSERVED

    if not isinstance(model, lb.TableModel):
        return []
    commands = [f"score {directory} --data FILE --out scores.csv"]
    if not examples.fields[OBSERVED].all():
        commands += [
            f"impute {directory} --data FILE --out completed.csv",
            f"sensitivity {directory} --data FILE",
        ]
    return commands


def _find_pictures(out: Path) -> list[Path]:
    """List the newest pictures of a run; ``bound.png`` always exists."""
    newest = [sorted((out / kind).glob("*.png"))[-1:] for kind in ("samples", "reconstructions")]
    whole = [path for path in (out / "manifold.png", out / "bound.png") if path.exists()]
    return [*newest[0], *newest[1], *whole]


def _find_program() -> str:
    """Find the word that the user has to type to run the command again."""
    if Path(sys.argv[0]).name == "__main__.py":
        return "python -m lowerbound"
    if Path(sys.argv[0]).name == "lowerbound" and not shutil.which("lowerbound"):
        return sys.argv[0]
    return "lowerbound"
