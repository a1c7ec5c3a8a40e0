"""Likelihoods of 8-bit pixels by logistic distributions over their values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditionals.base import Parametric, event_dims_of
from lowerbound.conditionals.moments import average_entries, estimate_variances
from lowerbound.conditionals.refusing import refuse_other_levels
from lowerbound.describe import describable
from lowerbound.distributions import DiscretizedLogistics, soft_clamp
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.networks import Shape
from lowerbound.settings import check_whole_number

# The logarithms of the scales stay within these limits, and change only near them. At the lower one
# a component has practically one value of 256.
_LOG_SCALES = (math.log(1e-4), math.log(1e2))

# The standard deviation of a logistic distribution of scale 1.
_DEVIATION = math.pi / math.sqrt(3)


@describable
class DiscretizedLogistic(Parametric):
    r"""Independent entries with ``levels`` evenly spaced values from 0 to 1, by mixtures of
    logistic distributions.

    .. math::

        p(x_d) = \sum_m w_{m, d} \left(
            \sigma\!\left(\frac{x_d + h - \mu_{m, d}}{s_{m, d}}\right)
            - \sigma\!\left(\frac{x_d - h - \mu_{m, d}}{s_{m, d}}\right) \right),
        \qquad h = \frac{1}{2 (\text{levels} - 1)}

    The first value has the whole lower tail, and the last one the whole upper tail, so the
    probabilities sum to 1. It scores 8-bit pixels as they are, so that nothing is dequantised, and
    bits per dimension are ``-bound / (D log 2)``. It has far fewer parameters than
    :class:`Categorical`, and knows that neighbouring values are similar. In the paper, the colours
    of a pixel depend on each other; here all entries are independent given the input.

    Args:
        network: from the input to the parameters. One component has a mean and a log scale; M
            components have M logits of their weights, M means and M log scales. So an event ``[C,
            H, W]`` needs the output ``[2 C, H, W]``, or ``[3 M C, H, W]`` for M > 1, and an event
            ``[D]`` needs ``[2 D]``, or ``[3 M D]``.
        levels: the number of values of an entry, 256 for 8-bit pixels.
        components: the number M of logistic distributions in the mixture.

    Raises:
        SettingsError: for fewer than two levels, or no component.
        ShapeError: if the output's first dimension is not a multiple of the number of parameters.
        DataError: before training or evaluation, for values that are not one of the levels; the
            message names the row.

    Source: Salimans, Karpathy, Chen & Kingma 2017, "PixelCNN++"; with one component, Kingma et al.
    2016.

    Example:
        >>> import torch, lowerbound as lb
        >>> p = DiscretizedLogistic(lb.mlp(2, 32, (2, 8, 8)))(torch.zeros(7, 5, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([7, 5]), torch.Size([1, 8, 8]), torch.Size([7, 5]))
    """

    def __init__(self, network: nn.Module, levels: int = 256, components: int = 1) -> None:
        super().__init__()
        self.network = network
        self.levels = check_whole_number("DiscretizedLogistic: levels", levels)
        if levels < 2:
            raise SettingsError(f"DiscretizedLogistic: levels={levels} must be at least 2")
        self.components = check_whole_number("DiscretizedLogistic: components", components)
        self.event_dims = event_dims_of(network)
        self._parameters_of_entry = 2
        if components > 1:
            self._parameters_of_entry = 3 * components
        declared: Shape | None = getattr(network, "output_shape", None)
        if declared is not None and declared[0] % self._parameters_of_entry:
            raise ShapeError(
                f"DiscretizedLogistic: with components={components} each entry has "
                f"{self._parameters_of_entry} parameters, but the first dimension of the network's "
                f"output shape {declared} is not a multiple of {self._parameters_of_entry}"
            )

    def from_parameters(self, raw: Tensor) -> DiscretizedLogistics:
        """The distribution of these weights, means and log scales."""
        raw = raw.unflatten(-self.event_dims, (self._parameters_of_entry, -1))
        *logits, loc, log_scale = raw.split(self.components, -self.event_dims - 1)
        if not logits:
            logits = [torch.zeros((1,) * (self.event_dims + 1), dtype=raw.dtype, device=raw.device)]
        log_scale = soft_clamp(log_scale, *_LOG_SCALES)
        return DiscretizedLogistics(loc, log_scale, logits[0], self.levels, self.event_dims)

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """Means and scales by moments; components differ in their means.

        The components' means are the quantiles of a logistic distribution with the data's moments.
        """
        mean, deviation = average_entries(x), estimate_variances(x).sqrt()
        smallest = 0.5 / (self.levels - 1)
        scale = (deviation / _DEVIATION).clamp(min=smallest)[None]
        if self.components == 1:
            return torch.cat([mean[None], scale.log()]).flatten(0, 1)
        places = (torch.arange(self.components, device=x.device) + 0.5) / self.components
        places = places.to(x.dtype).reshape(-1, *(1,) * mean.dim())
        loc = mean + scale * places.logit()
        log_scale = (scale / math.sqrt(self.components)).clamp(min=smallest).log().expand_as(loc)
        return torch.cat([torch.zeros_like(loc), loc, log_scale]).flatten(0, 1)

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse values that are not one of the levels.

        Raises:
            DataError: naming the first such row.
        """
        refuse_other_levels(x, rows, self.levels, name, type(self).__name__)
