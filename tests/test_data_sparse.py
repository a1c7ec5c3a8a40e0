"""Sparse matrices and AnnData: rows that become dense in a batch only."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch

import lowerbound as lb
from lowerbound.data import Dataset, Examples, load_data
from lowerbound.data.sparse import SparseRows
from lowerbound.errors import DataError

RANDOM = np.random.default_rng(0)
DENSE = RANDOM.poisson(0.3, (60, 7)).astype(np.float32)
FORMATS = ["csr_matrix", "csr_array", "csc_matrix", "coo_array"]
EVERY = torch.arange(60)


def sparse(array=DENSE, form="csr_matrix"):
    return getattr(scipy.sparse, form)(array)


def cells(**changes):
    """What AnnData looks like from outside."""
    import pandas

    donors = pandas.Categorical(["a", "b", "c"] * 20, categories=["c", "b", "a"])
    columns = {"donor": donors, "batch": ["x", "y"] * 30, "depth": DENSE.sum(1)}
    obs = pandas.DataFrame({**columns, "empty": [None] * 60}, index=[f"cell{i}" for i in range(60)])
    parts = {"X": sparse(np.log1p(DENSE)), "obs": obs, "layers": {"counts": sparse()}}
    return SimpleNamespace(**(parts | changes))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["counts", None])
def test_a_sparse_matrix_is_as_its_dense_array(form, kind):
    there, here = Examples.of(sparse(form=form), kind=kind), Examples.of(DENSE, kind=kind)
    assert isinstance(there.values, SparseRows)
    assert (there.shape, len(there), there.levels) == (here.shape, len(here), here.levels)
    assert there.values.dtype == here.values.dtype
    assert there.values.dim() == 2
    assert torch.equal(there.batch(EVERY), here.batch(EVERY))
    assert there.digest() == here.digest()
    one, other = (examples.split(0.3, seed=1) for examples in (there, here))
    for part, dense in zip(one, other, strict=True):
        assert isinstance(part.values, SparseRows)
        assert part.values.matrix is there.values.matrix
        assert torch.equal(part.values.to("cpu"), dense.values)
        assert (
            part.first(5).subset(torch.tensor([4, 0])).digest()
            == dense.subset(torch.tensor([4, 0])).digest()
        )
    assert Dataset(*one, "cells").all().digest() == here.digest()


def test_two_matrices_are_joined():
    parts = [Examples.of(sparse(DENSE[rows])) for rows in (slice(0, 50), slice(50, 60))]
    joined = Dataset(*parts, "cells").all()
    assert isinstance(joined.values, SparseRows)
    assert torch.equal(joined.batch(EVERY), torch.from_numpy(DENSE))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "bool"])
def test_sparse_integers(dtype):
    array = np.minimum(DENSE, 1).astype(dtype)
    examples = Examples.of(sparse(array), kind="counts")
    assert torch.equal(examples.batch(EVERY), torch.from_numpy(array.astype(np.float32)))
    if dtype in ("int32", "int64", "uint16"):
        with pytest.raises(DataError, match=f"integers of type {dtype} may be pixels"):
            Examples.of(sparse(array))


def test_the_matrix_is_copied():
    matrix = sparse()
    examples = Examples.of(matrix)
    matrix.data[:] = 9
    assert torch.equal(examples.batch(EVERY), torch.from_numpy(DENSE))


def test_entries_stored_twice_are_added():
    matrix = scipy.sparse.csr_matrix(([1.0, 2.0], [0, 0], [0, 2]), shape=(1, 2))
    assert Examples.of(matrix).batch(torch.tensor([0])).tolist() == [[3.0, 0.0]]


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (-1.0, {"kind": "counts"}, "entry 3 is -1.0; counts are whole numbers"),
        (np.nan, {}, "entry 3 is nan"),
        (np.nan, {"missing": "nan"}, "cannot be used with a sparse matrix"),
    ],
)
def test_sparse_entries_that_are_refused(change, settings, message):
    array = DENSE.copy()
    array[20, 3] = change
    with pytest.raises(DataError, match=f"cells: (row 20, )?.*{message}"):
        Examples.of(sparse(array), name="cells", **settings)


def test_sparse_arrays_of_other_shapes_are_refused():
    with pytest.raises(DataError, match=r"a sparse array has the shape \(7,\)"):
        Examples.of(scipy.sparse.coo_array(DENSE[0]))
    with pytest.raises(DataError, match="complex numbers"):
        Examples.of(sparse(DENSE.astype(complex)))


def test_pixels_of_a_sparse_matrix():
    binary = Examples.of(sparse(DENSE > 0))
    assert (binary.levels, binary.values.dtype) == (2, torch.uint8)
    assert torch.equal(binary.batch(EVERY), torch.from_numpy((DENSE > 0).astype(np.float32)))


def test_load_data_takes_sparse_matrices(tmp_path):
    data = load_data(sparse(), kind="counts", seed=1)
    dense = load_data(DENSE, kind="counts", seed=1)
    assert data.train.digest() == dense.train.digest()
    scipy.sparse.save_npz(tmp_path / "a.npz", sparse())
    assert (
        load_data(tmp_path / "a.npz", kind="counts", seed=1).train.digest() == data.train.digest()
    )
    pair = load_data((sparse(DENSE[:40]), sparse(DENSE[40:])))
    assert (len(pair.train), len(pair.test)) == (40, 20)


def test_training_on_sparse_rows_is_training_on_dense_ones():
    def trained(data):
        torch.manual_seed(0)
        model = lb.LatentModel(
            lb.StandardNormal(2),
            lb.Gaussian(lb.mlp(7, 8, 4)),
            lb.Gaussian(lb.mlp(2, 8, 14)),
        )
        lb.fit(model, lb.ELBO(), data, epochs=3, batch_size=16, seed=0, progress=False)
        return lb.evaluate(model, lb.ELBO(), data, seed=1).mean

    assert trained(Examples.of(sparse())) == trained(Examples.of(DENSE))


# --- AnnData --------------------------------------------------------------------------------------


def test_anndata_gives_values_and_columns():
    for data in (
        Examples.of(cells(), layer="counts", fields=["donor", "batch", "depth"], kind="counts"),
        load_data(cells(), layer="counts", fields="donor,batch,depth", kind="counts").all(),
    ):
        assert torch.equal(data.batch(EVERY), torch.from_numpy(DENSE))
        assert data.fields["donor"].tolist() == [2, 1, 0] * 20
        assert data.fields["batch"].tolist() == [0, 1] * 30
        assert np.array_equal(data.fields["depth"].numpy(), DENSE.sum(1))
        assert data.categories == {"donor": ("c", "b", "a"), "batch": ("x", "y")}
    assert not Examples.of(cells()).fields
    assert Examples.of(cells()).batch(EVERY).max() == pytest.approx(np.log1p(DENSE).max())


def test_dense_anndata():
    assert Examples.of(cells(X=DENSE)).digest() == Examples.of(DENSE).digest()
    unread = SimpleNamespace(to_memory=sparse, shape=DENSE.shape)
    assert Examples.of(cells(X=unread)).digest() == Examples.of(DENSE).digest()


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"layer": "raw"}, "layer 'raw' does not exist; the layers are: counts"),
        ({"X": None}, {}, "X is empty; choose one of the layers: counts"),
        (
            {},
            {"fields": ["age"]},
            "column 'age' does not exist; the columns of obs are: donor, batch, depth, empty",
        ),
        (
            {},
            {"fields": ["empty"]},
            r"the column 'empty' of obs is missing in 60 rows, the first of which is row 0 .cell0",
        ),
    ],
)
def test_what_anndata_does_not_have(changes, settings, message):
    with pytest.raises(DataError, match=f"data: {message}"):
        Examples.of(cells(**changes), **settings)
    with pytest.raises(DataError, match=f"data: {message}"):
        load_data(cells(**changes), **settings)


def test_a_cell_without_a_category():
    import pandas

    donors = pandas.Categorical(["a", None, "b"])
    data = SimpleNamespace(X=DENSE[:3], obs=pandas.DataFrame({"donor": donors}), layers={})
    with pytest.raises(DataError, match=r"'donor' of obs is missing in 1 rows, .* is row 1"):
        Examples.of(data, fields=["donor"])


def test_layers_are_of_anndata_only(tmp_path):
    np.save(tmp_path / "a.npy", DENSE)
    for source in (DENSE, tmp_path / "a.npy"):
        with pytest.raises(DataError, match="layer='counts' has no effect, because only AnnData"):
            load_data(source, layer="counts")
    with pytest.raises(DataError, match="only AnnData has layers, so layer= has no effect"):
        Examples.of(DENSE, layer="counts")


def test_an_anndata_file_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "anndata", None)
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(DataError, match=r"cells\.h5ad: .*pip install 'lowerbound\[anndata\]'"):
        load_data(tmp_path / "cells.h5ad")
