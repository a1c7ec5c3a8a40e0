"""Sparse counts and AnnData, from the data to the answers of a trained model."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data import Examples, load_data
from lowerbound.data.hdf5 import StoredMatrix
from lowerbound.data.sparse import CopiedDataWarning, SparseRows
from lowerbound.data.unused import UnusedDataWarning
from lowerbound.errors import DataError, SettingsError
from lowerbound.recipes import FieldForm, Form
from lowerbound.runtime.memory import TensorSizes

GENES = [f"gene{number}" for number in range(7)]
RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.poisson(1.5, (60, 7)).astype(np.float32)
COUNTS[:, 0] += 1
EVERY = torch.arange(60)
SMALL = {"latent": 2, "hidden": 8}


def make_text(values):
    """Text that anndata can write whatever the version of pandas."""
    return pd.Index(list(values), dtype=object)


def make_parts(counts=COUNTS, genes=GENES):
    """The parts of AnnData: logarithms as X, counts as a layer, and columns of several types."""
    rows = len(counts)
    donors = pd.Categorical.from_codes([2, 1, 0] * (rows // 3), make_text(["c", "b", "a"]))
    obs = pd.DataFrame(
        {
            "donor": donors,
            "age": np.linspace(-1, 1, rows),
            "plate": np.arange(rows) % 4,
            "is_sick": np.arange(rows) % 2 == 0,
        },
        index=make_text(f"cell{number}" for number in range(rows)),
    )
    return {
        "X": scipy.sparse.csr_matrix(np.log1p(counts)),
        "obs": obs,
        "var": pd.DataFrame(index=make_text(genes)),
        "layers": {"counts": scipy.sparse.csr_matrix(counts)},
    }


def make_cells(**changes):
    """What AnnData looks like from outside."""
    parts = make_parts() | changes
    return SimpleNamespace(var_names=parts["var"].index, **parts)


def permute(cells, order):
    """The cells with the genes in another order."""
    return make_cells(
        X=cells.X[:, order],
        layers={"counts": cells.layers["counts"][:, order]},
        var=cells.var.iloc[order],
    )


def fit(data, **settings):
    model, objective = lb.recipes.counts(data, seed=0, **SMALL, **settings)
    train = getattr(data, "train", data)
    return lb.fit(model, objective, train, epochs=2, seed=0, progress=False).model


@pytest.fixture(scope="module")
def trained():
    data = load_data(
        make_cells(), layer="counts", kind="counts", fields=["donor"], test_fraction=0.0
    )
    return fit(data, covariates="donor")


# --- Fields ---------------------------------------------------------------------------------------


def test_columns_of_obs_become_fields():
    fields = ["donor", "age", "plate", "is_sick"]
    data = Examples.of(make_cells(), layer="counts", kind="counts", fields=fields)
    assert data.columns == tuple(GENES)
    assert data.fields["donor"].tolist() == [2, 1, 0] * 20
    assert data.categories == {"donor": ("c", "b", "a")}
    types = [data.fields[name].dtype for name in fields]
    assert types == [torch.int64, torch.float64, torch.int64, torch.bool]
    assert Form.of(data).fields == {
        "donor": FieldForm(categories=3),
        "age": FieldForm(),
        "plate": FieldForm(categories=4),
        "is_sick": FieldForm(),
    }


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (pd.array([1, 2] * 30, dtype="Int64"), torch.int64),
        (pd.array([0.5, 2] * 30, dtype="Float32"), torch.float32),
        (pd.array([True, False] * 30, dtype="boolean"), torch.bool),
        (pd.array(["a", "b"] * 30, dtype="string"), torch.int64),
    ],
)
def test_types_of_pandas_itself(values, dtype):
    cells = make_cells()
    cells.obs["new"] = values
    assert Examples.of(cells, fields=["new"]).fields["new"].dtype == dtype


@pytest.mark.parametrize("values", [[1.0, np.nan], ["a", None], [pd.NaT, pd.Timestamp("2020")]])
def test_missing_values_of_obs_are_refused_by_row(values):
    cells = make_cells()
    cells.obs["new"] = values * 30
    row = int(pd.isna(values[1]))
    with pytest.raises(
        DataError, match=rf"'new' of obs is missing in 30 rows, .* is row {row} \(cell{row}\); drop"
    ):
        Examples.of(cells, fields=["new"])


def test_two_columns_of_one_name_are_refused():
    cells = make_cells()
    cells.obs = pd.concat([cells.obs, cells.obs[["age"]]], axis=1)
    with pytest.raises(DataError, match="obs has 2 columns called 'age'; rename all but one"):
        Examples.of(cells, fields=["age"])


# --- Names of columns -----------------------------------------------------------------------------


def test_genes_of_one_name_are_refused():
    genes = make_text(["a", "b", "a", "c", "b", "d", "e"])
    message = r"cells: some columns have the same name \(a, b\), .*adata.var_names_make_unique\(\)"
    with pytest.raises(DataError, match=message):
        Examples.of(make_cells(var=pd.DataFrame(index=genes)), name="cells")
    frame = pd.DataFrame(COUNTS, columns=genes)
    with pytest.raises(DataError, match=r"some columns have the same name \(a, b\)"):
        load_data(frame, kind="counts")


@pytest.mark.parametrize("value", [-1.0, 0.5, np.inf])
@pytest.mark.parametrize("form", ["csr_matrix", "csc_array", "toarray"])
def test_entries_are_refused_by_row_and_gene(value, form):
    counts = scipy.sparse.lil_matrix(COUNTS)
    counts[20, 3] = counts[20, 5] = counts[41, 0] = value
    matrix = counts.toarray() if form == "toarray" else getattr(scipy.sparse, form)(counts)
    with pytest.raises(DataError, match=f"cells: row 20, column 'gene3' is {value}; "):
        Examples.of(make_cells(X=matrix), name="cells", kind="counts")
    with pytest.raises(DataError, match=f"cells: row 20, entry 3 is {value}; "):
        Examples.of(matrix, name="cells", kind="counts")


def test_genes_in_another_order_are_reordered(trained, tmp_path):
    cells = make_cells()
    expected = trained.encode(cells)
    order = np.random.default_rng(1).permutation(7)
    lb.save(trained, tmp_path / "model.safetensors")
    again = lb.load(tmp_path / "model.safetensors")
    assert again.preprocessing.columns == tuple(GENES)
    for model in (trained, again):
        np.testing.assert_array_equal(model.encode(permute(cells, order)), expected)
    examples = Examples.of(permute(cells, order), layer="counts", kind="counts", fields=["donor"])
    np.testing.assert_array_equal(trained.encode(examples).numpy(), expected)
    dense = make_cells(layers={"counts": COUNTS})
    np.testing.assert_array_equal(trained.encode(permute(dense, order)), expected)


def test_frames_of_counts_are_reordered():
    frame = pd.DataFrame(COUNTS, columns=GENES)
    with pytest.raises(DataError, match=r"row 0, column 'gene0' is \d\.5; counts are"):
        load_data(frame + 0.5, kind="counts")
    model = fit(load_data(frame, kind="counts", test_fraction=0.0))
    assert torch.equal(model.encode(frame[GENES[::-1]]), model.encode(frame))


def test_genes_that_are_not_there_or_new(trained):
    cells = make_cells()
    with pytest.raises(DataError, match=r"2 of the 7 columns .* are not there: gene1, gene4"):
        trained.encode(permute(cells, [0, 2, 3, 5, 6]))
    counts = scipy.sparse.csr_matrix(np.c_[9 + COUNTS[:, :1], COUNTS])
    more = make_cells(
        X=counts, layers={"counts": counts}, var=pd.DataFrame(index=make_text(["new", *GENES]))
    )
    with pytest.warns(UnusedDataWarning, match="1 columns are left out, .*: new"):
        examples = trained.examples(more)
    assert torch.equal(examples.batch(EVERY), torch.from_numpy(COUNTS))
    # The exposure is the sum of the genes that the model knows.
    exposure = examples.select_fields(["exposure"])["exposure"]
    assert torch.equal(exposure, torch.from_numpy(COUNTS.sum(1)))


@pytest.mark.parametrize("make", [np.array, scipy.sparse.csr_matrix, torch.tensor, Examples.of])
def test_counts_without_names_are_not_matched_by_position(trained, make):
    message = r"have no names, and the model was trained on the columns gene0, .* columns=names\)"
    with pytest.raises(DataError, match=message):
        trained.examples(make(COUNTS))
    with pytest.raises(DataError, match=message):  # whatever the number of columns
        trained.examples(make(COUNTS[:, :3]))
    frame = pd.DataFrame(COUNTS, columns=GENES)
    data = load_data(frame, kind="counts")
    model = fit(data)
    with pytest.raises(DataError, match=message):
        model.encode(make(COUNTS))
    with pytest.raises(DataError, match="data: the columns have no names"):
        lb.fit(model, lb.ELBO(), data.train, validation=make(COUNTS), steps=1)
    named = pd.DataFrame(COUNTS, columns=list(model.preprocessing.columns))
    cells = make_cells(X=scipy.sparse.csr_matrix(COUNTS))
    assert torch.equal(model.encode(named), model.encode(frame))
    np.testing.assert_array_equal(model.encode(cells), model.encode(frame).numpy())


@pytest.mark.parametrize("train", [COUNTS, pd.DataFrame(COUNTS)])
def test_columns_without_names_are_those_of_an_array(train):
    model = fit(load_data(train, kind="counts", test_fraction=0.0))
    expected = model.encode(train)
    for data in (COUNTS, scipy.sparse.csr_matrix(COUNTS), pd.DataFrame(COUNTS)):
        assert torch.equal(model.encode(data), expected)
    with pytest.raises(lb.errors.ShapeError):
        model.encode(COUNTS[:, :6])


def test_two_parts_of_which_one_has_no_names_are_refused():
    matrix = scipy.sparse.csr_matrix(COUNTS)
    with pytest.raises(DataError, match="test: the columns have no names, and train has the col"):
        load_data((make_cells(X=matrix), matrix), kind="counts")


def test_two_parts_with_genes_in_another_order_are_refused():
    cells = make_cells()
    pair = cells, permute(cells, [1, 0, 2, 3, 4, 5, 6])
    with pytest.raises(DataError, match=r"train and test have other columns.*train\.var_names"):
        load_data(pair, layer="counts", kind="counts")
    assert load_data((cells, cells)).train.columns == tuple(GENES)


# --- Rows -----------------------------------------------------------------------------------------


def test_large_conversions_are_reported(monkeypatch):
    monkeypatch.setattr("lowerbound.data.sparse._LARGE_BYTES", 1)
    by_columns = scipy.sparse.csc_matrix(COUNTS)
    with pytest.warns(CopiedDataWarning, match="cells: the matrix is in CSC format"):
        data = Examples.of(by_columns, name="cells", kind="counts")
    assert torch.equal(data.batch(EVERY), torch.from_numpy(COUNTS))
    Examples.of(scipy.sparse.csr_matrix(COUNTS), kind="counts")


def test_sums_and_checks_look_at_stored_entries_only(monkeypatch):
    monkeypatch.setattr("lowerbound.data.sparse._CHUNK_ENTRIES", 40)
    some = torch.tensor([50, 3, 3, 17])
    rows = SparseRows.of(scipy.sparse.csr_matrix(COUNTS), name="cells").select(some)
    monkeypatch.setattr(SparseRows, "__getitem__", None)
    expected = torch.from_numpy(COUNTS)[some]
    assert torch.equal(rows.sum_rows(), expected.double().sum(1))
    assert rows.find_maximum() == expected.max()
    assert rows.find_first(lambda values: values < 0) is None
    row, column = (expected == expected.max()).nonzero()[0].tolist()
    assert rows.find_first(lambda values: values == expected.max())[:2] == (row, column)


def test_cells_without_counts_are_refused():
    counts = COUNTS.copy()
    counts[33] = 0
    data = load_data(scipy.sparse.csr_matrix(counts), kind="counts", test_fraction=0.0)
    with pytest.raises(DataError, match=r"'exposure' is 0 in row 33.*drop the rows that have no"):
        fit(data)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_cell_without_counts_has_its_number_in_the_data_after_a_split(part):
    data = load_data(scipy.sparse.csr_matrix(COUNTS), kind="counts", test_fraction=0.5)
    row = int(getattr(data, part).rows[3])
    assert row > 3
    counts = COUNTS.copy()
    counts[row] = 0
    split = load_data(scipy.sparse.csr_matrix(counts), kind="counts", test_fraction=0.5)
    model, objective = lb.recipes.counts(split, seed=0, **SMALL)
    with pytest.raises(DataError, match=rf"'exposure' is 0 in row {row},"):
        lb.evaluate(model, objective, getattr(split, part))


def test_the_default_exposure_is_the_sum_of_the_row():
    data = Examples.of(scipy.sparse.csr_matrix(COUNTS), kind="counts")
    for part in (data, *data.split(0.3, seed=1), data.spread(7)):
        expected = part.batch(torch.arange(len(part))).sum(1)
        assert torch.equal(part.select_fields(["exposure"])["exposure"], expected)


# --- The recipe -----------------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", ["none", "inflated", "hurdle"])
def test_covariates_condition_encoder_and_decoder(zeros):
    fields = {"donor": ["a", "b", "c"] * 20, "age": torch.linspace(-1, 1, 60)}
    data = lb.Examples(COUNTS, kind="counts", fields=fields)
    model = fit(data, covariates="donor, age", zeros=zeros)
    assert model.needs == ("donor", "age", "exposure")
    other = lb.Examples(COUNTS, kind="counts", fields=fields | {"donor": ["b", "c", "a"] * 20})
    assert not torch.equal(model.encode(data), model.encode(other))
    as_first = model.reconstruct(data, donor=0)
    assert not torch.equal(as_first, model.reconstruct(data, donor=1))
    assert model.sample(4, donor=2, age=0.0, exposure=30.0).shape == (4, 7)


@pytest.mark.parametrize(
    ("dispersion", "outputs"), [("network", 12), ("elementwise", 6), ("shared", 6), (3.0, 6)]
)
def test_shares_sum_to_one(dispersion, outputs):
    torch.manual_seed(0)
    network = lb.mlp(2, 8, outputs).double()
    z, exposure = torch.randn(4, 5, 2, dtype=torch.float64), torch.arange(1.0, 6).double()
    p, free = (
        lb.NegativeBinomial(network, dispersion, exposure=True, shares=shares).double()
        for shares in (True, False)
    )
    mean, expected = (part(z, exposure=exposure).mean for part in (p, free))
    torch.testing.assert_close(mean.sum(-1), exposure.expand(4, 5))
    torch.testing.assert_close(mean, exposure[:, None] * expected / expected.sum(-1, keepdim=True))
    raw = p.parameters_from(network, z)
    torch.testing.assert_close(p.from_parameters(raw).mean, mean / exposure[:, None])
    with pytest.raises(SettingsError, match="shares"):
        lb.Poisson(network, shares="yes")


@pytest.mark.parametrize("likelihood", ["poisson", "negative-binomial"])
def test_the_recipe_with_shares_is_trained_and_loaded(likelihood, tmp_path):
    data = lb.Examples(COUNTS, kind="counts")
    model = fit(data, shares=True, likelihood=likelihood)
    torch.testing.assert_close(model.reconstruct(data).sum(1), torch.from_numpy(COUNTS.sum(1)))
    lb.save(model, tmp_path / "model.safetensors")
    again = lb.load(tmp_path / "model.safetensors")
    assert torch.equal(again.reconstruct(data), model.reconstruct(data))


def test_covariates_that_the_data_do_not_have():
    data = lb.Examples(COUNTS, kind="counts", fields={"donor": ["a", "b", "c"] * 20})
    with pytest.raises(
        SettingsError, match=r"'batch' is not a field .* are: donor.*--fields batch"
    ):
        lb.recipes.counts(data, covariates="batch")
    with pytest.raises(SettingsError, match="only their shape is known; pass the data"):
        lb.recipes.counts((7,), covariates=["donor"])
    many = lb.Examples(COUNTS, kind="counts", fields={"total": torch.arange(60) * 100})
    with pytest.raises(SettingsError, match="'total' would have 5,901 categories"):
        lb.recipes.counts(many, covariates="total")


def test_the_test_part_may_have_more_categories():
    parts = [
        lb.Examples(COUNTS, kind="counts", fields={"plate": torch.full((60,), highest)})
        for highest in (1, 2)
    ]
    assert Form.of(load_data(tuple(parts))).fields == {"plate": FieldForm(categories=3)}


def test_answers_for_anndata_are_arrays_in_its_order(trained):
    cells = make_cells()
    points = trained.encode(cells)
    assert isinstance(points, np.ndarray)
    assert points.shape == (60, 2)
    some = [41, 3, 17]
    rows = make_cells(
        X=cells.X[some], layers={"counts": cells.layers["counts"][some]}, obs=cells.obs.iloc[some]
    )
    np.testing.assert_allclose(trained.encode(rows), points[some], rtol=1e-6)
    means = trained.reconstruct(cells, donor="a")
    assert isinstance(means, np.ndarray)
    examples = trained.examples(cells)
    assert torch.equal(trained.reconstruct(examples, donor=2), torch.from_numpy(means))
    deep, objective = lb.recipes.ladder((7,), seed=0)
    assert all(isinstance(each, np.ndarray) for each in deep.encode(make_cells()).values())
    assert objective is not None


def test_no_dense_array_of_all_cells_is_made(monkeypatch):
    rows, columns = 1000, 200
    # All that is read at once has limits, which are lowered to suit the small matrix.
    monkeypatch.setattr("lowerbound.runtime.memory._VALUES_PER_BATCH", 1 << 13)
    monkeypatch.setattr("lowerbound.runtime.memory._MOST_VALUES_OF_SAMPLE", 1 << 14)
    monkeypatch.setattr("lowerbound.data.rows._CHUNK_BYTES", 1 << 15)
    monkeypatch.setattr("lowerbound.training.batches._POOL_BYTES", 1 << 15)
    matrix = scipy.sparse.random_array(
        (rows, columns), density=0.1, format="csc", rng=np.random.default_rng(0), dtype=np.float32
    )
    matrix.data = np.ceil(4 * matrix.data)
    sizes = []
    read = SparseRows.__getitem__

    def record(values, index):
        found = read(values, index)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(SparseRows, "__getitem__", record)
    data = load_data(matrix, kind="counts", test_fraction=0.5)
    train, test = data.train, data.test
    model, objective = lb.recipes.counts(data, seed=0, **SMALL)
    lb.fit(model, objective, train, validation=0.2, epochs=1, batch_size=16, progress=False)
    with TensorSizes() as made:
        assert data.all().prepare("as-is").spread(300).digest()
        assert model.encode(train).shape == (rows // 2, 2)
        assert np.isfinite(lb.evaluate(model, lb.ELBO(), test).mean)
        assert np.isfinite(lb.log_likelihood(model, train, samples=2).mean)
        model.check_data(data.all())
        assert model.reconstruct(test.first(20)).shape == (20, columns)
        assert model.sample(20, exposure=80.0).shape == (20, columns)
    assert lb.latent_health(model, test)
    # Even a part of the data is more than anything that was made.
    assert 0 < max(sizes) < rows * columns / 8
    assert made.largest < rows * columns / 4


# --- AnnData itself, and its files ----------------------------------------------------------------


@pytest.fixture(scope="module")
def anndata():
    return pytest.importorskip("anndata")


@pytest.fixture(scope="module")
def file(anndata, tmp_path_factory):
    path = tmp_path_factory.mktemp("anndata") / "cells.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's about newer versions of pandas
        anndata.AnnData(**make_parts()).write_h5ad(path)
    return path


def read(anndata, path, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return anndata.read_h5ad(path, **settings)


@pytest.mark.parametrize("keep_in", ["memory", "file", "auto"])
@pytest.mark.parametrize("layer", [None, "counts"])
def test_a_file_of_anndata(file, keep_in, layer):
    settings = {"layer": layer, "fields": "donor,age", "test_fraction": 0.0}
    if layer is not None:
        settings["kind"] = "counts"
    data = load_data(file, keep_in=keep_in, **settings).train
    assert isinstance(data.values, SparseRows)
    assert isinstance(data.values.matrix, StoredMatrix) == (keep_in == "file")
    expected = load_data(make_cells(), **settings).train
    assert torch.equal(data.batch(EVERY), expected.batch(EVERY))
    some = torch.tensor([-1, 7, 7, 0])
    assert torch.equal(data.batch(some), expected.batch(some))
    assert data.columns == tuple(GENES)
    assert data.categories == {"donor": ("c", "b", "a")}
    assert torch.equal(data.fields["age"], expected.fields["age"])
    assert data.digest() == expected.digest()


def test_a_model_streams_from_a_file(file, trained):
    settings = {"layer": "counts", "kind": "counts", "fields": ["donor"], "keep_in": "file"}
    data = load_data(file, test_fraction=0.25, **settings)
    assert torch.equal(data.all().batch(EVERY), torch.from_numpy(COUNTS))
    reordered = data.train.values.take_columns(np.array([3, 1]))
    assert torch.equal(reordered.to("cpu"), data.train.values.to("cpu")[:, [3, 1]])
    np.testing.assert_array_equal(trained.encode(data.all()).numpy(), trained.encode(make_cells()))
    memory = load_data(make_cells(), test_fraction=0.25, **settings | {"keep_in": "auto"})
    bounds = [
        lb.evaluate(fit(each, covariates="donor"), lb.ELBO(), each.test).mean
        for each in (data, memory)
    ]
    assert bounds[0] == bounds[1]
    pair = load_data((file, file), **settings)
    with pytest.raises(DataError, match="two matrices that stay in their files"):
        pair.all()


def test_an_object_that_is_backed_by_a_file(anndata, file):
    cells = read(anndata, file, backed="r")
    data = Examples.of(cells, fields=["donor"])
    assert isinstance(data.values.matrix, StoredMatrix)
    assert torch.equal(data.batch(EVERY), torch.from_numpy(np.log1p(COUNTS)))
    counts = Examples.of(cells, layer="counts", kind="counts")
    assert torch.equal(counts.batch(EVERY), torch.from_numpy(COUNTS))


@pytest.mark.parametrize("form", ["dense", "csc"])
def test_other_matrices_of_files(anndata, tmp_path, form):
    parts = make_parts()
    if form == "dense":
        parts["X"] = COUNTS
    else:
        parts["X"] = scipy.sparse.csc_matrix(COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anndata.AnnData(**parts).write_h5ad(tmp_path / "cells.h5ad")
    data = load_data(tmp_path / "cells.h5ad", kind="counts").all()
    assert torch.equal(data.batch(EVERY), torch.from_numpy(COUNTS))
    if form == "csc":
        with pytest.raises(DataError, match=r"stored as csc_matrix, not by rows.*--keep-in memory"):
            load_data(tmp_path / "cells.h5ad", kind="counts", keep_in="file")
        return
    stored = load_data(tmp_path / "cells.h5ad", kind="counts", keep_in="file").all()
    assert torch.equal(stored.batch(EVERY), torch.from_numpy(COUNTS))


@pytest.mark.parametrize("keep_in", ["memory", "file"])
def test_what_a_file_does_not_have(file, keep_in):
    with pytest.raises(DataError, match="layer 'raw' does not exist; the layers are: counts"):
        load_data(file, layer="raw", keep_in=keep_in)
    with pytest.raises(DataError, match=r"column 'sex' does not exist; .*: donor, age, plate"):
        load_data(file, fields=["sex"], keep_in=keep_in)
    with pytest.raises(DataError, match=r"row 0, column 'gene0' is 1\.09.*; counts are whole"):
        load_data(file, kind="counts", keep_in=keep_in)


def test_a_damaged_file(tmp_path, anndata):
    (tmp_path / "cells.h5ad").write_bytes(b"damaged")
    for keep_in in ("memory", "file"):
        with pytest.raises(DataError, match=r"cells\.h5ad: anndata cannot read it"):
            load_data(tmp_path / "cells.h5ad", keep_in=keep_in)


def test_points_are_stored_in_anndata(anndata, file, trained):
    cells = read(anndata, file)
    cells.obsm["X_latent"] = trained.encode(cells)
    assert cells.obsm["X_latent"].shape == (60, 2)
    cells.layers["as_if_from_a"] = trained.reconstruct(cells, donor="a")


@pytest.mark.usefixtures("trains", "without_learning_curves")
def test_the_command(file, tmp_path, capsys):
    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        return ended.value.code, *capsys.readouterr()

    train = ["train", "counts", "--data", file, "--layer", "counts", "--epochs", "1"]
    train += ["--hidden", "4", "--latent", "2", "--out", tmp_path / "run"]
    code, _, err = call(*train, "--covariates", "donor")
    assert (code, "'donor' is not a field of the data" in err) == (2, True)
    code, out, err = call(*train, "--fields", "donor", "--covariates", "donor")
    assert code == 0, err
    assert "--given donor=" in out
    code, out, _ = call("encode", tmp_path / "run", "--out", tmp_path / "latents.npy")
    assert (code, np.load(tmp_path / "latents.npy").shape) == (0, (60, 2))
    given = ["--given", "donor=a", "--given", "exposure=50"]
    samples = tmp_path / "samples.npy"
    code, _, err = call("sample", tmp_path / "run", "--count", "3", *given, "--out", samples)
    assert (code, np.load(samples).shape) == (0, (3, 7)), err
    model = lb.load(tmp_path / "run")
    assert model.encode(file).shape == (60, 2)
    code, out, err = call("data", "inspect", file)
    assert code == 0, err
    assert "60 rows, 7 columns: gene0, gene1" in out
    assert "counts" in out
    assert "donor" in out
