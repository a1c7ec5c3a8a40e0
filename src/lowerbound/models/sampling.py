"""Draws from a posterior for each kind of gradient, and log densities at them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import CodePoint, PointMass, as_diagonal, learns_from_values
from lowerbound.errors import NonFiniteError, UnsupportedError
from lowerbound.models.checks import check_likelihood
from lowerbound.models.paths import partial_gradients, zero_with_gradients

Gradient = Literal["pathwise", "sticking-the-landing", "dreg", "score-function"]
"""How the posterior's parameters get their gradient, see :class:`lowerbound.Objective`."""


def _draw_reparameterised(q: Distribution, size: Size) -> tuple[Tensor, Callable[[], Tensor]]:
    """Draw z, ``[K, B, *units]``, and compute log q, together with the draws if q can do that."""
    if not q.has_rsample:
        raise UnsupportedError(
            f"the posterior returned {type(q).__name__}, which cannot be reparameterised, so no "
            "gradient goes through its draws; use gradient='score-function', or a posterior with "
            "rsample, such as Gaussian"
        )
    together = getattr(q, "rsample_and_log_prob", None)
    if together is None:
        z = q.rsample(size)
        return z, lambda: score_latents(q, z)
    z, log_q = together(size)
    return z, lambda: log_q


def _draw_without_path(q: Distribution, size: Size) -> tuple[Tensor, Callable[[], Tensor]]:
    """Draw z with a stop-gradient, and compute log q."""
    z = q.sample(size).detach()
    return z, lambda: score_latents(q, z)


_Sampler = Callable[[Distribution, Size], tuple[Tensor, Callable[[], Tensor]]]


def choose_sampler(q: Distribution, gradient: Gradient) -> _Sampler:
    """Choose the function that draws z for a kind of gradient.

    If no gradients are recorded, a posterior without ``rsample`` can be used with all of them.

    Returns:
        A function from q and a shape to draws, and a function that computes log q at them.

    Raises:
        UnsupportedError: for an unknown gradient, or one that would not train q.
    """
    if gradient not in get_args(Gradient):
        known = ", ".join(map(repr, get_args(Gradient)))
        raise UnsupportedError(f"gradient={gradient!r} is unknown; choose one of {known}")
    if torch.is_grad_enabled():
        _check_trained(q, gradient)
    no_path = gradient == "score-function" or not (q.has_rsample or torch.is_grad_enabled())
    if no_path:
        return _draw_without_path
    return _draw_reparameterised


def _check_trained(q: Distribution, gradient: Gradient) -> None:
    """Refuse a posterior that the gradient would not train, or that would train on its own draws.

    Raises:
        UnsupportedError: naming the reason and the remedy.
    """
    if learns_from_values(q):
        raise UnsupportedError(
            "a distribution that learns from the values that it scores, such as one with "
            "scale='optimal', is for likelihoods; a posterior, which would learn from its own "
            "draws, needs another scale, such as scale='network'"
        )
    if gradient in ("score-function", "dreg") and isinstance(q, PointMass):
        raise UnsupportedError(
            f"the posterior's {type(q).__name__} has all probability at one point, so its log "
            f"probability has no gradient, which gradient={gradient!r} needs; use "
            "gradient='pathwise'"
        )


def score_latents(q: Distribution, z: Tensor) -> Tensor:
    """Compute log q at a given point.

    Raises:
        UnsupportedError: naming q, if it cannot score a given point.
    """
    try:
        return q.log_prob(z)
    except NotImplementedError:
        raise UnsupportedError(
            f"the posterior returned {type(q).__name__}, which cannot score a given point: its "
            "log_prob is not implemented; use a posterior whose density can be evaluated"
        ) from None


def score_by_prior(prior: Distribution, q: Distribution, z: Tensor) -> Tensor:
    """Compute log p(z) at draws z of q, ``[K, B]``.

    A posterior that chooses codes knows which ones they are. A vector that is the sum of several
    codes does not tell: quantised once more, it may give others.
    """
    score_codes: Callable[[Tensor], Tensor] | None = getattr(prior, "log_prob_of_codes", None)
    if score_codes is None or not isinstance(q, CodePoint):
        return prior.log_prob(z)
    return score_codes(q.codes).expand(z.shape[:2])


def check_log_weights(log_w: Tensor) -> Tensor:
    """Return log weights in double precision; a weight that is nan becomes zero.

    Raises:
        NonFiniteError: if a weight is infinite, because it would dominate all others.
    """
    log_w = log_w.double()
    if bool((log_w == math.inf).any()):
        raise NonFiniteError(
            "the log joint is infinite at a draw from q, so averages over draws are meaningless. "
            "Likely cause: a density without an upper bound. Remedy: check the log joint there, "
            "or give variables supports that exclude such values",
            step=0,
            term="log_w",
            tensor="the log joint",
        )
    return torch.where(log_w.isnan(), -math.inf, log_w)


def score_through_z(q: Distribution, posterior: nn.Module, z: Tensor) -> Tensor:
    """Compute log q at z, ``[K, B]``, with a stop-gradient on the parameters of q.

    Args:
        q: the distribution that the posterior returned.
        posterior: the posterior, a module.
        z: ``[K, B, *units]``.

    Raises:
        UnsupportedError: if a second evaluation of the posterior would give another distribution,
            if its own stop-gradient leaves a gradient, or if q cannot score a given point.
    """
    ours = as_diagonal(q)
    own = getattr(q if ours is None else ours, "stop_gradient", None)
    if own is not None:
        stopped = own()
        _check_stopped(stopped, z)
        return score_latents(stopped, z)
    # Another library's distribution may contain networks, which it evaluates when it scores a
    # point. So the gradient at z is measured by a backward pass.
    changing = next((module for module in posterior.modules() if _is_random(module)), None)
    if changing is not None:
        raise UnsupportedError(
            f"the posterior is a {type(q).__name__} whose network has a {type(changing).__name__}, "
            "so that its second evaluation, with a stop-gradient on its parameters, gives another "
            "distribution; use gradient='pathwise', or leave that layer out"
        )
    point = z.view_as(z)  # a gradient at this view does not continue into the parameters of q
    log_q = score_latents(q, point)
    if not point.requires_grad:
        return log_q.detach()
    return log_q.detach() + zero_with_gradients(partial_gradients(log_q, [point]), [point])


def _check_stopped(stopped: Distribution, z: Tensor) -> None:
    """Check that the ``stop_gradient`` of a distribution of the user's own stops all gradients.

    Raises:
        UnsupportedError: if its density still has a gradient at a fixed point.
    """
    name = type(stopped)
    if (
        name.__module__.startswith("lowerbound.")
        or not score_latents(stopped, z.detach()).requires_grad
    ):
        return
    raise UnsupportedError(
        f"the posterior returned {name.__name__}, whose stop_gradient() leaves a gradient in "
        "log_prob at a fixed point, so this gradient estimator would be biased; detach all "
        "parameters there, leave the method out, or use gradient='pathwise'"
    )


def _is_random(module: nn.Module) -> bool:
    """Whether a module is in training mode and its output changes from call to call."""
    return module.training and isinstance(
        module, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._BatchNorm
    )


def make_score(likelihood: Callable[..., Distribution]) -> Callable[..., Tensor]:
    """Make log p(x|z), ``[K, B]``, a function of z, x and the fields of the likelihood.

    The function contains only the likelihood, so nothing else is compiled with it.
    """

    def score(z: Tensor, x: Tensor, **fields: Tensor) -> Tensor:
        p = likelihood(z, **fields)
        check_likelihood(p, x, len(z))
        log_prob: Tensor = p.log_prob(x)
        return log_prob

    return score
