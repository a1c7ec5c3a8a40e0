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
Latent = Annotated[int, Field(ge=1, description="number of dimensions of z")]
Hidden = Annotated[int, Field(ge=1, description="units of each fully connected hidden layer")]
Layers = Annotated[
    int, Field(ge=1, description="number of hidden layers, or of convolutions, of each network")
]
Activation = Annotated[
    str, Field(description="activation between layers, such as tanh, relu, gelu or silu")
]
Network = Annotated[
    Literal["mlp", "conv"],
    Field(description="fully connected networks, or convolutional networks for pictures"),
]
Channels = Annotated[
    int,
    Field(
        ge=1,
        description="channels of the layer nearest the picture; each further layer doubles them",
    ),
]
Samples = Annotated[
    int, Field(ge=1, description="number L of draws of z for each example in the bound")
]
KL = Annotated[
    Literal["auto", "closed-form", "sampled"],
    Field(
        description="whether the KL term is in closed form (estimator B) or sampled (estimator A)"
    ),
]
Beta = Annotated[
    float,
    Field(ge=0, description="weight of the rate in training. In the reported bound it is always 1"),
]
Warmup = Annotated[
    float,
    Field(
        ge=0,
        description="number of epochs in which the weight of the rate rises from 0 to beta "
        "(KL warm-up). 0 disables it",
    ),
]
FreeBits = Annotated[
    float,
    Field(ge=0, description="nats below which the rate of a latent unit is not penalised"),
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
        Literal["network", "shared", "elementwise", "optimal"],
        Field(
            description="standard deviation of the likelihood: an output of the decoder, one "
            "learned value, one learned value for each pixel, or the root of the mean squared "
            "error"
        ),
    ] = "network",
    mean: Annotated[
        Literal["identity", "sigmoid"],
        Field(description="function that maps the decoder's output to the mean"),
    ] = "identity",
    min_scale: Annotated[
        float, Field(gt=0, description="smallest value of the learned scale")
    ] = 0.01,
    max_scale: Annotated[
        float, Field(gt=0, description="largest value of the learned scale")
    ] = 1000.0,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """A Gaussian decoder models real-valued data, with 200 tanh units, 10 latents and L = 7.

    The paper is "Auto-encoding variational Bayes" (Kingma & Welling 2013).
    """
    parameters = {"network": 2, "shared": 1, "elementwise": 1, "optimal": 1}[scale]
    encoder, decoder = make_networks(
        network, shape, latent, parameters, hidden, layers, channels, activation
    )
    likelihood = lb.Gaussian(
        decoder, scale=scale, mean=mean, min_scale=min_scale, max_scale=max_scale
    )
    model = lb.LatentModel(lb.StandardNormal(latent), lb.Gaussian(encoder), likelihood)
    return model, lb.ELBO(samples, kl, beta=make_beta(beta, kl_warmup), free_bits=free_bits)


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
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """A Bernoulli decoder models binary data, with 500 tanh units, 20 latents and L = 1.

    The paper is "Auto-encoding variational Bayes" (Kingma & Welling 2013).
    """
    encoder, decoder = make_networks(
        network, shape, latent, 1, hidden, layers, channels, activation
    )
    model = lb.LatentModel(lb.StandardNormal(latent), lb.Gaussian(encoder), lb.Bernoulli(decoder))
    return model, lb.ELBO(samples, kl, beta=make_beta(beta, kl_warmup), free_bits=free_bits)


def make_beta(beta: float, kl_warmup: float) -> "float | Ramp":
    """Make the weight of the rate: a constant, or a ramp that rises to it in some epochs."""
    if not kl_warmup:
        return beta
    return lb.Ramp(0.0, beta, epochs=kl_warmup)


def make_networks(  # noqa: PLR0917 (called by recipes, in this order only)
    network: str,
    shape: Shape,
    latent: int,
    parameters: int,
    hidden: int,
    layers: int,
    channels: int,
    activation: str,
    *,
    posterior_parameters: int = 2,
) -> "tuple[nn.Module, nn.Module]":
    """Make an encoder and a decoder.

    The encoder has ``posterior_parameters`` outputs for each unit of z, and the decoder
    ``parameters`` outputs for each entry of an example.
    """
    code, output = posterior_parameters * latent, (parameters * shape[0], *shape[1:])
    if network == "mlp":
        widths = [hidden] * layers
        return (
            lb.mlp(shape, *widths, code, activation=activation),
            lb.mlp(latent, *widths, output, activation=activation),
        )
    depths = [channels << layer for layer in range(layers)]
    return (
        lb.conv(shape, *depths, code, activation=activation, hidden=(hidden,)),
        lb.conv(latent, *reversed(depths), output, activation=activation, hidden=(hidden,)),
    )
