"""Auto-Encoding Variational Bayes (Kingma & Welling 2013, arXiv:1312.6114)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from torch import nn

    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO, Ramp

Shape = tuple[int, ...]
Latent = Annotated[int, Field(ge=1, description="dimensions of z")]
Hidden = Annotated[int, Field(ge=1, description="units of each fully connected hidden layer")]
Layers = Annotated[
    int, Field(ge=1, description="hidden layers of each network, or its convolutions")
]
Activation = Annotated[str, Field(description="between layers: tanh, relu, gelu, silu and others")]
Network = Annotated[
    Literal["mlp", "conv"], Field(description="fully connected, or convolutional for images")
]
Channels = Annotated[
    int,
    Field(
        ge=1,
        description="of the convolution nearest to the image; each further one has twice as many",
    ),
]
Samples = Annotated[int, Field(ge=1, description="L, draws of z for each example in the bound")]
KL = Annotated[
    Literal["auto", "closed-form", "sampled"],
    Field(description="the KL term: closed form (estimator B) or sampled (A)"),
]
Beta = Annotated[
    float,
    Field(ge=0, description="weight of the rate in what is climbed; the bound is reported without"),
]
Warmup = Annotated[
    float,
    Field(
        ge=0,
        description="KL warm-up: epochs over which the rate's weight rises from 0 to beta; 0 for none",
    ),
]
FreeBits = Annotated[
    float, Field(ge=0, description="nats below which the rate of a latent unit is not penalised")
]


@recipe(training={"batch_size": 32}, image_size=64)
def aevb_gaussian(
    shape: Shape,
    *,
    latent: Latent = 10,
    hidden: Hidden = 200,
    layers: Layers = 1,
    activation: Activation = "tanh",
    network: Network = "mlp",
    channels: Channels = 32,
    samples: Samples = 7,
    kl: KL = "auto",
    beta: Beta = 1.0,
    kl_warmup: Warmup = 0.0,
    free_bits: FreeBits = 0.0,
    scale: Annotated[
        Literal["network", "shared", "elementwise"],
        Field(
            description="of the likelihood: given by the decoder, one learned number, or one for each pixel"
        ),
    ] = "network",
    mean: Annotated[
        Literal["identity", "sigmoid"],
        Field(description="what the likelihood's mean passes through"),
    ] = "identity",
    min_scale: Annotated[
        float, Field(gt=0, description="floor of the likelihood's learned scale")
    ] = 0.01,
    max_scale: Annotated[
        float, Field(gt=0, description="ceiling of the likelihood's learned scale")
    ] = 1000.0,
) -> "tuple[LatentModel, ELBO]":
    """Gaussian encoder and decoder for real-valued data such as grey images: 200 tanh units, 10 latents, L = 7."""
    parameters = 2 if scale == "network" else 1
    encoder, decoder = _networks(
        network, shape, latent, parameters, hidden, layers, channels, activation
    )
    likelihood = lb.Gaussian(
        decoder, scale=scale, mean=mean, min_scale=min_scale, max_scale=max_scale
    )
    model = lb.LatentModel(lb.StandardNormal(latent), lb.Gaussian(encoder), likelihood)
    return model, lb.ELBO(samples, kl, beta=_beta(beta, kl_warmup), free_bits=free_bits)


@recipe(training={"epochs": 40}, pixels="binarize")
def aevb_bernoulli(
    shape: Shape,
    *,
    latent: Latent = 20,
    hidden: Hidden = 500,
    layers: Layers = 1,
    activation: Activation = "tanh",
    network: Network = "mlp",
    channels: Channels = 32,
    samples: Samples = 1,
    kl: KL = "auto",
    beta: Beta = 1.0,
    kl_warmup: Warmup = 0.0,
    free_bits: FreeBits = 0.0,
) -> "tuple[LatentModel, ELBO]":
    """Gaussian encoder and Bernoulli decoder for binary data such as MNIST: 500 tanh units, 20 latents, L = 1."""
    encoder, decoder = _networks(network, shape, latent, 1, hidden, layers, channels, activation)
    model = lb.LatentModel(lb.StandardNormal(latent), lb.Gaussian(encoder), lb.Bernoulli(decoder))
    return model, lb.ELBO(samples, kl, beta=_beta(beta, kl_warmup), free_bits=free_bits)


def _beta(beta: float, kl_warmup: float) -> "float | Ramp":
    return lb.Ramp(0.0, beta, epochs=kl_warmup) if kl_warmup else beta


def _networks(  # noqa: PLR0917 (private, and called in this order only)
    network: str,
    shape: Shape,
    latent: int,
    parameters: int,
    hidden: int,
    layers: int,
    channels: int,
    activation: str,
) -> "tuple[nn.Module, nn.Module]":
    """An encoder to the ``2 * latent`` parameters of q, and a decoder to ``parameters`` for each entry of an example."""
    output = (parameters * shape[0], *shape[1:])
    if network == "mlp":
        widths = [hidden] * layers
        return (
            lb.mlp(shape, *widths, 2 * latent, activation=activation),
            lb.mlp(latent, *widths, output, activation=activation),
        )
    depths = [channels << layer for layer in range(layers)]
    return (
        lb.conv(shape, *depths, 2 * latent, activation=activation, hidden=(hidden,)),
        lb.conv(latent, *reversed(depths), output, activation=activation, hidden=(hidden,)),
    )
