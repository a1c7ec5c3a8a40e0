"""Mutations of tables: units, missing entries, imputations and conditional draws."""

import torch

from lowerbound.data.fields import OBSERVED
from lowerbound.distributions import columns, seasonal
from lowerbound.models import table

from . import breaks


@breaks("tables-normalised", "tables-units", "tables-missing-values")
def log_probabilities_of_a_table_lack_their_jacobian(patch):
    patch.setattr(columns.Units, "log_slopes", lambda self, value: torch.zeros_like(value))


@breaks("tables-normalised")
def the_slope_of_the_logit_is_that_of_the_logarithm(patch):
    original = columns.Units.log_slopes

    def log_slopes(self, value):
        transforms = self.transforms.clamp(max=columns.LOG)
        units = columns.Units(transforms, self.centre, self.spread, self.log_spread)
        return original(units, value)

    patch.setattr(columns.Units, "log_slopes", log_slopes)


@breaks("tables-normalised")
def seasons_lack_their_normalising_constant(patch):
    patch.setattr(seasonal.SeasonalLogistic, "_normalize", lambda self: torch.ones_like(self.loc))


@breaks("tables-missing-values")
def entries_that_are_not_observed_are_scored(patch):
    original = table.TableModel.conditioned

    def conditioned(self, x, given=None):
        given = dict(given or {})
        given[OBSERVED] = torch.ones_like(given[OBSERVED])
        return original(self, x, given)

    patch.setattr(table.TableModel, "conditioned", conditioned)


@breaks("tables-imputations", "tables-conditional-draws")
def latents_of_completed_rows_are_chosen_regardless_of_their_weights(patch):
    original = table.choose_by_weight
    patch.setattr(
        table,
        "choose_by_weight",
        lambda log_w, count: original(torch.zeros_like(log_w), count),
    )


@breaks("tables-imputations", "tables-conditional-draws")
def completed_rows_have_points_instead_of_draws(patch):
    original = table.complete_rows

    def complete(*values, mean=False, **settings):
        return original(*values, mean=True, **settings)

    patch.setattr(table, "complete_rows", complete)
    patch.setattr("lowerbound.evaluation.imputing.complete_rows", complete)
