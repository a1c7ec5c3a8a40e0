"""Models with known answers, and functions that compare results with them.

Suffixes of shapes: B examples, or copies of one example with separate parameters; K samples; J
latent dimensions; D data dimensions; P parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.runtime.modes import seeded

DOUBLE = torch.float64
CPU = torch.device("cpu")


# Comparisons


def largest(difference: Tensor) -> float:
    """The largest absolute entry; nan if any entry is nan."""
    return float(difference.detach().abs().max())


def errors_apart(values: Tensor, expected: Tensor | float = 0.0) -> float:
    """The largest distance of means over the first dimension from ``expected``, in standard errors.

    By chance, an entry exceeds four standard errors once in 16,000 times, and three once in 370.
    """
    return largest((values.mean(0) - expected) / standard_error(values))


def errors_above(values: Tensor) -> float:
    """The largest mean over the first dimension, in standard errors; 0 if all are negative."""
    return max(0.0, float((values.mean(0) / standard_error(values)).max()))


def standard_error(values: Tensor) -> Tensor:
    """The standard error of the mean over the first dimension."""
    return values.std(0) / math.sqrt(len(values))


def slopes(x: list[float], y: Tensor) -> Tensor:
    """The slopes of ``log y`` against ``log x``, ``[lines]``, for ``y`` of ``[points, lines]``."""
    x_log, y_log = torch.tensor(x, dtype=DOUBLE).log(), y.log()
    x_centred = (x_log - x_log.mean())[:, None]
    found: Tensor = (x_centred * y_log).sum(0) / x_centred.square().sum(0)
    return found


# Linear Gaussian models


def make_linear_vae(
    loadings_DJ: Tensor, offset_D: Tensor, noise: Tensor, *, shift: float = 0.0, widen: float = 1.0
) -> tuple[lb.LatentModel, MultivariateNormal]:
    """Make the model x = W z + b + noise, and its evidence.

    Its posterior is exact, unless ``shift`` and ``widen`` give it a known error.

    Args:
        loadings_DJ: W. ``W' diag(noise)^-2 W`` must be diagonal, so that the posterior is too.
        offset_D: b.
        noise: the standard deviation, ``[D]``, or ``[]`` for one that all dimensions share.
        shift: the error of the mean of q in each dimension, in standard deviations of the
            posterior.
        widen: the factor by which the standard deviation of q is too large.
    """
    scale: Literal["elementwise", "shared"] = "shared"
    if noise.dim():
        scale = "elementwise"
    dims, latents = loadings_DJ.shape
    scaled_DJ = loadings_DJ / noise.expand(dims)[:, None] ** 2
    precision_JJ = torch.eye(latents, dtype=DOUBLE) + loadings_DJ.T @ scaled_DJ
    gain_JD = torch.linalg.solve(precision_JJ, scaled_DJ.T)
    scale_J = precision_JJ.diagonal().rsqrt()
    model = lb.LatentModel(
        lb.StandardNormal(latents),
        lb.Gaussian(lb.mlp(dims, 2 * latents), min_scale=1e-6),
        lb.Gaussian(lb.mlp(latents, dims), scale=scale, min_scale=1e-6),
    ).double()
    set_linear(
        model.posterior,
        torch.cat([gain_JD, torch.zeros_like(gain_JD)]),
        torch.cat([shift * scale_J - gain_JD @ offset_D, 2 * (widen * scale_J).log()]),
    )
    set_linear(model.likelihood, loadings_DJ, offset_D)
    with torch.no_grad():
        model.get_parameter("likelihood.log_variance").copy_(2 * noise.log())
    covariance = loadings_DJ @ loadings_DJ.T + (noise.expand(dims) ** 2).diag()
    return model, MultivariateNormal(offset_D, covariance)


def set_linear(conditional: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Set the only layer of a conditional's network."""
    with torch.no_grad():
        conditional.get_parameter("network.layers.0.weight").copy_(weight)
        conditional.get_parameter("network.layers.0.bias").copy_(bias)


def draw_orthogonal_loadings(dims: int = 5, lengths: tuple[float, ...] = (2.0, 0.7)) -> Tensor:
    """Draw random orthogonal directions of these lengths, ``[D, J]``."""
    directions: Tensor = torch.linalg.qr(torch.randn(dims, len(lengths), dtype=DOUBLE))[0]
    return directions * torch.tensor(lengths, dtype=DOUBLE)


def make_some_linear_vae(
    *, shift: float = 0.0, widen: float = 1.0
) -> tuple[lb.LatentModel, MultivariateNormal]:
    """Make a linear VAE with five dimensions and two latents; see :func:`make_linear_vae`."""
    noise = torch.tensor(0.4, dtype=DOUBLE)
    return make_linear_vae(
        draw_orthogonal_loadings(), torch.randn(5, dtype=DOUBLE), noise, shift=shift, widen=widen
    )


def squared_weights(shift: float, widen: float, latents: int = 2) -> float:
    """``E_q[w^2] / p(x)^2`` of :func:`make_linear_vae`: a Gaussian integral for each latent."""
    spare = 2 * widen**2 - 1
    return (widen**2 / math.sqrt(spare) * math.exp(shift**2 / spare)) ** latents


def draw_rank_data(count: int, dims: int, rank: int) -> Tensor:
    """Draw examples that vary along ``rank`` directions, with a little noise, ``[count, D]``."""
    mixing = torch.randn(rank, dims, dtype=DOUBLE)
    return (
        torch.randn(count, rank, dtype=DOUBLE) @ mixing
        + 0.3 * torch.randn(count, dims, dtype=DOUBLE)
        + 1.0
    )


def fit_linear_vae(x: Tensor) -> lb.LatentModel:
    """Train a linear VAE with two latents to convergence on ``x``, ``[N, 5]``, in one batch."""
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(5, 4), min_scale=1e-4),
        lb.Gaussian(lb.mlp(2, 5), scale="shared", min_scale=1e-4),
    ).double()
    lb.fit(
        model,
        lb.ELBO(samples=32),
        x,
        epochs=4000,
        batch_size=len(x),
        learning_rate=0.02,
        schedule="cosine",
        device="cpu",
        progress=False,
    )
    return model


# Small nonlinear models


def make_curved_vae(
    likelihood: type[lb.Gaussian] | type[lb.Bernoulli] = lb.Gaussian,
) -> lb.LatentModel:
    """Make a model with six dimensions, two latents, and hidden layers."""
    outputs = 6
    if likelihood is lb.Gaussian:
        outputs = 12
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(6, 8, 4, activation="tanh")),
        likelihood(lb.mlp(2, 8, outputs, activation="tanh")),
    ).double()


class Rows(nn.Module):
    """A network whose output is a parameter ``[B, P]``, one row for each example, for any input."""

    def __init__(self, row_P: Tensor, copies: int) -> None:
        super().__init__()
        self.rows_BP = nn.Parameter(row_P.detach().expand(copies, -1).clone())

    def forward(self, *given: Tensor) -> Tensor:
        """Return the parameters."""
        return self.rows_BP


class Decoders(nn.Module):
    """A network that computes ``W z + b``, with a separate W and b for each example."""

    def __init__(self, weight_DJ: Tensor, bias_D: Tensor, copies: int) -> None:
        super().__init__()
        self.weight_BDJ = nn.Parameter(weight_DJ.detach().expand(copies, -1, -1).clone())
        self.bias_BD = nn.Parameter(bias_D.detach().expand(copies, -1).clone())

    def forward(self, z_KBJ: Tensor) -> Tensor:
        """Compute ``W z + b``, ``[K, B, D]``."""
        # Sums over so short a last dimension are slow, so the products are added one by one.
        columns_BD, entries_KB1 = self.weight_BDJ.unbind(-1), z_KBJ.split(1, -1)
        x_KBD: Tensor = self.bias_BD
        for column_BD, entry_KB1 in zip(columns_BD, entries_KB1, strict=True):
            x_KBD = torch.addcmul(x_KBD, column_BD, entry_KB1)
        return x_KBD


def make_copied_vae(copies: int, *, binary: bool = False) -> tuple[lb.LatentModel, Tensor]:
    """Make copies of one small model for copies of one example.

    One backward pass then gives independent draws of the same gradient.
    """
    generator = torch.Generator().manual_seed(0)
    weight_DJ, x_D = (
        torch.randn(*size, dtype=DOUBLE, generator=generator) for size in ((3, 3), (3,))
    )
    parameters = torch.randn(3 + (not binary), dtype=DOUBLE, generator=generator)
    rows = Rows(0.4 * parameters, copies)
    prior: nn.Module = lb.StandardNormal(2)
    posterior: nn.Module = lb.Gaussian(rows)
    latents = 2
    if binary:
        prior = lb.Bernoulli(lb.constant(3, 0.3, learned=False))
        posterior, latents = lb.Bernoulli(rows), 3
    decoders = Decoders(weight_DJ[:, :latents], 0.3 * x_D.flip(0), copies)
    likelihood = lb.Gaussian(decoders, scale=1.0)
    return lb.LatentModel(prior, posterior, likelihood).double(), x_D.expand(copies, -1)


@dataclass(frozen=True, eq=False)
class WatchedBound(lb.Objective):
    """An importance-weighted bound that records its log weights, ``[K, B]`` in each call."""

    samples: int = 1
    seen: list[Tensor] = field(default_factory=list)

    def bound(self, draw: lb.Draw) -> Tensor:
        """The bound, ``[B]``."""
        self.seen.append(draw.log_w.detach())
        return lb.IWAE(samples=self.samples).bound(draw)


def compute_gradients(
    model: lb.LatentModel, objective: lb.Objective, x: Tensor, seed: int
) -> dict[str, Tensor]:
    """Compute the gradient of the objective's sum over examples, by parameter."""
    with seeded(seed, CPU):
        value = objective(model.draw(x, objective.samples, objective.gradient)).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(value, parameters), strict=True))


def select_encoder(found: dict[str, Tensor]) -> Tensor:
    """Concatenate the gradients of the posterior's parameters, ``[B, P]``."""
    return torch.cat(
        [entry.flatten(1) for name, entry in found.items() if name.startswith("posterior")], 1
    )


def select_decoder(found: dict[str, Tensor]) -> Tensor:
    """Concatenate the gradients of all other parameters, ``[B, P]``."""
    return torch.cat(
        [entry.flatten(1) for name, entry in found.items() if not name.startswith("posterior")], 1
    )


# Enumeration and integration


def enumerate_bits(count: int) -> Tensor:
    """Enumerate all binary vectors of a length, ``[2^count, count]``."""
    return torch.tensor(list(product((0.0, 1.0), repeat=count)), dtype=DOUBLE)


def log_joint(model: lb.LatentModel, x_BD: Tensor, z_KJ: Tensor) -> Tensor:
    """log p(x, z) of each example with each of the latents, ``[K, B]``."""
    with torch.no_grad():
        z_K1J = z_KJ[:, None]
        joint: Tensor = model.likelihood(z_K1J).log_prob(x_BD) + model.prior().log_prob(z_K1J)
        return joint


def make_grid_vae(examples: int = 8) -> tuple[lb.LatentModel, Tensor, Tensor]:
    """Make a nonlinear model of binary data with two latents, examples, and their log p(x).

    The log p(x) are computed on a grid over the latents.
    """
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(8, 4)),
        lb.Bernoulli(lb.mlp(2, 6, 8, activation="tanh")),
    ).double()
    with torch.no_grad():
        for parameter in model.likelihood.parameters():
            parameter.copy_(torch.randn_like(parameter))
    set_linear(model.posterior, torch.zeros(4, 8, dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE))
    x = model.sample(examples)
    axis = torch.linspace(-7, 7, 120, dtype=DOUBLE)
    z = torch.cartesian_prod(axis, axis)
    cell = 2 * math.log(float(axis[1] - axis[0]))
    return model, x, log_joint(model, x, z).logsumexp(0) + cell
