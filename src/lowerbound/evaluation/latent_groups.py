"""The groups of a model's latents for a batch, with their posteriors, priors and rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    OneHotCategorical,
)

from lowerbound.distributions import (
    FactorialBernoulli,
    FactorialOneHot,
    choose_point,
    closed_form_kl,
    closed_form_unit_kl,
    natural_point,
    unwrap_independent,
)
from lowerbound.errors import UnsupportedError
from lowerbound.models import LatentModel, Model

# Distributions of units that are one of several codes, whose ``probs`` are ``[*batch, J, C]``.
_CODES = Categorical | OneHotCategorical | FactorialOneHot


@dataclass(frozen=True, eq=False)
class Group:
    """One group of latents for a batch.

    Args:
        q: the posterior, of batch shape ``[B]``, or ``[K, B]`` if it depends on other latents.
        prior: of batch shape ``[]``, ``[B]`` or ``[K, B]``.
        unit_rates: KL(q || prior) of each unit, ``[B, *units]``; ``None`` without a closed form.
        whole_rates: computes KL(q || prior), ``[B]``.
    """

    q: Distribution
    prior: Distribution
    unit_rates: Tensor | None
    whole_rates: Callable[[], Tensor]

    @property
    def depends_on_latents(self) -> bool:
        """Whether the posterior depends on other latents."""
        return len(self.q.batch_shape) == 2

    @property
    def units_per_example(self) -> Tensor | None:
        """:attr:`unit_rates` as ``[B, J]`` in float64."""
        if self.unit_rates is None:
            return None
        return self.unit_rates.reshape(len(self.unit_rates), -1).double()

    @property
    def rates(self) -> Tensor:
        """KL(q || prior), ``[B]``, in float64."""
        units = self.units_per_example
        if units is not None:
            return units.sum(1)
        return self.whole_rates().double()

    @property
    def has_point(self) -> bool:
        """Whether the mean of each unit is known without draws."""
        try:
            return find_code_probabilities(self.q) is not None or natural_point(self.q) is not None
        except NotImplementedError:
            return False

    def unit_means(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The mean of each unit under q, and the variance of its estimate, ``[B, J, M]`` each.

        M is 1 for a numeric unit. For a unit that is one of C codes, M is C, and the mean is that
        of the one-hot code. The variance is that of an average over draws of the other latents, if
        q depends on them, and 0 if it does not. Both are in float64.
        """
        base = unwrap_independent(self.q)
        if isinstance(base, _CODES) or hasattr(base, "code_probabilities"):
            means = find_code_probabilities(self.q)
            assert means is not None
        else:
            means = choose_point(self.q, device).reshape(*self.q.batch_shape, -1, 1)
        average = self._average_over_latents(means)
        if not self.depends_on_latents:
            return average, torch.zeros_like(average)
        return average, means.double().var(0) / len(means)

    def codes(self) -> Tensor | None:
        """The probabilities of each unit's codes under q, ``[B, J, C]``; ``None`` without codes."""
        probabilities = find_code_probabilities(self.q)
        if probabilities is None:
            return None
        return self._average_over_latents(probabilities)

    def _average_over_latents(self, values: Tensor) -> Tensor:
        """Average over draws of the other latents, if q depends on them."""
        if self.depends_on_latents:
            values = values.mean(0)
        return values.double()


def find_latent_groups(
    model: Model, x: Tensor, samples: int, given: Mapping[str, Any]
) -> dict[str, Group]:
    """Find the groups of a model's latents for a batch, by name.

    Args:
        model: a :class:`~lowerbound.LatentModel`, which has the single group ``z``, or a model
            whose draws say what q and the prior of each group are.
        x: the examples, ``[B, *event]``.
        samples: K, the draws for a group that depends on others, or whose rate lacks a closed form.
        given: the fields that the model needs.

    Raises:
        UnsupportedError: if the model's draws do not say what q and the prior are.
    """
    if isinstance(model, LatentModel):
        return {"z": _make_only_group(model, x, samples, given)}
    latents = model.draw(x, samples, **given).latents
    if not latents:
        raise UnsupportedError(
            f"latent_health: the draws of a {type(model).__name__} do not say what q and the prior "
            "of its latents are; give Draw q and prior, or use Draw.of"
        )
    groups = {}
    for name, latent in latents.items():
        groups[name] = Group(
            latent.q, latent.prior, latent.unit_rates, partial(getattr, latent, "rate")
        )
    return groups


def _make_only_group(
    model: LatentModel, x: Tensor, samples: int, given: Mapping[str, Any]
) -> Group:
    parts = model.conditioned(x, given)
    q, prior = parts.q, parts.prior

    def whole_rates() -> Tensor:
        kl = closed_form_kl(q, prior)
        if kl is None:
            kl = model.draw(x, samples, **given).sampled_rate
        return kl

    return Group(q, prior, closed_form_unit_kl(q, prior), whole_rates)


def find_code_probabilities(q: Distribution) -> Tensor | None:
    """Find the probabilities of the codes of a discrete posterior, ``[*batch, J, C]``.

    ``None`` for a posterior whose units are not codes.
    """
    base = unwrap_independent(q)
    own: Tensor | None = getattr(base, "code_probabilities", None)
    if own is not None:
        probabilities = own
    elif isinstance(base, _CODES):
        probabilities = base.probs
    elif isinstance(base, Bernoulli | FactorialBernoulli):
        probabilities = torch.stack([1 - base.mean, base.mean], -1)
    else:
        return None
    return probabilities.reshape(*q.batch_shape, -1, probabilities.shape[-1])
