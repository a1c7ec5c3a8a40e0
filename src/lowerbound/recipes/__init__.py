"""Recipes: for each paper or use, one function that composes a model and an objective."""

from lowerbound.recipes.aevb import aevb_bernoulli, aevb_gaussian
from lowerbound.recipes.counts import counts
from lowerbound.recipes.deep import deep
from lowerbound.recipes.discrete import categorical
from lowerbound.recipes.disentangled import beta_tc, beta_vae, dip, factor
from lowerbound.recipes.iwae import dreg, iwae, iwae_2layer
from lowerbound.recipes.labelled import conditional, semi_supervised
from lowerbound.recipes.ladder import ladder
from lowerbound.recipes.photos import photos
from lowerbound.recipes.posteriors import flow_posterior, iaf, sphere
from lowerbound.recipes.priors import flow_prior, mixture_prior, vampprior
from lowerbound.recipes.quantized import fsq, residual_vq, vq
from lowerbound.recipes.registry import RECIPES, FieldForm, Form, Recipe, find_recipe, recipe
from lowerbound.recipes.sequence import sequence
from lowerbound.recipes.sigma_vae import sigma_vae
from lowerbound.recipes.table import missing_not_at_random, table
from lowerbound.recipes.wasserstein import adversarial, info, mmd_wae, rae

__all__ = [
    "RECIPES",
    "FieldForm",
    "Form",
    "Recipe",
    "adversarial",
    "aevb_bernoulli",
    "aevb_gaussian",
    "beta_tc",
    "beta_vae",
    "categorical",
    "conditional",
    "counts",
    "deep",
    "dip",
    "dreg",
    "factor",
    "find_recipe",
    "flow_posterior",
    "flow_prior",
    "fsq",
    "iaf",
    "info",
    "iwae",
    "iwae_2layer",
    "ladder",
    "missing_not_at_random",
    "mixture_prior",
    "mmd_wae",
    "photos",
    "rae",
    "recipe",
    "residual_vq",
    "semi_supervised",
    "sequence",
    "sigma_vae",
    "sphere",
    "table",
    "vampprior",
    "vq",
]
