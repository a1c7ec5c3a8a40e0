"""A prior over the codes of a quantised posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Conditional, to_full_precision
from lowerbound.conditionals.given import unwrap
from lowerbound.conditionals.quantized import Quantizer, find_output_shape
from lowerbound.describe import describable
from lowerbound.distributions import FactorialCodeVectors
from lowerbound.errors import SettingsError


@describable
class CodePrior(Conditional):
    r"""A prior over the codes of a quantised posterior: uniform, or learned.

    .. math:: \log p(z) = \sum_u \log p(c_u), \qquad p(c) = 1 / K \text{ unless it is learned}

    The rate of the uniform prior is log K nats for each code, whatever the data are. If the codes
    are not equally frequent, a learned prior has a lower rate. Its probabilities are independent at
    each position. :meth:`start_from_latents` sets them to the frequencies in some data.

    Args:
        quantizer: the model's posterior, :class:`lowerbound.VectorQuantized` or
            :class:`lowerbound.FiniteScalarQuantized`, also inside of :class:`lowerbound.Given`. It
            stays one module when the model is saved.
        learned: whether the probabilities of the codes are parameters, which start equal.

    Raises:
        SettingsError: if the posterior does not choose codes.

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
        self.learned = learned
        inside = self._find_quantizer()
        sides = find_output_shape(inside)[1:]
        logits = torch.zeros(inside.units, *sides, inside.count)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def _find_quantizer(self) -> Quantizer:
        inside = unwrap(self.quantizer)
        if not isinstance(inside, Quantizer):
            raise SettingsError(
                f"CodePrior: a {type(inside).__name__} does not choose codes; give the model's "
                "posterior, such as lb.VectorQuantized"
            )
        return inside

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
        codes = self._find_quantizer().find(z).unsqueeze(-1)
        numbers = torch.arange(self.logits.shape[-1], device=codes.device)
        counts = torch.stack([(codes == number).sum(0) for number in numbers], -1).squeeze(-2)
        everywhere = counts.reshape(-1, len(numbers)).sum(0) + 1
        frequencies = everywhere / everywhere.sum()
        smoothed = (counts + frequencies) / (len(z) + 1)
        self.logits.copy_(smoothed.log())

    def forward(self, *given: Tensor) -> FactorialCodeVectors:
        """The distribution over vectors of codes, batch shape ``[]``."""
        inside = self._find_quantizer()
        return FactorialCodeVectors(
            to_full_precision(self.logits),
            inside.get_tables(),
            inside.find,
            self.logits.dim() - 1,
        )
