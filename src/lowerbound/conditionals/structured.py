"""A posterior made of independent posteriors, one for each group of variables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import Conditional
from lowerbound.conditionals.variables import Variables
from lowerbound.describe import describable
from lowerbound.distributions import SideBySide
from lowerbound.errors import SettingsError

Make = Callable[[int], nn.Module]


@describable
class Parts(Conditional):
    """Independent posteriors over the parts of a vector, as :class:`ByVariable` makes them.

    Args:
        parts: modules that return distributions over vectors.
        order: the position of each entry of the vector in the concatenated parts, J of them.
    """

    positions: Tensor

    def __init__(self, parts: Iterable[nn.Module], order: Sequence[int]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.order = tuple(order)
        self.register_buffer("positions", torch.tensor(self.order), persistent=False)

    def forward(self, *given: Tensor) -> Distribution:
        """The product of the parts, over the concatenated vector."""
        return SideBySide([cast(Distribution, part(*given)) for part in self.parts], self.positions)


class ByVariable:
    """Makes a posterior of independent posteriors, one for each group of variables.

    Args:
        posteriors: for a variable, or a tuple of them, a function from the number of dimensions to
            a module, such as :func:`mean_field` or :func:`full_rank`.

    Example:
        >>> import lowerbound as lb
        >>> structured = ByVariable({("mean", "scale"): lb.full_rank, "effects": lb.mean_field})
        >>> structured.over(Variables({"mean": (), "effects": (8,), "scale": ()}))().event_shape
        torch.Size([10])
    """

    def __init__(self, posteriors: Mapping[str | tuple[str, ...], Make]) -> None:
        self.posteriors = {
            (names,) if isinstance(names, str) else tuple(names): make
            for names, make in posteriors.items()
        }

    def over(self, variables: Variables) -> Parts:
        """The posterior over these variables.

        Raises:
            SettingsError: if a variable is in no group, in two, or unknown.
        """
        named = [name for names in self.posteriors for name in names]
        misplaced = {name for name in named if named.count(name) > 1} | (
            set(named) ^ set(variables.parts)
        )
        if misplaced:
            raise SettingsError(
                f"ByVariable: {', '.join(sorted(misplaced))} must be in exactly one group; the "
                f"variables are {', '.join(variables.parts)}"
            )
        places = dict(
            zip(variables.parts, torch.arange(variables.size).split(variables.sizes), strict=True)
        )
        groups = [torch.cat([places[name] for name in names]) for names in self.posteriors]
        parts = [
            make(len(group)) for make, group in zip(self.posteriors.values(), groups, strict=True)
        ]
        return Parts(parts, torch.argsort(torch.cat(groups)).tolist())
