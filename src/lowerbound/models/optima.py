"""The separate optima of a log joint, as an optimiser finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import is_mass
from lowerbound.models.pathfinder import CurvedGaussian


@dataclass(frozen=True, eq=False)
class Optimum:
    """The best Gaussian along a path to a mode, separate from those of the other optima.

    Args:
        values: of the variables at its mean, by name.
        bound: the bound with this Gaussian as q, in nats, roughly estimated from 20 draws.
        gaussian: the Gaussian, over the real numbers that represent the variables.
    """

    values: Mapping[str, Tensor]
    bound: float
    gaussian: CurvedGaussian = field(repr=False)

    def __str__(self) -> str:
        values = ", ".join(f"{name} = {_shorten(value)}" for name, value in self.values.items())
        return f"bound {self.bound:.2f} at {values}"


def _shorten(value: Tensor) -> str:
    """The first entries of a value, for a message."""
    entries = [f"{float(entry):.3g}" for entry in value.flatten()[:3]]
    if not value.dim():
        return entries[0]
    if value.numel() > len(entries):
        entries.append("...")
    return f"[{', '.join(entries)}]"


def is_discrete(q: Distribution) -> bool:
    """Whether q takes discrete values."""
    return bool(is_mass(q))
