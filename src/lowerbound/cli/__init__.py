"""The command ``lowerbound`` parses its arguments, calls the library, and prints the results.

Its exit code is 0 after success, 2 after a mistake that the user can correct, 130 after an
interrupt, 141 after the reader of its output ended first, and 1 after a bug in lowerbound.
"""

import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lowerbound import __version__
from lowerbound.cli import comparing, evaluating, inspecting, listing, selftesting, training
from lowerbound.cli.pipes import exit_when_closed
from lowerbound.errors import LowerboundError

_BUG_MESSAGE = (
    "this is a bug in lowerbound, not your mistake; please report it with the lines above"
)


class _TrainFirst(TyperGroup):
    """A group of commands that lists ``train`` first, because it comes before the others."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "train")


app = typer.Typer(
    cls=_TrainFirst,
    name="lowerbound",
    help="Variational auto-encoders and variational inference, with bounds that are right to the "
    "last nat.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (training, evaluating, comparing, inspecting, listing, selftesting):
    part.register(app)


@app.callback()
def _accept_version_flag(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command, and end the process with its exit code."""
    with exit_when_closed():
        _run(sys.argv[1:] if arguments is None else arguments)


def _run(arguments: list[str]) -> None:
    if arguments == ["--version"]:
        print(f"lowerbound {__version__}")
        sys.exit(0)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            code = app(arguments, prog_name="lowerbound", standalone_mode=False)
    except typer.TyperException as error:
        _fail(error.format_message())
    except LowerboundError as error:
        _fail(str(error))
    except typer.Abort:
        sys.exit(130)
    except Exception:
        traceback.print_exc()
        print(f"lowerbound: {_BUG_MESSAGE}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _print_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"lowerbound: warning: {message}", file=sys.stderr)


def _fail(message: str) -> None:
    if message:  # the message is empty if typer has printed the help instead
        print(f"lowerbound: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
