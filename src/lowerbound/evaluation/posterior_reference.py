"""The posterior of a log joint as weighted points, with which draws from q are compared.

The points are draws from a mixture of distributions, one of which is q. Weights p / mixture and
q / mixture represent the posterior and q by the same points, so the noise of the points cancels
where q is the posterior (Owen & Zhou 2000, *Safe and effective importance sampling*).

Shapes: N points, J coordinates of the vector that represents the variables, V values of all
variables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.evaluation.pareto import pareto_shape, reliable_shape, shape_error, tail_length
from lowerbound.runtime.memory import split_range

# Shapes and errors of draws count with this many standard errors added.
ERRORS = 2.0

# The smallest share of effective points with which they represent the posterior. With less, most of
# it lies at few points, which are at the edge of what the mixture covers.
_FEWEST_EFFECTIVE = 0.1

# Points with less than this share of the weights are left out, since their values may be infinite.
_NO_SHARE = 1e-12

# The variance of a value that is constant up to rounding, as a share of its mean square.
_CONSTANT = 1e-12

# The largest logarithm of a ratio that a float can represent.
_LARGEST_LOG = 700.0

# log p(x) is at least its lower limit with a probability of 1 - 1 / _LIMIT_ODDS. The bound minus
# two standard errors is another such limit, and the larger of the two still holds 19 times in 20.
_LIMIT_ODDS = 40.0


@dataclass(frozen=True)
class DrawErrors:
    """The largest errors of the means and standard deviations of draws, over all variables.

    Args:
        mean: the error of a mean, in standard deviations of the posterior.
        mean_limit: the same, with two standard errors added.
        scale: the ratio of two standard deviations, the larger one divided by the smaller one.
        scale_limit: the same, with two standard errors added to its logarithm.
    """

    mean: float
    mean_limit: float
    scale: float
    scale_limit: float

    def __str__(self) -> str:
        means = f"means off by {self.mean:.2g} standard deviations"
        return f"{means}, standard deviations by a factor of {self.scale:.2f}"


UNKNOWN_ERRORS = DrawErrors(math.inf, math.inf, math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Reference:
    """The posterior as weighted points.

    Args:
        points: in the posterior's space, ``[N, J]``.
        values: of all variables at the points, ``[N, V]``.
        log_p: the log joint minus the log density of the mixture, ``[N]``.
        log_q: the log density of q minus that of the mixture, ``[N]``.
        blocks: the number of the block of each point, ``[N]``, -1 for none. All blocks have the
            same shares of all distributions.
        looks_elsewhere: whether the mixture has parts other than q.
        is_exact: whether the points are all possible states.
    """

    points: Tensor
    values: Tensor
    log_p: Tensor
    log_q: Tensor
    blocks: Tensor
    looks_elsewhere: bool = True
    is_exact: bool = False

    @property
    def shares(self) -> Tensor:
        """The share of the posterior at each point, ``[N]``."""
        return self.log_p.softmax(0)

    @property
    def shares_of_q(self) -> Tensor:
        """The share of q at each point, ``[N]``."""
        return self.log_q.softmax(0)

    @property
    def log_evidence(self) -> float:
        """log p(x), in nats; the weights of q, whose sum is known, cancel much of the noise."""
        return float(self.log_p.logsumexp(0) - self.log_q.logsumexp(0))

    @property
    def log_evidence_error(self) -> float:
        """The standard error of ``log_evidence``, as far as the weights show it."""
        if self.is_exact:
            return 0.0
        return float((self.shares - self.shares_of_q).square().sum().sqrt())

    @property
    def log_evidence_limit(self) -> float:
        """A lower limit of log p(x), which holds 39 times in 40 whatever the weights' tail.

        The mean weight of a block estimates p(x) without bias. By Markov's inequality, it is more
        than exp(t) times too large with a probability of at most exp(-t), and the smallest of B
        independent ones with at most exp(-B t) (Gogate, Bidyuk & Dechter 2007).
        """
        if self.is_exact:
            return self.log_evidence
        count = int(self.blocks.max()) + 1
        each = [self.log_p[self.blocks == block].logsumexp(0) for block in range(count)]
        smallest = float(torch.stack(each).min()) + math.log(count / len(self.log_p))
        return smallest - math.log(_LIMIT_ODDS) / count

    @property
    def pareto_k(self) -> float:
        """k-hat of the posterior's weights; nan if the points are too few."""
        count = min(tail_length(len(self.log_p)) + 1, len(self.log_p))
        return float(pareto_shape(self.log_p.topk(count).values[:, None]))

    @property
    def effective(self) -> float:
        """The effective number of points."""
        return float(1 / self.shares.square().sum())

    @property
    def is_reliable(self) -> bool:
        """Whether the weights show that the points represent the posterior."""
        return self.is_exact or self._has_reliable_shape(ERRORS)

    @property
    def is_close(self) -> bool:
        """Whether they show it only without the standard errors of k-hat."""
        return not self.is_reliable and self._has_reliable_shape(0.0)

    def _has_reliable_shape(self, errors: float) -> bool:
        count = len(self.log_p)
        shape = self.pareto_k + errors * shape_error(self.pareto_k, count)
        return self.effective >= _FEWEST_EFFECTIVE * count and shape <= reliable_shape(count)

    def missed(self, samples: int) -> float:
        """The share of the posterior that draws from q miss.

        It is the share at points whose weight p / q exceeds the number of draws. There, all draws
        from q together are less dense than a single draw from the posterior (Chatterjee & Diaconis
        2018).
        """
        return float(self.shares[~self._is_reached(samples)].sum())

    def errors_of_draws(self) -> DrawErrors:
        """The errors of q's draws as they are."""
        return self._compare(self.shares_of_q)

    def errors_of_weighted_draws(self, samples: int) -> DrawErrors:
        """The errors that weighted draws from q have in general, for a number of draws.

        They are biased, since draws miss a part of the posterior, and vary from seed to seed.
        """
        reached = self._is_reached(samples)
        if not bool(reached.any()):
            return UNKNOWN_ERRORS
        shares = self.shares.where(reached, 0.0)
        shares = shares / shares.sum()
        weights = (self._log_weights.clamp_max(math.log(samples))).exp()
        return self._compare(shares, weights / samples)

    @property
    def _log_weights(self) -> Tensor:
        """log p - log q, normalised, ``[N]``: the log weights of draws from q."""
        log_w = self.log_p - self.log_q - self.log_evidence
        return log_w.where(~log_w.isnan(), -math.inf)

    def _is_reached(self, samples: int) -> Tensor:
        return self._log_weights <= math.log(samples)

    def _compare(self, shares: Tensor, variances: Tensor | None = None) -> DrawErrors:
        """Compare means and standard deviations under other shares with the posterior's.

        Args:
            shares: of the points, ``[N]``.
            variances: the variance of a draw's share divided by the share, ``[N]``; ``None`` for
                the limit of many draws.
        """
        own = self.shares
        matters = torch.maximum(own, shares) > _NO_SHARE
        if not bool(matters.any()):
            return UNKNOWN_ERRORS
        own, shares = own[matters], shares[matters]
        if variances is not None:
            variances = own * variances[matters]
        parts = [
            self._compare_values(self.values[matters, columns], own, shares, variances)
            for columns in split_range(self.values.shape[1], len(own))
        ]
        largest = torch.cat(parts, 1)
        if not largest.shape[1]:
            return DrawErrors(0.0, 0.0, 1.0, 1.0)
        mean_error, mean_limit, log_scale, log_limit = largest.max(1).values.tolist()
        # If two standard errors exceed 1 on the logarithmic scale, the ratio is unknown.
        scale_limit = math.inf
        if log_limit - log_scale <= 1:
            scale_limit = math.exp(log_limit)
        return DrawErrors(
            mean_error, mean_limit, math.exp(min(log_scale, _LARGEST_LOG)), scale_limit
        )

    def _compare_values(
        self, values: Tensor, own: Tensor, shares: Tensor, variances: Tensor | None
    ) -> Tensor:
        """Compare the means and standard deviations of some values, leaving out constant ones.

        Args:
            values: ``[N, V]``.
            own: the posterior's shares of the points, ``[N]``.
            shares: the shares that are compared with them, ``[N]``.
            variances: ``own`` times the variance of a draw's share divided by the share, ``[N]``;
                ``None`` for the limit of many draws.

        Returns:
            Four rows, with a column for each value that is not constant: the error of the mean; the
            same with two standard errors added; the logarithm of the ratio of the standard
            deviations; and the same with two standard errors added.
        """
        mean, other_mean = own @ values, shares @ values
        centred, other_centred = values - mean, values - other_mean
        variance, other_variance = own @ centred.square(), shares @ other_centred.square()
        varies = variance > _CONSTANT * mean.square()
        scale = variance.sqrt()
        shift = (other_mean - mean) / scale
        ratio = 0.5 * (other_variance / variance).log()
        # Delta method: what each point, with its two shares, adds to each error.
        pull = own[:, None] * centred / scale - shares[:, None] * other_centred / scale
        squared = other_centred.square() / other_variance - 1
        stretch = 0.5 * (
            shares[:, None] * squared - own[:, None] * (centred.square() / variance - 1)
        )
        noise = 1.0 - self.is_exact
        shift_variance = noise * pull.square().sum(0)
        ratio_variance = noise * stretch.square().sum(0)
        if variances is not None:
            each = variances[:, None]
            shift_variance = shift_variance + (each * (other_centred / scale).square()).sum(0)
            ratio_variance = ratio_variance + 0.25 * (each * squared.square()).sum(0)
        shifts = torch.stack([shift.abs(), shift.abs() + ERRORS * shift_variance.sqrt()])
        ratios = torch.stack([ratio.abs(), ratio.abs() + ERRORS * ratio_variance.sqrt()])
        return torch.cat([shifts, ratios])[:, varies].nan_to_num(nan=math.inf)
