"""Deep hierarchies of residual blocks (Child 2021, arXiv:2011.10650; Vahdat & Kautz 2020)."""

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes.aevb import Activation, Samples, Warmup, make_beta
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LayeredModel
    from lowerbound.objectives import ELBO


@recipe(training={"epochs": 100, "clip_norm": 100.0}, pixels="binarize")
def deep(
    shape: tuple[int, ...],
    *,
    latent: Annotated[
        int, Field(ge=1, description="channels of the latents of each stochastic layer")
    ] = 4,
    hidden: Annotated[int, Field(ge=1, description="channels of all hidden layers")] = 32,
    scales: Annotated[
        int, Field(ge=1, description="number of resolutions, each half as large as the last")
    ] = 2,
    depth: Annotated[
        int, Field(ge=1, description="number of stochastic layers at each resolution")
    ] = 2,
    activation: Activation = "silu",
    samples: Samples = 1,
    kl_warmup: Warmup = 10.0,
    seed: int | None = None,
) -> "tuple[LayeredModel, ELBO]":
    """A deep hierarchy of stochastic layers at several resolutions models binary pictures.

    The papers are "Very deep VAEs generalize autoregressive models and can outperform them on
    images" (Child 2021) and "NVAE: a deep hierarchical variational autoencoder" (Vahdat & Kautz
    2020). The networks are residual blocks, the layers share a top-down path of hidden features,
    and each posterior is relative to the prior of its layer. The defaults are small enough for two
    cores.
    """
    if len(shape) != 3:
        raise SettingsError(f"deep: examples must be pictures (C, H, W), not of shape {shape}")
    if min(shape[1:]) < 1 << scales:
        raise SettingsError(
            f"deep: pictures of {shape[1]} x {shape[2]} pixels cannot be halved scales={scales} "
            "times; use fewer scales"
        )

    def connect(inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Any:
        """Make a network from a picture to one of the same, half or double size."""
        stride = 1 + (inputs[1:] != outputs[1:])
        return lb.conv(
            inputs,
            hidden,
            outputs,
            activation=activation,
            stride=stride,
            residual=1,
            upsampling="resize",
        )

    sides: list[tuple[int, ...]] = [shape[1:]]
    for _ in range(scales):
        sides.append(tuple(side // 2 for side in sides[-1]))
    # The layers from z1, next to the data, to the top.
    at = [side for side in sides[1:] for _ in range(depth)]
    *lower, top = at
    inputs = [shape, *((hidden, *side) for side in lower)]
    features = [connect(before, (hidden, *side)) for before, side in zip(inputs, at, strict=True)]
    # A state has the size of the layer below, and the last one that of z1.
    *targets, below_top = (at[0], *lower)
    states = [
        connect((hidden + latent, *side), (hidden, *target))
        for side, target in zip(lower, targets, strict=True)
    ]
    states.append(connect((latent, *top), (hidden, *below_top)))
    posteriors = [lb.Gaussian(connect((2 * hidden, *side), (2 * latent, *side))) for side in lower]
    posteriors.append(lb.Gaussian(connect((hidden, *top), (2 * latent, *top))))
    priors: list[Any] = [
        lb.Gaussian(connect((hidden, *side), (2 * latent, *side))) for side in lower
    ]
    priors.append(lb.StandardNormal((latent, *top)))
    model = lb.LayeredModel(
        priors,
        posteriors,
        lb.Bernoulli(connect((hidden, *at[0]), shape)),
        features=features,
        states=states,
        merge="residual",
    )
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup))
