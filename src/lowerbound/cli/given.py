"""Fields that a user gives to a conditional model on the command line: ``--given label=3``."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lowerbound.errors import SettingsError

if TYPE_CHECKING:
    from lowerbound.data.examples import Examples
    from lowerbound.models import Model

GivenFields = Annotated[
    list[str] | None,
    typer.Option(
        "--given",
        metavar="FIELD=VALUE",
        help="A field of a conditional model, such as label=3 or label=cat: one value for all, or "
        "one for each, separated by commas. Repeat it for several fields. For a table, a file with "
        "some of its columns.",
        show_default=False,
    ),
]


def parse_given(entries: Sequence[str] | None, model: "Model") -> dict[str, Any]:
    """Parse the fields that a user gave into the keywords of ``model.sample``.

    Raises:
        SettingsError: if an entry is not ``FIELD=VALUE``, if the model does not know the field, if
            a field is given twice, or if a value is not a finite number or the name of a category.
    """
    given: dict[str, Any] = {}
    known = (*model.needs, *model.accepts)
    for entry in entries or ():
        name, equals, text = (part.strip() for part in entry.partition("="))
        if not (name and equals and text):
            raise SettingsError(f"--given {entry}: give a field and its value, such as label=3")
        if name in given:
            raise SettingsError(
                f"--given {entry}: {name!r} is given twice; for one value for each, separate them "
                f"by commas: --given {name}=0,1"
            )
        if name not in known:
            fields = "it has no fields"
            if known:
                fields = f"its fields are {', '.join(known)}"
            raise SettingsError(
                f"--given {entry}: the model does not know the field {name!r}; {fields}"
            )
        given[name] = _parse_value(text, name, model)
    return given


def check_given(given: dict[str, Any], model: "Model") -> None:
    """Raise ``SettingsError`` if a field that sampling needs is not given, saying how to give it.

    Sampling uses the prior and the likelihood, but not the posterior.
    """
    from lowerbound.data.fields import EXPOSURE

    for name in _list_needed_fields(model):
        if name in given:
            continue
        example = {EXPOSURE: "1000"}.get(name, "0")
        categories = _find_names(name, model)
        if categories:
            example = f"{categories[0]} (one of {', '.join(categories)})"
        raise SettingsError(
            f"the model is conditional and needs the field {name!r}; give it: "
            f"--given {name}={example}"
        )


def suggest_given(model: "Model", examples: "Examples") -> str:
    """Write flags for the fields that sampling needs, with the values of the first example."""
    flags = ""
    for name, field in examples.select_fields(_list_needed_fields(model)).items():
        if field.dim() > 1:  # a flag has one value for each draw
            continue
        value: Any = field[0].item()
        names = _find_names(name, model)
        if names:
            value = names[int(value)]
        elif isinstance(value, float):
            value = f"{value:g}"
        flags += f" --given {shlex.quote(f'{name}={value}')}"
    return flags


def _list_needed_fields(model: "Model") -> tuple[str, ...]:
    """List the fields that the prior and the likelihood need, by which a model samples.

    A field that a part needs, but the model does not, is a latent variable of the model.
    """
    from lowerbound.conditionals.base import list_field_names

    parts = _list_parts(model, ("prior", "likelihood"))
    return tuple(name for name in list_field_names("needs", *parts) if name in model.needs)


def list_conditions(model: "Model", examples: "Examples") -> tuple[str, ...]:
    """List the fields of the examples on which the density of a model depends.

    Fields that only its posterior uses do not change what the model scores.
    """
    from lowerbound.conditionals.base import list_field_names
    from lowerbound.data.fields import OBSERVED

    inferring = _list_parts(model, ("posterior", "features"))
    scoring = _list_parts(model, ("prior", "likelihood"))
    names = {
        kind: (*list_field_names("needs", *parts), *list_field_names("accepts", *parts))
        for kind, parts in (("inferring", inferring), ("scoring", scoring))
    }
    only_inferring = {OBSERVED, *names["inferring"]} - set(names["scoring"])
    asked = examples.select_fields((), (*model.needs, *model.accepts))
    return tuple(sorted(asked.keys() - only_inferring - {OBSERVED}))


def _list_parts(model: "Model", roles: tuple[str, ...]) -> list[Any]:
    """List the parts of a model whose roles begin with one of these words."""
    parts: Mapping[str, Any] = getattr(model, "list_parts", dict)()
    return [part for role, part in parts.items() if role.startswith(roles)]


def _parse_value(text: str, name: str, model: "Model") -> Any:
    """Parse one value, or several that are separated by commas. Names of categories come first."""
    categories = _find_names(name, model)
    if text in categories:  # a name may contain commas
        return text
    values = [_parse_entry(part.strip(), name, categories, model) for part in text.split(",")]
    if len(values) == 1:
        return values[0]
    return values


def _parse_entry(text: str, name: str, categories: Sequence[str], model: "Model") -> Any:
    if text in categories:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    kinds: list[type] = [int, float]
    if _is_numeric(name, model):
        kinds = [float]
    for convert in kinds:
        try:
            number = convert(text)
        except ValueError:
            continue
        if not -math.inf < number < math.inf:
            raise SettingsError(f"--given {name}={text}: is not finite; give a finite number")
        if "_" not in text:  # Python would read 1_0 as 10
            return number
    if categories:
        raise SettingsError(
            f"--given {name}={text}: is not a category; the categories are {', '.join(categories)}"
        )
    raise SettingsError(
        f"--given {name}={text}: is not a number, and the model does not know names of categories "
        f"of {name!r}; give a number"
    )


def _find_names(name: str, model: "Model") -> tuple[str, ...]:
    if model.preprocessing is None:
        return ()
    return model.preprocessing.fields.get(name) or ()


def _is_numeric(name: str, model: "Model") -> bool:
    """Whether a field is numeric: a part takes it without categories."""
    from lowerbound.conditionals import Given

    parts = [part for part in model.modules() if isinstance(part, Given) and part.field == name]
    return bool(parts) and all(part.categories is None for part in parts)
