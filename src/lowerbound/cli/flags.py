"""Flags of the command, made from settings."""

import inspect
from collections.abc import Callable, Collection, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from lowerbound.settings import Settings, write_help


def make_flags(
    schema: type[Settings],
    panel: str,
    *,
    defaults: Mapping[str, Any] | None = None,
    leave_out: Collection[str] = (),
    more: Mapping[str, str] | None = None,
) -> list[inspect.Parameter]:
    """Make a flag for each setting, with the help text, type and default of the setting.

    Args:
        schema: the class of the settings.
        panel: the heading under which the help lists the flags.
        defaults: defaults that replace those of the settings.
        leave_out: settings without a flag.
        more: sentences to add to help texts.
    """
    defaults, more = defaults or {}, more or {}
    made = []
    for name, field in schema.model_fields.items():
        if name in leave_out:
            continue
        default = defaults.get(name, field.default)
        kind = _choose_type(field.annotation, default)
        text = f"{write_help(field)} {more.get(name, '')}".strip()
        made.append(make_flag(name, kind, text, panel, default))
    return made


def make_flag(
    name: str, kind: Any, text: str, panel: str, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    """Make one flag, which is required unless it has a default."""
    annotation = Annotated[kind, typer.Option(help=text, rich_help_panel=panel)]
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _choose_type(annotation: Any, default: Any) -> Any:
    """Choose the type as which typer parses a flag. The setting's own checks follow later."""
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    members = [member for member in get_args(annotation) if member is not type(None)]
    kind = members[0] if len(members) == 1 else str
    if default is None and get_origin(kind) is not Literal:
        return kind | None
    return kind


def set_flags(
    function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """Set the signature from which typer reads the flags of a function."""
    annotations = {parameter.name: parameter.annotation for parameter in parameters}
    vars(function).update(__signature__=inspect.Signature(parameters))
    function.__annotations__ = annotations
    return function
