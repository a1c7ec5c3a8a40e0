"""Markov chains that are annealed from the prior to the posterior, or back.

Shapes: C chains, B examples of a batch, T distributions. z is ``[C, B, *event]``, a log weight
``[C, B]``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import draw_samples
from lowerbound.errors import UnsupportedError
from lowerbound.models import GenerativeModel
from lowerbound.runtime import noise
from lowerbound.runtime.noise import derived_seed

# The steepness of the sequence of temperatures (Wu et al. 2017).
_DELTA = 4.0

# The pilot run: the number of chains, the range of the number of distributions, the first step
# size, the target acceptance, and the rate at which the step size adapts.
_PILOT_CHAINS = 4
_PILOT_FEWEST, _PILOT_MOST = 100, 1000
_FIRST_STEP = 0.2
_ACCEPTANCE = 0.65
_RATE = 0.15


class ChainState(NamedTuple):
    """The latents of chains, their log densities, and the gradients of these.

    The log densities are ``[C, B]`` in float64, the gradients ``[C, B, *event]``.
    """

    z: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_gradient: Tensor
    likelihood_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log p(z) + beta log p(x|z), ``[C, B]``."""
        return self.log_prior + beta * self.log_likelihood

    def gradient(self, beta: float) -> Tensor:
        """The gradient of :meth:`log_density` with respect to z, ``[C, B, *event]``."""
        return self.prior_gradient + beta * self.likelihood_gradient


class AnnealingPath:
    """The distributions from p(z) to p(z|x) for a batch ``x``, and the chains between them.

    Args:
        model: the model.
        x: examples, ``[B, *event]``.
        settings: ``distributions`` and ``leapfrog_steps``.
        given: the fields that the model needs, ``[B, ...]`` each.
    """

    def __init__(
        self,
        model: GenerativeModel,
        x: Tensor,
        settings: Mapping[str, int],
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.x = x
        given = given or {}
        self.prior = model.prior_given(given)
        self.likelihood = model.likelihood_given(given)
        self.settings = settings
        self.betas = _choose_betas(settings["distributions"])

    def make_state(self, z: Tensor) -> ChainState:
        """Make the state at ``z``.

        A density that is not finite counts as zero, so the chains accept no proposal there.
        """
        with torch.enable_grad():
            inside = z.nan_to_num(0, 0, 0).requires_grad_()
            terms = self.prior.log_prob(inside), self.likelihood(inside).log_prob(self.x)
            gradients = [_gradient(term, inside).nan_to_num(0, 0, 0) for term in terms]
        finite = terms[0].isfinite() & terms[1].isfinite() & z.isfinite().flatten(2).all(2)
        log_prior, log_likelihood = (
            term.detach().double().where(finite, -math.inf) for term in terms
        )
        return ChainState(z, log_prior, log_likelihood, *gradients)

    def transition(self, state: ChainState, beta: float, step: Tensor) -> tuple[ChainState, Tensor]:
        """Move by a Hamiltonian trajectory at the temperature ``beta``.

        Args:
            state: the state of the chains.
            beta: the temperature.
            step: the step sizes, ``[B]``.

        Returns:
            The new state, and the probabilities with which proposals were accepted, ``[C, B]``.
        """
        z, event = state.z, tuple(range(2, state.z.dim()))
        step = step.to(z.dtype).reshape(-1, *(1 for _ in event))
        start = noise.standard_normal(tuple(z.shape), 1, dtype=z.dtype, device=z.device)
        proposal, momentum = state, start
        for _ in range(self.settings["leapfrog_steps"]):
            momentum = momentum + 0.5 * step * proposal.gradient(beta)
            proposal = self.make_state(proposal.z + step * momentum)
            momentum = momentum + 0.5 * step * proposal.gradient(beta)
        gain = proposal.log_density(beta) - state.log_density(beta)
        kinetic_gain = 0.5 * (
            momentum.double().square().sum(event) - start.double().square().sum(event)
        )
        # The difference is nan between two states whose densities are both zero.
        chance = (gain - kinetic_gain).exp().clamp(max=1).nan_to_num(0)
        uniform = noise.uniform(tuple(chance.shape), 1, dtype=chance.dtype, device=chance.device)
        accepted = uniform < chance
        moved = accepted.reshape(*accepted.shape, *(1 for _ in event))
        masks = (moved, accepted, accepted, moved, moved)
        return ChainState(*map(torch.where, masks, proposal, state)), chance

    def find_step_sizes(self, rows: Tensor) -> Tensor:
        """Find step sizes for each temperature and example, ``[T, B]``.

        They come from a pilot run with its own chains and its own noise.

        Args:
            rows: the row numbers of the examples, ``[B]``.
        """
        log_step = torch.full(
            (len(self.x),), math.log(_FIRST_STEP), dtype=torch.float64, device=self.x.device
        )
        if len(self.betas) == 2:  # no chain moves, so no step size is used
            return log_step.exp().expand(2, -1)
        log_steps = []
        with noise.per_example(derived_seed(self.settings["seed"], "pilot"), rows):
            state = self.make_state(draw_from_prior(self.prior, _PILOT_CHAINS, len(self.x)))
            for beta in _choose_betas(min(max(len(self.betas), _PILOT_FEWEST), _PILOT_MOST)):
                log_steps.append(log_step)
                state, chance = self.transition(state, beta, log_step.exp())
                log_step = log_step + _RATE * (chance.mean(0) - _ACCEPTANCE)
        return change_length(torch.stack(log_steps).exp(), len(self.betas))

    def anneal(self, z: Tensor, steps: Tensor, *, down: bool = False) -> dict[str, Tensor]:
        """Anneal the chains: a bound on log p(x), ``[B]``, with diagnostics.

        Args:
            z: the starting points of the chains, ``[C, B, *event]``: draws from the prior, or with
                ``down`` draws from the posterior.
            steps: the step sizes, ``[T, B]``.
            down: whether to anneal from the posterior to the prior, for an upper bound in
                expectation instead of a lower one.
        """
        last = len(self.betas) - 1
        temperatures, direction = range(last), 1
        if down:
            temperatures, direction = range(last, 0, -1), -1
        state, chances = self.make_state(z), []
        log_w = torch.zeros_like(state.log_likelihood)
        for t in temperatures:
            if 0 < t < last:
                state, chance = self.transition(state, self.betas[t], steps[t])
                chances.append(chance.mean(0))
            log_w = log_w + (self.betas[t + direction] - self.betas[t]) * state.log_likelihood
        total = log_w.logsumexp(0)
        acceptance = torch.full_like(total, math.nan)
        if chances:
            acceptance = torch.stack(chances).mean(0)
        effective = (2 * total - (2 * log_w).logsumexp(0)).exp()
        middle = len(log_w) // 2
        results = {
            "log_likelihood": direction * (total - math.log(len(log_w))),
            "first half": direction * _log_mean(log_w[:middle]),
            "second half": direction * _log_mean(log_w[middle:]),
            "acceptance": acceptance,
            "effective": effective.nan_to_num(0),  # nan if all weights are zero
        }
        return {name: result.cpu() for name, result in results.items()}


def change_length(steps: Tensor, distributions: int) -> Tensor:
    """Interpolate step sizes ``[T, B]`` for another number of distributions, ``[T', B]``."""
    interpolated = nn.functional.interpolate(
        steps.T[None], distributions, mode="linear", align_corners=True
    )
    return interpolated[0].T


def _choose_betas(distributions: int) -> list[float]:
    """Choose the temperatures from 0 to 1: a sigmoid of equal steps."""
    sigmoid = torch.linspace(-_DELTA, _DELTA, distributions, dtype=torch.float64).sigmoid()
    betas: list[float] = ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).tolist()
    return betas


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(max(1, len(log_w)))


def _gradient(log_density: Tensor, z: Tensor) -> Tensor:
    if not log_density.requires_grad:
        raise UnsupportedError(
            "log p(z) or log p(x|z) has no gradient with respect to z, and annealing needs "
            "it; use lb.log_likelihood"
        )
    return torch.autograd.grad(log_density.sum(), z)[0]


def draw_from_prior(prior: Distribution, samples: int, examples: int) -> Tensor:
    """Draw from the prior, ``[samples, examples, *event]``, by the examples' own noise."""
    try:
        return draw_samples(prior.expand(torch.Size((examples,))), samples)
    except NotImplementedError:
        return prior.sample(torch.Size((samples, examples)))
