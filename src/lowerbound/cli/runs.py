"""Functions that several commands share: they open a run, and print estimates."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lowerbound.cli.run_data import Split, read_section
from lowerbound.errors import StorageError

if TYPE_CHECKING:
    from lowerbound.data import Examples
    from lowerbound.evaluation import AnnealedEstimate, Estimate, LikelihoodEstimate
    from lowerbound.models import Model
    from lowerbound.objectives import Objective

Directory = Annotated[
    Path, typer.Argument(metavar="RUN", help="The directory of a run.", show_default=False)
]
Data = Annotated[
    str | None, typer.Option(help="A name or a path of data to use instead of the run's own.")
]
ScoredPart = Annotated[
    Split | None,
    typer.Option(
        help="The part of the data. The default is test, or all if --data is given. Examples that "
        "were held out for validation belong to train."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="The seed of all random numbers.")]
# The largest number of examples that are annealed. Each needs thousands of evaluations of the
# model.
MOST_EXAMPLES_FOR_ANNEALING = 100
Anneal = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Also estimate the log likelihood by annealing through this many distributions, such "
        f"as 500, on up to {MOST_EXAMPLES_FOR_ANNEALING} evenly spaced examples. Annealing is "
        "slower than importance sampling, and does not depend on how well the posterior fits. With "
        "too few distributions the estimate is too low; the command then says that it is doubtful.",
    ),
]
Compile = Annotated[
    Literal["auto", "always", "never"],
    typer.Option(
        help="Whether to compile the model for importance sampling. auto compiles it if the "
        "computation is so long that compiling saves time."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The number of processor threads. By default batches are timed with several numbers "
        "if the computation takes more than a few seconds. Another number may round differently.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """Within the block, evaluations use this number of threads, or choose a number themselves."""
    from lowerbound.runtime.threads import using_threads

    if count is None:
        yield
        return
    with using_threads(count):
        yield


def open_run(directory: Path) -> tuple[Any, dict[str, Any]]:
    """Load the model and the configuration of a run.

    Raises:
        StorageError: if the directory does not exist, or is not that of a run.
    """
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.saving import load

    if not directory.is_dir():
        raise StorageError(
            f"{directory}: the directory does not exist; give the --out of a lowerbound train "
            "command"
        )
    return load(directory), RunDirectory(directory).read_config()


def build_objective(
    directory: Path, config: dict[str, Any], model: "Model", samples: int | None
) -> "Objective":
    """Build the objective that a run maximised, with another number of samples if it is given.

    Its players, such as a critic, get the weights of the same checkpoint as the model.
    """
    from lowerbound import objectives  # registers the objectives that a configuration can name
    from lowerbound.describe import build
    from lowerbound.runs.directory import RunDirectory
    from lowerbound.runs.finite import list_buffers
    from lowerbound.training.players import collect_players
    from lowerbound.training.state import select_best_weights

    described = read_section(config, "objective")
    objective: Any = build(described)
    if not isinstance(objective, objectives.Objective):
        raise StorageError(
            f"the run's config.yaml: {described!r} is not an objective; "
            "restore the file as it was written"
        )
    players = collect_players(model, objective)
    if players:
        tensors, _ = RunDirectory(directory).read_newest(list_buffers(model))
        players.load_state_dict((select_best_weights(tensors) or tensors)["objective"])
    if samples is None:
        return objective
    return objective.with_samples(samples)


def read_schedules(directory: Path) -> dict[str, dict[str, float]]:
    """Read the values that the objective's schedules had reached at the weights that a run kept.

    These are the weights of the epoch with the best validation bound, or of the last epoch if there
    was no validation. Each entry is as in ``metrics.jsonl``:
    ``{"beta": {"reached": 0.2, "end": 1.0, "ended": False}}``, with the ``epoch`` unless it is the
    last one.
    """
    try:
        lines = (directory / "metrics.jsonl").read_text(encoding="utf8").splitlines()
        records = [json.loads(line) for line in lines if line.strip()]
        kept = records[-1]
        if "validation" in kept:
            validated = [record for record in records if "validation" in record]
            kept = max(validated, key=_read_validation_bound)
        reached = {name: _read_progress(entry) for name, entry in kept.get("schedules", {}).items()}
        if kept is not records[-1]:
            reached = {
                name: entry | {"epoch": int(kept["epoch"])} for name, entry in reached.items()
            }
        return reached
    except (OSError, ValueError, IndexError, KeyError, AttributeError, TypeError):
        return {}  # a run may lack this file


def _read_validation_bound(record: Mapping[str, Any]) -> float:
    return float(record["validation"]["bound"])


def _read_progress(entry: Mapping[str, Any]) -> dict[str, float]:
    progress = {"reached": float(entry["reached"]), "end": float(entry["end"])}
    if "ended" in entry:
        progress["ended"] = bool(entry["ended"])
    return progress


def evaluate_elbo(
    model: "Model", objective: "Objective", examples: "Examples", seed: int = 0
) -> "Estimate | None":
    """Evaluate the ELBO with as many samples, or return ``None`` if the objective is an ELBO."""
    import lowerbound as lb

    if isinstance(objective, lb.ELBO):
        return None
    return lb.evaluate(model, lb.ELBO(samples=objective.samples), examples, seed=seed)


def describe_estimate(
    estimate: "Estimate", part: str, objective: "Objective", elbo: "Estimate | None"
) -> str:
    """Describe the bound or score with its terms and standard errors on one line.

    Args:
        estimate: The estimate of the bound, with its label.
        part: The name of the part of the data.
        objective: The objective whose bound it is.
        elbo: The ELBO to describe as well, from :func:`evaluate_elbo`.
    """
    bits, label = _describe_bits(estimate), estimate.label
    terms = ", ".join(
        f"{name} {format_mean(term)}" for name, term in (elbo or estimate).terms.items()
    )
    count = len(estimate.per_example)
    examples = f"{count:,} examples" if count > 1 else "1 example, which has no standard error"
    examples += bits
    if elbo is None:
        return f"{part} {label} {format_mean(estimate)} nats per example ({terms}; {examples})"
    name = {"bound": "ELBO"}.get(elbo.label, f"{elbo.label} of the ELBO")
    return (
        f"{part} {label} ({type(objective).__name__}) {format_mean(estimate)} nats per example "
        f"({examples}); {name} {format_mean(elbo)} nats ({terms})"
    )


def _describe_bits(estimate: "Estimate | LikelihoodEstimate | AnnealedEstimate") -> str:
    if estimate.bits_per_dimension is None:
        return ""
    return f", {estimate.bits_per_dimension:.4f} bits per dimension"


def format_mean(estimate: "Estimate") -> str:
    """Write a mean with its standard error."""
    if math.isnan(estimate.standard_error):
        return f"{estimate.mean:.2f}"
    return f"{estimate.mean:.2f} ± {estimate.standard_error:.2f}"


def mean_to_json(estimate: "Estimate") -> dict[str, float]:
    """Turn a mean and its standard error into entries of a JSON object."""
    return {"mean": estimate.mean, "standard_error": estimate.standard_error}


def dumps(results: Any) -> str:
    """Write one JSON object, with null for nan and infinities, which JSON does not have."""
    return json.dumps(_replace_non_finite(results), allow_nan=False)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _replace_non_finite(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(entry) for entry in value]
    return value


def likelihood_to_json(estimate: "LikelihoodEstimate | AnnealedEstimate") -> dict[str, Any]:
    """Turn a log likelihood and the diagnostics of its weights into entries of a JSON object."""
    from lowerbound.evaluation.annealed_estimate import AnnealedEstimate

    results: dict[str, Any] = mean_to_json(estimate)
    if estimate.bits_per_dimension is not None:
        results["bits_per_dimension"] = estimate.bits_per_dimension
    results["effective_sample_size"] = {
        "median": float(estimate.effective_sample_sizes.median()),
        "least": float(estimate.effective_sample_sizes.min()),
    }
    doubts = {
        "doubtful_examples": int(estimate.doubtful.sum()),
        "doubtful_share": estimate.doubtful_share,
        "warning": estimate.warning,
    }
    if isinstance(estimate, AnnealedEstimate):
        return {
            **results,
            **estimate.settings,
            "examples": len(estimate.per_example),
            "acceptance": float(estimate.acceptance.mean()),
            "growth": estimate.growth and mean_to_json(estimate.growth),
            "shortfall": estimate.shortfall,
            **doubts,
        }
    return {
        **results,
        "samples": estimate.samples,
        "pace": estimate.pace,
        "largest_pareto_k": float(estimate.pareto_k.max()),
        **doubts,
    }


def describe_likelihood(estimate: "LikelihoodEstimate | AnnealedEstimate") -> str:
    """Describe a log likelihood on one line, with the settings of its estimate."""
    from lowerbound.evaluation.annealed_estimate import AnnealedEstimate

    sizes = estimate.effective_sample_sizes
    if isinstance(estimate, AnnealedEstimate):
        settings = estimate.settings
        kind = "annealed log likelihood"
        how = (
            f"{len(estimate.per_example):,} examples, {settings['distributions']:,} distributions, "
            f"{settings['chains']} chains, acceptance {float(estimate.acceptance.mean()):.2f}"
        )
    else:
        kind, how = "log likelihood", f"{estimate.samples:,} samples"
    return (
        f"{kind} {format_mean(estimate)} nats per example ({how}; effective sample size "
        f"{float(sizes.median()):.0f} in the median, {float(sizes.min()):.1f} at least"
        f"{_describe_bits(estimate)})"
    )
