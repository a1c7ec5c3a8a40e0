"""What is given with examples, what entries are, and which of them are missing."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import Dataset, Examples, load_data
from lowerbound.data.arrays import as_examples
from lowerbound.data.images import convert_images
from lowerbound.errors import DataError, SettingsError

INTEGERS = [
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
]
COUNTS = torch.tensor([[0, 3], [100, 7], [2, 0]])
TABLE = np.array([[1.0, np.nan], [np.nan, np.nan], [0.5, -2.0], [0.0, 4.0]], dtype=np.float32)
EVERY = torch.arange(3)


# --- fields ---------------------------------------------------------------------------------------


def test_fields_become_tensors_of_three_types():
    examples = Examples(
        torch.rand(3, 2),
        fields={
            "batch": np.array([0, 2, 1], dtype=np.int16),
            "depth": [0.5, 1.5, 2.5],
            "seen": np.array([[True], [False], [True]]),
            "half": torch.ones(3, dtype=torch.float16),
            "donor": ["b", "a", "b"],
        },
    )
    assert {name: field.dtype for name, field in examples.fields.items()} == {
        "batch": torch.int64,
        "depth": torch.float64,
        "seen": torch.bool,
        "half": torch.float32,
        "donor": torch.int64,
    }
    assert examples.fields["donor"].tolist() == [1, 0, 1]
    assert examples.categories == {"donor": ("a", "b")}
    assert replace(examples, name="again").categories == {"donor": ("a", "b")}
    assert examples.subset(torch.tensor([2, 0])).fields["batch"].tolist() == [1, 0]
    assert "fields batch depth seen half donor" in repr(examples)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": [1, 2, 3]}, "a field cannot be called 'x'"),
        ({"samples": [1, 2, 3]}, "a field cannot be called 'samples'"),
        ({"gradient": [1, 2, 3]}, "a field cannot be called 'gradient'"),
        ({"cell type": [1, 2, 3]}, "'cell type' has a name that a Python argument cannot have"),
        ({"class": [1, 2, 3]}, "'class' has a name that a Python argument cannot have"),
        ({3: [1, 2, 3]}, "the field 3 has a name"),
        ({"batch": [1, 2]}, r"3 examples, but the field 'batch' has the shape \(2,\)"),
        ({"batch": 1}, r"3 examples, but the field 'batch' has the shape \(\)"),
        ({"depth": [1.0, math.nan, 2.0]}, r"'depth' is non-finite in row 1 \(nan\)"),
        ({"depth": torch.tensor([[1.0], [1.0], [math.inf]])}, "'depth' is non-finite in row 2"),
        ({"depth": [1j, 2j, 3j]}, "complex numbers"),
        ({"donor": ["a", None, "b"]}, r"'donor' has text, but entry 1 is None"),
        ({"donor": [[1], [2, 3], [4]]}, "'donor' cannot be read as an array"),
        ({"observed": [True, False, True]}, r"must be boolean and of shape \(3, 2\)"),
        ({"observed": torch.ones(3, 2)}, r"must be boolean and of shape \(3, 2\)"),
    ],
)
def test_fields_that_no_model_can_receive(fields, message):
    with pytest.raises(DataError, match=f"cells: .*{message}"):
        Examples(torch.rand(3, 2), fields=fields, name="cells")


def test_labels_are_a_field_of_their_own():
    labels = torch.tensor([0, 1, 1])
    with pytest.raises(DataError, match="the labels are the field 'label'"):
        Examples(torch.rand(3, 2), labels=labels, fields={"label": labels})
    assert Examples(torch.rand(3, 2), fields={"label": labels}).given(EVERY, ["label"])


def test_fields_of_both_parts_are_joined_in_the_order_of_the_source():
    whole = Examples(torch.rand(20, 2), fields={"batch": range(20), "donor": ["a", "b"] * 10})
    train, test = whole.split(0.3, seed=4)
    joined = Dataset(train, test, "cells").all()
    assert torch.equal(joined.values, whole.values)
    assert joined.fields["batch"].tolist() == list(range(20))
    assert joined.categories == {"donor": ("a", "b")}


def test_the_digest_is_of_the_values_and_each_field_has_its_own():
    values, batch = torch.rand(3, 2), torch.tensor([0, 1, 0])
    examples = Examples(values, labels=batch, fields={"batch": batch, "other": batch + 1})
    assert examples.digest() == hashlib.sha256(values.numpy().tobytes()).hexdigest()
    digests = examples.field_digests(["batch"], ["label", "absent"])
    assert digests.keys() == {"batch", "label"}
    assert digests["batch"] == digests["label"]
    changed = replace(examples, fields={"batch": torch.tensor([0, 1, 1])})
    assert changed.digest() == examples.digest()
    assert changed.field_digests(["batch"]) != examples.field_digests(["batch"])
    as_floats = replace(examples, fields={"batch": batch.double()})
    assert as_floats.field_digests(["batch"]) != examples.field_digests(["batch"])
    with pytest.raises(DataError, match="needs the field 'absent'"):
        examples.field_digests(["absent"])


def test_what_a_run_records_of_examples():
    labels = torch.tensor([0, 1, 1])
    examples = Examples(torch.rand(3, 2), labels=labels)
    recorded = {"count": 3, "shape": [2], "pixels": "as-is", "levels": None}
    recorded["sha256"] = examples.digest()
    # as runs recorded it before there were fields, so that these can be resumed
    assert examples.identity() == recorded
    other = replace(examples, labels=1 - labels)
    assert other.identity() == examples.identity()
    assert other.identity(["label"]) != examples.identity(["label"])
    assert examples.identity(accepts=["label", "batch"])["fields"].keys() == {"label"}
    assert Examples(COUNTS, kind="counts").identity()["kind"] == "counts"


def test_fields_of_values_in_a_file_are_in_memory(tmp_path):
    np.save(tmp_path / "values.npy", np.random.default_rng(0).random((20, 3)))
    there = np.load(tmp_path / "values.npy", mmap_mode="r")
    examples = as_examples(there, name="a", fields={"batch": np.arange(20)})
    chosen = examples.split(0.5, seed=0)[1].first(4)
    rows = chosen.fields["batch"]
    assert torch.equal(chosen.values[torch.arange(4)], torch.from_numpy(there[rows.numpy()]))


# --- fields of a file -----------------------------------------------------------------------------

VALUES = np.random.default_rng(1).random((20, 3)).astype(np.float32)


def test_other_arrays_of_an_npz_are_named_or_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=VALUES, y=np.arange(20), Batch=np.arange(20) % 3, depth=VALUES[:, 0])
    with pytest.raises(DataError, match=r"also contains Batch, depth; .*--fields Batch"):
        load_data(path)
    data = load_data(path, fields=["batch"])
    assert data.train.fields.keys() == {"batch"}
    assert torch.equal(data.train.fields["batch"], data.train.labels % 3)
    assert load_data(path, fields="batch, depth").train.fields.keys() == {"batch", "depth"}
    for none in ("none", []):
        assert not load_data(path, fields=none).train.fields
    with pytest.raises(DataError, match="has no array age for the field 'age'; it contains Batch"):
        load_data(path, fields="age")


def test_fields_of_an_npz_with_two_parts(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"x_train": VALUES, "x_test": VALUES[:4], "batch_train": np.arange(20)}
    np.savez(path, **arrays, batch_test=np.arange(4))
    with pytest.raises(
        DataError, match=r"also contains batch_train, batch_test; .*--fields batch\)"
    ):
        load_data(path)
    data = load_data(path, fields="batch")
    assert data.train.fields["batch"].tolist() == list(range(20))
    assert data.test.fields["batch"].tolist() == list(range(4))
    np.savez(path, **arrays)
    with pytest.raises(DataError, match="has no array batch_test for the field 'batch'"):
        load_data(path, fields="batch")


def test_the_one_array_beside_the_fields_is_the_values(tmp_path):
    np.savez(tmp_path / "a.npz", counts=VALUES, batch=np.arange(20), depth=np.arange(20.0))
    assert load_data(tmp_path / "a.npz", fields="batch,depth").shape == (3,)
    with pytest.raises(DataError, match="expected x_train"):
        load_data(tmp_path / "a.npz", fields="batch")


def test_fields_that_a_source_does_not_have(tmp_path):
    np.save(tmp_path / "a.npy", VALUES)
    for source in (tmp_path / "a.npy", VALUES, Examples.of(VALUES), "digits"):
        with pytest.raises(DataError, match=r"has no field 'batch'; the fields are: (none|label)"):
            load_data(source, fields=["batch"])
    with pytest.raises(DataError, match="names columns of AnnData, but this is an array"):
        Examples.of(VALUES, fields=["batch"])
    assert Examples.of(VALUES, fields={"batch": range(20)}).fields.keys() == {"batch"}


def test_both_parts_have_the_same_categories():
    train, test = (
        Examples(torch.rand(2, 3), fields={"donor": ["a", other]}, name=name)
        for name, other in (("one", "b"), ("two", "c"))
    )
    with pytest.raises(
        DataError, match="one has the categories a, b of the field 'donor', but two a, c"
    ):
        load_data((train, test))


# --- counts and codes -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("kind", ["counts", "codes"])
def test_counts_and_codes_are_not_scaled(dtype, kind):
    for make in (Examples, Examples.of):
        examples = make(COUNTS.to(dtype), kind=kind)
        assert examples.batch(EVERY).tolist() == COUNTS.tolist()
        assert examples.batch(EVERY, torch.float64).dtype == torch.float64
        assert examples.levels == {"counts": None, "codes": 101}[kind]
        assert examples.is_discrete
        assert examples.bits_per_dimension(-1.0) is None
        assert kind in repr(examples)
    signed = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
    assert examples.values.dtype == signed.get(dtype, dtype)
    there = load_data(COUNTS.to(dtype).numpy(), kind=kind, test_fraction=0.4, seed=0)
    assert there.all().batch(EVERY).tolist() == COUNTS.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16", "float32", "bool"])
def test_counts_in_a_file(tmp_path, dtype):
    array = (np.arange(60).reshape(20, 3) % 2).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    for keep_in in ("memory", "file"):
        data = load_data(tmp_path / "a.npy", kind="counts", keep_in=keep_in).all()
        assert (data.kind, data.levels) == ("counts", None)
        assert np.array_equal(data.batch(torch.arange(20)).numpy(), array.astype("float32"))


def test_floats_that_are_whole_numbers_stay_numbers():
    examples = Examples.of(torch.tensor([[300.0, 256.0]]))
    assert (examples.kind, examples.levels, examples.is_discrete) == (None, None, False)
    assert examples.batch(torch.tensor([0])).tolist() == [[300.0, 256.0]]


@pytest.mark.parametrize(
    ("values", "kind", "levels", "message"),
    [
        ([[0, 1], [2, -1]], "counts", None, "row 1, entry 1 is -1; counts are whole numbers"),
        ([[0.0, 1.5], [2.0, 1.0]], "counts", None, "row 0, entry 1 is 1.5; counts are whole"),
        ([[0.0, math.nan]], "counts", None, "row 0, entry 1 is nan"),
        ([[0, 1], [3, 2]], "codes", 3, "row 1, entry 0 is 3; codes of 3 levels .* from 0 to 2"),
        ([[-1, -2]], "codes", None, "row 0, entry 0 is -1; codes of 1 levels"),
        ([[0.5, 1.0]], "codes", None, "row 0, entry 0 is 0.5; codes of 2 levels"),
    ],
)
def test_entries_that_are_not_of_their_kind(values, kind, levels, message):
    with pytest.raises(DataError, match=f"genes: {message}"):
        Examples(torch.tensor(values), levels=levels, kind=kind, name="genes")


def test_kinds_that_are_not_known():
    with pytest.raises(SettingsError, match="kind='count' is unknown; choose one of counts, codes"):
        Examples(COUNTS, kind="count")
    with pytest.raises(SettingsError, match="kind"):
        load_data(COUNTS, kind="count")
    with pytest.raises(DataError, match=r'pass levels=256 if they are pixels, kind="counts"'):
        Examples(COUNTS.to(torch.uint8))


@pytest.mark.parametrize("pixels", ["dequantize", "binarize", "binarize-once"])
@pytest.mark.parametrize("kind", ["counts", "codes"])
def test_only_pixels_are_treated_as_pixels(pixels, kind):
    examples = Examples(COUNTS.to(torch.uint8) % 2, kind=kind, name="genes")
    with pytest.raises(DataError, match=rf"genes: pixels='binari.* these entries are {kind}|deq"):
        examples.prepare(pixels)
    with pytest.raises(DataError, match=f"these entries are {kind}"):
        load_data(examples, test_fraction=0.4, pixels=pixels)


def test_maps_of_codes_are_not_resized():
    maps = Examples(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), kind="codes", levels=5)
    with pytest.raises(DataError, match=r"image_size=.* is possible only for uint8 pictures"):
        convert_images(maps, size=(4, 4), color="keep", resize="crop")


def test_a_pair_of_codes_has_the_levels_of_both():
    data = load_data((COUNTS, COUNTS.clamp_max(5)), kind="codes")
    assert data.train.levels == data.test.levels == 101
    with pytest.raises(
        DataError, match=r"one contains counts, but two torch\.float32; give both the same kind"
    ):
        load_data(
            (Examples(COUNTS, kind="counts", name="one"), Examples(COUNTS.float(), name="two"))
        )


def test_a_kind_that_has_no_effect_is_refused():
    for source in ("digits", Examples.of(VALUES), Examples(COUNTS, kind="codes")):
        with pytest.raises(DataError, match="kind='counts' has no effect, because"):
            load_data(source, kind="counts")
    assert load_data(Examples(COUNTS, kind="counts"), kind="counts", test_fraction=0.4)
    with pytest.raises(DataError, match="these already are Examples, so kind= has no effect"):
        Examples.of(Examples.of(VALUES), kind="counts")


@pytest.mark.parametrize(
    ("pixels", "discrete"),
    [("as-is", True), ("binarize", True), ("binarize-once", True), ("dequantize", False)],
)
def test_what_is_discrete(pixels, discrete):
    greys = Examples.of(torch.tensor([[0, 255]], dtype=torch.uint8))
    assert greys.prepare(pixels).is_discrete == discrete


# --- missing values -------------------------------------------------------------------------------


def test_missing_values_are_zeros_with_a_mask(tmp_path):
    np.save(tmp_path / "a.npy", TABLE)
    seen = ~np.isnan(TABLE)
    there = load_data(tmp_path / "a.npy", missing="nan", keep_in="file", test_fraction=0.5).all()
    for examples in (
        Examples(torch.from_numpy(TABLE), missing="nan"),
        Examples.of(TABLE, missing="nan"),
        Examples.of(np.load(tmp_path / "a.npy", mmap_mode="r"), missing="nan"),
        as_examples(TABLE, name="a", missing="nan"),
        load_data(TABLE, missing="nan", test_fraction=0.5).all(),
        there,
    ):
        assert np.array_equal(examples.fields["observed"].numpy(), seen)
        assert np.array_equal(examples.batch(torch.arange(4)).numpy(), np.where(seen, TABLE, 0))
        # the mask stays with its rows, whatever is done with the examples
        chosen = examples.subset(torch.tensor([2, 0]))
        assert chosen.fields["observed"].tolist() == [[True, True], [True, False]]
        assert chosen.values[torch.tensor([1])].tolist() == [[1.0, 0.0]]
        assert replace(examples, name="b").fields["observed"].sum() == 5
    assert np.isnan(TABLE).sum() == 3  # what was given is not changed
    assert there.digest() == Examples.of(TABLE, missing="nan").digest()


def test_counts_may_be_missing():
    counts = torch.tensor([[3.0, math.nan], [0.0, 1.0]])
    examples = Examples(counts, kind="counts", missing="nan")
    assert examples.batch(torch.arange(2)).tolist() == [[3.0, 0.0], [0.0, 1.0]]
    with pytest.raises(DataError, match=r"row 0, entry 0 is 0\.5; counts"):
        Examples(torch.tensor([[0.5, math.nan]]), kind="counts", missing="nan")


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (TABLE, {}, r'row 0, entry 1 is nan; .*pass missing="nan" in Python .*lb\.Masked'),
        ([[math.inf, math.nan]], {"missing": "nan"}, "row 0, entry 0 is inf; drop such rows"),
        ([[math.nan, math.nan]], {"missing": "nan"}, "every entry is NaN"),
        (
            [[1.0, math.nan]],
            {"missing": "nan", "fields": {"observed": [[True, False]]}},
            "the field 'observed' and missing='nan' both say",
        ),
    ],
)
def test_missing_values_that_are_refused(values, settings, message):
    with pytest.raises(DataError, match=f"table: {message}"):
        Examples.of(values, name="table", **settings)


def test_missing_is_nan_or_nothing():
    with pytest.raises(SettingsError, match="missing='zero' is unknown"):
        Examples.of(TABLE, missing="zero")
    with pytest.raises(SettingsError, match="missing"):
        load_data(TABLE, missing="zero")
    with pytest.raises(DataError, match="missing='nan' has no effect, because"):
        load_data("digits", missing="nan")


def test_a_model_that_is_not_told_what_is_missing_is_refused():
    class Masked(lb.Conditional):
        needs = ("observed",)

        def __init__(self):
            super().__init__()
            self.inner = lb.Gaussian(lb.mlp(1, 4))

        def forward(self, z, *, observed):
            return self.inner(z)

    torch.manual_seed(0)
    posterior = lb.Gaussian(lb.mlp(2, 2))
    told = lb.LatentModel(lb.StandardNormal(1), posterior, Masked())
    untold = lb.LatentModel(lb.StandardNormal(1), posterior, lb.Gaussian(lb.mlp(1, 4)))
    examples = Examples.of(TABLE, missing="nan", name="table")
    assert lb.evaluate(told, lb.ELBO(), examples).mean
    with pytest.raises(
        DataError, match="table: 3 entries are missing, but the likelihood does not take"
    ):
        lb.evaluate(untold, lb.ELBO(), examples)
    with pytest.raises(DataError, match="table: 3 entries are missing, but the likelihood"):
        lb.fit(untold, lb.ELBO(), examples, steps=1, progress=False)
    lb.fit(told, lb.ELBO(), examples, steps=1, progress=False)
    assert lb.evaluate(untold, lb.ELBO(), Examples.of(TABLE[2:], missing="nan")).mean


def test_a_mask_of_ones_own_and_bits_per_dimension():
    greys = torch.zeros(2, 3, dtype=torch.uint8)
    mask = torch.ones(2, 3, dtype=torch.bool)
    whole = Examples(greys, levels=256, pixels="dequantize", fields={"observed": mask})
    assert whole.bits_per_dimension(0.0) == 8
    mask = mask.clone()
    mask[0, 0] = False
    assert replace(whole, fields={"observed": mask}).bits_per_dimension(0.0) is None


def test_numbers_beside_text_are_refused_and_not_made_categories():
    with pytest.raises(DataError, match="has text, but entry 1 is nan"):
        Examples(torch.zeros(3, 2), fields={"batch": ["a", float("nan"), "b"]})
