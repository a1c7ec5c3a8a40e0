"""Settings. Each is defined once, as a field with a type, bounds, a default and a description.

A class of settings is a subclass of :class:`Settings`, such as
:class:`lowerbound.training.settings.TrainingSettings`. A function may also declare its settings in
its signature, as ``load_data`` and the recipes do. Each setting is then a keyword-only parameter
with the annotation ``Annotated[type, Field(description=..., ge=...)]``, and :func:`read_settings`
makes the class from the signature. The class determines the checks, the sections of a run's
``config.yaml``, the command's flags with their help texts, and the entries of docstrings.
"""

import inspect
import math
import operator
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from numbers import Real
from textwrap import fill
from typing import Annotated, Any, TypeGuard, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from lowerbound.errors import SettingsError

Function = TypeVar("Function", bound=Callable[..., Any])
S = TypeVar("S", bound="Settings")

# In a docstring, the list of settings replaces this entry.
_KEYWORDS = "    keywords: "


class Settings(BaseModel):
    """The base of all settings, which are frozen and take only the types that they declare.

    To write your own: subclass it, and give each field a type with its bounds, a default, and a
    docstring. The first paragraph of the docstring is the help text of the flag; all of it is the
    entry in a function's docstring.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True
    )


def check_settings(schema: type[S], values: Mapping[str, Any], *, name: str) -> S:
    """Make settings from ``values``, which are checked and converted.

    Args:
        schema: the class of the settings.
        values: the given values by name; all other settings take their defaults.
        name: the name of the settings in error messages.

    Raises:
        SettingsError: naming the first setting that is unknown or out of range, and what is
            allowed.

    Example:
        >>> from pydantic import Field
        >>> class Brew(Settings):
        ...     cups: Annotated[int, Field(ge=1)] = 2
        >>> check_settings(Brew, {"cups": 3}, name="brew").cups
        3
        >>> check_settings(Brew, {"cupz": 3}, name="brew")
        Traceback (most recent call last):
        lowerbound.errors.SettingsError: brew: 'cupz' is not a setting; did you mean 'cups'?
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"{name}: expected settings by name, not {values!r}")
    for unknown in values.keys() - schema.model_fields.keys():
        near = get_close_matches(str(unknown), schema.model_fields, n=1)
        hint = f"the settings are {', '.join(schema.model_fields)}"
        if near:
            hint = f"did you mean {near[0]!r}?"
        raise SettingsError(f"{name}: {unknown!r} is not a setting; {hint}")
    try:
        return schema(**{key: _convert_to_python(value) for key, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        setting, reason = first["loc"][0], first["msg"].lower()
        raise SettingsError(f"{name}: {setting}={first['input']!r}: {reason}") from None


def check_arguments(
    function: Callable[..., Any], values: Mapping[str, Any], *, name: str | None = None
) -> dict[str, Any]:
    """Check and convert ``values`` of the settings in a function's signature, and add the defaults.

    Raises:
        SettingsError: as :func:`check_settings`, under ``name`` or the function's own name.
    """
    return dict(check_settings(read_settings(function), values, name=name or function.__name__))


def _convert_to_python(value: Any) -> Any:
    """Convert a scalar of numpy to a number of Python, and a path to text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def has_settings(function: Function) -> Function:
    """Decorator: ``help()`` and editors see plain types, :func:`read_settings` also bounds."""
    signature = inspect.signature(function)
    plain = [
        parameter.replace(annotation=_drop_bounds(parameter.annotation))
        for parameter in signature.parameters.values()
    ]
    vars(function).update(_settings=signature, __signature__=signature.replace(parameters=plain))
    return function


def _drop_bounds(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return get_args(annotation)[0]
    return annotation


@cache
def read_settings(function: Callable[..., Any]) -> type[Settings]:
    """Make a class of the settings in a function's signature."""
    signature = vars(function).get("_settings", inspect.signature(function))
    fields: dict[str, Any] = {
        name: (parameter.annotation, _mark_required(parameter.default))
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
        and get_origin(parameter.annotation) is Annotated
    }
    return create_model(function.__name__, __base__=Settings, **fields)


def _mark_required(default: Any) -> Any:
    """Replace a missing default by ``...``, by which pydantic knows a required field."""
    if default is inspect.Parameter.empty:
        return ...
    return default


def takes_settings(schema: type[Settings]) -> Callable[[Function], Function]:
    """Decorator: the ``**keywords`` of a function are the fields of ``schema``.

    The function's signature shows each of them as a keyword of its own, and its docstring lists
    them in place of the entry ``keywords``.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.annotation,
            )
            for name, field in schema.model_fields.items()
        ]
        vars(function).update(__signature__=signature.replace(parameters=[*own, *keywords]))
        lines = inspect.cleandoc(function.__doc__ or "").splitlines()
        function.__doc__ = "\n".join(
            write_docstring_entries(schema) if line.startswith(_KEYWORDS) else line
            for line in lines
        )
        return function

    return decorate


def write_docstring_entries(schema: type[Settings]) -> str:
    """Write the settings as entries of a docstring's section ``Args``."""
    return "\n".join(
        fill(
            f"{name}: {_make_sentence(field.description)}",
            96,
            initial_indent="    ",
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for name, field in schema.model_fields.items()
    )


def write_help(field: FieldInfo) -> str:
    """Write the help text of a setting: the first paragraph of its description."""
    return _make_sentence((field.description or "").split("\n\n")[0])


def _make_sentence(text: str | None) -> str:
    """Put a text on one line, with a capital letter at the start and a full stop at the end."""
    line = " ".join((text or "").split())
    if not line:
        return ""
    return f"{line[0].upper()}{line[1:].rstrip('.')}."


def check_whole_number(name: str, value: Any) -> int:
    """Convert ``value`` to an integer of at least 1.

    Raises:
        SettingsError: if that is not possible, naming the value.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise SettingsError(f"{name}={value!r} must be a whole number of at least 1")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Check that ``value`` is True or False, because any other object would count as one of them.

    Raises:
        SettingsError: naming the value.
    """
    if not isinstance(value, bool):
        raise SettingsError(f"{name}={value!r} must be True or False")
    return value


def is_positive_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a positive, finite number. True and False do not count as numbers."""
    return _is_number(value) and 0 < value < math.inf


def check_share(name: str, value: Any) -> float:
    """Check that ``value`` is a number from 0 to below 1.

    Raises:
        SettingsError: naming the value.
    """
    if not _is_number(value) or not 0 <= value < 1:
        raise SettingsError(f"{name}={value!r} must be a share from 0 to below 1")
    return value


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, Real) and not isinstance(value, bool)


def check_seed(name: str, seed: Any) -> int:
    """Convert a seed to an integer from 0 to 2^31 - 1.

    Raises:
        SettingsError: if that is not possible, naming the function that was given the seed.

    Example:
        >>> check_seed("draw", -1)
        Traceback (most recent call last):
        lowerbound.errors.SettingsError: draw: seed=-1 must be a whole number from 0 to 2^31 - 1
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < 2**31 or isinstance(seed, bool):
        raise SettingsError(f"{name}: seed={seed!r} must be a whole number from 0 to 2^31 - 1")
    return number
