"""Counts, such as those of words in texts or of molecules in cells (Lopez et al. 2018)."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.registry import Form, recipe, select_fields

if TYPE_CHECKING:
    from torch import nn

    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO


@recipe(training={"batch_size": 128, "epochs": 40}, kind="counts")
def counts(
    form: Form,
    *,
    covariates: Annotated[
        tuple[str, ...] | list[str] | str | None,
        Field(
            description="names of fields on which the encoder and the decoder depend, such as the "
            "batch in which a cell was measured, separated by commas. Categories become one-hot "
            "codes; numbers are used as they are, so their spread should be near 1"
        ),
    ] = None,
    latent: Annotated[int, Field(ge=1, description="number of dimensions of z")] = 10,
    hidden: Annotated[int, Field(ge=1, description="units of each hidden layer")] = 128,
    layers: Annotated[int, Field(ge=1, description="number of hidden layers of each network")] = 1,
    activation: Annotated[
        str, Field(description="activation between layers, such as tanh, relu, gelu or silu")
    ] = "relu",
    likelihood: Annotated[
        Literal["negative-binomial", "poisson"],
        Field(description="distribution of the counts"),
    ] = "negative-binomial",
    dispersion: Annotated[
        Literal["elementwise", "network", "shared"],
        Field(
            description="inverse dispersion of the negative binomial distribution: one learned "
            "value for each entry, an output of the decoder, or one learned value"
        ),
    ] = "elementwise",
    zeros: Annotated[
        Literal["none", "inflated", "hurdle"],
        Field(
            description="what makes zeros more frequent than the distribution of the counts says: "
            "nothing, an additional probability of zero (inflated), or a probability of zero that "
            "replaces the distribution's own (hurdle)"
        ),
    ] = "none",
    exposure: Annotated[
        bool,
        Field(
            description="whether the mean of a count is a rate from the decoder times the exposure "
            "of the example. The exposure is the field exposure, or without this field the sum of "
            "the example's counts"
        ),
    ] = True,
    shares: Annotated[
        bool,
        Field(
            description="whether the rates of an example are shares, which sum to 1, so that its "
            "exposure is the expected sum of its counts"
        ),
    ] = False,
    samples: Annotated[
        int, Field(ge=1, description="number L of draws of z for each example in the bound")
    ] = 1,
    beta: Annotated[
        float,
        Field(
            ge=0, description="weight of the rate in training. In the reported bound it is always 1"
        ),
    ] = 1.0,
    kl_warmup: Annotated[
        float,
        Field(
            ge=0,
            description="number of epochs in which the weight of the rate rises from 0 to beta "
            "(KL warm-up). 0 disables it",
        ),
    ] = 0.0,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """A negative binomial decoder models counts with an exposure: 128 relu units, 10 latents.

    The paper is "Deep generative modeling for single-cell transcriptomics" (Lopez et al. 2018),
    whose model is this one with ``zeros="inflated"`` and ``shares=True``. There, the exposure is
    the library size of a cell. The encoder receives log(1 + x). With ``covariates``, the latents
    need not describe them, and ``model.reconstruct(cells, donor="a")`` shows each example as it
    would be with the donor ``a``.
    """
    shape, widths = form.shape, [hidden] * layers
    fields = select_fields(form, covariates, "counts")
    extra = sum(field.inputs for field in fields.values())

    def make_decoder(parameters: int = 1) -> "nn.Module":
        output = (parameters * shape[0], *shape[1:])
        return lb.mlp(latent + extra, *widths, output, activation=activation)

    def give_covariates(part: "nn.Module") -> "nn.Module":
        for name, field in reversed(fields.items()):
            part = lb.Given(part, name, field.categories)
        return part

    part: nn.Module
    if likelihood == "poisson":
        part = lb.Poisson(make_decoder(), exposure, shares)
    elif dispersion == "network":
        part = lb.NegativeBinomial(make_decoder(2), dispersion, exposure, shares)
    else:
        part = lb.NegativeBinomial(make_decoder(), dispersion, exposure, shares)
    if zeros == "inflated":
        part = lb.ZeroInflated(part, make_decoder())
    elif zeros == "hurdle":
        part = lb.Hurdle(part, make_decoder())
    inputs = (shape[0] + extra, *shape[1:])
    encoder = lb.Gaussian(lb.mlp(inputs, *widths, 2 * latent, activation=activation))
    model = lb.LatentModel(
        lb.StandardNormal(latent), lb.LogInput(give_covariates(encoder)), give_covariates(part)
    )
    if kl_warmup:
        return model, lb.ELBO(samples, beta=lb.Ramp(0.0, beta, epochs=kl_warmup))
    return model, lb.ELBO(samples, beta=beta)
