"""A categorical likelihood of every entry: of the grey values of pixels, or of integer codes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.moments import estimate_frequencies
from lowerbound.conditionals.refusing import refuse_other_codes, refuse_other_levels
from lowerbound.describe import describable
from lowerbound.distributions import FactorialCategorical, FactorialCodes
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.settings import check_flag, check_whole_number


@describable
class Categorical(Parametric):
    r"""Independent entries with ``levels`` values, by a softmax.

    .. math:: \log p(x) = \sum_d \left( \eta_{l_d, d} - \log \sum_l e^{\eta_{l, d}} \right),
        \qquad l_d = (\text{levels} - 1) \, x_d \quad\text{or}\quad x_d

    The values are evenly spaced from 0 to 1, as those of pixels are. With ``codes=True`` they are
    the integers from 0 to ``levels - 1``, as in examples of ``kind="codes"``: names of categories
    without an order. The natural point of codes, which reconstructions show, is the most probable
    one.

    It scores 8-bit pixels as they are, so that nothing is dequantised and the bound is one on the
    log probability of the pixels. Bits per dimension are then ``-bound / (D log 2)``. A draw needs
    ``levels`` times the memory of the data, which evaluations measure and keep bounded.

    Args:
        network: from the input to the logits. An event ``[C, H, W]`` needs the output
            ``[levels * C, H, W]``, and an event ``[D]`` needs ``[levels * D]``.
        levels: the number of values of an entry, 256 for 8-bit pixels.
        codes: whether the values are integers rather than from 0 to 1.

    Raises:
        SettingsError: for fewer than two levels, or codes that are not True or False.
        ShapeError: if the output's first dimension is not a multiple of ``levels``.
        DataError: before training or evaluation, for values that are not one of the levels; the
            message names the row.

    Example:
        >>> import torch, lowerbound as lb
        >>> p = Categorical(lb.mlp(2, 32, (17, 8, 8)), levels=17)(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([7, 5]), torch.Size([1, 8, 8]), torch.Size([7, 5]))
    """

    def __init__(self, network: nn.Module, levels: int = 256, codes: bool = False) -> None:
        super().__init__()
        self.network = network
        self.levels = check_whole_number("Categorical: levels", levels)
        if levels < 2:
            raise SettingsError(f"Categorical: levels={levels} must be at least 2")
        self.codes = check_flag("Categorical: codes", codes)
        self.event_dims = event_dims_of(network)
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None and declared[0] % levels:
            raise ShapeError(
                f"Categorical: a network with output shape {declared} cannot be split into "
                f"{levels} levels; its first dimension must be a multiple of {levels}"
            )

    def from_parameters(self, raw: Tensor) -> FactorialCategorical:
        """The distribution of these logits."""
        make = {False: FactorialCategorical, True: FactorialCodes}[self.codes]
        return make(raw.unflatten(-self.event_dims, (self.levels, -1)), self.event_dims)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The log frequency of each level at each entry.

        The frequencies of all entries together count as one more observation of each entry.
        """
        if not self.codes:
            x = (self.levels - 1) * x
        return estimate_frequencies(x, self.levels).log().flatten(0, 1)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not one of the levels.

        Raises:
            DataError: naming the first such row.
        """
        refuse = {False: refuse_other_levels, True: refuse_other_codes}[self.codes]
        refuse(x, rows, self.levels, name, type(self).__name__)
