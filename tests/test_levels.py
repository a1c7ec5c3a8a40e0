"""Pixels that have other levels than those of a model's training data."""

import pytest
import torch

import lowerbound as lb
from lowerbound.data import Preprocessing
from lowerbound.data.raw import read_raw
from lowerbound.errors import DataError

PIXELS = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
FIELDS = {"age": [1.0, 2.0]}


def test_examples_with_other_levels_are_refused_with_the_right_ones():
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(4, 2)), lb.Gaussian(lb.mlp(1, 8))
    )
    model.preprocessing = Preprocessing((4,), levels=17)
    with pytest.raises(DataError, match=r"of 256 levels, .*of 17 levels.*pass levels=17"):
        lb.evaluate(model, lb.ELBO(), lb.Examples(PIXELS, levels=256, fields=FIELDS))
    assert lb.evaluate(model, lb.ELBO(), lb.Examples(PIXELS, levels=17, fields=FIELDS)).mean


@pytest.mark.parametrize("pixels", ["binarize", "binarize-once"])
def test_binary_pixels_suit_a_model_of_binarised_pixels(pixels):
    binary = lb.Examples(PIXELS % 2, levels=2)
    preprocessing = Preprocessing((4,), levels=256, pixels=pixels)
    assert read_raw(binary, preprocessing).levels == 2


def test_examples_that_were_loaded_keep_the_levels_of_their_source():
    loaded = lb.load_data(PIXELS, test_fraction=0.5).train
    assert read_raw(loaded, Preprocessing((4,), levels=17)).levels == 256
