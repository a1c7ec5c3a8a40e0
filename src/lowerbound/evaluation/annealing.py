r"""The log likelihood by annealed importance sampling, and bounds on both sides for simulated data.

On real data the estimate is a lower bound in expectation, and nothing certifies how close it is: an
upper bound needs a draw from the exact posterior, which is known only for data that the model
itself has simulated. The gap between the two bounds on simulated data is informative about real
data only if the two kinds of data are alike.

Shapes: C chains, B examples of a batch, N examples of a dataset, T distributions. z is
``[C, B, *event]``, a log weight ``[C, B]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.fields import convert_floating_fields
from lowerbound.distributions import find_support
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.annealed_estimate import AnnealedEstimate
from lowerbound.evaluation.chains import AnnealingPath, change_length, draw_from_prior
from lowerbound.evaluation.checks import (
    check_batch_size,
    check_model,
    check_normalized,
)
from lowerbound.evaluation.doubt import warn_if_doubtful
from lowerbound.evaluation.estimate import Estimate, bits_per_dimension
from lowerbound.models import GenerativeModel, Model
from lowerbound.models.passes import ProgressCallback, gather, iterate_batches, read_examples
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.memory import choose_batch_size
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

# Values that are in the support of a density over all real vectors, but not in the support of a
# discrete or a bounded distribution.
_FAR = (1234.5, -1234.5)

# The smallest number of distributions whose half is at least two.
_FEWEST_TO_HALVE = 4

_ADVICE = "annealing needs p(z) and p(x|z) as separate parts; use lb.log_likelihood"


@dataclass(frozen=True, eq=False, repr=False)
class Interval:
    """A lower and an upper estimate of the log likelihood of simulated examples.

    Args:
        lower: by forward annealing, a lower bound in expectation.
        upper: by reverse annealing, an upper bound in expectation.
        examples: the simulated examples, ``[N, *event]``.
    """

    lower: AnnealedEstimate
    upper: AnnealedEstimate
    examples: Tensor

    @property
    def gap(self) -> Estimate:
        """The upper estimate minus the lower one."""
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
    check_length: bool = True,
    seed: int = 0,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> AnnealedEstimate:
    r"""log p(x) by annealed importance sampling, in nats per example.

    .. math:: \log \hat p(x) &= \log \frac1C \sum_{c=1}^C w_c, \qquad
        \log w = \sum_{t=1}^{T-1} (\beta_{t+1} - \beta_t) \log p(x \mid z_t), \\
        z_1 &\sim p(z),\; z_t \sim K_t(\cdot \mid z_{t-1})

    K_t is a Hamiltonian trajectory with a Metropolis acceptance test, which leaves :math:`p(z)\,
    p(x \mid z)^{\beta_t}` invariant. The temperatures :math:`\beta_t` rise from 0 to 1 as
    :math:`\sigma(\delta (2 \frac{t-1}{T-1} - 1))` with :math:`\delta = 4`. The encoder is not used.
    Neal 2001; Wu, Burda, Salakhutdinov & Grosse 2017 (arXiv:1611.04273).

    E[w] = p(x) for all settings. So the result is a lower bound on log p(x) in expectation, which
    rises with the number of distributions, and P(result > log p(x) + a) <= exp(-a) for each example
    (Markov). This requires transitions that do not adapt to their own chains. So a pilot run, with
    fewer chains and its own noise, adapts each example's step size to an acceptance of about 0.65
    at each temperature, and the run that gives the weights uses these step sizes unchanged. On real
    data nothing certifies how close the result is, because an upper bound needs a draw from the
    exact posterior. See :func:`bidirectional` for simulated data.

    The noise of an example, and its pixels if they are random, depend only on ``seed`` and on its
    row. So ``batch_size`` changes the result by no more than rounding. But if the posterior is
    rough, long chains magnify the rounding until the result is a different draw.

    The estimate comes with its own doubt. An example is doubtful if few of its chains share the
    weight, or if two independent halves of its chains disagree. Independent chains of half the
    length tell by how much the mean still grows: its error falls about in proportion to the number
    of distributions, so the mean is still too low by about as much as it has grown. A doubtful
    estimate has a ``warning``. Chains that all miss the same mode agree with each other, and
    nothing here can tell.

    An example costs ``distributions * chains * leapfrog_steps`` forward and backward passes through
    the likelihood, half as many for the chains of half the length, and a quarter for the pilot run
    at the default settings. Take some examples of a large dataset (``data.spread(100)``).

    Args:
        model: a :class:`lowerbound.LatentModel` or :class:`lowerbound.LayeredModel` whose latents
            are continuous and unbounded.
        data: examples, or raw data that the model takes, ``[N, *event]``.
        distributions: T, at least 2; with 2 this is importance sampling from the prior.
        chains: C, the number of chains for each example.
        leapfrog_steps: the number of steps in a trajectory; each costs a forward and a backward
            pass through the likelihood.
        check_length: whether chains of half the length are run too. They have their own noise, and
            do not change the estimate.
        seed: of the noise, and of the pixels if they are random.
        batch_size: the number of examples in a batch; by default one that keeps memory small.
        progress: is called after each batch with the number of examples done, and of all examples.

    Returns:
        The mean over examples with its standard error; the value, the acceptance and the effective
        sample size of each example; and a warning if the estimate is not to be trusted. If at least
        one example in twenty is doubtful, the warning is also issued as a
        :class:`lowerbound.errors.DoubtfulEstimateWarning`.

    Raises:
        UnsupportedError: for a model of another kind, for latents that are discrete,
            bounded or without a gradient, and if a part of the model is not normalised.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits").test.spread(5)
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (1, 8, 8)), scale=1.0),
        ... )
        >>> estimate = annealed_log_likelihood(
        ...     vae, digits, distributions=20, chains=4, leapfrog_steps=2
        ... )
        >>> estimate.mean > lb.evaluate(vae, lb.ELBO(), digits).mean, estimate.acceptance.shape
        (True, torch.Size([5]))
    """
    settings = {
        "distributions": distributions,
        "chains": chains,
        "leapfrog_steps": leapfrog_steps,
        "seed": seed,
    }
    _check_settings("annealed_log_likelihood", settings, batch_size)
    model = _check_parts("annealed_log_likelihood", model)
    check_normalized("annealed_log_likelihood", model)
    examples = read_examples(model, data)
    first = torch.zeros(1, dtype=torch.long)
    _check_prior("annealed_log_likelihood", model, examples.given(first, model.needs))
    model.check_data(examples)

    shorter: dict[str, int] | None = None
    if check_length and distributions >= _FEWEST_TO_HALVE:
        shorter = {**settings, "distributions": distributions // 2}

    def of_batches() -> Iterator[dict[str, Tensor]]:
        batches = iterate_batches(
            examples,
            model,
            seed=seed,
            samples=chains,
            batch_size=batch_size,
            progress=progress,
        )
        for rows, x, given in batches:
            path = AnnealingPath(model, x, settings, given)
            start = draw_from_prior(path.prior, chains, len(x))
            steps = path.find_step_sizes(rows)
            results = path.anneal(start, steps)
            if shorter is not None:
                path = AnnealingPath(model, x, shorter, given)
                with noise.per_example(derived_seed(seed, "shorter"), rows):
                    start = draw_from_prior(path.prior, chains, len(x))
                    ends = path.anneal(start, change_length(steps, shorter["distributions"]))
                results["shorter"] = ends["log_likelihood"]
            yield results

    with evaluating(model), seeded(seed, get_device(model)):
        estimate = _make_estimate(gather(len(examples), of_batches()), settings)
    mass = model.likelihood_is_mass(examples)
    bits = bits_per_dimension(model, examples, estimate.mean, mass=mass)
    estimate = replace(estimate, bits_per_dimension=bits)
    warn_if_doubtful(estimate)
    return estimate


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
    r"""Bounds on log p(x) from both sides, for examples that the model simulates.

    .. math:: (z^*, x) \sim p(z)\, p(x \mid z), \qquad
        \log \frac1C \sum_{c=1}^C w_c \;\lesssim\; \log p(x)
        \;\lesssim\; -\log \frac1C \sum_{c=1}^C \frac1{w'_c}

    This is bidirectional Monte Carlo (Grosse, Ghahramani & Adams 2015, arXiv:1511.02543). The left
    side is :func:`annealed_log_likelihood`. On the right side the chains start at the exact
    posterior draw :math:`z^*` and are annealed back to the prior, through the same temperatures and
    with the same step sizes. There E[1 / w'] = 1 / p(x), so this is an upper bound in expectation,
    and P(result < log p(x) - a) <= exp(-a).

    The expected gap is the sum of both errors. It says whether the settings are sufficient for this
    model on data like its own. For real data it is only a hint, and a good one only if real data
    resemble simulated data.

    Args:
        model: a :class:`lowerbound.LatentModel` or :class:`lowerbound.LayeredModel` whose latents
            are continuous and unbounded.
        count: the number of examples to simulate.
        distributions, chains, leapfrog_steps, batch_size: as for :func:`annealed_log_likelihood`.
        seed: of the simulated examples and of all noise.
        given: the fields that the model needs: one value for all examples, or one for each.

    Returns:
        The two estimates and their gap, each with its mean, its standard error and the value of
        each example.

    Raises:
        UnsupportedError, SettingsError: as :func:`annealed_log_likelihood`.

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp(6, 4)),
        ...     lb.Gaussian(lb.mlp(2, 6), scale=1.0),
        ... )
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
    _check_settings("bidirectional", settings, batch_size)
    model = _check_parts("bidirectional", model)
    check_normalized("bidirectional", model)
    count = check_whole_number("bidirectional: count", count)
    fields = model.as_fields(given, count)
    first = {name: value[:1] for name, value in fields.items()}
    _check_prior("bidirectional", model, first)
    parts: list[tuple[dict[str, Tensor], dict[str, Tensor], Tensor]] = []
    with evaluating(model), seeded(seed, get_device(model)):
        z = draw_from_prior(model.prior_given(first), 1, 1)
        dimensions = model.likelihood_given(first)(z).event_shape.numel()
        for rows in torch.arange(count).split(batch_size or choose_batch_size(chains * dimensions)):
            with noise.per_example(derived_seed(seed, "simulated"), rows):
                part = {name: value[rows.to(value.device)] for name, value in fields.items()}
                z = draw_from_prior(model.prior_given(part), 1, len(rows))
                with noise.for_foreign(1, len(rows)):
                    x = model.likelihood_given(part)(z).sample()[0]
            path = AnnealingPath(model, x, settings, part)
            steps = path.find_step_sizes(rows)
            with noise.per_example(derived_seed(seed, "forward"), rows):
                lower = path.anneal(draw_from_prior(path.prior, chains, len(x)), steps)
            with noise.per_example(derived_seed(seed, "reverse"), rows):
                upper = path.anneal(z.expand(chains, *z.shape[1:]), steps, down=True)
            parts.append((lower, upper, x.cpu()))
    below, above, simulated = zip(*parts, strict=True)
    return Interval(
        _make_estimate(gather(count, below), settings),
        _make_estimate(gather(count, above), settings, is_upper=True),
        torch.cat(simulated),
    )


def _make_estimate(
    results: Mapping[str, Tensor], settings: Mapping[str, int], *, is_upper: bool = False
) -> AnnealedEstimate:
    return AnnealedEstimate(
        results["log_likelihood"],
        acceptance=results["acceptance"],
        effective_sample_sizes=results["effective"],
        halves=torch.stack([results["first half"], results["second half"]]),
        shorter=results.get("shorter"),
        settings=settings,
        is_upper=is_upper,
    )


def _check_settings(name: str, settings: Mapping[str, int], batch_size: int | None) -> None:
    check_seed(name, settings["seed"])
    check_batch_size(name, batch_size)
    for key in ("distributions", "chains", "leapfrog_steps"):
        check_whole_number(f"{name}: {key}", settings[key])
    if settings["distributions"] < 2:
        raise SettingsError(
            f"{name}: distributions=1 must be at least 2: the prior and the posterior"
        )


def _check_parts(name: str, model: Model) -> GenerativeModel:
    """Return the model if its prior and its likelihood can be evaluated at any latents.

    Raises:
        UnsupportedError: for a model of another kind.
    """
    called = "lowerbound.LatentModel or lowerbound.LayeredModel"
    kind: type[GenerativeModel] = GenerativeModel  # type: ignore[type-abstract]
    return check_model(name, model, kind, _ADVICE, called=called)


def _check_prior(name: str, model: GenerativeModel, given: Mapping[str, Tensor]) -> None:
    """Check that Hamiltonian trajectories can move through the latents.

    Raises:
        UnsupportedError: if they are discrete or bounded.
    """
    device = get_device(model)
    with evaluating(model):
        fields = {key: value.to(device) for key, value in given.items()}
        fields = convert_floating_fields(fields, get_dtype(model))
        prior: Any = model.prior_given(fields)
    far = torch.tensor(_FAR, dtype=get_dtype(model), device=device)
    points = far.reshape(-1, *(1,) * len(prior.batch_shape + prior.event_shape))
    support = find_support(prior)
    if support is None:  # as of a flow of another library, which is over all real vectors
        return
    if not support.check(points.expand(-1, *prior.batch_shape, *prior.event_shape)).all():
        raise UnsupportedError(
            f"{name}: the prior returned {type(prior).__name__}, whose latents are discrete or "
            "bounded, and Hamiltonian trajectories move through all real vectors; use "
            "lb.log_likelihood"
        )
