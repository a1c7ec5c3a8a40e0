"""Ladder variational autoencoders (Sønderby et al. 2016, arXiv:1602.02282)."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import Activation, Samples, Warmup, make_beta
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LayeredModel
    from lowerbound.objectives import ELBO


@recipe(training={"epochs": 100}, pixels="binarize")
def ladder(
    shape: tuple[int, ...],
    *,
    latent: Annotated[
        int,
        Field(
            ge=1,
            description="number of dimensions of z1, next to the data; each layer above has "
            "half as many",
        ),
    ] = 64,
    hidden: Annotated[
        int,
        Field(
            ge=1,
            description="units of the networks around z1; each layer above has half as many",
        ),
    ] = 512,
    depth: Annotated[int, Field(ge=1, description="number of stochastic layers")] = 5,
    activation: Activation = "leaky_relu",
    samples: Samples = 1,
    kl_warmup: Warmup = 20.0,
    seed: int | None = None,
) -> "tuple[LayeredModel, ELBO]":
    """Five stochastic layers share a top-down path, for binary data: 64 to 4 latents.

    The paper is "Ladder variational autoencoders" (Sønderby et al. 2016).
    """
    latents = [max(1, latent >> layer) for layer in range(depth)]
    widths = [max(1, hidden >> layer) for layer in range(depth)]
    inputs: list[Any] = [shape, *widths]
    features = [
        lb.mlp(before, width, width, activation=activation)
        for before, width in zip(inputs[:-1], widths, strict=True)
    ]
    posteriors = [
        lb.Gaussian(lb.mlp(width, width, 2 * units, activation=activation))
        for width, units in zip(widths, latents, strict=True)
    ]
    priors: list[Any] = [
        lb.Gaussian(lb.mlp(above, width, width, 2 * units, activation=activation))
        for above, width, units in zip(latents[1:], widths[:-1], latents[:-1], strict=True)
    ]
    likelihood = lb.Bernoulli(lb.mlp(latents[0], hidden, hidden, shape, activation=activation))
    model = lb.LayeredModel(
        [*priors, lb.StandardNormal(latents[-1])],
        posteriors,
        likelihood,
        features=features,
        merge="product",
    )
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup))
