"""Measures one draw of a model: its memory and its likelihood. The model does not change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.data.examples import Examples
from lowerbound.data.fields import convert_floating_fields
from lowerbound.models.passes import explaining_shapes
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import measure_growth
from lowerbound.runtime.modes import evaluating, seeded

Module = TypeVar("Module", bound=nn.Module)


def find_largest_growth(model: nn.Module, examples: Examples) -> int:
    """Find by how many values the largest tensor of a draw grows for each example.

    The model that draws is a copy that shares all tensors, so that nothing is counted or stored in
    the model itself. No random state changes.

    Raises:
        ShapeError: if the examples do not fit the model.
    """
    with _drawing(model, examples) as draw:
        return measure_growth(draw)


def draw_likelihood(model: nn.Module, examples: Examples) -> Distribution | None:
    """Draw for three examples, and return p(x|z), batch shape ``[1, 3]``, if the draw has it.

    Like :func:`find_largest_growth`, this changes neither the model nor a random state.

    Raises:
        ShapeError: if the examples do not fit the model.
    """
    with _drawing(model, examples) as draw:
        return draw(3)


@contextmanager
def _drawing(
    model: nn.Module, examples: Examples
) -> Iterator[Callable[[int], Distribution | None]]:
    """Yield a function that draws for a given number of examples, and returns p(x|z)."""
    twin = _shallow_copy(model)
    device = get_device(model)
    few = examples.first(3)
    index = torch.arange(3) % len(few)  # examples are repeated if there are fewer than three
    needs, accepts = getattr(model, "needs", ()), getattr(model, "accepts", ())

    def draw(count: int) -> Distribution | None:
        some = {name: value[:count] for name, value in given.items()}
        with noise.per_example(0, index[:count]):
            drawn = cast(Callable[..., Any], twin.draw)(x[:count], 1, **some)
        drawn.log_likelihood  # noqa: B018 (computed when it is read)
        drawn.log_prior  # noqa: B018
        p: Distribution | None = drawn.p
        return p

    # This draw has its own streams of noise, because those of an active batch must not advance.
    with evaluating(twin), seeded(0, device), noise.per_example(0, index), explaining_shapes(few):
        x = few.batch(index, get_dtype(model)).to(device)
        fields = convert_floating_fields(few.given(index, needs, accepts), get_dtype(model))
        given = {name: value.to(device) for name, value in fields.items()}
        yield draw


def _shallow_copy(model: Module) -> Module:
    """Copy a model's modules but not its tensors; return the model itself if that fails."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    attributes = chain.from_iterable(vars(module).values() for module in model.modules())
    tensors += [value for value in attributes if isinstance(value, Tensor)]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except Exception:  # a module may store anything, and not everything can be copied
        return model
