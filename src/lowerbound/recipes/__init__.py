"""One function per paper or use: each puts prior, posterior, likelihood, networks and an objective together."""

from lowerbound.recipes.aevb import aevb_bernoulli, aevb_gaussian
from lowerbound.recipes.iwae import iwae
from lowerbound.recipes.registry import RECIPES, Recipe, find_recipe, recipe

__all__ = ["RECIPES", "Recipe", "aevb_bernoulli", "aevb_gaussian", "find_recipe", "iwae", "recipe"]
