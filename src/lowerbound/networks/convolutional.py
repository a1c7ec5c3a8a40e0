"""Convolutional networks of signals, pictures and volumes."""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.errors import SettingsError
from lowerbound.networks.activations import Activation, count_inputs, make_activation
from lowerbound.networks.dense import MLP
from lowerbound.networks.residual import Residual, check_blocks, check_norm, count_groups
from lowerbound.networks.shapes import FlattenLeading, Shape, as_shape

Upsampling = Literal["transposed", "resize"]

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


@describable
class Conv(nn.Module):
    """Convolutions from a signal, picture or volume to a smaller one or a vector, or back.

    It is made by :func:`conv`. A layer of stride ``s`` has a kernel of ``s + 2`` and a padding of
    1. It shrinks a side of ``n`` pixels to ``n // s``. Transposed convolutions restore exactly
    ``n`` with an output padding of ``n % s``, and resizing does so in any case. So a picture of any
    size comes out in its own size.
    """

    def __init__(
        self,
        inputs: int | Shape,
        channels: Shape,
        outputs: int | Shape,
        *,
        activation: Activation = "relu",
        stride: int | Shape = 2,
        hidden: Shape = (),
        residual: int = 0,
        norm: Literal["group"] | None = None,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        self.inputs = self.input_shape = as_shape(inputs)
        self.channels = as_shape(channels)
        self.outputs = self.output_shape = as_shape(outputs)
        self.activation = activation
        self.stride = stride
        self.hidden = as_shape(hidden) if hidden else ()
        self.residual = check_blocks("conv", residual)
        self.norm = norm
        self.upsampling = upsampling
        check_norm("conv", norm, "group")
        if upsampling not in get_args(Upsampling):
            raise SettingsError(
                f"conv: upsampling={upsampling!r} is unknown; choose one of "
                f"{', '.join(get_args(Upsampling))}"
            )
        self._dims = max(len(self.inputs), len(self.outputs)) - 1
        self._check_ends()
        strides = self._list_strides()
        make_layers = self._make_decoder
        if math.prod(self.inputs[1:]) >= math.prod(self.outputs[1:]) and len(self.inputs) > 1:
            make_layers = self._make_encoder
        layers = make_layers(strides)
        self.network = FlattenLeading(nn.Sequential(*layers), self.inputs, self.outputs)

    def _check_ends(self) -> None:
        smaller = min(len(self.inputs), len(self.outputs)) - 1
        if self._dims not in _CONV or smaller not in (0, self._dims):
            raise SettingsError(
                "conv goes from a picture (C, H, W), a signal (C, T) or a volume (C, D, H, W) to a "
                "vector or to a smaller one of the same kind, or back, "
                f"not from {self.inputs} to {self.outputs}"
            )
        if smaller and self.hidden:
            raise SettingsError(
                f"conv: hidden={self.hidden} are layers of a vector, but the network goes from "
                f"{self.inputs} to {self.outputs}; leave them out"
            )

    def _list_strides(self) -> Shape:
        strides = as_shape(self.stride)
        if isinstance(self.stride, int):
            strides = strides * len(self.channels)
        if len(strides) != len(self.channels):
            raise SettingsError(
                f"conv has {len(self.channels)} layers but {len(strides)} strides; "
                "give one stride for each layer, or one for all"
            )
        return strides

    def _make_encoder(self, strides: Shape) -> list[nn.Module]:
        depths = (self.inputs[0], *self.channels)
        sides = _compute_sides(self.inputs, strides)
        layers: list[nn.Module] = []
        for layer, stride in enumerate(strides):
            width = self._count_outputs(depths[layer + 1])
            layers.append(_CONV[self._dims](depths[layer], width, stride + 2, stride, padding=1))
            layers += self._process(depths[layer + 1])
        layers += self._make_last_norm(depths[-1])
        if len(self.outputs) > 1:
            _check_sides(sides, self.outputs)
            return [*layers, _CONV[self._dims](depths[-1], self.outputs[0], 1)]
        flat = depths[-1] * math.prod(sides[-1])
        return [*layers, nn.Flatten(), MLP(flat, self.hidden, self.outputs, self.activation)]

    def _make_decoder(self, strides: Shape) -> list[nn.Module]:
        depths = (*self.channels, self.outputs[0])
        sides = _compute_sides(self.outputs, strides[::-1])[::-1]
        layers = [self._make_first_layer(self._count_outputs(depths[0]), sides)]
        last = len(strides) - 1
        for layer, stride in enumerate(strides):
            layers += self._process(depths[layer])
            width = depths[layer + 1]
            if layer < last:
                width = self._count_outputs(width)
            else:
                layers += self._make_last_norm(depths[layer])
            layers += self._grow(depths[layer], width, stride, sides[layer], sides[layer + 1])
        return layers

    def _make_first_layer(self, width: int, sides: list[Shape]) -> nn.Module:
        """Make the layer from a vector, or a small picture, to the first channels."""
        if len(self.inputs) > 1:
            _check_sides(sides[::-1], self.inputs)
            return cast(nn.Module, _CONV[self._dims](self.inputs[0], width, 3, padding=1))
        return MLP(self.inputs, self.hidden, (width, *sides[0]), self.activation)

    def _grow(
        self, before: int, after: int, stride: int, side: Shape, target: Shape
    ) -> list[nn.Module]:
        """Make the layers that enlarge a picture of these sides."""
        if self.upsampling == "resize":
            convolution = _CONV[self._dims](before, after, 3, padding=1)
            if side == target:
                return [convolution]
            return [nn.Upsample(size=target, mode="nearest"), convolution]
        slack = tuple(to - at * stride for at, to in zip(side, target, strict=True))
        return [
            _TRANSPOSED[self._dims](
                before, after, stride + 2, stride, padding=1, output_padding=slack
            )
        ]

    def _count_outputs(self, channels: int) -> int:
        """Count the outputs of a layer, which an activation may halve."""
        if self.residual:
            return channels
        return count_inputs(self.activation, channels)

    def _process(self, channels: int) -> list[nn.Module]:
        """Make what follows a layer that changes the size: an activation, or residual blocks."""
        if not self.residual:
            before = count_inputs(self.activation, channels)
            return [*self._make_norm(before), self._make_activation()]
        return [self._make_block(channels) for _ in range(self.residual)]

    def _make_block(self, channels: int) -> Residual:
        convolve, before = _CONV[self._dims], count_inputs(self.activation, channels)
        branch = nn.Sequential(
            *self._make_norm(channels),
            convolve(channels, before, 3, padding=1),
            self._make_activation(),
            convolve(channels, channels, 3, padding=1),
        )
        return Residual(branch, self.residual * len(self.channels))

    def _make_last_norm(self, channels: int) -> list[nn.Module]:
        """Normalise the sum of all residual blocks before the last layer."""
        if not self.residual:
            return []
        return self._make_norm(channels)

    def _make_norm(self, channels: int) -> list[nn.Module]:
        if self.norm is None:
            return []
        return [nn.GroupNorm(count_groups(channels), channels)]

    def _make_activation(self) -> nn.Module:
        return make_activation(self.activation, -1 - self._dims)

    def forward(self, x: Tensor) -> Tensor:
        """``[*leading, *inputs]`` to ``[*leading, *outputs]``."""
        return cast(Tensor, self.network(x))


def conv(
    inputs: int | Shape,
    *sizes: int | Shape,
    activation: Activation = "relu",
    stride: int | Shape = 2,
    hidden: Shape = (),
    residual: int = False,
    norm: Literal["group"] | None = None,
    upsampling: Upsampling = "transposed",
) -> Conv:
    r"""A convolutional network, which encodes signals, pictures or volumes, or decodes to them.

    ``conv((C, H, W), channels, ..., outputs)`` encodes; ``conv(inputs, channels, ..., (C, H, W))``
    decodes. Signals are ``(C, T)`` and volumes ``(C, D, H, W)``. The small end is a vector, or a
    smaller picture ``(c, h, w)``, whose sides must be those that the strides lead to.

    Each layer changes the size, and an activation follows. With ``residual``, residual blocks
    :math:`h + W_2 * a(W_1 * \operatorname{norm}(h))` with kernels of 3 follow instead. Blocks at
    the full size of a picture take most of the time. A network has them if the layer nearest the
    picture has stride 1, as in ``stride=(1, 2, 2)`` for an encoder.

    Args:
        inputs: the shape of an event going in.
        sizes: the channels of the layers, in the order in which data pass them, then the shape of
            an event coming out.
        activation: a name from ``ACTIVATIONS``; ``"gated"`` for gated linear units; or a function
            that makes a module.
        stride: of every layer, or one for each.
        hidden: widths of fully connected layers between the convolutions and the vector.
        residual: whether residual blocks follow each layer, or how many (He et al. 2016).
        norm: ``"group"`` for group normalisation (Wu & He 2018), or ``None``.
        upsampling: ``"transposed"`` for transposed convolutions; or ``"resize"`` for resizing by
            nearest neighbours before a convolution, which avoids checkerboard patterns in samples
            (Odena et al. 2016, "Deconvolution and checkerboard artifacts").

    Returns:
        A module from ``[*leading, *inputs]`` to ``[*leading, *outputs]``.

    Raises:
        SettingsError: if the picture is too small for the strides, or the two ends do not fit.

    Example:
        >>> import torch
        >>> encoder, decoder = conv((1, 28, 20), 16, 32, 4), conv(2, 32, 16, (2, 28, 20))
        >>> encoder(torch.zeros(5, 1, 28, 20)).shape, decoder(torch.zeros(7, 5, 2)).shape
        (torch.Size([5, 4]), torch.Size([7, 5, 2, 28, 20]))
        >>> photo = conv(
        ...     64, 64, 32, (6, 64, 64), activation="silu", residual=True, upsampling="resize"
        ... )
        >>> photo(torch.zeros(5, 64)).shape, conv((2, 500), 8, 8, 4)(torch.zeros(5, 2, 500)).shape
        (torch.Size([5, 6, 64, 64]), torch.Size([5, 4]))
    """
    if len(sizes) < 2:
        raise SettingsError(
            "conv needs its inputs, the channels of at least one layer, and its outputs: "
            "conv((1, 64, 64), 32, 20)"
        )
    *channels, outputs = sizes
    return Conv(
        inputs,
        cast(Shape, tuple(channels)),
        outputs,
        activation=activation,
        stride=stride,
        hidden=hidden,
        residual=residual,
        norm=norm,
        upsampling=upsampling,
    )


def _compute_sides(image: Shape, strides: Shape) -> list[Shape]:
    """Compute the sides of the picture, and after each layer that shrinks it."""
    sizes = [image[1:]]
    for layer, stride in enumerate(strides, start=1):
        if min(sizes[-1]) < stride:
            raise SettingsError(
                f"conv: a size of {_join(image[1:])} has shrunk to {_join(sizes[-1])} before layer "
                f"{layer}, which has stride {stride}; use fewer layers or smaller strides"
            )
        sizes.append(tuple(side // stride for side in sizes[-1]))
    return sizes


def _check_sides(sides: list[Shape], small: Shape) -> None:
    if small[1:] != sides[-1]:
        raise SettingsError(
            f"conv: the strides lead from a size of {_join(sides[0])} to {_join(sides[-1])}, but "
            f"the other end {small} has {_join(small[1:])}; change the strides or that end"
        )


def _join(sides: Shape) -> str:
    return " x ".join(map(str, sides))
