"""Models of tables: closed forms, imputations, conditional draws, and independence of units."""

import math
import sys
from pathlib import Path

import narwhals as nw
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lowerbound as lb
from lowerbound.data import Column, Schema
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.raw_values import is_missing
from lowerbound.data.schema import make_table_like
from lowerbound.errors import (
    DataError,
    DoubtfulEstimateWarning,
    SettingsError,
    UnsupportedError,
)
from lowerbound.evaluation.baseline import score_columns_alone
from lowerbound.evaluation.imputing import _find_half_sample_modes
from lowerbound.recipes import find_recipe

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame

# A linear-Gaussian table: x = mean + loadings z + noise, with two latents.
LOADINGS = torch.tensor([[1.0, 0.5], [-0.7, 0.3], [0.2, 0.9], [0.6, -0.8]])
SCALES = torch.tensor([0.5, 0.8, 0.3, 0.6])
MEAN = torch.tensor([0.5, -1.0, 0.2, 0.0])
NAMES = ("a", "b", "c", "d")
# In the table each column has a unit of its own.
UNITS, ORIGINS = np.array([2.0, 100.0, 1.0, 0.01]), np.array([10.0, -5.0, 0.0, 3.0])


def make_schema() -> Schema:
    return Schema(
        tuple(
            Column(name, "real", centre=float(origin), spread=float(unit))
            for name, origin, unit in zip(NAMES, ORIGINS, UNITS, strict=True)
        ),
        "pandas",
    )


class Linear(torch.nn.Module):
    """The decoder: locations, and constant log scales."""

    output_shape = (8,)

    def forward(self, z):
        location = MEAN.to(z) + z @ LOADINGS.T.to(z)
        return torch.cat([location, SCALES.log().to(z).expand_as(location)], -1)


class ExactPosterior(lb.Conditional):
    """p(z given the entries that are observed), with a wider covariance if asked."""

    needs = ("observed",)

    def __init__(self, widening=1.0):
        super().__init__()
        self.widening = widening

    def forward(self, x, *, observed):
        weights = observed.double() / SCALES.double().square()
        loadings = LOADINGS.double()
        precision = torch.eye(2).double() + torch.einsum(
            "bd,di,dj->bij", weights, loadings, loadings
        )
        right = torch.einsum("bd,di->bi", weights * (x.double() - MEAN.double()), loadings)
        covariance = torch.linalg.inv(precision)
        mean = (covariance @ right.unsqueeze(-1)).squeeze(-1)
        root = torch.linalg.cholesky(covariance) * self.widening
        return torch.distributions.MultivariateNormal(mean.float(), scale_tril=root.float())


class GaussianColumns(lb.Columns):
    """Columns whose tails are those of a Gaussian."""

    def __init__(self, network, schema):
        super().__init__(network, schema)
        self.has_tails.fill_(False)


def make_model(widening=1.0) -> lb.TableModel:
    likelihood = lb.Masked(GaussianColumns(Linear(), make_schema()))
    return lb.TableModel(lb.StandardNormal(2), ExactPosterior(widening), likelihood, hide=0.0)


def make_table(rows=300, missing=0.3, seed=0) -> pd.DataFrame:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, generator=generator)
    x = MEAN + z @ LOADINGS.T + SCALES * torch.randn(rows, 4, generator=generator)
    values = x.double().numpy() * UNITS + ORIGINS
    mask = torch.rand(rows, 4, generator=generator).numpy() < missing
    mask[:, 0] &= ~mask[:, 1:].all(1)
    values[mask] = np.nan
    return pd.DataFrame(values, columns=list(NAMES))


def covariance() -> np.ndarray:
    root = LOADINGS.double().numpy()
    return root @ root.T + np.diag(SCALES.double().numpy() ** 2)


def log_density(frame: pd.DataFrame) -> np.ndarray:
    """log p(x of the observed entries), in the units of the table."""
    result = []
    for row in frame.to_numpy():
        seen = ~np.isnan(row)
        if not seen.any():
            result.append(0.0)
            continue
        x = (row[seen] - ORIGINS[seen]) / UNITS[seen]
        p = stats.multivariate_normal(MEAN.double().numpy()[seen], covariance()[np.ix_(seen, seen)])
        result.append(p.logpdf(x) - np.log(UNITS[seen]).sum())
    return np.array(result)


def conditional(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the missing entries, in the units of the table."""
    seen = ~np.isnan(row)
    sigma, mean = covariance(), MEAN.double().numpy()
    x = (row[seen] - ORIGINS[seen]) / UNITS[seen]
    gain = sigma[np.ix_(~seen, seen)] @ np.linalg.inv(sigma[np.ix_(seen, seen)])
    centre = mean[~seen] + gain @ (x - mean[seen])
    rest = sigma[np.ix_(~seen, ~seen)] - gain @ sigma[np.ix_(seen, ~seen)]
    unit = UNITS[~seen]
    return centre * unit + ORIGINS[~seen], rest * np.outer(unit, unit)


def test_the_log_likelihood_is_that_of_the_observed_entries():
    model, frame = make_model(widening=1.3), make_table()
    found = lb.log_likelihood(model, frame, samples=2000)
    errors = found.per_example.numpy() - log_density(frame)
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(len(frame)) + 1e-3
    assert np.abs(errors).max() < 0.2


def test_scores_of_rows_and_of_values_given_the_others():
    model, frame = make_model(widening=1.2), make_table(40)
    scores = lb.score(model, frame, samples=20_000)
    expected = log_density(frame)
    np.testing.assert_allclose(scores.per_example, expected, atol=0.05)
    assert (
        np.abs(scores.per_example.numpy() - expected) < 5 * scores.standard_errors.numpy() + 1e-3
    ).all()
    for name in NAMES:
        others = frame.assign(**{name: np.nan})
        wanted = expected - log_density(others)
        found = scores.columns[name].numpy()
        seen = frame[name].notna().to_numpy()
        assert np.isnan(found[~seen]).all()
        some = seen & others.notna().any(axis=1).to_numpy()
        # Of a value in the far tail, few draws of z say what the others alone would be.
        usual = some & (wanted > np.nanquantile(wanted[some], 0.2))
        np.testing.assert_allclose(found[usual], wanted[usual], atol=0.3)
    table = scores.to_frame("pandas")
    assert list(table)[:4] == ["log_p", "standard_error", "doubtful", "given_others:a"]


def test_imputations_agree_with_the_closed_form():
    model, frame = make_model(widening=1.2), make_table(60)
    once = lb.impute(model, frame, samples=2000, seed=1)
    many = lb.impute(model, frame, 400, samples=2000)
    assert len(many.tables) == 400
    stacked = np.stack([table.to_numpy() for table in many.tables])
    z_means, z_variances = [], []
    for number, row in enumerate(frame.to_numpy()):
        seen = ~np.isnan(row)
        assert (stacked[:, number, seen] == row[seen]).all()
        if seen.all():
            continue
        mean, spread = conditional(row)
        deviation = np.sqrt(np.diag(spread))
        draws = stacked[:, number, ~seen]
        z_means += list((draws.mean(0) - mean) / (deviation / math.sqrt(400)))
        z_variances += list(draws.var(0, ddof=1) / np.diag(spread))
        points = once.table.to_numpy()[number, ~seen]
        assert (np.abs(points - mean) < 5 * deviation / math.sqrt(200)).all()
    z_means = np.array(z_means)
    assert np.abs(z_means).max() < 4.5
    assert abs(np.square(z_means).mean() - 1) < 0.5
    assert abs(np.mean(z_variances) - 1) < 4 * math.sqrt(2 / 400 / len(z_variances)) + 0.02


def test_conditional_draws_agree_with_the_closed_form():
    model = make_model(widening=1.2)
    given = pd.DataFrame({"b": [ORIGINS[1] + 2.5 * UNITS[1]], "d": [ORIGINS[3] - 1.5 * UNITS[3]]})
    draws = model.sample(2000, given=given, seed=0, samples=20_000)
    assert (draws["b"] - given["b"][0]).abs().max() < 1e-4 * UNITS[1]
    row = np.array([np.nan, given["b"][0], np.nan, given["d"][0]])
    mean, spread = conditional(row)
    found = draws[["a", "c"]].to_numpy()
    errors = (found.mean(0) - mean) / np.sqrt(np.diag(spread) / 2000)
    assert (np.abs(errors) < 4).all()
    np.testing.assert_allclose(np.cov(found.T), spread, rtol=0.15, atol=0.05 * spread.max())


def test_rows_whose_imputation_is_not_to_be_trusted_are_named():
    model, frame = make_model(widening=0.05), make_table(30)
    with pytest.warns(lb.errors.DoubtfulEstimateWarning, match=r"rows .* \(counted from 0\)"):
        found = lb.impute(model, frame, samples=100)
    assert found.doubtful.any()
    assert not (found.doubtful & ~found.incomplete).any()


@pytest.fixture(scope="module")
def trained():
    """A small model of a table with all types, some of whose entries are missing."""
    frame = make_frame(300)
    random = np.random.default_rng(1)
    for name in ("height", "gift", "share", "job", "born"):
        frame.loc[random.random(len(frame)) < 0.2, name] = None
    return frame, fit_table(frame)


def fit_table(frame, steps=60, **settings):
    data = lb.load_data(frame, test_fraction=0.0)
    recipe = find_recipe("table")
    model, objective = recipe.build(data, {"hidden": 16, "latent": 2} | settings, seed=0)
    run = lb.fit(
        model,
        objective,
        data.train,
        **recipe.training | {"steps": steps, "batch_size": 50},
        threads=1,
        progress=False,
    )
    return run.model


@pytest.mark.parametrize("rows", [20, 500, 3000])
def test_fewer_rows_are_trained_with_more_dropout(rows):
    data = lb.load_data(make_table(rows), test_fraction=0.0)
    model, _ = find_recipe("table").build(data, {}, seed=0)
    shares = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert shares == [500 / (500 + rows)] * 2
    model, _ = find_recipe("table").build(data, {"dropout": 0.0}, seed=0)
    assert not any(isinstance(module, torch.nn.Dropout) for module in model.modules())


@pytest.mark.parametrize("name", ["table", "missing-not-at-random"])
@pytest.mark.parametrize(("rows", "latent", "hidden"), [(14_999, 10, 128), (15_000, 20, 256)])
def test_large_tables_have_larger_networks(name, rows, latent, hidden):
    frame = make_table(rows)
    frame.iloc[:50, 0] = None
    data = lb.load_data(frame, test_fraction=0.0)

    def find_sizes(**given):
        model, _ = find_recipe(name).build(data, given, seed=0)
        layers = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
        widths = {layer.out_features for layer in layers}
        return model.prior(1).sample().shape[-1], hidden in widths

    assert find_sizes() == (latent, True)
    assert find_sizes(latent=3, hidden=7) == (3, False)


@pytest.mark.parametrize(("rows", "rate"), [(14_999, 0.001), (15_000, 0.002)])
def test_large_tables_are_trained_with_a_larger_learning_rate(rows, rate):
    data, recipe = lb.load_data(make_table(rows), test_fraction=0.0), find_recipe("table")
    model, objective = recipe.build(data, {"hidden": 4}, seed=0)
    settings = {**recipe.training, "steps": 1, "schedule": "constant", "warmup_steps": 0}
    for given, expected in (({}, rate), ({"learning_rate": 0.004}, 0.004)):
        run = lb.fit(model, objective, data.train, progress=False, **settings, **given)
        assert run.history[-1]["learning_rate"] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["table", "missing-not-at-random"])
@pytest.mark.parametrize("rows", [90, 180, 800])
def test_small_tables_are_trained_for_fewer_steps(name, rows):
    frame = make_table(rows)
    frame.iloc[:50, 0] = None
    data, recipe = lb.load_data(frame, test_fraction=0.0), find_recipe(name)
    model, objective = recipe.build(data, {"hidden": 4, "latent": 2}, seed=0)
    asked = []

    class Watch(lb.Observer):
        def on_start(self, loop):
            asked.append(loop.total_steps)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lb.fit(model, objective, data.train, observers=[Watch()], progress=False, **recipe.training)
    batches = math.ceil(rows / recipe.training["batch_size"])
    assert asked == [min(8000, 1500 * batches)]


def evaluate(model, frame):
    return lb.evaluate(model, lb.IWAE(20), frame).mean


def test_the_bound_does_not_depend_on_units_order_or_library():
    pl = pytest.importorskip("polars")
    frame = make_frame()[["height", "income", "share", "visits", "job"]]
    frame.loc[::7, "height"] = np.nan
    expected = evaluate(fit_table(frame), frame)
    factor = 100.0
    observed = frame["height"].notna().mean()
    scaled = frame.assign(height=frame["height"] * factor, income=frame["income"] * factor)
    change = math.log(factor) * (observed + 1)
    assert evaluate(fit_table(scaled), scaled) + change == pytest.approx(expected, rel=1e-6)
    permuted = frame[["job", "visits", "height", "share", "income"]]
    assert evaluate(fit_table(permuted), permuted) == pytest.approx(expected, rel=1e-6)
    other = pl.from_pandas(frame)
    assert evaluate(fit_table(other), other) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("factor", "shift"), [(100.0, 7.0), (1e-5, 0.0)])
def test_the_bound_of_rounded_values_does_not_depend_on_units(factor, shift):
    values = np.random.default_rng(0).normal(size=200).round(1)
    other = np.random.default_rng(1).normal(size=200)
    frame = pd.DataFrame({"a": values, "b": 2 * values + 1, "c": other})
    scaled = frame.assign(a=factor * values + shift)
    expected = evaluate(fit_table(frame, steps=200), frame)
    found = evaluate(fit_table(scaled, steps=200), scaled) + math.log(factor)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("factor", [1e-300, 1e-45, 1e39, 1e300])
def test_columns_may_have_values_whose_spread_float32_cannot_represent(factor):
    frame = make_frame()[["height", "job"]]
    frame["height"] -= 170.0
    scaled = frame.assign(height=frame["height"] * factor)
    plain, model = fit_table(frame), fit_table(scaled)
    expected = evaluate(plain, frame) - math.log(factor)
    assert evaluate(model, scaled) == pytest.approx(expected, rel=1e-6)
    drawn, wanted = (each.sample(100, seed=0)["height"] for each in (model, plain))
    np.testing.assert_allclose(drawn / factor, wanted, rtol=1e-3)


@pytest.mark.parametrize("factor", [1e-320, 1e-310])
@pytest.mark.parametrize("shape", [np.abs, np.exp, np.sign, np.positive])
def test_columns_of_the_smallest_numbers_are_read(factor, shape):
    values = shape(np.random.default_rng(0).normal(size=100)) * factor
    frame = pd.DataFrame({"a": values, "b": np.arange(100) ** 0.5})
    data = lb.load_data(frame, test_fraction=0.0)
    column = data.schema.find("a")
    assert np.isfinite(column.encode(values)[0]).all()
    assert np.isfinite(column.decode(column.encode(values)[0])).all()


def test_a_column_alone_is_scored_by_the_distribution_of_its_values():
    frame = make_table(2000, missing=0.25)
    examples = lb.load_data(frame, test_fraction=0.0).train
    found = score_columns_alone(examples)
    for name, values in frame.items():
        seen = values.dropna()
        wanted = -0.5 * math.log(2 * math.pi * math.e * seen.var(ddof=0)) * len(seen) / len(frame)
        assert found[name] == pytest.approx(wanted, abs=0.01)
    frame = make_frame(2000)[["job", "income"]]
    found = score_columns_alone(lb.load_data(frame, test_fraction=0.0).train)
    shares = frame["job"].value_counts(normalize=True)
    assert found["job"] == pytest.approx((shares * np.log(shares)).sum(), abs=0.01)
    logarithms = np.log(frame["income"])
    wanted = stats.norm.logpdf(logarithms, logarithms.mean(), logarithms.std()) - logarithms
    assert found["income"] == pytest.approx(wanted.mean(), abs=0.01)


def test_answers_are_frames_with_the_columns_of_the_table(trained):
    frame, model = trained
    modelled = [name for name in frame if name not in ("id", "name")]
    drawn = model.sample(20, seed=0)
    assert list(drawn) == modelled
    assert len(drawn) == 20
    assert set(drawn["job"]) <= {"clerk", "cook", "nurse"}
    assert set(drawn["country"]) == {"here"}
    assert drawn["year"].dtype == frame["year"].dtype
    assert drawn["visits"].dtype == frame["visits"].dtype
    assert (drawn["gift"] >= 0).all()
    assert drawn["share"].between(0, 1).all()
    assert drawn["born"].dtype.kind == "M"
    assert drawn["smokes"].dtype == bool
    codes = model.encode(frame)
    assert list(codes) == ["z0", "z1"]
    assert (codes.index == frame.index).all()
    again = model.reconstruct(frame)
    assert list(again) == modelled
    assert (again.index == frame.index).all()


def test_an_imputed_table_keeps_what_was_there(trained):
    frame, model = trained
    found = lb.impute(model, frame).table
    assert list(found) == list(frame)
    assert (found.index == frame.index).all()
    assert not found.isna().any().any()
    there = frame.notna()
    assert found.where(there).equals(frame.where(there))
    assert {name: found[name].dtype for name in found} == {
        name: frame[name].dtype for name in frame
    }


def test_a_saved_model_takes_tomorrows_table(trained, tmp_path):
    frame, model = trained
    loaded = lb.load(lb.save(model, tmp_path / "model.safetensors"))
    assert loaded.schema == model.schema
    new = frame[list(reversed(frame.columns))]
    assert evaluate(loaded, new) == evaluate(model, frame)


def test_draws_given_some_columns_keep_them(trained):
    _, model = trained
    given = pd.DataFrame({"job": ["cook", "nurse"], "visits": [3, None]})
    drawn = model.sample(3, given=given, seed=0)
    assert list(drawn["job"]) == ["cook"] * 3 + ["nurse"] * 3
    assert list(drawn["visits"][:3]) == [3, 3, 3]
    assert model.sample(3, given=given, seed=0).equals(drawn)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_draws_say_to_which_given_row_they_belong(library):
    frame = make_table(60).assign(code=[f"row {number}" for number in range(60)])
    frame = nw.from_dict(frame.to_dict("list"), backend=library).to_native()
    data = lb.load_data(frame, test_fraction=0.0)
    assert data.schema.find("code").type == "identifier"
    model, _ = find_recipe("table").build(data, {"hidden": 4}, seed=0)
    name = data.schema.modelled[0].name
    rows = nw.from_native(frame)[[7, 3]].select("code", name)
    if library == "pandas":
        rows = nw.from_native(rows.to_native().set_axis(["b", "a"]))
    drawn = model.sample(3, given=rows.to_native(), seed=0)
    codes = nw.from_native(drawn)["code"].to_list()
    assert codes == ["row 7"] * 3 + ["row 3"] * 3
    if library == "pandas":
        assert list(drawn.index) == ["b"] * 3 + ["a"] * 3


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize(
    ("known", "given", "kept"),
    [
        (list(range(100, 160)), [3, None], [3, None]),
        (list(range(100, 160)), ["p", "q"], ["p", "q"]),
        ([f"row {number}" for number in range(60)], [7, 1000], [7, 1000]),
        ([f"row {number}" for number in range(60)], ["x", None], ["x", None]),
    ],
)
def test_identifiers_of_given_rows_may_be_of_another_type(library, known, given, kept):
    columns = {"code": known, **make_table(60).to_dict("list")}
    frame = nw.from_dict(columns, backend=library).to_native()
    data = lb.load_data(frame, columns={"code": "identifier"}, test_fraction=0.0)
    model, _ = find_recipe("table").build(data, {"hidden": 4}, seed=0)
    name = data.schema.modelled[0].name
    for other in ("pandas", "polars", "pyarrow"):
        rows = nw.from_dict({"code": given, name: [0.0, 1.0]}, backend=other).to_native()
        codes = nw.from_native(model.sample(1, given=rows, seed=0))["code"].to_list()
        assert [None if is_missing(code) else code for code in codes] == kept


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
@pytest.mark.parametrize(
    ("constant", "given", "kept"),
    [
        (1.0, [7.0, None], [7.0, 1.0]),
        (1.0, [7, None], [7.0, 1.0]),
        (3, [4, 5], [4, 5]),
        ("x", ["y", None], ["y", "x"]),
        (True, [False, True], [False, True]),
        (pd.Timestamp("2020-01-01"), [pd.Timestamp("2021-01-01")] * 2, None),
        (1.0, ["low", "high"], ["low", "high"]),
        (None, ["low", None], ["low", None]),
    ],
)
def test_values_given_for_a_constant_column_are_kept(library, constant, given, kept):
    columns = {"code": [constant] * 60, **make_table(60).to_dict("list")}
    data = lb.load_data(nw.from_dict(columns, backend=library).to_native(), test_fraction=0.0)
    assert data.schema.find("code").type == "constant"
    model, _ = find_recipe("table").build(data, {"hidden": 4}, seed=0)
    for other in ("pandas", "polars", "pyarrow"):
        rows = nw.from_dict({"code": given, "a": [0.0, 1.0]}, backend=other).to_native()
        codes = nw.from_native(model.sample(1, given=rows, seed=0))["code"].to_list()
        assert [None if is_missing(code) else code for code in codes] == (kept or given)


def test_a_constant_that_is_given_in_an_array_is_kept():
    schema = infer_schema(open_table(np.c_[make_table(60)["a"], np.ones(60)]))
    given = np.array([[0.5, 7.0], [2.5, np.nan]])
    made = make_table_like(given, {"x0": np.zeros(2)}, schema, keeps_entries=True)
    np.testing.assert_array_equal(made, [[0.5, 7.0], [2.5, 1.0]])


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_large_whole_numbers_that_are_given_are_kept(library):
    base = 2**53
    frame = pd.DataFrame({"key": base + 17 * np.arange(60) ** 2, "a": np.linspace(0.1, 1.7, 60)})
    data = lb.load_data(nw.from_dict(frame.to_dict("list"), backend=library).to_native())
    model, _ = find_recipe("table").build(data, {"hidden": 4}, seed=0)
    assert data.schema.find("key").type == "real"
    known = pd.DataFrame({"key": pd.array([base + 1, None, base + 3], dtype="Int64")})
    keys = nw.from_native(model.sample(2, given=known, seed=0))["key"].to_list()
    assert keys[:2] == [base + 1] * 2
    assert keys[4:] == [base + 3] * 2


def test_the_sensitivity_agrees_with_the_closed_form():
    """Tilting a Gaussian by exp(delta v) shifts its mean by delta times its covariance with v."""
    model, frame = make_model(widening=1.2), make_table(400, missing=0.2)
    complete = make_table(400, missing=0.0)["a"]
    found = lb.sensitivity(model, frame, slopes=(-1.0, 0.0, 1.0), draws=400, samples=1000)
    assert [each.slope for each in found if each.column == "a"] == [-1.0, 0.0, 1.0]
    low, middle, high = (each for each in found if each.column == "a")
    hidden = frame["a"].isna()
    assert middle.missing == pytest.approx(hidden.mean())
    assert abs(middle.mean_of_imputed - complete[hidden].mean()) < 4 * UNITS[0] / math.sqrt(
        hidden.sum()
    )
    shifts = []
    for row in frame[hidden].to_numpy():
        _, spread = conditional(row)
        shifts.append(spread[0, 0] / frame["a"].std())
    assert high.mean_of_imputed - middle.mean_of_imputed == pytest.approx(np.mean(shifts), rel=0.12)
    assert middle.mean_of_imputed - low.mean_of_imputed == pytest.approx(np.mean(shifts), rel=0.12)
    total = frame["a"].sum() + high.mean_of_imputed * hidden.sum()
    assert high.mean == pytest.approx(total / len(frame), rel=1e-4)
    table = lb.evaluation.tabulate_sensitivity(found)
    names = ["column", "missing", "slope", "odds_ratio", "mean_of_imputed", "mean"]
    assert list(table) == names
    assert table["odds_ratio"].tolist()[:3] == pytest.approx([math.exp(-1), 1.0, math.e])


def test_a_sensitivity_of_an_estimate_keeps_the_relations_between_columns():
    """With the slope 0, tables are those of an imputation, also where two columns are missing."""
    model, frame = make_model(), make_table(200, missing=0.4, seed=5)
    both = (frame["a"].isna() & frame["b"].isna()).to_numpy()

    def estimate(table):
        a, b = ((table[name] - table[name].mean()) / table[name].std() for name in "ab")
        return float((a * b)[both].mean())

    settings = {"estimate": estimate, "tables": 100, "draws": 200, "samples": 500}
    found = lb.sensitivity(model, frame, slopes=(0.0,), **settings)
    wanted = np.mean(
        [estimate(table) for table in lb.impute(model, frame, 100, samples=500).tables]
    )
    assert wanted < -0.2
    assert [each.estimate for each in found] == pytest.approx([wanted] * len(NAMES), abs=0.07)


def test_draws_given_some_columns_need_no_seed_and_change_nothing(trained):
    _, model = trained
    given = pd.DataFrame({"income": [1e9, 123.456789], "height": [171.123456789, None]})
    drawn = model.sample(2, given=given)
    assert list(drawn["income"]) == [1e9, 1e9, 123.456789, 123.456789]
    assert list(drawn["height"][:2]) == [171.123456789] * 2
    assert drawn["height"][2:].notna().all()


def test_a_fraction_in_a_condition_is_kept():
    numbers = np.random.default_rng(0).integers(-50, 50, (200, 2))
    numbers[:, 1] *= 1_000_000
    model = fit_table(pd.DataFrame(numbers, columns=["a", "b"]), steps=5)
    assert model.sample(5, seed=0).dtypes.astype(str).tolist() == ["int64", "int64"]
    drawn = model.sample(3, given=pd.DataFrame({"a": [3.5]}), seed=0)
    assert drawn["a"].tolist() == [3.5, 3.5, 3.5]
    assert drawn["b"].dtype == np.int64


def test_few_effective_samples_are_counted():
    model = make_model(widening=30.0)
    given = pd.DataFrame({"b": [ORIGINS[1] + 3 * UNITS[1]], "d": [ORIGINS[3]]})
    with pytest.warns(
        DoubtfulEstimateWarning, match=r"come from [1-9]\.\d effective samples of 500"
    ):
        model.sample(2, given=given, seed=0, samples=500)


def test_the_mode_of_continuous_values_is_where_they_are_dense():
    draws = np.random.default_rng(0).gamma(3.0, 1.0, (4000, 30))
    found = _find_half_sample_modes(draws)
    assert found.mean() == pytest.approx(2.0, abs=0.15)  # the mode of this gamma distribution


def test_a_row_without_probability_does_not_stop_the_others(trained):
    frame, model = trained
    frame = frame.astype({"height": float})
    frame.loc[frame.index[3], ["height", "job"]] = [1e30, None]
    with pytest.warns(DoubtfulEstimateWarning, match="rows 3"):
        found = lb.impute(model, frame)
    assert not found.table.isna().any().any()


def test_constant_columns_have_their_value():
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "a": [3.0, None] * 40,
            "b": random.normal(size=80),
            "c": ["x", None] * 40,
            "d": pd.array([True, None] * 40, dtype="boolean"),
            "e": pd.Series([False, None] * 40, dtype=object),
            "t": [pd.Timestamp("2020-03-01 06:00", tz="Europe/Berlin"), None] * 40,
        }
    )
    model = fit_table(frame, steps=5)
    found = lb.impute(model, frame).table
    for name in "acdet":
        assert (found[name] == frame[name][0]).all(), name
    assert found.dtypes.equals(frame.dtypes)
    drawn = model.sample(2)
    assert list(drawn) == list(frame)
    assert (drawn["t"] == frame["t"][0]).all()
    assert (drawn["d"] == True).all()  # noqa: E712


def test_a_pair_of_tables_has_one_schema():
    frame = make_frame(100)
    data = lb.load_data((frame[:60], frame[60:]))
    assert data.test.preprocessing.schema == data.train.preprocessing.schema
    assert len(data.test) == 40


def test_other_models_refuse_rows_of_tables():
    data = lb.load_data(make_frame()[["height", "income"]])
    vae = lb.LatentModel(lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Gaussian(lb.mlp(1, 4)))
    with pytest.raises(DataError, match="a Gaussian likelihood does not know its columns"):
        lb.fit(vae, lb.ELBO(), data.train, steps=1, progress=False)


def test_the_whole_of_a_data_set_is_imputed(trained):
    frame, model = trained
    found = lb.impute(model, lb.load_data(frame, test_fraction=0.2))
    assert len(found.table) == len(frame)


def test_draws_given_an_unknown_column_are_refused(trained):
    _, model = trained
    with pytest.raises(DataError, match="given: 'jobs' is not a column of the model's table"):
        model.sample(3, given=pd.DataFrame({"jobs": ["cook"], "visits": [3]}))


def test_examples_of_other_columns_are_refused(trained):
    frame, model = trained
    other = lb.load_data(frame[["height", "income"]]).train
    with pytest.raises(DataError, match="numbers of other columns"):
        lb.evaluate(model, lb.IWAE(2), other)
    fewer = lb.load_data(frame.assign(height=2 * frame["height"])).train
    with pytest.raises(DataError, match=r"on other scales.*give the table itself"):
        lb.evaluate(model, lb.IWAE(2), fewer)


def test_nothing_is_hidden_in_evaluations_and_whole_columns_in_training(trained):
    _, model = trained
    hidden = ~model._show_some(1000, torch.device("cpu"))
    place = model.schema.places["gift"]
    assert torch.equal(hidden[:, place.start], hidden[:, place.stop - 1])
    assert 0.35 < float(hidden.any(1).float().mean()) < 0.6


def test_the_bound_that_a_training_reports_is_that_of_all_entries(capsys):
    """Entries that are hidden in training would raise it."""
    frame = make_frame(200)
    data = lb.load_data(frame, test_fraction=0.0)
    recipe = find_recipe("table")
    model, objective = recipe.build(data, {"hidden": 16, "latent": 2}, seed=0)
    settings = recipe.training | {"steps": 100, "batch_size": 50}
    run = lb.fit(model, objective, data.train, **settings, threads=1, compile="never")
    shown = capsys.readouterr().err
    estimate = lb.evaluate(run.model, objective, data.train)
    gain = estimate.mean - run.baseline
    assert run.history[-1]["train"]["bound"] - run.baseline > gain + 1
    assert f"the train bound is {gain:.2f} nats above that of independent entries" in shown
    for text in (shown, repr(run)):
        assert "train (some entries hidden) " in text


def test_draws_are_frames_of_the_library_of_what_is_given(tmp_path):
    frame = make_frame(60)
    frame.to_csv(tmp_path / "table.csv", index=False)
    model = fit_table(tmp_path / "table.csv", steps=5)
    given = frame[["job"]].iloc[3:5]
    drawn = model.sample(2, given=given, seed=0)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.index.tolist() == [*given.index.repeat(2)]
    assert drawn["job"].tolist() == [*given["job"].repeat(2)]
    assert isinstance(model.reconstruct(frame), pd.DataFrame)
    assert isinstance(model.encode(frame), pd.DataFrame)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, f: lb.impute(m, f, 0), SettingsError, "impute: draws"),
        (lambda m, f: lb.impute(m, f, point="best"), SettingsError, "point='best' is unknown"),
        (
            lambda m, f: lb.impute(lb.LatentModel(m.prior, m.posterior, m.likelihood), f),
            UnsupportedError,
            "impute takes a lowerbound.TableModel",
        ),
        (
            lambda m, f: lb.TableModel(m.prior, m.posterior, m.likelihood, hide=2),
            SettingsError,
            "hide=2",
        ),
        (
            lambda m, f: lb.TableModel(m.prior, m.posterior, lb.Gaussian(lb.mlp(2, 4))),
            UnsupportedError,
            "does not know the columns",
        ),
        (
            lambda m, f: lb.Columns(lb.mlp(2, 4, 3), m.schema),
            lb.errors.ShapeError,
            "needs .* outputs",
        ),
        (
            lambda m, f: lb.sensitivity(m, f[:9], 0.5, draws=5, samples=5),
            SettingsError,
            "a list of finite numbers",
        ),
        (
            lambda m, f: lb.sensitivity(
                m, f[:20], estimate=lambda table: table["height"], draws=5, samples=5
            ),
            SettingsError,
            "estimate= gives a Series of shape",
        ),
    ],
)
def test_wrong_settings_are_refused(call, error, message, trained):
    frame, model = trained
    with pytest.raises(error, match=message):
        call(model, frame)


def test_rubins_rules():
    # An example with M = 5 (Little & Rubin 2002 give the formulae).
    estimates, variances = np.array([2.1, 1.9, 2.4, 2.0, 2.2]), np.full(5, 0.04)
    pooled = lb.pool(estimates, variances)
    between = estimates.var(ddof=1)
    total = 0.04 + 1.2 * between
    assert pooled.mean == pytest.approx(2.12)
    assert pooled.variance == pytest.approx(total)
    assert pooled.degrees == pytest.approx(4 * (total / (1.2 * between)) ** 2)
    low, high = pooled.interval(0.9)
    width = stats.t.ppf(0.95, pooled.degrees) * math.sqrt(total)
    assert (low, high) == pytest.approx((2.12 - width, 2.12 + width))
    equal = lb.pool([1.0, 1.0], [0.25, 0.25])
    assert equal.interval()[1] == pytest.approx(1 + 0.5 * stats.norm.ppf(0.975))


def test_degrees_of_freedom_are_at_most_those_of_a_complete_table():
    """The formulae of Barnard & Rubin 1999, written out."""
    estimates, variances = np.array([2.1, 1.9, 2.4, 2.0, 2.2]), np.full(5, 0.04)
    between, complete = estimates.var(ddof=1), 17
    lost = 1.2 * between / (0.04 + 1.2 * between)
    observed = (complete + 1) / (complete + 3) * complete * (1 - lost)
    rubin = 4 / lost**2
    pooled = lb.pool(estimates, variances, complete_degrees=complete)
    assert pooled.degrees == pytest.approx(rubin * observed / (rubin + observed))
    many = lb.pool(estimates, variances, complete_degrees=1e12)
    assert many.degrees == pytest.approx(lb.pool(estimates, variances).degrees)
    infinite = lb.pool(estimates, variances, complete_degrees=math.inf)
    assert infinite.degrees == lb.pool(estimates, variances).degrees
    equal = lb.pool([1.0, 1.0], [0.25, 0.25], complete_degrees=complete)
    assert equal.degrees == pytest.approx(18 / 20 * 17)
    noise_free = lb.pool([1.0, 2.0], [0.0, 0.0], complete_degrees=complete)
    assert 0 <= noise_free.degrees < 1e-9


def test_estimates_with_labels_are_not_pooled_in_another_order():
    jobs = pd.Series({"cook": 0.5, "nurse": 0.3})
    assert lb.pool([jobs, jobs + 0.1], [jobs, jobs]).mean.tolist() == pytest.approx([0.55, 0.35])
    for other in (jobs[::-1], jobs[:1]):
        with pytest.raises(SettingsError, match="in the same order"):
            lb.pool([jobs, other], [jobs, jobs])
        with pytest.raises(SettingsError, match="in the same order"):
            lb.pool([jobs, jobs], [jobs, other])


def test_equal_estimates_without_variance_have_no_width():
    pooled = lb.pool([1.0, 1.0], [0.0, 0.0])
    assert pooled.interval() == (1.0, 1.0)
    assert pooled.missing_information == 0


@pytest.mark.parametrize(
    ("estimates", "variances", "message"),
    [([1.0], [1.0], "at least two"), ([1, 2], [1], "the shape"), ([1, 2], [1, -1], "at least 0")],
)
def test_pool_refuses(estimates, variances, message):
    with pytest.raises(SettingsError, match=message):
        lb.pool(estimates, variances)


def test_pool_refuses_degrees_of_freedom_that_are_not_positive():
    for wrong in (0, True, "3", np.array([5.0, 6.0])):
        with pytest.raises(SettingsError, match=r"complete_degrees=.* must be a positive number"):
            lb.pool([1, 2], [1, 1], complete_degrees=wrong)
