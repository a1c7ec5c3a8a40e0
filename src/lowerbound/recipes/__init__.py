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
]
