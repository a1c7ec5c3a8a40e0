"""The posterior of a log joint: how it is made, and how it is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Size, Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals import ByVariable
from lowerbound.conditionals.variables import Variables
from lowerbound.distributions import Lebesgue
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.models.draw import Draw
from lowerbound.models.sampling import Gradient, choose_sampler, score_latents, score_through_z
from lowerbound.runtime import noise


def make_posterior(posterior: Any, variables: Variables) -> nn.Module:
    """Return the posterior as a module: the given module, or the one that the function makes.

    Raises:
        SettingsError: if it is not a module, and not a function that makes one.
    """
    if isinstance(posterior, nn.Module):
        return posterior
    if isinstance(posterior, ByVariable):
        return posterior.over(variables)
    if not callable(posterior):
        raise SettingsError(
            "LogJoint: posterior must be a module, or a function that makes one from the number of "
            f"dimensions, not a {type(posterior).__name__}"
        )
    made = posterior(variables.size)
    if not isinstance(made, nn.Module):
        raise SettingsError(
            f"LogJoint: posterior({variables.size}) gave a {type(made).__name__}, not a "
            "torch.nn.Module"
        )
    return made


def check_posterior_size(q: Any, variables: Variables) -> None:
    """Check that the posterior returned a distribution over vectors of all variables.

    Raises:
        ShapeError: saying what it returned.
    """
    found = type(q).__name__
    if isinstance(q, Distribution):
        if q.event_shape == (variables.size,):
            return
        found = f"a {found} over {tuple(q.event_shape)}"
    raise ShapeError(
        f"LogJoint: the posterior gives {found}, but {', '.join(variables.parts)} are "
        f"{variables.size} dimensions; make it over vectors of that size"
    )


def draw_for_each(
    posterior: nn.Module,
    q: Distribution,
    log_joint: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    gradient: Gradient,
) -> Draw:
    """Draw the variables for repetitions, each with its own draws.

    Args:
        posterior: the module that returned q.
        q: the posterior, batch shape ``[]``.
        log_joint: of points ``[K, B, J]``, ``[K, B]``.
        size: K and B.
        gradient: how the posterior gets its gradient.
    """
    q = q.expand(Size(size[1:]))
    with noise.for_foreign(*size):
        u, posterior_term = choose_sampler(q, gradient)(q, Size(size[:1]))
    prior = Lebesgue(u.shape[-1])
    return Draw(
        z=u,
        likelihood_term=lambda: log_joint(u),
        prior_term=lambda: prior.log_prob(u),
        posterior_term=posterior_term,
        stopgrad_parameters_term=lambda: score_through_z(q, posterior, u),
        stopgrad_z_term=lambda: score_latents(q, u.detach()),
        q=q,
        prior=prior,
    )


def draw_for_all(
    posterior: nn.Module,
    q: Distribution,
    log_joint: Callable[[Tensor], Tensor],
    size: tuple[int, int],
    gradient: Gradient,
) -> Draw:
    """Draw the variables once for all examples of a batch.

    The arguments are those of :func:`draw_for_each`, but ``log_joint`` is of points ``[K, J]``.
    """
    with noise.for_foreign(*size):
        shared, posterior_term = choose_sampler(q, gradient)(q, Size(size[:1]))
    u = shared[:, None].expand(*size, -1)
    prior = Lebesgue(u.shape[-1])

    def expand(term: Tensor) -> Tensor:
        return term[:, None].expand(size)

    return Draw(
        z=u,
        likelihood_term=lambda: expand(log_joint(u[:, 0])),
        prior_term=lambda: prior.log_prob(u),
        posterior_term=lambda: expand(posterior_term()),
        stopgrad_parameters_term=lambda: score_through_z(q, posterior, u[:, :1]).expand(size),
        stopgrad_z_term=lambda: expand(score_latents(q, u.detach()[:, 0])),
        q=q,
        prior=prior,
    )
