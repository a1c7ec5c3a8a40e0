"""Recurrent decoders of sequences."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.networks.sequences import SequenceDecoder
from lowerbound.networks.shapes import Shape, as_shape


@describable
class Recurrent(SequenceDecoder):
    """Gated recurrent units that predict the next code; made by :func:`recurrent`."""

    def __init__(self, inputs: int | Shape, width: int, outputs: Shape, layers: int = 1) -> None:
        super().__init__(inputs, outputs)
        (self.width,), (self.layers,) = as_shape(width), as_shape(layers)
        self.table = nn.Embedding(self.levels + 1, self.width)
        self.from_input = nn.Linear(self.count_inputs(), self.width)
        self.units = nn.GRU(self.width, self.width, self.layers, batch_first=True)
        self.to_logits = nn.Linear(self.width, self.levels)

    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code, ``[*leading, T, V]``, see :class:`SequenceDecoder`."""
        steps = self.table(codes) + self.from_input(self.flatten_input(z)).unsqueeze(-2)
        states, _ = self.units(steps.reshape(-1, *steps.shape[-2:]))
        return cast(Tensor, self.to_logits(states)).reshape(*codes.shape, self.levels)

    def begin(self, z: Tensor) -> Any:
        """The input at every step, ``[*leading, width]``, and the units' state."""
        return self.from_input(self.flatten_input(z)), None

    def predict_next(self, state: Any, previous: Tensor) -> tuple[Tensor, Any]:
        """Logits of the next code, ``[*leading, V]``, and the next state."""
        at_every_step, hidden = state
        step = self.table(previous) + at_every_step
        states, hidden = self.units(step.reshape(-1, 1, self.width), hidden)
        logits = cast(Tensor, self.to_logits(states)).reshape(*previous.shape, self.levels)
        return logits, (at_every_step, hidden)


def recurrent(inputs: int | Shape, width: int, outputs: Shape, *, layers: int = 1) -> Recurrent:
    r"""A decoder of sequences of codes with gated recurrent units (GRU).

    .. math:: h_t = \operatorname{GRU}(E_{x_{t-1}} + A z + a, h_{t-1}), \qquad
        \operatorname{logits}_t = B h_t + b

    The input z is added at every step, so that it is not forgotten (Bowman et al. 2016; Cho et al.
    2014 describe the unit). It is a network for :class:`lowerbound.Autoregressive`.

    Args:
        inputs: the number of dimensions of z.
        width: the number of units of each layer.
        outputs: ``(T, V)``: the number of codes of a sequence, and of values of a code.
        layers: the number of layers.

    Raises:
        ShapeError: if the outputs are not a pair.

    Example:
        >>> import torch
        >>> decoder = recurrent(4, 32, (10, 27))
        >>> decoder(torch.zeros(7, 5, 4), torch.zeros(7, 5, 10, dtype=torch.long)).shape
        torch.Size([7, 5, 10, 27])
    """
    return Recurrent(inputs, width, outputs, layers)
