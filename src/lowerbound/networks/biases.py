"""The outputs with which a network starts training, which its last layer's bias sets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.networks.constants import Constant


@torch.no_grad()
def set_output_bias(network: nn.Module, outputs: Tensor, factors: Tensor | None = None) -> bool:
    """Set the bias of a network's last layer to some outputs, and scale its weights.

    Of the layers that have a bias, the last layer is the one that was registered last. A
    convolution has one bias for each channel: it becomes the mean of the outputs over the channel.

    Args:
        network: any module. A learned :func:`constant` is set to the outputs themselves.
        outputs: ``[*outputs]``.
        factors: the weights of each output are multiplied by these, ``[*outputs]``.

    Returns:
        Whether the bias was set: a network may have none, or one of another size.

    Example:
        >>> from lowerbound.networks import mlp
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
