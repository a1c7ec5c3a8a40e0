"""Times have seasons, weekdays and hours: their numbers, their density, and what is learned."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lowerbound as lb
from lowerbound.conditionals.moments import estimate_phases
from lowerbound.data import Column, Schema
from lowerbound.data.cycles import DAY, WEEK, YEAR, find_cycles, join_times, split_times
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.schema import decode_columns, make_table, read_table
from lowerbound.describe import build, describe
from lowerbound.distributions import FactorialPhases, SeasonalLogistic, natural_point
from lowerbound.evaluation import score_columns
from lowerbound.evaluation.baseline import score_columns_alone
from lowerbound.recipes import find_recipe

DOUBLE = torch.float64


def infer(frame, **settings):
    return infer_schema(open_table(frame), **settings)


# Times and their numbers


@pytest.mark.parametrize(
    ("times", "season", "cycles"),
    [
        (pd.date_range("2024-01-01", periods=100, freq="h"), "day", ()),
        (pd.date_range("2024-01-01", periods=60, freq="h"), None, ()),
        (pd.date_range("2024-01-01", periods=630, freq="h"), None, ("day",)),
        (pd.date_range("2024-01-01", periods=700, freq="h"), "week", ("day",)),
        (pd.date_range("2024-01-01", periods=5000, freq="h"), None, ("week", "day")),
        (pd.date_range("2024-01-01", periods=28, freq="D"), "week", ()),
        (pd.date_range("2024-01-01", periods=200, freq="D"), None, ("week",)),
        (pd.date_range("2024-01-01", periods=20, freq="D"), None, ()),
        (pd.date_range("2023-01-01", "2024-12-31", freq="D"), "year", ("week",)),
        (pd.date_range("1900-01-01", "2024-12-31", freq="4D"), "year", ()),
        (pd.date_range("2023-01-01", "2024-06-30", freq="D"), None, ("week",)),
        (pd.date_range("2020-01-06", periods=150, freq="7D"), "year", ()),
        (pd.date_range("2022-01-01", periods=24, freq="MS"), "year", ()),
        (pd.date_range("1990-01-01", periods=30, freq="YS"), None, ()),
        (pd.date_range("2000-01-01", periods=9000, freq="1153min"), "year", ("week", "day")),
        (pd.date_range("2024-01-01", periods=300, freq="min"), None, ()),
    ],
)
def test_the_cycles_that_times_can_show_are_inferred_and_saved(times, season, cycles):
    schema = infer(pd.DataFrame({"t": times}))
    assert (schema.find("t").season, schema.find("t").cycles) == (season, cycles)
    assert build(describe(schema)) == schema
    earlier = describe(schema)  # by a version without cycles
    del earlier["columns"][0]["cycles"], earlier["columns"][0]["season"]
    assert (build(earlier).find("t").season, build(earlier).find("t").cycles) == (None, ())
    assert len(build(earlier).entries) == 1


def test_a_declared_time_with_one_value_has_no_cycles():
    frame = pd.DataFrame({"t": pd.to_datetime(["2024-01-01"] * 9), "a": np.arange(9) + 0.5})
    assert infer(frame, types={"t": "time"}).find("t").season is None


def test_cycles_are_shown_in_words():
    def show(times):
        return lb.data.inspect_table(pd.DataFrame({"t": times}))["values"][0]

    hours = pd.date_range("2024-01-01", periods=700, freq="h")
    assert show(hours) == "2024-01-01 to 2024-01-30, with the cycles week and day"
    assert show(hours[:99]) == "2024-01-01 to 2024-01-05, with the cycle day"
    assert show(hours[:9]) == "2024-01-01 to 2024-01-01"
    longer = pd.date_range("2000-01-01", "2010-01-01", freq="5h")
    assert show(longer).endswith(", with the cycles year, week and day")


CYCLES = [("week", "day"), ("week",), ("day",), ()]


@pytest.mark.parametrize("cycles", CYCLES)
def test_the_numbers_of_times_together_are_the_times(cycles):
    times = np.random.default_rng(0).uniform(-3e9, 3e9, 5000)  # from 1875 to 2065
    if cycles == ("week",):
        times = np.floor(times / DAY) * DAY + 5 * 3600
    numbers = split_times(times, cycles)
    assert numbers.shape == (5000, 1 + ("week" in cycles) + ("day" in cycles))
    np.testing.assert_allclose(join_times(numbers, cycles, times[0]), times, atol=1e-6)
    if numbers.shape[1] > 1:
        drawn = numbers + 0.4 * DAY * np.eye(numbers.shape[1])[0]
        np.testing.assert_allclose(join_times(drawn, cycles, times[0]), times, atol=1e-6)


def test_the_numbers_of_known_times():
    """14 July 2024 was a Sunday, and 5 January 1970 a Monday."""
    times = pd.to_datetime(["2024-07-14 18:00", "1970-01-05 00:00", "1970-01-04 12:00"])
    seconds = times.to_numpy().astype("datetime64[s]").astype(float)
    found = split_times(seconds, ("week", "day"))
    assert found[:, 1].tolist() == [6.0, 0.0, 6.0]
    assert found[:, 2].tolist() == [0.75, 0.0, 0.5]
    assert (found[:, 0] / DAY).tolist() == [2845.0, 1.0, 0.0]
    assert split_times(seconds, ("day",))[1:].tolist() == [[4 * DAY, 0.0], [3 * DAY, 0.5]]


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("freq", ["353min", "D", "7D", "MS", "h"])
def test_times_come_back_from_their_numbers(zone, freq):
    frame = pd.DataFrame({"t": pd.date_range("2019-03-01 12:00", periods=900, freq=freq, tz=zone)})
    frame.loc[3, "t"] = pd.NaT
    schema = infer(frame)
    values, observed = read_table(frame, schema)
    assert not observed[3].any()
    assert observed[:3].all()
    found = make_table(decode_columns(values, schema, observed), schema)["t"]
    error = (found - frame["t"]).drop(3).abs().max()
    assert error <= pd.Timedelta(0 if schema.columns[0].step >= 60 else 1, "s")
    assert found.dtype == frame["t"].dtype


def test_the_first_and_the_last_time_of_the_calendar_come_back():
    """The last day of the year 9999 often stands for no end."""
    ends = np.array(["0001-01-01T00:00:00", "9999-12-31T23:59:59"], dtype="datetime64[s]")
    times = np.concatenate([pd.date_range("2024-01-01", periods=98, freq="5h"), ends])
    frame = pd.DataFrame({"t": times.astype("datetime64[s]")})
    schema = infer(frame)
    values, observed = read_table(frame, schema)
    found = make_table(decode_columns(values, schema, observed), schema)
    pd.testing.assert_frame_equal(found, frame)


def test_draws_of_times_stay_near_the_range_and_in_the_phase_that_all_have():
    noon = pd.date_range("2024-01-01 12:00", periods=200, freq="D")
    column = infer(pd.DataFrame({"t": noon})).columns[0]
    assert (column.cycles, column.step) == (("week",), DAY)
    drawn = column.decode(np.array([[0.3, 4.2], [50.0, 6.0], [-50.0, 0.0]]))
    assert (drawn / DAY % 1).tolist() == [0.5, 0.5, 0.5]
    width = column.high - column.low
    assert drawn[1] <= column.high + width
    assert drawn[2] >= column.low - width
    for first in ("2024-01-01", "2024-01-03"):
        times = pd.date_range(first, periods=5000, freq="h")
        hours = infer(pd.DataFrame({"t": times})).columns[0]
        for phases in ([0.0, 0.25], [6.0, 0.75]):
            far = hours.decode(np.array([[50.0, *phases], [-50.0, *phases]]))
            assert split_times(far, hours.cycles)[:, 1:].tolist() == [phases, phases]
            assert (np.abs(far - hours.low) < 3 * (hours.high - hours.low)).all()
    mondays = pd.date_range("2020-01-06", periods=150, freq="7D")
    assert infer(pd.DataFrame({"t": mondays})).columns[0].step == WEEK
    assert infer(pd.DataFrame({"t": mondays[:4]})).columns[0].step == DAY  # perhaps by chance


# Densities


def make_seasonal(log_scale: float, seed: int = 0, dtype=DOUBLE) -> SeasonalLogistic:
    generator = torch.Generator().manual_seed(seed)
    loc, start = torch.randn(2, 5, generator=generator, dtype=dtype)
    waves = list(torch.randn(6, 5, generator=generator, dtype=dtype))
    rate = torch.full((5,), 5.0, dtype=dtype)
    return SeasonalLogistic(loc, torch.full((5,), log_scale, dtype=dtype), waves, (rate, start))


@pytest.mark.parametrize("log_scale", [-6.0, -4.0, -2.0, -1.0, 0.0, 1.5])
def test_the_density_of_seasons_integrates_to_one_and_has_its_moments(log_scale):
    p = make_seasonal(log_scale)
    x = p.loc + math.exp(log_scale) * torch.linspace(-40, 40, 200_001, dtype=DOUBLE)[:, None]
    density = p.entrywise_log_prob(x).exp()
    torch.testing.assert_close(
        torch.trapezoid(density, x, dim=0), torch.ones(5, dtype=DOUBLE), rtol=1e-12, atol=0
    )
    mean = torch.trapezoid(density * x, x, dim=0)
    torch.testing.assert_close(p.mean, mean, rtol=1e-10, atol=1e-12)
    square = torch.trapezoid(density * (x - mean).square(), x, dim=0)
    torch.testing.assert_close(p.variance, square, rtol=1e-8, atol=0)


def test_the_density_of_seasons_by_hand():
    p = make_seasonal(-0.3)
    x = torch.linspace(-2, 3, 7, dtype=DOUBLE)[:, None]
    waves = torch.stack(p.waves)
    angles = 5.0 * x + p.start
    total = 1 + sum(
        torch.complex(waves[k], waves[3 + k]) * torch.exp(1j * (k + 1) * angles) for k in range(3)
    )
    season = total.abs().square() + 1e-3
    logistic = stats.logistic(p.loc.numpy(), math.exp(-0.3)).pdf(x.numpy())
    ratio = p.entrywise_log_prob(x).exp() / (torch.from_numpy(logistic) * season)
    torch.testing.assert_close(ratio, ratio[:1].expand(7, 5), rtol=1e-10, atol=0)


def test_without_waves_seasons_are_a_logistic_density():
    zero = torch.zeros(1, dtype=DOUBLE)
    p = SeasonalLogistic(zero + 0.5, zero - 1, [zero] * 6, (zero + 3, zero))
    x = np.linspace(-4, 4, 9)
    found = p.entrywise_log_prob(torch.from_numpy(x)[:, None])[:, 0]
    np.testing.assert_allclose(found, stats.logistic(0.5, math.exp(-1)).logpdf(x), rtol=1e-12)
    assert float(p.variance) == pytest.approx((math.pi * math.exp(-1)) ** 2 / 3, rel=1e-6)


@pytest.mark.parametrize("log_scale", [-5.0, -1.0, 1.0])
def test_draws_of_seasons_have_their_distribution(log_scale):
    p = make_seasonal(log_scale)
    torch.manual_seed(0)
    drawn = p.sample((20_000,))
    grid = p.loc + math.exp(log_scale) * torch.linspace(-40, 40, 200_001, dtype=DOUBLE)[:, None]
    cumulative = p.entrywise_log_prob(grid).exp().cumsum(0)
    for entry in range(5):
        ends = (cumulative[:, entry] / cumulative[-1, entry]).numpy()
        places = np.interp(drawn[:, entry].numpy(), grid[:, entry].numpy(), ends)
        assert stats.kstest(places, "uniform").pvalue > 1e-4


def test_draws_far_from_the_seasons_have_their_distribution():
    """Around the least frequent season few proposals are accepted, or none."""
    one = torch.ones(1, dtype=DOUBLE)
    waves = [2 * one] * 3 + [0 * one] * 3
    p = SeasonalLogistic(0.5 * one, -3 * one, waves, (2 * math.pi * one, 0 * one))
    torch.manual_seed(0)
    drawn = p.sample((20_000,))[:, 0]
    grid = 0.5 + math.exp(-3) * torch.linspace(-30, 30, 20_001, dtype=DOUBLE)[:, None]
    cumulative = p.entrywise_log_prob(grid).exp()[:, 0].cumsum(0)
    places = np.interp(drawn, grid[:, 0], cumulative / cumulative[-1])
    assert stats.kstest(places, "uniform").pvalue > 1e-4


def test_gradients_of_seasons_agree_with_finite_differences():
    p = make_seasonal(-0.7)
    parameters = [p.loc, p.log_scale, *p.waves]
    x = torch.linspace(-1, 2, 3, dtype=DOUBLE)[:, None].expand(3, 5).clone()
    for each in (*parameters, x):
        each.requires_grad_()

    def score(loc, log_scale, *waves):
        *waves, value = waves
        p_ = SeasonalLogistic(loc, log_scale, waves, (p.rate, p.start))
        return p_.entrywise_log_prob(value)

    assert torch.autograd.gradcheck(score, (*parameters, x))


def test_seasons_are_as_exact_in_float32():
    for log_scale in (-6.0, -2.0, 0.0):
        exact, single = (
            make_seasonal(log_scale),
            make_seasonal(log_scale).change_parameters(lambda each: each.float()),
        )
        x = exact.loc + math.exp(log_scale) * torch.linspace(-3, 3, 9, dtype=DOUBLE)[:, None]
        found = single.entrywise_log_prob(x.float()).double()
        # of the rounded values that single precision sees
        wanted = exact.change_parameters(lambda each: each.float().double())
        wanted = wanted.entrywise_log_prob(x.float().double())
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("log_scale", "b"), [(-4.0, 2.0), (-1.0, 2.0), (1.0, 2.0), (3.5, 0.1)])
def test_expectations_under_seasons_agree_with_integration(log_scale, b):
    """The cells are shorter than a season, but for the last scale."""
    p = make_seasonal(log_scale)

    def log_probability(value):
        return torch.nn.functional.logsigmoid(b * value - 1)

    found = p.cells().log_expectation(log_probability).exp()
    x = p.loc + math.exp(log_scale) * torch.linspace(-40, 40, 400_001, dtype=DOUBLE)[:, None]
    density = (p.entrywise_log_prob(x) + log_probability(x)).exp()
    torch.testing.assert_close(found, torch.trapezoid(density, x, dim=0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 1.0])
def test_draws_of_seasons_have_the_density_times_the_probability(log_scale):
    a, b, count = -1.0, 2.0, 20_000
    p = make_seasonal(log_scale, seed=2)
    torch.manual_seed(0)

    def log_probability(value):
        return torch.nn.functional.logsigmoid(a + b * value)

    cells = p.expand((1,)).cells()
    drawn = cells.draw(log_probability, lambda: torch.rand(count, 5, dtype=DOUBLE))
    grid = p.loc + math.exp(log_scale) * torch.linspace(-40, 40, 200_001, dtype=DOUBLE)[:, None]
    cumulative = (p.entrywise_log_prob(grid) + log_probability(grid)).exp().cumsum(0)
    for entry in range(5):
        ends = (cumulative[:, entry] / cumulative[-1, entry]).numpy()
        places = np.interp(drawn[:, entry].numpy(), grid[:, entry].numpy(), ends)
        assert stats.kstest(places, "uniform").pvalue > 1e-4


def test_phases_by_hand():
    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0], [1.0, 0.5]], dtype=DOUBLE)
    p, shares = FactorialPhases(logits), logits.softmax(0)
    found = p.entrywise_log_prob(torch.tensor([0.25, 0.75], dtype=DOUBLE)).exp()
    assert float(found[0]) == pytest.approx(3 * float(0.25 * shares[0, 0] + 0.75 * shares[1, 0]))
    assert float(found[1]) == pytest.approx(3 * float(0.75 * shares[2, 1] + 0.25 * shares[0, 1]))
    assert natural_point(p).tolist() == [pytest.approx(1 / 3), 0.0]
    assert p.support.check(torch.tensor([[0.0, 0.999], [0.5, 1.2]])).tolist() == [True, False]
    x = torch.linspace(0, 1, 30_001, dtype=DOUBLE)[:, None].expand(-1, 2)
    density = p.entrywise_log_prob(x).exp()
    assert torch.trapezoid(density, x, dim=0).tolist() == pytest.approx([1.0, 1.0])
    assert torch.trapezoid(density * x, x, dim=0).tolist() == pytest.approx(p.mean.tolist())
    square = torch.trapezoid(density * (x - p.mean).square(), x, dim=0)
    assert square.tolist() == pytest.approx(p.variance.tolist(), rel=1e-6)
    assert torch.equal(density[0], density[-1])


def test_draws_of_phases_have_their_distribution():
    p = FactorialPhases(torch.randn(24, 2, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(0)
    drawn = p.sample((20_000,))
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    grid = torch.linspace(0, 1, 24_001)[:, None].expand(-1, 2)
    cumulative = p.entrywise_log_prob(grid).exp().cumsum(0)
    for entry in range(2):
        ends = (cumulative[:, entry] / cumulative[-1, entry]).numpy()
        places = np.interp(drawn[:, entry].numpy(), grid[:, 0].numpy(), ends)
        assert stats.kstest(places, "uniform").pvalue > 1e-4


def test_an_impossible_phase_is_not_infinitely_improbable():
    logits = torch.zeros(24, 1)
    logits[3:6] = -1e4
    p = FactorialPhases(logits.requires_grad_())
    score = p.log_prob(torch.tensor([4 / 24]))
    assert bool(score.isfinite())
    (gradient,) = torch.autograd.grad(score, logits)
    assert bool(gradient.isfinite().all())


def test_phases_are_estimated_with_the_largest_likelihood():
    p = FactorialPhases(torch.tensor([[1.0], [0.0], [-1.0], [2.0]], dtype=DOUBLE))
    torch.manual_seed(0)
    drawn = p.sample((20_000,))
    drawn[::7] = math.nan
    found = estimate_phases(drawn, 4)
    torch.testing.assert_close(found, p.logits.softmax(0), atol=0.01, rtol=0)
    seen = drawn[~drawn.isnan()][:, None]

    def score(shares):
        return float(FactorialPhases(shares.log()).log_prob(seen).sum() + shares.log().sum())

    for number in range(4):
        moved = found.clone()
        moved[number] *= 1.01
        assert score(moved / moved.sum()) < score(found)


# Models


def make_network(outputs: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return lb.mlp(2, 8, outputs)


@pytest.mark.parametrize(
    ("season", "cycles"),
    [
        *((season, cycles) for season in (None, "year") for cycles in CYCLES),
        ("week", ("day",)),
        ("week", ()),
        ("day", ()),
    ],
)
def test_the_density_of_a_time_in_seconds_integrates_to_one(season, cycles):
    """Over years around 1970, in steps of an hour, or of a day for dates."""
    spread = 2 * YEAR / 7 if "week" in cycles else 2 * YEAR
    schema = Schema((Column("t", "time", spread=spread, season=season, cycles=cycles),))
    likelihood = lb.Columns(make_network(lb.Columns.count_outputs(schema)), schema).double()
    step = DAY if cycles == ("week",) else 3600.0
    times = np.arange(-40 * YEAR // step, 40 * YEAR // step) * step
    with torch.no_grad():
        p = likelihood(torch.randn(1, 2, dtype=DOUBLE))
        values = torch.from_numpy(schema.columns[0].encode(times)[0])
        total = float(p.log_prob(values).exp().sum()) * step
    assert total == pytest.approx(1.0, abs=2e-3)  # the rest of Student's t lies beyond


def test_the_inputs_of_an_encoder_for_times():
    column = Column("t", "time", centre=2e8, spread=1e7, season="year", cycles=("week", "day"))
    schema = Schema((column,))
    inputs = lb.ColumnInputs(schema)
    assert inputs.output_shape == (3 + 7 + 2 + 3,)
    times = pd.to_datetime(["2024-07-14 18:00", "2021-01-01 00:00"])
    seconds = times.to_numpy().astype("datetime64[s]").astype(float)
    values, observed = (torch.from_numpy(each).float() for each in column.encode(seconds))
    found = inputs(torch.cat([values, observed], 1))
    torch.testing.assert_close(found[:, 0], values[:, 0])
    year = 2 * math.pi * torch.tensor([(31 + 29 + 31 + 30 + 31 + 30 + 10) / 365.25, -1 / 365.25])
    for number, wanted in ((1, year.sin()), (2, year.cos())):  # of the week's Thursday
        torch.testing.assert_close(found[:, number], wanted, atol=0.02, rtol=0)
    assert found[:, 3:10].argmax(1).tolist() == [6, 4]
    torch.testing.assert_close(found[0, 10:12], torch.tensor([-1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1, 10:12], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)
    assert not inputs(torch.cat([values, torch.zeros(2, 3)], 1)).any()


@pytest.mark.parametrize(
    ("columns", "is_discrete"),
    [
        ((Column("t", "time", season="year"),), False),
        ((Column("t", "time", season="year", cycles=("week",)),), None),
        ((Column("t", "time", season="year"), Column("n", "count")), None),
        ((Column("n", "count"),), True),
    ],
)
def test_times_with_a_season_have_a_density(columns, is_discrete):
    schema = Schema(columns)
    network = make_network(lb.Columns.count_outputs(schema))
    assert lb.Columns(network, schema)(torch.zeros(1, 2)).is_discrete is is_discrete


def make_hours(rows: int, seed: int) -> pd.DataFrame:
    """A load that depends on the hour of the day, with noise, at random times of two months."""
    random = np.random.default_rng(seed)
    minutes = random.integers(0, 60 * 24 * 60, rows)
    load = 10 + 5 * np.sin(2 * np.pi * minutes / (24 * 60)) + random.normal(0, 0.5, rows)
    time = pd.Timestamp("2024-01-01") + pd.to_timedelta(minutes, unit="min")
    return pd.DataFrame({"time": time, "load": load})


def find_entropy_of_load() -> float:
    """The entropy of the loads of :func:`make_hours` in nats, by integration."""
    loads = np.linspace(1, 19, 1000)
    means = 10 + 5 * np.sin(2 * np.pi * np.arange(1440) / 1440)
    density = np.exp(-0.5 * ((loads[:, None] - means) / 0.5) ** 2).mean(1)
    density /= 0.5 * math.sqrt(2 * math.pi)
    return float(-np.trapezoid(density * np.log(density), loads))


@pytest.fixture(scope="module")
def of_hours() -> lb.TableModel:
    """A model of the load at each hour; some rows have no time."""
    frame = make_hours(400, 0)
    frame.loc[::10, "time"] = pd.NaT
    data, recipe = lb.load_data(frame), find_recipe("table")
    settings = {"latent": 3, "hidden": 32, "samples": 5, "dropout": 0.0}
    model, objective = recipe.build(data, settings, seed=0)
    short = {"steps": 800, "learning_rate": 0.01, "warmup_steps": 0, "progress": False, "seed": 0}
    return lb.fit(model, objective, data.train, **(recipe.training | short)).model


def test_a_column_is_predicted_from_the_hour_of_the_day(of_hours, tmp_path):
    new = make_hours(200, 1)
    holes = new.assign(load=np.nan)
    imputed = lb.impute(of_hours, holes, point="mean", samples=200).table["load"]
    # The noise is 0.5. Without cycles the error is that of the average load, 3.5.
    assert np.sqrt(((imputed - new["load"]) ** 2).mean()) < 1.5
    gains = {each.column: each.gain for each in score_columns(of_hours, new, samples=100)}
    # Both are the mutual information, but a Gaussian scores the load alone, which is not Gaussian.
    alone, noise = find_entropy_of_load(), 0.5 * math.log(2 * math.pi * math.e * 0.5**2)
    gaussian = 0.5 * math.log(2 * math.pi * math.e * (5**2 / 2 + 0.5**2))
    assert gains["time"] == pytest.approx(alone - noise, abs=0.3)
    assert gains["load"] == pytest.approx(gaussian - noise, abs=0.3)
    drawn = of_hours.sample(1000, seed=0)
    hours = drawn["time"].dt.hour + drawn["time"].dt.minute / 60
    assert np.corrcoef(drawn["load"], np.sin(2 * np.pi * hours / 24))[0, 1] > 0.6
    lb.save(of_hours, tmp_path / "hours.safetensors")
    loaded = lb.load(tmp_path / "hours.safetensors")
    assert loaded.schema.find("time").season == "week"
    assert loaded.schema.find("time").cycles == ("day",)
    scores = [lb.score(model, new, 20).per_example for model in (of_hours, loaded)]
    assert torch.equal(*scores)


def test_hours_and_loads_are_drawn_given_each_other(of_hours):
    given = pd.DataFrame({"time": pd.to_datetime(["2024-02-03 06:00", "2024-02-03 18:00"])})
    averages = of_hours.sample(200, given=given, seed=0).groupby("time")["load"].mean()
    assert averages.iloc[0] - averages.iloc[1] > 7
    known = pd.DataFrame({"load": [15.0, 5.0]})
    drawn = of_hours.sample(300, given=known, seed=0)
    is_morning = drawn["time"].dt.hour < 12
    assert is_morning[drawn["load"] == 15.0].mean() > 0.9
    assert is_morning[drawn["load"] == 5.0].mean() < 0.1
    missing = pd.DataFrame({"time": pd.to_datetime([None, None]), "load": [15.0, 5.0]})
    back = of_hours.reconstruct(missing)
    assert back["time"].notna().all()
    assert back["load"].tolist() == pytest.approx([15.0, 5.0], abs=2.0)


def test_rows_without_a_time_are_not_outliers(of_hours):
    new = make_hours(200, 3)
    scores = lb.score(of_hours, new, 100).per_example
    column = lb.score(of_hours, new.assign(time=pd.NaT), 100).per_example
    load = lb.score(of_hours, new.assign(load=np.nan), 100).per_example
    # log p(time, load) - log p(time) - log p(load) is on average the mutual information
    assert 0.6 < float((scores - column - load).mean()) < 2.5


def test_rows_with_cycles_do_not_depend_on_the_rows_around_them(of_hours):
    frame = make_hours(60, 2)
    frame.loc[::2, "load"] = np.nan
    frame.loc[1::4, "time"] = pd.NaT
    whole = lb.impute(of_hours, frame, draws=2, seed=1, samples=50).tables[1]
    part = lb.impute(of_hours, frame.iloc[:23], draws=2, seed=1, samples=50).tables[1]
    pd.testing.assert_frame_equal(whole.iloc[:23], part)
    scores = [lb.score(of_hours, each, 20).per_example for each in (frame, frame.iloc[:23])]
    torch.testing.assert_close(scores[0][:23], scores[1], rtol=1e-6, atol=1e-6)


def test_a_season_is_learned_beside_a_trend():
    """Three years of a column with a trend and a season, with noise of 0.3."""

    def make(rows, seed):
        random = np.random.default_rng(seed)
        days = random.integers(0, 1095, rows)
        value = days / 365 + 3 * np.sin(2 * np.pi * days / 365.2425) + random.normal(0, 0.3, rows)
        date = pd.Timestamp("2021-01-01") + pd.to_timedelta(days, unit="D")
        return pd.DataFrame({"date": date, "value": value})

    data, recipe = lb.load_data(make(600, 0)), find_recipe("table")
    settings = {"latent": 3, "hidden": 32, "samples": 5, "dropout": 0.0}
    model, objective = recipe.build(data, settings, seed=0)
    short = {"steps": 1000, "learning_rate": 0.01, "warmup_steps": 0, "progress": False, "seed": 0}
    model = lb.fit(model, objective, data.train, **(recipe.training | short)).model
    new = make(200, 1)
    imputed = lb.impute(model, new.assign(value=np.nan), samples=200).table["value"]
    # Without cycles the error is 1.8, and the spread 2.4.
    assert np.sqrt(((imputed - new["value"]) ** 2).mean()) < 1.2


def test_the_bound_of_times_does_not_depend_on_the_library_or_the_order(of_hours):
    polars = pytest.importorskip("polars")
    new = make_hours(40, 4)
    wanted = lb.score(of_hours, new, 20).per_example
    other = polars.from_pandas(new[["load", "time"]])
    torch.testing.assert_close(lb.score(of_hours, other, 20).per_example, wanted, rtol=0, atol=1e-5)


def test_a_time_alone_is_scored_by_its_trend_its_weekdays_and_its_hours():
    random = np.random.default_rng(0)
    working = pd.Timestamp("2024-01-01") + pd.to_timedelta(
        random.integers(0, 40, 4000) * 7 + random.integers(0, 5, 4000), unit="D"
    )
    times = working + pd.to_timedelta(8 * 60 + random.integers(0, 8 * 60, 4000), unit="min")
    found = score_columns_alone(
        lb.load_data(pd.DataFrame({"t": times, "a": 1.5 * random.normal(size=4000)})).train
    )
    uniform = -math.log(280 * DAY) - 0.5 * math.log(2 * math.pi * math.e / 12)  # by a Gaussian
    assert found["t"] - uniform == pytest.approx(math.log(7 / 5) + math.log(3), abs=0.12)


def test_few_times_at_any_hour_are_not_scored_by_the_many_parameters_of_the_hours():
    random = np.random.default_rng(0)
    minutes = random.integers(0, 60 * 24 * 60, 30)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(minutes, unit="min")
    train = lb.load_data(
        pd.DataFrame({"t": times, "a": 1.5 * random.normal(size=30)}), test_fraction=0.0
    ).train
    found = score_columns_alone(train)
    uniform = -math.log(60 * DAY) - 0.5 * math.log(2 * math.pi * math.e / 12)  # by a Gaussian
    assert found["t"] == pytest.approx(uniform, abs=0.5)


def test_times_may_be_missing_because_of_their_size():
    frame = make_hours(300, 5)
    frame.loc[frame["time"] > "2024-02-10", "time"] = pd.NaT
    data, recipe = lb.load_data(frame), find_recipe("missing-not-at-random")
    model, objective = recipe.build(data, {"latent": 2, "hidden": 16}, seed=0)
    short = {"steps": 60, "progress": False, "seed": 0}
    model = lb.fit(model, objective, data.train, **(recipe.training | short)).model
    assert set(model.likelihood.slopes_by_column) == {"time"}
    assert lb.impute(model, frame, samples=50).table["time"].notna().all()
    assert bool(lb.score(model, frame, 20).per_example.isfinite().all())


def test_cycles_found_in_any_times_are_ordered():
    assert find_cycles(np.arange(0, 1e8, 7000.0)) == ("year", ("week", "day"))
    assert find_cycles(np.array([0.0])) == (None, ())
