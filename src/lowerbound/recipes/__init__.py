"""Recipes: for each paper or use, one function that composes a model and an objective."""

from lowerbound.recipes.aevb import aevb_bernoulli, aevb_gaussian
from lowerbound.recipes.disentangled import beta_tc, beta_vae, dip, factor
from lowerbound.recipes.iwae import iwae
from lowerbound.recipes.registry import RECIPES, Recipe, find_recipe, recipe
from lowerbound.recipes.wasserstein import adversarial, info, mmd_wae, rae

__all__ = [
    "RECIPES",
    "Recipe",
    "adversarial",
    "aevb_bernoulli",
    "aevb_gaussian",
    "beta_tc",
    "beta_vae",
    "dip",
    "factor",
    "find_recipe",
    "info",
    "iwae",
    "mmd_wae",
    "rae",
    "recipe",
]
