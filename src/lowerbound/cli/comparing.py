"""``lowerbound compare`` tells which of two runs is better on the same examples."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.given import list_conditions
from lowerbound.cli.progress_bar import show_progress
from lowerbound.cli.remedies import write_as_options
from lowerbound.cli.run_data import STORAGE, Split, choose_part, find_data, load_examples
from lowerbound.cli.runs import (
    MOST_EXAMPLES_FOR_ANNEALING,
    Anneal,
    AsJson,
    Compile,
    Data,
    ScoredPart,
    Seed,
    Threads,
    describe_likelihood,
    dumps,
    likelihood_to_json,
    open_run,
    with_threads,
)
from lowerbound.errors import SettingsError

if TYPE_CHECKING:
    from lowerbound.data import Examples
    from lowerbound.evaluation import Estimate
    from lowerbound.evaluation.baseline import Gain

Run = Annotated[Path, typer.Argument(help="The directory of a run.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compare)


def compare(  # noqa: PLR0917 (typer calls it by name)
    first: Run,
    second: Run,
    data: Data = None,
    samples: Annotated[
        int, typer.Option(min=1, help="The number of draws of z for each example.")
    ] = 500,
    split: ScoredPart = None,
    compile: Compile = "auto",
    anneal: Anneal = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare the log likelihoods of two runs on the same examples, with the same noise."""
    from lowerbound.evaluation.comparison import check_finite, paired_difference

    runs = {directory: open_run(directory) for directory in (first, second)}
    part = split or choose_part(data)
    examples = _load_same_examples(runs, data, part)
    if anneal is not None:
        examples = examples.spread(MOST_EXAMPLES_FOR_ANNEALING)
    estimates: dict[Path, Any] = {}
    for path, (model, _) in runs.items():
        with with_threads(threads), show_progress(str(path)) as progress:
            estimates[path] = _estimate_log_likelihood(
                model, examples, samples, anneal, seed=seed, compile=compile, progress=progress
            )
        check_finite(estimates[path], f"{path}: the log likelihood")
    difference = paired_difference(estimates[first], estimates[second], seed=seed)
    given = {path: list_conditions(model, examples) for path, (model, _) in runs.items()}
    gains = {
        path: _measure_gain(model, examples, estimates[path], seed)
        for path, (model, _) in runs.items()
    }
    if not as_json:
        for path, estimate in estimates.items():
            print(f"{path}: {part} {describe_likelihood(estimate)}")
            for line in (getattr(estimate, "pace", None), estimate.warning, gains[path]):
                if line is not None:
                    print(f"{path}: {write_as_options(str(line))}")
        print(difference.sentence(str(first), str(second)))
        if given[first] != given[second]:
            print(
                f"{_describe_conditions(first, given)}, but {_describe_conditions(second, given)}: "
                "these are log likelihoods of different quantities"
            )
        return
    better = None
    if difference.is_certain:
        better = str(first)
        if difference.mean < 0:
            better = str(second)
    results = {
        "runs": [
            {
                "run": str(path),
                "log_likelihood": likelihood_to_json(estimates[path]),
                "depends_on_fields": given[path],
                **(gain.as_record() if (gain := gains[path]) is not None else {}),
            }
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
        "better": better,
    }
    settings = {"samples": samples}
    if anneal is not None:
        settings = {"distributions": anneal}
    context = {"split": part, "examples": len(examples), **settings, "seed": seed, "unit": "nats"}
    print(dumps(results | context))


def _measure_gain(
    model: Any, examples: "Examples", estimate: "Estimate", seed: int
) -> "Gain | None":
    """Compare a log likelihood with the score of independent entries on the same examples."""
    from lowerbound.evaluation.baseline import Gain, score_independent_entries

    baseline = score_independent_entries(model, examples, seed=seed)
    if baseline is None:
        return None
    return Gain(estimate.mean, baseline, "log likelihood")


def _describe_conditions(path: Path, given: Mapping[Path, Sequence[str]]) -> str:
    """Describe the fields on which the log likelihood of a run depends."""
    return f"{path} depends on {', '.join(given[path]) or 'no fields'} of the examples"


def _estimate_log_likelihood(
    model: Any, examples: "Examples", samples: int, anneal: int | None, **settings: Any
) -> Any:
    """Estimate the log likelihood by importance sampling, or by annealing if the user chose it."""
    from lowerbound.evaluation.annealing import annealed_log_likelihood
    from lowerbound.evaluation.importance import log_likelihood

    if anneal is None:
        return log_likelihood(model, examples, samples, **settings)
    settings.pop("compile")
    return annealed_log_likelihood(model, examples, distributions=anneal, **settings)


def _load_same_examples(
    runs: Mapping[Path, tuple[Any, dict[str, Any]]], data: str | None, part: Split
) -> "Examples":
    """Load the examples on which both runs are evaluated.

    Raises:
        SettingsError: if the data of the two runs are different.
    """
    entries = list(runs.values())  # one, if a run is compared with itself
    (model, config), (other_model, other_config) = entries[0], entries[-1]

    def load(model: Any, config: dict[str, Any]) -> "Examples":
        # Pictures of another size are refused here, and not converted for each model.
        is_table = model.preprocessing is not None and model.preprocessing.schema is not None
        return load_examples(config, data, part, model if is_table else None)

    plans = [find_data(each, data) for each in (config, other_config)]
    examples = load(model, config)
    # Runs that name the same data may have been trained on them before and after a change.
    is_known = data is not None or config.get("examples") == other_config.get("examples")
    if is_known and plans[0] == plans[1]:
        return examples
    other = load(other_model, other_config)
    if _are_same(examples, other):
        return examples
    first, second = ({"source": source, **settings} for source, settings in plans)
    differences = ", ".join(
        f"{name} {first[name]!r} against {second[name]!r}"
        for name in first
        if first[name] != second[name] and name not in STORAGE
    )
    names = " and ".join(str(path) for path in runs)
    alike = all(first[setting] == second[setting] for setting in ("pixels", "image_size"))
    remedy = (
        "log likelihoods of data that are prepared in different ways cannot be compared, so train "
        "both runs on the same data"
    )
    if data is None and alike:
        remedy = "give --data NAME|PATH to evaluate both on the same examples"
    raise SettingsError(
        f"{names} were trained for different {part} examples: {differences}; {remedy}"
    )


def _are_same(one: "Examples", other: "Examples") -> bool:
    """Whether two sets of examples have the same values, prepared in the same way."""
    first, second = (
        (examples.shape, len(examples), examples.levels, examples.pixels, examples.digest())
        for examples in (one, other)
    )
    return first == second
