"""Categorical latents as one-hot codes: priors and posteriors of several variables."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric
from lowerbound.describe import describable
from lowerbound.distributions import FactorialOneHot, RelaxedOneHot, StraightThroughOneHot
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.settings import is_positive_number


@describable
class OneHot(Parametric):
    r"""Independent categorical variables as one-hot codes, whose logits a network gives.

    An event has the shape ``[J, C]``: J variables of C categories. With
    ``lb.constant((J, C), learned=False)`` as the network it is a uniform prior, with
    ``lb.constant((J, C))`` a learned one, and within :class:`lowerbound.Given` one for each label.
    KL(q || p) has a closed form, one for each variable, unless q is relaxed.

    ``draws`` says how a posterior's parameters get their gradient. Only the first two draw exact
    codes, and so give a bound on log p(x) of the model with discrete latents.

    - ``"exact"``: the draws have no gradient, so the objective needs
      ``gradient="score-function"``, which is unbiased (for IWAE it is VIMCO). With few variables
      :class:`lowerbound.EnumeratedModel` sums over all codes instead of drawing any.
    - ``"straight-through"``: the draws are exact, and their gradient is that of a relaxation. The
      reported bound is unbiased, and the posterior's gradient is biased.
    - ``"relaxed"``: the draws are vectors of probabilities, and the log density is that of the
      relaxation. The prior must be relaxed as well. The bound is on log p(x) of this model with
      continuous latents, and its gradient is unbiased. Its value cannot be compared with that of a
      model with exact codes. Jang et al. 2017 score a relaxed draw by the probability of a one-hot
      code; that gives no bound, and is not offered.

    Args:
        network: from the input to the logits, ``[*leading, J, C]``.
        draws: ``"exact"``, ``"straight-through"`` or ``"relaxed"``.
        temperature: of the relaxation, for the last two. A lower one is closer to one-hot codes,
            and its gradient has a higher variance.

    Raises:
        ShapeError: if the network declares an output shape that is not ``(J, C)``.
        SettingsError: for unknown draws, or a temperature that is not positive.

    Source: Jang, Gu & Poole 2017, "Categorical reparameterization with Gumbel-softmax"; Maddison,
    Mnih & Teh 2017, "The Concrete distribution"; Bengio et al. 2013 (straight-through).

    Example:
        >>> import torch, lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     prior=lb.OneHot(lb.constant((5, 4), learned=False)),
        ...     posterior=lb.OneHot(lb.mlp((1, 8, 8), 32, (5, 4))),
        ...     likelihood=lb.Bernoulli(lb.mlp((5, 4), 32, (1, 8, 8))),
        ... )
        >>> objective = lb.IWAE(samples=8, gradient="score-function")
        >>> objective(vae.draw(torch.zeros(3, 1, 8, 8), 8, "score-function")).shape
        torch.Size([3])
        >>> vae.encode(torch.zeros(3, 1, 8, 8)).sum(-1)[0]
        tensor([1., 1., 1., 1., 1.])
    """

    def __init__(
        self,
        network: nn.Module,
        draws: Literal["exact", "straight-through", "relaxed"] = "exact",
        temperature: float = 2 / 3,
    ) -> None:
        super().__init__()
        self.network = network
        self.draws = draws
        self.temperature = temperature
        if draws not in ("exact", "straight-through", "relaxed"):
            raise SettingsError(
                f"OneHot: draws={draws!r} is unknown; choose 'exact', 'straight-through' or "
                "'relaxed'"
            )
        if not is_positive_number(temperature):
            raise SettingsError(
                f"OneHot: temperature={temperature!r} must be a positive, finite number"
            )
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None and (len(declared) != 2 or declared[1] < 2):
            raise ShapeError(
                f"OneHot: a network with output shape {declared} does not give the logits of "
                "variables and categories; let it give (J, C) for J variables of C categories, at "
                "least 2"
            )

    def from_parameters(self, raw: Tensor) -> FactorialOneHot | RelaxedOneHot:
        """The distribution of these logits."""
        if self.draws == "relaxed":
            return RelaxedOneHot(raw, self.temperature)
        if self.draws == "straight-through":
            return StraightThroughOneHot(raw, self.temperature)
        return FactorialOneHot(raw)
