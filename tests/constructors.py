"""One dictionary of constructors for each concept, over which the property tests run.

A new entry costs one line.
"""

import torch
import zuko
from torch import nn

import lowerbound as lb
from lowerbound.conditionals import Standardization, Standardized

IMAGE = (1, 9, 7)

NETWORKS = {
    "mlp without hidden layers": (lambda: lb.mlp(6, 4), (6,), (4,)),
    "mlp": (lambda: lb.mlp(6, 8, 4), (6,), (4,)),
    "deep mlp between shapes": (
        lambda: lb.mlp(IMAGE, 8, 8, 8, (2, 3, 3), activation="gelu"),
        IMAGE,
        (2, 3, 3),
    ),
    "mlp with a class as activation": (lambda: lb.mlp(6, 8, 4, activation=nn.PReLU), (6,), (4,)),
    "conv encoder": (lambda: lb.conv(IMAGE, 4, 8, 5, activation="tanh"), IMAGE, (5,)),
    "conv decoder": (lambda: lb.conv(5, 8, 4, (2, 9, 7)), (5,), (2, 9, 7)),
    "conv with strides 3 and 1": (
        lambda: lb.conv((3, 10, 11), 4, 4, 5, stride=(3, 1)),
        (3, 10, 11),
        (5,),
    ),
    "conv back with strides 1 and 3": (
        lambda: lb.conv(5, 4, 4, (3, 10, 11), stride=(1, 3)),
        (5,),
        (3, 10, 11),
    ),
    "conv with a hidden layer": (
        lambda: lb.conv((1, 64, 64), 2, 2, 2, 5, hidden=(8,)),
        (1, 64, 64),
        (5,),
    ),
    "flatten_leading": (
        lambda: lb.flatten_leading(nn.Conv2d(1, 2, 3), IMAGE, (2, 7, 5)),
        IMAGE,
        (2, 7, 5),
    ),
}

# What is given to each has the shape (4,).
CONDITIONALS = {
    "StandardNormal": (lambda: lb.StandardNormal(3), (3,)),
    "StandardNormal over images": (lambda: lb.StandardNormal((2, 3, 3)), (2, 3, 3)),
    "Gaussian": (lambda: lb.Gaussian(lb.mlp(4, 8, 6)), (3,)),
    "Gaussian over images": (lambda: lb.Gaussian(lb.mlp(4, 8, (2, 5, 4))), (1, 5, 4)),
    "Gaussian with fixed scale": (lambda: lb.Gaussian(lb.mlp(4, 3), scale=0.1), (3,)),
    "Gaussian with shared scale": (
        lambda: lb.Gaussian(lb.mlp(4, (1, 5, 4)), scale="shared"),
        (1, 5, 4),
    ),
    "Gaussian with elementwise scale": (
        lambda: lb.Gaussian(lb.mlp(4, (1, 5, 4)), scale="elementwise"),
        (1, 5, 4),
    ),
    "Gaussian with sigmoid mean": (lambda: lb.Gaussian(lb.mlp(4, 6), mean="sigmoid"), (3,)),
    "Gaussian of one's own network": (lambda: lb.Gaussian(nn.Linear(4, 6)), (3,)),
    "Gaussian that depends on nothing": (lambda: lb.Gaussian(lb.constant(6)), (3,)),
    "FullRankGaussian": (lambda: lb.FullRankGaussian(lb.mlp(4, 8, 9)), (3,)),
    "LowRankGaussian": (lambda: lb.LowRankGaussian(lb.mlp(4, 8, 12), rank=2), (3,)),
    "Bernoulli that depends on nothing": (
        lambda: lb.Bernoulli(lb.constant(3, learned=False)),
        (3,),
    ),
    "Bernoulli": (lambda: lb.Bernoulli(lb.mlp(4, 8, (1, 5, 4))), (1, 5, 4)),
    "Categorical": (lambda: lb.Categorical(lb.mlp(4, 8, (6, 5, 4)), levels=6), (1, 5, 4)),
    "Categorical over vectors": (lambda: lb.Categorical(lb.mlp(4, 6), levels=2), (3,)),
    "Point": (lambda: lb.Point(lb.mlp(4, 3)), (3,)),
    "Masked": (lambda: lb.Masked(lb.Gaussian(lb.mlp(4, 6))), (3,)),
    "Standardized": (
        lambda: Standardized(lb.Gaussian(lb.mlp(4, 6)), Standardization(3)),
        (3,),
    ),
    "Flow": (lambda: lb.Flow("nsf", 3, context=4, transforms=2), (3,)),
    "Flow that depends on nothing": (lambda: lb.Flow("MAF", 3, hidden_features=(8,)), (3,)),
    "VampPrior": (lambda: lb.VampPrior(lb.Gaussian(lb.mlp(5, 6)), torch.rand(7, 5)), (3,)),
    "VampPrior of a full-rank posterior": (
        lambda: lb.VampPrior(lb.FullRankGaussian(lb.mlp(5, 9)), torch.rand(7, 5)),
        (3,),
    ),
    "VampPrior of a low-rank posterior": (
        lambda: lb.VampPrior(lb.LowRankGaussian(lb.mlp(5, 9), rank=1), torch.rand(7, 5)),
        (3,),
    ),
    "VampPrior of binary latents": (
        lambda: lb.VampPrior(lb.Bernoulli(lb.mlp(5, 3)), torch.rand(7, 5)),
        (3,),
    ),
}

# Whatever they are given, they ignore.
UNCONDITIONAL = {
    name
    for name in CONDITIONALS
    if name.startswith(("StandardNormal", "VampPrior")) or "on nothing" in name
}

# Mean and variance have no closed form.
WITHOUT_MOMENTS = {name for name in CONDITIONALS if name.startswith("Flow")}

# What is given to each has the shape (4,). The label is below 3, and the size a number.
CONDITIONALS_OF_A_FIELD = {
    "Gaussian": lambda: lb.Given(lb.Gaussian(lb.mlp(7, 8, 6)), "label", categories=3),
    "number": lambda: lb.Given(lb.Bernoulli(lb.mlp(5, 8, 3)), "size"),
    "two fields": lambda: lb.Given(
        lb.Given(lb.Gaussian(lb.mlp(8, 6)), "label", categories=3), "size"
    ),
    "masked": lambda: lb.Masked(lb.Given(lb.Gaussian(lb.mlp(7, 6)), "label", categories=3)),
    "given masked": lambda: lb.Given(lb.Masked(lb.Gaussian(lb.mlp(7, 6))), "label", categories=3),
    "point": lambda: lb.Given(lb.Point(lb.mlp(7, 3)), "label", categories=3),
    "flow": lambda: lb.Given(lb.Flow("nsf", 3, context=7, transforms=1), "label", categories=3),
}

OBJECTIVES = {
    "ELBO": lb.ELBO,
    "ELBO, 7 samples": lambda: lb.ELBO(samples=7),
    "ELBO, estimator A": lambda: lb.ELBO(samples=3, kl="sampled"),
    "ELBO, estimator B": lambda: lb.ELBO(samples=3, kl="closed-form"),
    "ELBO, sticking the landing": lambda: lb.ELBO(samples=3, gradient="sticking-the-landing"),
    "ELBO, score function": lambda: lb.ELBO(samples=3, gradient="score-function"),
    "ELBO, sampled score function": lambda: lb.ELBO(
        samples=3, kl="sampled", gradient="score-function"
    ),
    "ELBO, beta": lambda: lb.ELBO(beta=4.0),
    "ELBO, warm-up": lambda: lb.ELBO(beta=lb.Ramp(0.0, 1.0, epochs=2)),
    "ELBO, capacity": lambda: lb.ELBO(beta=10.0, capacity=lb.Ramp(0.0, 5.0, steps=3)),
    "IWAE": lambda: lb.IWAE(5),
    "IWAE, sticking the landing": lambda: lb.IWAE(5, "sticking-the-landing"),
    "IWAE, dreg": lambda: lb.IWAE(5, "dreg"),
    "IWAE, score function": lambda: lb.IWAE(5, "score-function"),
    "MIWAE": lambda: lb.IWAE(6, groups=3),
    "MIWAE, score function": lambda: lb.IWAE(6, "score-function", groups=3),
    "PIWAE": lambda: lb.IWAE(6, encoder_groups=3),
    "PIWAE, dreg": lambda: lb.IWAE(6, "dreg", encoder_groups=3),
    "CIWAE": lambda: lb.IWAE(6, elbo_weight=0.05),
    "Renyi": lambda: lb.Renyi(0.5, 4),
    "Renyi, dreg": lambda: lb.Renyi(0.5, 4, "dreg"),
    "Renyi above one": lambda: lb.Renyi(2.0, 4),
    "BetaTCVAE": lambda: lb.BetaTCVAE(beta=lb.Ramp(1.0, 6.0, steps=3), size=60, samples=2),
    "DIPVAE I": lambda: lb.DIPVAE("I", diagonal=100.0),
    "DIPVAE II": lambda: lb.DIPVAE("II", samples=3),
    "InfoVAE": lambda: lb.InfoVAE(alpha=0.5, weight=10.0, samples=2),
    "InfoVAE without a rate": lambda: lb.InfoVAE(1.0, 10.0, "rbf", scales=(0.5, 1)),
    "RAE": lambda: lb.RAE(weight=0.1),
    "RAE, gradient penalty": lambda: lb.RAE(0.1, gradient_penalty=0.5, samples=2),
}

# Pairs of an objective and a model that are refused, with the reason.
REFUSED = {
    ("BetaTCVAE", "full rank posterior"): "entries of a TriangularNormal are not independent",
    ("BetaTCVAE", "low rank posterior"): "entries of a .* are not independent",
    ("BetaTCVAE", "Flow posterior"): "entries of a NormalizingFlow are not independent",
    ("BetaTCVAE", "flow posterior"): "entries of a NormalizingFlow are not independent",
    **{
        (f"DIPVAE {version}", f"{letter}low posterior"): "mean of a NormalizingFlow is not known"
        for version in ("I", "II")
        for letter in "Ff"
    },
}


def _vae(posterior=None, prior=None, likelihood=None, shape=IMAGE, latent=2):
    return lb.LatentModel(
        prior or lb.StandardNormal(latent),
        posterior or lb.Gaussian(lb.mlp(shape, 16, 2 * latent, activation="tanh")),
        likelihood or lb.Gaussian(lb.mlp(latent, 16, (2, *shape[1:]), activation="tanh")),
    )


def _with_vamp_prior():
    posterior = lb.Gaussian(lb.mlp(IMAGE, 16, 4, activation="tanh"))
    return _vae(posterior, lb.VampPrior(posterior, torch.rand(5, *IMAGE)))


def _with_standardized_data():
    model = _vae()
    model.standardize(torch.rand(20, *IMAGE))
    return model


class Flatten(nn.Module):
    """A flow takes vectors; this gives it an image."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, x):
        return self.flow(x.flatten(1))


# All take images of shape IMAGE, binary where the name says so.
MODELS = {
    "Gaussian": _vae,
    "fixed scale": lambda: _vae(likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale=0.3)),
    "shared scale": lambda: _vae(likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale="shared")),
    "elementwise scale": lambda: _vae(
        likelihood=lb.Gaussian(lb.mlp(2, IMAGE), scale="elementwise", mean="sigmoid")
    ),
    "binary": lambda: _vae(likelihood=lb.Bernoulli(lb.mlp(2, 16, IMAGE))),
    "binary, by levels": lambda: _vae(likelihood=lb.Categorical(lb.mlp(2, (2, 9, 7)), levels=2)),
    "standardized": _with_standardized_data,
    "masked": lambda: _vae(likelihood=lb.Masked(lb.Gaussian(lb.mlp(2, IMAGE), scale=0.3))),
    "convolutional": lambda: _vae(
        lb.Gaussian(lb.conv(IMAGE, 4, 8, 4)), likelihood=lb.Gaussian(lb.conv(2, 8, 4, (2, 9, 7)))
    ),
    "own networks": lambda: _vae(
        lb.Gaussian(nn.Sequential(nn.Flatten(), nn.Linear(63, 4))),
        likelihood=lb.Gaussian(
            lb.flatten_leading(
                nn.Sequential(nn.Linear(2, 126), nn.Unflatten(1, (2, 9, 7))), 2, (2, 9, 7)
            )
        ),
    ),
    "image latents": lambda: _vae(
        lb.Gaussian(lb.mlp(IMAGE, (4, 2, 2))),
        lb.StandardNormal((2, 2, 2)),
        lb.Gaussian(lb.mlp((2, 2, 2), (2, 9, 7))),
    ),
    "full rank posterior": lambda: _vae(lb.FullRankGaussian(lb.mlp(IMAGE, 16, 5))),
    "low rank posterior": lambda: _vae(lb.LowRankGaussian(lb.mlp(IMAGE, 16, 6), rank=1)),
    "learned prior": lambda: _vae(prior=lb.Gaussian(lb.constant(4))),
    "Flow prior": lambda: _vae(prior=lb.Flow("nsf", 2, transforms=1, hidden_features=(8,))),
    "Flow posterior": lambda: _vae(
        lb.Flow("maf", 2, context=IMAGE, transforms=2, hidden_features=(8,))
    ),
    "VampPrior": _with_vamp_prior,
    "flow prior": lambda: _vae(prior=zuko.flows.NSF(2, transforms=1, hidden_features=(8,))),
    "flow posterior": lambda: _vae(
        Flatten(zuko.flows.MAF(2, 63, transforms=2, hidden_features=(8,)))
    ),
}


def images(model_name: str, count: int = 11) -> torch.Tensor:
    """Images that the model of that name can take."""
    grey = torch.rand(count, *IMAGE, generator=torch.Generator().manual_seed(1))
    return (grey > 0.5).float() if "binary" in model_name else grey
