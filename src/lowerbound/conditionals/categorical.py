"""A categorical likelihood of every entry, such as one over the 256 grey values of a pixel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.describe import describable
from lowerbound.distributions import FactorialCategorical
from lowerbound.distributions.categorical import Levels
from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.settings import check_whole_number


@describable
class Categorical(Parametric):
    r"""Independent entries with ``levels`` evenly spaced values from 0 to 1, by a softmax.

    .. math:: \log p(x) = \sum_d \left( \eta_{l_d, d} - \log \sum_l e^{\eta_{l, d}} \right),
        \qquad l_d = (\text{levels} - 1) \, x_d

    It scores 8-bit pixels as they are, so that nothing is dequantised and the bound is one on the
    log probability of the pixels. Bits per dimension are then ``-bound / (D log 2)``. A draw needs
    ``levels`` times the memory of the data, which evaluations measure and keep bounded.

    Args:
        network: from the input to the logits. An event ``[C, H, W]`` needs the output
            ``[levels * C, H, W]``, and an event ``[D]`` needs ``[levels * D]``.
        levels: the number of values of an entry, 256 for 8-bit pixels.

    Raises:
        ShapeError: if the output's first dimension is not a multiple of ``levels``.

    Example:
        >>> import torch, lowerbound as lb
        >>> p = Categorical(lb.mlp(2, 32, (17, 8, 8)), levels=17)(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([7, 5]), torch.Size([1, 8, 8]), torch.Size([7, 5]))
    """

    def __init__(self, network: nn.Module, levels: int = 256) -> None:
        super().__init__()
        self.network = network
        self.levels = check_whole_number("Categorical: levels", levels)
        if levels < 2:
            raise SettingsError(f"Categorical: levels={levels} must be at least 2")
        self.event_dims = event_dims_of(network)
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None and declared[0] % levels:
            raise ShapeError(
                f"Categorical: a network with output shape {declared} cannot be split into "
                f"{levels} levels; its first dimension must be a multiple of {levels}"
            )

    def from_parameters(self, raw: Tensor) -> FactorialCategorical:
        """The distribution of these logits."""
        return FactorialCategorical(
            raw.unflatten(-self.event_dims, (self.levels, -1)), self.event_dims
        )

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The log frequency of each level at each entry.

        The frequencies of all entries together count as one more observation of each entry.
        """
        event = x.shape[1:]
        entries = x.reshape(len(x), -1)
        places = torch.arange(entries.shape[1], device=x.device).expand_as(entries)
        seen = ~entries.isnan()
        level = ((self.levels - 1) * entries[seen]).round().long()
        cells = places[seen] * self.levels + level
        counts = torch.bincount(cells, minlength=entries.shape[1] * self.levels)
        counts = counts.reshape(-1, self.levels).to(x.dtype)
        overall = (counts.sum(0) + 1) / (counts.sum() + self.levels)
        frequencies = (counts + overall) / (counts.sum(1, keepdim=True) + 1)
        return frequencies.log().T.reshape(self.levels, *event).flatten(0, 1)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not one of the levels.

        Raises:
            DataError: naming the first such row.
        """
        outside = ~Levels(self.levels).check(x)
        bad = outside.flatten(1).any(1)
        if bool(bad.any()):
            place = int(bad.nonzero()[0])
            worst = x[place][outside[place]][0].item()
            raise DataError(
                f"{name}: row {int(rows[place])} has the value {worst:.6g}, and a Categorical "
                f"likelihood of {self.levels} levels takes multiples of 1/{self.levels - 1} from 0 "
                "to 1; pass the number of levels of the data as levels=..., leave pixels='as-is', "
                "or use a density such as lb.Gaussian"
            )
