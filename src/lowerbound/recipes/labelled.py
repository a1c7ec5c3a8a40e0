"""Labels: conditional models (Sohn et al. 2015) and semi-supervised ones (Kingma et al. 2014)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

import lowerbound as lb
from lowerbound.recipes.aevb import Activation, Hidden, Latent, Samples, Warmup, make_beta
from lowerbound.recipes.registry import recipe

if TYPE_CHECKING:
    from lowerbound.models import LatentModel, SemiSupervised
    from lowerbound.objectives import ELBO, SupervisedELBO

Shape = tuple[int, ...]
Categories = Annotated[int, Field(ge=1, description="number of categories of the label")]


@recipe(training={"epochs": 40}, pixels="binarize")
def conditional(
    shape: Shape,
    *,
    categories: Categories = 10,
    latent: Latent = 20,
    hidden: Hidden = 500,
    activation: Activation = "tanh",
    samples: Samples = 1,
    kl_warmup: Warmup = 0.0,
    seed: int | None = None,
) -> "tuple[LatentModel, ELBO]":
    """Encoder and decoder are given the label of each example, so samples have a chosen label.

    The paper is "Learning structured output representation using deep conditional generative
    models" (Sohn, Lee & Yan 2015). Here the prior does not depend on the label.
    """
    inputs = (shape[0] + categories, *shape[1:])
    encoder = lb.Gaussian(lb.mlp(inputs, hidden, 2 * latent, activation=activation))
    decoder = lb.Bernoulli(lb.mlp(latent + categories, hidden, shape, activation=activation))
    model = lb.LatentModel(
        lb.StandardNormal(latent),
        lb.Given(encoder, "label", categories=categories),
        lb.Given(decoder, "label", categories=categories),
    )
    return model, lb.ELBO(samples, beta=make_beta(1.0, kl_warmup))


@recipe(training={"epochs": 40}, pixels="binarize")
def semi_supervised(
    shape: Shape,
    *,
    categories: Categories = 10,
    latent: Latent = 50,
    hidden: Hidden = 500,
    activation: Activation = "softplus",
    alpha: Annotated[
        float,
        Field(ge=0, description="weight of the classifier's loss for each labelled example"),
    ] = 1.0,
    samples: Samples = 1,
    seed: int | None = None,
) -> "tuple[SemiSupervised, SupervisedELBO]":
    """Model M2: few labels train a classifier and a model of the data. The label -1 means unknown.

    The paper is "Semi-supervised learning with deep generative models" (Kingma, Rezende, Mohamed &
    Welling 2014).
    """
    inputs = (shape[0] + categories, *shape[1:])
    posterior = lb.Gaussian(lb.mlp(inputs, hidden, 2 * latent, activation=activation))
    likelihood = lb.Bernoulli(lb.mlp(latent + categories, hidden, shape, activation=activation))
    model = lb.SemiSupervised(
        lb.StandardNormal(latent),
        lb.mlp(shape, hidden, categories, activation=activation),
        lb.Given(posterior, "y", categories=categories),
        lb.Given(likelihood, "y", categories=categories),
        categories,
    )
    return model, lb.SupervisedELBO(alpha, samples)
