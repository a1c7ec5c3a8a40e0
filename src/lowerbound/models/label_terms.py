"""The terms of a bound for every value of a label, and their sums over the labels.

Suffixes of shapes: K draws, B examples, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.conditionals.base import select_fields
from lowerbound.models import checks
from lowerbound.models.groups import draw_with_log_q, once
from lowerbound.models.sampling import Gradient

LABEL = "label"
"""The field with the labels of examples, where they are known."""

LATENT_LABEL = "y"
"""The field by which posterior and likelihood receive a label."""


class LabelTerms:
    """The terms of a bound for every label, ``[K, B, C]``, and their means over q(y|x)."""

    def __init__(
        self,
        model: Any,
        x: Tensor,
        samples: int,
        gradient: Gradient,
        given: Mapping[str, Tensor],
    ) -> None:
        checks.refuse_learning_from_scores(model.likelihood, type(model).__name__)
        self.x = x
        self.prior: Distribution = model.prior_given(given)
        self.label_prior: Tensor = model.label_prior.to(x.dtype).log()
        self.z: list[Tensor] = []
        self.posterior_terms: list[Callable[[], Tensor]] = []
        self.p: list[Distribution] = []
        for category in range(model.categories):
            label = torch.full((len(x),), category, device=x.device)
            fields = dict(given) | {LATENT_LABEL: label}
            q = model.call_posterior(x, fields)
            checks.check_posterior(q, self.prior, x)
            z, posterior_term = draw_with_log_q(q, samples, gradient)
            p = model.likelihood(z, **select_fields(model.likelihood, fields))
            checks.check_likelihood(p, x, samples)
            self.z.append(z)
            self.posterior_terms.append(posterior_term)
            self.p.append(p)
        labels = torch.full((len(x),), -1, device=x.device)
        if LABEL in given:
            labels = read_labels(given[LABEL])
        self.is_known = labels >= 0
        log_q = model.classify(x)
        chosen = labels.clamp(min=0).unsqueeze(-1)
        self.log_q_label = log_q.gather(-1, chosen).squeeze(-1).where(self.is_known, 0.0)
        is_label = torch.arange(model.categories, device=x.device) == chosen
        # A known label has all of the probability.
        self.shares = torch.where(self.is_known[:, None], is_label.to(log_q.dtype), log_q.exp())
        self.log_label_q = (self.shares * log_q.masked_fill(self.is_known[:, None], 0.0)).sum(-1)
        self.excluded = self.is_known[:, None] & ~is_label

    @once
    def log_likelihood(self) -> Tensor:
        """log p(x|y, z), ``[K, B, C]``."""
        return torch.stack([p.log_prob(self.x) for p in self.p], -1)

    @once
    def log_prior(self) -> Tensor:
        """log p(z) + log p(y), ``[K, B, C]``."""
        return torch.stack([self.prior.log_prob(z) for z in self.z], -1) + self.label_prior

    @once
    def log_q(self) -> Tensor:
        """log q(z|x, y), ``[K, B, C]``."""
        return torch.stack([term() for term in self.posterior_terms], -1)

    def average(self, terms: Tensor) -> Tensor:
        """The mean over q(y|x), ``[K, B]``."""
        return (self.shares * terms).sum(-1)

    def sum_labels_out(self) -> Tensor:
        """The log importance weight, ``[K, B]``: the sum over all labels, or the known one."""
        log_w = self.log_likelihood + self.log_prior - self.log_q
        return log_w.masked_fill(self.excluded, -math.inf).logsumexp(-1)


def read_labels(label: Tensor) -> Tensor:
    """Labels as whole numbers, -1 where they are not known."""
    if label.is_floating_point():
        return label.nan_to_num(-1.0).long()
    return label.long()
