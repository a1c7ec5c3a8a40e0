"""Recipes: for each paper or use, one function that composes a model and an objective."""

from lowerbound.recipes.aevb import aevb_bernoulli, aevb_gaussian
from lowerbound.recipes.discrete import categorical
from lowerbound.recipes.iwae import iwae
from lowerbound.recipes.posteriors import flow_posterior, iaf, sphere
from lowerbound.recipes.priors import flow_prior, mixture_prior, vampprior
from lowerbound.recipes.registry import RECIPES, Recipe, find_recipe, recipe

__all__ = [
    "RECIPES",
    "Recipe",
    "aevb_bernoulli",
    "aevb_gaussian",
    "categorical",
    "find_recipe",
    "flow_posterior",
    "flow_prior",
    "iaf",
    "iwae",
    "mixture_prior",
    "recipe",
    "sphere",
    "vampprior",
]
