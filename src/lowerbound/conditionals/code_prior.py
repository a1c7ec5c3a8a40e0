"""Priors over the codes of a quantised posterior."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditionals.autoregressive import Autoregressive
from lowerbound.conditionals.base import Conditional, to_full_precision
from lowerbound.conditionals.given import unwrap
from lowerbound.conditionals.quantized import Quantizer, find_output_shape
from lowerbound.describe import describable
from lowerbound.distributions import EmbeddedSequence, FactorialCodeVectors
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.settings import check_flag


@describable
class CodePrior(Conditional):
    r"""A prior over the codes of a quantised posterior: uniform, or learned.

    .. math:: \log p(z) = \sum_u \log p(c_u), \qquad p(c) = 1 / K \text{ unless it is learned}

    The rate under the uniform prior is log K nats for each code, whatever the data are. If the
    codes are not equally frequent, a learned prior has a lower rate. It has a distribution for each
    position, and codes at different positions are independent. :meth:`start_from_latents` sets its
    probabilities to the frequencies in some data.

    Args:
        quantizer: the model's posterior, :class:`lowerbound.VectorQuantized` or
            :class:`lowerbound.FiniteScalarQuantized`, possibly inside :class:`lowerbound.Given`.
            Prior and posterior still share this module when the model is saved and loaded.
        learned: whether the probabilities of the codes are parameters, which start equal.

    Raises:
        SettingsError: if the posterior does not choose codes, or ``learned`` is not True or False.

    Example:
        >>> import torch, lowerbound as lb
        >>> posterior = lb.FiniteScalarQuantized(lb.mlp(6, (2, 4)), levels=(3, 3))
        >>> prior = lb.CodePrior(posterior)()
        >>> prior.event_shape, prior.log_prob(prior.sample())  # -4 log 9
        (torch.Size([2, 4]), tensor(-8.7889))
    """

    logits: Tensor

    def __init__(self, quantizer: nn.Module, learned: bool = False) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.learned = check_flag("CodePrior: learned", learned)
        inside = _find_quantizer(self)
        sides = find_output_shape(inside)[1:]
        logits = torch.zeros(inside.units, *sides, inside.count)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    @torch.no_grad()
    def start_from_latents(self, z: Tensor) -> None:
        """Set the probabilities to the frequencies of the codes of some latents.

        The frequencies at all positions together count as one more observation of each position, so
        that every code that occurs is possible everywhere.

        Args:
            z: latents, ``[N, D, *sides]``, such as ``model.encode(data)``.

        Raises:
            SettingsError: if the prior is not learned.
        """
        if not self.learned:
            raise SettingsError("CodePrior: a prior that starts from latents needs learned=True")
        codes = _find_quantizer(self).find(z).unsqueeze(-1)
        numbers = torch.arange(self.logits.shape[-1], device=codes.device)
        counts = torch.stack([(codes == number).sum(0) for number in numbers], -1).squeeze(-2)
        everywhere = counts.reshape(-1, len(numbers)).sum(0) + 1
        frequencies = everywhere / everywhere.sum()
        smoothed = (counts + frequencies) / (len(z) + 1)
        self.logits.copy_(smoothed.log())

    def forward(self, *given: Tensor) -> FactorialCodeVectors:
        """The distribution over vectors of codes, batch shape ``[]``."""
        inside = _find_quantizer(self)
        return FactorialCodeVectors(
            to_full_precision(self.logits),
            inside.get_tables(),
            inside.find,
            self.logits.dim() - 1,
            codebook=inside,
        )


@describable
class AutoregressivePrior(Conditional):
    r"""A prior over codes in which each code depends on all codes before it.

    .. math:: \log p(z) = \sum_{t=1}^T \log p(c_t \mid c_1, \dots, c_{t-1})

    The order is that of the stages and then of the positions, row by row. Such a prior is usually
    fitted to the codes of a trained model, by ``lb.fit_prior(model, prior, data)``.

    Args:
        quantizer: the model's posterior, as for :class:`lowerbound.CodePrior`.
        network: predicts each code from those before it, such as ``lb.recurrent(1, 64, (T, K))``
            for T codes of K values. Its input is constant.

    Raises:
        SettingsError: if the posterior does not choose codes.
        ShapeError: if the network is for sequences of another length or for another number of
            codes.
        UnsupportedError: if the network is not a decoder of sequences.

    Source: van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning".

    Example:
        >>> import torch, lowerbound as lb
        >>> posterior = lb.VectorQuantized(lb.mlp(6, (2, 4)), codes=16)
        >>> prior = lb.AutoregressivePrior(posterior, lb.recurrent(1, 8, (4, 16)))
        >>> prior().sample((3,)).shape
        torch.Size([3, 2, 4])
    """

    given: Tensor

    def __init__(self, quantizer: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.sequence = Autoregressive(network)
        inside = _find_quantizer(self)
        self.units = torch.Size((inside.units, *find_output_shape(inside)[1:]))
        expected = (self.units.numel(), inside.count)
        found = (self.sequence.length, self.sequence.levels)
        if found != expected:
            raise ShapeError(
                f"AutoregressivePrior: the posterior chooses {expected[0]} codes of {expected[1]} "
                f"values, and the network predicts {found[0]} codes of {found[1]}; give the "
                f"network the outputs {expected}"
            )
        self.register_buffer("given", torch.ones(self.sequence.network.inputs), persistent=False)

    @property
    def network(self) -> nn.Module:
        """The network that predicts each code."""
        return self.sequence.network

    def forward(self, *given: Tensor) -> EmbeddedSequence:
        """The distribution over vectors of codes, batch shape ``[]``."""
        inside = _find_quantizer(self)
        codes = self.sequence(to_full_precision(self.given))
        return EmbeddedSequence(
            codes, self.units, inside.get_tables(), inside.find, codebook=inside
        )


def _find_quantizer(prior: Any) -> Quantizer:
    """Find the quantised posterior of a prior, inside any wrappers.

    Raises:
        SettingsError: if it is of another kind.
    """
    inside = unwrap(prior.quantizer)
    if not isinstance(inside, Quantizer):
        raise SettingsError(
            f"{type(prior).__name__}: a {type(inside).__name__} does not choose codes; give the "
            "model's posterior, such as lb.VectorQuantized"
        )
    return inside
