"""``lowerbound selftest``: what the package says of its numbers, measured on this machine."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.cli.runs import dumps

if TYPE_CHECKING:
    from lowerbound.selftest import Outcome

_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(selftest)


def selftest(
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Also the checks that take long.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only the check of this name; can be given more than once.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Prove the package's numbers on this machine: against closed forms, enumeration and other libraries."""
    from rich.console import Console

    from lowerbound.selftest import outcomes

    console = Console(highlight=False, soft_wrap=True)
    ended = []
    for outcome in outcomes(thorough, only or ()):
        ended.append(outcome)
        if not as_json:
            console.print(_line(outcome))
    failed = [outcome.name for outcome in ended if not outcome.passed]
    if as_json:
        print(
            dumps(
                {
                    "passed": not failed,
                    "checks": [_entry(outcome) for outcome in ended],
                    "versions": _versions(),
                }
            )
        )
    else:
        console.print(f"{len(ended) - len(failed)} of {len(ended)} statements hold", style="bold")
    if failed:
        if not as_json:
            console.print(
                f"these do not: {', '.join(failed)}; please report them with the lines above"
            )
        raise typer.Exit(1)


def _line(outcome: "Outcome") -> str:
    from rich.markup import escape

    mark, colour = ("✓", "green") if outcome.passed else ("✗", "red")
    found = (
        f"{outcome.measured:.2g} (at most {outcome.tolerance:g})"
        if outcome.error is None
        else escape(outcome.error)
    )
    return f"[{colour}]{mark}[/{colour}] {escape(outcome.statement)} [dim]({outcome.name})[/dim]: {found}, {outcome.seconds:.1f} s"


def _entry(outcome: "Outcome") -> dict[str, Any]:
    entry = {
        "name": outcome.name,
        "statement": outcome.statement,
        "measured": outcome.measured,
        "tolerance": outcome.tolerance,
        "passed": outcome.passed,
        "seconds": round(outcome.seconds, 3),
    }
    return entry if outcome.error is None else entry | {"error": outcome.error}


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    from lowerbound import __version__

    return {
        "lowerbound": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }
