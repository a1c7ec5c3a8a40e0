"""A model of named variables. Its posterior is over one vector of standardised real numbers."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Size, Tensor, nn

from lowerbound.conditionals.variables import Variables
from lowerbound.errors import LogJointError, SettingsError
from lowerbound.models.base import Model
from lowerbound.models.optima import Optimum, is_discrete
from lowerbound.models.pathfinder import CurvedGaussian, find_optima
from lowerbound.models.resampling import resample_by_weight
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import choose_pairs_per_batch
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

Self = TypeVar("Self", bound="VariablePosterior")

# Resampling chooses from this many times as many draws as are asked for.
_CANDIDATES = 25


class VariablePosterior(Model):
    """A posterior over named variables: its starting point, and draws from it.

    :class:`lowerbound.LogJoint` adds the log joint density. ``optima`` are the separate optima that
    :meth:`start` has found, the one with the largest bound first. They are not saved with the
    model.
    """

    variables: Variables
    posterior: nn.Module
    centre: Tensor
    spread: Tensor
    optima: tuple[Optimum, ...] = ()

    def standardise(self) -> None:
        """Add the buffers ``centre`` and ``spread``, 0 and 1 until :meth:`start`."""
        self.register_buffer("centre", torch.zeros(self.variables.size))
        self.register_buffer("spread", torch.ones(self.variables.size))

    @abstractmethod
    def log_density(self, u: Tensor) -> Tensor:
        """The log joint at points ``[*leading, J]``, plus the log determinant, ``[*leading]``."""

    @abstractmethod
    def check_all_data(self, name: str) -> None:
        """Check that the log joint stores all data, as the named method requires.

        Raises:
            UnsupportedError: if it gets batches.
        """

    @property
    def repetition(self) -> Tensor:
        """A placeholder for the data of a log joint that stores its own, ``[1, 1]``."""
        return torch.zeros(1, 1, dtype=get_dtype(self), device=get_device(self))

    def start(
        self: Self,
        paths: int = 4,
        *,
        at: Mapping[str, Any] | Optimum | None = None,
        spread: float = 1.0,
        seed: int = 0,
    ) -> Self:
        """Standardise the posterior's space, by the best Gaussian along paths to modes.

        Its mean and its standard deviations become centre and spread of the space (Pathfinder,
        Zhang et al. 2022; see :func:`lowerbound.models.pathfinder.find_optima`). One
        learning rate then suits all variables, regardless of their location and scale. If q is
        N(0, I), as it is before training, it becomes that Gaussian without its correlations,
        whatever the posterior's family. ``model.optima`` keeps the separate optima of the paths.
        :func:`lowerbound.fit_from_optima` trains one q from each and compares them.

        Args:
            paths: the number of paths, from different points. Each costs a few hundred
                evaluations of the log joint and its gradient.
            at: a value for each variable, or one of ``optima``, to start there instead of
                searching.
            spread: the standard deviation about these values, in unconstrained coordinates.
            seed: of those points, and of the draws by which Gaussians are compared.

        Returns:
            This model.

        Raises:
            SettingsError, ShapeError: if ``at`` lacks a variable, has another shape or an
                impossible value, or the spread is not positive.
            UnsupportedError: if the log joint gets its data in batches; start
                ``model.with_all_data(data)``, which has the same posterior.
            LogJointError, NonFiniteError: if no path finds a point at which the log joint is
                finite. A point at which it fails counts as impossible, and others are tried.

        Example:
            >>> import lowerbound as lb
            >>> from torch.distributions import Normal
            >>> far = lambda mass: Normal(5000.0, 300.0).log_prob(mass)
            >>> model = lb.LogJoint(far, lb.mean_field, {"mass": ()}).start()
            >>> abs(lb.evaluate(model, lb.ELBO(samples=10)).mean) < 0.1  # log 1 = 0, untrained
            True
        """
        paths = check_whole_number("start: paths", paths)
        if not 0 < spread < math.inf:
            raise SettingsError(f"start: spread={spread!r} must be positive and finite")
        if at is None:
            self.check_all_data("start")
            self.optima = self.find_optima(paths, seed=check_seed("start", seed))
            at = self.optima[0]
        if isinstance(at, Optimum):
            centre = torch.from_numpy(at.gaussian.mean)
            scale = torch.from_numpy(np.sqrt(at.gaussian.variance))
        else:
            centre, scale = self.variables.point(at), torch.tensor(spread)
        self.centre.copy_(centre)
        self.spread.copy_(scale)
        return self

    def find_optima(self, paths: int, *, seed: int = 0) -> tuple[Optimum, ...]:
        """Find separate optima of the log joint, the one with the largest bound first.

        Args:
            paths: the number of paths from different points, as for :meth:`start`.
            seed: of the points.

        Raises:
            LogJointError, NonFiniteError: as :meth:`start`.
        """
        with evaluating(self), seeded(seed, get_device(self)):
            found = find_optima(self.plain_density, self.variables.size, paths, seed=seed)
        return tuple(self.describe_optimum(*one) for one in found)

    @property
    def has_gradient(self) -> bool:
        """Whether q takes continuous values, and the log joint has a gradient there."""
        if is_discrete(self.posterior()):
            return False
        with torch.enable_grad():
            u = torch.zeros(1, self.variables.size).to(self.centre).requires_grad_()
            try:
                return bool(self.log_density(u).requires_grad)
            except LogJointError:  # it fails at this point, which says nothing about others
                return True

    def plain_density(self, point: Tensor) -> Tensor:
        """The log joint at real numbers for the variables, before they are standardised.

        It still includes the log determinant of the standardisation, which is a constant.
        """
        return self.log_density((point.to(self.centre) - self.centre) / self.spread)

    @property
    def is_started(self) -> bool:
        """Whether :meth:`start` has set centre and spread."""
        return bool((self.centre != 0).any() or (self.spread != 1).any())

    def describe_optimum(self, bound: float, gaussian: CurvedGaussian) -> Optimum:
        """Describe a Gaussian along a path by the values of the variables at its mean.

        Args:
            bound: from :meth:`plain_density`, whose constant is subtracted here.
            gaussian: over the real numbers that represent the variables.
        """
        point = torch.from_numpy(gaussian.mean).to(self.centre)[None]
        values = {name: value[0] for name, value in self.variables.values(point)[0].items()}
        return Optimum(values, bound - float(self.spread.double().log().sum()), gaussian)

    def values(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The variables' values at points of the posterior's space.

        These points are standardised: the real numbers that torch's bijections map to values are
        ``centre + spread * u``, and :meth:`start` chooses centre and spread.

        Args:
            u: ``[*leading, J]``.

        Returns:
            The values by name, ``[*leading, *shape]``, and the log absolute determinant of their
            derivative with respect to u, ``[*leading]``.
        """
        values, log_det = self.variables.values(self.centre + self.spread * u)
        return values, log_det + self.spread.log().sum()

    @torch.no_grad()
    def posterior_sample(
        self, count: int, *, resample: bool = False, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draws from q, ``[count, *shape]`` by name of the variable.

        Args:
            count: the number of draws.
            resample: choose them from 25 times as many draws in proportion to their importance
                weights, with replacement, which corrects many errors of q (Yao et al. 2018). A draw
                with a large weight is returned several times, so few different draws mean that the
                weights are uneven: see :func:`lowerbound.posterior_health`. Needs a log joint that
                stores its own data.
            seed: makes the draws reproducible, and leaves torch's own generator as it was.

        Raises:
            SettingsError: if ``count`` is not positive, or the seed is not a whole number.
            UnsupportedError: if ``resample=True``, but the log joint gets batches.
            NonFiniteError: if too few draws have a weight, or one has an infinite weight.
        """
        count = check_whole_number("posterior_sample: count", count)
        if seed is not None:
            seed = derived_seed(check_seed("posterior_sample", seed), "posterior")
        with evaluating(self), seeded(seed, get_device(self)):
            if not resample:
                return self.values(self.posterior().sample(Size((count,))))[0]
            self.check_all_data("posterior_sample(resample=True)")
            u = resample_by_weight(
                lambda samples: self.draw(self.repetition, samples),
                count,
                candidates=_CANDIDATES * count,
                chunk=choose_pairs_per_batch(self.numbers_per_draw(self.examples(None))),
            )
            return self.values(u)[0]
