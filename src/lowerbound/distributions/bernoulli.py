"""Binary entries."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from lowerbound.distributions.states import list_states, spread_over_batch
from lowerbound.runtime import noise
from lowerbound.runtime.renaming import OldAttribute


class FactorialBernoulli(Distribution):
    r"""Independent binary entries, given by their logits.

    .. math:: \log p(x) = \sum_d \left( x_d \eta_d - \log(1 + e^{\eta_d}) \right)

    Draws come from :mod:`lowerbound.runtime.noise`, so an evaluation does not depend on its
    batches.

    Args:
        logits: ``eta``, ``[*batch, *event]``.
        event_dims: the number of trailing dimensions that make one event.

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
        return FactorialBernoulli(
            self.logits.expand(torch.Size(batch_shape) + self.event_shape), self.event_dims
        )

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All binary events, ``[2^D, *batch, *event]``.

        Args:
            expand: repeat them over the batch; otherwise its dimensions have the length 1.

        Raises:
            SettingsError: if there are more than 65,536 of them.
        """
        states = list_states(2, self.event_shape.numel(), self.logits.device)
        events = states.to(self.logits.dtype).reshape(-1, *self.event_shape)
        return spread_over_batch(events, self.batch_shape, expand)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``, of 0 and 1."""
        size, logits = torch.Size(sample_shape), self.logits
        axis = noise.examples_axis(self.batch_shape, size)
        shape = tuple(self._extended_shape(size))
        threshold = noise.uniform(shape, axis, dtype=logits.dtype, device=logits.device)
        with torch.no_grad():  # not as a decorator, which the compiler does not follow
            return (threshold < self.mean).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, summed over the event's dimensions."""
        value = value.to(torch.promote_types(value.dtype, self.logits.dtype))
        entries = value.flatten(-self.event_dims), self.logits.flatten(-self.event_dims)
        return cast(Tensor, _BernoulliLogProb.apply(*entries))  # type: ignore[no-untyped-call]

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        return value * self.logits - nn.functional.softplus(self.logits)

    def stop_gradient(self) -> FactorialBernoulli:
        """The same distribution with a stop-gradient on its parameters."""
        return FactorialBernoulli(self.logits.detach(), self.event_dims)

    held = OldAttribute("stop_gradient")

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        terms = nn.functional.softplus(self.logits) - self.mean * self.logits
        return terms.flatten(-self.event_dims).sum(-1)


# The number of probabilities, of at least 1/2 each, that are multiplied before one logarithm is
# taken. Their product is far from underflow.
_FACTORS = 32


class _BernoulliLogProb(torch.autograd.Function):
    r"""The log probability of Bernoulli entries, summed over the last axis.

    .. math::

        \sum_d \left( (x_d - \tfrac12) \eta_d - \tfrac12 |\eta_d| \right)
            + \log \prod_d \sigma(|\eta_d|)

    It reads the logits as rarely as it can. The first terms cancel within an entry that is fitted
    well, so they are combined before they are summed. The logarithm is taken of a product of many
    entries, which avoids most of the cost of :math:`\log(1 + e^\eta)`. A forward-mode derivative is
    left out, because the compiler rejects a function that has one.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, logits: Tensor) -> Tensor:
        """``[*leading]`` of values and logits ``[*leading, D]``, which broadcast."""
        if torch.compiler.is_compiling() and logits.dtype == torch.float32:
            return _compute_in_one_pass(value, logits)
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
        """Save the tensors from which the gradient is computed."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """``eta`` for the values, ``x - sigma(eta)`` for the logits."""
        value, logits = ctx.saved_tensors
        needed = ctx.needs_input_grad
        gradient = gradient.unsqueeze(-1)
        of_value = of_logits = None
        if needed[0]:
            of_value = (gradient * logits).sum_to_size(value.shape)
        if needed[1]:
            of_logits = (gradient * (value - logits.sigmoid())).sum_to_size(logits.shape)
        return of_value, of_logits


def _compute_in_one_pass(value: Tensor, logits: Tensor) -> Tensor:
    """The same for compiled code, which reads the logits once and stores no large tensor."""
    sizes = logits.abs()
    entries = logits * (value - 0.5) - 0.5 * sizes
    inverses = 1 + _exp_of_negative(-sizes)  # of sigma(|eta|): no division
    whole = logits.shape[-1] // _FACTORS * _FACTORS
    total = entries[..., whole:].sum(-1) - inverses[..., whole:].prod(-1).log()
    if whole:
        by_factor = (-1, (_FACTORS, whole // _FACTORS))
        sums = entries[..., :whole].unflatten(*by_factor).sum(-2)
        total = total + (sums - inverses[..., :whole].unflatten(*by_factor).prod(-2).log()).sum(-1)
    return total


def _exp_of_negative(x: Tensor) -> Tensor:
    r"""``e^x`` of float32 values of at most 0, with an error below 2e-7.

    The compiler fuses these operations into one loop.

    .. math::

        e^x = 2^n \sum_{k=0}^6 \frac{r^k}{k!}, \qquad
        n = \mathrm{round}(x / \log 2), \quad r = x - n \log 2

    The remainder of the series is at most ``(log 2 / 2)^7 / 7!``. ``2^n`` is made from its bits.
    """
    x = x.clamp(min=-87.0)  # float32 has no exponent for less; e^-87 is 1e-38
    n = (x / math.log(2)).round()
    r = x - n * math.log(2)
    series = torch.full_like(r, 1 / math.factorial(6))
    for k in range(5, -1, -1):
        series = series * r + 1 / math.factorial(k)
    return series * ((n.to(torch.int32) + 127) << 23).view(torch.float32)
