r"""The log likelihood by annealed importance sampling, and from both sides where the data are the model's own.

On real data the figure is a lower bound in expectation, and never certified: an upper bound starts from a draw from the exact
posterior, which only data that the model itself simulates come with. The gap that is measured on those tells of real data
only as far as the two resemble each other.

C chains, B examples of a batch, N of a data set, T distributions: z is ``[C, B, *event]``, a log weight ``[C, B]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.data.examples import Examples
from lowerbound.distributions import drawn
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.checks import check_seed
from lowerbound.evaluation.estimate import Estimate
from lowerbound.models import LatentModel, Model
from lowerbound.models.passes import Progress, batches, gathered
from lowerbound.runtime import noise
from lowerbound.runtime.devices import device_of, dtype_of
from lowerbound.runtime.memory import examples_per_pass
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import whole_number

# The steepness of the path of temperatures (Wu et al. 2017).
_DELTA = 4.0

# The pilot run, and how the step size follows its acceptance.
_PILOT_CHAINS = 4
_PILOT_FEWEST, _PILOT_MOST = 100, 1000
_FIRST_STEP = 0.2
_ACCEPTANCE = 0.65
_RATE = 0.15

# Entries that a density over all real vectors takes, and one over whole or bounded numbers does not.
_FAR = (1234.5, -1234.5)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AnnealedEstimate(Estimate):
    """An annealed log likelihood, with what the chains say of it.

    Args:
        acceptance: the share of accepted trajectories of each example, ``[N]``; nan where there were none.
        effective_sample_sizes: ``(sum w)^2 / sum w^2`` over each example's chains, ``[N]``: from 1 to C.
        settings: ``distributions``, ``chains``, ``leapfrog_steps`` and ``seed``.
    """

    acceptance: Tensor
    effective_sample_sizes: Tensor
    settings: Mapping[str, int]


@dataclass(frozen=True, eq=False, repr=False)
class Interval:
    """Two estimates between which the log likelihood of simulated examples lies.

    Args:
        lower: by forward annealing, a lower bound in expectation.
        upper: by reverse annealing, an upper bound in expectation.
        examples: what was simulated, ``[N, *event]``.
    """

    lower: AnnealedEstimate
    upper: AnnealedEstimate
    examples: Tensor

    @property
    def gap(self) -> Estimate:
        """Upper minus lower: its mean over examples with the standard error, and for each example."""
        return Estimate(self.upper.per_example - self.lower.per_example)

    def __repr__(self) -> str:
        gap = f"{self.gap.mean:.3g} ± {self.gap.standard_error:.2g}, examples={len(self.examples)}"
        return f"Interval(lower={self.lower.mean:.6g}, upper={self.upper.mean:.6g}, gap={gap})"


def annealed_log_likelihood(
    model: Model,
    data: Any,
    *,
    distributions: int = 1000,
    chains: int = 16,
    leapfrog_steps: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> AnnealedEstimate:
    r"""log p(x) by annealed importance sampling, in nats per example: at most log p(x) in expectation.

    .. math:: \log \hat p(x) = \log \frac1C \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^{T-1} (\beta_{t+1} - \beta_t) \log p(x \mid z_t), \qquad z_1 \sim p(z),\; z_t \sim K_t(\cdot \mid z_{t-1})

    K_t, a Hamiltonian trajectory that is accepted or rejected after Metropolis, leaves :math:`p(z)\, p(x \mid z)^{\beta_t}`
    invariant; :math:`\beta_t` rises from 0 to 1 as :math:`\sigma(\delta (2 \frac{t-1}{T-1} - 1))`, :math:`\delta = 4`. The encoder
    plays no part. Neal 2001; Wu, Burda, Salakhutdinov & Grosse 2017 (arXiv:1611.04273).

    E[w] = p(x) for all settings, so this is a lower bound in expectation, which rises with the number of distributions, and
    P(result > log p(x) + a) <= exp(-a) for each example (Markov). That needs transitions that do not learn from their own
    chains: a pilot run, with fewer chains and noise of its own, steers each example's step size towards an acceptance of about
    0.65 as the temperature rises; the run that gives the weights uses what it found, frozen. On real data the figure is never
    certified: no exact posterior draw exists for them, so no upper bound does. See :func:`bidirectional` for simulated data.

    The noise of an example, and its pixels where those are random, depend on ``seed`` and its row alone, so ``batch_size`` changes
    a figure by no more than rounding does. Where the posterior is rough, long chains magnify rounding: into another draw.

    An example costs ``distributions * chains * leapfrog_steps`` passes through the likelihood and back, and a quarter more for
    the pilot run at the usual settings: take some examples of a large dataset (``data.spread(100)``).

    Args:
        model: a :class:`lowerbound.LatentModel` whose latents are continuous and unbounded.
        data: examples, an array or a tensor, ``[N, *event]``.
        distributions: T, at least 2; with 2 this is importance sampling from the prior.
        chains: C, for each example.
        leapfrog_steps: of a trajectory; each costs a pass through the likelihood and back.
        seed: of the noise, and of the pixels' where those are random.
        batch_size: examples taken at once; by default what keeps memory small.
        progress: is called after each batch with the number of examples done, and of all.

    Returns:
        The mean over examples with its standard error, and each example's value, acceptance and effective sample size.

    Raises:
        UnsupportedError: for a model that is no LatentModel, and for latents that are discrete, bounded or without a gradient.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits").test.spread(5)
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (1, 8, 8)), scale=1.0)
        ... )
        >>> estimate = annealed_log_likelihood(vae, digits, distributions=20, chains=4, leapfrog_steps=2)
        >>> estimate.mean > lb.evaluate(vae, lb.ELBO(), digits).mean, estimate.acceptance.shape
        (True, torch.Size([5]))
    """
    settings = {
        "distributions": distributions,
        "chains": chains,
        "leapfrog_steps": leapfrog_steps,
        "seed": seed,
    }
    examples = Examples.of(data)

    def first(model: LatentModel) -> dict[str, Tensor]:
        return examples.given(torch.zeros(1, dtype=torch.long), model.needs)

    model = _checked("annealed_log_likelihood", model, settings, batch_size, first)
    model.check_data(examples)

    def of_batches() -> Iterator[dict[str, Tensor]]:
        passes = batches(
            examples,
            model,
            seed=seed,
            samples=chains,
            batch_size=batch_size,
            progress=progress,
        )
        for rows, x, given in passes:
            path = AnnealingPath(model, x, settings, given)
            yield path.anneal(_prior_draws(path.prior, chains, len(x)), path.pilot(rows))

    with evaluating(model), seeded(seed, device_of(model)):
        estimate = _estimate(gathered(len(examples), of_batches()), settings)
    return replace(estimate, bits_per_dimension=examples.bits_per_dimension(estimate.mean))


def bidirectional(
    model: Model,
    count: int = 100,
    *,
    distributions: int = 1000,
    chains: int = 16,
    leapfrog_steps: int = 10,
    seed: int = 0,
    batch_size: int | None = None,
    **given: Any,
) -> Interval:
    r"""log p(x) from both sides, for examples that the model simulates: bidirectional Monte Carlo.

    .. math:: (z^*, x) \sim p(z)\, p(x \mid z), \qquad
        \log \frac1C \sum_{c=1}^C w_c \;\lesssim\; \log p(x) \;\lesssim\; -\log \frac1C \sum_{c=1}^C \frac1{w'_c}

    The left side is :func:`annealed_log_likelihood`. On the right the chains start at the exact posterior draw :math:`z^*` and
    go down to the prior, through the same temperatures with the same frozen step sizes. There E[1 / w'] = 1 / p(x): an upper
    bound in expectation, with P(result < log p(x) - a) <= exp(-a). The gap is in expectation the sum of both errors: it
    says how well the settings serve this model on data like its own. For real data it is a hint and no certificate, and
    carries over only as far as they resemble what the model simulates. Grosse, Ghahramani & Adams 2015 (arXiv:1511.02543).

    Args:
        model: a :class:`lowerbound.LatentModel` whose latents are continuous and unbounded.
        count: how many examples to simulate.
        distributions, chains, leapfrog_steps, batch_size: as for :func:`annealed_log_likelihood`.
        seed: of the simulated examples and of all noise.
        given: the fields that the model needs: one value for all examples, or one for each.

    Returns:
        The two estimates and their gap, each with its mean, standard error and per-example values.

    Raises:
        UnsupportedError, SettingsError: as :func:`annealed_log_likelihood`.

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 6), scale=1.0))
        >>> interval = bidirectional(vae, 5, distributions=50, chains=4, leapfrog_steps=3)
        >>> abs(interval.gap.mean) < 0.5
        True
    """
    settings = {
        "distributions": distributions,
        "chains": chains,
        "leapfrog_steps": leapfrog_steps,
        "seed": seed,
    }
    model = _checked(
        "bidirectional", model, settings, batch_size, lambda model: model.as_fields(given, 1)
    )
    count = whole_number("bidirectional: count", count)
    parts: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]] = []
    with evaluating(model), seeded(seed, device_of(model)):
        fields = model.as_fields(given, count)
        first = {name: value[:1] for name, value in fields.items()}
        z = _prior_draws(model.prior_given(first), 1, 1)
        dimensions = model.likelihood_given(first)(z).event_shape.numel()
        for rows in torch.arange(count).split(batch_size or examples_per_pass(chains * dimensions)):
            with noise.per_example(derived_seed(seed, "simulated"), rows):
                part = {name: value[rows.to(value.device)] for name, value in fields.items()}
                z = _prior_draws(model.prior_given(part), 1, len(rows))
                with noise.for_foreign(1, len(rows)):
                    x = model.likelihood_given(part)(z).sample()[0]
            path = AnnealingPath(model, x, settings, part)
            steps = path.pilot(rows)
            with noise.per_example(derived_seed(seed, "forward"), rows):
                lower = path.anneal(_prior_draws(path.prior, chains, len(x)), steps)
            with noise.per_example(derived_seed(seed, "reverse"), rows):
                upper = path.anneal(z.expand(chains, *z.shape[1:]), steps, down=True)
            parts.append((lower, upper, x.cpu()))
    below, above, simulated = zip(*parts, strict=True)
    lower_side, upper_side = (_estimate(gathered(count, side), settings) for side in (below, above))
    return Interval(lower_side, upper_side, torch.cat(simulated))


class ChainState(NamedTuple):
    """Where chains are, with log p(z) and log p(x given z), ``[C, B]`` in float64, and the gradients of these."""

    z: Tensor
    log_prior: Tensor
    log_likelihood: Tensor
    prior_gradient: Tensor
    likelihood_gradient: Tensor

    def log_density(self, beta: float) -> Tensor:
        """log p(z) + beta log p(x given z), ``[C, B]``."""
        return self.log_prior + beta * self.log_likelihood

    def gradient(self, beta: float) -> Tensor:
        """Its gradient with respect to z, ``[C, B, *event]``."""
        return self.prior_gradient + beta * self.likelihood_gradient


class AnnealingPath:
    """The way from p(z) to p(z given x) for a batch ``x``, and the chains that go it.

    Args:
        model: the model.
        x: examples, ``[B, *event]``.
        settings: ``distributions`` and ``leapfrog_steps``.
        given: the fields that the model needs, ``[B, ...]`` each.
    """

    def __init__(
        self,
        model: LatentModel,
        x: Tensor,
        settings: Mapping[str, int],
        given: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.x = x
        self.prior = model.prior_given(given or {})
        self.likelihood = model.likelihood_given(given or {})
        self.settings = settings
        self.betas = _betas(settings["distributions"])

    def at(self, z: Tensor) -> ChainState:
        """The state at ``z``. A density that is not finite counts as zero, so that no proposal there is accepted."""
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
        """A Hamiltonian trajectory at ``beta`` with step sizes ``[B]``: the new state, and the chances of its acceptance."""
        z, event = state.z, tuple(range(2, state.z.dim()))
        step = step.to(z.dtype).reshape(-1, *(1 for _ in event))
        start = noise.standard_normal(tuple(z.shape), 1, dtype=z.dtype, device=z.device)
        proposal, momentum = state, start
        for _ in range(self.settings["leapfrog_steps"]):
            momentum = momentum + 0.5 * step * proposal.gradient(beta)
            proposal = self.at(proposal.z + step * momentum)
            momentum = momentum + 0.5 * step * proposal.gradient(beta)
        gain = proposal.log_density(beta) - state.log_density(beta)
        kinetic_gain = 0.5 * (
            momentum.double().square().sum(event) - start.double().square().sum(event)
        )
        chance = (
            (gain - kinetic_gain).exp().clamp(max=1).nan_to_num(0)
        )  # nan: from one zero density to another
        accepted = (
            noise.uniform(tuple(chance.shape), 1, dtype=chance.dtype, device=chance.device) < chance
        )
        moved = accepted.reshape(*accepted.shape, *(1 for _ in event))
        return ChainState(
            *map(torch.where, (moved, accepted, accepted, moved, moved), proposal, state)
        ), chance

    def pilot(self, rows: Tensor) -> Tensor:
        """Step sizes for each temperature and example, ``[T, B]``, from a run with chains and noise of its own."""
        log_step = torch.full(
            (len(self.x),), math.log(_FIRST_STEP), dtype=torch.float64, device=self.x.device
        )
        course = []
        with noise.per_example(derived_seed(self.settings["seed"], "pilot"), rows):
            state = self.at(_prior_draws(self.prior, _PILOT_CHAINS, len(self.x)))
            for beta in _betas(min(max(len(self.betas), _PILOT_FEWEST), _PILOT_MOST)):
                course.append(log_step)
                state, chance = self.transition(state, beta, log_step.exp())
                log_step = log_step + _RATE * (chance.mean(0) - _ACCEPTANCE)
        steps = torch.stack(course, 1)[None].exp()
        return nn.functional.interpolate(steps, len(self.betas), mode="linear", align_corners=True)[
            0
        ].T

    def anneal(self, z: Tensor, steps: Tensor, *, down: bool = False) -> dict[str, Tensor]:
        """The bound, ``[B]``: a lower one from prior draws, or an upper one from posterior draws ``down`` to the prior."""
        last, direction = len(self.betas) - 1, -1 if down else 1
        state, chances = self.at(z), []
        log_w = torch.zeros_like(state.log_likelihood)
        for t in range(last, 0, -1) if down else range(last):
            if 0 < t < last:
                state, chance = self.transition(state, self.betas[t], steps[t])
                chances.append(chance.mean(0))
            log_w = log_w + (self.betas[t + direction] - self.betas[t]) * state.log_likelihood
        total = log_w.logsumexp(0)
        figures = {
            "log_likelihood": direction * (total - math.log(len(log_w))),
            "acceptance": torch.stack(chances).mean(0)
            if chances
            else torch.full_like(total, math.nan),
            "effective": (2 * total - (2 * log_w).logsumexp(0))
            .exp()
            .nan_to_num(0),  # nan: all weights are zero
        }
        return {name: figure.cpu() for name, figure in figures.items()}


def _betas(distributions: int) -> list[float]:
    """The temperatures, from 0 to 1 in equal steps through a sigmoid."""
    sigmoid = torch.linspace(-_DELTA, _DELTA, distributions, dtype=torch.float64).sigmoid()
    betas: list[float] = ((sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])).tolist()
    return betas


def _gradient(log_density: Tensor, z: Tensor) -> Tensor:
    if not log_density.requires_grad:
        raise UnsupportedError(
            "log p(z) or log p(x given z) has no gradient with respect to z, which annealing needs; use lb.log_likelihood"
        )
    return torch.autograd.grad(log_density.sum(), z)[0]


def _prior_draws(prior: Distribution, samples: int, examples: int) -> Tensor:
    """``[samples, examples, *event]`` draws from the prior, from the examples' own noise."""
    try:
        return drawn(prior.expand(torch.Size((examples,))), samples)
    except NotImplementedError:
        return prior.sample(torch.Size((samples, examples)))


def _estimate(figures: Mapping[str, Tensor], settings: Mapping[str, int]) -> AnnealedEstimate:
    value, acceptance, effective = figures.values()
    return AnnealedEstimate(
        value, acceptance=acceptance, effective_sample_sizes=effective, settings=settings
    )


def _checked(
    name: str,
    model: Model,
    settings: Mapping[str, int],
    batch_size: int | None,
    given: Callable[[LatentModel], Mapping[str, Tensor]],
) -> LatentModel:
    """The model, where the settings are in range and Hamiltonian trajectories can move through its latents."""
    check_seed(name, settings["seed"])
    for key, value in {
        **settings,
        "seed": 1,
        "batch_size": 1 if batch_size is None else batch_size,
    }.items():
        whole_number(f"{name}: {key}", value)
    if settings["distributions"] < 2:
        raise SettingsError(
            f"{name}: distributions=1 must be at least 2: the prior and the posterior"
        )
    if not isinstance(model, LatentModel):
        raise UnsupportedError(
            f"{name}: {type(model).__name__} is not a LatentModel, and annealing needs p(z) and p(x given z) apart; use "
            "lb.log_likelihood"
        )
    with evaluating(model):
        prior: Any = model.prior_given(given(model))
    far = torch.tensor(_FAR, dtype=dtype_of(model), device=device_of(model))
    try:
        inside = prior.support.check(
            far.reshape(-1, *(1,) * len(prior.event_shape)).expand(-1, *prior.event_shape)
        )
    except NotImplementedError:  # flows do not say; theirs are densities over all real vectors
        return model
    if not inside.all():
        raise UnsupportedError(
            f"{name}: the prior returned {type(prior).__name__}, whose latents are discrete or bounded, and Hamiltonian "
            "trajectories move through all real vectors; use lb.log_likelihood"
        )
    return model
