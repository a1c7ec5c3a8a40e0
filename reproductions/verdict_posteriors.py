"""Posteriors of known quality: densities that integrate to 1 and can be sampled exactly.

Each is fitted by a family that fits it well, moderately or not at all. log p(x) is 0, so minus the
bound is exactly KL(q || posterior), and exact draws give the true means and standard deviations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Beta,
    Dirichlet,
    Gamma,
    HalfNormal,
    MultivariateNormal,
    Normal,
    constraints,
)

import lowerbound as lb
from lowerbound.distributions import FactorialBernoulli

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Known:
    """A posterior that can be sampled exactly, and how q is made.

    Args:
        kind: the family of the posterior.
        log_joint: its log density, which integrates to 1.
        draw: exact draws by name of the variable.
        variables: shapes or supports by name.
        posterior: the family of q.
        at: where q is put instead of being trained: a value for each variable, and its standard
            deviation.
        objective: what q is trained with.
    """

    kind: str
    log_joint: Callable[..., Tensor]
    draw: Callable[[int], Values]
    variables: dict[str, Any]
    posterior: Any = lb.full_rank
    at: tuple[dict[str, Any], float] | None = None
    objective: Any = None


class Bits(nn.Module):
    """Independent bits."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(size))

    def forward(self) -> FactorialBernoulli:
        return FactorialBernoulli(self.logits)


def gaussian(size: int, correlation: float, posterior: Any, kind: str = "Gaussian") -> Known:
    covariance = torch.full((size, size), correlation) + (1 - correlation) * torch.eye(size)
    normal = MultivariateNormal(torch.zeros(size).double(), covariance.double())
    return Known(
        kind,
        lambda a: normal.log_prob(a.double()),
        lambda count: {"a": normal.sample((count,))},
        {"a": size},
        posterior,
    )


def mixture(
    parts: list[tuple[float, float, float]], size: int = 1, kind: str = "bimodal", **how: Any
) -> Known:
    """A mixture of parts: share, centre of the first coordinate, and scale of all coordinates."""
    centres = torch.zeros(len(parts), size)
    centres[:, 0] = torch.tensor([centre for _, centre, _ in parts])
    shares, scales = (torch.tensor([part[place] for part in parts]) for place in (0, 2))

    def log_joint(a: Tensor) -> Tensor:
        each = Normal(centres, scales[:, None]).log_prob(a[:, None]).sum(-1)
        return (each + shares.log()).logsumexp(-1)

    def draw(count: int) -> Values:
        chosen = torch.multinomial(shares, count, replacement=True)
        return {"a": centres[chosen] + scales[chosen, None] * torch.randn(count, size)}

    return Known(kind, log_joint, draw, {"a": size}, **how)


def student(size: int, freedom: float, posterior: Any) -> Known:
    constant = math.lgamma((freedom + size) / 2) - math.lgamma(freedom / 2)
    constant -= size / 2 * math.log(freedom * math.pi)

    def log_joint(a: Tensor) -> Tensor:
        return constant - (freedom + size) / 2 * (a.square().sum(-1) / freedom).log1p()

    def draw(count: int) -> Values:
        squares = Gamma(freedom / 2, torch.tensor(0.5)).sample((count, 1))
        return {"a": torch.randn(count, size) * (freedom / squares).sqrt()}

    return Known("t", log_joint, draw, {"a": size}, posterior)


def funnel(scale: float, effects: int, posterior: Any) -> Known:
    def log_joint(log_scale: Tensor, effect: Tensor) -> Tensor:
        top = Normal(0.0, scale).log_prob(log_scale)
        return top + Normal(0.0, (log_scale / 2).exp()[:, None]).log_prob(effect).sum(-1)

    def draw(count: int) -> Values:
        log_scale = scale * torch.randn(count)
        effect = (log_scale / 2).exp()[:, None] * torch.randn(count, effects)
        return {"log_scale": log_scale, "effect": effect}

    return Known("funnel", log_joint, draw, {"log_scale": (), "effect": effects}, posterior)


def banana(curvature: float, posterior: Any) -> Known:
    def log_joint(a: Tensor, b: Tensor) -> Tensor:
        return Normal(0.0, 1.0).log_prob(a) + Normal(curvature * (a**2 - 1), 1.0).log_prob(b)

    def draw(count: int) -> Values:
        a = torch.randn(count)
        return {"a": a, "b": curvature * (a**2 - 1) + torch.randn(count)}

    return Known("banana", log_joint, draw, {"a": (), "b": ()}, posterior)


def constrained(law: Any, support: Any, shape: Any = (), posterior: Any = lb.full_rank) -> Known:
    def log_joint(a: Tensor) -> Tensor:
        density: Tensor = law.log_prob(a)
        return density

    return Known(
        "constrained",
        log_joint,
        lambda count: {"a": law.sample((count,))},
        {"a": lb.Variable(shape, support)},
        posterior,
    )


def bits(size: int = 3, coupling: float = 3.0) -> Known:
    """A chain of bits that agree with their neighbours: nearly always all 0 or all 1."""
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * size)

    def score(bit: Tensor) -> Tensor:
        sign = 2 * bit - 1
        return coupling * (sign[..., 1:] * sign[..., :-1]).sum(-1) + 0.2 * sign.sum(-1)

    total = score(states).logsumexp(0)
    return Known(
        "bimodal",
        lambda bit: score(bit) - total,
        lambda count: {"bit": states[torch.multinomial(score(states).softmax(0), count, True)]},
        {"bit": size},
        Bits,
        objective=lb.ELBO(samples=10, gradient="score-function"),
    )


POSTERIORS: dict[str, Known] = {
    "Gaussian, 3 dimensions, full rank": gaussian(3, 0.5, lb.full_rank),
    "Gaussian, correlation .2, mean field": gaussian(2, 0.2, lb.mean_field),
    "Gaussian, correlation .9, mean field": gaussian(2, 0.9, lb.mean_field),
    "Gaussian, q 0.97 sd beside it": mixture(
        [(1.0, 0.0, 1.0)], kind="Gaussian", posterior=lb.mean_field, at=({"a": [0.97]}, 1.0)
    ),
    "Gaussian, q twice as wide": mixture(
        [(1.0, 0.0, 1.0)], kind="Gaussian", posterior=lb.mean_field, at=({"a": [0.0]}, 2.0)
    ),
    "near-singular, correlation .998, mean field": gaussian(
        2, 0.998, lb.mean_field, "near-singular"
    ),
    "near-singular, correlation .999, full rank": gaussian(3, 0.999, lb.full_rank, "near-singular"),
    "t, 3 degrees of freedom, 10 dimensions, mean field": student(10, 3.0, lb.mean_field),
    "t, 3 degrees of freedom, 1 dimension": student(1, 3.0, lb.mean_field),
    "Gaussian with a tenth 30 times as wide": mixture(
        [(0.9, 0.0, 1.0), (0.1, 0.0, 30.0)],
        kind="t",
        posterior=lb.mean_field,
        at=({"a": [0.0]}, 1.0),
    ),
    "funnel, scale 3, mean field": funnel(3.0, 9, lb.mean_field),
    "funnel, scale .2, full rank": funnel(0.2, 3, lb.full_rank),
    "banana, curvature 1, full rank": banana(1.0, lb.full_rank),
    "banana, curvature a tenth, full rank": banana(0.1, lb.full_rank),
    "two modes, 1 dimension": mixture([(0.7, 3.0, 0.3), (0.3, -3.0, 0.6)]),
    "two modes, 5 dimensions": mixture([(0.6, 4.0, 1.0), (0.4, -4.0, 1.0)], size=5),
    "three bits that agree, score function": bits(),
    "gamma, shape 3": constrained(Gamma(3.0, 1.0), constraints.positive),
    "beta, shapes .3 and .3": constrained(Beta(0.3, 0.3), constraints.unit_interval),
    "Dirichlet, 5 of each": constrained(
        Dirichlet(torch.tensor([5.0, 5.0, 5.0])), constraints.simplex, (3,)
    ),
}


# More posteriors that were used to develop the rules. Each is at the limit between two verdicts, so
# it may get either of them.
BOUNDARY: dict[str, Known] = {
    "funnel, scale .5, full rank": funnel(0.5, 3, lb.full_rank),
    "Gaussian, correlation .6, mean field": gaussian(2, 0.6, lb.mean_field),
    "t, 30 degrees of freedom, 2 dimensions": student(2, 30.0, lb.full_rank),
    "two modes that overlap": mixture([(0.5, 0.7, 1.0), (0.5, -0.7, 1.0)]),
    "half-normal": constrained(HalfNormal(1.0), constraints.positive),
}


# Other dimensions, correlations and shapes, on which the finished rules were tried once.
HOLD_OUT: dict[str, Known] = {
    "Gaussian, 8 dimensions, full rank": gaussian(8, 0.3, lb.full_rank),
    "Gaussian, 5 dimensions, correlation .1, mean field": gaussian(5, 0.1, lb.mean_field),
    "Gaussian, 4 dimensions, correlation .7, mean field": gaussian(4, 0.7, lb.mean_field),
    "Gaussian, q half a sd beside it": mixture(
        [(1.0, 0.0, 1.0)],
        size=3,
        kind="Gaussian",
        posterior=lb.mean_field,
        at=({"a": [0.5, 0.0, 0.0]}, 1.0),
    ),
    "Gaussian, q half as wide": mixture(
        [(1.0, 0.0, 1.0)], kind="Gaussian", posterior=lb.mean_field, at=({"a": [0.0]}, 0.5)
    ),
    "near-singular, correlation .99, 3 dimensions, mean field": gaussian(
        3, 0.99, lb.mean_field, "near-singular"
    ),
    "near-singular, correlation .9999, full rank": gaussian(
        2, 0.9999, lb.full_rank, "near-singular"
    ),
    "t, 5 degrees of freedom, 4 dimensions, full rank": student(4, 5.0, lb.full_rank),
    "t, 12 degrees of freedom, 3 dimensions, mean field": student(3, 12.0, lb.mean_field),
    "Gaussian with a twentieth 10 times as wide": mixture(
        [(0.95, 0.0, 1.0), (0.05, 0.0, 10.0)],
        size=2,
        kind="t",
        posterior=lb.mean_field,
        at=({"a": [0.0, 0.0]}, 1.0),
    ),
    "funnel, scale 2, 5 effects, full rank": funnel(2.0, 5, lb.full_rank),
    "funnel, scale .3, 2 effects, mean field": funnel(0.3, 2, lb.mean_field),
    "banana, curvature .5, full rank": banana(0.5, lb.full_rank),
    "banana, curvature .05, mean field": banana(0.05, lb.mean_field),
    "two modes, 2 dimensions": mixture([(0.5, 5.0, 0.5), (0.5, -5.0, 0.5)], size=2),
    "three modes, 1 dimension": mixture([(0.4, 0.0, 1.0), (0.3, 8.0, 0.5), (0.3, -8.0, 2.0)]),
    "five bits that agree, score function": bits(5, 2.0),
    "gamma, shape 8": constrained(Gamma(8.0, 2.0), constraints.positive),
    "beta, shapes 2 and 5": constrained(Beta(2.0, 5.0), constraints.unit_interval),
    "Dirichlet, 2 of four": constrained(
        Dirichlet(torch.full((4,), 2.0)), constraints.simplex, (4,)
    ),
}


def fit(known: Known, seed: int = 0) -> lb.LogJoint:
    """q as it is judged: trained until it converges, or put where it is wanted."""
    torch.manual_seed(seed)
    model = lb.LogJoint(known.log_joint, known.posterior, known.variables)
    if known.at is not None:
        return model.start(at=known.at[0], spread=known.at[1])
    if known.objective is None:
        model.start(seed=seed)
    objective = known.objective or lb.ELBO(samples=10)
    lb.fit(model, objective, tolerance=0.003, steps=20_000, progress=False, seed=seed)
    return model
