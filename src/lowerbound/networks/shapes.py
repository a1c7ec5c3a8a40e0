"""Shapes of events, and networks under any leading dimensions."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import Size, Tensor, nn

from lowerbound.describe import describable
from lowerbound.errors import SettingsError, ShapeError

Shape = tuple[int, ...]


def as_shape(size: int | Iterable[int]) -> Shape:
    """Return an event's shape, given its number of dimensions or its shape.

    Raises:
        SettingsError: if an entry is not a whole number of at least 1.
    """
    try:
        entries: tuple[Any, ...] = (size,)
        if isinstance(size, Iterable):
            entries = tuple(size)
        shape = tuple(operator.index(entry) for entry in entries)
    except TypeError:
        entries = shape = ()
    if not shape or min(shape) < 1 or any(isinstance(entry, bool) for entry in entries):
        raise SettingsError(
            f"{size!r} is not a size: give a whole number of at least 1, or a tuple of them"
        )
    return shape


def find_leading_shape(x: Tensor, event: Shape, network: nn.Module) -> Size:
    """Return the dimensions of ``x`` before those of an event.

    Raises:
        ShapeError: if ``x`` does not end in the event's shape, naming the network that takes it.
    """
    if tuple(x.shape[-len(event) :]) != event:
        raise ShapeError(
            f"{type(network).__name__} takes events of shape {event}, but the input has shape "
            f"{tuple(x.shape)}, batch dimensions included"
        )
    return x.shape[: -len(event)]


@describable
class FlattenLeading(nn.Module):
    """Lets a network for ``[N, *input_shape]`` take ``[*leading, *input_shape]``.

    So a network for pictures ``[N, C, H, W]`` works on ``[K, B, C, H, W]``.

    Args:
        network: any module from ``[N, *input_shape]`` to ``[N, *output_shape]``.
        input_shape: the shape of one event going in.
        output_shape: the shape of one event coming out; by default the one that ``network``
            declares.
    """

    def __init__(
        self, network: nn.Module, input_shape: int | Shape, output_shape: int | Shape | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.input_shape = as_shape(input_shape)
        self.output_shape: Shape | None = getattr(network, "output_shape", None)
        if output_shape is not None:
            self.output_shape = as_shape(output_shape)

    def forward(self, x: Tensor) -> Tensor:
        """``[*leading, *input_shape]`` to ``[*leading, *output_shape]``."""
        leading = find_leading_shape(x, self.input_shape, self)
        y: Tensor = self.network(x.reshape(-1, *self.input_shape))
        return y.reshape(*leading, *y.shape[1:])


def flatten_leading(
    network: nn.Module, input_shape: int | Shape, output_shape: int | Shape | None = None
) -> FlattenLeading:
    """Wrap a network so that it works under samples and examples alike.

    See :class:`FlattenLeading` for the arguments. A network made of layers of ``torch.nn`` is saved
    with its model and loaded without a constructor.

    Example:
        >>> import torch
        >>> network = torch.nn.ConvTranspose2d(8, 1, 4)
        >>> decoder = flatten_leading(network, (8, 1, 1), output_shape=(1, 4, 4))
        >>> decoder(torch.zeros(7, 32, 8, 1, 1)).shape
        torch.Size([7, 32, 1, 4, 4])
    """
    return FlattenLeading(network, input_shape, output_shape)
