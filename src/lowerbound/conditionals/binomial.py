"""A likelihood of the number of successes in a fixed number of trials."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.moments import smooth_frequencies
from lowerbound.conditionals.refusing import refuse_outside
from lowerbound.describe import describable
from lowerbound.distributions import FactorialCodes
from lowerbound.settings import check_whole_number


@describable
class Binomial(Parametric):
    r"""Independent numbers of successes in n trials, with logits from a network.

    .. math:: \log p(x) = \sum_d \left( \log \binom{n}{x_d} + x_d \log \sigma(\eta_d)
        + (n - x_d) \log \sigma(-\eta_d) \right)

    It suits numbers that cannot exceed a known n, such as the copies of an allele in a genotype (n
    = 2), or the correct answers to a test of n questions. The values are whole numbers from 0 to n,
    as in examples of ``kind="codes"`` or ``kind="counts"``. Their natural point, which
    reconstructions show, is the most probable number. Time and memory grow with n, because the
    probabilities of all n + 1 values are computed.

    Args:
        network: from the input to the logits :math:`\eta` of a success, ``[*leading, *event]``.
        trials: the number n of trials, at least 1, the same for all entries.

    Raises:
        SettingsError: if the number of trials is not a positive whole number.
        DataError: before training or evaluation, for values that are not such numbers; the message
            names the row.

    Source: McCullagh & Nelder 1989, "Generalized linear models", chapter 4.

    Example:
        >>> import torch, lowerbound as lb
        >>> p = Binomial(lb.mlp(2, 32, 6), trials=2)(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(5, 6)).shape
        (torch.Size([7, 5]), torch.Size([6]), torch.Size([7, 5]))
    """

    def __init__(self, network: nn.Module, trials: int) -> None:
        super().__init__()
        self.network = network
        self.trials = check_whole_number("Binomial: trials", trials)
        self.event_dims = event_dims_of(network)

    def from_parameters(self, raw: Tensor) -> FactorialCodes:
        """The distribution of these logits."""
        # In float32, the difference of log gamma functions would have an error of 1e-4 for n = 255.
        successes = torch.arange(self.trials + 1, dtype=torch.float64, device=raw.device)
        successes = successes.reshape(-1, *(1,) * self.event_dims)
        failures = self.trials - successes
        log_choices = (
            torch.lgamma(successes[-1] + 1)
            - torch.lgamma(successes + 1)
            - torch.lgamma(failures + 1)
        )
        logits = raw.unsqueeze(-self.event_dims - 1)
        successes, failures, log_choices = (
            value.to(raw.dtype) for value in (successes, failures, log_choices)
        )
        log_probs = log_choices + successes * logsigmoid(logits) + failures * logsigmoid(-logits)
        return FactorialCodes(log_probs, self.event_dims)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The logits of the share of successes in all trials of each entry."""
        return smooth_frequencies(x / self.trials).logit()

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not numbers of successes.

        Raises:
            DataError: naming the first such row.
        """
        refuse_outside(
            x,
            (x < 0) | (x > self.trials) | (x != x.round()),
            rows,
            f"a Binomial likelihood of {self.trials} trials takes whole numbers from 0 to "
            f"{self.trials}; pass the number of trials as trials=..., and kind='codes' (--kind "
            "codes) if 8-bit values are such numbers. Counts without a limit need lb.Poisson or "
            "lb.NegativeBinomial",
            name,
        )
