"""The estimators for scikit-learn: its own checks, and use in pipelines and searches."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from lowerbound.sklearn import VAE, VAEImputer, VAEOutlierDetector

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame

QUICK = {"steps": 20, "hidden": 8, "latent": 2, "samples": 2}
ESTIMATORS = [VAE, VAEImputer, VAEOutlierDetector]


@pytest.mark.usefixtures("trains")
@parametrize_with_checks([estimator(**QUICK) for estimator in ESTIMATORS])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def wine():
    return load_wine(return_X_y=True)


@pytest.fixture(scope="module")
def fitted(wine):
    return VAE(**QUICK, random_state=0).fit(wine[0])


def test_an_embedding_comes_back(fitted, wine):
    z = fitted.transform(wine[0])
    assert z.shape == (len(wine[0]), 2)
    assert list(fitted.get_feature_names_out()) == ["vae0", "vae1"]
    again = fitted.inverse_transform(z)
    assert again.shape == wine[0].shape
    # On unscaled columns, whose spreads differ by a factor of 2,500.
    assert (np.abs(again.mean(0) - wine[0].mean(0)) < wine[0].std(0)).all()


def test_scores_are_the_same_at_every_call_and_for_every_batch(fitted, wine):
    scores = fitted.score_samples(wine[0])
    assert np.array_equal(fitted.score_samples(wine[0]), scores)
    np.testing.assert_allclose(fitted.score_samples(wine[0][50:60]), scores[50:60], rtol=1e-10)
    assert fitted.score(wine[0]) == pytest.approx(scores.mean())


def test_samples_are_repeatable(fitted):
    first = fitted.sample(5, random_state=3)
    assert first.shape == (5, 13)
    assert np.array_equal(fitted.sample(5, random_state=3), first)


@pytest.mark.parametrize("make", ESTIMATORS)
def test_pickles_hold_the_model_as_a_file_without_code(make, wine):
    estimator = make(**QUICK, random_state=0).fit(wine[0])
    content = pickle.dumps(estimator)
    assert b"TableModel" in content  # its description, as text
    assert b"lowerbound.models" not in content
    again = pickle.loads(content)
    method = "score_samples" if hasattr(estimator, "score_samples") else "transform"
    assert np.array_equal(getattr(again, method)(wine[0]), getattr(estimator, method)(wine[0]))


def test_weights_count_rows(wine):
    X = wine[0][:30]
    weights = np.ones(30)
    weights[3], weights[7] = 0, 2
    weighted = VAE(**QUICK, random_state=0).fit(X, sample_weight=weights)
    repeated = np.concatenate([X[:3], X[4:8], X[7:]])
    plain = VAE(**QUICK, random_state=0).fit(repeated)
    np.testing.assert_allclose(weighted.score_samples(X), plain.score_samples(X), rtol=1e-10)


def test_a_search_a_pipeline_and_columns_of_a_frame(wine):
    X, y = wine
    pipeline = make_pipeline(VAE(**QUICK, random_state=0), LogisticRegression())
    search = GridSearchCV(pipeline, {"vae__latent": [1, 3]}, cv=2).fit(X, y)
    assert search.best_params_["vae__latent"] in (1, 3)
    assert cross_val_score(VAE(**QUICK, random_state=0), X, cv=2).shape == (2,)
    frame = make_frame(60)
    columns = ColumnTransformer(
        [
            ("table", VAE(**QUICK, random_state=0), ["height", "job", "gift"]),
            ("rest", StandardScaler(), ["share"]),
        ]
    ).set_output(transform="pandas")
    out = columns.fit_transform(frame)
    assert list(out) == ["table__vae0", "table__vae1", "rest__share"]
    assert (out.index == frame.index).all()


def test_an_imputer_fills_a_frame_with_columns_of_any_type():
    frame = make_frame(80)[["height", "job", "visits", "smokes", "born"]]
    holes = frame.astype({"smokes": object})
    holes.loc[holes.index[::5], ["height", "job", "smokes", "born"]] = None
    filled = VAEImputer(**QUICK, random_state=0).fit_transform(holes)
    assert list(filled) == list(frame)
    assert not filled.isna().any().any()
    there = holes.notna()
    assert filled.where(there).equals(holes.where(there))


def test_an_imputer_is_better_than_the_mean():
    X = StandardScaler().fit_transform(load_breast_cancer().data)
    random = np.random.default_rng(0)
    hidden = random.random(X.shape) < 0.2
    holes = np.where(hidden, np.nan, X)
    filled = VAEImputer(steps=600, random_state=0).fit_transform(holes)
    assert np.array_equal(filled[~hidden], X[~hidden])
    means = np.broadcast_to(np.nanmean(holes, 0), X.shape)
    error, usual = (((each - X)[hidden] ** 2).mean() for each in (filled, means))
    assert error < 0.5 * usual


def test_outliers_have_low_scores():
    random = np.random.default_rng(0)
    X = random.normal(size=(300, 4)) @ random.normal(size=(4, 4))
    far = X[:10] + 30 * X.std(0)
    detector = VAEOutlierDetector(contamination=0.05, steps=300, random_state=0).fit(X)
    assert (detector.predict(far) == -1).all()
    assert (detector.predict(X) == -1).mean() == pytest.approx(0.05, abs=0.01)
    assert detector.decision_function(far).max() < 0


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_whether_a_row_is_an_outlier_does_not_depend_on_what_is_missing(unit):
    X = np.random.default_rng(1).normal(size=(300, 2))
    missing = np.random.default_rng(2).random(300) < 0.3
    X[missing, 1] = np.nan
    X[0] = [9.0, np.nan]
    settings = {"steps": 150, "score_samples_draws": 50, "random_state": 0}
    detector = VAEOutlierDetector(contamination=0.1, **settings).fit(X * [1, unit])
    found = detector.predict(X * [1, unit]) == -1
    assert found[0]
    assert 0.01 < found[missing].mean() < 0.2
    assert 0.05 < found[~missing].mean() < 0.2
    scores = detector.score_samples(X * [1, unit])
    np.testing.assert_allclose(detector.score_samples(X[:40] * [1, unit]), scores[:40], rtol=1e-9)
    # Complete rows have log p(x).
    vae = VAE(**settings).fit(X * [1, unit])
    np.testing.assert_allclose(
        vae.score_samples(X * [1, unit])[~missing][1:], scores[~missing][1:], rtol=1e-9
    )


def test_gifts_that_are_missing_are_scored():
    frame = make_frame(60)[["gift", "job", "born", "visits", "answer"]]
    frame.loc[frame.index[::5], ["gift", "job", "born"]] = None
    detector = VAEOutlierDetector(**QUICK, score_samples_draws=10, random_state=0).fit(frame)
    assert np.isfinite(detector.score_samples(frame)).all()


def test_an_estimator_of_an_array_takes_a_frame_by_position():
    X = np.random.default_rng(0).normal(size=(40, 2))
    vae = VAE(**QUICK, random_state=0).fit(X)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        z = vae.transform(pd.DataFrame(X, columns=["b", "a"]))
    assert np.array_equal(z, vae.transform(X))
    frame = pd.DataFrame({0: ["cook", "nurse"] * 20, 1: X[:, 0]})
    with pytest.raises(ValueError, match="whose columns have text as names"):
        VAE(**QUICK).fit(frame)


def test_an_embedding_has_the_size_of_the_fit(fitted, wine):
    vae = clone(fitted).fit(wine[0]).set_params(latent=5)
    assert list(vae.get_feature_names_out()) == ["vae0", "vae1"]
    assert vae.inverse_transform(vae.transform(wine[0])).shape == wine[0].shape


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_imputed_frames_of_other_libraries_become_frames_of_pandas(library):
    module = pytest.importorskip(library)
    make = module.DataFrame if library == "polars" else module.table
    frame = make({"a": [1.5, -2.5, None, 0.25] * 10, "n": [1, 20, 30, 41] * 10})
    imputer = VAEImputer(**QUICK, random_state=0).set_output(transform="pandas")
    filled = imputer.fit_transform(frame)
    assert isinstance(filled, pd.DataFrame)
    assert filled.dtypes.astype(str).tolist() == ["float64", "int64"]
    assert not filled.isna().any().any()


def test_new_categories_are_refused_or_are_others():
    frame = pd.DataFrame({"job": ["cook", "nurse"] * 20 + ["pilot"]})
    new = pd.DataFrame({"job": ["smith"]})
    with pytest.raises(ValueError, match="'smith' in row 0"):
        VAE(**QUICK, random_state=0).fit(frame).transform(new)
    assert VAE(**QUICK, unknown="other", random_state=0).fit(frame).transform(new).shape == (1, 2)


def make_numbers_of_all_types():
    random = np.random.default_rng(0)
    rows = 100
    return pd.DataFrame(
        {
            "ordinal": random.integers(1, 6, rows),
            "real": random.normal(size=rows),
            "positive": np.exp(2 * random.normal(size=rows)),
            "proportion": random.random(rows),
            "count": random.poisson(20, rows) + random.integers(0, 30, rows),
            "boolean": random.integers(0, 2, rows),
        }
    )


# Columns, impossible numbers, and the nearest possible ones, or which of them is the nearest.
IMPOSSIBLE = [
    ("ordinal", 6.0, 5.0),
    ("ordinal", 99.0, 5.0),
    ("ordinal", 2.4, 2.0),
    ("positive", -1.5, "min"),
    ("positive", 0.0, "min"),
    ("proportion", 1.5, "max"),
    ("count", 20.25, 20.0),
    ("count", -3.0, 0.0),
    ("boolean", 2.0, 1.0),
]


@pytest.mark.parametrize("as_array", [False, True])
def test_numbers_that_the_training_data_exclude_have_low_scores(as_array):
    """They cost log(N + 1) + 2 log(1 + d / r) more than the nearest possible numbers."""
    frame = make_numbers_of_all_types()
    prepare = pd.DataFrame.to_numpy if as_array else pd.DataFrame.copy
    detector = VAEOutlierDetector(steps=20, random_state=0).fit(prepare(frame))
    assert [each.type for each in detector.schema_.columns] == list(frame)
    for name, value, named in IMPOSSIBLE:
        nearest = frame[name].agg(named) if isinstance(named, str) else named
        width = frame[name].max() - frame[name].min()
        row, possible = frame[:1].astype(float), frame[:1].astype(float)
        row[name], possible[name] = value, nearest
        cost = np.log(101) + 2 * np.log1p(abs(value - nearest) / width)
        difference = detector.score_samples(prepare(possible)) - detector.score_samples(
            prepare(row)
        )
        assert difference == pytest.approx([cost], rel=1e-6), (name, value)


def test_numbers_that_the_training_data_exclude_are_embedded_and_kept():
    frame = make_numbers_of_all_types()
    vae = VAE(latent=2, steps=20, random_state=0).fit(frame)
    odd = frame[:2].astype(float).assign(ordinal=[5.0, 99.0])
    with pytest.warns(UserWarning, match=r"1 values? .*impossible.* 99 in 'ordinal' \(row 1\)"):
        embedding = vae.transform(odd)
    assert (embedding[1] == vae.transform(odd.assign(ordinal=5.0))[1]).all()
    odd.loc[1, "real"] = np.nan
    with pytest.warns(UserWarning, match="impossible"):
        filled = VAEImputer(steps=20, random_state=0).fit(frame).transform(odd)
    assert filled["ordinal"].tolist() == [5, 99]
    assert filled.notna().all(axis=None)


@pytest.mark.parametrize("scale", [1, 0.01])
def test_impossible_numbers_cost_by_the_number_of_rows_or_whole_weights(scale):
    frame = make_numbers_of_all_types()[["ordinal", "real"]]
    weights = np.full(len(frame), 3 * scale)
    detector = VAEOutlierDetector(steps=5, random_state=0).fit(frame, sample_weight=weights)
    row = frame[:1].astype(float)
    scores = [detector.score_samples(row.assign(ordinal=each))[0] for each in (5.0, 6.0)]
    rows = 300 if scale == 1 else 100
    assert scores[0] - scores[1] == pytest.approx(np.log(rows + 1) + 2 * np.log(1.25))


def test_integers_go_through_cross_validation():
    counts = np.random.default_rng(0).poisson(2, (60, 5))
    scores = cross_val_score(VAE(steps=5, random_state=0), counts, cv=3, error_score="raise")
    assert np.isfinite(scores).all()


def test_a_frame_without_names_is_filled_too():
    X = np.random.default_rng(0).normal(size=(40, 3))
    X[::5, 1] = np.nan
    filled = VAEImputer(**QUICK, random_state=0).fit_transform(pd.DataFrame(X))
    assert not np.isnan(np.asarray(filled)).any()


def test_arrays_keep_all_of_their_columns():
    X = np.random.default_rng(0).normal(size=(60, 3))
    X[:, 0], X[:, 2] = 7.0, np.arange(60)
    vae = VAE(**QUICK, random_state=0).fit(X)
    drawn = vae.sample(4, random_state=0)
    assert drawn.shape == (4, 3)
    assert (drawn[:, 0] == 7.0).all()
    assert np.isfinite(drawn).all()
    assert vae.score_samples(drawn).shape == (4,)


def test_another_architecture_is_not_continued(wine):
    vae = VAE(**QUICK, random_state=0, warm_start=True).fit(wine[0])
    with pytest.raises(ValueError, match="set warm_start=False to fit a new one"):
        vae.set_params(latent=3).fit(wine[0])
    with pytest.raises(ValueError, match="'missing_values': \\(-999, '-999'\\)"):
        vae.set_params(latent=2, missing_values=-999).fit(wine[0])


@pytest.mark.parametrize("estimator", [VAE, VAEImputer, VAEOutlierDetector])
@pytest.mark.parametrize(
    ("first", "second"), [("ab", "abc"), ("abc", "ab"), ("ab", "ac"), ("ab", "ba")]
)
def test_other_columns_are_not_continued(estimator, first, second):
    values = np.random.default_rng(0).normal(size=(40, 3))
    frame = pd.DataFrame(values, columns=list("abc"))
    fitted = estimator(**QUICK, random_state=0, warm_start=True).fit(frame[list(first)])
    message = "(?i)feature names (must|should)"
    with pytest.raises(ValueError, match=message) as caught:
        fitted.fit(frame[list(second)])
    assert "set warm_start=False to fit a new one" in "".join(caught.value.__notes__)
    assert list(fitted.feature_names_in_) == list(first)
    assert fitted.fit(frame[list(first)]).n_features_in_ == len(first)
    with pytest.raises(ValueError, match="at least 2 are needed"):
        fitted.fit(frame[list(first)][:1])


def test_arrays_of_another_width_are_not_continued():
    values = np.random.default_rng(0).normal(size=(40, 3))
    vae = VAE(**QUICK, random_state=0, warm_start=True).fit(values)
    with pytest.raises(ValueError, match="X has 2 features, but VAE is expecting 3"):
        vae.fit(values[:, :2])
    assert vae.n_features_in_ == 3


def test_warm_start_continues(wine):
    vae = VAE(**QUICK, random_state=0, warm_start=True).fit(wine[0])
    first = vae.score(wine[0])
    assert vae.fit(wine[0]).score(wine[0]) > first
    assert clone(vae).get_params() == vae.get_params()


def test_an_estimator_that_is_not_fitted_says_so():
    frame = make_frame(20)
    for estimator, method in (
        (VAE(), "transform"),
        (VAE(), "score_samples"),
        (VAE(), "sample"),
        (VAEImputer(), "transform"),
        (VAEOutlierDetector(), "predict"),
    ):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            getattr(estimator, method)(*([] if method == "sample" else [frame]))


def test_columns_of_the_same_name_and_arrays_of_text_are_refused_in_words():
    twice = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), columns=["a", "a"])
    with pytest.raises(ValueError, match="two columns are called 'a'"):
        VAE(**QUICK).fit(twice)
    with pytest.raises(ValueError, match=r"'cook'\. An array has numbers only; give .*DataFrame"):
        VAE(**QUICK).fit(np.array([["cook", 1.0], ["nurse", 2.0]], dtype=object))


@pytest.mark.parametrize("marks", [-999, [-999], (-999, "?"), (pd.NA, -999)])
def test_one_or_several_values_stand_for_missing_ones(marks):
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[::4, 0] = -999
    filled = VAEImputer(**QUICK, missing_values=marks, random_state=0).fit_transform(X)
    assert (np.abs(filled) < 10).all()
    frame = pd.DataFrame({"job": ["cook", "nurse", "n/a", "cook"] * 10, "a": X[:, 1]})
    imputer = VAEImputer(**QUICK, missing_values="n/a", random_state=0)
    assert set(imputer.fit_transform(frame)["job"]) == {"cook", "nurse"}


@pytest.mark.parametrize("mark", [pd.NA, np.nan, None])
def test_marks_that_are_missing_anyway_change_nothing(mark):
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[::4, 0] = np.nan
    imputer = VAEImputer(**QUICK, missing_values=mark, random_state=0).fit(X)
    assert imputer.schema_.missing_values == ()


def test_a_column_that_cannot_be_filled_is_named():
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"a": random.normal(size=20), "b": np.nan, "c": [1.0, np.nan] * 10})
    with pytest.warns(UserWarning, match="missing entries of b stay missing"):
        filled = VAEImputer(**QUICK, random_state=0).fit_transform(frame)
    assert filled["b"].isna().all()
    assert (filled["c"] == 1.0).all()
    with pytest.warns(UserWarning, match="missing entries of x1 stay missing"):
        VAEImputer(**QUICK, random_state=0).fit(frame.set_axis([0, 1, 2], axis=1))


def test_an_embedding_in_a_frame_comes_back(wine):
    vae = VAE(**QUICK, random_state=0).set_output(transform="pandas").fit(wine[0])
    z = vae.transform(wine[0])
    z_fixed = z.to_numpy().copy()
    z_fixed.flags.writeable = False
    assert np.array_equal(vae.inverse_transform(z), vae.inverse_transform(z_fixed))


def test_imputed_frames_go_through_a_pipeline_and_a_search():
    frame = make_frame(80)[["height", "income", "job", "smokes"]].astype({"smokes": object})
    frame.loc[frame.index[::5], ["height", "job", "smokes"]] = None
    pipeline = make_pipeline(
        VAEImputer(**QUICK, random_state=0),
        ColumnTransformer(
            [
                ("numbers", StandardScaler(), ["height", "income"]),
                ("rest", OneHotEncoder(), ["job"]),
            ]
        ),
        Ridge(),
    )
    y = frame["income"].to_numpy()
    search = GridSearchCV(pipeline, {"vaeimputer__latent": [1, 2]}, cv=2).fit(frame, y)
    assert search.predict(frame).shape == (80,)
    pl = pytest.importorskip("polars")
    filled = VAEImputer(**QUICK, random_state=0).set_output(transform="polars").fit_transform(frame)
    assert isinstance(filled, pl.DataFrame)
    assert filled.null_count().sum_horizontal()[0] == 0


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_ordered_categories_keep_their_order_in_polars(library):
    pl = pytest.importorskip("polars")
    labels = ["low", "mid", "high"]
    random = np.random.default_rng(0)
    codes = np.where(random.random(60) < 0.2, -1, random.integers(0, 3, 60))
    rating = pd.Categorical.from_codes(codes, labels, ordered=True)
    frame = pd.DataFrame({"x": random.normal(size=60), "rating": rating})
    if library != "pandas":
        pyarrow = pytest.importorskip("pyarrow")
        frame = pyarrow.Table.from_pandas(frame)
    if library == "polars":
        frame = pl.from_arrow(frame).with_columns(pl.col("rating").cast(pl.Enum(labels)))
    imputer = VAEImputer(**QUICK, random_state=0).set_output(transform="polars")
    filled = imputer.fit_transform(frame)
    assert filled["rating"].dtype == pl.Enum(labels)
    assert filled["rating"].null_count() == 0
    assert filled["rating"].sort()[0] == "low"


def test_weights_are_routed_in_a_search():
    frame = make_frame(60)[["height", "job"]]
    with config_context(enable_metadata_routing=True):
        vae = VAE(**QUICK, random_state=0).set_fit_request(sample_weight=True)
        scores = cross_val_score(vae, frame, cv=2, params={"sample_weight": np.ones(60)})
    assert np.isfinite(scores).all()
