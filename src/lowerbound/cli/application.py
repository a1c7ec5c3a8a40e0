"""The application: all commands, and the exit code that follows from each error."""

import sys
import traceback
import warnings
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lowerbound import __version__
from lowerbound.cli import (
    comparing,
    compressing,
    data,
    evaluating,
    inspecting,
    listing,
    selftesting,
    tables,
    training,
)
from lowerbound.cli.remedies import write_as_options
from lowerbound.errors import DoubtfulEstimateWarning, LowerboundError
from lowerbound.runtime.interrupts import EXIT_CODE, StopSignals

_BUG_MESSAGE = (
    "this is a bug in lowerbound, not your mistake; please report it with the lines above"
)


class _TrainFirst(TyperGroup):
    """A group of commands that lists ``train`` first, because it comes before the others."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: name != "train")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        is_known = self.get_command(ctx, name) is not None
        if not (is_known or ctx.resilient_parsing or name.startswith("-")):
            ctx.fail(_describe_unknown_command(name, self._list_with_groups(ctx)))
        return super().resolve_command(ctx, args)

    def _list_with_groups(self, ctx: Any) -> list[str]:
        """List the commands, and those of groups with the name of their group before it."""
        found = self.list_commands(ctx)
        for name in self.list_commands(ctx):
            group = self.get_command(ctx, name)
            if isinstance(group, TyperGroup):
                found += [f"{name} {each}" for each in group.list_commands(ctx)]
        return found


def _describe_unknown_command(name: str, commands: list[str]) -> str:
    last_words = {command.split()[-1]: command for command in reversed(commands)}
    hint = f"the commands are {', '.join(each for each in commands if ' ' not in each)}"
    if near := get_close_matches(name, last_words, n=1):
        hint = f"did you mean {last_words[near[0]]!r}?"
    return f"{name!r} is not a command; {hint}"


app = typer.Typer(
    cls=_TrainFirst,
    name="lowerbound",
    help="Variational auto-encoders and variational inference, with bounds that are right to the "
    "last nat.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (
    training,
    evaluating,
    comparing,
    inspecting,
    compressing,
    tables,
    data,
    listing,
    selftesting,
):
    part.register(app)


@app.callback()
def _accept_version_flag(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    pass


def run(arguments: list[str], signals: StopSignals) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: The words after the name of the command.
        signals: Say whether an error follows from a signal.
    """
    if arguments == ["--version"]:
        print(f"lowerbound {__version__}")
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            # The command prints the warning of an estimate next to the estimate.
            warnings.simplefilter("ignore", DoubtfulEstimateWarning)
            code = app(arguments, prog_name="lowerbound", standalone_mode=False)
    except typer.TyperException as error:
        return _fail(_describe_usage_error(error))
    except LowerboundError as error:
        return _fail(write_as_options(str(error)))
    except Exception:
        if signals.requested:  # foreign code may turn an interrupt into an error of its own
            return EXIT_CODE
        traceback.print_exc()
        print(f"lowerbound: {_BUG_MESSAGE}", file=sys.stderr)
        return 1
    # typer turns a KeyboardInterrupt into the code 130
    return code if isinstance(code, int) else 0


def _describe_usage_error(error: Any) -> str:
    option = getattr(error, "option_name", None)
    if option is None or not hasattr(error, "possibilities"):
        return str(error.format_message())
    command = "" if error.ctx is None else error.ctx.command_path
    if option in {"--config", "--resume"} and command.startswith("lowerbound train "):
        return f"{option} takes no recipe: lowerbound train {option} ..."
    near = get_close_matches(option, error.possibilities or (), n=1, cutoff=0.7)
    if near:
        return f"{option} is not an option; did you mean {near[0]}?"
    if command == "lowerbound train":
        return (
            f"{option} is not an option of lowerbound train; if it is one of a recipe, name the "
            f"recipe first: lowerbound train RECIPE {option} ... A run that is resumed or repeated "
            "keeps its data and its model"
        )
    return f"{option} is not an option; {command or 'lowerbound'} --help lists them"


def _print_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    print(f"lowerbound: warning: {write_as_options(str(message))}", file=sys.stderr)


def _fail(message: str) -> int:
    if message:  # the message is empty if typer has printed the help instead
        print(f"lowerbound: {' '.join(message.split())}", file=sys.stderr)
    return 2
