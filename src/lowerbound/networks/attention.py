"""Decoders of sequences by causal attention."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.errors import SettingsError
from lowerbound.networks.residual import Residual
from lowerbound.networks.sequences import SequenceDecoder
from lowerbound.networks.shapes import Shape, as_shape


class _CausalAttention(nn.Module):
    """Adds to each position an average over it and those before it (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        # A bias of the keys would not change the softmax over them.
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.join = nn.Linear(width, width)
        with torch.no_grad():
            self.join.weight.mul_(blocks**-0.5)

    def forward(self, h: Tensor) -> Tensor:
        """``[N, T, width]`` to the same shape."""
        queries, keys, values = self._split(h)
        seen = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self._add(h, seen)

    def step(self, h: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        """The result at one more position, ``[N, 1, width]``, given keys and values before it."""
        queries, keys, values = self._split(h)
        if past is not None:
            keys, values = torch.cat([past[0], keys], 2), torch.cat([past[1], values], 2)
        return self._add(h, F.scaled_dot_product_attention(queries, keys, values)), (keys, values)

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute queries, keys and values, ``[N, heads, T, width / heads]`` each."""
        joint = self.project(self.norm(h)).unflatten(-1, (3, self.heads, -1))
        queries, keys, values = joint.transpose(1, 3).unbind(2)
        return queries, keys, values

    def _add(self, h: Tensor, seen: Tensor) -> Tensor:
        added: Tensor = self.join(seen.transpose(1, 2).flatten(2))
        return h + added


@describable
class Attention(SequenceDecoder):
    """Causal attention that predicts the next code; made by :func:`attention`."""

    def __init__(
        self, inputs: int | Shape, width: int, outputs: Shape, layers: int = 2, heads: int = 4
    ) -> None:
        super().__init__(inputs, outputs)
        (self.width,), (self.layers,), (self.heads,) = map(as_shape, (width, layers, heads))
        if self.width % self.heads:
            raise SettingsError(
                f"attention: width={width} must be a multiple of heads={heads}, because each head "
                "gets an equal part"
            )
        self.table = nn.Embedding(self.levels + 1, self.width)
        self.positions = nn.Parameter(0.02 * torch.randn(self.length, self.width))
        self.from_input = nn.Linear(self.count_inputs(), self.width)
        self.attend = nn.ModuleList()
        self.process = nn.ModuleList()
        for _ in range(self.layers):
            self.attend.append(_CausalAttention(self.width, self.heads, 2 * self.layers))
            branch = nn.Sequential(
                nn.LayerNorm(self.width),
                nn.Linear(self.width, 4 * self.width),
                nn.GELU(),
                nn.Linear(4 * self.width, self.width),
            )
            self.process.append(Residual(branch, 2 * self.layers))
        self.norm = nn.LayerNorm(self.width)
        self.to_logits = nn.Linear(self.width, self.levels)

    def forward(self, z: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code, ``[*leading, T, V]``, see :class:`SequenceDecoder`."""
        z = self.from_input(self.flatten_input(z)).unsqueeze(-2)
        h = self.table(codes) + z + self.positions
        h = h.reshape(-1, *h.shape[-2:])
        for attend, process in zip(self.attend, self.process, strict=True):
            h = process(attend(h))
        return cast(Tensor, self.to_logits(self.norm(h))).reshape(*codes.shape, self.levels)

    def begin(self, z: Tensor) -> Any:
        """The input at every position, the position 0, and no keys and values yet."""
        return self.from_input(self.flatten_input(z)), 0, [None] * self.layers

    def predict_next(self, state: Any, previous: Tensor) -> tuple[Tensor, Any]:
        """Logits of the next code, ``[*leading, V]``, and the next state."""
        z, position, past = state
        h = (self.table(previous) + z + self.positions[position]).reshape(-1, 1, self.width)
        known = []
        for attend, process, before in zip(self.attend, self.process, past, strict=True):
            h, pair = cast(_CausalAttention, attend).step(h, before)
            h = process(h)
            known.append(pair)
        logits = cast(Tensor, self.to_logits(self.norm(h))).reshape(*previous.shape, self.levels)
        return logits, (z, position + 1, known)


def attention(
    inputs: int | Shape, width: int, outputs: Shape, *, layers: int = 2, heads: int = 4
) -> Attention:
    """A decoder of sequences of codes by causal attention (Vaswani et al. 2017).

    Each position sees the codes before it, its place in the sequence, and the input z, which is
    added at every position. It is a network for :class:`lowerbound.Autoregressive`.

    Args:
        inputs: the number of dimensions of z.
        width: the number of channels, a multiple of ``heads``.
        outputs: ``(T, V)``: the number of codes of a sequence, and of values of a code.
        layers: the number of layers, each an attention block and a fully connected block.
        heads: the number of heads of each attention.

    Raises:
        SettingsError: if the heads do not divide the width.
        ShapeError: if the outputs are not a pair.

    Example:
        >>> import torch
        >>> decoder = attention(4, 32, (10, 27))
        >>> decoder(torch.zeros(7, 5, 4), torch.zeros(7, 5, 10, dtype=torch.long)).shape
        torch.Size([7, 5, 10, 27])
    """
    return Attention(inputs, width, outputs, layers, heads)
