"""Coordinate ascent for mean-field posteriors, with updates in closed form."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lowerbound.errors import DataError, LowerboundError, NonFiniteError, SettingsError
from lowerbound.settings import check_seed

# Rounding in double precision can lower the bound by at most this, relative to the bound.
_RELATIVE_ROUNDING_ERROR = 1e-8


class Factor(Protocol):
    """One factor of a mean-field posterior: a distribution with an entropy."""

    def entropy(self) -> Tensor:
        """The entropy in nats, of each independent copy."""


@dataclass(frozen=True, eq=False)
class Ascent:
    """The result of coordinate ascent.

    Args:
        factors: the factors of the posterior by name.
        bounds: the evidence lower bound in nats, before the first update and after each update.
        updated: the name of the factor that each update changed. It has one entry fewer than
            ``bounds``.
        converged: whether the last sweep changed the bound by less than the tolerance.
    """

    factors: Mapping[str, Any]
    bounds: tuple[float, ...]
    updated: tuple[str, ...]
    converged: bool

    @property
    def bound(self) -> float:
        """The evidence lower bound at the end, in nats."""
        return self.bounds[-1]

    def __repr__(self) -> str:
        ended = "converged" if self.converged else "not converged"
        return (
            f"Ascent(bound={self.bound:.6g} nats after {len(self.updated)} updates, {ended}; "
            f"factors: {', '.join(self.factors)})"
        )


class CoordinateAscent(ABC):
    r"""A model with a factorised posterior :math:`q(z) = \prod_j q_j(z_j)`, updated in turn.

    Each update gives a factor its optimum, given the others:

    .. math:: \log q_j(z_j) = \operatorname{E}_{q_{-j}} \log p(x, z) + \text{const}

    Such an update never lowers the bound (Bishop 2006, chapter 10; Blei et al. 2017). An update
    that does contains a mistake, and :meth:`fit` raises an error.

    To write your own: subclass it, return the first factors from :meth:`start` and the optimum of
    each factor from :meth:`update`, and define :meth:`expected_log_joint`. Use double precision.
    """

    @abstractmethod
    def start(self, x: Tensor, generator: torch.Generator) -> dict[str, Factor]:
        """Make the factors before the first update, in the order of the updates."""

    @abstractmethod
    def update(self, name: str, factors: Mapping[str, Any], x: Tensor) -> Factor:
        """Compute the optimal factor of that name, given the other factors."""

    @abstractmethod
    def expected_log_joint(self, factors: Mapping[str, Any], x: Tensor) -> Tensor:
        """``E_q log p(x, z)``, in nats, with all its constants."""

    def bound(self, factors: Mapping[str, Any], x: Tensor) -> float:
        """The evidence lower bound, in nats: ``E_q log p(x, z)`` plus the factors' entropies."""
        entropies = torch.stack(
            [torch.as_tensor(factor.entropy()).sum() for factor in factors.values()]
        )
        return float(self.expected_log_joint(factors, x) + entropies.sum())

    def fit(self, x: Any, *, tolerance: float = 1e-10, sweeps: int = 1000, seed: int = 0) -> Ascent:
        """Update the factors in turn until the bound no longer changes.

        Args:
            x: the data, in the shape that :meth:`prepare` documents.
            tolerance: the relative change of the bound in one sweep through all factors, below
                which the ascent ends.
            sweeps: the largest number of sweeps.
            seed: the seed of the first factors, if they are random.

        Raises:
            SettingsError: for settings that are out of range.
            DataError: if the data cannot be used.
            NonFiniteError: if an update makes the bound non-finite, naming the update.
            LowerboundError: if an update lowers the bound, which an optimal update never does.
        """
        whole = isinstance(sweeps, int) and not isinstance(sweeps, bool)
        if not tolerance > 0 or not whole or sweeps < 1:
            raise SettingsError(
                f"fit: tolerance={tolerance} must be positive, and sweeps={sweeps} a whole number "
                "of at least 1"
            )
        data = self.prepare(x)
        generator = torch.Generator().manual_seed(check_seed("fit", seed))
        factors = self.start(data, generator)
        bounds, updated, converged = [self.bound(factors, data)], [], False
        for _ in range(sweeps):
            before = bounds[-1]
            for name in factors:
                updated.append(name)
                bounds.append(self._update_bound(name, factors, data, bounds[-1], len(updated)))
            converged = abs(bounds[-1] - before) <= tolerance * max(1.0, abs(bounds[-1]))
            if converged:
                break
        return Ascent(factors, tuple(bounds), tuple(updated), converged)

    def prepare(self, x: Any) -> Tensor:
        """Convert the data to a tensor in double precision, ``[N, *event]``.

        Raises:
            DataError: if they are not numeric, or a row is not finite, naming the first such row.
        """
        try:
            data = torch.as_tensor(x).detach().cpu().double()
        except (TypeError, ValueError) as error:
            raise DataError(f"data: cannot be read as an array of numbers ({error})") from None
        if data.dim() == 0 or data.numel() == 0:
            raise DataError(f"data: expected at least one row, got the shape {tuple(data.shape)}")
        broken = ~data.isfinite().reshape(len(data), -1).all(1)
        if broken.any():
            raise DataError(
                f"data: row {int(broken.nonzero()[0])} has a non-finite value; leave it "
                "out or correct it"
            )
        return data

    def _update_bound(
        self, name: str, factors: dict[str, Any], x: Tensor, before: float, step: int
    ) -> float:
        """Update one factor, and compute the bound afterwards."""
        reason, bound = "", math.nan
        try:
            factors[name] = self.update(name, factors, x)
            bound = self.bound(factors, x)
        except LowerboundError:
            raise
        except (ValueError, RuntimeError) as error:
            # Torch raises these errors for non-finite parameters and for singular matrices.
            reason = f" ({' '.join(str(error).split())[:200]})"
        if not math.isfinite(bound):
            raise NonFiniteError(
                f"step {step}: the bound is non-finite after the update of {name!r}{reason}. "
                "Likely cause: a prior that is improper or far from the data's scale. Remedy: "
                "standardise the data, or widen the prior",
                step=step,
                term="bound",
                tensor=name,
            )
        if bound < before - _RELATIVE_ROUNDING_ERROR * max(1.0, abs(before)):
            raise LowerboundError(
                f"step {step}: the update of {name!r} lowers the bound from {before:.10g} to "
                f"{bound:.10g}, so the new factor is not optimal, or does not match the "
                f"expected_log_joint of {type(self).__name__}; derive both from the same log joint"
            )
        return bound
