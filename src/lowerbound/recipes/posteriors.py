"""Auto-encoders whose posterior is not a Gaussian, for binary data: flows and the sphere."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import (
    Activation,
    Hidden,
    Latent,
    Layers,
    Samples,
    Shape,
    Warmup,
    make_beta,
)
from lowerbound.recipes.priors import WARMUP_EPOCHS, FlowHidden, Transforms, make_decoder
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from torch import nn

    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO


@recipe(training={"epochs": 40}, pixels="binarize")
def iaf(
    shape: Shape,
    *,
    latent: Latent = 40,
    hidden: Hidden = 300,
    layers: Layers = 2,
    activation: Activation = "relu",
    transforms: Transforms = 4,
    flow_hidden: FlowHidden = 128,
    samples: Samples = 1,
    kl_warmup: Warmup = WARMUP_EPOCHS,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """The posterior is an inverse autoregressive flow, for binary data: 4 transforms, 40 latents.

    The paper is "Improving variational inference with inverse autoregressive flow" (Kingma et al.
    2016). The context of all transforms is a vector that is as long as a hidden layer is wide. The
    first transform contains the Gaussian from which the paper starts. One pass through the networks
    draws from the posterior and scores the draws.
    """
    widths = [hidden] * layers
    network = lb.mlp(shape, *widths, hidden, activation=activation)
    posterior = _make_flow_posterior(
        "iaf",
        network,
        hidden,
        latent,
        transforms=transforms,
        hidden_features=(flow_hidden, flow_hidden),
    )
    decoder = make_decoder(shape, latent, hidden, layers, activation)
    model = lb.LatentModel(lb.StandardNormal(latent), posterior, decoder)
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup))


@recipe(training={"epochs": 40}, pixels="binarize")
def flow_posterior(
    shape: Shape,
    *,
    latent: Annotated[int, Field(ge=2, description="number of dimensions of z, at least 2")] = 40,
    hidden: Hidden = 300,
    layers: Layers = 2,
    activation: Activation = "relu",
    transforms: Transforms = 4,
    flow_hidden: FlowHidden = 128,
    samples: Samples = 1,
    kl_warmup: Warmup = WARMUP_EPOCHS,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """The posterior is a flow of rational splines, for binary data: 4 transforms, 40 latents.

    Flows as posteriors come from "Variational inference with normalizing flows" (Rezende & Mohamed
    2015), and this one from "Neural spline flows" (Durkan et al. 2019). It is a coupling flow, in
    which half of the latents transform the other half, so it draws and scores in two passes.
    """
    widths = [hidden] * layers
    network = lb.mlp(shape, *widths, hidden, activation=activation)
    posterior = _make_flow_posterior(
        "nsf",
        network,
        hidden,
        latent,
        transforms=transforms,
        hidden_features=(flow_hidden, flow_hidden),
        passes=2,
    )
    decoder = make_decoder(shape, latent, hidden, layers, activation)
    model = lb.LatentModel(lb.StandardNormal(latent), posterior, decoder)
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup))


def _make_flow_posterior(
    name: str, network: "nn.Module", context: int, latent: int, **options: Any
) -> "nn.Module":
    """Make a posterior whose flow is given the output of a network, of the size ``context``."""
    from torch import nn

    return nn.Sequential(network, lb.Flow(name, latent, context=context, **options))


@recipe(training={"epochs": 40}, pixels="binarize")
def sphere(
    shape: Shape,
    *,
    latent: Annotated[
        int, Field(ge=2, description="number of dimensions of z, which has the norm 1")
    ] = 10,
    hidden: Hidden = 256,
    layers: Layers = 2,
    activation: Activation = "relu",
    samples: Samples = 1,
    kl_warmup: Warmup = WARMUP_EPOCHS,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """The latents lie on a sphere, with a uniform prior, for binary data: 10 dimensions of norm 1.

    The papers are "Hyperspherical variational auto-encoders" (Davidson et al. 2018) and "The power
    spherical distribution" (De Cao & Aziz 2020), whose density is the posterior. It draws without
    rejections, and its KL divergence from the prior has a closed form.
    """
    widths = [hidden] * layers
    model = lb.LatentModel(
        lb.SphereUniform(latent),
        lb.PowerSpherical(lb.mlp(shape, *widths, latent + 1, activation=activation)),
        make_decoder(shape, latent, hidden, layers, activation),
    )
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup))
