"""What the commands share: opening a run, its data and its objective, and saying an estimate."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lowerbound.errors import SettingsError, StorageError

if TYPE_CHECKING:
    from lowerbound.data import Dataset, Examples
    from lowerbound.evaluation import AnnealedEstimate, Estimate, LikelihoodEstimate
    from lowerbound.models import Model
    from lowerbound.objectives import Objective

Split = Literal["train", "test", "all"]

Directory = Annotated[Path, typer.Argument(help="Directory of a run.", show_default=False)]
Data = Annotated[str | None, typer.Option(help="Other data than the run's own: a name or a path.")]
ScoredPart = Annotated[
    Split | None,
    typer.Option(
        help="Which part of the data; if not given: test, but all of what --data names. What a training held out for "
        "validation belongs to train."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all that is random.")]
# Annealing costs thousands of passes for each example.
ANNEALED = 100
Anneal = Annotated[
    int | None,
    typer.Option(
        min=2,
        help=f"Anneal with so many distributions, such as 500, on up to {ANNEALED} examples at even distances: slower than "
        "importance sampling, and good where the posterior fits badly.",
    ),
]
Compile = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        help="Compile importance-sampled log likelihoods; auto where they take long enough to gain by it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def usual_part(data: str | None) -> Split:
    """The part that is scored where none is asked for."""
    return "test" if data is None else "all"


def section(
    config: Mapping[str, Any], name: str, file: Path | str = "the run's config.yaml"
) -> dict[str, Any]:
    """A copy of one mapping of a configuration.

    Raises:
        StorageError: if it is missing, or not a mapping.
    """
    entry = config.get(name)
    if not isinstance(entry, dict):
        found = "has no section" if name not in config else f"has {entry!r} for the section"
        raise StorageError(f"{file}: {found} {name!r}; restore the file as it was written")
    return dict(entry)


def load_for_run(config: dict[str, Any]) -> "Dataset":
    """The data that a configuration names.

    Raises:
        SettingsError: if it names none.
    """
    from lowerbound.data import load_data

    source, settings = data_of(config, None)
    return load_data(source, **settings)


def examples_of(config: dict[str, Any], source: str | None, split: Split) -> "Examples":
    """One part of a run's data, or all of it in the order of its source; or of another source, prepared in the same way."""
    from lowerbound.data import load_data
    from lowerbound.data.reading import read_all

    named, settings = data_of(config, source)
    return (
        read_all(named, **settings)
        if split == "all"
        else getattr(load_data(named, **settings), split)
    )


def data_of(config: dict[str, Any], source: str | None) -> tuple[str, dict[str, Any]]:
    """The source of a run's data, or another in its place, and the settings by which it is prepared.

    Raises:
        SettingsError: if there is none.
    """
    from lowerbound.data import load_data
    from lowerbound.settings import checked

    data: dict[str, Any] = (
        section(config, "data") if config.get("data") else {"pixels": _pixels_of(config)}
    )
    named = data.pop("source", None)
    if source is None and named is None:
        raise SettingsError(
            "the run was made in Python and records no data by name; say which: --data NAME|PATH"
        )
    return source or named, checked(load_data, data, name="data")


def _pixels_of(config: dict[str, Any]) -> str:
    """What a run that was made in Python did with its pixels."""
    examples = config.get("examples")
    train = examples.get("train") if isinstance(examples, dict) else None
    return str(train.get("pixels", "as-is")) if isinstance(train, dict) else "as-is"


def open_run(directory: Path) -> tuple[Any, dict[str, Any]]:
    """The model and the configuration of a run.

    Raises:
        StorageError: if there is no run.
    """
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.saving import load

    if not directory.is_dir():
        raise StorageError(
            f"{directory}: there is no such directory; give the --out of a lowerbound train"
        )
    return load(directory), RunDirectory(directory).read_config()


def objective_of(config: dict[str, Any], samples: int | None) -> "Objective":
    """The objective that a run was trained with, perhaps with another number of samples."""
    from lowerbound import objectives  # also registers what a configuration can name
    from lowerbound.describe import build

    described = section(config, "objective")
    objective: Any = build(described)
    if not isinstance(objective, objectives.Objective):
        raise StorageError(
            f"the run's config.yaml: {described!r} is no objective; restore the file as it was written"
        )
    return objective if samples is None else objective.with_samples(samples)


def schedules_reached(directory: Path) -> dict[str, dict[str, float]]:
    """What the objective's schedules had come to when the weights that a run kept were reached.

    These are the weights of the epoch whose validation bound was best, or without validation of the last. Each entry is as in
    ``metrics.jsonl``: ``{"beta": {"reached": 0.2, "end": 1.0, "ended": False}}``, with the ``epoch`` if it was not the last.
    """
    try:
        lines = (directory / "metrics.jsonl").read_text(encoding="utf8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
        kept = records[-1]
        if "validation" in kept:
            kept = max(
                (record for record in records if "validation" in record), key=_validation_bound
            )
        epoch = {} if kept is records[-1] else {"epoch": int(kept["epoch"])}
        return {name: _progress(entry) | epoch for name, entry in kept.get("schedules", {}).items()}
    except (OSError, ValueError, IndexError, KeyError, AttributeError, TypeError):
        return {}  # the file is a record, which a run can be without


def _validation_bound(record: Mapping[str, Any]) -> float:
    return float(record["validation"]["bound"])


def _progress(entry: Mapping[str, Any]) -> dict[str, float]:
    ended = {"ended": bool(entry["ended"])} if "ended" in entry else {}
    return {"reached": float(entry["reached"]), "end": float(entry["end"]), **ended}


def describe_examples(train: "Examples", validation: "Examples | None", test: "Examples") -> str:
    """What is about to be trained on, on one line."""
    from lowerbound.data.rows import Rows

    held_out = 0 if validation is None else len(validation)
    size = " x ".join(str(side) for side in train.shape)
    if train.levels:
        values = f"{train.levels} levels"
    elif isinstance(train.values, Rows):
        values = str(train.values.dtype).removeprefix(
            "torch."
        )  # their span would take another reading of the file
    else:
        values = f"values in [{train.values.min():.4g}, {train.values.max():.4g}]"
    pixels = "" if train.pixels == "as-is" else f", pixels {train.pixels}"
    classes = "" if train.labels is None else f", {len(train.labels.unique())} classes"
    return (
        f"{len(train):,} training, {held_out:,} validation and {len(test):,} test examples of {size}, "
        f"{values}{pixels}{classes}"
    )


def elbo_beside(
    model: "Model", objective: "Objective", examples: "Examples", seed: int = 0
) -> "Estimate | None":
    """The ELBO of as many samples as the objective takes; ``None`` where the objective's bound is one."""
    import lowerbound as lb

    if isinstance(objective, lb.ELBO):
        return None
    return lb.evaluate(model, lb.ELBO(samples=objective.samples), examples, seed=seed)


def describe_estimate(
    estimate: "Estimate", part: str, objective: "Objective", elbo: "Estimate | None"
) -> str:
    """The bound with its terms and standard errors, on one line.

    Args:
        estimate: of the bound.
        part: of the data.
        objective: whose bound it is.
        elbo: which is told as well, with its terms, where the bound is none; see :func:`elbo_beside`.
    """
    bits = (
        ""
        if estimate.bits_per_dimension is None
        else f", {estimate.bits_per_dimension:.4f} bits per dimension"
    )
    terms = ", ".join(f"{name} {figure(term)}" for name, term in (elbo or estimate).terms.items())
    count = len(estimate.per_example)
    examples = f"{count:,} examples" if count > 1 else "1 example, which has no standard error"
    if elbo is None:
        return f"{part} bound {figure(estimate)} nats per example ({terms}; {examples}{bits})"
    name = type(objective).__name__
    return f"{part} bound ({name}) {figure(estimate)} nats per example ({examples}{bits}); ELBO {figure(elbo)} nats ({terms})"


def figure(estimate: "Estimate") -> str:
    """A mean with its standard error."""
    error = "" if math.isnan(estimate.standard_error) else f" ± {estimate.standard_error:.2f}"
    return f"{estimate.mean:.2f}{error}"


def as_numbers(estimate: "Estimate") -> dict[str, float]:
    """The same for :func:`dumps`."""
    return {"mean": estimate.mean, "standard_error": estimate.standard_error}


def dumps(figures: Any) -> str:
    """One JSON object, with null in the place of numbers that JSON does not have: nan and the infinities."""
    return json.dumps(_finite(figures), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(entry) for name, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def likelihood_as_numbers(estimate: "LikelihoodEstimate | AnnealedEstimate") -> dict[str, Any]:
    """A log likelihood for JSON, with what its weights say of it."""
    from lowerbound.evaluation.annealing import AnnealedEstimate

    numbers: dict[str, Any] = {
        **as_numbers(estimate),
        **(
            {}
            if estimate.bits_per_dimension is None
            else {"bits_per_dimension": estimate.bits_per_dimension}
        ),
        "effective_sample_size": {
            "median": float(estimate.effective_sample_sizes.median()),
            "least": float(estimate.effective_sample_sizes.min()),
        },
    }
    if isinstance(estimate, AnnealedEstimate):
        acceptance = float(estimate.acceptance.mean())
        return (
            numbers
            | dict(estimate.settings)
            | {"examples": len(estimate.per_example), "acceptance": acceptance}
        )
    return numbers | {
        "samples": estimate.samples,
        "pace": estimate.pace,
        "largest_pareto_k": float(estimate.pareto_k.max()),
        "doubtful_examples": int(estimate.doubtful.sum()),
        "doubtful_share": float(estimate.doubtful.double().mean()),
        "warning": estimate.warning,
    }


def describe_likelihood(estimate: "LikelihoodEstimate | AnnealedEstimate") -> str:
    """A log likelihood on one line, with how it was come by."""
    from lowerbound.evaluation.annealing import AnnealedEstimate

    bits = (
        ""
        if estimate.bits_per_dimension is None
        else f", {estimate.bits_per_dimension:.4f} bits per dimension"
    )
    sizes = estimate.effective_sample_sizes
    if isinstance(estimate, AnnealedEstimate):
        settings = estimate.settings
        kind = "annealed log likelihood"
        how = (
            f"{len(estimate.per_example):,} examples, {settings['distributions']:,} distributions, {settings['chains']} chains, "
            f"acceptance {float(estimate.acceptance.mean()):.2f}"
        )
    else:
        kind, how = "log likelihood", f"{estimate.samples:,} samples"
    return (
        f"{kind} {figure(estimate)} nats per example ({how}; effective sample size "
        f"{float(sizes.median()):.0f} in the median, {float(sizes.min()):.1f} at least{bits})"
    )
