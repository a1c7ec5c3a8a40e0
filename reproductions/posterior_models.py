"""The log joint densities of posterior_data.py in torch, for lowerbound."""

from collections.abc import Callable

import torch
from posterior_data import PROBLEMS
from torch import Tensor, nn
from torch.distributions import HalfCauchy, HalfNormal, Normal, constraints
from torch.nn.functional import logsigmoid

import lowerbound as lb

LogDensity = Callable[..., Tensor]


def schools(effect: Tensor, error: Tensor) -> LogDensity:
    """Eight schools, with standardised effects as unknowns (non-centred)."""

    def log_joint(mean: Tensor, spread: Tensor, standardised: Tensor) -> Tensor:
        prior = Normal(0.0, 5.0).log_prob(mean) + HalfCauchy(5.0).log_prob(spread)
        effects = mean[:, None] + spread[:, None] * standardised
        return (
            prior
            + Normal(0.0, 1.0).log_prob(standardised).sum(-1)
            + Normal(effects, error).log_prob(effect).sum(-1)
        )

    return log_joint


def centred_schools(effect: Tensor, error: Tensor) -> LogDensity:
    """Eight schools, with the effects themselves as unknowns (centred)."""

    def log_joint(mean: Tensor, spread: Tensor, effects: Tensor) -> Tensor:
        prior = Normal(0.0, 5.0).log_prob(mean) + HalfCauchy(5.0).log_prob(spread)
        of_schools = Normal(mean[:, None], spread[:, None]).log_prob(effects).sum(-1)
        return prior + of_schools + Normal(effects, error).log_prob(effect).sum(-1)

    return log_joint


def logistic(inputs: Tensor, outcome: Tensor) -> LogDensity:
    """Logistic regression with priors N(0, 1) on the intercept and the weights."""
    sign = 2 * outcome - 1

    def log_joint(intercept: Tensor, weights: Tensor) -> Tensor:
        logits = intercept[:, None] + weights @ inputs.T
        prior = Normal(0.0, 1.0).log_prob(intercept) + Normal(0.0, 1.0).log_prob(weights).sum(-1)
        return prior + logsigmoid(sign * logits).sum(-1)

    return log_joint


def hierarchical(invest: Tensor, value: Tensor, capital: Tensor, firm: Tensor) -> LogDensity:
    """Each firm has a level and a slope from Gaussians with unknown means and spreads (centred)."""
    of_value = value

    def log_joint(
        *,
        level: Tensor,
        slope: Tensor,
        value: Tensor,
        level_spread: Tensor,
        slope_spread: Tensor,
        noise: Tensor,
        levels: Tensor,
        slopes: Tensor,
    ) -> Tensor:
        prior = Normal(0.0, 1.0).log_prob(torch.stack([level, slope, value])).sum(0)
        prior = prior + HalfNormal(1.0).log_prob(
            torch.stack([level_spread, slope_spread, noise])
        ).sum(0)
        firms = Normal(level[:, None], level_spread[:, None]).log_prob(levels)
        firms = firms + Normal(slope[:, None], slope_spread[:, None]).log_prob(slopes)
        fitted = levels[:, firm] + slopes[:, firm] * capital + value[:, None] * of_value
        return prior + firms.sum(-1) + Normal(fitted, noise[:, None]).log_prob(invest).sum(-1)

    return log_joint


_LOG_JOINTS: dict[str, Callable[..., LogDensity]] = {
    "schools": schools,
    "schools-centred": centred_schools,
    "logistic": logistic,
    "hierarchical": hierarchical,
}


def log_joint_model(name: str, posterior: Callable[[int], nn.Module]) -> lb.LogJoint:
    """A posterior for one of the problems, in float64."""
    problem = PROBLEMS[name]
    data = {part: torch.as_tensor(values) for part, values in problem.data().items()}
    supports = dict.fromkeys(problem.unknowns, constraints.real)
    supports |= dict.fromkeys(problem.positive, constraints.positive)
    variables = {
        unknown: lb.Variable(shape, supports[unknown])
        for unknown, shape in problem.unknowns.items()
    }
    return lb.LogJoint(_LOG_JOINTS[name](**data), posterior, variables).double()


def log_density(model: lb.LogJoint, u: Tensor) -> Tensor:
    """The log joint density of real vectors ``[N, J]``, with the change of volume: ``[N]``."""
    values, log_det = model.variables.values(u)
    return model.log_joint(**values) + log_det
