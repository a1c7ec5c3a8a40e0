"""Recipes: for each paper or use, one function that composes a model and an objective."""

from lowerbound.recipes.aevb import aevb_bernoulli, aevb_gaussian
from lowerbound.recipes.counts import counts
from lowerbound.recipes.iwae import iwae
from lowerbound.recipes.registry import RECIPES, Form, Recipe, find_recipe, recipe
from lowerbound.recipes.sequence import sequence
from lowerbound.recipes.sigma_vae import sigma_vae

__all__ = [
    "RECIPES",
    "Form",
    "Recipe",
    "aevb_bernoulli",
    "aevb_gaussian",
    "counts",
    "find_recipe",
    "iwae",
    "recipe",
    "sequence",
    "sigma_vae",
from lowerbound.recipes.deep import deep
from lowerbound.recipes.iwae import iwae, iwae_2layer
from lowerbound.recipes.labelled import conditional, semi_supervised
from lowerbound.recipes.ladder import ladder
from lowerbound.recipes.quantized import fsq, residual_vq, vq
from lowerbound.recipes.registry import RECIPES, Recipe, find_recipe, recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "aevb_bernoulli",
    "aevb_gaussian",
    "conditional",
    "deep",
    "find_recipe",
    "fsq",
    "iwae",
    "iwae_2layer",
    "ladder",
    "recipe",
    "residual_vq",
    "semi_supervised",
    "vq",
]
