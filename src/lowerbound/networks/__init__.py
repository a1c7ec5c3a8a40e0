"""Plain networks between events of declared shapes, under any leading dimensions."""

from lowerbound.networks.activations import ACTIVATIONS, Activation
from lowerbound.networks.attention import Attention, attention
from lowerbound.networks.biases import set_output_bias
from lowerbound.networks.constants import Constant, constant
from lowerbound.networks.convolutional import Conv, conv
from lowerbound.networks.dense import MLP, mlp
from lowerbound.networks.modules import check_module
from lowerbound.networks.recurrent import Recurrent, recurrent
from lowerbound.networks.sequences import Embedding, SequenceDecoder, embed
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
    "Attention",
    "Constant",
    "Conv",
    "Embedding",
    "FlattenLeading",
    "Recurrent",
    "SequenceDecoder",
    "Shape",
    "as_shape",
    "attention",
    "check_module",
    "constant",
    "conv",
    "embed",
    "find_leading_shape",
    "flatten_leading",
    "mlp",
    "recurrent",
    "set_output_bias",
]
