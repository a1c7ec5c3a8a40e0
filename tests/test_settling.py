"""Trainings that stop by themselves, and posteriors that start by themselves."""

import math
from itertools import pairwise

import pytest
import torch
import zuko
from torch.distributions import Distribution, HalfNormal, MultivariateNormal, Normal, constraints

import lowerbound as lb
from lowerbound.errors import NonFiniteError, SettingsError, ShapeError, UnsupportedError
from lowerbound.models.pathfinder import find_optima
from lowerbound.training import autostop
from lowerbound.training.autostop import AutoStop
from lowerbound.training.observing import Observer
from lowerbound.training.progress import Progress

# Far from 0, on scales that differ by a factor of a million, and correlated.
CENTRE = torch.tensor([5000.0, -2.0, 0.003], dtype=torch.float64)
SCALES = torch.tensor([300.0, 1.0, 0.0003], dtype=torch.float64)
CORRELATION = torch.tensor(
    [[1.0, 0.6, 0.0], [0.6, 1.0, -0.5], [0.0, -0.5, 1.0]], dtype=torch.float64
)
TARGET = MultivariateNormal(CENTRE, SCALES[:, None] * CORRELATION * SCALES)


def make(posterior=lb.full_rank) -> lb.LogJoint:
    return lb.LogJoint(TARGET.log_prob, posterior, {"value": 3}).double()


def settle(model, tolerance=0.01, **settings):
    return lb.fit(model, lb.ELBO(samples=10), tolerance=tolerance, progress=False, **settings)


@pytest.fixture(scope="module")
def settled():
    return settle(make().start())


@pytest.fixture
def short_windows(monkeypatch):
    """The first window may be as short as one epoch of a log joint, or a few steps."""
    monkeypatch.setattr(autostop, "_FIRST_WINDOW_STEPS", 20)


@pytest.fixture(scope="module")
def soon_settled():
    """The same training in short windows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autostop, "_FIRST_WINDOW_STEPS", 20)
        return settle(make().start())


def test_a_training_settles_within_its_tolerance_of_the_best(settled):
    run, model = settled, settled.model
    assert run.settled
    assert not run.unfinished
    draws = model.posterior_sample(200_000, seed=0)["value"]
    standardised = (draws - model.centre) / model.spread
    log_q = model.posterior().log_prob(standardised).detach() - model.spread.log().sum()
    gap = float((log_q - TARGET.log_prob(draws)).mean())
    assert gap < 0.01  # KL(q || posterior), whose best value is 0
    assert ((draws.mean(0) - CENTRE) / SCALES).abs().max() < 0.05


def test_the_rate_falls_and_the_window_grows_where_a_window_does_not_gain(settled):
    windows = ended(settled.history)
    idle = 0
    for before, after in pairwise(windows):
        moving = before.get("gain", math.inf) > max(0.01, before["gain_error"])
        idle = 0 if moving else idle + 1
        assert after["pace"] == before["pace"] * (1.0 if moving else 0.5)
        assert after["steps"] == before["steps"] * (1 if moving else 2)
    assert idle == 2  # and the last window is the third
    rates = [record["learning_rate"] for record in settled.history]
    assert rates[0] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.05 * windows[-1]["pace"])


@pytest.mark.usefixtures("short_windows")
def test_a_training_that_is_interrupted_settles_as_if_it_had_not_been(soon_settled, tmp_path):
    settled = soon_settled

    class Interrupt(Observer):
        def on_step(self, loop):
            if loop.progress.step == 330:
                raise KeyboardInterrupt

    broken = make().start()
    with pytest.raises(KeyboardInterrupt):
        settle(broken, directory=tmp_path / "run", observers=[Interrupt()])
    again = settle(broken, directory=tmp_path / "run", resume=True)
    assert again.settled
    assert again.history[-1]["step"] == settled.history[-1]["step"]
    for ours, theirs in zip(
        broken.state_dict().values(), settled.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    resumed = settle(
        make().start(), directory=tmp_path / "run", resume=True
    )  # complete: nothing happens
    assert resumed.history[-1]["step"] == settled.history[-1]["step"]


def test_a_flow_with_masks_settles():
    model = lb.LogJoint(
        TARGET.log_prob,
        lambda size: zuko.flows.NICE(size, transforms=1, hidden_features=(8,)),
        {"value": 3},
    ).double()
    run = settle(model.start(), steps=400)
    assert run.best_epoch == 4


def test_steps_that_run_out_before_are_said():
    run = settle(make().start(), steps=500)
    assert not run.settled
    assert "has not settled to tolerance=0.01 in 500 steps" in run.unfinished[0]
    assert "train longer" in repr(run)


def test_an_auto_encoder_settles_too():
    digits = lb.load_data("digits")
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 8, 8), 16, 4)),
        lb.Gaussian(lb.mlp(2, 16, (1, 8, 8)), scale=0.3),
    )
    settings = {"learning_rate": 0.02, "validation": 0.2, "epochs": 30}
    run = lb.fit(vae, lb.ELBO(), digits.train, tolerance=0.5, progress=False, **settings)
    assert run.best_epoch
    kept = run.history[run.best_epoch - 1]["window"]["bound"]
    assert kept == max(record["window"]["bound"] for record in run.history if "window" in record)


def test_data_in_batches_settle_on_all_of_them():
    torch.manual_seed(0)
    x = torch.randn(200, 1) + 3
    model = lb.LogJoint(
        lambda batch, scale, mean: (
            Normal(0.0, 10.0).log_prob(mean)
            + scale * Normal(mean[:, None], 1.0).log_prob(batch[:, 0]).sum(-1)
        ),
        lb.full_rank,
        {"mean": ()},
        size=200,
    )
    model.with_all_data(x).start()
    run = settle(model, data=x, batch_size=100)
    assert run.settled
    exact = MultivariateNormal(torch.zeros(200), torch.eye(200) + 100.0).log_prob(x[:, 0])
    estimate = lb.evaluate(model, lb.ELBO(samples=10), x)
    assert estimate.mean == pytest.approx(float(exact), abs=0.02 + 4 * estimate.standard_error)
    assert len(estimate.per_example) == 100
    assert 0 < estimate.standard_error < 0.1


@pytest.mark.parametrize(("settings", "message"), [
    ({"schedule": "cosine"}, "tolerance and schedule are both given"),
    ({"ema": 0.9}, "tolerance and ema are both given"),
    ({"tolerance": 0.0}, "tolerance"),
    ({"batch_size": 10}, "stores its own data"),
    ({"validation": 0.1}, "nothing to hold out"),
])  # fmt: skip
def test_settings_in_conflict_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        settle(make(), **{"tolerance": 0.1} | settings)


def test_a_start_is_the_posterior_itself_where_that_is_gaussian():
    _, gaussian = find_optima(TARGET.log_prob, 3, paths=4)[0]
    mean, scale = torch.from_numpy(gaussian.mean), torch.from_numpy(gaussian.variance).sqrt()
    torch.testing.assert_close(
        (mean - CENTRE) / SCALES, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-2
    )
    torch.testing.assert_close(
        scale / SCALES, torch.ones(3, dtype=torch.float64), rtol=0.5, atol=0
    )  # of few steps


def test_a_start_is_no_mode_of_a_funnel(monkeypatch):
    """Whose density has no maximum: it grows without end as the effects shrink together.

    The search tries scales that underflow to 0, which torch's checks would refuse.
    """
    monkeypatch.setattr(Distribution, "_validate_args", True)

    def funnel(log_scale, effects):
        return Normal(0.0, 3.0).log_prob(log_scale) + Normal(
            0.0, log_scale.exp()[:, None]
        ).log_prob(effects).sum(-1)

    model = lb.LogJoint(funnel, lb.mean_field, {"log_scale": (), "effects": 9}).start()
    before = lb.LogJoint(funnel, lb.mean_field, {"log_scale": (), "effects": 9})
    assert model.centre.abs().max() < 10
    assert (
        lb.evaluate(model, lb.ELBO(samples=100)).mean
        >= lb.evaluate(before, lb.ELBO(samples=100)).mean - 0.5
    )


def test_a_start_goes_with_constraints_and_leaves_the_evidence_alone():
    def log_joint(scale):
        return HalfNormal(1.0).log_prob(scale / 1e4) - math.log(1e4)

    model = lb.LogJoint(
        log_joint, lb.full_rank, {"scale": lb.Variable((), constraints.positive)}
    ).start()
    assert lb.log_likelihood(model, samples=20_000).mean == pytest.approx(0.0, abs=0.05)
    assert model.posterior_sample(10_000, resample=True, seed=0)["scale"].mean() == pytest.approx(
        7979, rel=0.05
    )


def test_no_start_is_found_where_the_log_joint_is_not_a_number():
    model = lb.LogJoint(lambda a: a * math.nan, lb.mean_field, {"a": ()})
    with pytest.raises(NonFiniteError, match="none of 4 paths"):
        model.start()


def ended(history):
    """What each window came to."""
    return [record["window"] for record in history if "window" in record]


@pytest.mark.usefixtures("short_windows")
def test_a_window_that_is_cut_short_decides_nothing(soon_settled, tmp_path):
    """A run that continues with more steps ends as one that had them at once."""
    settled = soon_settled
    windows = ended(settled.history)
    before_last = sum(window["steps"] for window in windows[:-1])
    cut = settle(make().start(), directory=tmp_path / "run", steps=before_last + 100)
    assert not cut.settled
    assert ended(cut.history) == windows[:-1]
    again = settle(make().start(), directory=tmp_path / "run", resume=True)
    assert again.settled
    for ours, theirs in zip(
        again.model.state_dict().values(), settled.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)
    steps = again.history[-1]["step"]
    further = settle(
        make().start(), 0.0001, directory=tmp_path / "run", resume=True, steps=steps + 100
    )
    assert further.history[-1]["step"] == steps + 100


def vae():
    torch.manual_seed(0)
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 8, 8), 8, 4)),
        lb.Gaussian(lb.mlp(2, 8, (1, 8, 8)), scale=0.3),
    )


def test_a_decision_that_is_not_followed_changes_no_later_one():
    model = make()
    stop = AutoStop(model, tolerance=0.01)
    worse = {name: value - 1.0 for name, value in stop.average.module.state_dict().items()}
    progress = Progress(step=200)

    def decide():
        return stop.consider(
            progress,
            epoch_steps=100,
            last=False,
            changing=False,
            best_weights=worse,
            bounds_of=lambda model: sum(p.detach().sum() for p in model.parameters()).repeat(3),
        )

    first, second = decide(), decide()
    assert first.is_best
    assert first.record == second.record
    stop.follow(first)
    assert decide().record["gain"] == 0.0


@pytest.mark.usefixtures("short_windows")
def test_windows_are_whole_epochs_and_grow_with_them():
    digits = lb.load_data("digits").train.first(30)
    run = lb.fit(
        vae(), lb.ELBO(), digits, tolerance=1e6, batch_size=1, learning_rate=0.01, progress=False
    )
    assert run.settled
    assert [window["steps"] for window in ended(run.history)] == [30, 30, 60, 120]


@pytest.mark.usefixtures("short_windows")
def test_windows_begin_where_schedules_and_warm_up_have_ended():
    digits = lb.load_data("digits").train.first(500)
    objective = lb.ELBO(beta=lb.Ramp(0.0, 1.0, epochs=6))
    run = lb.fit(
        vae(), objective, digits, tolerance=1e6, learning_rate=0.01, epochs=12, progress=False
    )
    first = next(record for record in run.history if "window" in record)
    assert first["epoch"] == 9
    assert first["window"]["steps"] == 20
    warmed = lb.fit(
        vae(), lb.ELBO(), digits, tolerance=1e6, warmup_steps=10, epochs=8, progress=False
    )
    assert next(record for record in warmed.history if "window" in record)["epoch"] == 5


def test_another_kind_of_average_cannot_be_gone_on_with(tmp_path):
    make_run = {"directory": tmp_path / "run", "progress": False}
    lb.fit(make(), lb.ELBO(samples=2), steps=10, ema=0.9, **make_run)
    with pytest.raises(SettingsError, match="averaged weights=exponentially, not by windows"):
        lb.fit(make(), lb.ELBO(samples=2), steps=20, tolerance=0.1, resume=True, **make_run)


@pytest.mark.parametrize(("at", "error", "message"), [
    ({"scale": 0.0}, SettingsError, "cannot have the value|border"),
    ({"scale": -1.0}, SettingsError, "cannot have the value"),
    ({"scale": math.nan}, SettingsError, "cannot have the value"),
    ({"scale": [1.0, 2.0]}, ShapeError, "but needs"),
    ({"other": 1.0}, SettingsError, "missing or unknown"),
])  # fmt: skip
def test_an_impossible_start_is_refused(at, error, message):
    model = lb.LogJoint(
        lambda scale: HalfNormal(1.0).log_prob(scale),
        lb.full_rank,
        {"scale": lb.Variable((), constraints.positive)},
    ).start()
    before = model.centre.clone(), model.spread.clone()
    with pytest.raises(error, match=message):
        model.start(at=at)
    assert torch.equal(model.centre, before[0])
    assert torch.equal(model.spread, before[1])


def test_a_start_that_fails_leaves_all_as_it_was():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    noisy = lb.LogJoint(
        lambda a: Normal(0.0, 1.0).log_prob(a) + 0 * torch.rand(()), lb.mean_field, {"a": ()}
    ).start(paths=1)
    assert torch.equal(torch.rand(3), expected)  # the user's random numbers are the user's
    assert (float(noisy.centre), float(noisy.spread)) == (
        0.0,
        1.0,
    )  # the mode is where the path begins
    batched = lb.LogJoint(lambda x, scale, a: a, lb.mean_field, {"a": ()}, size=5).start(
        at={"a": 3.0}, spread=0.5
    )
    with pytest.raises(UnsupportedError, match="with_all_data"):
        batched.start()
    assert (float(batched.centre), float(batched.spread)) == (3.0, 0.5)


def test_validation_of_batches_of_all_data_is_refused():
    model = lb.LogJoint(lambda x, scale, a: a, lb.mean_field, {"a": ()}, size=50)
    with pytest.raises(SettingsError, match="posterior_health"):
        lb.fit(model, lb.ELBO(), torch.zeros(50, 1), validation=0.2, progress=False)
