"""The recipes by name, each with its usual settings. Imports neither torch nor numpy."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, wraps
from inspect import signature, unwrap
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lowerbound.errors import SettingsError
from lowerbound.settings import (
    check_arguments,
    check_seed,
    has_settings,
    read_settings,
    write_docstring_entries,
)

if TYPE_CHECKING:
    from lowerbound.data import Examples
    from lowerbound.models import Model
    from lowerbound.objectives import Objective


Shape = tuple[int, ...]

# A field with more categories than this is a quantity or an identifier.
_MOST_CATEGORIES = 4096


@dataclass(frozen=True)
class FieldForm:
    """What a recipe is told about a field of the data.

    Args:
        shape: the shape of the field of one example; ``()`` for one value.
        categories: the number of categories; ``None`` for numbers and masks.
    """

    shape: Shape = ()
    categories: int | None = None

    @property
    def inputs(self) -> int:
        """The number of inputs by which :class:`lowerbound.Given` extends a vector."""
        return prod(self.shape) * (self.categories or 1)


@dataclass(frozen=True)
class Form:
    """What a recipe is told about the data.

    Args:
        shape: the shape of an example.
        levels: the number of values of a pixel or a code; ``None`` for other data.
        kind: ``"counts"``, ``"codes"``, or ``None`` for pixels and real numbers.
        schema: the columns of a table, a :class:`lowerbound.data.Schema`; ``None`` for other data.
        fields: the form of each field, by name; the labels are the field ``label``. ``None`` if
            only the shape is known.
        rows: the number of training examples; ``None`` if only the shape is known.

    Example:
        >>> import torch
        >>> import lowerbound as lb
        >>> counts = torch.tensor([[0, 2], [1, 0]])
        >>> form = Form.of(lb.Examples(counts, kind="counts", fields={"donor": ["a", "b"]}))
        >>> form.shape, form.kind, form.fields
        ((2,), 'counts', {'donor': FieldForm(shape=(), categories=2)})
    """

    shape: Shape
    levels: int | None = None
    kind: str | None = None
    schema: Any = None
    fields: Mapping[str, FieldForm] | None = None
    rows: int | None = None

    @classmethod
    def of(cls, data: Any) -> "Form":
        """The form of :class:`~lowerbound.Examples` or a data set, or that of a shape.

        Raises:
            SettingsError: for anything else, such as an array.
        """
        if isinstance(data, Form):
            return data
        examples = getattr(data, "train", data)
        if isinstance(examples, int | tuple | list):
            from lowerbound.networks.shapes import as_shape

            return cls(as_shape(examples))
        if not hasattr(examples, "levels"):
            raise SettingsError(
                "a recipe takes the shape of an example, examples or a data set, not a "
                f"{type(examples).__name__}; load the data by lb.load_data"
            )
        schema = getattr(examples.preprocessing, "schema", None)
        parts = [examples]
        if getattr(data, "has_test", False):
            parts.append(data.test)
        fields = _describe_fields(parts)
        return cls(examples.shape, examples.levels, examples.kind, schema, fields, len(examples))


def _describe_fields(parts: "Sequence[Examples]") -> dict[str, FieldForm]:
    """Find the form of each field of the first part. All parts have the same categories."""
    import torch

    names_of_categories, found = parts[0].categories_by_field, {}
    for name, values in parts[0].all_fields.items():
        categories = None
        if names := names_of_categories.get(name):
            categories = len(names)
        elif values.dtype == torch.int64:
            highest = [int(part.all_fields[name].max()) for part in parts]
            categories = max(0, *highest) + 1
        found[name] = FieldForm(tuple(values.shape[1:]), categories)
    return found


def select_fields(
    form: Form, names: Sequence[str] | str | None, recipe: str
) -> dict[str, FieldForm]:
    """Select the forms of some fields, which a setting of a recipe names.

    Args:
        form: the form of the data.
        names: the names, or text such as ``"donor,age"``.
        recipe: the name of the recipe in messages.

    Raises:
        SettingsError: if the data do not have such a field, with those that they have.

    Example:
        >>> form = Form((9,), fields={"donor": FieldForm(categories=3), "age": FieldForm()})
        >>> select_fields(form, "age", "counts")
        {'age': FieldForm(shape=(), categories=None)}
    """
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",")]
    found = {}
    for name in names or ():
        if form.fields is None:
            raise SettingsError(
                f"{recipe}: the covariate {name!r} is a field of the data, but only their shape is "
                f"known; pass the data: lb.recipes.{recipe}(data, covariates=...)"
            )
        if name not in form.fields:
            raise SettingsError(
                f"{recipe}: the covariate {name!r} is not a field of the data; the fields are: "
                f"{', '.join(form.fields) or 'none'}. Columns of obs of AnnData, and arrays of a "
                f".npz, become fields if load_data names them: fields=[{name!r}] (--fields {name})"
            )
        field = found[name] = form.fields[name]
        if (field.categories or 0) > _MOST_CATEGORIES:
            raise SettingsError(
                f"{recipe}: the covariate {name!r} would have {field.categories:,} categories, "
                "because whole numbers are categories; if it is a quantity, convert it to floating "
                "point and to a spread near 1"
            )
    return found


@dataclass(frozen=True)
class Recipe:
    """A function that composes a model and an objective, and how they are usually trained.

    To write your own: write a function of the shape of an example that returns a model and an
    objective. If its first parameter is called ``form``, it receives a :class:`Form` instead, which
    also contains the kind of the data. Its settings are keyword-only arguments, annotated
    ``Annotated[type, Field(description=...)]``. Decorate it with :func:`recipe`, which checks the
    settings and adds their descriptions to the docstring.

    Args:
        name: the name of the recipe in the command.
        make: the function.
        training: settings of :func:`lowerbound.fit` that differ from its defaults.
        pixels: how the pixels of the data are treated, see :class:`lowerbound.Examples`.
        image_size: the size to which pictures from a folder are resized.
        kind: ``"counts"`` or ``"codes"`` if the data are not pixels or real numbers.
    """

    name: str
    make: Callable[..., "tuple[Model, Objective]"]
    training: Mapping[str, Any] = field(default_factory=dict)
    pixels: str = "as-is"
    image_size: int | None = None
    kind: str | None = None

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.make.__doc__ or "").strip().splitlines()[0]

    @property
    def description(self) -> str:
        """The text of the docstring before its arguments, and what the recipe reaches.

        Each paragraph is one line, and names in it are not marked as code.
        """
        text, _, _ = (self.make.__doc__ or "").partition("\n\nArgs:")
        paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
        paragraphs += filter(None, [self.reached])
        return "\n\n".join(paragraphs).replace("``", "")

    @property
    def reached(self) -> str:
        """What a training with the usual settings reached, in a sentence; ``""`` if not known."""
        measured = _read_reached().get(self.name)
        if measured is None:
            return ""
        score, baseline = f"{measured['bound']:,.1f} nats", measured["independent_entries"]
        comparison = "a score that is not a bound"
        if baseline is not None:
            comparison = f"a model of independent entries has {baseline:,.1f}"
        return (
            f"With its usual settings it reached {score} on the test part of {measured['data']}, "
            f"after {measured['cpu_seconds']:,} s of training on one core; {comparison}."
        )

    def build(
        self, data: Any, arguments: Mapping[str, Any], *, seed: int | None = None
    ) -> "tuple[Model, Objective]":
        """Build the model and the objective for some data.

        Args:
            data: examples or a data set; the shape of an example suffices for most recipes.
            arguments: the recipe's settings by name.
            seed: of the initial weights, see :func:`recipe`.

        Raises:
            SettingsError: for an unknown argument, or an argument or a seed that is out of range.
        """
        made: tuple[Model, Objective] = _make_from_seed(
            unwrap(self.make), self.name, data, arguments, seed
        )
        return made


@cache
def _read_reached() -> dict[str, Any]:
    """What each recipe reached, as reproductions/recipes.py measured it."""
    file = Path(__file__).with_name("reached.json")
    measured: dict[str, Any] = json.loads(file.read_text(encoding="utf8"))
    return measured


def _make_from_seed(
    make: Callable[..., Any],
    name: str,
    data: Any,
    arguments: Mapping[str, Any],
    seed: int | None,
) -> Any:
    """Call a recipe's function with checked arguments, and draw the initial weights from a seed."""
    checked = check_arguments(make, arguments, name=name)
    form = Form.of(data)
    about: Any = form.shape
    if _takes_form(make):
        about = form
    if seed is None:
        return make(about, **checked)
    import torch

    from lowerbound.runtime.modes import seeded

    with seeded(check_seed(name, seed), torch.device("cpu")):
        return make(about, **checked)


def _takes_form(make: Callable[..., Any]) -> bool:
    return next(iter(signature(make).parameters)) == "form"


RECIPES: dict[str, Recipe] = {}

Make = TypeVar("Make", bound=Callable[..., Any])


def recipe(**usual: Any) -> Callable[[Make], Make]:
    """Decorator: add a function to the recipes, under its own name with dashes.

    The decorated function also takes a ``seed``, from which the initial weights are drawn; torch's
    random state is restored afterwards. Without it they are drawn from torch's random state. To
    show the keyword to editors, declare it: ``seed: int | None = None``.

    Args:
        usual: the arguments of :class:`Recipe` after ``make``, such as ``training``.
    """

    def register(make: Make) -> Make:
        name = make.__name__.replace("_", "-")

        @wraps(has_settings(make))
        def check_and_make(shape: Any, *, seed: int | None = None, **arguments: Any) -> Any:
            return _make_from_seed(make, name, shape, arguments, seed)

        check_and_make.__doc__ = _document_arguments(make)
        RECIPES[name] = Recipe(name, check_and_make, **usual)
        return cast(Make, check_and_make)

    return register


def _document_arguments(make: Callable[..., Any]) -> str:
    """Add a recipe's arguments, which its signature describes, to its docstring."""
    text, entries = (make.__doc__ or "").strip(), write_docstring_entries(read_settings(make))
    first = "shape: The shape of an example, or examples."
    if _takes_form(make):
        first = "form: Examples, a data set, or its form."
    return (
        f"{text}\n\nArgs:\n    {first}\n{entries}\n    seed: Seed of the "
        "initial weights; torch's random state if not given.\n"
    )


def find_recipe(name: str) -> Recipe:
    """Find the recipe of that name.

    Raises:
        SettingsError: for an unknown name, with the most similar known one.
    """
    if isinstance(name, str) and name in RECIPES:
        return RECIPES[name]
    near = get_close_matches(str(name), RECIPES, n=1)
    hint = f"the recipes are {', '.join(RECIPES)}"
    if Path(str(name)).exists():
        hint = f"give data by --data, and name a recipe, such as: train table --data {name}"
    elif near:
        hint = f"did you mean {near[0]!r}?"
    raise SettingsError(f"{name!r} is not a recipe; {hint}")
