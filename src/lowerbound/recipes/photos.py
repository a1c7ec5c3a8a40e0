"""Photos in colour or grey: a vector, details around it, and a likelihood of 8-bit pixels."""

import math
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes.aevb import FreeBits, Samples
from lowerbound.recipes.registry import Form, recipe

if TYPE_CHECKING:
    from lowerbound.models import LayeredModel
    from lowerbound.objectives import ELBO

# The smallest and the largest side of a picture, the side to which the convolutions shrink it, at
# least, and that of the details, at most; all in pixels.
_SIDES = 8, 256
_SMALLEST_SIDE = 4
_SIDE_OF_DETAILS = 32

# The units of the two hidden layers of each transform of the prior's flow.
_FLOW_HIDDEN = (64, 64)

# The weight of the rate of z1 in the first step.
_FIRST_DETAIL_WEIGHT = 20.0


@recipe(
    training={
        "batch_size": 16,
        "steps": 4000,
        "learning_rate": 0.002,
        "schedule": "cosine",
        "warmup_steps": 100,
        "clip_norm": 3000.0,
        "ema": 0.995,
    },
    image_size=64,
)
def photos(
    form: Form,
    *,
    latent: Annotated[
        int, Field(ge=1, description="number of dimensions of z2, the embedding of a picture")
    ] = 16,
    transforms: Annotated[
        int,
        Field(
            ge=0,
            description="number of transforms of the flow that is the prior of z2. With 0 the "
            "prior is standard normal",
        ),
    ] = 3,
    details: Annotated[
        int,
        Field(ge=1, description="channels of z1, the details at half the picture's size or less"),
    ] = 2,
    hidden: Annotated[
        int, Field(ge=1, description="units of the layer between convolutions and z2")
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
    kl_warmup_steps: Annotated[
        int,
        Field(
            ge=0,
            description="number of steps in which the weight of the rate rises from 0 to 1 (KL "
            "warm-up). 0 disables it",
        ),
    ] = 400,
    embedding_weight: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="weight of the rate of z2 in training. With less than 1, z2 describes more "
            "of a picture. In the reported bound it is 1",
        ),
    ] = 0.5,
    detail_warmup_steps: Annotated[
        int,
        Field(
            ge=0,
            description="number of steps in which the weight of the rate of z1 falls from 20 to 1, "
            "so that z2 learns to describe pictures before there are details. 0 disables it",
        ),
    ] = 2400,
    free_bits: FreeBits = 0.0,
    seed: int | None = None,
) -> "tuple[LayeredModel, ELBO]":
    """An embedding, details and a likelihood of 8-bit pixels model photos up to 256 x 256.

    A vector z2 describes the picture, and a small picture z1 the details that z2 leaves open, in
    the manner of Child 2021 (arXiv:2011.10650). The prior of z2 is a masked autoregressive flow
    (Papamakarios et al. 2017), so that samples come from where the embeddings of pictures are. The
    networks have residual convolutions (He et al. 2016). The decoder resizes and then convolves,
    which leaves no pattern of a checkerboard (Odena et al. 2016). The likelihood is that of Kingma
    et al. 2016: it scores 8-bit pixels as they are, so that its bits per dimension are those of the
    pixels. For pictures of samples, z2 is drawn, the details z1 are the means of their prior given
    z2, because drawn details would only add noise, and the pixels are the means of p(x|z).
    """
    _check_pictures(form)
    settings: Any = {"activation": "silu", "residual": blocks, "norm": "group"}
    growing: Any = settings | {"upsampling": "resize"}
    layers = max(2, int(math.log2(min(form.shape[1:]) / _SMALLEST_SIDE)))
    depths = [channels * min(4, 1 << layer) for layer in range(layers)]
    below = math.ceil(math.log2(min(form.shape[1:]) / _SIDE_OF_DETAILS))
    below = min(layers - 1, max(1, below))  # the number of layers between the picture and z1
    size = tuple(side >> below for side in form.shape[1:])
    width = depths[below - 1]
    output = form.shape[0] * (2 if components == 1 else 3 * components)

    def connect(inputs: int, outputs: int) -> Any:
        """A network between pictures of the size of the details."""
        return lb.conv((inputs, *size), width, (outputs, *size), stride=1, **settings)

    prior: Any = lb.StandardNormal(latent)
    if transforms:
        prior = lb.Flow("maf", latent, transforms=transforms, hidden_features=_FLOW_HIDDEN)
    shallow, deep = depths[:below], depths[below:]
    to_picture = lb.conv((width, *size), *reversed(shallow), (output, *form.shape[1:]), **growing)
    model = lb.LayeredModel(
        priors=[lb.Gaussian(connect(width, 2 * details)), prior],
        posteriors=[
            lb.Gaussian(connect(2 * width, 2 * details)),
            lb.Gaussian(lb.mlp(hidden, 2 * latent)),
        ],
        likelihood=lb.DiscretizedLogistic(to_picture, form.levels or 256, components),
        features=[
            lb.conv(form.shape, *shallow, (width, *size), **settings),
            lb.conv((width, *size), *deep, hidden, **settings),
        ],
        states=[
            connect(width + details, width),
            lb.conv(latent, *reversed(deep), (width, *size), hidden=(hidden,), **growing),
        ],
        merge="residual",
        details=1,
    )
    beta: Any = 1.0
    if kl_warmup_steps:
        beta = lb.Ramp(0.0, 1.0, steps=kl_warmup_steps)
    weights: Any = {"z2": embedding_weight}
    if detail_warmup_steps:
        weights["z1"] = lb.Ramp(_FIRST_DETAIL_WEIGHT, 1.0, steps=detail_warmup_steps)
    return model, lb.ELBO(samples, beta=beta, free_bits=free_bits, group_weights=weights)


def _check_pictures(form: Form) -> None:
    sides, (smallest, largest) = form.shape[1:], _SIDES
    if len(form.shape) != 3:
        raise SettingsError(
            f"photos: examples must be pictures (C, H, W), not of shape {form.shape}; "
            "aevb-gaussian takes any shape"
        )
    if min(sides) < smallest or max(sides) > largest:
        raise SettingsError(
            f"photos: pictures must have {smallest} to {largest} pixels a side, not "
            f"{' x '.join(map(str, sides))}; resize them: --image-size 64"
        )
