"""``lowerbound evaluate``: how good a run is, in nats, and what its latents carry."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.runs import (
    ANNEALED,
    Anneal,
    AsJson,
    Compile,
    Data,
    Directory,
    ScoredPart,
    Seed,
    as_numbers,
    describe_estimate,
    describe_likelihood,
    dumps,
    elbo_beside,
    examples_of,
    likelihood_as_numbers,
    objective_of,
    open_run,
    schedules_reached,
    usual_part,
)

if TYPE_CHECKING:
    from lowerbound.data import Examples
    from lowerbound.evaluation.gaps import Gaps
    from lowerbound.evaluation.health import LatentHealth

# Examples whose posterior is refined for --gaps, at a cost of some 0.1 seconds each.
_REFINED = 200


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)


def evaluate(  # noqa: PLR0917 (typer calls it by name)
    directory: Directory,
    data: Data = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Draws of z for each example; the run's own number if not given."),
    ] = None,
    split: ScoredPart = None,
    log_likelihood: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also the log likelihood, by importance sampling with so many draws, such as 5000.",
        ),
    ] = None,
    compile: Compile = "auto",
    anneal: Anneal = None,
    gaps: Annotated[
        bool,
        typer.Option(
            "--gaps",
            help=f"Also where the bound loses to the log likelihood, on {_REFINED} examples.",
        ),
    ] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """The bound with its terms and standard errors, in nats per example, and what the latents carry."""
    import lowerbound as lb
    from lowerbound.cli.progress_bar import progress_bar
    from lowerbound.describe import describe
    from lowerbound.evaluation.gaps import check_refinable, inference_gaps
    from lowerbound.evaluation.health import latent_health
    from lowerbound.evaluation.importance import log_likelihood as importance_sampled

    model, config = open_run(directory)
    part = split or usual_part(data)
    examples = examples_of(config, data, part, model)
    objective = objective_of(config, samples)
    if gaps:  # refused before all that takes long
        check_refinable(model, examples)
    told = _Told(as_json)
    estimate = lb.evaluate(model, objective, examples, seed=seed)
    beside = elbo_beside(model, objective, examples, seed)
    elbo = beside or estimate
    figures = {**estimate.terms, "bound": estimate, "elbo": elbo, **elbo.terms}
    told.add(
        describe_estimate(estimate, part, objective, beside),
        {"objective": describe(objective)}
        | {name: as_numbers(term) for name, term in figures.items()},
    )
    if estimate.bits_per_dimension is not None:
        told.add("", {"bits_per_dimension": estimate.bits_per_dimension})
    if log_likelihood is not None:
        with progress_bar("log likelihood") as progress:
            likelihood = importance_sampled(
                model, examples, log_likelihood, seed=seed, compile=compile, progress=progress
            )
        told.add(
            describe_likelihood(likelihood), {"log_likelihood": likelihood_as_numbers(likelihood)}
        )
        told.add(likelihood.pace or "", {})
        told.warn(likelihood.warning)
    if anneal is not None:
        few = examples.spread(ANNEALED)
        with progress_bar("annealing") as progress:
            annealed = lb.annealed_log_likelihood(
                model, few, distributions=anneal, seed=seed, progress=progress
            )
        told.add(
            describe_likelihood(annealed),
            {"annealed_log_likelihood": likelihood_as_numbers(annealed)},
        )
    if isinstance(model, lb.LatentModel):
        health = latent_health(
            model, examples, seed=seed, objective=objective, schedules=schedules_reached(directory)
        )
        told.warn(*map(str, health.findings))
        told.add("\n".join(health.lines()), {"health": _health_as_numbers(health)})
    else:
        told.add(
            f"latents: not looked at, a {type(model).__name__} has no single posterior over z",
            {"health": None},
        )
    if gaps:
        train = examples_of(config, None, "train") if data is None and part == "test" else None
        with progress_bar("gaps") as progress:
            few = examples.spread(_REFINED)
            found = inference_gaps(model, few, train=train, seed=seed, progress=progress)
        told.add(f"{found}\n{found.advice}", {"gaps": _gaps_as_numbers(found)})
        told.warn(found.log_likelihood.warning, found.warning)
    told.end(_context(part, examples, objective.samples, seed))


class _Told:
    """What has been found out: printed at once as text, or at the end as one JSON object."""

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self.figures: dict[str, Any] | None = {} if as_json else None
        self.console = Console(highlight=False, soft_wrap=True, markup=False)

    def add(self, text: str, figures: dict[str, Any]) -> None:
        """Something that was found."""
        if self.figures is not None:
            self.figures |= figures
        elif text:
            self.console.print(text)

    def warn(self, *messages: str | None) -> None:
        """What the user should not overlook; in JSON it is among the figures."""
        for message in messages:
            if message is not None and self.figures is None:
                self.console.print(message, style="bold yellow")

    def end(self, context: dict[str, Any]) -> None:
        """Print the JSON object."""
        if self.figures is not None:
            print(dumps(self.figures | context))


def _context(part: str, examples: "Examples", samples: int, seed: int) -> dict[str, Any]:
    return {
        "split": part,
        "examples": len(examples),
        "samples": samples,
        "seed": seed,
        "unit": "nats",
    }


def _health_as_numbers(health: "LatentHealth") -> dict[str, Any]:
    return {
        "rate": health.rate,
        "rate_per_unit": None if health.rate_per_unit is None else health.rate_per_unit.tolist(),
        "active_units": health.active_units,
        "units": health.units,
        "variances": health.variances.tolist(),
        "mutual_information": health.mutual_information,
        "mutual_information_error": health.mutual_information_error,
        "mutual_information_saturated": health.saturated,
        "own_share": health.own_share,
        "components": health.components,
        "aggregate_kl": health.aggregate_kl,
        "marginal_kl": health.marginal_kl,
        "total_correlation": health.total_correlation,
        "upper_bounds": ["aggregate_kl", "total_correlation"] if health.saturated else [],
        "scale_floor_reached": health.scale_floor_reached,
        "scale_ceiling_reached": health.scale_ceiling_reached,
        "collapsed": health.collapsed,
        "findings": [vars(finding) for finding in health.findings],
    }


def _gaps_as_numbers(gaps: "Gaps") -> dict[str, Any]:
    rows = {
        name.replace(" ", "_"): {"mean": mean, "standard_error": error}
        for name, mean, error in gaps.rows()
    }
    examples = len(gaps.log_likelihood.per_example)
    return rows | {
        "examples": examples,
        "advice": gaps.advice,
        "warning": gaps.log_likelihood.warning,
        "search_warning": gaps.warning,
    }
