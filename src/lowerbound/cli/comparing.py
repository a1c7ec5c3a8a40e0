"""``lowerbound compare``: which of two runs is better, as far as the examples can tell."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.runs import (
    ANNEALED,
    Anneal,
    AsJson,
    Compile,
    Data,
    ScoredPart,
    Seed,
    Split,
    data_of,
    describe_likelihood,
    dumps,
    examples_of,
    likelihood_as_numbers,
    open_run,
    usual_part,
)
from lowerbound.errors import SettingsError

if TYPE_CHECKING:
    from lowerbound.data import Examples

Run = Annotated[Path, typer.Argument(help="Directory of a run.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(  # noqa: PLR0917 (typer calls it by name)
    first: Run,
    second: Run,
    data: Data = None,
    samples: Annotated[int, typer.Option(min=1, help="Draws of z for each example.")] = 500,
    split: ScoredPart = None,
    compile: Compile = "auto",
    anneal: Anneal = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Which of two runs is better: log likelihoods of the same examples on the same noise, and their difference."""
    from lowerbound.cli.progress_bar import progress_bar
    from lowerbound.evaluation.annealing import annealed_log_likelihood
    from lowerbound.evaluation.comparison import check_finite, paired_difference
    from lowerbound.evaluation.importance import log_likelihood

    runs = {directory: open_run(directory) for directory in (first, second)}
    part = split or usual_part(data)
    examples = _same_examples({path: config for path, (_, config) in runs.items()}, data, part)
    if anneal is not None:
        examples = examples.spread(ANNEALED)
    estimates: dict[Path, Any] = {}
    for path, (model, _) in runs.items():
        with progress_bar(str(path)) as progress:
            if anneal is None:
                estimates[path] = log_likelihood(
                    model, examples, samples, seed=seed, compile=compile, progress=progress
                )
            else:
                estimates[path] = annealed_log_likelihood(
                    model, examples, distributions=anneal, seed=seed, progress=progress
                )
        check_finite(estimates[path], f"{path}: the log likelihood")
    difference = paired_difference(estimates[first], estimates[second], seed=seed)
    if not as_json:
        for path, estimate in estimates.items():
            print(f"{path}: {part} {describe_likelihood(estimate)}")
            for line in (getattr(estimate, "pace", None), getattr(estimate, "warning", None)):
                if line is not None:
                    print(f"{path}: {line}")
        print(difference.sentence(str(first), str(second)))
        return
    figures = {
        "runs": [
            {"run": str(path), "log_likelihood": likelihood_as_numbers(estimates[path])}
            for path in (first, second)
        ],
        "difference": {
            "mean": difference.mean,
            "standard_error": difference.standard_error,
            "low": difference.low,
            "high": difference.high,
            "level": difference.level,
            "sentence": difference.sentence(str(first), str(second)),
        },
        "better": str(first if difference.mean > 0 else second) if difference.is_certain else None,
    }
    how = {"samples": samples} if anneal is None else {"distributions": anneal}
    context = {"split": part, "examples": len(examples), **how, "seed": seed, "unit": "nats"}
    print(dumps(figures | context))


def _same_examples(
    configs: Mapping[Path, dict[str, Any]], data: str | None, part: Split
) -> "Examples":
    """The examples that both runs are to be evaluated on.

    Raises:
        SettingsError: if the two would see different ones.
    """
    plans = [data_of(config, data) for config in configs.values()]
    examples = examples_of(next(iter(configs.values())), data, part)
    if all(plan == plans[0] for plan in plans):
        return examples
    other = examples_of(list(configs.values())[-1], data, part)
    if _same(examples, other):
        return examples
    first, second = ({"source": source, **settings} for source, settings in (plans[0], plans[-1]))
    unlike = ", ".join(
        f"{name} {first[name]!r} against {second[name]!r}"
        for name in first
        if first[name] != second[name]
    )
    names = " and ".join(str(path) for path in configs)
    remedy = (
        "give --data NAME|PATH to evaluate both on the same"
        if data is None
        and first["pixels"] == second["pixels"]
        and first["image_size"] == second["image_size"]
        else "nats of data that are prepared in different ways do not compare, so train both on the same"
    )
    raise SettingsError(f"{names} were trained for different {part} examples: {unlike}; {remedy}")


def _same(one: "Examples", other: "Examples") -> bool:
    """Whether two sets of examples are the same numbers, made from the same values in the same way."""
    return (one.shape, len(one), one.levels, one.pixels, one.digest()) == (
        other.shape,
        len(other),
        other.levels,
        other.pixels,
        other.digest(),
    )
