"""The base of distributions with independent entries."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.runtime import noise


class Factorial(Distribution):
    """Independent entries, each with a few parameters.

    To write your own: pass the parameters to this constructor, and write
    :meth:`entrywise_log_prob`, :meth:`change_parameters`, ``sample``, ``support``, ``mean`` and
    ``variance``. If draws can be reparameterised, write ``rsample`` instead of ``sample``, and set
    ``has_rsample = True``.

    Args:
        parameters: tensors that broadcast to ``[*batch, *inner, *event]``.
        event_dims: the number of trailing dimensions that make one event.
        inner_dims: the number of dimensions before them that index several parameters of one entry,
            such as those of the components of a mixture.
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, *parameters: Tensor, event_dims: int = 1, inner_dims: int = 0) -> None:
        self.event_dims = event_dims
        self.inner_dims = inner_dims
        shape = _broadcast_shapes(parameters)
        batch_dims = len(shape) - event_dims - inner_dims
        event_shape = shape[len(shape) - event_dims :]
        super().__init__(shape[:batch_dims], event_shape, validate_args=False)

    @abstractmethod
    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""

    @abstractmethod
    def change_parameters(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same kind of distribution, after a change of each parameter."""

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, summed over the event's dimensions."""
        return self.entrywise_log_prob(value).flatten(-self.event_dims).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution, repeated over ``batch_shape``."""
        own = self.event_dims + self.inner_dims

        def expand(parameter: Tensor) -> Tensor:
            shape = parameter.shape[max(0, parameter.dim() - own) :]
            return parameter.expand(torch.Size(batch_shape) + (1,) * (own - len(shape)) + shape)

        return self.change_parameters(expand)

    def stop_gradient(self) -> Self:
        """The same distribution with a stop-gradient on its parameters."""
        return self.change_parameters(Tensor.detach)

    def _draw_uniform(self, sample_shape: torch.Size, like: Tensor) -> Tensor:
        """Draw from (0, 1], ``[*sample_shape, *batch, *event]``, from the examples' streams."""
        axis = noise.examples_axis(self.batch_shape, sample_shape)
        shape = tuple(self._extended_shape(sample_shape))
        return 1 - noise.uniform(shape, axis, dtype=like.dtype, device=like.device)


def _broadcast_shapes(tensors: tuple[Tensor, ...]) -> torch.Size:
    """Return the common shape; torch's own function takes as long as a small matrix product."""
    first, *others = (tensor.shape for tensor in tensors)
    if all(first[len(first) - len(shape) :] == shape for shape in others):
        return first
    return torch.Size(torch.broadcast_shapes(first, *others))
