"""Averages of weights, and which of them is kept."""

import math

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.training.autostop import AutoStop
from lowerbound.training.optim import AverageUpdate, average_weights
from lowerbound.training.progress import Progress, Windows


def average_of(values, decay=None):
    model = nn.Linear(1, 1, bias=False).double()
    averaged = average_weights(model, decay)
    for value in values:
        nn.init.constant_(model.weight, value)
        AverageUpdate(averaged, model)()
    return averaged


def weight_of(averaged):
    return float(averaged.module.weight.detach())


def test_an_equal_average_is_the_mean_of_all_weights():
    values = [1.0, 4.0, -2.0, 7.5, 3.0]
    averaged = average_of(values)
    assert weight_of(averaged) == pytest.approx(sum(values) / 5, abs=1e-6)
    assert int(averaged.n_averaged) == 5


def test_an_average_that_starts_again_forgets():
    averaged, model = average_of([1.0, 5.0]), nn.Linear(1, 1, bias=False).double()
    averaged.n_averaged.zero_()
    AverageUpdate(averaged, model)()
    assert int(averaged.n_averaged) == 1
    assert weight_of(averaged) == float(model.weight.detach())


def test_an_exponential_average_keeps_its_decay():
    averaged = average_of([1.0, 4.0, 2.0], decay=0.9)
    assert weight_of(averaged) == pytest.approx(0.9 * (0.9 + 0.4) + 0.2)


def test_whole_numbers_are_not_averaged():
    """torch's exponential average of 3 with itself is 2.9999998 in float32, and so 2."""
    model = nn.Linear(1, 1)
    model.register_buffer("places", torch.arange(50))
    model.register_buffer("is_first", torch.tensor([True, False]))
    averaged = average_weights(model, 0.9)
    update = AverageUpdate(averaged, model)
    for _ in range(3):
        update()
    assert torch.equal(averaged.module.places, model.places)
    assert torch.equal(averaged.module.is_first, model.is_first)


@pytest.mark.parametrize(("decay", "wanted"), [(None, 4 - 2j), (0.75, 2 - 1j)])
def test_complex_numbers_are_averaged(decay, wanted):
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
    averaged = average_weights(model, decay)
    update = AverageUpdate(averaged, model)
    update()
    nn.init.constant_(model.weight, 8 - 4j)
    update()
    assert averaged.module.weight.tolist() == [wanted] * 3


class Running(nn.Module):
    """A module that replaces its running mean."""

    def __init__(self):
        super().__init__()
        self.network = lb.mlp(4, 4)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().reshape(-1, 4).mean(0)
        return self.network(x - self.mean)


@pytest.mark.parametrize("settings", [{"ema": 0.5, "epochs": 20}, {"tolerance": 0.05, "steps": 80}])
def test_replaced_buffers_are_averaged(settings):
    torch.manual_seed(0)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(Running()), lb.Gaussian(lb.mlp(2, 8)))
    x = torch.randn(64, 4) + 5
    run = lb.fit(vae, lb.ELBO(), x, batch_size=16, standardize=False, progress=False, **settings)
    assert (run.model.posterior.network.mean - 5).abs().max() < 1


class Windowed:
    """The rule at the ends of windows, with given bounds of the averages."""

    def __init__(self, tolerance=0.01):
        self.model = nn.Linear(1, 1)
        self.rule = AutoStop(self.model, tolerance)
        self.progress = Progress()
        self.progress.windows = Windows(length=200, end=200)
        self.best = None

    def end(self, bounds):
        self.progress.step = self.progress.windows.end
        self.rule.average.n_averaged.fill_(self.progress.windows.length)
        decision = self.rule.consider(
            self.progress,
            epoch_steps=100,
            last=False,
            changing=False,
            best_weights=self.best,
            bounds_of=lambda model: torch.as_tensor(bounds, dtype=torch.float64),
        )
        self.rule.follow(decision)
        if decision.is_best:
            self.best = self.model.state_dict()
        self.progress.windows = decision.windows
        return decision


def test_only_a_better_average_is_the_best():
    windows = Windowed()
    first = windows.end([0.0, 0.0, 0.0])
    assert first.is_best
    assert not first.goes_back
    assert math.isinf(first.record["gain"])
    worse = windows.end([-1.0, -1.0, -1.0])
    assert (worse.is_best, worse.goes_back, worse.restarts_average) == (False, True, True)
    assert worse.record["gain"] == -1.0
    # The gain is measured against the best average, not against the last one.
    better = windows.end([0.5, 0.5, 0.5])
    assert better.record["gain"] == 0.5
    assert (better.is_best, better.goes_back, better.settled) == (True, False, False)
    assert windows.end([0.7, 0.7, 0.7]).record["gain"] == pytest.approx(0.2)


def test_a_gain_must_exceed_its_error_and_the_tolerance():
    windows = Windowed()
    windows.end([0.0, 0.0, 0.0, 0.0])
    noisy = windows.end([4.0, -3.0, 4.0, -3.0])
    assert noisy.record["gain"] == 0.5
    assert noisy.record["gain_error"] == pytest.approx(math.sqrt(49 / 3) / 2)
    assert noisy.is_best
    assert noisy.goes_back
    assert noisy.windows.idle == 1


def test_windows_that_do_not_gain_halve_the_rate_and_double_themselves_until_the_end():
    windows = Windowed()
    windows.end([0.0, 0.0, 0.0])
    found = [windows.end([-1.0, -1.0, -1.0]) for _ in range(3)]
    assert [one.windows.rate_factor for one in found] == [0.5, 0.25, 0.25]
    assert [one.windows.length for one in found] == [400, 800, 800]
    assert [one.settled for one in found] == [False, False, True]
    assert [one.goes_back for one in found] == [True, True, False]
