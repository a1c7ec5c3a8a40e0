"""The inputs of an encoder for rows of a table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lowerbound.data.columns import Entry, Schema
from lowerbound.data.cycles import PERIODS
from lowerbound.describe import describable
from lowerbound.errors import ShapeError


@describable
class ColumnInputs(nn.Module):
    r"""The inputs of an encoder for rows of a table with entries that are not observed.

    Continuous values and counts, standardised, are inputs as they are, codes as one-hot codes, and
    ordered codes as their rank as well. A time t has two further inputs for each of its cycles,
    the day, the week or the year, whose period is T:

    .. math:: \sin(2 \pi t / T), \quad \cos(2 \pi t / T)

    in seconds since 1970, of UTC if the column has a time zone. An entry that is not observed has
    inputs of 0, and each entry has an input that says whether it is observed.

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
    times: Tensor
    turns: Tensor
    first_turns: Tensor

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
            if entry.family != "codes":
                columns.append(number)
                levels.append(-1)
        for name, values in (("columns", columns), ("levels", levels)):
            self.register_buffer(name, torch.tensor(values), persistent=False)
        is_count = [entry.family == "counts" for entry in entries]
        scaled = [_scale_inputs(entry) for entry in entries]
        centre, spread = torch.tensor(scaled).unbind(1)
        self.register_buffer("is_count", torch.tensor(is_count), persistent=False)
        self.register_buffer("centre", centre.contiguous(), persistent=False)
        self.register_buffer("spread", spread.contiguous(), persistent=False)
        cycles = [(column, PERIODS[each]) for column in schema.modelled for each in column.cycles]
        self.output_shape = (len(columns) + 2 * len(cycles) + len(entries),)
        times = [schema.places[column.name].start for column, _ in cycles]
        turns = [column.spread / period for column, period in cycles]
        # Whole turns are left out while all digits are known: the numbers of a row are float32.
        first_turns = [column.centre / period % 1 for column, period in cycles]
        self.register_buffer("times", torch.tensor(times, dtype=torch.long), persistent=False)
        self.register_buffer("turns", torch.tensor(turns), persistent=False)
        self.register_buffer("first_turns", torch.tensor(first_turns), persistent=False)

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
        turns = values[..., self.times] * self.turns + self.first_turns
        angles = 2 * math.pi * (turns - turns.floor())
        seen = observed[..., self.times]
        return torch.cat(
            [
                inputs * observed[..., self.columns],
                angles.sin() * seen,
                angles.cos() * seen,
                observed,
            ],
            -1,
        )


def _scale_inputs(entry: Entry) -> tuple[float, float]:
    """The centre and the spread of an entry as an input."""
    if entry.family == "counts":
        return entry.centre, entry.spread
    if entry.family == "ordered codes":
        half = 0.5 * (entry.levels - 1)
        return half, half or 1.0
    return 0.0, 1.0
