"""The auto-encoder with an optimal scale (Rybkin, Daniilidis & Levine 2021, arXiv:2006.13202)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lowerbound.recipes.aevb import (
    KL,
    Activation,
    Channels,
    Hidden,
    Latent,
    Layers,
    Network,
    Samples,
    Shape,
    aevb_gaussian,
)
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO


@recipe(training={"batch_size": 32}, image_size=64)
def sigma_vae(
    shape: Shape,
    *,
    latent: Latent = 10,
    hidden: Hidden = 200,
    layers: Layers = 1,
    activation: Activation = "relu",
    network: Network = "mlp",
    channels: Channels = 32,
    samples: Samples = 1,
    kl: KL = "auto",
    mean: Annotated[
        Literal["identity", "sigmoid"],
        Field(description="function that maps the decoder's output to the mean"),
    ] = "identity",
    min_scale: Annotated[float, Field(gt=0, description="smallest value of the scale")] = 0.001,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """The Gaussian decoder has one scale, the root of its mean squared error, so nothing is tuned.

    The paper is "Simple and effective VAE training with calibrated decoders" (Rybkin, Daniilidis &
    Levine 2021). The scale balances the squared error against the KL term, as the factor beta of a
    beta-VAE would, but it follows from the data: it is the scale that makes them most probable. A
    decoder that gives a scale for each pixel may instead fit constant pixels ever more exactly.
    """
    return aevb_gaussian(
        shape,
        latent=latent,
        hidden=hidden,
        layers=layers,
        activation=activation,
        network=network,
        channels=channels,
        samples=samples,
        kl=kl,
        scale="optimal",
        mean=mean,
        min_scale=min_scale,
    )
