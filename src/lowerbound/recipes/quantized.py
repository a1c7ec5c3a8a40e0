"""Auto-encoders with codes as latents: vector, residual and finite scalar quantisation."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import Activation
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO, QuantizedELBO

Shape = tuple[int, ...]
Dimensions = Annotated[int, Field(ge=1, description="number of dimensions of the vector of a code")]
Hidden = Annotated[
    int, Field(ge=1, description="channels of convolutions, or units of fully connected layers")
]
Positions = Annotated[
    int,
    Field(
        ge=1,
        description="number of positions with a code, for examples that are not pictures of at "
        "least 4 x 4 pixels. Such a picture has one position for every 4 x 4 pixels",
    ),
]
Codes = Annotated[int, Field(ge=2, description="number K of codes in the codebook")]
Commitment = Annotated[
    float,
    Field(
        ge=0, description="weight of the squared distance between the encoder's outputs and codes"
    ),
]
Decay = Annotated[
    float, Field(ge=0, lt=1, description="decay of the codes' moving averages in one step")
]


@recipe(training={"epochs": 40})
def vq(
    shape: Shape,
    *,
    latent: Dimensions = 16,
    hidden: Hidden = 64,
    positions: Positions = 8,
    codes: Codes = 256,
    commitment: Commitment = 0.25,
    decay: Decay = 0.99,
    activation: Activation = "relu",
    seed: int | None = None,
) -> "tuple[LatentModel, QuantizedELBO]":
    """Vector quantisation: each block of 4 x 4 pixels gets one of 256 codes of a learned codebook.

    The paper is "Neural discrete representation learning" (van den Oord, Vinyals & Kavukcuoglu
    2017). The codes are moving averages, and codes that are hardly used are replaced.
    """
    encoder, decoder = _make_networks(shape, latent, hidden, positions, activation)
    posterior = lb.VectorQuantized(encoder, codes, decay=decay)
    return _make_model(posterior, decoder), lb.QuantizedELBO(commitment)


@recipe(training={"epochs": 40})
def residual_vq(
    shape: Shape,
    *,
    latent: Dimensions = 16,
    hidden: Hidden = 64,
    positions: Positions = 8,
    codes: Codes = 64,
    stages: Annotated[
        int, Field(ge=1, description="number of codes at each position, whose vectors are added")
    ] = 4,
    commitment: Commitment = 0.25,
    decay: Decay = 0.99,
    activation: Activation = "relu",
    seed: int | None = None,
) -> "tuple[LatentModel, QuantizedELBO]":
    """Residual quantisation: each position has 4 codes, and each refines those before it.

    The paper is "SoundStream: an end-to-end neural audio codec" (Zeghidour et al. 2021). The
    vectors of the codes at a position are added.
    """
    encoder, decoder = _make_networks(shape, latent, hidden, positions, activation)
    posterior = lb.VectorQuantized(encoder, codes, stages=stages, decay=decay)
    return _make_model(posterior, decoder), lb.QuantizedELBO(commitment)


@recipe(training={"epochs": 40})
def fsq(
    shape: Shape,
    *,
    latent: Annotated[
        int, Field(ge=1, description="number of channels that are rounded at each position")
    ] = 4,
    levels: Annotated[int, Field(ge=2, description="number of levels of each channel")] = 5,
    hidden: Hidden = 64,
    positions: Positions = 8,
    activation: Activation = "relu",
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """Finite scalar quantisation: 4 channels of 5 levels give 625 codes without a codebook.

    The paper is "Finite scalar quantization: VQ-VAE made simple" (Mentzer et al. 2024).
    """
    encoder, decoder = _make_networks(shape, latent, hidden, positions, activation)
    posterior = lb.FiniteScalarQuantized(encoder, (levels,) * latent)
    return _make_model(posterior, decoder), lb.ELBO()


def _make_networks(
    shape: Shape, latent: int, hidden: int, positions: int, activation: str
) -> "tuple[Any, Any]":
    """Make an encoder to a vector at each position, and a decoder from all of them."""
    if len(shape) != 3 or min(shape[1:]) < 4:
        return (
            lb.mlp(shape, hidden, (latent, positions), activation=activation),
            lb.mlp((latent, positions), hidden, shape, activation=activation),
        )
    small = tuple(side // 2 // 2 for side in shape[1:])
    return (
        lb.conv(shape, hidden, hidden, (latent, *small), activation=activation, residual=1),
        lb.conv(
            (latent, *small),
            hidden,
            hidden,
            shape,
            activation=activation,
            residual=1,
            upsampling="resize",
        ),
    )


def _make_model(posterior: Any, decoder: Any) -> "LatentModel":
    likelihood = lb.Gaussian(decoder, scale="shared", min_scale=0.01)
    return lb.LatentModel(lb.CodePrior(posterior), posterior, likelihood)
