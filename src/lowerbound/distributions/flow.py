"""The distribution of a normalising flow of the library zuko."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.distributions.supports import find_support


class NormalizingFlow(Distribution):
    """A flow of zuko that declares its support, and broadcasts the values that it scores.

    Args:
        flow: of zuko's class with this name.
        support: its support, if that is not the domain of the flow's transform.
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, flow: Any, support: constraints.Constraint | None = None) -> None:
        self.flow = flow
        self._support = support
        super().__init__(flow.batch_shape, flow.event_shape, validate_args=False)

    @property
    def transform(self) -> Any:
        """The transform of zuko from values to noise."""
        return self.flow.transform

    @property
    def base(self) -> Distribution:
        """The distribution of the noise."""
        base: Distribution = self.flow.base
        return base

    @property
    def support(self) -> Any:
        """The values that draws can have."""
        support = self._support or find_support(self.flow)
        if support is None:
            raise NotImplementedError
        return support

    def expand(self, batch_shape: Any, _instance: Any = None) -> NormalizingFlow:
        """The same distribution, repeated over ``batch_shape``."""
        return NormalizingFlow(self.flow.expand(torch.Size(batch_shape)), self._support)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in nats."""
        leading = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        log_prob: Tensor = self.flow.log_prob(value.expand(*leading, -1))
        return log_prob

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, ``[*sample_shape, *batch, D]``."""
        z: Tensor = self.flow.rsample(torch.Size(sample_shape))
        return z

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Reparameterised draws and their log densities, which are computed together."""
        z, log_q = self.flow.rsample_and_log_prob(torch.Size(sample_shape))
        return z, log_q
