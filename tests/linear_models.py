"""Linear Gaussian auto-encoders, whose evidence and best posterior are known."""

import math

import torch
from torch.distributions import MultivariateNormal

import lowerbound as lb

DOUBLE = torch.float64
NOISE = 0.5
ORTHOGONAL = torch.tensor([[1.2, 0.0], [0.0, 0.6], [0.5, 0.0], [0.0, -0.8]], dtype=DOUBLE)
# Two pairs of latents whose posterior is correlated by 0.45, so that importance weights of a mean
# field have a finite variance.
SLANTED = (
    NOISE
    * torch.linalg.cholesky(
        torch.block_diag(*2 * [torch.tensor([[4.0, 1.8], [1.8, 4.0]], dtype=DOUBLE)])
        - torch.eye(4, dtype=DOUBLE)
    ).T
)


def linear_vae(
    loadings: torch.Tensor, shift: float = 0.0
) -> tuple[lb.LatentModel, MultivariateNormal, torch.Tensor]:
    """A linear VAE, its evidence, and the precision of its posterior.

    The encoder is the best diagonal one, except that its mean is shifted by ``shift``.
    """
    dims, latents = loadings.shape
    precision = torch.eye(latents, dtype=DOUBLE) + loadings.T @ loadings / NOISE**2
    gain = torch.linalg.solve(precision, loadings.T) / NOISE**2
    model = lb.LatentModel(
        lb.StandardNormal(latents),
        lb.Gaussian(lb.mlp(dims, 2 * latents), min_scale=1e-6),
        lb.Gaussian(lb.mlp(latents, dims), scale=NOISE),
    ).double()
    encoder, decoder = model.posterior.network.layers[0], model.likelihood.network.layers[0]
    with torch.no_grad():
        encoder.weight.copy_(torch.cat([gain, torch.zeros_like(gain)]))
        # The mean-field optimum has the variances 1 / P_jj, the posterior's own if P is diagonal.
        encoder.bias.copy_(
            torch.cat([torch.full((latents,), shift, dtype=DOUBLE), -precision.diagonal().log()])
        )
        decoder.weight.copy_(loadings)
        decoder.bias.zero_()
        model.likelihood.log_scale.fill_(math.log(NOISE))  # in double precision
    covariance = loadings @ loadings.T + NOISE**2 * torch.eye(dims, dtype=DOUBLE)
    return model, MultivariateNormal(torch.zeros(dims, dtype=DOUBLE), covariance), precision
