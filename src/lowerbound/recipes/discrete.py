"""Auto-encoders with categorical latents, for binary data."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import Activation, Hidden, Layers, Shape, Warmup, make_beta
from lowerbound.recipes.priors import WARMUP_EPOCHS, make_decoder
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel
    from lowerbound.objectives import ELBO


@recipe(training={"epochs": 40}, pixels="binarize")
def categorical(
    shape: Shape,
    *,
    latent: Annotated[int, Field(ge=1, description="number J of categorical latents")] = 20,
    categories: Annotated[int, Field(ge=2, description="number C of categories of each")] = 10,
    hidden: Hidden = 256,
    layers: Layers = 2,
    activation: Activation = "relu",
    gradient: Annotated[
        Literal["straight-through", "score-function", "relaxed", "enumerated"],
        Field(
            description="estimator of the encoder's gradient: straight-through is biased; "
            "score-function is unbiased and needs samples of at least 2; relaxed makes the latents "
            "continuous; enumerated sums over all states of few latents, without noise"
        ),
    ] = "straight-through",
    temperature: Annotated[
        float, Field(gt=0, description="temperature of straight-through or relaxed draws")
    ] = 1.0,
    samples: Annotated[
        int, Field(ge=1, description="number L of draws of z for each example in the bound")
    ] = 1,
    kl_warmup: Warmup = WARMUP_EPOCHS,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """The latents are 20 variables of 10 categories, with a uniform prior, for binary data.

    The papers are "Categorical reparameterization with Gumbel-softmax" (Jang, Gu & Poole 2017) and
    "The Concrete distribution" (Maddison, Mnih & Teh 2017); the score function has the baseline of
    VIMCO (Mnih & Rezende 2016). The latents are one-hot codes. All settings of ``gradient`` but
    ``"relaxed"`` maximise a bound on log p(x) of the same model. The relaxed model has continuous
    latents, so its bound cannot be compared with the others.
    """
    codes = (latent, categories)
    logits = lb.mlp(shape, *[hidden] * layers, codes, activation=activation)
    uniform = lb.constant(codes, learned=False)
    decoder = make_decoder(shape, codes, hidden, layers, activation)
    beta = make_beta(1.0, kl_warmup)
    if gradient == "relaxed":
        prior, posterior = (
            lb.OneHot(network, "relaxed", temperature) for network in (uniform, logits)
        )
        return lb.LatentModel(prior, posterior, decoder), lb.ELBO(samples, beta=beta)
    prior = lb.OneHot(uniform)
    if gradient == "straight-through":
        posterior = lb.OneHot(logits, "straight-through", temperature)
        return lb.LatentModel(prior, posterior, decoder), lb.ELBO(samples, beta=beta)
    posterior = lb.OneHot(logits)
    if gradient == "enumerated":
        return lb.EnumeratedModel(prior, posterior, decoder), lb.ELBO(samples, beta=beta)
    objective = lb.ELBO(samples, gradient="score-function", beta=beta)
    return lb.LatentModel(prior, posterior, decoder), objective
