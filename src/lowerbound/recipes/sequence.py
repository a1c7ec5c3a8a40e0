"""Sequences of codes, such as text (Bowman et al. 2016, arXiv:1511.06349)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.recipes.aevb import Beta, FreeBits, Latent, Samples, Warmup
from lowerbound.recipes.registry import Form, recipe

if TYPE_CHECKING:
    from torch import nn

    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO

# The encoder halves the length this many times at most.
_MAX_HALVINGS = 3


@recipe(training={"epochs": 40}, kind="codes")
def sequence(
    form: Form,
    *,
    latent: Latent = 16,
    hidden: Annotated[
        int,
        Field(ge=1, description="units of each layer of the decoder, and channels of the encoder"),
    ] = 128,
    layers: Annotated[int, Field(ge=1, description="number of layers of the decoder")] = 1,
    decoder: Annotated[
        Literal["recurrent", "attention"],
        Field(description="decoder of gated recurrent units, or of causal attention"),
    ] = "recurrent",
    embedding: Annotated[
        int, Field(ge=1, description="entries of the vector that the encoder learns for each code")
    ] = 32,
    end: Annotated[
        int | None,
        Field(
            ge=0,
            description="code that ends a sequence and pads it. By default all sequences have the "
            "full length",
        ),
    ] = None,
    word_dropout: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="probability that a previous code is hidden from the decoder in training, "
            "so that it needs the latents",
        ),
    ] = 0.25,
    samples: Samples = 1,
    beta: Beta = 1.0,
    kl_warmup: Warmup = 10.0,
    free_bits: FreeBits = 0.0,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """An autoregressive decoder models sequences of codes, such as text: 128 units, 16 latents.

    The paper is "Generating sentences from a continuous space" (Bowman et al. 2016). Each code
    depends on the latents and on the codes before it. A decoder that can do without the latents
    ignores them, which word dropout and a warm-up of the KL term counteract.
    """
    if form.kind != "codes" or form.levels is None or len(form.shape) != 1:
        raise SettingsError(
            f"sequence: examples of shape {form.shape} are not sequences of codes; give "
            "whole numbers [examples, length] with kind='codes' (--kind codes)"
        )
    (length,), levels = form.shape, form.levels
    halvings = max(1, min(_MAX_HALVINGS, length.bit_length() - 1))
    encoder = _chain(
        lb.embed(length, levels, embedding),
        lb.conv(
            (embedding, length),
            *[hidden] * halvings,
            2 * latent,
            activation="silu",
            stride=min(2, length),
        ),
    )
    if decoder == "recurrent":
        network: nn.Module = lb.recurrent(latent, hidden, (length, levels), layers=layers)
    else:
        network = lb.attention(latent, hidden, (length, levels), layers=layers)
    likelihood = lb.Autoregressive(network, end, word_dropout)
    model = lb.LatentModel(lb.StandardNormal(latent), lb.Gaussian(encoder), likelihood)
    weight: float | lb.Ramp = beta
    if kl_warmup:
        weight = lb.Ramp(0.0, beta, epochs=kl_warmup)
    return model, lb.ELBO(samples, beta=weight, free_bits=free_bits)


def _chain(*layers: "nn.Module") -> "nn.Module":
    from torch import nn

    return nn.Sequential(*layers)
