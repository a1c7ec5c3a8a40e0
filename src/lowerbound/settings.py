"""Settings have one place: the signature of the function that takes them.

A keyword-only parameter annotated ``Annotated[type, Field(description=..., ge=...)]`` is a setting. From the signature come
the checks of its value, the schema of a run's ``config.yaml``, and the flags of the command with their help texts.
"""

import inspect
import operator
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from lowerbound.errors import SettingsError

Function = TypeVar("Function", bound=Callable[..., Any])


def has_settings(function: Function) -> Function:
    """Decorator: ``help()`` and editors see the plain types; the descriptions and bounds stay for :func:`settings_of`."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=_plain(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    vars(function).update(_settings=signature, __signature__=signature.replace(parameters=plain))
    return function


def _plain(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


@cache
def settings_of(function: Callable[..., Any]) -> type[BaseModel]:
    """The settings of a function, as a pydantic model."""
    fields: dict[str, Any] = {
        name: (
            parameter.annotation,
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for name, parameter in vars(function)
        .get("_settings", inspect.signature(function))
        .parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        and get_origin(parameter.annotation) is Annotated
    }
    config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    return create_model(function.__name__, __config__=config, **fields)


def checked(
    function: Callable[..., Any], values: Mapping[str, Any], *, name: str | None = None
) -> dict[str, Any]:
    """The settings of ``function`` with ``values`` filled in, checked and converted.

    Raises:
        SettingsError: naming the first setting that is unknown or out of range, and what is allowed.

    Example:
        >>> from pydantic import Field
        >>> def brew(*, cups: Annotated[int, Field(ge=1, description="how many cups")] = 2): ...
        >>> checked(brew, {"cups": 3})
        {'cups': 3}
        >>> checked(brew, {"cupz": 3})
        Traceback (most recent call last):
        lowerbound.errors.SettingsError: brew: there is no setting 'cupz'; did you mean 'cups'?
    """
    schema, name = settings_of(function), name or function.__name__
    if not isinstance(values, Mapping):
        raise SettingsError(f"{name}: expected settings by name, not {values!r}")
    for unknown in values.keys() - schema.model_fields.keys():
        near = get_close_matches(str(unknown), schema.model_fields, n=1)
        hint = (
            f"did you mean {near[0]!r}?" if near else f"there are {', '.join(schema.model_fields)}"
        )
        raise SettingsError(f"{name}: there is no setting {unknown!r}; {hint}")
    try:
        settings = schema(**{key: _value(value) for key, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise SettingsError(f"{name}: {where}={first['input']!r}: {first['msg'].lower()}") from None
    return {field: getattr(settings, field) for field in schema.model_fields}


def _value(value: Any) -> Any:
    """numpy's scalars as Python's numbers, and paths as text; anything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return (
        value.item()
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
        else value
    )


def whole_number(name: str, value: Any) -> int:
    """``value`` as an integer of at least 1.

    Raises:
        SettingsError: if it is none, naming it.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise SettingsError(f"{name}={value!r} must be a whole number of at least 1")
    return number
