"""Checks of what data mean: fields, missing entries, pixels, counts and categories."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special, stats
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Poisson, Uniform

import lowerbound as lb
from lowerbound.selftest.known import DOUBLE, errors_apart, largest, set_linear
from lowerbound.selftest.registry import check

Float = NDArray[np.float64]


def _get_weights(part: nn.Module) -> tuple[Float, Float]:
    """Get the weight and the bias of the only layer of a conditional."""
    layer = {name.split(".")[-1]: value for name, value in part.named_parameters()}
    return layer["weight"].detach().numpy(), layer["bias"].detach().numpy()


@check(
    "given-fields",
    "A model that is given a category and a covariate has the log weights of densities whose means "
    "depend on them, as computed explicitly with scipy",
    tolerance=1e-6,
)
def compute_given_explicitly() -> float:
    """For prior, posterior and likelihood, 6 examples of 3 categories, and 4 draws.

    The fixed scales are rounded to float32.
    """

    def given(part: nn.Module) -> nn.Module:
        return lb.Given(lb.Given(part, "kind", categories=3), "age")

    model = lb.LatentModel(
        given(lb.Gaussian(lb.mlp(4, 2), scale=0.8)),
        given(lb.Gaussian(lb.mlp(9, 2), scale=0.6)),
        given(lb.Gaussian(lb.mlp(6, 5), scale=0.7)),
    ).double()
    x, kind = torch.randn(6, 5, dtype=DOUBLE), torch.tensor([0, 2, 1, 1, 0, 2])
    age = torch.randn(6, dtype=DOUBLE)
    with torch.no_grad():
        draw = model.draw(x, 4, kind=kind, age=age)
    # The covariate is appended first and the category after it, by the wrapper further inside.
    codes = np.concatenate([age.numpy()[:, None], np.eye(3)[kind.numpy()]], 1)

    def log_density(part: nn.Module, value: Float, inputs: Float, scale: float) -> Float:
        weight, bias = _get_weights(part)
        mean = np.concatenate([inputs, np.broadcast_to(codes, (*inputs.shape[:-1], 4))], -1)
        found: Float = stats.norm(mean @ weight.T + bias, scale).logpdf(value).sum(-1)
        return found

    z, nothing = draw.z.numpy(), np.empty((6, 0))
    exact = log_density(model.likelihood, x.numpy(), z, 0.7)
    exact = exact + log_density(model.prior, z, nothing, 0.8)
    exact = exact - log_density(model.posterior, z, x.numpy(), 0.6)
    return largest(draw.log_w - torch.from_numpy(exact))


@check(
    "missing-entries",
    "With missing entries, the log likelihood is that of the observed entries alone, whatever is "
    "stored in place of the others (in its standard errors)",
    tolerance=4.5,
)
def compare_missing_entries() -> float:
    """For a linear Gaussian model, whose marginals scipy computes, and 12 examples.

    One example is complete, and one has a single entry. Another placeholder must give the same
    result, bit for bit, and finite gradients. By chance it fails for less than one seed in 5,000.
    """
    weight, bias = torch.randn(4, 1, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    model = lb.LatentModel(
        lb.StandardNormal(1),
        lb.Given(lb.Gaussian(lb.mlp(8, 2)), "observed"),
        lb.Masked(lb.Gaussian(lb.mlp(1, 4), scale=0.8)),
    ).double()
    set_linear(model.get_submodule("likelihood.part"), weight, bias)
    set_linear(
        model.get_submodule("posterior.part"),
        torch.zeros(2, 8, dtype=DOUBLE),
        torch.zeros(2, dtype=DOUBLE),
    )
    covariance = (weight @ weight.T).numpy() + 0.64 * np.eye(4)
    x = torch.from_numpy(
        stats.multivariate_normal(bias.numpy(), covariance).rvs(12, random_state=0)
    )
    seen = torch.rand(12, 4) < 0.6
    seen[0], seen[1] = True, torch.tensor([False, False, True, False])
    seen[:, 1] |= ~seen.any(1)
    found = [
        lb.log_likelihood(
            model, lb.Examples(x.where(seen, placeholder), fields={"observed": seen}), 8000
        )
        for placeholder in (0.0, 1e200)
    ]
    exact = [
        stats.multivariate_normal(bias.numpy()[row], covariance[np.ix_(row, row)]).logpdf(
            value[row]
        )
        for value, row in zip(x.numpy(), seen.numpy(), strict=True)
    ]
    p = model.likelihood(torch.randn(2, 12, 1, dtype=DOUBLE), observed=seen)
    score = p.log_prob(x.where(seen, math.inf)).sum()
    gradients = torch.autograd.grad(score, list(model.likelihood.parameters()))
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
    if not finite or not torch.equal(found[0].per_example, found[1].per_example):
        return math.inf
    error = (1 / found[0].effective_sample_sizes - 1 / 8000).sqrt()
    return largest((found[0].per_example - torch.tensor(exact, dtype=DOUBLE)) / error)


@check(
    "categories",
    "A categorical likelihood of 256 levels gives 8-bit pixels the probabilities of a softmax over "
    "the levels, which sum to 1, as computed with scipy",
    tolerance=1e-10,
)
def compare_categories() -> float:
    """For two pixels, all 256 values of each, and four latents; also their mean and mode."""
    likelihood = lb.Categorical(lb.mlp(3, 512)).double()
    z = torch.randn(4, 3, dtype=DOUBLE)
    pictures = torch.arange(256, dtype=torch.uint8)[:, None].expand(-1, 2)
    x = lb.Examples(pictures.contiguous(), levels=256).batch(torch.arange(256), DOUBLE)
    with torch.no_grad():
        p, logits = likelihood(z), likelihood.network(z).numpy().reshape(4, 256, 2)
        found = p.entrywise_log_prob(x[:, None])
        exact = special.log_softmax(logits, axis=1).swapaxes(0, 1)
        shares = np.exp(exact)
        mean = (shares * np.arange(256)[:, None, None]).sum(0) / 255
        differences = (
            found - torch.from_numpy(exact),
            p.log_prob(x[:, None]) - torch.from_numpy(exact.sum(-1)),
            found.exp().sum(0) - 1,
            p.mean - torch.from_numpy(mean),
            p.mode - torch.from_numpy(exact.argmax(0) / 255),
        )
    return max(map(largest, differences))


class _Fixed(nn.Module):
    """A likelihood that ignores z: the same distribution for each entry of ``[D]``."""

    def __init__(self, entry: Distribution, dims: int) -> None:
        super().__init__()
        self.entry, self.dims = entry, dims

    def forward(self, z: Tensor) -> Distribution:
        return Independent(self.entry.expand((*z.shape[:-1], self.dims)), 1)


def _make_without_latents(likelihood: nn.Module, dims: int) -> lb.LatentModel:
    """Make a model that ignores z, so that every bound is the log density of the data."""
    posterior = lb.Gaussian(lb.mlp(dims, 2))
    set_linear(posterior, torch.zeros(2, dims), torch.zeros(2))
    return lb.LatentModel(lb.StandardNormal(1), posterior, likelihood)


@check(
    "bits-per-dimension",
    "The uniform distribution over 256 levels costs 8 bits per dimension: as a probability mass, "
    "and as a density of dequantised pixels",
    tolerance=1e-5,
)
def compare_bits_per_dimension() -> float:
    """For 20 examples of 3 pixels, in float32."""
    pixels = torch.randint(256, (20, 3), dtype=torch.uint8)
    mass = lb.Categorical(lb.mlp(1, 768))
    set_linear(mass, torch.zeros(768, 1), torch.zeros(768))
    density = _Fixed(Uniform(torch.tensor(0.0), torch.tensor(1.0), validate_args=False), 3)
    worst = 0.0
    data_of_mass = lb.Examples(pixels, levels=256)
    for likelihood, data in (
        (mass, data_of_mass),
        (density, data_of_mass.prepare("dequantize")),
    ):
        bits = lb.evaluate(_make_without_latents(likelihood, 3), lb.ELBO(), data).bits_per_dimension
        if bits is None:
            return math.inf
        worst = max(worst, abs(bits - 8))
    return worst


@check(
    "random-pixels",
    "Dequantised pixels stay in their own bin and fill it evenly, and binarised ones are 1 as "
    "often as their value says (in standard errors)",
    tolerance=4,
)
def measure_random_pixels() -> float:
    """For 5 values of a pixel with 20,000 draws. By chance it fails for one seed in 1,000."""
    values = torch.tensor([0, 1, 128, 254, 255], dtype=torch.uint8).expand(20_000, 5)
    rows = torch.arange(20_000)
    within = (
        lb.Examples(values.contiguous(), levels=256).prepare("dequantize").batch(rows, DOUBLE) * 256
    )
    within = within - values
    if not bool(((within >= 0) & (within < 1)).all()):
        return math.inf
    binary = lb.Examples(values.contiguous(), levels=256).prepare("binarize").batch(rows, DOUBLE)
    exact = torch.tensor([1, 128, 254], dtype=DOUBLE) / 255
    if largest(binary[:, 0]) != 0 or largest(binary[:, 4] - 1) != 0:
        return math.inf
    squares = torch.stack([within, within.square()], -1).flatten(1)
    half_and_third = torch.tensor([1 / 2, 1 / 3], dtype=DOUBLE).repeat(5)
    return max(errors_apart(squares, half_and_third), errors_apart(binary[:, 1:4], exact))


@check(
    "counts",
    "Counts are scored as they are stored, without scaling: a Poisson likelihood gives them the "
    "probabilities of scipy",
    tolerance=1e-4,
)
def compare_counts() -> float:
    """For counts from 0 to 300 of 3 entries, in float32, with their bits per dimension."""
    counts = torch.stack([torch.arange(0, 301, 10), torch.arange(31), torch.full((31,), 300)], 1)
    data = lb.Examples(counts, kind="counts")
    model = _make_without_latents(_Fixed(Poisson(torch.tensor(90.0), validate_args=False), 3), 3)
    found = lb.evaluate(model, lb.ELBO(), data)
    exact = stats.poisson(90).logpmf(counts.numpy()).sum(1)
    bits = -exact.mean() / (3 * math.log(2))
    if found.bits_per_dimension is None:
        return math.inf
    return max(
        largest(found.per_example / torch.from_numpy(exact) - 1),
        abs(float(found.bits_per_dimension / bits) - 1),
    )
