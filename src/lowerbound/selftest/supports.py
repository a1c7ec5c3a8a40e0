"""Checks of constrained variables: the bijections, and the densities that they carry."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    LKJCholesky,
    Uniform,
    biject_to,
    constraints,
)

import lowerbound as lb
from lowerbound.conditionals.bijections import find_bijection
from lowerbound.selftest.known import DOUBLE, largest
from lowerbound.selftest.registry import check


def _make_number(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE)


# A variable, a density over it, a statistic and its expectation, and the half width and the number
# of points of a grid over the real numbers that represent the variable.
_Case = tuple[lb.Variable, Distribution, Callable[[Tensor], Tensor], float, float, int]


def _list_cases() -> list[_Case]:
    shares = Dirichlet(torch.tensor([2.0, 3.0, 4.0], dtype=DOUBLE))
    triangle = LKJCholesky(3, _make_number(1.5))
    # An entry r of a correlation matrix of size d under LKJ(eta) has (r + 1) / 2 ~ Beta(a, a) with
    # a = eta + d / 2 - 1, here 2, so E r^2 = 1 / (2 a + 1) = 1 / 5.
    return [
        (
            lb.Variable((), constraints.positive),
            Gamma(_make_number(3), _make_number(2)),
            _identity,
            1.5,
            14,
            2000,
        ),
        (
            lb.Variable((), constraints.unit_interval),
            Beta(_make_number(2), _make_number(3)),
            _identity,
            0.4,
            25,
            2000,
        ),
        (
            lb.Variable((), constraints.interval(-1.0, 3.0)),
            Uniform(_make_number(-1), _make_number(3)),
            _identity,
            1.0,
            40,
            3000,
        ),
        (lb.Variable((), constraints.greater_than(2.0)), _Shifted(), _identity, 2.5, 40, 3000),
        (lb.Variable((3,), constraints.simplex), shares, lambda z: z[..., 1], 1 / 3, 16, 150),
        (lb.Variable((3, 3), constraints.corr_cholesky), triangle, _square_of_last, 0.2, 5, 50),
    ]


def _identity(z: Tensor) -> Tensor:
    return z


def _square_of_last(factor: Tensor) -> Tensor:
    """The square of the correlation of the last two dimensions."""
    return (factor @ factor.mT)[..., 2, 1].square()


class _Shifted(Exponential):
    """2 plus an exponential variable of rate 2, whose mean is 2.5."""

    def __init__(self) -> None:
        super().__init__(_make_number(2.0), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density."""
        found: Tensor = super().log_prob(value - 2.0)  # type: ignore[no-untyped-call]
        return found


@check(
    "constrained-density",
    "The density of constrained variables integrates to 1 over the real numbers that represent "
    "them, and gives the expectation in closed form",
    tolerance=1e-7,
)
def integrate_constrained_densities() -> Iterator[float]:
    """On grids, for the supports positive, interval, greater than, simplex and correlation.

    The space of the posterior is shifted and stretched, as ``start()`` does.
    """
    for variable, density, statistic, expected, half_width, points in _list_cases():
        model = lb.LogJoint(
            lambda z, p=density: p.log_prob(z), lb.mean_field, {"z": variable}
        ).double()
        model.centre += 0.3
        model.spread *= 1.7
        axis = torch.linspace(-half_width, half_width, points, dtype=DOUBLE)
        size = variable.free_size
        grid = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
        share = model.log_density(grid).exp() * float(axis[1] - axis[0]) ** size
        mean = (share * statistic(model.values(grid)[0]["z"])).sum()
        yield abs(float(share.sum()) - 1)
        yield abs(float(mean) - expected)


@check(
    "bijections",
    "The bijections of constrained variables are torch's, their inverses undo them, and their log "
    "determinants are those of torch's derivatives (relative)",
    tolerance=1e-9,
)
def compare_bijections() -> Iterator[float]:
    """At 10 points of each support, with determinants of the Jacobian matrix by autograd."""
    for variable, *_ in _list_cases():
        ours, theirs = find_bijection(variable.support), biject_to(variable.support)
        for u in torch.randn(10, *variable.free_shape, dtype=DOUBLE):
            z = ours(u)
            found = ours.log_abs_det_jacobian(u, z).sum()
            free = _select_free_entries(variable, theirs)
            jacobian = torch.autograd.functional.jacobian(free, u).reshape([u.numel()] * 2)
            exact = torch.linalg.slogdet(jacobian).logabsdet
            yield largest(z - theirs(u))
            yield largest(ours.inv(z) - u)
            yield largest(found - exact)


def _select_free_entries(variable: lb.Variable, bijection: Any) -> Callable[[Tensor], Tensor]:
    """Select the map from real numbers to the entries of a value that determine the others."""
    if variable.support is constraints.simplex:
        return lambda u: bijection(u)[..., :-1]
    if variable.support is constraints.corr_cholesky:
        row, column = torch.tril_indices(3, 3, offset=-1)
        return lambda u: bijection(u)[..., row, column]
    found: Callable[[Tensor], Tensor] = bijection
    return found


@check(
    "small-shares",
    "In float32, shares of a simplex far below 1e-7 and their log determinants are those computed "
    "in double precision (relative)",
    tolerance=1e-5,
)
def compare_small_shares() -> float:
    """For shares down to about 1e-30, where 1 minus the others is 0 in float32."""
    transform = find_bijection(constraints.simplex)
    worst = 0.0
    for first in (10.0, 30.0, 69.0):
        u = torch.tensor([first, 0.5])
        found, exact = transform(u), transform(u.double())
        # By hand: the first share is 1 / (1 + e^-s) with s = u - log 2; the second splits the rest.
        rest = 1 / (1 + math.exp(first - math.log(2)))
        by_hand = rest / (1 + math.exp(-0.5))
        change = transform.log_abs_det_jacobian(u, found)
        log_det = transform.log_abs_det_jacobian(u.double(), exact)
        worst = max(
            worst,
            abs(float(found[1]) / by_hand - 1),
            abs(float(exact[1]) / by_hand - 1),
            largest(change / log_det - 1),
        )
    return worst
