"""Binary entries given by a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.moments import smooth_frequencies
from lowerbound.describe import describable
from lowerbound.distributions import FactorialBernoulli
from lowerbound.errors import DataError


@describable
class Bernoulli(Parametric):
    r"""Independent binary entries with probabilities from a network, which gives their logits.

    .. math:: \log p(x) = \sum_d \left( x_d \eta_d - \log(1 + e^{\eta_d}) \right)

    Args:
        network: from the input to the logits ``eta``, ``[*leading, *event]``.

    Raises:
        DataError: as a likelihood, before training or evaluation, for values other than 0 and 1;
            the message names the row.

    Example:
        >>> import torch
        >>> from lowerbound.networks import mlp
        >>> p = Bernoulli(mlp(2, 32, (1, 8, 8)))(torch.zeros(7, 5, 2))
        >>> p.log_prob(torch.ones(5, 1, 8, 8)).shape
        torch.Size([7, 5])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.event_dims = event_dims_of(network)

    def from_parameters(self, raw: Tensor) -> FactorialBernoulli:
        """The Bernoulli distribution of these logits."""
        return FactorialBernoulli(raw, self.event_dims)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The logits of each entry's frequency."""
        return smooth_frequencies(x).logit()

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are neither 0 nor 1.

        Raises:
            DataError: for values outside of [0, 1], and for grey values, which have no probability
                under a Bernoulli distribution.
        """
        outside = ((x < 0) | (x > 1)).flatten(1).any(1)
        if outside.any():
            worst = x[outside][0]
            raise DataError(
                f"{name}: a Bernoulli likelihood needs values in [0, 1], but row "
                f"{int(rows[outside.cpu()][0])} spans [{worst.min():.4g}, {worst.max():.4g}]; "
                "rescale the data, or use a Gaussian likelihood"
            )
        grey = ((x != 0) & (x != 1)).flatten(1).any(1)
        if grey.any():
            raise DataError(
                f"{name}: row {int(rows[grey.cpu()][0])} has grey values, and a Bernoulli "
                "likelihood of those is not a likelihood: set pixels='binarize' (--pixels "
                "binarize) to draw binary pixels in every epoch, pixels='binarize-once' to draw "
                "them once, or use a Gaussian likelihood"
            )
