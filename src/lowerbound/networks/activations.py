"""Activations by name, and gated linear units."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from lowerbound.errors import SettingsError

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
GATED = "gated"


def make_activation(activation: Activation, axis: int = -1) -> nn.Module:
    r"""Make an activation.

    ``"gated"`` is the gated linear unit, :math:`(W h + b) \odot \sigma(V h + c)` (Dauphin et al.
    2017, "Language modeling with gated convolutional networks"; in auto-encoders Tomczak & Welling
    2018). The layer before it has twice as many outputs, see :func:`count_inputs`: half of them are
    gates.

    Args:
        activation: a name, or a function that makes a module.
        axis: the axis of the channels or units.

    Raises:
        SettingsError: for an unknown name.
    """
    if callable(activation):
        return activation()
    if activation == GATED:
        return nn.GLU(axis)
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise SettingsError(
            f"activation={activation!r} is unknown; choose one of {', '.join(ACTIVATIONS)}, "
            f"{GATED}, or pass a class such as torch.nn.PReLU"
        )
    return ACTIVATIONS[activation]()


def count_inputs(activation: Activation, width: int) -> int:
    """Count the inputs that an activation needs in order to return ``width`` units.

    Example:
        >>> count_inputs("relu", 200), count_inputs("gated", 200)
        (200, 400)
    """
    if activation == GATED:
        return 2 * width
    return width
