"""Photos in colour or grey: residual convolutions, and a likelihood of 8-bit pixels."""

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes.aevb import FreeBits, Samples, Warmup, make_beta
from lowerbound.recipes.registry import Form, recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO

# The side to which the convolutions shrink a picture, at least, and the largest side of a picture.
_SMALLEST_SIDE = 4
_LARGEST_SIDE = 256


@recipe(
    training={"batch_size": 16, "learning_rate": 0.002, "epochs": 200, "ema": 0.995},
    image_size=64,
)
def photos(
    form: Form,
    *,
    latent: Annotated[int, Field(ge=1, description="number of dimensions of z")] = 64,
    hidden: Annotated[
        int, Field(ge=1, description="units of the layer between convolutions and z")
    ] = 256,
    channels: Annotated[
        int,
        Field(
            ge=1,
            description="channels of the layer nearest the picture. Each further layer doubles "
            "them, up to four times as many",
        ),
    ] = 16,
    blocks: Annotated[int, Field(ge=1, description="residual blocks after each layer")] = 1,
    components: Annotated[
        int, Field(ge=1, description="logistic distributions in the mixture of each pixel")
    ] = 1,
    samples: Samples = 1,
    kl_warmup: Warmup = 20.0,
    free_bits: FreeBits = 0.0,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """Residual convolutions and a discretised logistic likelihood for photos up to 256 x 256.

    The blocks are those of He et al. 2016. The decoder resizes and then convolves, which leaves no
    pattern of a checkerboard (Odena et al. 2016). The likelihood is that of Kingma et al. 2016: it
    scores 8-bit pixels as they are, so that its bits per dimension are those of the pixels, and the
    model knows how sure it is of each.
    """
    _check_pictures(form)
    channels_out = form.shape[0] * (2 if components == 1 else 3 * components)
    layers = max(1, int(math.log2(min(form.shape[1:]) / _SMALLEST_SIDE)))
    depths = [channels * min(4, 1 << layer) for layer in range(layers)]
    encoder = lb.conv(
        form.shape,
        *depths,
        2 * latent,
        activation="silu",
        hidden=(hidden,),
        residual=blocks,
        norm="group",
    )
    decoder = lb.conv(
        latent,
        *reversed(depths),
        (channels_out, *form.shape[1:]),
        activation="silu",
        hidden=(hidden,),
        residual=blocks,
        norm="group",
        upsampling="resize",
    )
    likelihood = lb.DiscretizedLogistic(decoder, levels=form.levels or 256, components=components)
    model = lb.LatentModel(lb.StandardNormal(latent), lb.Gaussian(encoder), likelihood)
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup), free_bits=free_bits)


def _check_pictures(form: Form) -> None:
    sides = form.shape[1:]
    if len(form.shape) != 3 or min(sides) < 2 * _SMALLEST_SIDE or max(sides) > _LARGEST_SIDE:
        raise SettingsError(
            f"photos: examples must be pictures of 8 to 256 pixels a side, (C, H, W), not "
            f"{form.shape}; resize them: --image-size 64"
        )
