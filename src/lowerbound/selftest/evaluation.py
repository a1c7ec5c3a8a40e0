"""Checks of log likelihoods and their warnings, means over examples, and mutual information."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from scipy import special
from torch import Tensor, nn
from torch.distributions import Gamma

import lowerbound as lb
from lowerbound.evaluation.health import latent_health
from lowerbound.evaluation.pareto import pareto_shape, tail_length
from lowerbound.selftest.known import (
    DOUBLE,
    WatchedBound,
    largest,
    make_curved_vae,
    make_grid_vae,
    make_some_linear_vae,
    set_linear,
)
from lowerbound.selftest.registry import check

# Chunk sizes. With 7, the last chunk is short.
_SIZES: tuple[int | None, ...] = (7, None, 100, 3, 1)


class _CountingDecoder(nn.Module):
    """A decoder that counts the latents that it decodes."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder
        self.decoded = 0

    def forward(self, z: Tensor) -> torch.distributions.Distribution:
        self.decoded += z.shape[:-1].numel()
        p: torch.distributions.Distribution = self.decoder(z)
        return p


@check(
    "log-likelihood-value",
    "log_likelihood has the sign and value of the known evidence",
    tolerance=0.02,
)
def measure_log_likelihood() -> float:
    """For 20 examples and a slightly wrong posterior.

    With 5,000 samples the standard deviation is 0.004 nats.
    """
    model, evidence = make_some_linear_vae(shift=0.2, widen=1.05)
    x = evidence.sample(torch.Size((20,)))
    return largest(lb.log_likelihood(model, x, 5000).per_example - evidence.log_prob(x))


@check(
    "log-likelihood-exact",
    "log_likelihood equals the evidence if the posterior is exact, for any number of samples and "
    "any chunk size",
    tolerance=1e-12,
)
def measure_exact_log_likelihood() -> Iterator[float]:
    """With so few samples, a sample that is drawn but not counted would change the result."""
    model, evidence = make_some_linear_vae()
    x = evidence.sample(torch.Size((5,)))
    for samples in (1, 7, 2, 3, 40):
        found = lb.log_likelihood(model, x, samples, chunk_size=3)
        yield largest(found.per_example - evidence.log_prob(x))


@check(
    "sample-count",
    "log_likelihood decodes exactly the requested samples, for all chunk and batch sizes",
    tolerance=0,
)
def count_samples() -> Iterator[float]:
    """For 5 examples, counted by the decoder."""
    model, x = make_curved_vae(), torch.rand(5, 6, dtype=DOUBLE)
    counting = _CountingDecoder(model.likelihood)
    model = lb.LatentModel(model.prior, model.posterior, counting)
    for samples, chunk, batch in product((1, 8), _SIZES, (None, 2)):
        counting.decoded = 0
        lb.log_likelihood(model, x, samples, chunk_size=chunk, batch_size=batch)
        yield abs(counting.decoded - 5 * samples)


@check(
    "chunks-and-batches",
    "log_likelihood and its diagnostics are the same for all chunk and batch sizes (relative)",
    tolerance=1e-9,
)
def compare_chunks_and_batches() -> Iterator[float]:
    """The value, ELBO, effective sample size and Pareto k-hat of each of 5 examples."""
    model, x = make_curved_vae(), torch.rand(5, 6, dtype=DOUBLE)

    def results(chunk: int | None, batch: int | None) -> Tensor:
        found = lb.log_likelihood(model, x, 25, seed=3, chunk_size=chunk, batch_size=batch)
        elbo = found.terms["elbo"].per_example
        return torch.stack([found.per_example, elbo, found.effective_sample_sizes, found.pareto_k])

    expected = results(None, None)
    return (largest(results(*sizes) / expected - 1) for sizes in product(_SIZES, (None, 1, 3)))


@check(
    "log-likelihood-written-out",
    "log_likelihood, its ELBO and its effective sample size follow from the bound's weights, as "
    "computed explicitly",
    tolerance=1e-9,
)
def compute_log_likelihood_explicitly() -> float:
    """``log mean w``, ``mean log w`` and ``(sum w)^2 / sum w^2``.

    The draws are those of a bound that is evaluated with the same seed.
    """
    model, x, watching = make_curved_vae(), torch.rand(7, 6, dtype=DOUBLE), WatchedBound(60)
    bound = lb.evaluate(model, watching, x, seed=3).per_example
    found = lb.log_likelihood(model, x, 60, seed=3, chunk_size=7)
    log_w = torch.cat(watching.seen, 1).numpy()
    shares = special.softmax(log_w, axis=0)
    expected = {
        "value": (found.per_example, special.logsumexp(log_w, axis=0) - math.log(60)),
        "bound": (bound, special.logsumexp(log_w, axis=0) - math.log(60)),
        "elbo": (found.terms["elbo"].per_example, log_w.mean(0)),
        "effective": (found.effective_sample_sizes, 1 / (shares**2).sum(0)),
    }
    return max(largest(ours - torch.from_numpy(written)) for ours, written in expected.values())


@check(
    "pareto-shape",
    "Pareto k-hat recovers the shape of known tails",
    tolerance=0.05,
)
def measure_pareto_shape() -> Iterator[float]:
    """For shapes from 0.2 to 1, from means of 100 fits to 20,000 weights each.

    Their standard error is at most 0.01. Only the largest weights are drawn. The smallest of S
    uniform variables are the first of S + 1 running sums of exponential variables, divided by the
    last of these sums.
    """
    samples, shapes = 20_000, (0.2, 0.5, 0.8, 1.0)
    tail = tail_length(samples) + 1
    for shape in shapes:
        sums = -torch.rand(tail, 100, dtype=DOUBLE).log().cumsum(0)
        others = Gamma(torch.tensor(samples + 1.0 - tail, dtype=DOUBLE), 1.0).sample((100,))
        log_w = -shape * (sums / (sums[-1] + others)).log() - 700.0
        yield abs(float(pareto_shape(log_w).mean()) - shape)


@check(
    "doubtful-weights",
    "log_likelihood warns if a posterior is so wrong that its weights cannot be trusted, and does "
    "not warn if it fits",
    tolerance=0,
)
def measure_wrong_verdicts() -> float:
    """The share of 20 examples with a wrong verdict."""
    judged = []
    for shift, widen in ((0.2, 1.1), (3.0, 0.4)):
        model, evidence = make_some_linear_vae(shift=shift, widen=widen)
        judged.append(lb.log_likelihood(model, evidence.sample(torch.Size((20,))), 2000))
    wrong = [judged[0].doubtful, ~judged[1].doubtful]
    silent = judged[0].warning is not None or judged[1].warning is None
    return max(float(part.double().mean()) for part in wrong) + silent


@check(
    "quadrature",
    "log_likelihood of a nonlinear model with two latents is the value on a 120 x 120 grid",
    tolerance=0.05,
)
def compare_with_quadrature() -> float:
    """For 8 binary examples with 20,000 samples, with the prior as the proposal."""
    model, x, expected = make_grid_vae()
    return largest(lb.log_likelihood(model, x, 20_000).per_example - expected)


@check(
    "mean-over-examples",
    "The estimate for a data set is the mean over its examples, for all batch sizes, even with a "
    "short last batch (relative)",
    tolerance=1e-12,
)
def compare_means_over_examples() -> Iterator[float]:
    """For the bound of 23 very different examples, its terms and its standard error.

    They are compared with the results of batches of one example.
    """
    model, x = (
        make_curved_vae(),
        torch.linspace(0, 8, 23, dtype=DOUBLE)[:, None] * torch.rand(23, 6, dtype=DOUBLE),
    )
    alone = lb.evaluate(model, lb.ELBO(samples=3), x, batch_size=1)
    expected = {"bound": alone.per_example.numpy()}
    expected |= {name: term.per_example.numpy() for name, term in alone.terms.items()}
    yield abs(alone.standard_error / (float(expected["bound"].std(ddof=1)) / math.sqrt(23)) - 1)
    for size in (None, 5, 22, 23, 100):
        found = lb.evaluate(model, lb.ELBO(samples=3), x, batch_size=size)
        means = {"bound": found.mean} | {name: term.mean for name, term in found.terms.items()}
        for name, mean in means.items():
            yield abs(mean / float(expected[name].mean()) - 1)


@check(
    "examples-noise-is-their-own",
    "The results for an example do not depend on the other examples (relative)",
    tolerance=1e-12,
)
def compare_with_and_without_others() -> float:
    """The bounds of the first 4 of 9 examples, with and without the others."""
    model, x = make_curved_vae(), torch.rand(9, 6, dtype=DOUBLE)
    with_others, alone = (
        lb.evaluate(model, lb.ELBO(samples=3), part).per_example for part in (x, x[:4])
    )
    return largest(with_others[:4] / alone - 1)


@check(
    "mutual-information",
    "The information that latents carry about the data is log N if posteriors are separated, and "
    "0 if they are the same",
    tolerance=1e-6,
)
def measure_mutual_information() -> Iterator[float]:
    """For 1,100 examples, which fill more than one batch."""
    x = torch.arange(1100, dtype=DOUBLE)[:, None]
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(1, 2)), lb.Gaussian(lb.mlp(1, 1), scale=1.0)
    ).double()
    for slope, expected in ((100.0, math.log(1100)), (0.0, 0.0)):
        set_linear(
            model.posterior,
            torch.tensor([[slope], [0.0]], dtype=DOUBLE),
            torch.zeros(2, dtype=DOUBLE),
        )
        found = latent_health(model, x).mutual_information
        assert found is not None
        yield abs(found - expected)
