"""Multi-layer perceptrons."""

from __future__ import annotations

import math
from typing import Literal, cast

from torch import Tensor, nn

from lowerbound.describe import describable
from lowerbound.errors import SettingsError
from lowerbound.networks.activations import Activation, count_inputs, make_activation
from lowerbound.networks.dropout import Dropout
from lowerbound.networks.residual import Residual, check_blocks, check_norm
from lowerbound.networks.shapes import Shape, as_shape, find_leading_shape
from lowerbound.settings import check_flag, check_share


@describable
class MLP(nn.Module):
    """A multi-layer perceptron between events of any shape; made by :func:`mlp`."""

    def __init__(
        self,
        inputs: int | Shape,
        hidden: Shape,
        outputs: int | Shape,
        activation: Activation = "relu",
        *,
        residual: int = 0,
        norm: Literal["layer"] | None = None,
        dropout: float = 0.0,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.inputs = self.input_shape = as_shape(inputs)
        self.hidden = as_shape(hidden) if hidden else ()
        self.outputs = self.output_shape = as_shape(outputs)
        self.activation = activation
        self.residual = check_blocks("mlp", residual)
        self.norm = norm
        check_norm("mlp", norm, "layer")
        self.dropout = check_share("mlp: dropout", dropout)
        self.layers = nn.Sequential()
        width = math.prod(self.inputs)
        for position, units in enumerate(self.hidden):
            if self.residual:
                self._add_blocks(width, units, is_first=not position)
            else:
                self._add_layer(width, units)
            width = units
        if self.residual:
            self.layers.extend(self._make_norm(width))
        self.layers.append(nn.Linear(width, math.prod(self.outputs)))
        self.skip = check_flag("mlp: skip", skip)
        self.linear: nn.Linear | None = None
        if skip:
            # Without a bias, so that the bias of the outputs is still that of the last layer.
            self.linear = nn.Linear(math.prod(self.inputs), math.prod(self.outputs), bias=False)
            nn.init.zeros_(self.linear.weight)

    def _add_layer(self, width: int, units: int) -> None:
        before = count_inputs(self.activation, units)
        self.layers.append(nn.Linear(width, before))
        self.layers.extend(self._make_norm(before))
        self.layers.extend(self._make_activation())

    def _add_blocks(self, width: int, units: int, *, is_first: bool) -> None:
        """Add a linear layer where the number of units changes, and then residual blocks."""
        if is_first or width != units:
            self.layers.append(nn.Linear(width, units))
        for _ in range(self.residual):
            branch = nn.Sequential(
                *self._make_norm(units),
                nn.Linear(units, count_inputs(self.activation, units)),
                *self._make_activation(),
                nn.Linear(units, units),
            )
            self.layers.append(Residual(branch, self.residual * len(self.hidden)))

    def _make_norm(self, width: int) -> list[nn.Module]:
        if self.norm is None:
            return []
        return [nn.LayerNorm(width)]

    def _make_activation(self) -> list[nn.Module]:
        activation = make_activation(self.activation)
        return [activation, Dropout(self.dropout)] if self.dropout else [activation]

    def forward(self, x: Tensor) -> Tensor:
        """``[*leading, *inputs]`` to ``[*leading, *outputs]``."""
        leading = find_leading_shape(x, self.inputs, self)
        x = x.reshape(*leading, -1)
        y = cast(Tensor, self.layers(x))
        if self.linear is not None:
            y = y + self.linear(x)
        return y.reshape(*leading, *self.outputs)


def mlp(
    inputs: int | Shape,
    *sizes: int | Shape,
    activation: Activation = "relu",
    residual: int = False,
    norm: Literal["layer"] | None = None,
    dropout: float = 0.0,
    skip: bool = False,
) -> MLP:
    r"""A multi-layer perceptron: ``mlp(inputs, hidden, ..., hidden, outputs)``.

    A hidden layer is :math:`a(\operatorname{norm}(W h + b))`. With ``residual`` it is instead one
    residual block, or several, which keep the number of units:

    .. math:: h + W_2 \, a(W_1 \operatorname{norm}(h) + b_1) + b_2

    A linear layer precedes them where the number of units changes. Without ``norm``, nothing is
    normalised.

    Args:
        inputs: the dimensions of an event going in, or its shape; it is flattened inside.
        sizes: the widths of the hidden layers, then the dimensions or shape of an event coming out.
        activation: the function ``a``: a name from ``ACTIVATIONS``; ``"gated"`` for gated linear
            units (Tomczak & Welling 2018); or a function that makes a module.
        residual: whether hidden layers are residual blocks (He et al. 2016), or how many blocks
            there are for each hidden layer.
        norm: ``"layer"`` for layer normalisation (Ba et al. 2016), or ``None``.
        dropout: the share of the values of ``a`` that are set to 0 at random in training, while the
            others are divided by what is left (Srivastava et al. 2014, "Dropout: a simple way to
            prevent neural networks from overfitting"). In residual blocks, the sum that the
            blocks add to is kept whole.
        skip: whether a linear function of the input is added to the outputs. It starts at 0.

    Returns:
        A module from ``[*leading, *inputs]`` to ``[*leading, *outputs]``.

    Raises:
        SettingsError: for an unknown activation or normalisation, a size below 1, or a share of
            dropout that is not from 0 to below 1.

    Example:
        >>> import torch
        >>> mlp(10, 200, (2, 64, 64), activation="tanh")(torch.zeros(7, 32, 10)).shape
        torch.Size([7, 32, 2, 64, 64])
        >>> deep = mlp(10, 64, 64, 64, 4, activation="gated", residual=True, norm="layer")
        >>> deep(torch.zeros(32, 10)).shape
        torch.Size([32, 4])
    """
    if not sizes:
        raise SettingsError("mlp needs at least its inputs and its outputs: mlp(784, 200, 20)")
    *hidden, outputs = sizes
    widths = cast(Shape, tuple(hidden))
    return MLP(
        inputs,
        widths,
        outputs,
        activation,
        residual=residual,
        norm=norm,
        dropout=dropout,
        skip=skip,
    )
