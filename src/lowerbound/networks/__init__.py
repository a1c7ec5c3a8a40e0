"""Plain networks between events of declared shapes, under any leading dimensions."""

from lowerbound.networks.activations import ACTIVATIONS, Activation
from lowerbound.networks.biases import set_output_bias
from lowerbound.networks.constants import Constant, constant
from lowerbound.networks.convolutional import Conv, conv
from lowerbound.networks.dense import MLP, mlp
from lowerbound.networks.shapes import (
    FlattenLeading,
    Shape,
    as_shape,
    find_leading_shape,
    flatten_leading,
)

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Activation",
    "Constant",
    "Conv",
    "FlattenLeading",
    "Shape",
    "as_shape",
    "constant",
    "conv",
    "find_leading_shape",
    "flatten_leading",
    "mlp",
    "set_output_bias",
]
