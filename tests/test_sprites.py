"""Drawn pictures whose factors are known."""

import hashlib
import math

import pytest
import torch

import lowerbound as lb
from lowerbound.data import make_sprites
from lowerbound.data.sprites import SHAPES, draw_shapes
from lowerbound.errors import SettingsError

DOUBLE = torch.float64


def draw(shape="square", scale=1.0, orientation=0.0, x=0.5, y=0.5):
    values = [torch.tensor([value], dtype=DOUBLE) for value in (scale, orientation, x, y)]
    return draw_shapes(torch.tensor([SHAPES.index(shape)]), *values)[0]


def centre_of(picture):
    """The column and row of the mean pixel of a picture."""
    rows, columns = picture.nonzero(as_tuple=True)
    return float(columns.double().mean()), float(rows.double().mean())


@pytest.mark.parametrize(
    ("shape", "area"),
    [("square", 2 * 14**2), ("ellipse", 0.6 * math.pi * 14**2), ("heart", 3.661 / 1.26**2 * 14**2)],
)
def test_each_shape_has_its_area(shape, area):
    """Within 2%; the area inside of the heart's curve is 3.661."""
    for scale in (1.0, 0.7):
        found = [int(draw(shape, scale, turn).sum()) for turn in torch.linspace(0, 6, 20).tolist()]
        assert sum(found) / len(found) == pytest.approx(area * scale**2, rel=0.02)


@pytest.mark.parametrize("shape", ["square", "ellipse"])
def test_positions_are_from_left_to_right_and_from_top_to_bottom(shape):
    for x in (0.0, 0.3, 1.0):
        for y in (0.0, 0.8, 1.0):
            found = centre_of(draw(shape, 0.8, 0.3, x, y))
            assert found == pytest.approx((15 + 33 * x, 15 + 33 * y), abs=0.2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_never_cut_off(shape):
    for turn in torch.linspace(0, 2 * math.pi, 41).tolist():
        area = int(draw(shape, 1.0, turn).sum())
        for corner in ((0.0, 0.0), (1.0, 1.0)):
            picture = draw(shape, 1.0, turn, *corner)
            assert int(picture.sum()) == pytest.approx(area, rel=0.12)
            edges = (picture[0], picture[-1], picture[:, 0], picture[:, -1])
            assert not any(edge.any() for edge in edges)


def test_a_quarter_turn_changes_no_square_and_a_half_turn_no_ellipse():
    assert torch.equal(draw("square", 0.7, 0.4), draw("square", 0.7, 0.4 + math.pi / 2))
    assert torch.equal(draw("ellipse", 0.7, 0.4), draw("ellipse", 0.7, 0.4 + math.pi))
    assert not torch.equal(draw("heart", 0.7, 0.4), draw("heart", 0.7, 0.4 + math.pi))


def test_a_heart_stands_on_its_tip():
    rows = draw("heart").sum(1)
    used = rows.nonzero()[:, 0]
    assert rows[used[-1]] <= 2 < rows[used[0]]


def test_a_sprite_depends_on_the_seed_and_its_number_alone():
    few, many = make_sprites(5), make_sprites(9)
    assert torch.equal(few.values, many.values[:5])
    for name, factor in few.fields.items():
        assert torch.equal(factor, many.fields[name][:5])
    assert not torch.equal(make_sprites(5, seed=1).values, few.values)


def test_a_sprite_is_the_drawing_of_its_factors():
    sprites = make_sprites(8)
    shape, *others = (sprites.fields[name] for name in sprites.fields)
    again = draw_shapes(shape, *(other.double() for other in others))
    assert (again != sprites.values[:, 0]).float().mean() < 1e-3  # the factors were rounded


def test_the_factors_are_uniform_and_independent():
    """3,000 draws: counts and correlations within 5 standard errors."""
    sprites = make_sprites(3000)
    for name, levels in {"shape": 3, "scale": 6, "orientation": 40, "position_x": 32}.items():
        _, counts = sprites.fields[name].unique(return_counts=True)
        assert len(counts) == levels
        assert (counts - 3000 / levels).abs().max() < 5 * math.sqrt(3000 / levels)
    table = torch.stack([factor.double() for factor in sprites.fields.values()])
    ties = torch.corrcoef(table) - torch.eye(5)
    assert ties.abs().max() < 5 / math.sqrt(3000)


def test_the_named_data_set_is_the_same_on_every_machine():
    data = lb.load_data("sprites", test_fraction=0)
    assert (len(data.train), data.shape, data.train.levels) == (6000, (1, 64, 64), 2)
    first = data.train.values[:300].numpy().tobytes()
    assert hashlib.sha256(first).hexdigest()[:16] == "1fa8f4979f13b763"
    assert data.train.categories_by_field["shape"] == SHAPES
    assert set(data.train.batch(torch.arange(20)).unique().tolist()) == {0.0, 1.0}


def test_sprites_can_be_a_condition(trains):
    sprites = make_sprites(60)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 64, 64), 8, 4)),
        lb.Given(lb.Bernoulli(lb.mlp(5, 8, (1, 64, 64))), "shape", categories=3),
    )
    run = lb.fit(vae, lb.ELBO(), sprites, epochs=1, progress=False)
    assert run.model.sample(2, shape=1).shape == (2, 1, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "make_sprites: count=0"), ((2.5,), "make_sprites: count=2.5")],
)
def test_invalid_counts_say_why(arguments, message):
    with pytest.raises(SettingsError, match=message):
        make_sprites(*arguments)
