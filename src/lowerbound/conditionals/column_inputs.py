"""The inputs of an encoder for rows of a table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lowerbound.data.columns import Schema
from lowerbound.data.entries import Entry, Family
from lowerbound.describe import describable
from lowerbound.errors import ShapeError

# Instead of a code, an input may stand for the number itself, or for a function of its phase.
_NUMBER, _SINE, _COSINE = -1, -2, -3
_OTHER_INPUTS: dict[Family, tuple[int, ...]] = {
    "codes": (),
    "phases": (_SINE, _COSINE),
    "seasonal": (_NUMBER, _SINE, _COSINE),
}


@describable
class ColumnInputs(nn.Module):
    r"""The inputs of an encoder for rows of a table with entries that are not observed.

    Continuous values and counts are standardised. Codes become one-hot codes, and ordered codes
    also their rank. The time of day becomes its sine and its cosine, and times with a season also
    get those of the season. An entry that is not observed has inputs of 0, and each entry has an
    input that says whether it is observed.

    Args:
        schema: the columns.

    Raises:
        ShapeError: if its input is not the numbers of a row followed by the mask.

    Example:
        >>> from lowerbound.data import Column, Schema
        >>> schema = Schema((Column("job", "categorical", categories=("clerk", "cook")),))
        >>> inputs = ColumnInputs(schema)
        >>> inputs.output_shape, inputs(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        ((3,), tensor([[0., 1., 1.],
                [0., 0., 0.]]))
    """

    columns: Tensor
    levels: Tensor
    is_count: Tensor
    centre: Tensor
    spread: Tensor
    rate: Tensor
    start: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        entries = schema.entries
        self.input_shape = (2 * len(entries),)
        columns: list[int] = []
        levels: list[int] = []
        for number, entry in enumerate(entries):
            if entry.family in ("codes", "ordered codes"):
                columns += [number] * entry.levels
                levels += range(entry.levels)
            others = _OTHER_INPUTS.get(entry.family, (_NUMBER,))
            columns += [number] * len(others)
            levels += others
        self.output_shape = (len(columns) + len(entries),)
        for name, values in (("columns", columns), ("levels", levels)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        self.is_cyclic = _SINE in levels
        turns = torch.tensor([_find_turns(entries[number]) for number in columns])
        rate, start = (2 * math.pi * turns).unbind(1)
        self.register_buffer("rate", rate.contiguous(), persistent=False)
        self.register_buffer("start", start.contiguous(), persistent=False)
        is_count = [entry.family == "counts" for entry in entries]
        scaled = [_scale_inputs(entry) for entry in entries]
        centre, spread = torch.tensor(scaled).unbind(1)
        self.register_buffer("is_count", torch.tensor(is_count), persistent=False)
        self.register_buffer("centre", centre.contiguous(), persistent=False)
        self.register_buffer("spread", spread.contiguous(), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """The inputs ``[*leading, F]`` of rows with their mask, ``[*leading, 2 D]``."""
        if rows.shape[-1:] != self.input_shape:
            raise ShapeError(
                f"ColumnInputs: expected {self.input_shape[0]} inputs, the numbers of a row and "
                f"its mask, not {tuple(rows.shape)}; wrap the posterior: "
                "lb.Given(posterior, 'observed')"
            )
        values, observed = rows.chunk(2, -1)
        numbers = torch.where(self.is_count, values.clamp(min=0).log1p(), values)
        numbers = (numbers - self.centre) / self.spread
        chosen = values[..., self.columns] == self.levels
        inputs = torch.where(self.levels < 0, numbers[..., self.columns], chosen.to(rows.dtype))
        if self.is_cyclic:
            angles = self.rate * inputs + self.start
            inputs = torch.where(self.levels == _SINE, angles.sin(), inputs)
            inputs = torch.where(self.levels == _COSINE, angles.cos(), inputs)
        return torch.cat([inputs * observed[..., self.columns], observed], -1)


def _scale_inputs(entry: Entry) -> tuple[float, float]:
    """The centre and the spread of an entry as an input."""
    if entry.family == "counts":
        return entry.centre, entry.spread
    if entry.family == "ordered codes":
        half = 0.5 * (entry.levels - 1)
        return half, half or 1.0
    return 0.0, 1.0


def _find_turns(entry: Entry) -> tuple[float, float]:
    """Find the number of cycles in one unit of an entry, and the phase at 0, in cycles."""
    if entry.family == "seasonal":
        return entry.spread / entry.period, entry.centre / entry.period % 1
    return 1.0, 0.0
