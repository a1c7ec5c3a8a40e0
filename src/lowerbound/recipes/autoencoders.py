"""The auto-encoder of the recipes whose objective is not a plain bound."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import Shape, make_networks

if TYPE_CHECKING:
    from torch import nn

    from lowerbound.models import LatentModel

AnyNetwork = Annotated[
    Literal["auto", "mlp", "conv"],
    Field(
        description="convolutional or fully connected networks; auto is convolutional for "
        "pictures, with fewer layers if a picture is small"
    ),
]
Likelihood = Annotated[
    Literal["bernoulli", "gaussian"],
    Field(
        description="likelihood of an entry: Bernoulli for binary data, or Gaussian with one "
        "learned scale, for which pixels should be as-is"
    ),
]
Posterior = Annotated[
    Literal["gaussian", "point"],
    Field(description="encoder: a Gaussian for each example, or a point"),
]
Critic = Annotated[int, Field(ge=1, description="units of each of the critic's 3 hidden layers")]
CriticRate = Annotated[float, Field(gt=0, description="learning rate of the critic")]


def make_autoencoder(  # noqa: PLR0917 (called by recipes, in this order only)
    shape: Shape,
    latent: int,
    network: str,
    hidden: int,
    layers: int,
    channels: int,
    activation: str,
    likelihood: str,
    posterior: str = "gaussian",
) -> "LatentModel":
    """Make a model with a standard Gaussian prior."""
    if network == "auto":
        network, layers = _choose_network(shape, layers)
    encoder, decoder = make_networks(
        network,
        shape,
        latent,
        1,
        hidden,
        layers,
        channels,
        activation,
        posterior_parameters={"gaussian": 2, "point": 1}[posterior],
    )
    q = {"gaussian": lb.Gaussian, "point": lb.Point}[posterior](encoder)
    if likelihood == "bernoulli":
        return lb.LatentModel(lb.StandardNormal(latent), q, lb.Bernoulli(decoder))
    return lb.LatentModel(lb.StandardNormal(latent), q, lb.Gaussian(decoder, scale="shared"))


def make_critic(latent: int, hidden: int) -> "nn.Module":
    """Make a network from z to one logit."""
    return lb.mlp(latent, hidden, hidden, hidden, 1, activation="leaky_relu")


def _choose_network(shape: Shape, layers: int) -> tuple[str, int]:
    """Choose convolutions for pictures, and as many layers as their smaller side can be halved."""
    if len(shape) != 3 or min(shape[1:]) < 4:
        return "mlp", layers
    return "conv", min(layers, min(shape[1:]).bit_length() - 1)
