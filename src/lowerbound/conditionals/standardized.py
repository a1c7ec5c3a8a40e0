"""Standardised data: a model sees entries with mean 0 and spread 1, and answers in their units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from lowerbound.conditionals.base import select_fields, to_full_precision
from lowerbound.conditionals.given import Wrapper
from lowerbound.data.fields import OBSERVED
from lowerbound.describe import describable
from lowerbound.distributions import MaskedDistribution, Rescaled, find_entry_support
from lowerbound.errors import UnsupportedError
from lowerbound.networks import Shape, as_shape


@describable
class Standardization(nn.Module):
    """The mean and the standard deviation of each entry of vectors, or of each channel.

    Vectors have one of each for every entry; signals, pictures and volumes, whose first dimension
    is that of the channels, have one of each for every channel. They are 0 and 1 until
    :meth:`measure` is called.

    Args:
        shape: the shape of one example.

    Example:
        >>> units = Standardization(2)
        >>> units.measure(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
        >>> units.centre, units.spread, units.apply_to(torch.tensor([4.0, 10.0]))
        (tensor([ 2., 20.]), tensor([ 1., 10.]), tensor([ 2., -1.]))
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, shape: int | Shape) -> None:
        super().__init__()
        self.shape = as_shape(shape)
        units = self.shape[:1] + (1,) * (len(self.shape) - 1)
        self.register_buffer("centre", torch.zeros(units))
        self.register_buffer("spread", torch.ones(units))

    def measure(self, x: Tensor) -> None:
        """Set both from some data, ``[N, *shape]``, with NaN where an entry was not observed.

        An entry that is constant gets the standard deviation 1.
        """
        rows = x.transpose(0, 1).reshape(self.shape[0], -1).double()
        mean = rows.nanmean(1)
        spread = (rows - mean[:, None]).square().nanmean(1).sqrt()
        # Rounding makes the deviations of a constant a little larger than 0.
        is_constant = ~(spread > 1e-7 * mean.abs())
        self.centre.copy_(mean.nan_to_num(0.0).reshape(self.centre.shape))
        self.spread.copy_(spread.masked_fill(is_constant, 1.0).reshape(self.spread.shape))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert as any module, but keep both in float32 at least."""
        apply: Any = super()._apply
        apply(lambda tensor: to_full_precision(fn(tensor)), recurse)
        return self

    def apply_to(self, x: Tensor) -> Tensor:
        """Standardise data, ``[..., *shape]``."""
        return (x - self.centre) / self.spread


@describable
class StandardizedInput(Wrapper):
    """A posterior that receives standardised data. Entries that were not observed become 0.

    :func:`lowerbound.fit` wraps the posterior in it if it is asked to standardise, together with
    :class:`Standardized` for the likelihood.

    Args:
        part: the posterior.
        standardization: the mean and the standard deviation of the data.

    Example:
        >>> import lowerbound as lb
        >>> units = Standardization(2)
        >>> units.measure(torch.tensor([[1.0, 10.0], [3.0, 30.0]]))
        >>> posterior = lb.Gaussian(lb.mlp(2, 4))
        >>> wrapped = StandardizedInput(posterior, units)
        >>> x = torch.tensor([[3.0, 20.0]])
        >>> torch.equal(wrapped(x).mean, posterior(torch.tensor([[1.0, 0.0]])).mean)
        True
    """

    def __init__(self, part: nn.Module, standardization: Standardization) -> None:
        super().__init__(part)
        self.standardization = standardization
        if OBSERVED not in self.needs:
            self.accepts = tuple(dict.fromkeys((OBSERVED, *self.accepts)))

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The posterior, given the data and the fields that it needs."""
        x, *others = given
        inputs = self._standardize(x, fields)
        return cast(Distribution, self.part(inputs, *others, **select_fields(self.part, fields)))

    def parameters_from(self, network: nn.Module, *given: Tensor, **fields: Tensor) -> Tensor:
        """The output of the network for these data."""
        x, *others = given
        return super().parameters_from(network, self._standardize(x, fields), *others, **fields)

    def _standardize(self, x: Tensor, fields: dict[str, Any]) -> Tensor:
        x = self.standardization.apply_to(x)
        if OBSERVED in fields:
            return x.masked_fill(~fields[OBSERVED], 0.0)
        return x


@describable
class Standardized(Wrapper):
    r"""A likelihood over standardised data, as one over the data themselves.

    .. math:: \log p(x \mid z) = \log p_y\left(\frac{x - c}{s} \,\middle|\, z\right)
        - \sum_d \log s_d

    The last term makes bounds comparable: they are about the data in their own units, and do not
    depend on the centre c and the spread s. Draws and means are in these units, too.
    :func:`lowerbound.fit` wraps the likelihood in it if it is asked to standardise.

    Args:
        part: a likelihood over real numbers, such as :class:`lowerbound.Gaussian`.
        standardization: the mean c and the standard deviation s of each entry.

    Raises:
        UnsupportedError: on use, if the likelihood is not over all real numbers.

    Example:
        >>> import lowerbound as lb
        >>> metres = Standardization(3)
        >>> metres.measure(torch.tensor([[1e3, 0.1, 5.0], [3e3, 0.3, 5.0]]))
        >>> p = Standardized(lb.Gaussian(lb.mlp(2, 6)), metres)(torch.zeros(4, 2))
        >>> p.event_shape, metres.centre
        (torch.Size([3]), tensor([2.0000e+03, 2.0000e-01, 5.0000e+00]))
    """

    def __init__(self, part: nn.Module, standardization: Standardization) -> None:
        super().__init__(part)
        self.standardization = standardization

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """The distribution in the units of the data."""
        return self._rescale(
            cast(Distribution, self.part(*given, **select_fields(self.part, fields)))
        )

    def from_parameters(self, raw: Tensor) -> Distribution:
        """The distribution of these outputs of the network, in the units of the data."""
        return self._rescale(super().from_parameters(raw))

    def check_data(self, x: Tensor, rows: Tensor, name: str = "data", **fields: Any) -> None:
        """Refuse the standardised data that the likelihood inside refuses."""
        super().check_data(self.standardization.apply_to(x), rows, name, **fields)

    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Start the likelihood inside from the standardised data."""
        super().start_from(self.standardization.apply_to(x), **fields)

    def _rescale(self, p: Distribution) -> Distribution:
        if isinstance(p, MaskedDistribution):  # the entries that are not observed have no units
            return MaskedDistribution(self._rescale(p.base), p.observed)
        if find_entry_support(p) not in (None, constraints.real, constraints.real_vector):
            raise UnsupportedError(
                f"standardised data need a likelihood over all real numbers, such as lb.Gaussian; "
                f"a {type(p).__name__} is over {p.support}. Leave standardize out, or use another "
                "likelihood"
            )
        return Rescaled(p, self.standardization.centre, self.standardization.spread)
