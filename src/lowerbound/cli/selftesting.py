"""``lowerbound selftest`` checks the library's results on this machine."""

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
    thorough: Annotated[bool, typer.Option("--thorough", help="Also run the slow checks.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Run only the check of this name. Repeat the flag for several checks.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check the library's results on this machine, in about half a minute.

    They are compared with closed forms, quadrature, enumeration and other libraries. Each line
    shows a statement, the measured difference, and the largest difference that is allowed.
    """
    from rich.console import Console

    from lowerbound.selftest import run_each

    console = Console(highlight=False, soft_wrap=True)
    done = []
    for outcome in run_each(thorough, only or ()):
        done.append(outcome)
        if not as_json:
            console.print(_format_line(outcome))
    failed = [outcome.name for outcome in done if not outcome.passed]
    if as_json:
        entries = [_make_entry(outcome) for outcome in done]
        print(dumps({"passed": not failed, "checks": entries, "versions": _read_versions()}))
    else:
        console.print(f"{len(done) - len(failed)} of {len(done)} statements hold", style="bold")
    if failed and not as_json:
        console.print(f"these do not: {', '.join(failed)}; please report them with the lines above")
    if failed:
        raise typer.Exit(1)


def _format_line(outcome: "Outcome") -> str:
    from rich.markup import escape

    mark = "[red]✗[/red]"
    if outcome.passed:
        mark = "[green]✓[/green]"
    result = f"{outcome.measured:.2g} (at most {outcome.tolerance:g})"
    if outcome.error is not None:
        result = escape(outcome.error)
    return (
        f"{mark} {escape(outcome.statement)} [dim]({outcome.name})[/dim]: {result}, "
        f"{outcome.seconds:.1f} s"
    )


def _make_entry(outcome: "Outcome") -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": outcome.name,
        "statement": outcome.statement,
        "measured": outcome.measured,
        "tolerance": outcome.tolerance,
        "passed": outcome.passed,
        "seconds": round(outcome.seconds, 3),
    }
    if outcome.error is not None:
        entry["error"] = outcome.error
    return entry


def _read_versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    from lowerbound import __version__

    return {
        "lowerbound": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }
