from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lowerbound.data import Dataset, Examples, load_data
from lowerbound.errors import DataError, SettingsError
from lowerbound.runtime import noise


def everything(examples: Examples, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return examples.batch(torch.arange(len(examples)), dtype)


@pytest.fixture
def greys() -> Examples:
    """All 256 shades, once in each of 40 examples."""
    return Examples.of(torch.arange(256).to(torch.uint8).repeat(40, 1))


@pytest.mark.parametrize(("levels", "top"), [(256, 255), (17, 16), (2, 1)])
def test_integers_are_scaled_to_the_unit_interval(levels, top):
    x = everything(Examples(torch.tensor([[0, 1, top]], dtype=torch.uint8), levels=levels))
    assert x.tolist() == [[0.0, 1 / top, 1.0]]


def test_floats_are_kept():
    values = torch.randn(4, 2, 3, dtype=torch.float64)
    assert torch.equal(everything(Examples.of(values)), values)


@pytest.mark.parametrize(("rows", "message"), [
    (torch.tensor([0, -3, 2]), r"rows\[1\] is -3; give the positions"),
    (torch.arange(2), r"rows has the type torch.int64 and the shape \(2,\); give one"),
    (torch.zeros(3), "rows has the type torch.float32"),
])  # fmt: skip
def test_row_numbers_that_examples_cannot_have_are_refused(rows, message):
    with pytest.raises(DataError, match=message):
        Examples(torch.zeros(3, 2), rows=rows)


def test_dequantised_values_stay_in_their_bin(greys):
    dequantised = greys.prepare("dequantize")
    for dtype in (torch.float32, torch.float64):
        x = everything(dequantised, dtype)
        assert x.min() >= 0
        assert x.max() < 1
        assert torch.equal((x * 256).floor().to(torch.uint8), greys.values)
    offset = everything(dequantised) * 256 - greys.values
    # five standard errors of a uniform mean over 40 * 256 draws
    assert abs(offset.mean() - 0.5) < 5 / math.sqrt(12 * offset.numel())
    assert not torch.equal(everything(dequantised), everything(dequantised))


def test_dynamic_binarisation_has_the_grey_values_for_means(greys):
    binary = greys.prepare("binarize")
    index = torch.zeros(4000, dtype=torch.long)
    draws = binary.batch(index)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    p = torch.arange(256) / 255
    error = (draws.mean(0) - p) / (p * (1 - p) / len(index)).sqrt().clamp_min(1e-9)
    assert error.abs().max() < 5.5  # 256 tests at 4e-8 each
    assert draws[:, 0].sum() == 0
    assert draws[:, 255].sum() == len(index)


def test_static_binarisation_is_drawn_once(greys):
    static = greys.prepare("binarize-once", seed=3)
    assert torch.equal(everything(static), everything(static))
    assert torch.equal(static.values, greys.prepare("binarize-once", seed=3).values)
    assert not torch.equal(static.values, greys.prepare("binarize-once", seed=4).values)
    assert (static.levels, static.pixels) == (2, "as-is")
    p = everything(greys).mean()
    assert abs(everything(static).mean() - p) < 5 * 0.5 / math.sqrt(greys.values.numel())


def test_static_binarisation_does_not_depend_on_chunks(greys, monkeypatch):
    whole = greys.prepare("binarize-once", seed=1).values
    monkeypatch.setattr("lowerbound.data.rows._CHUNK_BYTES", 7)
    assert torch.equal(greys.prepare("binarize-once", seed=1).values, whole)
    fewer = greys.subset(torch.arange(11)).prepare("binarize-once", seed=1).values
    assert torch.equal(fewer, whole[:11])


@pytest.mark.parametrize("levels", [2, 17, 243, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_noise_does_not_leave_the_bin(monkeypatch, levels, dtype):
    monkeypatch.setattr(
        noise, "uniform", lambda shape, axis, **_: torch.full(shape, 1 - 2.0**-24, dtype=dtype)
    )
    values = torch.arange(levels).to(torch.uint8)[None]
    x = everything(Examples(values, levels=levels, pixels="dequantize"), dtype)
    assert x.max() < 1
    assert (x.double() < (values + 1.0).double() / levels).all()


@pytest.mark.parametrize("pixels", ["dequantize", "binarize"])
def test_evaluation_noise_belongs_to_examples(greys, pixels):
    prepared = greys.prepare(pixels)

    def evaluate(index):
        with noise.per_example(0, index):
            return prepared.batch(index)

    whole = evaluate(torch.arange(40))
    assert torch.equal(evaluate(torch.tensor([5, 30])), whole[[5, 30]])


def test_bits_per_dimension():
    from hypothesis import given
    from hypothesis import strategies as st

    @given(
        bound=st.floats(-1e4, 1e4),
        levels=st.sampled_from([2, 17, 256]),
        shape=st.sampled_from([(3,), (1, 2, 2), (3, 4, 4)]),
    )
    def check(bound, levels, shape):
        values = torch.zeros(2, *shape, dtype=torch.uint8)
        examples = Examples(values, levels=levels, pixels="dequantize")
        # computed otherwise: nats per dimension on the scale of the integers, with bins of width 1
        nats = -bound / math.prod(shape) + math.log(levels)
        assert examples.bits_per_dimension(bound) == pytest.approx(nats / math.log(2))
        assert Examples(values, levels=levels).bits_per_dimension(bound) is None

    check()


def test_bits_per_dimension_need_to_know_whether_the_likelihood_is_a_mass(greys):
    with pytest.raises(SettingsError, match="mass='density' must be True or False"):
        greys.bits_per_dimension(-3.0, mass="density")


def test_uniform_density_costs_all_bits():
    assert (
        Examples(
            torch.zeros(2, 5, dtype=torch.uint8), levels=256, pixels="dequantize"
        ).bits_per_dimension(0)
        == 8
    )


def test_split_is_disjoint_and_complete():
    from hypothesis import given
    from hypothesis import strategies as st

    @given(count=st.integers(2, 60), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
    def check(count, fraction, seed):
        examples = Examples(torch.arange(count * 2.0).reshape(count, 2), labels=torch.arange(count))
        held_out = round(count * fraction)
        if not 0 < held_out < count:
            with pytest.raises(SettingsError, match="leaves a part empty"):
                examples.split(fraction, seed=seed)
            return
        train, test = examples.split(fraction, seed=seed)
        assert len(test) == held_out
        assert sorted([*train.labels.tolist(), *test.labels.tolist()]) == list(range(count))
        assert torch.equal(test.values[:, 0], 2.0 * test.labels)
        again = examples.split(fraction, seed=seed)[1]
        assert torch.equal(again.values, test.values)

    check()


def test_splits_differ_between_seeds():
    examples = Examples.of(torch.rand(100, 1))
    assert not torch.equal(
        examples.split(0.5, seed=0)[1].values, examples.split(0.5, seed=1)[1].values
    )


@pytest.mark.parametrize(
    ("bad", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")]
)
def test_the_first_row_that_is_not_finite_is_named(bad, shown):
    values = torch.zeros(5000, 2, 3)
    values[4321, 1, 1] = values[4800, 0, 0] = bad
    with pytest.raises(DataError, match=rf"table\.npy: row 4321, entry 4 is {shown}"):
        Examples.of(values, name="table.npy")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_integers_are_refused(dtype):
    with pytest.raises(
        DataError, match=f'counts: integers of type {str(dtype)[6:]} .*kind="counts"'
    ):
        Examples.of(torch.zeros(2, 2, dtype=dtype), name="counts")


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)]
)
def test_narrow_floats_are_widened(dtype, kept):
    assert Examples.of(torch.zeros(2, 2, dtype=dtype)).values.dtype == kept


def test_booleans_are_binary_pixels():
    examples = Examples.of(np.array([[True, False]]))
    assert examples.levels == 2
    assert everything(examples).tolist() == [[1.0, 0.0]]


def test_given_arrays_are_copied():
    array = np.zeros((2, 2))
    examples = Examples.of(array)
    array[:] = np.nan
    assert torch.equal(everything(examples), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0)])
def test_shapes_without_examples_or_dimensions_are_refused(shape):
    with pytest.raises(DataError, match="at least one example"):
        Examples.of(torch.zeros(shape))


def test_labels_must_match():
    with pytest.raises(DataError, match="2 examples but labels of shape"):
        Examples(torch.zeros(2, 2), labels=torch.zeros(3, dtype=torch.long))


def test_treatments_that_have_no_meaning_are_refused():
    floats = Examples.of(torch.tensor([[0.5, 1.5]]), name="floats")
    with pytest.raises(DataError, match="floats: only data of known discretisation"):
        floats.prepare("dequantize")
    for pixels in ("binarize", "binarize-once"):
        with pytest.raises(
            DataError, match=r"floats: only values in \[0, 1\] can be binarised, .*0\.5, 1\.5"
        ):
            floats.prepare(pixels)
    with pytest.raises(SettingsError, match="pixels='fuzzy' is unknown"):
        floats.prepare("fuzzy")


def test_dataset_prepares_both_parts_from_different_noise():
    half = Examples.of(torch.full((4, 50), 0.5))
    dataset = Dataset(half, half, "grey").prepare("binarize-once", seed=0)
    assert dataset.train.levels == dataset.test.levels == 2
    assert not torch.equal(dataset.train.values, dataset.test.values)


def test_a_dataset_is_not_examples():
    half = Examples.of(torch.rand(4, 5))
    assert Examples.of(half) is half
    with pytest.raises(DataError, match=r"pass its \.train or its \.test"):
        Examples.of(Dataset(half, half, "two"))


def test_a_spread_has_some_of_everything():
    examples = Examples.of(torch.arange(100.0)[:, None])
    assert examples.spread(5).values.flatten().tolist() == [0, 25, 50, 74, 99]
    assert len(examples.spread(200)) == 100
    assert examples.spread(1).values.item() == 0


LABELS = [0, 1, 1]


@pytest.mark.parametrize("labels", [LABELS, tuple(LABELS), np.array(LABELS, dtype=np.uint8)])
@pytest.mark.parametrize("values", [np.ones((3, 2), dtype=np.float32), [[1.0, 1.0]] * 3])
def test_lists_and_arrays_become_tensors(values, labels):
    for examples in (Examples(values, labels=labels), Examples.of(values, labels=labels)):
        assert isinstance(examples.values, torch.Tensor)
        assert examples.labels.tolist() == LABELS
        assert examples.labels.dtype == torch.int64
        assert "2 classes" in repr(examples)
        assert examples.subset(torch.tensor([2, 0])).labels.tolist() == [1, 0]


@pytest.mark.parametrize("labels", [["dog", "cat", "dog"], np.array(["dog", "cat", "dog"])])
def test_labels_that_are_text_become_categories(labels):
    examples = Examples(torch.rand(3, 2), labels=labels)
    assert examples.labels.tolist() == [1, 0, 1]
    assert examples.label_names == ("cat", "dog")
    assert examples.categories_by_field == {"label": ("cat", "dog")}
    with pytest.raises(DataError, match="their own names; leave out label_names"):
        Examples(torch.rand(3, 2), labels=labels, label_names=("a", "b"))


def test_what_cannot_be_values_or_labels_is_refused_with_a_remedy():
    values = torch.rand(3, 2)
    with pytest.raises(DataError, match=r"labels are torch\.float64, not integers or text; round"):
        Examples(values, labels=[0.5, 1.0, 2.0])
    with pytest.raises(DataError, match="give one label for each example, in one dimension"):
        Examples(values, labels=[0, 1])
    with pytest.raises(DataError, match=r"values cannot be read .*give a tensor or an array"):
        Examples([["a", "b"]])


def test_load_data_takes_labels():
    data = load_data(torch.rand(20, 4), labels=["a", "b"] * 10, test_fraction=0.5)
    assert data.train.label_names == data.test.label_names == ("a", "b")
    assert len(data.test.labels) == 10
    with pytest.raises(DataError, match="already has labels"):
        load_data(data.train, labels=[0] * 10)
    with pytest.raises(DataError, match="has its own test part"):
        load_data(data, labels=[0] * 20)


def test_complex_numbers_are_refused_as_such():
    with pytest.raises(DataError, match="contains complex numbers of type"):
        Examples(torch.zeros(3, 2, dtype=torch.complex64))
