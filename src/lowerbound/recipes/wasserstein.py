"""Auto-encoders that compare all codes together with the prior, or that have no prior."""

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
        float, Field(ge=1, description="lambda, the weight of the discrepancy from the prior")
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
    """InfoVAE: a part of the rate is replaced by the discrepancy of all codes from the prior.

    The paper is "InfoVAE: balancing learning and inference in variational autoencoders" (Zhao, Song
    & Ermon 2019). The score that is maximised does not bound log p(x), and the ELBO is logged too.
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
        float, Field(ge=1, description="weight of the discrepancy from the prior")
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

    The paper is "Wasserstein auto-encoders" (Tolstikhin, Bousquet, Gelly & Schölkopf 2018), which
    has squared errors: choose the Gaussian likelihood for them. The encoder gives points, so the
    ELBO does not exist, and the reported value is a score.
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
        float, Field(ge=0, description="weight with which the encoder deceives the critic")
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
    """Adversarial auto-encoder: a critic learns to distinguish codes from draws of the prior.

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
        float, Field(ge=0, description="weight of half the squared norm of the code")
    ] = 1.0,
    gradient_penalty: Annotated[
        float,
        Field(ge=0, description="weight of the decoder's squared derivative by the code"),
    ] = 0.0,
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, RAE]":
    """Regularised auto-encoder: points as codes, small codes, and weights that decay.

    The paper is "From variational to deterministic autoencoders" (Ghosh, Sajjadi, Vergari, Black &
    Schölkopf 2020). The reported value is a score.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood, "point"
    )
    return model, lb.RAE(weight, gradient_penalty)
