"""A likelihood of rows whose columns depend on the cycles of the row's times."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from lowerbound.conditionals.column_inputs import CycleInputs
from lowerbound.conditionals.columns import Columns
from lowerbound.conditionals.given import Wrapper
from lowerbound.data.columns import Schema
from lowerbound.describe import describable
from lowerbound.distributions import RowDistribution, RowsGivenTimes
from lowerbound.errors import SettingsError, UnsupportedError


@describable
class GivenTimes(Wrapper):
    r"""A likelihood of rows of a table that also depends on the cycles of the times of a row.

    .. math:: p(x \mid z) = \prod_{t\ \text{a time}} p(x_t \mid z) \prod_{\text{others } d}
        p(x_d \mid z, \text{cycles of the times})

    The cycles are those of the schema (``Column.cycles``), such as the day. Their sines and cosines
    are appended to the latents, so the network needs :meth:`count_inputs` more inputs. These are 0
    where a time is not observed. They are also 0 for the distribution of the times themselves,
    which would otherwise not be a density.

    Args:
        part: the likelihood of rows, :class:`Columns`.

    Raises:
        UnsupportedError: if ``part`` is not :class:`Columns`.
        SettingsError: if no column of the schema has cycles.

    Example:
        >>> import torch, lowerbound as lb
        >>> from lowerbound.data import Column, Schema
        >>> time = Column("time", "time", spread=1e6, cycles=("day", "week"))
        >>> schema = Schema((time, Column("load", "real")))
        >>> network = lb.mlp(3 + lb.GivenTimes.count_inputs(schema), 4)
        >>> p = lb.GivenTimes(lb.Columns(network, schema))(torch.zeros(7, 5, 3))
        >>> p.sample().shape, p.log_prob(torch.zeros(5, 2)).shape
        (torch.Size([7, 5, 2]), torch.Size([7, 5]))
    """

    is_time: Tensor

    def __init__(self, part: nn.Module) -> None:
        super().__init__(part)
        if not isinstance(part, Columns):
            raise UnsupportedError(
                f"GivenTimes: a {type(part).__name__} does not know the columns of a table; use "
                "lb.GivenTimes(lb.Columns(network, schema))"
            )
        schema = part.schema
        if not self.count_inputs(schema):
            raise SettingsError(
                "GivenTimes: no column of the schema is a time with cycles; use lb.Columns alone"
            )
        self.cycles = CycleInputs(schema)
        is_time = [bool(schema.find(entry.column).cycles) for entry in schema.entries]
        self.register_buffer("is_time", torch.tensor(is_time), persistent=False)

    @staticmethod
    def count_inputs(schema: Schema) -> int:
        """The number of inputs that the network needs in addition to the latents."""
        return CycleInputs(schema).size

    def forward(self, z: Tensor, **fields: Any) -> RowsGivenTimes:
        """The distribution of rows for these latents, ``[*leading, J]``."""
        unknown = z.new_zeros(self.cycles.size)
        return RowsGivenTimes(self._decode(z, unknown), z, self._condition, self.is_time)

    def _condition(self, z: Tensor, rows: Tensor, observed: Tensor) -> RowDistribution:
        return self._decode(z, self.cycles(rows, observed))

    def _decode(self, z: Tensor, cycles: Tensor) -> RowDistribution:
        leading = torch.broadcast_shapes(z.shape[:-1], cycles.shape[:-1])
        inputs = [each.expand(*leading, each.shape[-1]) for each in (z, cycles)]
        raw = self.parameters_from(self.network, torch.cat(inputs, -1))
        return cast(RowDistribution, self.from_parameters(raw))
