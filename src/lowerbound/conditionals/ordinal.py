"""A likelihood of ordered categories, such as answers from 'never' to 'always'."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.moments import estimate_frequencies
from lowerbound.conditionals.refusing import refuse_other_codes
from lowerbound.describe import describable
from lowerbound.distributions import FactorialCodes
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.settings import check_whole_number

# Neighbouring thresholds are at least so far apart, so that no category has probability 0.
_SMALLEST_GAP = 1e-4


@describable
class Ordinal(Parametric):
    r"""Independent entries with ordered integer codes, by a cumulative logit with thresholds.

    .. math:: p(x_d \le l) = \sigma(\theta_{l, d} - \eta_d), \qquad
        \theta_{0, d} < \theta_{1, d} < \dots < \theta_{L - 2, d}

    A network gives one location :math:`\eta` for each entry. A larger location makes larger codes
    more probable: an increase by :math:`\delta` multiplies the odds of a code above any threshold
    by :math:`e^\delta` (proportional odds). The thresholds are learned and do not depend on the
    input. The codes are integers from 0 to ``levels - 1``, as in examples of ``kind="codes"``.
    Their natural point, which reconstructions show, is the most probable code.

    Args:
        network: from the input to the locations, ``[*leading, *event]``.
        levels: the number L of codes, at least 2.
        thresholds: ``"elementwise"``: each entry has thresholds of its own. ``"shared"``: all
            entries have the same thresholds.

    Raises:
        SettingsError: for fewer than two levels, or thresholds that are none of these.
        ShapeError: if elementwise thresholds are requested and the network does not declare its
            ``output_shape``.
        DataError: before training or evaluation, for values that are not such codes; the message
            names the row.

    Source: McCullagh 1980, "Regression models for ordinal data".

    Example:
        >>> import torch, lowerbound as lb
        >>> p = Ordinal(lb.mlp(2, 32, 6), levels=5)(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(5, 6)).shape
        (torch.Size([7, 5]), torch.Size([6]), torch.Size([7, 5]))
    """

    def __init__(
        self,
        network: nn.Module,
        levels: int,
        thresholds: Literal["elementwise", "shared"] = "elementwise",
    ) -> None:
        super().__init__()
        self.network = network
        self.levels = check_whole_number("Ordinal: levels", levels)
        if levels < 2:
            raise SettingsError(f"Ordinal: levels={levels} must be at least 2")
        if thresholds not in ("elementwise", "shared"):
            raise SettingsError(
                f"Ordinal: thresholds={thresholds!r} is unknown; choose 'elementwise' or 'shared'"
            )
        self.thresholds = thresholds
        self.event_dims = event_dims_of(network)
        shape: Shape | None = getattr(network, "output_shape", None)
        if thresholds == "shared":
            shape = (1,) * self.event_dims
        if shape is None:
            raise ShapeError(
                "Ordinal: thresholds='elementwise' needs a network that declares its output_shape"
            )
        # The first threshold, and the gaps to the others before softplus.
        self.gaps = nn.Parameter(torch.zeros(levels - 1, *shape))
        self._set_thresholds(torch.full((levels, *shape), 1 / levels))

    def from_parameters(self, raw: Tensor) -> FactorialCodes:
        """The distribution of these locations."""
        axis = -self.event_dims - 1
        first, gaps = self._bound_gaps()
        thresholds = torch.cat([first, gaps]).cumsum(0)
        distances = thresholds - raw.unsqueeze(axis)
        below, above = logsigmoid(distances), logsigmoid(-distances)
        # log(sigma(a) - sigma(b)) = log sigma(a) + log sigma(-b) + log(1 - e^(b - a))
        between = (
            below.narrow(axis, 1, self.levels - 2)
            + above.narrow(axis, 0, self.levels - 2)
            + (-torch.expm1(-gaps)).log()
        )
        lowest, highest = below.narrow(axis, 0, 1), above.narrow(axis, self.levels - 2, 1)
        return FactorialCodes(torch.cat([lowest, between, highest], axis), self.event_dims)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The location of each entry that fits its frequencies best, given the thresholds."""
        thresholds = torch.cat(self._bound_gaps()).cumsum(0)
        below = estimate_frequencies(x, self.levels)[:-1].cumsum(0)
        return (thresholds - below.logit()).mean(0)

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the thresholds, and the bias of the network's last layer, to the frequencies."""
        if self.thresholds == "shared":
            pooled = estimate_frequencies(x.reshape(-1, 1), self.levels)
            self._set_thresholds(pooled.reshape(-1, *(1,) * self.event_dims))
        else:
            self._set_thresholds(estimate_frequencies(x, self.levels))
        super().start_from(x, **fields)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not codes.

        Raises:
            DataError: naming the first such row.
        """
        refuse_other_codes(x, rows, self.levels, name, type(self).__name__)

    def _bound_gaps(self) -> tuple[Tensor, Tensor]:
        """The first threshold ``[1, *event]``, and the gaps to the others, ``[L - 2, *event]``."""
        first, gaps = self.gaps.split((1, self.levels - 2))
        return first, softplus(gaps) + _SMALLEST_GAP

    @torch.no_grad()
    def _set_thresholds(self, frequencies: Tensor) -> None:
        """Set the thresholds to those of some frequencies of the levels, ``[L, *event]``."""
        thresholds = frequencies[:-1].cumsum(0).logit()
        gaps = (thresholds.diff(dim=0) - _SMALLEST_GAP).clamp(min=_SMALLEST_GAP)
        self.gaps.copy_(torch.cat([thresholds[:1], gaps.expm1().log()]))  # the inverse of softplus
