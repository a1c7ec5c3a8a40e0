"""``lowerbound evaluate`` prints the bound of a run in nats and examines its latents."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.progress_bar import show_progress
from lowerbound.cli.remedies import write_as_options
from lowerbound.cli.run_data import choose_part, load_examples
from lowerbound.cli.runs import (
    MOST_EXAMPLES_FOR_ANNEALING,
    Anneal,
    AsJson,
    Compile,
    Data,
    Directory,
    ScoredPart,
    Seed,
    Threads,
    build_objective,
    describe_estimate,
    describe_likelihood,
    dumps,
    evaluate_elbo,
    format_mean,
    likelihood_to_json,
    mean_to_json,
    open_run,
    read_schedules,
    with_threads,
)

if TYPE_CHECKING:
    from lowerbound.data import Examples
    from lowerbound.evaluation import Gaps, GroupHealth, LatentHealth, RefinedPosterior
    from lowerbound.models import Model
    from lowerbound.objectives import Objective

# The largest number of examples for --gaps and --refine. Each takes about 0.1 seconds.
_MOST_EXAMPLES_TO_REFINE = 200


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(  # noqa: PLR0917 (typer calls it by name)
    directory: Directory,
    data: Data = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The number of draws of z for each example. The default is that of training.",
        ),
    ] = None,
    split: ScoredPart = None,
    log_likelihood: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also estimate the log likelihood, by importance sampling with this many draws, "
            "such as 5000.",
        ),
    ] = None,
    compile: Compile = "auto",
    anneal: Anneal = None,
    gaps: Annotated[
        bool,
        typer.Option(
            "--gaps",
            help="Also measure the gaps between the bound and the log likelihood, on up to "
            f"{_MOST_EXAMPLES_TO_REFINE} evenly spaced examples.",
        ),
    ] = False,
    refine: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also refine the posterior of each example by rounds of this many steps, such as "
            "200, and report the bound with the refined posteriors, on up to "
            f"{_MOST_EXAMPLES_TO_REFINE} evenly spaced examples.",
        ),
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Print the bound and its terms in nats per example, and the information in the latents."""
    model, config = open_run(directory)
    part = split or choose_part(data)
    examples = load_examples(config, data, part, model)
    objective = build_objective(directory, config, model, samples)
    evaluation = _Evaluation(model, objective, examples, seed, Report(as_json))
    evaluation.check(likelihood=bool(log_likelihood or anneal), gaps=gaps, refine=bool(refine))
    with with_threads(threads):
        evaluation.add_bound(part)
        if log_likelihood is not None:
            evaluation.add_log_likelihood(log_likelihood, compile)
        if anneal is not None:
            evaluation.add_annealed(anneal)
        evaluation.add_columns()
        evaluation.add_health(directory)
        if gaps:
            train = None
            if data is None and part == "test":
                train = load_examples(config, None, "train")
            evaluation.add_gaps(train)
        if refine is not None:
            evaluation.add_refined(refine)
    evaluation.finish(part)


class Report:
    """The results of a command, printed as text at once or as one JSON object at the end.

    Args:
        as_json: Whether to print JSON.
    """

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self.as_json = as_json
        self.results: dict[str, Any] = {}
        self.console = Console(highlight=False, soft_wrap=True, markup=False)

    def add(self, text: str | None, results: dict[str, Any]) -> None:
        """Add a result.

        Args:
            text: The text to print, or ``None``.
            results: The entries of the JSON object.
        """
        self.results |= results
        if text is not None and not self.as_json:
            self.console.print(text)

    def warn(self, *messages: str | None) -> None:
        """Print warnings in colour. With JSON they are among the results, so nothing is printed."""
        for message in messages:
            if message is not None and not self.as_json:
                self.console.print(write_as_options(message), style="bold yellow")

    def finish(self, context: dict[str, Any]) -> None:
        """Print the JSON object, if that was chosen, with entries about the command."""
        if self.as_json:
            print(dumps(self.results | context))


@dataclass(frozen=True)
class _Evaluation:
    """One call of the command. Each method is one of its steps."""

    model: "Model"
    objective: "Objective"
    examples: "Examples"
    seed: int
    report: Report

    def check(self, *, likelihood: bool, gaps: bool, refine: bool) -> None:
        """Refuse impossible requests before any long computation."""
        from lowerbound.evaluation.checks import check_normalized
        from lowerbound.evaluation.refining import check_refinable

        if likelihood:
            check_normalized("a log likelihood", self.model)
        if gaps:
            check_refinable("inference_gaps", self.model, self.examples)
        if refine:
            check_refinable("refine", self.model, self.examples)

    def add_bound(self, part: str) -> None:
        import lowerbound as lb
        from lowerbound.describe import describe

        estimate = lb.evaluate(self.model, self.objective, self.examples, seed=self.seed)
        separate_elbo = evaluate_elbo(self.model, self.objective, self.examples, self.seed)
        elbo = separate_elbo or estimate
        estimates = {**estimate.terms, "bound": estimate, "elbo": elbo, **elbo.terms}
        self.report.add(
            describe_estimate(estimate, part, self.objective, separate_elbo),
            {
                "objective": describe(self.objective),
                **{name: mean_to_json(term) for name, term in estimates.items()},
                "label": estimate.label,
            },
        )
        if estimate.bits_per_dimension is not None:
            self.report.add(None, {"bits_per_dimension": estimate.bits_per_dimension})
        if (gain := estimate.gain) is not None:
            sentence = None if gain.warning else str(gain)
            self.report.add(sentence, gain.as_record())
            self.report.warn(gain.warning)

    def add_log_likelihood(self, samples: int, compile: Compile) -> None:
        from lowerbound.evaluation.importance import log_likelihood

        with show_progress("log likelihood") as progress:
            estimate = log_likelihood(
                self.model,
                self.examples,
                samples,
                seed=self.seed,
                compile=compile,
                progress=progress,
            )
        self.report.add(
            describe_likelihood(estimate), {"log_likelihood": likelihood_to_json(estimate)}
        )
        self.report.add(estimate.pace, {})
        self.report.warn(estimate.warning)

    def add_annealed(self, distributions: int) -> None:
        from lowerbound.evaluation.annealing import annealed_log_likelihood

        with show_progress("annealing") as progress:
            estimate = annealed_log_likelihood(
                self.model,
                self.examples.spread(MOST_EXAMPLES_FOR_ANNEALING),
                distributions=distributions,
                seed=self.seed,
                progress=progress,
            )
        self.report.add(
            describe_likelihood(estimate),
            {"annealed_log_likelihood": likelihood_to_json(estimate)},
        )
        self.report.warn(estimate.warning)

    def add_columns(self) -> None:
        """For a table, add how well the model explains each column."""
        from dataclasses import asdict

        from lowerbound.evaluation.column_scores import describe_columns_explained, score_columns
        from lowerbound.models import TableModel

        if not isinstance(self.model, TableModel):
            return
        found = score_columns(self.model, self.examples, seed=self.seed)
        self.report.add(
            describe_columns_explained(found),
            {"columns": [asdict(each) | {"gain": each.gain} for each in found]},
        )

    def add_health(self, directory: Path) -> None:
        from lowerbound.errors import UnsupportedError
        from lowerbound.evaluation.health import latent_health

        try:
            health = latent_health(
                self.model,
                self.examples,
                seed=self.seed,
                objective=self.objective,
                schedules=read_schedules(directory),
            )
        except UnsupportedError as error:
            self.report.add(f"the latents were not examined: {error}", {"health": None})
            return
        self.report.warn(*map(str, health.findings))
        self.report.add("\n".join(health.lines()), {"health": _health_to_json(health)})

    def add_gaps(self, train: "Examples | None") -> None:
        from lowerbound.evaluation.gaps import inference_gaps

        some = self.examples.spread(_MOST_EXAMPLES_TO_REFINE)
        with show_progress("gaps") as progress:
            gaps = inference_gaps(self.model, some, train=train, seed=self.seed, progress=progress)
        self.report.add(f"{gaps}\n{gaps.advice}", {"gaps": _gaps_to_json(gaps)})
        self.report.warn(gaps.log_likelihood.warning, gaps.warning)

    def add_refined(self, steps: int) -> None:
        import lowerbound as lb

        some = self.examples.spread(_MOST_EXAMPLES_TO_REFINE)
        with show_progress("refine") as progress:
            refined = lb.refine(self.model, some, steps=steps, seed=self.seed, progress=progress)
        self.report.add(
            f"refined bound {format_mean(refined.bound)} nats per example "
            f"({len(some):,} examples, rounds of {steps:,} steps; {format_mean(refined.gain)} nats "
            "above the bound with the encoder's posteriors)",
            {"refined": _refined_to_json(refined) | {"steps": steps}},
        )
        self.report.warn(refined.warning)

    def finish(self, part: str) -> None:
        self.report.finish(
            {
                "split": part,
                "examples": len(self.examples),
                "samples": self.objective.samples,
                "seed": self.seed,
                "unit": "nats",
            }
        )


def _health_to_json(health: "LatentHealth") -> dict[str, Any]:
    groups = {}
    if len(health.groups) > 1:
        groups = {"groups": {name: _group_to_json(group) for name, group in health.groups.items()}}
    return (
        _group_to_json(health)
        | groups
        | {
            "scale_floor_reached": health.scale_floor_reached,
            "scale_ceiling_reached": health.scale_ceiling_reached,
            "collapsed": health.collapsed,
            "findings": [vars(finding) for finding in health.findings],
        }
    )


def _group_to_json(group: "GroupHealth") -> dict[str, Any]:
    upper_bounds = ["aggregate_kl", "total_correlation"]
    codes = {}
    if group.codes is not None:
        codes = {
            "code_usage": group.codes.usage.tolist(),
            "code_perplexity": group.codes.perplexity.tolist(),
        }
    return {
        "rate": group.rate,
        "rate_per_unit": _convert_to_list(group.rate_per_unit),
        "active_units": group.active_units,
        "units": group.units,
        "variances": group.variances.tolist(),
        "mutual_information": group.mutual_information,
        "mutual_information_error": group.mutual_information_error,
        "mutual_information_saturated": group.saturated,
        "mutual_information_unknown": group.unknown,
        "own_share": group.own_share,
        "components": group.components,
        "aggregate_kl": group.aggregate_kl,
        "marginal_kl": group.marginal_kl,
        "total_correlation": group.total_correlation,
        "upper_bounds": upper_bounds * group.saturated,
        **codes,
    }


def _convert_to_list(values: Any) -> list[float] | None:
    if values is None:
        return None
    listed: list[float] = values.tolist()
    return listed


def _gaps_to_json(gaps: "Gaps") -> dict[str, Any]:
    rows = {
        name.replace(" ", "_"): {"mean": mean, "standard_error": error}
        for name, mean, error in gaps.rows()
    }
    return rows | {
        "examples": len(gaps.log_likelihood.per_example),
        "advice": gaps.advice,
        "warning": gaps.log_likelihood.warning,
        "search_warning": gaps.warning,
    }


def _refined_to_json(refined: "RefinedPosterior") -> dict[str, Any]:
    return {
        "bound": mean_to_json(refined.bound),
        "amortised_bound": mean_to_json(refined.amortised_bound),
        "gain": mean_to_json(refined.gain),
        "examples": len(refined.embeddings),
        "search_warning": refined.warning,
    }
