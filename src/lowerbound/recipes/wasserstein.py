"""Auto-encoders that match the aggregate posterior to the prior, or only keep latents small."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import Activation, Channels, Hidden, Latent, Layers, Shape
from lowerbound.recipes.autoencoders import (
    AnyNetwork,
    Critic,
    CriticRate,
    Likelihood,
    Posterior,
    make_autoencoder,
    make_critic,
)
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel
    from lowerbound.objectives import AAE, RAE, InfoVAE

Kernel = Annotated[
    Literal["imq", "rbf"], Field(description="kernel: inverse multiquadratic, or Gaussian")
]


@recipe(training={"epochs": 50, "batch_size": 64}, pixels="binarize", image_size=64)
def info(
    shape: Shape,
    *,
    latent: Latent = 10,
    alpha: Annotated[
        float, Field(ge=0, le=1, description="share of the rate that is left out")
    ] = 0.5,
    weight: Annotated[
        float,
        Field(
            ge=1,
            description="lambda, the weight of the maximum mean discrepancy from the prior",
        ),
    ] = 1000.0,
    kernel: Kernel = "imq",
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, InfoVAE]":
    """InfoVAE: the maximum mean discrepancy from the prior replaces a part of the rate.

    The paper is "InfoVAE: balancing learning and inference in variational autoencoders" (Zhao, Song
    & Ermon 2019). The discrepancy is that of the aggregate posterior. Training maximises a score
    that does not bound log p(x); the ELBO is logged beside it.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood
    )
    return model, lb.InfoVAE(alpha, weight, kernel)


@recipe(training={"epochs": 50, "batch_size": 64}, pixels="binarize", image_size=64)
def mmd_wae(
    shape: Shape,
    *,
    latent: Latent = 10,
    weight: Annotated[
        float, Field(ge=1, description="weight of the maximum mean discrepancy from the prior")
    ] = 1000.0,
    kernel: Kernel = "imq",
    posterior: Posterior = "point",
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, InfoVAE]":
    """Wasserstein auto-encoder: the maximum mean discrepancy from the prior replaces the rate.

    The paper is "Wasserstein auto-encoders" (Tolstikhin, Bousquet, Gelly & Schölkopf 2018). It uses
    squared errors, for which choose the Gaussian likelihood. The reported value is a score. An
    encoder that gives points, as by default, has no ELBO.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood, posterior
    )
    return model, lb.InfoVAE(1.0, weight, kernel)


@recipe(training={"epochs": 50, "batch_size": 64}, pixels="binarize", image_size=64)
def adversarial(
    shape: Shape,
    *,
    latent: Latent = 10,
    weight: Annotated[
        float,
        Field(ge=0, description="weight of the term that trains the encoder to deceive the critic"),
    ] = 10.0,
    critic: Critic = 256,
    critic_rate: CriticRate = 1e-3,
    posterior: Posterior = "point",
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, AAE]":
    """Adversarial auto-encoder: a critic tells latents from prior draws; the encoder deceives it.

    The paper is "Adversarial autoencoders" (Makhzani et al. 2015). The reported value is a score.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood, posterior
    )
    return model, lb.AAE(make_critic(latent, critic), weight, learning_rate=critic_rate)


@recipe(
    training={"epochs": 50, "batch_size": 64, "optimizer": "adamw", "weight_decay": 0.01},
    pixels="binarize",
    image_size=64,
)
def rae(
    shape: Shape,
    *,
    latent: Latent = 10,
    weight: Annotated[
        float, Field(ge=0, description="weight of half of the squared norm of z")
    ] = 1.0,
    gradient_penalty: Annotated[
        float,
        Field(
            ge=0,
            description="weight of the squared norm of the derivative of the decoder's mean with "
            "respect to z",
        ),
    ] = 0.0,
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, RAE]":
    """Regularised auto-encoder: deterministic latents with a small norm, and weights that decay.

    The paper is "From variational to deterministic autoencoders" (Ghosh, Sajjadi, Vergari, Black &
    Schölkopf 2020). The reported value is a score.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood, "point"
    )
    return model, lb.RAE(weight, gradient_penalty)
