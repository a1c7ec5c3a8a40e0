"""Estimates from several completed tables are combined: Rubin's rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lowerbound.errors import SettingsError


@dataclass(frozen=True)
class PooledEstimate:
    """An estimate from several completed tables, see :func:`pool`.

    Args:
        mean: the estimate.
        within: the average of the tables' own variances.
        between: the variance between the tables' estimates.
        degrees: the degrees of freedom of its t distribution.
        tables: M.
    """

    mean: NDArray[np.float64]
    within: NDArray[np.float64]
    between: NDArray[np.float64]
    degrees: NDArray[np.float64]
    tables: int

    @property
    def variance(self) -> NDArray[np.float64]:
        """The variance of the estimate, ``within + (1 + 1 / M) between``."""
        return self.within + (1 + 1 / self.tables) * self.between

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """The square root of the variance."""
        return np.sqrt(self.variance)

    @property
    def missing_information(self) -> NDArray[np.float64]:
        """The share of the variance that is due to missing values."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num((1 + 1 / self.tables) * self.between / self.variance)

    def interval(self, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The limits of an interval that covers the true value with this probability."""
        if not 0 < level < 1:
            raise SettingsError(f"interval: level={level!r} must be between 0 and 1")
        width = stats.t.ppf(0.5 + level / 2, self.degrees) * self.standard_error
        return self.mean - width, self.mean + width

    def __str__(self) -> str:
        """A line for each quantity."""
        low, high = self.interval()
        columns = self.mean, self.standard_error, low, high, self.degrees, self.missing_information
        rows = zip(*(np.ravel(each).tolist() for each in columns), strict=True)
        return "\n".join(
            f"estimate {mean:.5g}, standard error {error:.3g}, 95% interval {lower:.5g} to "
            f"{upper:.5g}, degrees of freedom {degrees:,.1f}, missing information {share:.1%}"
            for mean, error, lower, upper, degrees, share in rows
        )


def pool(
    estimates: Any, variances: Any, *, complete_degrees: float | None = None
) -> PooledEstimate:
    r"""Combine the estimates from several completed tables by Rubin's rules.

    .. math:: \bar\theta = \frac1M \sum_m \theta_m, \qquad
        T = \bar U + \left(1 + \frac1M\right) B, \qquad
        \nu = (M - 1) \left(1 + \frac{\bar U}{(1 + 1/M) B}\right)^2

    Here :math:`\bar U` is the average of the variances that are given, and B the variance of the
    estimates. This :math:`\nu` may exceed the degrees of freedom :math:`\nu_c` of a complete table,
    which are few if the table is small. If they are given, it is therefore adjusted to

    .. math:: \Big(\frac1\nu + \frac1{\nu_o}\Big)^{-1}, \qquad
        \nu_o = \frac{\nu_c + 1}{\nu_c + 3} \, \nu_c \, \frac{\bar U}{T}

    Args:
        estimates: of one or several quantities from each table, ``[M, ...]``. Series of pandas must
            have the same labels in the same order, because their values are taken by position.
        variances: their squared standard errors, ``[M, ...]``.
        complete_degrees: the degrees of freedom of the estimate in a complete table, such as the
            number of rows less that of the coefficients; ``None`` for very many. The interval is
            infinite if the tables' own variances are 0 and their estimates differ.

    Raises:
        SettingsError: for fewer than two tables, different shapes or labels, negative variances, or
            degrees of freedom that are not positive.

    Source: Rubin 1987, "Multiple imputation for nonresponse in surveys", section 3.1; Barnard &
    Rubin 1999, "Small-sample degrees of freedom with multiple imputation".

    Example:
        >>> import lowerbound as lb
        >>> pooled = lb.pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
        >>> float(pooled.mean), round(float(pooled.variance), 4), round(float(pooled.degrees), 4)
        (2.0, 1.8333, 3.7812)
        >>> print(pooled)
        estimate 2, standard error 1.35, 95% interval -1.8467 to 5.8467, degrees of freedom 3.8,
        missing information 72.7%
        >>> pooled = lb.pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5], complete_degrees=20)
        >>> round(float(pooled.degrees), 4)
        2.1494
    """
    if complete_degrees is not None:
        is_number = isinstance(complete_degrees, Real) and not isinstance(complete_degrees, bool)
        if not (is_number and complete_degrees > 0):
            raise SettingsError(
                f"pool: complete_degrees={complete_degrees!r} must be a positive number"
            )
    if isinstance(estimates, list | tuple) and isinstance(variances, list | tuple):
        _refuse_other_labels([*estimates, *variances])
    values, own = np.asarray(estimates, dtype=float), np.asarray(variances, dtype=float)
    if values.shape != own.shape or values.ndim == 0:
        raise SettingsError(
            f"pool: estimates have the shape {values.shape} and variances {own.shape}; give one of "
            "each for every table, [M, ...]"
        )
    tables = len(values)
    if tables < 2:
        raise SettingsError("pool: one table does not say how much is uncertain; give at least two")
    if not (own >= 0).all():
        raise SettingsError("pool: variances must be at least 0; give squared standard errors")
    within, between = own.mean(0), values.var(0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = within / ((1 + 1 / tables) * between)
    degrees = np.where(between > 0, (tables - 1) * (1 + ratio) ** 2, math.inf)
    if complete_degrees is not None and complete_degrees < math.inf:
        share = np.where(between > 0, 1 - 1 / (1 + ratio), 1.0)  # of the tables' own variances
        observed = (complete_degrees + 1) / (complete_degrees + 3) * complete_degrees * share
        degrees = 1 / (1 / degrees + 1 / np.maximum(observed, np.finfo(float).tiny))
    return PooledEstimate(values.mean(0), within, between, degrees, tables)


def _refuse_other_labels(tables: list[Any]) -> None:
    """Raise ``SettingsError`` unless all Series and frames have the labels of the first one."""
    labeled = [each for each in tables if hasattr(each, "iloc")]
    for each in labeled:
        for found, first in zip(each.axes, labeled[0].axes, strict=False):
            if not found.equals(first):
                raise SettingsError(
                    f"pool: the labels of an estimate are {list(found)[:5]}, and those of the "
                    f"first {list(first)[:5]}; give all in the same order, as by .reindex(...)"
                )
