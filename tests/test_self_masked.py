"""Tables whose values are missing because of their size: closed forms, draws, recovery."""

import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats
from scipy.special import expit as sigmoid
from torch import nn

import lowerbound as lb
from lowerbound.data import Column, Schema
from lowerbound.data.schema import make_table_examples
from lowerbound.distributions import FactorialNegativeBinomial, FactorialStudentT
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.baseline import score_columns_alone, score_independent_entries
from lowerbound.evaluation.row_scores import score_without
from lowerbound.recipes import find_recipe

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame

# Cells


@pytest.mark.parametrize("degrees", [3.0, 8.0, 1000.0])
@pytest.mark.parametrize(
    ("loc", "scale", "log_odds"),
    [(0.0, 1.0, (-2.0, 1.0)), (1.0, 0.3, (-1.0, 3.0)), (-0.5, 0.6, (0.5, -4.0))],
)
def test_expectations_under_student_t_agree_with_integration(degrees, loc, scale, log_odds):
    a, b = log_odds
    parameters = [torch.tensor([each]).double() for each in (loc, math.log(scale), degrees)]
    found = FactorialStudentT(*parameters).cells()
    found = found.log_expectation(lambda value: nn.functional.logsigmoid(a + b * value))
    p = stats.t(degrees, loc, scale)
    wanted = sum(
        integrate.quad(lambda x: p.pdf(x) * sigmoid(a + b * x), *limits, limit=500, epsabs=1e-12)[0]
        for limits in pairwise(
            (-np.inf, *sorted((loc - 8 * scale, -a / b, loc + 8 * scale)), np.inf)
        )
    )
    # The cells reach to the coordinate 9, beyond which three degrees of freedom have 1e-7.
    assert float(found.exp()) == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize("mean", [0.01, 3.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("inverse_dispersion", [0.05, 2.0, 1e4])
@pytest.mark.parametrize(("a", "b"), [(-2.0, 1.0), (-1.0, -4.0)])
def test_expectations_under_counts_agree_with_sums(mean, inverse_dispersion, a, b):
    p = FactorialNegativeBinomial(*torch.tensor([[mean], [inverse_dispersion]]).double().log())
    centre = math.log1p(mean)
    found = p.cells().log_expectation(
        lambda value: nn.functional.logsigmoid(a + b * (value.log1p() - centre))
    )
    known = stats.nbinom(inverse_dispersion, inverse_dispersion / (inverse_dispersion + mean))
    counts = np.arange(known.ppf(1e-13), known.ppf(1 - 1e-12) + 100)
    wanted = (known.pmf(counts) * sigmoid(a + b * (np.log1p(counts) - centre))).sum()
    assert float(found.exp()) == pytest.approx(wanted, rel=1e-5)


def test_the_cells_of_counts_have_the_whole_probability():
    mean = torch.tensor([0.01, 0.7, 5.0, 20.0, 24.0, 300.0, 1e5]).double()
    for inverse_dispersion in (0.02, 0.5, 3.0, 100.0, 1e6):
        p = FactorialNegativeBinomial(mean.log(), torch.full_like(mean, inverse_dispersion).log())
        cells = p.cells()
        total = (cells.log_density(cells.node) + cells.step.log()).logsumexp(0)
        assert total.abs().max() < 5e-6


def test_draws_of_numbers_have_the_density_times_the_probability():
    a, b, count = -3.0, 5.0, 20_000
    p = FactorialStudentT(*torch.tensor([[0.2], [-0.3], [4.0]]).double())
    torch.manual_seed(0)
    drawn = (
        p.expand((1,))
        .cells()
        .draw(
            lambda value: nn.functional.logsigmoid(a + b * value),
            lambda: torch.rand(count, 1).double(),
        )
    )
    grid = np.linspace(-30, 60, 400_001)
    density = stats.t.pdf(grid, 4, 0.2, math.exp(-0.3)) * sigmoid(a + b * grid)
    cumulative = np.cumsum(density) / density.sum()
    places = np.interp(drawn[:, 0].numpy(), grid, cumulative)
    assert stats.kstest(places, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("mean", [2.0, 25.0, 500.0])
def test_draws_of_counts_have_the_mass_times_the_probability(mean):
    a, b, count = -1.0, 2.0, 20_000
    p = FactorialNegativeBinomial(*torch.tensor([[mean], [3.0]]).double().log())
    torch.manual_seed(0)
    drawn = (
        p.expand((1,))
        .cells()
        .draw(
            lambda value: nn.functional.logsigmoid(a + b * (value.log1p() - math.log1p(mean))),
            lambda: torch.rand(count, 1).double(),
        )
    )[:, 0].numpy()
    counts = np.arange(0, 20 * mean + 100)
    mass = stats.nbinom(3, 3 / (3 + mean)).pmf(counts)
    mass *= sigmoid(a + b * (np.log1p(counts) - math.log1p(mean)))
    mass /= mass.sum()
    assert (drawn == np.round(drawn)).all()
    # Bins of about equal probability; the chi-squared test has an error rate of 1e-4.
    edges = np.unique(np.searchsorted(mass.cumsum(), np.linspace(0.05, 0.95, 15)))
    found = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges) + 1)
    wanted = np.bincount(np.searchsorted(edges, counts), mass, minlength=len(edges) + 1)
    assert stats.chisquare(found, wanted * count).pvalue > 1e-4


# The likelihood


class Fixed(nn.Module):
    """A decoder whose outputs do not depend on z."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = nn.Parameter(outputs.double())

    def forward(self, z):
        return self.outputs.expand(*z.shape[:-1], -1)


MIXED = Schema(
    (
        Column("age", "count", centre=3.0, spread=0.6, has_missing=True),
        Column("answer", "ordinal", categories=(0, 1, 2, 3), has_missing=True),
        Column("complete", "real", centre=2.0, spread=3.0),
        Column("gift", "positive", atoms=(0.0,), centre=3.0, spread=1.5, has_missing=True),
        Column("height", "real", centre=170.0, spread=9.0, has_missing=True),
        Column("job", "categorical", categories=("clerk", "cook", "nurse"), has_missing=True),
    ),
    "pandas",
)
PLACES = {name: place.start for name, place in MIXED.places.items()}


def make_mixed(slope=None):
    """The likelihood of a row with columns of several families, with random parameters."""
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(lb.Columns.count_outputs(MIXED), generator=generator)
    likelihood = lb.SelfMasked(lb.Columns(Fixed(outputs), MIXED), slope).double()
    with torch.no_grad():
        for name, parameter in likelihood.named_parameters():
            if name.startswith(("numbers", "codes")):
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator).double())
    return likelihood


@torch.no_grad()
def score_column(likelihood, name, values):
    """log p of a column that is observed at these numbers ``[N, entries]``, and nothing else."""
    rows = torch.zeros(len(values), len(MIXED.entries)).double()
    observed = torch.zeros(rows.shape, dtype=torch.bool)
    place = MIXED.places[name]
    rows[:, place], observed[:, place] = values, True
    if name == "gift":
        observed[:, place.stop - 1] = values[:, 0] == 0
    missing = torch.zeros_like(observed)
    p = likelihood(torch.zeros(1, len(values), 2).double(), observed=observed, missing=missing)
    return p.log_prob(rows)[0]


@torch.no_grad()
def score_missing(likelihood, name):
    """log p of the mask of a column that is missing, if nothing else is known."""
    rows = torch.zeros(1, len(MIXED.entries)).double()
    missing = torch.zeros(rows.shape, dtype=torch.bool)
    missing[:, MIXED.places[name]] = True
    p = likelihood(
        torch.zeros(1, 1, 2).double(), observed=torch.zeros_like(missing), missing=missing
    )
    return p.log_prob(rows)[0, 0]


def integrate_column(log_prob, column):
    """The integral of exp(log_prob) over the values of a column in the units of the table."""
    entry = column.entries[-1]
    if entry.family == "counts":
        return log_prob(torch.arange(5000.0).double()[:, None]).exp().sum()
    if entry.family != "continuous":
        return log_prob(torch.arange(float(entry.levels)).double()[:, None]).exp().sum()
    # x = 3 sinh(u), in which the tails of Student's t fall exponentially
    grid = torch.linspace(-12, 12, 6001, dtype=torch.float64)
    values = 3 * torch.sinh(grid)
    log_slopes = (3 * torch.cosh(grid) * (grid[1] - grid[0]) * column.spread).log()
    if column.type == "positive":
        log_slopes = log_slopes + values * column.spread + column.centre
    numbers = values[:, None]
    if column.atoms:
        numbers = torch.stack([torch.zeros_like(values), values], 1)
    total = (log_prob(numbers) + log_slopes).exp().sum()
    if column.atoms:
        total = total + log_prob(torch.tensor([[1.0, 0.0]]).double()).exp().sum()
    return total


@pytest.mark.parametrize("slope", [None, 1.5])
@pytest.mark.parametrize("name", [name for name in PLACES if name != "complete"])
def test_the_probabilities_of_values_and_masks_add_up_to_one(name, slope):
    likelihood = make_mixed(slope)
    observed = integrate_column(
        lambda values: score_column(likelihood, name, values), MIXED.find(name)
    )
    missing = score_missing(likelihood, name).exp()
    assert 0.01 < missing < 0.99
    assert float(observed + missing) == pytest.approx(1.0, abs=2e-6)


def test_a_column_that_was_complete_in_training_is_not_scored_if_it_is_missing():
    likelihood = make_mixed()
    assert float(score_missing(likelihood, "complete")) == 0.0
    plain = lb.Masked(likelihood.part)
    rows = torch.zeros(1, len(MIXED.entries)).double()
    seen = torch.zeros(rows.shape, dtype=torch.bool)
    seen[:, PLACES["complete"]] = True
    z = torch.zeros(1, 1, 2).double()
    found = likelihood(z, observed=seen, missing=torch.zeros_like(seen)).log_prob(rows)
    assert torch.equal(found, plain(z, observed=seen).log_prob(rows))


def test_log_odds_are_linear_in_the_standardised_value():
    likelihood = make_mixed(slope=1.5)
    intercept = {
        MIXED.entries[place].column: 5 * float(value.detach())
        for each in (*likelihood.numbers, *likelihood.codes)
        if hasattr(each, "intercepts")
        for place, value in zip(each.places.tolist(), each.intercepts, strict=True)
    }
    rows = torch.zeros(1, len(MIXED.entries)).double()
    rows[0, PLACES["age"]] = 40.0
    rows[0, PLACES["answer"]] = 3.0
    rows[0, PLACES["height"]] = -0.7
    rows[0, PLACES["gift"] + 1] = 0.4
    found = {name: float(value) for name, value in likelihood.log_odds(rows).items()}
    assert set(found) == set(PLACES) - {"complete"}
    assert found["height"] == pytest.approx(intercept["height"] - 0.7 * 1.5)
    size = (math.log1p(40) - 3.0) / 0.6
    assert found["age"] == pytest.approx(intercept["age"] + 1.5 * size, rel=1e-6)
    assert found["answer"] == pytest.approx(intercept["answer"] + 1.5 * math.sqrt(12) * 0.5)
    assert found["gift"] == pytest.approx(intercept["gift"] + 1.5 * 0.4)
    rows[0, PLACES["gift"]] = 1.0  # an atom
    assert float(likelihood.log_odds(rows)["gift"]) != pytest.approx(found["gift"])
    assert {name: float(each) for name, each in likelihood.slopes_by_column.items()} == {
        name: pytest.approx(1.5) for name in ("age", "answer", "gift", "height")
    }


@torch.no_grad()
def test_draws_of_missing_columns_agree_with_rejection():
    """Each column is drawn in proportion to p(x) times the probability that it is missing."""
    likelihood, count = make_mixed(), 20_000
    z = torch.zeros(1, count, 2).double()
    torch.manual_seed(0)
    complete = likelihood(z).sample()[0]
    seen = torch.zeros(count, len(MIXED.entries), dtype=torch.bool)
    drawn = likelihood(z, observed=seen).sample()[0]
    chances = {name: each.sigmoid() for name, each in likelihood.log_odds(complete).items()}
    for name, chance in chances.items():
        place = MIXED.places[name]
        kept = complete[torch.rand(count).double() < chance]
        if name == "gift":
            share = float((kept[:, place.start] == 1).double().mean())
            found = float((drawn[:, place.start] == 1).double().mean())
            error = math.sqrt(share * (1 - share) * (1 / len(kept) + 1 / count))
            assert abs(found - share) < 4 * error
            kept, new = (each[each[:, place.start] == 0] for each in (kept, drawn))
        else:
            new = drawn
        ours, theirs = new[:, place.stop - 1].numpy(), kept[:, place.stop - 1].numpy()
        if len(np.unique(ours)) < 20:
            levels = int(max(ours.max(), theirs.max())) + 1
            table = [np.bincount(each.astype(int), minlength=levels) for each in (ours, theirs)]
            table = np.array(table)[:, np.sum(table, 0) > 0]
            assert stats.chi2_contingency(table).pvalue > 1e-4, name
        else:
            assert stats.ks_2samp(ours, theirs).pvalue > 1e-4, name
    # A column that was never missing, and draws without a mask, are those of p(x).
    place = PLACES["complete"]
    assert stats.ks_2samp(drawn[:, place].numpy(), complete[:, place].numpy()).pvalue > 1e-4


def test_gradients_agree_with_differences():
    likelihood = make_mixed()
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([[30.0, 2.0, 0.3, 0.0, -0.4, 0.2, 1.0]]).double().expand(6, -1)
    seen = torch.rand(rows.shape, generator=generator) < 0.5
    z = torch.zeros(1, 6, 2).double()

    def total():
        return likelihood(z, observed=seen).log_prob(rows).sum()

    total().backward()
    for name, parameter in likelihood.named_parameters():
        step = torch.randn(parameter.shape, generator=generator).double()
        with torch.no_grad():
            parameter.add_(step, alpha=1e-6)
            above = total()
            parameter.sub_(step, alpha=2e-6)
            below = total()
            parameter.add_(step, alpha=1e-6)
        wanted = float(above - below) / 2e-6
        found = float((parameter.grad * step).sum()) if parameter.grad is not None else 0.0
        assert found == pytest.approx(wanted, rel=2e-4, abs=1e-5), name


# A linear-Gaussian table with one latent, whose exact likelihood is an integral over z.

LOADINGS, SCALES = torch.tensor([1.0, 0.8]), torch.tensor([0.6, 0.5])
LINEAR = Schema(
    (
        Column("a", "real", centre=10.0, spread=2.0, has_missing=True),
        Column("b", "real", centre=-5.0, spread=100.0),
    ),
    "pandas",
)
INTERCEPT, SLOPE = -1.0, 2.0


class Linear(nn.Module):
    """The decoder."""

    output_shape = (4,)

    def forward(self, z):
        location = z * LOADINGS.to(z)
        return torch.cat([location, SCALES.log().to(z).expand_as(location)], -1)


class Wide(lb.Conditional):
    """q(z|x): that of the observed entries alone, but wider."""

    needs = ("observed",)

    def forward(self, x, *, observed):
        weights = observed / SCALES.square()
        precision = 1 + (weights * LOADINGS.square()).sum(-1)
        mean = (weights * LOADINGS * x).sum(-1) / precision
        scale = 1.5 * precision.rsqrt()
        normal = torch.distributions.Normal(mean[:, None], scale[:, None])
        return torch.distributions.Independent(normal, 1)


def make_linear(slope=SLOPE) -> lb.TableModel:
    columns = lb.Columns(Linear(), LINEAR)
    with torch.no_grad():
        columns.log_degrees.fill_(20.0)
    likelihood = lb.SelfMasked(columns, slope)
    with torch.no_grad():
        likelihood.numbers[0].intercepts.fill_(INTERCEPT / 5)
    return lb.TableModel(lb.StandardNormal(1), Wide(), likelihood, hide=0.0)


def make_table(rows, seed=0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A complete table, and the same with values of the first column missing by their size."""
    random = np.random.default_rng(seed)
    z = random.normal(size=(rows, 1))
    values = z * LOADINGS.numpy() + random.normal(size=(rows, 2)) * SCALES.numpy()
    missing = random.random(rows) < sigmoid(INTERCEPT + SLOPE * values[:, 0])
    complete = pd.DataFrame({"a": 10 + 2 * values[:, 0], "b": -5 + 100 * values[:, 1]}, dtype=float)
    return complete, complete.assign(a=complete["a"].mask(missing))


def make_grid(row):
    """Values of the first column on a grid, and its joint density with the second one."""
    grid = np.linspace(-9, 9, 4001)
    step = grid[1] - grid[0]
    loadings, scales = LOADINGS.numpy().astype(float), SCALES.numpy().astype(float)
    covariance = np.outer(loadings, loadings) + np.diag(scales**2)
    b = np.full_like(grid, (row["b"] + 5) / 100)
    density = stats.multivariate_normal([0, 0], covariance).pdf(np.stack([grid, b], 1))
    return grid, density * step / 100


def test_the_log_likelihood_is_that_of_the_values_and_the_mask():
    model = make_linear()
    _, frame = make_table(60)
    found = lb.log_likelihood(model, frame, samples=20_000)
    for row, value in zip(frame.to_dict("records"), found.per_example.numpy(), strict=True):
        grid, density = make_grid(row)
        wanted = (density * sigmoid(INTERCEPT + SLOPE * grid)).sum()
        if not np.isnan(row["a"]):
            at = (row["a"] - 10) / 2
            step = grid[1] - grid[0]
            wanted = np.interp(at, grid, density) / step / 2 * (1 - sigmoid(INTERCEPT + SLOPE * at))
        assert value == pytest.approx(np.log(wanted), abs=0.03)
    errors = found.standard_error
    assert errors < 1.0


def test_imputations_agree_with_the_posterior_of_values_that_are_missing():
    model = make_linear()
    _, frame = make_table(80)
    many = np.stack([table["a"] for table in lb.impute(model, frame, 400, samples=2000).tables])
    once = lb.impute(model, frame, samples=2000).table["a"].to_numpy()
    z_means, ratios = [], []
    for number, row in enumerate(frame.to_dict("records")):
        if not np.isnan(row["a"]):
            assert (many[:, number] == row["a"]).all()
            continue
        grid, density = make_grid(row)
        weights = density * sigmoid(INTERCEPT + SLOPE * grid)
        weights /= weights.sum()
        mean = (weights * grid).sum()
        variance = (weights * (grid - mean) ** 2).sum()
        drawn = (many[:, number] - 10) / 2
        z_means.append((drawn.mean() - mean) / math.sqrt(variance / 400))
        ratios.append(drawn.var(ddof=1) / variance)
        assert abs((once[number] - 10) / 2 - mean) < 5 * math.sqrt(variance / 200)
    z_means = np.array(z_means)
    assert len(z_means) > 15
    assert np.abs(z_means).max() < 4.5
    assert abs(z_means.mean()) < 4 / math.sqrt(len(z_means))
    assert abs(np.mean(ratios) - 1) < 4 * math.sqrt(2 / 400 / len(ratios)) + 0.02


def test_the_slopes_of_a_sensitivity_replace_what_the_model_has_learned():
    """With its own slope, each value has p(x given observed) times the odds of the slope."""
    model = make_linear()
    _, frame = make_table(400)
    found = lb.sensitivity(model, frame, slopes=(0.0, 1.0), draws=400, samples=1000)
    assert [each.slope for each in found] == [None, 0.0, 1.0]
    seen = np.sort((frame["a"].dropna() - 10) / 2)
    wanted = {None: [], 0.0: [], 1.0: []}
    for row in frame[frame["a"].isna()].to_dict("records"):
        grid, density = make_grid(row)
        ranks = (np.searchsorted(seen, grid) + 0.5) / (len(seen) + 1)
        scores = stats.norm.ppf(ranks)
        chance = sigmoid(INTERCEPT + SLOPE * grid)
        for slope, means in wanted.items():
            weights = density * chance
            if slope is not None:
                weights = density * (1 - chance) * np.exp(slope * scores)
            means.append((weights * grid).sum() / weights.sum())
    for each in found:
        assert each.mean_of_imputed == pytest.approx(10 + 2 * np.mean(wanted[each.slope]), abs=0.06)
    learned, random, _ = found
    assert learned.mean_of_imputed - random.mean_of_imputed > 1.0
    table = lb.evaluation.tabulate_sensitivity(found)
    assert table["slope"].isna().tolist() == [True, False, False]
    assert table["odds_ratio"][2] == pytest.approx(math.e)


def test_a_sensitivity_of_an_estimate_of_ones_own():
    model = make_linear()
    _, frame = make_table(200)

    def estimate(table):
        assert not table.isna().any().any()
        return table["a"].mean()

    settings = {"slopes": (-1.0, 1.0), "draws": 100, "samples": 200}
    found = lb.sensitivity(model, frame, estimate=estimate, tables=40, **settings)
    for each in found:
        assert each.estimate == pytest.approx(each.mean, abs=0.05)
    assert found[2].estimate > found[1].estimate + 0.2
    assert list(lb.evaluation.tabulate_sensitivity(found))[-1] == "estimate"
    again = lb.sensitivity(model, model.examples(frame), estimate=estimate, tables=40, **settings)
    assert [each.estimate for each in again] == pytest.approx(
        [each.estimate for each in found], rel=1e-5
    )


def test_a_column_that_a_table_does_not_have_is_not_missing():
    model = make_linear()
    complete, frame = make_table(30)
    with pytest.warns(UserWarning, match="no column a"):
        found = lb.score(model, complete[["b"]], samples=5000)
    for row, value in zip(complete.to_dict("records"), found.per_example.numpy(), strict=True):
        assert value == pytest.approx(np.log(make_grid(row)[1].sum()), abs=0.05)
    # Nor is what is not given of rows that are drawn.
    given = complete[["b"]][:1]
    drawn = (model.sample(4000, given=given, seed=0, samples=4000)["a"].to_numpy() - 10) / 2
    grid, density = make_grid(complete.iloc[0])
    mean = (grid * density).sum() / density.sum()
    spread = math.sqrt((density * (grid - mean) ** 2).sum() / density.sum())
    assert abs(drawn.mean() - mean) < 4 * spread * math.sqrt(2 / 4000)
    assert "missing" not in make_table_examples(frame, LINEAR).fields


def test_a_column_that_a_score_hides_is_not_missing():
    """log p of a value given the others compares with the row of which this column is unknown."""
    model = make_linear()
    table = make_table(6)[0].fillna(0.5)
    examples = model.examples(table)
    with torch.no_grad():
        found = score_without(model.eval(), examples, dict(model.schema.places), 4000, seed=0)
    for name in table.columns:
        with pytest.warns(UserWarning, match=f"no column {name}"):
            expected = lb.score(model, table.drop(columns=name), 4000).per_example
        torch.testing.assert_close(found[name], expected, rtol=0, atol=0.15)


def test_hidden_columns_are_neither_observed_nor_missing():
    """Otherwise the bound of training batches would teach odds that are too high."""
    model = make_linear()
    model.hide = 1.0
    model.train()
    torch.manual_seed(0)
    examples = make_table_examples(make_table(4000)[1], LINEAR)
    given = {"observed": examples.fields["observed"]}
    p = model.conditioned(examples.values, given).likelihood(torch.zeros(1, 4000, 1))
    was_missing = ~given["observed"][:, 0]
    assert not (p.missing & p.observed).any()
    assert not (p.missing[:, 0] & ~was_missing).any()
    kept = float(p.observed[~was_missing][:, 0].float().mean())
    kept_missing = float(p.missing[was_missing][:, 0].float().mean())
    assert 0.4 < kept < 0.6
    assert abs(kept - kept_missing) < 4 * math.sqrt(0.25 * (1 / 1000 + 1 / 2000))


# Training


@pytest.fixture(scope="module")
def trained():
    """A small model of a table with all types, some of whose entries are missing."""
    frame = make_frame(200)
    random = np.random.default_rng(1)
    for name in ("height", "gift", "share", "job", "born", "visits", "answer"):
        kept = random.random(len(frame)) >= 0.2
        frame[name] = frame[name].where(kept, None if name == "job" else np.nan)
    return frame, fit(frame, steps=40)


def fit(frame, name="missing-not-at-random", steps=40, **settings):
    data = lb.load_data(frame, test_fraction=0.0)
    recipe = find_recipe(name)
    training = {key: settings.pop(key) for key in ("learning_rate", "compile") if key in settings}
    small = {"hidden": 8, "latent": 2, "samples": 3}
    model, objective = recipe.build(data, small | settings, seed=0)
    keywords = recipe.training | {"steps": steps, "batch_size": 50} | training
    return lb.fit(model, objective, data.train, **keywords, threads=1, progress=False).model


def test_a_model_of_all_types_imputes_scores_and_samples(trained):
    frame, model = trained
    completed = lb.impute(model, frame, samples=50).table
    assert not completed.isna().any().any()
    there = frame.notna()
    assert completed.where(there).equals(frame.where(there))
    assert lb.score(model, frame, samples=50).per_example.isfinite().all()
    assert not model.sample(20, seed=0).isna().any().any()
    assert set(model.log_odds_of_missing(model.examples(frame).values)) == {
        each.name for each in model.schema.modelled if each.has_missing
    }


def test_a_saved_model_gives_the_same_bits(trained, tmp_path):
    frame, model = trained
    loaded = lb.load(lb.save(model, tmp_path / "model.safetensors"))
    assert loaded.schema == model.schema
    settings = {"samples": 30, "seed": 3}
    ours, theirs = (lb.impute(each, frame, 2, **settings) for each in (model, loaded))
    for one, other in zip(ours.tables, theirs.tables, strict=True):
        assert one.equals(other)
    ours, theirs = (lb.score(each, frame, samples=30).per_example for each in (model, loaded))
    assert torch.equal(ours, theirs)


def test_imputations_depend_neither_on_the_batch_nor_on_other_rows(trained, monkeypatch):
    frame, model = trained
    whole = lb.impute(model, frame, 3, samples=20).tables
    monkeypatch.setattr("lowerbound.models.table._MOST_VALUES", 1 << 16)
    parts = lb.impute(model, frame, 3, samples=20).tables
    numbers = ["height", "gift", "share", "visits"]
    for one, other in zip(whole, parts, strict=True):
        same = np.isclose(one[numbers].to_numpy(float), other[numbers].to_numpy(float), rtol=1e-4)
        assert same.mean() > 0.999  # rounding may choose another latent
        assert (one["job"] == other["job"]).mean() > 0.99


def test_compiled_scores_are_those_of_uncompiled_ones(trained):
    frame, model = trained
    examples = model.examples(frame)
    x, given = examples.values, {"observed": examples.fields["observed"]}
    z = torch.randn(3, len(x), 2, generator=torch.Generator().manual_seed(0))

    def score(z, x, observed):
        return model.likelihood(z, observed=observed).log_prob(x)

    expected = score(z, x, given["observed"])
    found = torch.compile(score, fullgraph=True, backend="aot_eager")(z, x, given["observed"])
    torch.testing.assert_close(found, expected)


def test_the_baseline_contains_the_frequencies_of_missing_values(trained):
    frame, model = trained
    examples = model.examples(frame)
    found = score_independent_entries(model, examples)
    own = sum(score_columns_alone(examples).values())
    shares = np.array([frame[each.name].isna().mean() for each in model.schema.modelled])
    shares = shares[shares > 0]
    entropies = shares * np.log(shares) + (1 - shares) * np.log(1 - shares)
    assert found - own == pytest.approx(entropies.sum(), abs=0.08)


def test_training_starts_from_the_frequencies_of_missing_values():
    _, frame = make_table(500)
    model = make_linear(slope=None)
    examples = model.examples(frame)
    model.start_from(examples.values, observed=examples.fields["observed"])
    share = frame["a"].isna().mean()
    (chance,) = model.log_odds_of_missing(torch.zeros(1, 2)).values()
    assert float(chance.sigmoid()) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("is_told", [False, True])
def test_log_odds_of_all_types_start_from_the_frequencies_of_missing_values(is_told):
    """Each column is missing in another share of rows.

    If the field ``missing`` is given, nothing is known of a fifth of the rows.
    """
    known = 800
    rows = torch.zeros(1000 if is_told else known, len(MIXED.entries)).double()
    observed = torch.zeros(rows.shape, dtype=torch.bool)
    missing = observed.clone()
    shares = {name: 0.1 * number for number, name in enumerate(PLACES, start=1)}
    for name, share in shares.items():
        place = MIXED.places[name]
        missing[: int(known * share), place] = True
        observed[int(known * share) : known, place] = True
    # In 100 rows the gift is at its atom, so its number is not observed, and not missing.
    code = PLACES["gift"]
    rows[known - 100 : known, code], observed[known - 100 : known, code + 1] = 1, False
    likelihood = lb.SelfMasked(
        lb.Columns(Fixed(torch.zeros(lb.Columns.count_outputs(MIXED))), MIXED)
    )
    told = {"missing": missing} if is_told else {}
    likelihood.double().start_from(rows, observed=observed, **told)
    found = likelihood.log_odds(torch.stack([rows[0], rows[0] + 1]))
    assert found.keys() == PLACES.keys() - {"complete"}
    for name, log_odds in found.items():
        assert log_odds.sigmoid().tolist() == pytest.approx([shares[name]] * 2, abs=0.001)


def test_the_mean_of_a_column_is_recovered():
    """Values are missing because of their size: table keeps much of the bias of what is seen."""
    random = np.random.default_rng(0)
    z = random.normal(size=(1500, 1))
    values = z * np.array([1.0, 0.9, -0.8, 0.7]) + 0.4 * random.normal(size=(1500, 4))
    complete = pd.DataFrame(values, columns=list("abcd"))
    size = complete["a"] / complete["a"].std()
    missing = random.random(1500) < sigmoid(-1 + 2.5 * size)
    frame = complete.assign(a=complete["a"].mask(missing))
    settings = {"steps": 400, "learning_rate": 0.01, "latent": 1}
    errors = {}
    for name in ("table", "missing-not-at-random"):
        model = fit(frame, name, **settings)
        completed = lb.impute(model, frame, samples=100).table
        errors[name] = completed["a"][missing].mean() - complete["a"][missing].mean()
    slope = float(model.likelihood.slopes_by_column["a"])
    print(errors, slope)
    assert errors["table"] < -0.1
    assert abs(errors["missing-not-at-random"]) < 0.4 * abs(errors["table"])
    assert slope > 0.8


# Mistakes


def test_other_likelihoods_are_refused():
    with pytest.raises(UnsupportedError, match="a Gaussian does not know the columns"):
        lb.SelfMasked(lb.Gaussian(lb.mlp(2, 4)))


def test_a_table_without_missing_values_is_refused():
    frame = make_table(30)[0]
    with pytest.raises(SettingsError, match="no column of the table has missing values"):
        fit(frame, steps=1)
    schema = Schema((Column("a", "real"),))
    with pytest.raises(SettingsError, match="no column of the schema has missing values"):
        lb.SelfMasked(lb.Columns(lb.mlp(2, 2), schema))


@pytest.mark.parametrize("slope", [9.0, math.nan])
def test_a_slope_that_is_too_steep_is_refused(slope):
    with pytest.raises(SettingsError, match="must be from -8 to 8"):
        lb.SelfMasked(lb.Columns(Linear(), LINEAR), slope)


def test_data_that_are_not_a_table_are_refused():
    with pytest.raises(SettingsError, match="missing-not-at-random: the data are not a table"):
        find_recipe("missing-not-at-random").build((5,), {}, seed=0)
