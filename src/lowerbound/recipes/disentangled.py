"""Auto-encoders whose latent units should each stand for one factor of variation."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import (
    Activation,
    Beta,
    Channels,
    Hidden,
    Latent,
    Layers,
    Shape,
    Warmup,
    make_beta,
)
from lowerbound.recipes.autoencoders import (
    AnyNetwork,
    Critic,
    CriticRate,
    Likelihood,
    make_autoencoder,
    make_critic,
)
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel
    from lowerbound.objectives import DIPVAE, ELBO, BetaTCVAE, FactorVAE


@recipe(training={"epochs": 50, "batch_size": 64}, pixels="binarize", image_size=64)
def beta_vae(
    shape: Shape,
    *,
    latent: Latent = 10,
    beta: Beta = 4.0,
    kl_warmup: Warmup = 0.0,
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """beta-VAE: the rate has the weight beta = 4, so only information worth that price is encoded.

    The paper is "beta-VAE: learning basic visual concepts with a constrained variational framework"
    (Higgins et al. 2017). The reported bound is the ELBO, in which the rate has the weight 1.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood
    )
    return model, lb.ELBO(beta=make_beta(beta, kl_warmup))


@recipe(training={"epochs": 50, "batch_size": 64}, pixels="binarize", image_size=64)
def beta_tc(
    shape: Shape,
    *,
    latent: Latent = 10,
    alpha: Annotated[float, Field(ge=0, description="weight of the mutual information")] = 1.0,
    beta: Annotated[
        float,
        Field(ge=0, description="weight of the total correlation. In the reported bound it is 1"),
    ] = 6.0,
    gamma: Annotated[float, Field(ge=0, description="weight of the dimension-wise KL")] = 1.0,
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, BetaTCVAE]":
    """beta-TCVAE: only one part of the rate, the total correlation, has a larger weight, beta = 6.

    The paper is "Isolating sources of disentanglement in variational autoencoders" (Chen, Li,
    Grosse & Duvenaud 2018). The three parts of the rate are logged.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood
    )
    return model, lb.BetaTCVAE(alpha, beta, gamma)


# The critic learns faster than the model, whose latents it would otherwise follow too late.
_OF_FACTOR = {"epochs": 50, "batch_size": 64, "learning_rate": 0.0003}


@recipe(training=_OF_FACTOR, pixels="binarize", image_size=64)
def factor(
    shape: Shape,
    *,
    latent: Latent = 10,
    gamma: Annotated[
        float, Field(ge=0, description="weight of the total correlation in training")
    ] = 35.0,
    critic: Critic = 256,
    critic_rate: CriticRate = 1e-3,
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, FactorVAE]":
    """FactorVAE: training penalises the total correlation of the latents, which a critic estimates.

    The paper is "Disentangling by factorising" (Kim & Mnih 2018). The model learns more slowly than
    the critic, at the learning rate 0.0003, because a critic that lags behind underestimates the
    total correlation.
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood
    )
    objective = lb.FactorVAE(make_critic(latent, critic), gamma, learning_rate=critic_rate)
    return model, objective


@recipe(training={"epochs": 50, "batch_size": 64}, pixels="binarize", image_size=64)
def dip(
    shape: Shape,
    *,
    latent: Latent = 10,
    version: Annotated[
        Literal["I", "II"],
        Field(
            description="which covariance is penalised: that of the posterior means (I), or that "
            "of the draws of z (II)"
        ),
    ] = "II",
    off_diagonal: Annotated[float, Field(ge=0, description="weight of the covariances")] = 10.0,
    diagonal: Annotated[
        float, Field(ge=0, description="weight of the variances' squared distances from 1")
    ] = 10.0,
    network: AnyNetwork = "auto",
    hidden: Hidden = 256,
    layers: Layers = 4,
    channels: Channels = 16,
    activation: Activation = "relu",
    likelihood: Likelihood = "bernoulli",
    seed: int | None = None,
) -> "tuple[LatentModel, DIPVAE]":
    """DIP-VAE: training pulls the covariance of the latents over the data towards the identity.

    The paper is "Variational inference of disentangled latent concepts from unlabeled observations"
    (Kumar, Sattigeri & Balakrishnan 2018).
    """
    model = make_autoencoder(
        shape, latent, network, hidden, layers, channels, activation, likelihood
    )
    return model, lb.DIPVAE(version, off_diagonal, diagonal)
