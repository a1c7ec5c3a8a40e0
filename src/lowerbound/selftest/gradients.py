"""Checks of the gradients of objectives with respect to encoder and decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

import lowerbound as lb
from lowerbound.models import Gradient
from lowerbound.selftest.known import (
    DOUBLE,
    Rows,
    compute_gradients,
    errors_apart,
    largest,
    make_copied_vae,
    make_curved_vae,
    make_some_linear_vae,
    select_decoder,
    select_encoder,
    slopes,
)
from lowerbound.selftest.registry import check

# The number of copies of one example over which gradients are compared. With 5 samples each, these
# are 100,000 draws.
_COPIES = 20_000
# The numbers of samples between which slopes are measured.
_COUNTS = (8, 32, 128)

_GRADIENTS: tuple[Gradient, ...] = ("pathwise", "sticking-the-landing", "dreg", "score-function")


@check(
    "slope-of-the-bound",
    "The pathwise gradient equals finite differences of the bound (relative)",
    tolerance=1e-6,
)
def compare_finite_differences() -> float:
    """By central differences along one random direction, on the same noise.

    For the ELBO, IWAE, MIWAE, CIWAE and Rényi bounds.
    """
    model, x, step = make_curved_vae(), torch.rand(3, 6, dtype=DOUBLE), 1e-5
    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    bounds = (
        lb.ELBO(samples=6),
        lb.ELBO(samples=6, kl="sampled"),
        lb.IWAE(samples=6),
        lb.IWAE(samples=6, groups=2),
        lb.IWAE(samples=6, elbo_weight=0.3),
        lb.Renyi(samples=6, alpha=0.5),
    )

    def moved(objective: lb.Objective, by: float) -> float:
        with torch.no_grad():
            for parameter, along in zip(model.parameters(), direction, strict=True):
                parameter.add_(along, alpha=by)
            torch.manual_seed(0)
            value = float(objective.bound(model.draw(x, 6)).sum())
            for parameter, along in zip(model.parameters(), direction, strict=True):
                parameter.sub_(along, alpha=by)
        return value

    worst = 0.0
    for objective in bounds:
        expected = (moved(objective, step) - moved(objective, -step)) / (2 * step)
        torch.manual_seed(0)
        value = objective(model.draw(x, 6)).sum()
        found = torch.autograd.grad(value, list(model.parameters()))
        slope = sum(
            float((entry * along).sum()) for entry, along in zip(found, direction, strict=True)
        )
        worst = max(worst, abs(slope / expected - 1))
    return worst


@check(
    "sticking-the-landing",
    "If q is the exact posterior, sticking the landing and DReG give the encoder a gradient of 0 "
    "for each draw",
    tolerance=1e-12,
)
def measure_sticking_the_landing() -> float:
    """Roeder et al. 2017, for the ELBO and the importance-weighted bound of 5 samples.

    The pathwise gradient is not 0 there.
    """
    model, evidence = make_some_linear_vae()
    x = evidence.sample(torch.Size((4,)))

    def of(objective: lb.Objective) -> float:
        found = compute_gradients(model, objective, x, 0)
        return max(largest(entry) for name, entry in found.items() if name.startswith("posterior"))

    if not of(lb.ELBO(samples=5, kl="sampled")) > 0.1:
        return math.inf
    without_score: tuple[Gradient, ...] = ("sticking-the-landing", "dreg")
    return max(
        of(kind(samples=5, gradient=gradient))
        for kind in (lb.ELBO, lb.IWAE)
        for gradient in without_score
    )


def _compare_gradients(first: lb.Objective, second: lb.Objective, copies: int = _COPIES) -> float:
    """Find the largest t of the difference of two encoder gradients, on independent noise."""
    model, x = make_copied_vae(copies)
    a, b = (
        select_encoder(compute_gradients(model, objective, x, seed))
        for seed, objective in enumerate((first, second))
    )
    return errors_apart(a - b)


@check(
    "score-function",
    "The score-function and the pathwise gradient of the ELBO have the same mean (largest t of "
    "100,000 draws)",
    tolerance=4,
)
def compare_score_function() -> Iterator[float]:
    """For the encoder, with the KL term in closed form and sampled.

    By chance it fails for one seed in 2,000.
    """
    kinds = (
        (lb.ELBO(samples=5, gradient="score-function"), lb.ELBO(samples=5)),
        (
            lb.ELBO(samples=5, gradient="score-function", kl="sampled"),
            lb.ELBO(samples=5, kl="sampled"),
        ),
    )
    return (_compare_gradients(scored, pathwise) for scored, pathwise in kinds)


@check(
    "vimco-is-unbiased",
    "VIMCO's and the pathwise gradient of the importance-weighted bound have the same mean "
    "(largest t of 100,000 draws)",
    tolerance=4,
)
def measure_vimco_bias() -> float:
    """Mnih & Rezende 2016, encoder, 5 samples. By chance it fails for one seed in 4,000."""
    return _compare_gradients(lb.IWAE(samples=5, gradient="score-function"), lb.IWAE(samples=5))


@check(
    "dreg-is-unbiased",
    "The doubly reparameterised and the pathwise gradient have the same mean for more than one "
    "sample (largest t of 100,000 draws)",
    tolerance=4,
)
def measure_dreg_bias() -> Iterator[float]:
    """Tucker et al. 2019, for the encoder, with the IWAE, MIWAE and Rényi bounds.

    By chance it fails for one seed in 1,300.
    """
    pairs: tuple[tuple[lb.Objective, lb.Objective], ...] = (
        (lb.IWAE(samples=5, gradient="dreg"), lb.IWAE(samples=5)),
        (lb.IWAE(samples=6, groups=2, gradient="dreg"), lb.IWAE(samples=6, groups=2)),
        (lb.Renyi(samples=5, alpha=0.5, gradient="dreg"), lb.Renyi(samples=5, alpha=0.5)),
    )
    return (_compare_gradients(dreg, pathwise) for dreg, pathwise in pairs)


@check(
    "sticking-is-unbiased-for-one",
    "Sticking the landing is unbiased for one sample under the logarithm (largest t of 100,000 "
    "draws)",
    tolerance=4,
)
def measure_sticking_bias_for_one() -> Iterator[float]:
    """For the encoder, with the ELBO and IWAE at one sample.

    By chance it fails for one seed in 2,000.
    """
    yield _compare_gradients(
        lb.ELBO(samples=5, gradient="sticking-the-landing"), lb.ELBO(samples=5)
    )
    yield _compare_gradients(
        lb.IWAE(samples=1, gradient="sticking-the-landing"), lb.IWAE(samples=1), 5 * _COPIES
    )


@check(
    "sticking-is-biased-for-more",
    "Sticking the landing is biased for 5 samples under the logarithm, and this test detects that "
    "(4 / largest t of 100,000 draws)",
    tolerance=1,
)
def measure_sticking_bias_for_more() -> float:
    """Measure the power of the tests of unbiasedness, which must detect this known bias."""
    return 4 / _compare_gradients(
        lb.IWAE(samples=5, gradient="sticking-the-landing"), lb.IWAE(samples=5)
    )


@check(
    "decoder-gradient",
    "The decoder's gradient is that of the bound of all samples, whatever gradient the encoder has",
    tolerance=1e-12,
)
def compare_decoder_gradients() -> float:
    """On the same noise, for IWAE with four gradients, and for PIWAE.

    In PIWAE the encoder maximises a different bound from the decoder.
    """
    model, x = make_copied_vae(6)
    expected = select_decoder(compute_gradients(model, lb.IWAE(samples=6), x, 0))
    others = [lb.IWAE(samples=6, gradient=gradient) for gradient in _GRADIENTS]
    others += [lb.IWAE(samples=6, gradient=gradient, encoder_groups=3) for gradient in _GRADIENTS]
    return max(
        largest(select_decoder(compute_gradients(model, objective, x, 0)) - expected)
        for objective in others
    )


@check(
    "piwae-encoder",
    "PIWAE and MIWAE give the encoder the same gradient, for every estimator of it",
    tolerance=1e-12,
)
def compare_piwae_encoder() -> float:
    """Rainforth et al. 2018, on the same noise."""
    model, x = make_copied_vae(6)
    differences = []
    for gradient in _GRADIENTS:
        partial = lb.IWAE(samples=6, gradient=gradient, encoder_groups=3)
        multiple = lb.IWAE(samples=6, gradient=gradient, groups=3)
        found = (
            select_encoder(compute_gradients(model, objective, x, 0))
            for objective in (partial, multiple)
        )
        differences.append(largest(next(found) - next(found)))
    return max(differences)


@check(
    "signal-to-noise",
    "The signal-to-noise ratio of gradients changes with the number of samples as in Rainforth et "
    "al. 2018, with the power -1/2 for IWAE's encoder and +1/2 otherwise",
    tolerance=0.12,
)
def measure_signal_to_noise() -> float:
    """Measure slopes of logarithms over 8 to 128 samples. 250,000 draws give an error of 0.04.

    The mean of the encoder's gradient is smaller than the noise of IWAE's gradient, so it is
    estimated with DReG. Another check says that the two have the same mean.
    """
    by_dreg, by_iwae, of_prior = _measure_signals_and_noises(250_000)
    return _compare_slopes(
        by_dreg[:, 0] / by_iwae[:, 1],
        by_dreg[:, 0] / by_dreg[:, 1],
        of_prior[:, 0] / of_prior[:, 1],
    )


@check(
    "signal-to-noise-at-length",
    "The signal-to-noise ratio changes in the same way if the signal is each estimator's own mean",
    tolerance=0.12,
    thorough=True,
)
def measure_signal_to_noise_at_length() -> float:
    """With 24,000,000 draws, which give IWAE's slope with an error of about 0.04.

    By chance it fails for one seed in 300.
    """
    repeats = [_measure_signals_and_noises(400_000, signed=True) for _ in range(60)]
    by_dreg, by_iwae, of_prior = (torch.stack(part).mean(0) for part in zip(*repeats, strict=True))
    return _compare_slopes(
        *(part[:, 0].abs() / part[:, 1] for part in (by_iwae, by_dreg, of_prior))
    )


def _compare_slopes(*lines: Tensor) -> float:
    found = slopes([float(count) for count in _COUNTS], torch.stack(lines, 1))
    return largest(found - torch.tensor([-0.5, 0.5, 0.5], dtype=DOUBLE))


def _measure_signals_and_noises(draws: int, *, signed: bool = False) -> list[Tensor]:
    """Measure mean and standard deviation of gradients by number of samples, ``[counts, 2]``.

    The gradients are the encoder's by DReG, the encoder's by IWAE, and the prior's. The model is
    that of Rainforth et al. 2018 in one dimension: z ~ N(mu, 1), x ~ N(z, 1), q = N(b, 2/3).
    """
    one, rows = torch.ones(1, dtype=DOUBLE), []
    for count in _COUNTS:
        copies = draws // count
        model = lb.LatentModel(
            lb.Gaussian(Rows(0.3 * one, copies), scale=1.0),
            lb.Gaussian(Rows(0.55 * one, copies), scale=math.sqrt(2 / 3)),
            lb.Gaussian(torch.nn.Identity(), scale=1.0),
        ).double()
        x = (0.5 * one).expand(copies, 1)
        seeds = torch.randint(1 << 30, (2,)).tolist()
        by_dreg = compute_gradients(model, lb.IWAE(samples=count, gradient="dreg"), x, seeds[0])
        by_iwae = compute_gradients(model, lb.IWAE(samples=count), x, seeds[1])
        parts = select_encoder(by_dreg), select_encoder(by_iwae), select_decoder(by_iwae)
        rows.append([torch.cat([part.mean(0), part.std(0)]) for part in parts])
    found = [torch.stack(part) for part in zip(*rows, strict=True)]
    if signed:
        return found
    return [part.abs() for part in found]
