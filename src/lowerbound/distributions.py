"""Distributions that torch lacks, or that need better numerics or fewer passes over memory than torch's."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints, kl_divergence, register_kl

from lowerbound import noise

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def soft_clamp(x: Tensor, low: float, high: float, knee: float = 1.0) -> Tensor:
    """A smooth bound: the identity on ``[low + knee, high - knee]``, and within ``[low, high]`` for every finite number.

    Beyond the inner interval an excess ``e`` becomes ``e / (1 + |e| / knee)``, so the function is continuously
    differentiable, its slope falls as ``1 / (1 + |e| / knee)^2`` and never vanishes, and the usual case costs no
    exponential.

    Example:
        >>> soft_clamp(torch.tensor([-1e9, 0.5, 1e9]), low=-10.0, high=10.0)
        tensor([-10.0000,   0.5000,  10.0000])
    """
    inner = x.clamp(low + knee, high - knee)
    excess = x - inner
    return inner + excess / (1 + excess.abs() / knee)


class DiagonalNormal(Distribution):
    r"""A Gaussian with independent dimensions, held by its mean and the logarithm of its standard deviation.

    .. math:: \log N(x; \mu, \sigma^2) = -\sum_d \left( \tfrac12 ((x_d - \mu_d) / \sigma_d)^2 + \log \sigma_d + \tfrac12 \log 2\pi \right)

    ``torch.distributions.Normal`` keeps the scale, takes its logarithm back in every density and reads the memory more
    often. Draws come from :mod:`lowerbound.noise`, so an evaluation does not depend on its batches.

    Args:
        loc: the mean, ``[*batch, *event]``.
        log_scale: the logarithm of the standard deviation, in a shape that broadcasts with ``loc``.
        event_dims: how many trailing dimensions make one event.

    Example:
        >>> q = DiagonalNormal(torch.zeros(3, 2), torch.zeros(()))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.zeros(2))
        (torch.Size([3]), torch.Size([2]), tensor([-1.8379, -1.8379, -1.8379]))
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, loc: Tensor, log_scale: Tensor, event_dims: int = 1) -> None:
        shape = _common(loc.shape, log_scale.shape)
        batch_dims = len(shape) - event_dims
        self.loc = loc
        self.log_scale = log_scale
        self.event_dims = event_dims
        super().__init__(shape[:batch_dims], shape[batch_dims:], validate_args=False)

    @property
    def support(self) -> Any:
        """All real vectors."""
        return constraints.independent(constraints.real, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """``mu``, ``[*batch, *event]``."""
        return self.loc.expand(self._extended_shape())

    mode = mean

    @property
    def stddev(self) -> Tensor:
        """``sigma``, ``[*batch, *event]``."""
        return self.log_scale.exp().expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """``sigma^2``, ``[*batch, *event]``."""
        return (2 * self.log_scale).exp().expand(self._extended_shape())

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalNormal:
        """The same distribution, repeated over ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        return DiagonalNormal(self.loc.expand(shape), self.log_scale.expand(shape), self.event_dims)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws ``mu + sigma * eps``, ``[*sample_shape, *batch, *event]``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        examples_axis = len(shape) - self.event_dims - 1 if self.batch_shape else -1
        eps = noise.standard_normal(tuple(shape), examples_axis, dtype=self.loc.dtype, device=self.loc.device)
        return torch.addcmul(self.loc, self.log_scale.exp(), eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in nats, summed over the event's dimensions."""
        standardised = (value - self.loc) * (-self.log_scale).exp()
        quadratic = standardised.square().flatten(-self.event_dims).sum(-1)
        return -0.5 * quadratic - self._sum_over_event(self.log_scale) - self.event_shape.numel() * _HALF_LOG_TWO_PI

    def held(self) -> DiagonalNormal:
        """The same distribution with its parameters held fixed: no gradient reaches them."""
        return DiagonalNormal(self.loc.detach(), self.log_scale.detach(), self.event_dims)

    def entropy(self) -> Tensor:
        """``sum_d log sigma_d + D/2 (1 + log 2 pi)``, in nats, ``[*batch]``."""
        constant = self.event_shape.numel() * (0.5 + _HALF_LOG_TWO_PI)
        return (self._sum_over_event(self.log_scale) + constant).expand(self.batch_shape)

    def _sum_over_event(self, term: Tensor) -> Tensor:
        if term.dim() == 0:
            return term * self.event_shape.numel()
        return term.expand(_common(term.shape, self.event_shape)).flatten(-self.event_dims).sum(-1)


class FactorialBernoulli(Distribution):
    r"""Independent binary entries, held by their logits.

    .. math:: \log p(x) = \sum_d \left( x_d \eta_d - \log(1 + e^{\eta_d}) \right)

    Draws come from :mod:`lowerbound.noise`, so an evaluation does not depend on its batches.

    Args:
        logits: ``eta``, ``[*batch, *event]``.
        event_dims: how many trailing dimensions make one event.

    Example:
        >>> q = FactorialBernoulli(torch.zeros(3, 2))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.ones(2))
        (torch.Size([3]), torch.Size([2]), tensor([-1.3863, -1.3863, -1.3863]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, logits: Tensor, event_dims: int = 1) -> None:
        self.logits = logits
        self.event_dims = event_dims
        batch_dims = logits.dim() - event_dims
        super().__init__(logits.shape[:batch_dims], logits.shape[batch_dims:], validate_args=False)

    @property
    def support(self) -> Any:
        """All binary vectors."""
        return constraints.independent(constraints.boolean, self.event_dims)

    @property
    def mean(self) -> Tensor:
        """The probabilities of 1, ``[*batch, *event]``."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> Tensor:
        """``p (1 - p)``, ``[*batch, *event]``."""
        return self.mean * (1 - self.mean)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactorialBernoulli:
        """The same distribution, repeated over ``batch_shape``."""
        return FactorialBernoulli(self.logits.expand(torch.Size(batch_shape) + self.event_shape), self.event_dims)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``, of 0 and 1."""
        shape = self._extended_shape(torch.Size(sample_shape))
        examples_axis = len(shape) - self.event_dims - 1 if self.batch_shape else -1
        threshold = noise.uniform(tuple(shape), examples_axis, dtype=self.logits.dtype, device=self.logits.device)
        with torch.no_grad():  # not as a decorator, which the compiler does not follow
            return (threshold < self.mean).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, summed over the event's dimensions."""
        value = value.to(torch.promote_types(value.dtype, self.logits.dtype))
        entries = value.flatten(-self.event_dims), self.logits.flatten(-self.event_dims)
        return cast(Tensor, _BernoulliLogProb.apply(*entries))  # type: ignore[no-untyped-call]

    def held(self) -> FactorialBernoulli:
        """The same distribution with its parameters held fixed: no gradient reaches them."""
        return FactorialBernoulli(self.logits.detach(), self.event_dims)

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        terms = nn.functional.softplus(self.logits) - self.mean * self.logits
        return terms.flatten(-self.event_dims).sum(-1)


# Probabilities of at least a half that are multiplied before one logarithm is taken: their product is far from underflow.
_FACTORS = 32


class _BernoulliLogProb(torch.autograd.Function):
    r"""The log probability of Bernoulli entries, summed over the last axis, in few passes over the logits.

    .. math:: \sum_d \left( (x_d - \tfrac12) \eta_d - \tfrac12 |\eta_d| \right) + \log \prod_d \sigma(|\eta_d|)

    The first terms cancel within an entry that is fitted well, so they are put together before they are summed. A logarithm is taken
    of a product of many entries, which spares most of what is dear in :math:`\log(1 + e^\eta)`. It has no forward-mode derivative,
    since the compiler takes no function that has one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, logits: Tensor) -> Tensor:
        """``[*leading]`` of values and logits ``[*leading, D]``, which broadcast."""
        sizes = logits.abs()
        total = torch.mul(logits, value - 0.5).sub_(sizes, alpha=0.5).sum(-1)
        product, factors = sizes.sigmoid_(), 1
        while factors < _FACTORS and product.shape[-1] > 1:
            half = product.shape[-1] // 2
            if product.shape[-1] % 2:
                total = total + product[..., -1].log()
            product, factors = product[..., :half] * product[..., half : 2 * half], 2 * factors
        return total + product.log().sum(-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """What the gradient is made of."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """``eta`` for the values, ``x - sigma(eta)`` for the logits."""
        value, logits = ctx.saved_tensors
        of_value, of_logits = ctx.needs_input_grad
        slope = slope.unsqueeze(-1)
        return (
            (slope * logits).sum_to_size(value.shape) if of_value else None,
            (slope * (value - logits.sigmoid())).sum_to_size(logits.shape) if of_logits else None,
        )


def _common(a: torch.Size, b: torch.Size) -> torch.Size:
    """The shape that both broadcast to; torch's function takes as long as a small product of matrices."""
    return a if a[len(a) - len(b) :] == b else torch.broadcast_shapes(a, b)


def _normal_unit_kl(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    # [ (sigma_q / sigma_p)^2 - 1 - 2 log(sigma_q / sigma_p) + ((mu_q - mu_p) / sigma_p)^2 ] / 2
    log_ratio = q.log_scale - p.log_scale
    squared_shift = ((q.loc - p.loc) * (-p.log_scale).exp()).square()
    return 0.5 * (torch.expm1(2 * log_ratio) - 2 * log_ratio + squared_shift)


def _bernoulli_unit_kl(q: FactorialBernoulli, p: FactorialBernoulli) -> Tensor:
    # pi_q (eta_q - eta_p) - log(1 + e^eta_q) + log(1 + e^eta_p)
    return q.mean * (q.logits - p.logits) - nn.functional.softplus(q.logits) + nn.functional.softplus(p.logits)


@register_kl(DiagonalNormal, DiagonalNormal)  # type: ignore[untyped-decorator]
def _kl_diagonal_diagonal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    return q._sum_over_event(_normal_unit_kl(q, p))


@register_kl(FactorialBernoulli, FactorialBernoulli)  # type: ignore[untyped-decorator]
def _kl_bernoulli_bernoulli(q: FactorialBernoulli, p: FactorialBernoulli) -> Tensor:
    return _bernoulli_unit_kl(q, p).flatten(-q.event_dims).sum(-1)


def as_diagonal(distribution: Distribution) -> DiagonalNormal | None:
    """The same distribution as ours, if it is ours or torch's ``Independent(Normal)``; else ``None``."""
    if isinstance(distribution, DiagonalNormal):
        return distribution
    base = getattr(distribution, "base_dist", None)
    if not isinstance(distribution, Independent) or not isinstance(base, Normal):
        return None
    return DiagonalNormal(base.loc, base.scale.log(), len(distribution.event_shape))


def _as_diagonal(distribution: Distribution) -> DiagonalNormal:
    ours = as_diagonal(distribution)
    if ours is None:
        raise NotImplementedError  # torch's protocol: no closed form
    return ours


@register_kl(DiagonalNormal, Independent)  # type: ignore[untyped-decorator]
def _kl_diagonal_independent(q: DiagonalNormal, p: Independent[Any]) -> Tensor:
    kl: Tensor = _kl_diagonal_diagonal(q, _as_diagonal(p))
    return kl


@register_kl(Independent, DiagonalNormal)  # type: ignore[untyped-decorator]
def _kl_independent_diagonal(q: Independent[Any], p: DiagonalNormal) -> Tensor:
    kl: Tensor = _kl_diagonal_diagonal(_as_diagonal(q), p)
    return kl


def closed_form_unit_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) of each entry of the event, ``[*batch, *event]``, in nats, where both have independent entries; else ``None``.

    Example:
        >>> q, p = DiagonalNormal(torch.ones(2), torch.zeros(2)), DiagonalNormal(torch.zeros(2), torch.zeros(2))
        >>> closed_form_unit_kl(q, p)
        tensor([0.5000, 0.5000])
    """
    if isinstance(q, FactorialBernoulli) and isinstance(p, FactorialBernoulli):
        units = _bernoulli_unit_kl(q, p)
    else:
        try:
            units = _normal_unit_kl(_as_diagonal(q), _as_diagonal(p))
        except NotImplementedError:
            return None
    return units.expand(q.batch_shape + q.event_shape)


def closed_form_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """KL(q || p) in nats where a closed form is registered with torch, else ``None``.

    Example:
        >>> q, p = DiagonalNormal(torch.ones(2), torch.zeros(2)), DiagonalNormal(torch.zeros(2), torch.zeros(2))
        >>> closed_form_kl(q, p)
        tensor(1.)
    """
    try:
        kl: Tensor = kl_divergence(q, p)
        return kl
    except NotImplementedError:
        return None


def drawn(distribution: Distribution, samples: int) -> Tensor:
    """``[samples, B, *event]`` draws of a distribution of batch shape ``[B]``, from the examples' own noise where that is in force.

    They are reparameterised where the distribution can be.
    """
    size = torch.Size((samples,))
    with noise.for_foreign(samples, distribution.batch_shape[0]):
        return distribution.rsample(size) if distribution.has_rsample else distribution.sample(size)
