"""From settings in a function's signature to flags of the command."""

import inspect
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from lowerbound.settings import settings_of


def flags(
    function: Callable[..., Any],
    panel: str,
    defaults: Mapping[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    more: Mapping[str, str] | None = None,
) -> list[inspect.Parameter]:
    """A flag for each setting of ``function``: its help text, type and default are the setting's.

    Args:
        function: whose settings become flags.
        panel: the heading under which the help lists them.
        defaults: that replace the function's own.
        leave_out: settings that get no flag.
        more: what to add to help texts.
    """
    fields = {
        name: info
        for name, info in settings_of(function).model_fields.items()
        if name not in leave_out
    }
    return [
        flag(
            name,
            _plain(info.annotation, default),
            f"{info.description}{(more or {}).get(name, '')}",
            panel,
            default,
        )
        for name, info in fields.items()
        for default in [(defaults or {}).get(name, info.default)]
    ]


def flag(
    name: str, kind: Any, text: str, panel: str, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    """One flag, required where it has no default."""
    annotation = Annotated[kind, typer.Option(help=text, rich_help_panel=panel)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _plain(annotation: Any, default: Any) -> Any:
    """The type that a flag's text is first read as; the setting's own checks come after."""
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        plain = members[0] if len(members) == 1 else str
        return plain | None if default is None and get_origin(plain) is not Literal else plain
    return annotation


def with_flags(
    function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """``function``, which takes its flags as keywords, with a signature that typer can read."""
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    vars(function).update(__signature__=inspect.Signature(parameters))
    function.__annotations__ = annotations
    return function
