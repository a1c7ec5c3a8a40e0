"""Mutations of fields, missing entries, pixels, counts and categories."""

import torch

from lowerbound.conditionals import Given
from lowerbound.data import pixels
from lowerbound.data.examples import Examples
from lowerbound.distributions import FactorialCategorical, MaskedDistribution, entries
from lowerbound.distributions.entries import entrywise_log_prob

from . import breaks


@breaks("given-fields")
def the_next_category_is_given(patch):
    original = Given._encode_field
    patch.setattr(
        Given,
        "_encode_field",
        lambda self, value, dtype: original(self, value, dtype).roll(1, -1),
    )


@breaks("missing-entries")
def missing_entries_are_scored(patch):
    patch.setattr(
        MaskedDistribution,
        "entrywise_log_prob",
        lambda self, value: entrywise_log_prob(
            self.base, entries.move_inside_support(self.base, value, ~self.observed)
        ),
    )


@breaks("missing-entries")
def missing_entries_are_not_filled(patch):
    patch.setattr(entries, "move_inside_support", lambda distribution, value, chosen: value)


@breaks("categories")
def levels_are_off_by_one(patch):
    original = FactorialCategorical.entrywise_log_prob
    patch.setattr(
        FactorialCategorical,
        "entrywise_log_prob",
        lambda self, value: original(self, value + 1 / (self.levels - 1)),
    )


@breaks("categories")
def categories_lack_their_normaliser(patch):
    original = FactorialCategorical.entrywise_log_prob
    patch.setattr(
        FactorialCategorical,
        "entrywise_log_prob",
        lambda self, value: original(self, value) + self.logits.logsumexp(self.axis),
    )


@breaks("bits-per-dimension")
def dequantised_bits_lack_the_levels(patch):
    original = Examples.bits_per_dimension

    def bits(self, bound, **settings):
        found = original(self, bound, **settings)
        return found - 8 if self.pixels == "dequantize" else found

    patch.setattr(Examples, "bits_per_dimension", bits)


@breaks("random-pixels")
def dequantised_pixels_fill_half_of_their_bin(patch):
    original = pixels._draw_uniform
    patch.setattr(pixels, "_draw_uniform", lambda stored, dtype: 0.5 * original(stored, dtype))


@breaks("random-pixels")
def dequantised_pixels_are_divided_by_255(patch):
    original = Examples.batch

    def batch(self, index, dtype=torch.float32):
        found = original(self, index, dtype)
        return found * (256 / 255) if self.pixels == "dequantize" else found

    patch.setattr(Examples, "batch", batch)


@breaks("counts")
def counts_are_scaled(patch):
    original = Examples.decode
    patch.setattr(
        Examples,
        "decode",
        lambda self, stored, dtype=torch.float32: (original(self, stored, dtype) / 2).round(),
    )
