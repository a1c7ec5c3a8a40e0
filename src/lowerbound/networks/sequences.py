"""Networks of sequences of codes: their embedding, and the contract of autoregressive decoders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, cast

from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.errors import ShapeError
from lowerbound.networks.shapes import Shape, as_shape, find_leading_shape


@describable
class Embedding(nn.Module):
    """A learned vector for each code of a sequence; made by :func:`embed`."""

    def __init__(self, length: int, levels: int, width: int) -> None:
        super().__init__()
        (self.length,), (self.levels,), (self.width,) = map(as_shape, (length, levels, width))
        self.input_shape: Shape = (self.length,)
        self.output_shape: Shape = (self.width, self.length)
        self.table = nn.Embedding(self.levels, self.width)

    def forward(self, x: Tensor) -> Tensor:
        """``[*leading, T]`` to ``[*leading, width, T]``."""
        find_leading_shape(x, self.input_shape, self)
        return cast(Tensor, self.table(x.long())).transpose(-1, -2)


def embed(length: int, levels: int, width: int) -> Embedding:
    """A learned vector for each code of a sequence, which turns the sequence into a signal.

    A network for signals follows, such as :func:`lowerbound.conv`; ``torch.nn.Sequential`` joins
    the two.

    Args:
        length: T, the number of codes of a sequence.
        levels: the number of values of a code.
        width: the number of entries of the vector, which become the channels of the signal.

    Returns:
        A module from codes ``[*leading, T]`` to signals ``[*leading, width, T]``.

    Example:
        >>> import torch
        >>> from lowerbound.networks import conv
        >>> encoder = nn.Sequential(embed(40, 27, 16), conv((16, 40), 32, 32, 8, activation="silu"))
        >>> encoder(torch.zeros(5, 40)).shape
        torch.Size([5, 8])
    """
    return Embedding(length, levels, width)


class SequenceDecoder(nn.Module, ABC):
    """Predicts each code of a sequence from an input and from the codes before it.

    To write your own: subclass, and compute the same logits twice: for all codes at once in
    :meth:`forward`, and one code after the other in :meth:`begin` and :meth:`predict_next`. The
    code ``levels`` stands for an unknown code: the one before the first, and those that are hidden
    in training. The last layer with a bias should give the logits, because training starts from the
    codes' frequencies.

    Args:
        inputs: the shape of the input at every position.
        outputs: ``(T, V)``: the number of codes of a sequence, and of values of a code.
    """

    def __init__(self, inputs: int | Shape, outputs: Shape) -> None:
        super().__init__()
        self.inputs = self.input_shape = as_shape(inputs)
        self.outputs = self.output_shape = as_shape(outputs)
        if len(self.outputs) != 2:
            raise ShapeError(
                f"{type(self).__name__} gives logits (length, levels) of a sequence of codes, not "
                f"the shape {self.outputs}"
            )
        self.length, self.levels = self.outputs

    @abstractmethod
    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code given those before it, ``[*leading, T, V]``.

        Args:
            z: the input, ``[*leading, *inputs]``.
            codes: the previous code at each position, int64, ``[*leading, T]``.
        """

    @abstractmethod
    def begin(self, z: Tensor) -> Any:
        """The state before the first code."""

    @abstractmethod
    def predict_next(self, state: Any, previous: Tensor) -> tuple[Tensor, Any]:
        """Logits of the next code, ``[*leading, V]``, given the previous one, and the next state.

        Args:
            state: from :meth:`begin` or the step before.
            previous: the previous code, int64, ``[*leading]``.
        """

    def count_inputs(self) -> int:
        """The number J of entries of the input."""
        return math.prod(self.inputs)

    def flatten_input(self, z: Tensor) -> Tensor:
        """``[*leading, *inputs]`` to ``[*leading, J]``."""
        leading = find_leading_shape(z, self.inputs, self)
        return z.reshape(*leading, self.count_inputs())
