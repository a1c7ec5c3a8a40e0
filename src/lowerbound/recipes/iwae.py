"""Importance Weighted Autoencoders (Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel, LayeredModel
    from lowerbound.objectives import IWAE


Latent = Annotated[int, Field(ge=1, description="number of dimensions of z")]
Hidden = Annotated[int, Field(ge=1, description="units of each hidden layer")]
Layers = Annotated[int, Field(ge=1, description="number of hidden layers of each network")]
Activation = Annotated[
    str, Field(description="activation between layers, such as tanh, relu, gelu or silu")
]
Samples = Annotated[
    int, Field(ge=1, description="number K of draws of z for each example, all groups together")
]


@recipe(training={"epochs": 40}, pixels="binarize")
def iwae(
    shape: tuple[int, ...],
    *,
    latent: Latent = 50,
    hidden: Hidden = 200,
    layers: Layers = 2,
    activation: Activation = "tanh",
    samples: Samples = 50,
    gradient: Annotated[
        Literal["pathwise", "sticking-the-landing", "dreg"],
        Field(
            description="estimator of the encoder's gradient: with more samples, the noise of "
            "pathwise grows beside its mean; sticking-the-landing is biased; dreg has neither fault"
        ),
    ] = "pathwise",
    groups: Annotated[
        int,
        Field(ge=1, description="number M of averaged bounds, each with K / M samples (MIWAE)"),
    ] = 1,
    encoder_groups: Annotated[
        int | None,
        Field(
            ge=1,
            description="number M of averaged bounds for the encoder, if it differs (PIWAE)",
        ),
    ] = None,
    elbo_weight: Annotated[
        float, Field(ge=0, le=1, description="share of the ELBO in the bound (CIWAE)")
    ] = 0.0,
    seed: int | None = None,
) -> "tuple[LatentModel, IWAE]":
    """The bound for binary data is importance-weighted: 2 x 200 tanh units, 50 latents, K = 50.

    The paper is "Importance weighted autoencoders" (Burda, Grosse & Salakhutdinov 2016).
    """
    widths = [hidden] * layers
    model = lb.LatentModel(
        lb.StandardNormal(latent),
        lb.Gaussian(lb.mlp(shape, *widths, 2 * latent, activation=activation)),
        lb.Bernoulli(lb.mlp(latent, *widths, shape, activation=activation)),
    )
    return model, lb.IWAE(samples, gradient, groups, encoder_groups, elbo_weight)


@recipe(training={"epochs": 40}, pixels="binarize")
def dreg(
    shape: tuple[int, ...],
    *,
    latent: Latent = 50,
    hidden: Hidden = 200,
    layers: Layers = 2,
    activation: Activation = "tanh",
    samples: Samples = 50,
    seed: int | None = None,
) -> "tuple[LatentModel, IWAE]":
    """The importance-weighted bound has the doubly reparameterised gradient, with less noise.

    The paper is "Doubly reparameterized gradient estimators for Monte Carlo objectives" (Tucker,
    Lawson, Gu & Maddison 2019). The bound is the same; only the gradient of the encoder differs,
    and its noise falls with the number of samples instead of rising.
    """
    return iwae(
        shape,
        latent=latent,
        hidden=hidden,
        layers=layers,
        activation=activation,
        samples=samples,
        gradient="dreg",
    )


@recipe(training={"epochs": 40}, pixels="binarize")
def iwae_2layer(
    shape: tuple[int, ...],
    *,
    latent: Annotated[
        int, Field(ge=1, description="number of dimensions of z1, next to the data")
    ] = 100,
    top_latent: Annotated[int, Field(ge=1, description="number of dimensions of z2")] = 50,
    hidden: Annotated[
        int, Field(ge=1, description="units of each hidden layer between the data and z1")
    ] = 200,
    top_hidden: Annotated[
        int, Field(ge=1, description="units of each hidden layer between z1 and z2")
    ] = 100,
    layers: Layers = 2,
    activation: Activation = "tanh",
    samples: Annotated[
        int, Field(ge=1, description="number K of draws of z1 and z2 for each example")
    ] = 50,
    gradient: Annotated[
        Literal["pathwise", "sticking-the-landing", "dreg"],
        Field(
            description="estimator of the encoders' gradient: with more samples, the noise of "
            "pathwise grows beside its mean; sticking-the-landing is biased; dreg has neither fault"
        ),
    ] = "pathwise",
    seed: int | None = None,
) -> "tuple[LayeredModel, IWAE]":
    """Two stochastic layers model binary data: 100 and 50 latents, bottom-up inference, K = 50.

    The paper is "Importance weighted autoencoders" (Burda, Grosse & Salakhutdinov 2016).
    """
    below, above = [hidden] * layers, [top_hidden] * layers
    model = lb.LayeredModel(
        priors=[
            lb.Gaussian(lb.mlp(top_latent, *above, 2 * latent, activation=activation)),
            lb.StandardNormal(top_latent),
        ],
        posteriors=[
            lb.Gaussian(lb.mlp(shape, *below, 2 * latent, activation=activation)),
            lb.Gaussian(lb.mlp(latent, *above, 2 * top_latent, activation=activation)),
        ],
        likelihood=lb.Bernoulli(lb.mlp(latent, *below, shape, activation=activation)),
    )
    return model, lb.IWAE(samples, gradient)
