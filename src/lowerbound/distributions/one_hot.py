"""Categorical variables as one-hot codes: exact, with a straight-through gradient, and relaxed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl

from lowerbound.distributions.states import list_states, spread_over_batch
from lowerbound.runtime import noise

# The smallest logarithm of an entry of a relaxed code: e^-80 is far above the least float32.
_LEAST_LOG = -80.0


class FactorialOneHot(Distribution):
    r"""Independent categorical variables, each a one-hot code, given by their logits.

    .. math:: \log p(z) = \sum_{j=1}^J \sum_{c=1}^C z_{jc} \log \operatorname{softmax}(\eta_j)_c

    Unlike torch's ``OneHotCategorical`` it draws from :mod:`lowerbound.runtime.noise`, so an
    evaluation does not depend on its batches, and its log probability is linear in z, so that a
    straight-through gradient goes through it.

    Args:
        logits: :math:`\eta`, ``[*batch, J, C]``.

    Example:
        >>> q = FactorialOneHot(torch.zeros(3, 2, 4))
        >>> q.batch_shape, q.event_shape, q.log_prob(torch.eye(4)[:2])
        (torch.Size([3]), torch.Size([2, 4]), tensor([-2.7726, -2.7726, -2.7726]))
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.log_probs = logits.log_softmax(-1)
        super().__init__(logits.shape[:-2], logits.shape[-2:], validate_args=False)

    @property
    def support(self) -> Any:
        """All codes with a single 1 for each variable and 0 elsewhere."""
        return constraints.independent(constraints.one_hot, 1)

    @property
    def probs(self) -> Tensor:
        """The probability of each category, ``[*batch, J, C]``."""
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """The probability of each category, ``[*batch, J, C]``."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """``p (1 - p)``, ``[*batch, J, C]``."""
        return self.probs * (1 - self.probs)

    @property
    def mode(self) -> Tensor:
        """The code of the most probable categories, ``[*batch, J, C]``."""
        return self._encode(self.logits.argmax(-1))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FactorialOneHot:
        """The same distribution, repeated over ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        return self._replace_logits(self.logits.expand(shape))

    def stop_gradient(self) -> FactorialOneHot:
        """The same distribution with a stop-gradient on its parameters."""
        return self._replace_logits(self.logits.detach())

    def _replace_logits(self, logits: Tensor) -> FactorialOneHot:
        return FactorialOneHot(logits)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, J, C]``, by inverting the distribution function."""
        with torch.no_grad():
            u = self._draw_uniform(sample_shape, ())
            cumulative = self.probs.cumsum(-1)
            category = (cumulative <= u.unsqueeze(-1)).sum(-1)
            # Rounding may leave the last cumulative probability below 1, and u above it.
            return self._encode(category.clamp(max=self.logits.shape[-1] - 1))

    def _draw_uniform(self, sample_shape: Any, entries: tuple[int, ...]) -> Tensor:
        """Draw from [0, 1), ``[*sample_shape, *batch, J, *entries]``."""
        size, logits = torch.Size(sample_shape), self.logits
        axis = noise.examples_axis(self.batch_shape, size)
        shape = (*size, *self.batch_shape, logits.shape[-2], *entries)
        return noise.uniform(shape, axis, dtype=logits.dtype, device=logits.device)

    def _encode(self, category: Tensor) -> Tensor:
        """The one-hot codes of categories ``[..., J]``, ``[..., J, C]``."""
        categories = torch.arange(self.logits.shape[-1], device=category.device)
        return (category.unsqueeze(-1) == categories).to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, summed over the variables."""
        return (value * self.log_probs).flatten(-2).sum(-1)

    def entropy(self) -> Tensor:
        """In nats, ``[*batch]``."""
        return -(self.probs * self.log_probs).flatten(-2).sum(-1)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All joint states of the variables, ``[C^J, *batch, J, C]``.

        Args:
            expand: repeat them over the batch; otherwise its dimensions have the length 1.

        Raises:
            SettingsError: if there are more than 65,536 states.
        """
        variables, categories = self.event_shape
        combinations = list_states(categories, variables, self.logits.device)
        return spread_over_batch(self._encode(combinations), self.batch_shape, expand)


class StraightThroughOneHot(FactorialOneHot):
    r"""One-hot codes whose draws have the gradient of a relaxation.

    A draw is exact: :math:`z = \text{one-hot}(\arg\max_c (\eta_c + g_c))` with Gumbel noise g. Its
    gradient is taken to be that of :math:`\operatorname{softmax}((\eta + g) / \tau)`, which is
    biased. So the value of a bound is unbiased, and the gradient of the posterior is not.

    Args:
        logits: :math:`\eta`, ``[*batch, J, C]``.
        temperature: :math:`\tau`.

    Source: Jang, Gu & Poole 2017, "Categorical reparameterization with Gumbel-softmax".

    Example:
        >>> logits = torch.zeros(1, 3, requires_grad=True)
        >>> z = StraightThroughOneHot(logits, 1.0).rsample((2,))
        >>> z.sum(-1), z.requires_grad
        (tensor([[1.],
                [1.]], grad_fn=<SumBackward1>), True)
    """

    has_rsample = True

    def __init__(self, logits: Tensor, temperature: float) -> None:
        super().__init__(logits)
        self.temperature = temperature

    def _replace_logits(self, logits: Tensor) -> StraightThroughOneHot:
        return StraightThroughOneHot(logits, self.temperature)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws with the gradient of the relaxation, ``[*sample_shape, *batch, J, C]``."""
        noisy = _add_gumbel_noise(self, sample_shape)
        soft = (noisy / self.temperature).softmax(-1)
        return self._encode(noisy.argmax(-1)) + (soft - soft.detach())


class RelaxedOneHot(Distribution):
    r"""A density over vectors of probabilities that approaches one-hot codes: Concrete variables.

    .. math::

        z = \operatorname{softmax}\left(\frac{\eta + g}{\tau}\right), \qquad
        p(z) = (C - 1)!\, \tau^{C - 1}
        \frac{\prod_c e^{\eta_c} z_c^{-\tau - 1}}{\left( \sum_c e^{\eta_c} z_c^{-\tau} \right)^C}

    for each of J independent variables, with Gumbel noise g. The most probable category of a draw
    has the probabilities softmax(eta) at every temperature.

    Unlike those of torch's ``RelaxedOneHotCategorical``, entries of a draw are at least
    :math:`e^{-80}`, so the density is finite in float32. At temperatures of 0.5 or more no draw
    comes near this limit unless log odds exceed 20. At lower temperatures densities become inexact.

    Args:
        logits: :math:`\eta`, ``[*batch, J, C]``.
        temperature: :math:`\tau`.

    Source: Maddison, Mnih & Teh 2017, "The Concrete distribution"; Jang, Gu & Poole 2017.

    Example:
        >>> q = RelaxedOneHot(torch.zeros(5, 2, 3), 0.5)
        >>> z = q.rsample()
        >>> z.shape, q.log_prob(z).shape, q.log_prob(torch.full((2, 3), 1 / 3))[0]
        (torch.Size([5, 2, 3]), torch.Size([5]), tensor(-1.3863))
    """

    has_rsample = True
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, logits: Tensor, temperature: float) -> None:
        self.logits = logits
        self.temperature = temperature
        super().__init__(logits.shape[:-2], logits.shape[-2:], validate_args=False)

    @property
    def support(self) -> Any:
        """Vectors of probabilities."""
        return constraints.independent(constraints.simplex, 1)

    @property
    def probs(self) -> Tensor:
        """The probability that a category is the largest entry of a draw, ``[*batch, J, C]``."""
        return self.logits.softmax(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RelaxedOneHot:
        """The same distribution, repeated over ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        return RelaxedOneHot(self.logits.expand(shape), self.temperature)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws, ``[*sample_shape, *batch, J, C]``."""
        exact = FactorialOneHot(self.logits)
        noisy = _add_gumbel_noise(exact, sample_shape)
        return (noisy / self.temperature).log_softmax(-1).clamp_min(_LEAST_LOG).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value``, in nats, summed over the variables."""
        count = self.logits.shape[-1]
        logs = value.log().clamp_min(_LEAST_LOG)
        scores = self.logits - self.temperature * logs
        each = (scores - logs).sum(-1) - count * scores.logsumexp(-1)
        constant = math.lgamma(count) + (count - 1) * math.log(self.temperature)
        return (each + constant).sum(-1)

    def stop_gradient(self) -> RelaxedOneHot:
        """The same distribution with a stop-gradient on its parameters."""
        return RelaxedOneHot(self.logits.detach(), self.temperature)


def _add_gumbel_noise(exact: FactorialOneHot, sample_shape: Any) -> Tensor:
    """Add Gumbel noise to the logits, ``[*sample_shape, *batch, J, C]``."""
    u = exact._draw_uniform(sample_shape, tuple(exact.event_shape[1:]))
    exponential = -u.clamp_min(torch.finfo(u.dtype).tiny).log()
    return exact.log_probs - exponential.clamp_min(torch.finfo(u.dtype).tiny).log()


def compute_unit_kl(q: FactorialOneHot, p: FactorialOneHot) -> Tensor:
    """KL(q || p) of each variable, ``[*batch, J]``, in nats."""
    return (q.probs * (q.log_probs - p.log_probs)).sum(-1)


@register_kl(FactorialOneHot, FactorialOneHot)  # type: ignore[untyped-decorator]
def _kl_one_hot_one_hot(q: FactorialOneHot, p: FactorialOneHot) -> Tensor:
    return compute_unit_kl(q, p).sum(-1)
