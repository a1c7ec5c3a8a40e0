"""Plain networks between events of declared shapes, under any leading dimensions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.errors import SettingsError, ShapeError

Shape = tuple[int, ...]
Activation = str | Callable[[], nn.Module]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def as_shape(size: int | Shape) -> Shape:
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


def _make_activation(activation: Activation) -> nn.Module:
    if callable(activation):
        return activation()
    if activation not in ACTIVATIONS:
        raise SettingsError(
            f"activation={activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}, "
            "or pass a class such as torch.nn.PReLU"
        )
    return ACTIVATIONS[activation]()


@describable
class FlattenLeading(nn.Module):
    """Lets a network of ``[N, *input_shape]`` take ``[*leading, *input_shape]``.

    So a network of images ``[N, C, H, W]`` works on ``[K, B, C, H, W]``.

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
        >>> network = torch.nn.ConvTranspose2d(8, 1, 4)
        >>> decoder = flatten_leading(network, (8, 1, 1), output_shape=(1, 4, 4))
        >>> decoder(torch.zeros(7, 32, 8, 1, 1)).shape
        torch.Size([7, 32, 1, 4, 4])
    """
    return FlattenLeading(network, input_shape, output_shape)


@describable
class MLP(nn.Module):
    """A multi-layer perceptron between events of any shape; made by :func:`mlp`."""

    def __init__(
        self,
        inputs: int | Shape,
        hidden: Shape,
        outputs: int | Shape,
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        self.inputs = self.input_shape = as_shape(inputs)
        self.hidden = as_shape(hidden) if hidden else ()
        self.outputs = self.output_shape = as_shape(outputs)
        self.activation = activation
        widths = [math.prod(self.inputs), *self.hidden, math.prod(self.outputs)]
        self.layers = nn.Sequential()
        for inputs_width, outputs_width in pairwise(widths[:-1]):
            self.layers.append(nn.Linear(inputs_width, outputs_width)).append(
                _make_activation(activation)
            )
        self.layers.append(nn.Linear(widths[-2], widths[-1]))

    def forward(self, x: Tensor) -> Tensor:
        """``[*leading, *inputs]`` to ``[*leading, *outputs]``."""
        leading = find_leading_shape(x, self.inputs, self)
        return cast(Tensor, self.layers(x.reshape(*leading, -1))).reshape(*leading, *self.outputs)


def mlp(inputs: int | Shape, *sizes: int | Shape, activation: Activation = "relu") -> MLP:
    """A multi-layer perceptron: ``mlp(inputs, hidden, ..., hidden, outputs)``.

    Args:
        inputs: the dimensions of an event going in, or its shape; it is flattened inside.
        sizes: the widths of the hidden layers, then the dimensions or shape of an event coming out.
        activation: a name from ``ACTIVATIONS`` or a function that makes a module; it comes between
            any two layers.

    Returns:
        A module from ``[*leading, *inputs]`` to ``[*leading, *outputs]``.

    Raises:
        SettingsError: for an unknown activation or a size below 1.

    Example:
        >>> mlp(10, 200, (2, 64, 64), activation="tanh")(torch.zeros(7, 32, 10)).shape
        torch.Size([7, 32, 2, 64, 64])
    """
    if not sizes:
        raise SettingsError("mlp needs at least its inputs and its outputs: mlp(784, 200, 20)")
    *hidden, outputs = sizes
    return MLP(inputs, cast(Shape, tuple(hidden)), outputs, activation)


@describable
class Conv(nn.Module):
    """Strided convolutions from images to vectors, or transposed ones back; made by :func:`conv`.

    A layer of stride ``s`` has a kernel of ``s + 2`` and a padding of 1. It takes a side of ``n``
    pixels to ``n // s``, and back to exactly ``n`` with an output padding of ``n % s``. So an image
    of any size comes out in its own size.
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
    ) -> None:
        super().__init__()
        self.inputs = self.input_shape = as_shape(inputs)
        self.channels = as_shape(channels)
        self.outputs = self.output_shape = as_shape(outputs)
        self.activation = activation
        self.stride = stride
        self.hidden = as_shape(hidden) if hidden else ()
        strides = as_shape(stride)
        if isinstance(stride, int):
            strides = strides * len(self.channels)
        if len(strides) != len(self.channels):
            raise SettingsError(
                f"conv has {len(self.channels)} layers but {len(strides)} strides; "
                "give one stride for each layer, or one for all"
            )
        if (len(self.inputs) == 3) == (len(self.outputs) == 3):
            raise SettingsError(
                "conv goes from an image (C, H, W) to a vector or back, "
                f"not from {self.inputs} to {self.outputs}"
            )
        make_layers = self._make_decoder
        if len(self.inputs) == 3:
            make_layers = self._make_encoder
        layers = make_layers(strides)
        self.network = FlattenLeading(nn.Sequential(*layers), self.inputs, self.outputs)

    def _make_encoder(self, strides: Shape) -> list[nn.Module]:
        depths = (self.inputs[0], *self.channels)
        sides = _compute_sides(self.inputs, strides)
        layers: list[nn.Module] = []
        for layer, stride in enumerate(strides):
            layers += [
                nn.Conv2d(depths[layer], depths[layer + 1], stride + 2, stride, padding=1),
                _make_activation(self.activation),
            ]
        flat = depths[-1] * math.prod(sides[-1])
        return [*layers, nn.Flatten(), MLP(flat, self.hidden, self.outputs, self.activation)]

    def _make_decoder(self, strides: Shape) -> list[nn.Module]:
        depths = (*self.channels, self.outputs[0])
        sides = _compute_sides(self.outputs, strides[::-1])[::-1]
        layers: list[nn.Module] = [
            MLP(self.inputs, self.hidden, (depths[0], *sides[0]), self.activation)
        ]
        for layer, stride in enumerate(strides):
            slack = cast(
                tuple[int, int],
                tuple(
                    to - at * stride for at, to in zip(sides[layer], sides[layer + 1], strict=True)
                ),
            )
            layers += [
                _make_activation(self.activation),
                nn.ConvTranspose2d(
                    depths[layer],
                    depths[layer + 1],
                    stride + 2,
                    stride,
                    padding=1,
                    output_padding=slack,
                ),
            ]
        return layers

    def forward(self, x: Tensor) -> Tensor:
        """``[*leading, *inputs]`` to ``[*leading, *outputs]``."""
        return cast(Tensor, self.network(x))


def conv(
    inputs: int | Shape,
    *sizes: int | Shape,
    activation: Activation = "relu",
    stride: int | Shape = 2,
    hidden: Shape = (),
) -> Conv:
    """A convolutional network, which encodes images or decodes to images.

    ``conv((C, H, W), channels, ..., outputs)`` encodes; ``conv(inputs, channels, ..., (C, H, W))``
    decodes.

    Args:
        inputs: the shape of an event going in.
        sizes: the channels of the layers, in the order in which data pass them, then the shape of
            an event coming out.
        activation: a name from ``ACTIVATIONS`` or a function that makes a module.
        stride: of every layer, or one for each.
        hidden: widths of fully connected layers between the convolutions and the vector.

    Returns:
        A module from ``[*leading, *inputs]`` to ``[*leading, *outputs]``.

    Raises:
        SettingsError: if the picture is too small for the strides, or if not exactly one end is a
            picture.

    Example:
        >>> encoder, decoder = conv((1, 28, 20), 16, 32, 4), conv(2, 32, 16, (2, 28, 20))
        >>> encoder(torch.zeros(5, 1, 28, 20)).shape, decoder(torch.zeros(7, 5, 2)).shape
        (torch.Size([5, 4]), torch.Size([7, 5, 2, 28, 20]))
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
    )


@describable
class Constant(nn.Module):
    """A module that returns the same tensor for any input; made by :func:`constant`."""

    def __init__(
        self, outputs: int | Shape, value: float = 0.0, learned: bool = True, spread: float = 0.0
    ) -> None:
        super().__init__()
        self.outputs = self.output_shape = as_shape(outputs)
        self.value = value
        self.learned = learned
        self.spread = spread
        numbers = torch.full(self.outputs, float(value))
        if spread:
            numbers += spread * torch.randn(self.outputs)
        if learned:
            self.numbers = nn.Parameter(numbers)
        else:
            # A tensor without noise follows from ``value``; random values must be saved.
            self.register_buffer("numbers", numbers, persistent=bool(spread))

    def forward(self, *given: Tensor) -> Tensor:
        """The tensor, ``[*outputs]``."""
        return self.numbers


def constant(
    outputs: int | Shape, value: float = 0.0, *, learned: bool = True, spread: float = 0.0
) -> Constant:
    """The parameters of a distribution that does not depend on anything, in place of a network.

    Args:
        outputs: the shape of the parameters.
        value: their initial value.
        learned: whether they are trained.
        spread: the standard deviation of the noise that is added to ``value``.

    Example:
        >>> import lowerbound as lb
        >>> lb.Bernoulli(lb.constant(3, learned=False))().mean  # three fair coins
        tensor([0.5000, 0.5000, 0.5000])
        >>> lb.Gaussian(lb.constant(6))().event_shape  # a prior whose mean and scale are learned
        torch.Size([3])
    """
    return Constant(outputs, value, learned, spread)


@torch.no_grad()
def set_output_bias(network: nn.Module, outputs: Tensor, factors: Tensor | None = None) -> bool:
    """Set the bias of a network's last layer to some outputs, and scale its weights.

    The last layer is the one that was registered last of those that have a bias. A convolution has
    one bias for each channel, which becomes the mean over the channel.

    Args:
        network: any module. A learned :func:`constant` is set to the outputs themselves.
        outputs: ``[*outputs]``.
        factors: by which the weights of each output are multiplied, ``[*outputs]``.

    Returns:
        Whether such a layer was found, and its bias fits the outputs.

    Example:
        >>> network = mlp(2, 32, 3)
        >>> set_output_bias(network, torch.tensor([1.0, 2.0, 3.0]))
        True
        >>> network.layers[-1].bias
        Parameter containing:
        tensor([1., 2., 3.], requires_grad=True)
    """
    if isinstance(network, Constant):
        if network.learned:
            network.numbers.copy_(outputs)
        return network.learned
    layers: list[Any] = [
        module
        for module in network.modules()
        if isinstance(getattr(module, "bias", None), nn.Parameter)
    ]
    if not layers:
        return False
    last = layers[-1]
    of_channels = outputs.dim() > 1 and len(last.bias) == len(outputs) < outputs.numel()
    if not of_channels and last.bias.numel() != outputs.numel():
        return False
    last.bias.copy_(_average_channels(outputs, of_channels).reshape(last.bias.shape))
    if factors is not None and isinstance(getattr(last, "weight", None), nn.Parameter):
        rows = last.weight
        if getattr(last, "transposed", False):
            rows = rows.transpose(0, 1)
        flat = _average_channels(factors, of_channels)
        if len(rows) == len(flat):
            rows.mul_(flat.reshape(-1, *(1,) * (rows.dim() - 1)))
    return True


def _average_channels(values: Tensor, of_channels: bool) -> Tensor:
    if of_channels:
        return values.flatten(1).mean(1)
    return values.flatten()


def _compute_sides(image: Shape, strides: Shape) -> list[Shape]:
    """Height and width of the picture, and after each layer that shrinks it."""
    sizes = [image[1:]]
    for layer, stride in enumerate(strides, start=1):
        if min(sizes[-1]) < stride:
            raise SettingsError(
                f"conv: a picture of {image[1]} x {image[2]} has shrunk to "
                f"{sizes[-1][0]} x {sizes[-1][1]} before layer {layer}, which has stride {stride}; "
                "use fewer layers or smaller strides"
            )
        sizes.append(tuple(side // stride for side in sizes[-1]))
    return sizes


def find_leading_shape(x: Tensor, event: Shape, network: nn.Module) -> torch.Size:
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
