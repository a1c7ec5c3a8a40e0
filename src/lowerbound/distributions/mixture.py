"""Mixtures of the distributions in a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.distributions.bernoulli import FactorialBernoulli
from lowerbound.distributions.divergence import as_diagonal
from lowerbound.distributions.implicit import reparameterise
from lowerbound.distributions.low_rank import LowRankNormal
from lowerbound.distributions.normal import DiagonalNormal, TriangularNormal
from lowerbound.runtime import noise


class Mixture(Distribution):
    r"""A weighted average of K densities; the last batch dimension counts the components.

    .. math:: \log p(x) = \log \sum_{k=1}^K w_k \, p_k(x), \qquad w = \operatorname{softmax}(\ell)

    The components may be of any kind. Draws are reparameterised if these are diagonal Gaussians, by
    implicit differentiation (:mod:`lowerbound.distributions.implicit`). They come from
    :mod:`lowerbound.runtime.noise` if the components are lowerbound's own, so that an evaluation
    does not depend on its batches.

    Args:
        components: the densities, batch shape ``[*batch, K]``.
        log_weights: :math:`\ell`, ``[K]`` or ``[*batch, K]``.

    Example:
        >>> pair = DiagonalNormal(torch.tensor([[-1.0], [1.0]]), torch.zeros(()))
        >>> p = Mixture(pair, torch.zeros(2))
        >>> p.batch_shape, p.mean, p.variance, p.log_prob(torch.zeros(1))
        (torch.Size([]), tensor([0.]), tensor([2.]), tensor(-1.4189))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, components: Distribution, log_weights: Tensor) -> None:
        self.components = components
        self.log_weights = log_weights.log_softmax(-1)
        super().__init__(components.batch_shape[:-1], components.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws can be reparameterised: for diagonal Gaussians."""
        return as_diagonal(self.components) is not None

    @property
    def support(self) -> Any:
        """The support of the components."""
        return self.components.support

    @property
    def mean(self) -> Tensor:
        """``sum_k w_k mu_k``, ``[*batch, *event]``."""
        return self._average(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """``sum_k w_k (sigma_k^2 + (mu_k - mu)^2)``, ``[*batch, *event]``."""
        distances = self.components.mean - self.mean.unsqueeze(self._axis)
        return self._average(self.components.variance + distances.square())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Mixture:
        """The same distribution, repeated over ``batch_shape``."""
        count = self.components.batch_shape[-1]
        return Mixture(self.components.expand(torch.Size((*batch_shape, count))), self.log_weights)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in nats, ``[*samples, *batch]``."""
        value = value.unsqueeze(self._axis)
        # Not every distribution broadcasts values against its batch: zuko's flows do not.
        component_shape = self.components.batch_shape + self.event_shape
        shape = torch.broadcast_shapes(value.shape, component_shape)
        each = self.components.log_prob(value.expand(shape))
        return (each + self.log_weights).logsumexp(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``."""
        size = torch.Size(sample_shape)
        with torch.no_grad():
            chosen = self._choose_components(size)
            component = _select_components(self.components, chosen)
            if component is not None:
                return component.sample()
            return _select_values(self.components.sample(size), chosen, len(self.event_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, ``[*sample_shape, *batch, *event]``.

        Raises:
            NotImplementedError: if the components are not diagonal Gaussians.
        """
        diagonal = as_diagonal(self.components)
        if diagonal is None:
            raise NotImplementedError
        drawn = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return drawn
        return reparameterise(drawn, diagonal, self.log_weights)

    @property
    def _axis(self) -> int:
        """The axis of the components in an array ``[*batch, K, *event]``."""
        return -len(self.event_shape) - 1

    def _average(self, values: Tensor) -> Tensor:
        weights = self.log_weights.exp()
        weights = weights.reshape(*weights.shape, *(1,) * len(self.event_shape))
        return (weights * values).sum(self._axis)

    def _choose_components(self, size: torch.Size) -> Tensor:
        """Draw the indices of components, ``[*size, *batch]``, by their weights."""
        shape = size + self.batch_shape
        examples_axis = -1
        if self.batch_shape:
            examples_axis = len(shape) - 1
        cumulative = self.log_weights.exp().cumsum(-1)
        cumulative = cumulative / cumulative[..., -1:]  # exactly 1 at the end, in spite of rounding
        u = noise.uniform(
            tuple(shape), examples_axis, dtype=cumulative.dtype, device=cumulative.device
        )
        return (u.unsqueeze(-1) >= cumulative).sum(-1)


def _select_components(components: Distribution, chosen: Tensor) -> Distribution | None:
    """Select the components of these indices, batch shape ``chosen.shape``.

    Then only the chosen components are drawn from, and their noise belongs to the examples. Returns
    ``None`` for distributions of other libraries.
    """
    shape = components.batch_shape + components.event_shape
    dims = len(components.event_shape)
    diagonal = as_diagonal(components)
    if diagonal is not None:
        loc, log_scale = diagonal.loc.expand(shape), diagonal.log_scale.expand(shape)
        return DiagonalNormal(
            _select_values(loc, chosen, dims),
            _select_values(log_scale, chosen, dims),
            event_dims=dims,
        )
    if isinstance(components, FactorialBernoulli):
        return FactorialBernoulli(_select_values(components.logits, chosen, dims), dims)
    if isinstance(components, TriangularNormal):
        loc, factor = components.loc.expand(shape), components.factor.expand(*shape, shape[-1])
        return TriangularNormal(_select_values(loc, chosen, 1), _select_values(factor, chosen, 2))
    if isinstance(components, LowRankNormal):
        return LowRankNormal(
            _select_values(components.loc, chosen, 1),
            _select_values(components.columns, chosen, 2),
            _select_values(components.log_scale, chosen, 1),
        )
    return None


def _select_values(values: Tensor, chosen: Tensor, event_dims: int) -> Tensor:
    """Select the chosen components' values, ``[*chosen, *event]``, of ``[*batch, K, *event]``."""
    index = chosen.reshape(*chosen.shape, *(1,) * (event_dims + 1))
    values = values.reshape(*(1,) * (index.dim() - values.dim()), *values.shape)
    return values.take_along_dim(index, -event_dims - 1).squeeze(-event_dims - 1)
