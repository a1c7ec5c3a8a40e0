"""Training: optimisers, schedules, what is reported, what is kept, and what stops it."""

import io
import json
import math
import os
import re
import signal
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal
from lowerbound.errors import DataError, NonFiniteError, SettingsError, ShapeError
from lowerbound.runtime.autotune import Option
from lowerbound.runtime.noise import derived_seed
from lowerbound.training import observers, preparing
from lowerbound.training.observing import Observer
from lowerbound.training.optim import SCHEDULES, make_optimizer, make_schedule
from lowerbound.training.progress import Progress
from lowerbound.training.records import describe_complete

OPTIMIZERS = [
    *("adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw"),
    *("asgd", "nadam", "radam", "rmsprop", "rprop", "sgd"),
]
SIZE = 4


def make_vae(seed: int = 0, *, likelihood=None) -> lb.LatentModel:
    torch.manual_seed(seed)
    decoder = (
        lb.Gaussian(lb.mlp(2, 5, SIZE, activation="tanh"), scale=1.0)
        if likelihood is None
        else likelihood
    )
    return lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(SIZE, 5, 4, activation="tanh")), decoder
    )


def train(model, data, objective=None, **settings):
    settings = {"epochs": 1, "batch_size": 8, "progress": False, "device": "cpu"} | settings
    return lb.fit(model, objective or lb.ELBO(), data, **settings)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(history: list[dict]) -> list[dict]:
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "examples_per_second")}
        for record in history
    ]


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(20, SIZE)


@pytest.fixture
def vae() -> lb.LatentModel:
    return make_vae()


@pytest.fixture
def watch(monkeypatch):
    """Puts a watcher among the observers of the next training."""

    def add(watcher: Observer) -> Observer:
        usual = preparing.make_observers
        monkeypatch.setattr(preparing, "make_observers", lambda *given: [*usual(*given), watcher])
        return watcher

    return add


class Trace(Observer):
    """The weights and the learning rate after every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []

    def on_start(self, loop) -> None:
        self.weights.append(weights(loop.model))

    def on_step(self, loop) -> None:
        self.weights.append(weights(loop.model))
        self.rates.append(loop.optimizer.param_groups[0]["lr"])


# Optimisers


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimiser_by_name_improves_the_bound(name, vae, data):
    before = lb.evaluate(vae, lb.ELBO(samples=20), data).mean
    train(vae, data, optimizer=name, learning_rate=0.3 if name == "adadelta" else 0.01, epochs=8)
    assert lb.evaluate(vae, lb.ELBO(samples=20), data).mean > before


@pytest.mark.parametrize(
    "optimizer", ["Adam", torch.optim.Adam, lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True)]
)
def test_a_name_a_class_and_a_factory_train_alike(optimizer, data):
    reference = train(make_vae(), data, optimizer="adam", learning_rate=0.01)
    other = train(make_vae(), data, optimizer=optimizer, learning_rate=0.01)
    assert timeless(other.history) == timeless(reference.history)


def test_an_instance_trains_with_its_own_settings(vae, data):
    run = train(vae, data, optimizer=torch.optim.SGD(vae.parameters(), lr=0.007))
    assert run.history[0]["learning_rate"] == 0.007


def test_an_instance_keeps_its_rate_and_may_be_given_another(vae, data):
    optimizer = torch.optim.SGD(vae.parameters(), lr=0.01)
    train(vae, data, optimizer=optimizer, schedule="linear")
    assert optimizer.param_groups[0]["lr"] == 0.01
    optimizer.param_groups[0]["lr"] = 0.002
    assert train(vae, data, optimizer=optimizer).history[0]["learning_rate"] == 0.002


@pytest.mark.parametrize("setting", [{"learning_rate": 0.1}, {"weight_decay": 0.1}])
def test_an_instance_and_a_setting_of_its_own_are_refused(setting, vae, data):
    with pytest.raises(SettingsError, match="an optimizer instance has its own"):
        train(vae, data, optimizer=torch.optim.SGD(vae.parameters(), lr=0.1), **setting)


def test_an_instance_of_other_parameters_is_refused(vae, data):
    with pytest.raises(SettingsError, match="not the model's"):
        train(vae, data, optimizer=torch.optim.SGD(make_vae().parameters(), lr=0.1))


@pytest.mark.parametrize("name", ["lbfgs", "sparseadam", "muon"])
def test_optimisers_that_cannot_serve_are_refused_by_name(name, vae, data):
    before = weights(vae)
    with pytest.raises(SettingsError, match=rf"(?i){name}"):
        train(vae, data, optimizer=name)
    assert same(weights(vae), before)


def test_an_instance_that_wants_a_closure_is_refused(vae, data):
    with pytest.raises(SettingsError, match="LBFGS evaluates the bound several times"):
        train(vae, data, optimizer=torch.optim.LBFGS(vae.parameters()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adm"}, "torch.optim has"),
        ({"optimizer": 3}, "neither a name"),
        ({"optimizer": "rprop", "weight_decay": 0.1}, "refused its settings"),
        ({"schedule": "cosin"}, "constant, linear, cosine, exponential"),
        ({"schedule": 3}, "neither a name nor a function"),
        ({"patience": 1}, "--validation 0.1"),
        ({"resume": True}, "needs the directory"),
        ({"epochs": 0}, "greater than or equal to 1"),
        ({"batch_size": True}, "valid integer"),
        ({"learning_rate": math.inf}, "finite"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"device": "abacus"}, "use 'cpu' or 'auto'"),
        ({"validation": 0.0}, "between 0 and 1"),
        ({"validation": 1.5}, "between 0 and 1"),
        ({"validation": math.nan}, "between 0 and 1"),
        ({"validation": 0.001}, "leaves a part empty"),
        ({"validation": torch.zeros(3, SIZE + 1)}, r"\(5,\), but the training data has"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_settings_are_refused_before_any_work(settings, message, vae, data):
    before = weights(vae)
    with pytest.raises(SettingsError, match=message):
        train(vae, data, **settings)
    assert same(weights(vae), before)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(SettingsError, match="no parameters"):
        make_optimizer(nn.Identity(), "adam", None, None)


# Schedules


@pytest.mark.parametrize(
    ("name", "closed_form"),
    [
        ("constant", lambda t: 1.0),
        ("linear", lambda t: 1 - t),
        ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2),
        ("exponential", lambda t: 10 ** (-2 * t)),
        (lambda t: 1 / (1 + t), lambda t: 1 / (1 + t)),
    ],
)
def test_the_learning_rate_follows_its_closed_form(name, closed_form, vae, data, watch):
    trace = watch(Trace())
    run = train(vae, data, steps=10, epochs=None, learning_rate=0.1, schedule=name)
    expected = [0.1 * closed_form(step / 10) for step in range(10)]
    assert trace.rates == pytest.approx(expected, rel=1e-12)
    assert run.history[-1]["learning_rate"] == trace.rates[-1]


def test_warm_up_rises_linearly_and_multiplies_the_schedule():
    factor = make_schedule("linear", warmup_steps=4, total_steps=10)
    expected = [0.25, 0.5 * 0.9, 0.75 * 0.8, 0.7, 0.6]
    assert [factor(step) for step in range(5)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_named_schedules_begin_at_one(name):
    assert make_schedule(name, 0, 100)(0) == 1.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1])
def test_a_schedule_that_gives_no_factor_is_refused_with_its_step(value, vae, data):
    before = weights(vae)
    with pytest.raises(SettingsError, match="at step 1"):
        train(vae, data, schedule=lambda progress: value, start=False)
    assert same(weights(vae), before)


# One step


def test_sgd_with_clipping_moves_the_weights_by_exactly_the_norm(vae, data, watch):
    trace = watch(Trace())
    train(vae, 100 * data, steps=3, epochs=None, optimizer="sgd", learning_rate=0.5, clip_norm=0.2)
    for before, after in zip(trace.weights, trace.weights[1:], strict=False):
        moved = math.sqrt(
            sum(
                float((after[name].double() - before[name].double()).square().sum())
                for name in before
            )
        )
        assert moved == pytest.approx(0.5 * 0.2, rel=1e-4)


def test_a_norm_that_is_not_reached_clips_nothing(data):
    free = train(make_vae(), data)
    clipped = train(make_vae(), data, clip_norm=1e9)
    assert same(weights(free.model), weights(clipped.model))


def test_weight_decay_of_sgd_adds_its_gradient(data):
    # p - lr (g + wd p) against p - lr g: they differ by lr wd p, one step from the same start
    start = weights(make_vae())
    options = {"steps": 1, "epochs": None, "optimizer": "sgd", "learning_rate": 0.1}
    options["start"] = False
    plain = weights(train(make_vae(), data, **options).model)
    decayed = weights(train(make_vae(), data, weight_decay=0.3, **options).model)
    for name, value in start.items():
        torch.testing.assert_close(
            plain[name] - decayed[name], 0.1 * 0.3 * value, atol=1e-6, rtol=1e-4
        )


def test_the_step_ascends_the_gradient_of_the_mean_bound(vae, data, watch):
    trace = watch(Trace())
    settings = {"optimizer": "sgd", "learning_rate": 1e-2, "start": False}
    train(vae, data, steps=1, epochs=None, batch_size=20, **settings)
    before, after = trace.weights
    again = make_vae()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(derived_seed(0, "order", 0)))
    torch.manual_seed(derived_seed(0, "training"))
    lb.ELBO()(again.draw(data[order])).mean().backward()
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(after[name], before[name] + 1e-2 * parameter.grad)


# What is reported


def test_the_bound_of_an_epoch_is_the_mean_over_its_examples(vae):
    # One heavy example is alone in the short last batch (9 = 4 + 4 + 1). The weights hardly move,
    # and q has no noise.
    vae = make_vae(likelihood=lb.Gaussian(Constant(SIZE), scale=1.0))
    data = torch.cat([torch.zeros(8, SIZE), torch.full((1, SIZE), 10.0)])
    run = train(vae, data, batch_size=4, optimizer="sgd", learning_rate=1e-20)
    expected = lb.evaluate(vae, lb.ELBO(), data)
    assert run.history[0]["train"]["bound"] == pytest.approx(expected.mean, rel=1e-5)
    assert run.history[0]["train"]["distortion"] == pytest.approx(
        expected.terms["distortion"].mean, rel=1e-5
    )


class Constant(nn.Module):
    """A network of one's own, whose output has no dependence on its input but a learned offset."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(size))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.offset.expand(*z.shape[:-1], -1)


def test_the_terms_of_a_record_add_up(vae, data):
    terms = train(vae, data, epochs=2, validation=0.25).history[-1]
    for part in ("train", "validation"):
        assert terms[part]["bound"] == pytest.approx(
            -terms[part]["rate"] - terms[part]["distortion"], rel=1e-6
        )


def test_a_fixed_decoder_learns_the_closed_form_mean():
    # With a constant decoder of unit scale, the bound is largest for q = p and an offset that is
    # the mean of the data.
    data = torch.randn(64, SIZE) + 3
    model = make_vae(likelihood=lb.Gaussian(Constant(SIZE), scale=1.0))
    train(
        model,
        data,
        epochs=300,
        batch_size=64,
        learning_rate=0.1,
        optimizer="adam",
        schedule="cosine",
    )
    torch.testing.assert_close(
        model.likelihood.network.offset.detach(), data.mean(0), atol=1e-3, rtol=0
    )
    best = -0.5 * SIZE * math.log(2 * math.pi) - 0.5 * float(
        (data - data.mean(0)).square().sum(1).mean()
    )
    assert lb.evaluate(model, lb.ELBO(), data).mean == pytest.approx(best, abs=0.02)


@dataclass(frozen=True)
class Backwards(lb.Objective):
    """An objective that reports the ELBO, with the gradient of a tenth of the negative rate."""

    samples: int = 1
    gradient: str = "pathwise"

    def bound(self, draw):
        return draw.log_likelihood.mean(0) - draw.rate

    def surrogate(self, draw):
        return -0.1 * draw.rate


def test_the_bound_is_reported_and_the_surrogate_carries_the_gradient(data, watch):
    trace = watch(Trace())
    options = {
        "steps": 1,
        "epochs": None,
        "batch_size": 20,
        "optimizer": "sgd",
        "learning_rate": 1.0,
    }
    run = train(make_vae(), data, Backwards(), **options)
    plain = train(make_vae(), data, lb.ELBO(), **options)
    assert run.history[0]["train"] == plain.history[0]["train"]
    before, after = trace.weights[:2]
    assert all(
        torch.equal(before[name], after[name]) for name in before if name.startswith("likelihood")
    )
    model = make_vae()
    (-0.1 * model.draw(data).rate).mean().backward()
    for name, parameter in model.posterior.named_parameters(prefix="posterior"):
        torch.testing.assert_close(after[name] - before[name], parameter.grad, atol=1e-6, rtol=1e-4)


def test_epochs_and_steps_count_alike(data):
    by_epochs = train(make_vae(), data, epochs=2)
    by_steps = train(make_vae(), data, epochs=None, steps=6)
    assert timeless(by_steps.history) == timeless(by_epochs.history)
    assert [record["step"] for record in by_steps.history] == [3, 6]


def test_steps_may_end_within_an_epoch(vae, data):
    run = train(vae, data, epochs=None, steps=4)
    assert [(record["epoch"], record["step"]) for record in run.history] == [(1, 3), (2, 4)]


@pytest.mark.parametrize(("epochs", "steps", "last"), [(1, 5, 3), (2, 5, 5), (2, 6, 6)])
def test_training_ends_with_the_epochs_or_the_steps_whichever_come_first(
    epochs, steps, last, vae, data
):
    # The number of steps also sets the schedule, so the shorter length alone is the same training.
    settings = {"schedule": "cosine"}
    run = train(vae, data, epochs=epochs, steps=steps, **settings)
    assert run.history[-1]["step"] == last
    alone = train(make_vae(), data, epochs=None, steps=last, **settings)
    assert timeless(alone.history) == timeless(run.history)


def test_ten_epochs_where_no_length_is_given(vae, data):
    assert train(vae, data, epochs=None).history[-1]["epoch"] == 10


# Averages, validation and the choice of weights


def test_averaged_weights_are_the_average_computed_by_hand(data, watch):
    trace = watch(Trace())
    run = train(make_vae(), data, steps=5, epochs=None, ema=0.8, learning_rate=0.1)
    expected = trace.weights[1]  # the first update starts the average
    for now in trace.weights[2:]:
        expected = {name: 0.8 * expected[name] + 0.2 * now[name] for name in now}
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


def test_what_is_validated_is_the_average(data):
    run = train(make_vae(), data, epochs=1, ema=0.5, learning_rate=0.1, validation=data[:7], seed=3)
    again = lb.evaluate(run.model, lb.ELBO(), data[:7], seed=3)
    assert run.history[0]["validation"]["bound"] == pytest.approx(again.mean, rel=1e-6)


def test_early_stopping_keeps_the_best_epoch(data):
    # training on far away data makes the validation bound worse after some epochs
    run = train(
        make_vae(), data + 4, epochs=60, learning_rate=0.03, validation=data + 1, patience=3
    )
    bounds = [record["validation"]["bound"] for record in run.history]
    best = max(range(len(bounds)), key=bounds.__getitem__)
    assert run.stopped_early
    assert run.best_epoch == best + 1
    assert len(bounds) == best + 1 + 3
    assert 1 < run.best_epoch < len(bounds) < 60
    assert lb.evaluate(run.model, run.objective, data + 1, seed=0).mean == pytest.approx(
        bounds[best], rel=1e-9
    )


def test_validation_chooses_the_weights_without_patience_too(data):
    run = train(make_vae(), data + 4, epochs=20, learning_rate=0.03, validation=data + 1)
    bounds = [record["validation"]["bound"] for record in run.history]
    assert not run.stopped_early
    assert len(bounds) == 20
    assert lb.evaluate(run.model, run.objective, data + 1).mean == pytest.approx(
        max(bounds), rel=1e-9
    )


def test_without_validation_the_last_weights_are_kept(data, watch):
    trace = watch(Trace())
    run = train(make_vae(), data, epochs=2)
    assert run.best_epoch == 0
    assert same(weights(run.model), trace.weights[-1])


def test_a_fraction_is_held_out_at_random_and_not_trained_on(data):
    held_out = lb.Examples.of(data).split(0.25, seed=5)
    by_fraction = train(make_vae(), data, validation=0.25, seed=5)
    by_parts = train(make_vae(), held_out[0], validation=held_out[1], seed=5)
    assert by_fraction.history[0]["step"] == 2
    assert timeless(by_fraction.history) == timeless(by_parts.history)


def test_a_fraction_may_be_numpys(data):
    assert train(make_vae(), data, validation=np.float32(0.25)).history[0]["step"] == 2


def test_training_takes_gradients_wherever_it_is_called(data):
    with torch.no_grad():
        inside = train(make_vae(), data)
    assert timeless(inside.history) == timeless(train(make_vae(), data).history)


def test_a_validation_bound_that_is_not_a_number_is_refused(data, monkeypatch):
    from lowerbound.training import loop

    real = loop.compute_dataset_terms

    def nan(*given, **named):
        terms = real(*given, **named)
        return terms | {"bound": terms["bound"] * math.nan}

    monkeypatch.setattr(loop, "compute_dataset_terms", nan)
    with pytest.raises(NonFiniteError, match="the validation bound is not finite") as caught:
        train(make_vae(), data, epochs=3, validation=0.25)
    assert caught.value.step > 0
    assert caught.value.term == "validation bound"


def test_an_update_that_overflows_is_not_taken_for_a_success(data):
    with pytest.raises(NonFiniteError, match="a smaller learning_rate"):
        train(make_vae(), data, epochs=1, optimizer="sgd", learning_rate=3e38)


class Prior(nn.Module):
    """N(loc, I) whose mean is a parameter itself, and so changes in place with an update."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.full((2,), 0.5))

    def forward(self, *given):
        return DiagonalNormal(self.loc, torch.zeros(()))


def test_terms_are_those_of_the_weights_before_the_update(data, monkeypatch):
    def make():
        torch.manual_seed(0)
        parts = make_vae()
        return lb.LatentModel(Prior(), parts.posterior, parts.likelihood)

    seen = train(
        make(), data, steps=1, epochs=None, batch_size=20, optimizer="sgd", learning_rate=1.0
    ).history[0]["train"]
    frozen = train(
        make(), data, steps=1, epochs=None, batch_size=20, optimizer="sgd", learning_rate=1e-30
    ).history[0]["train"]
    assert seen == frozen


def test_running_statistics_go_back_with_a_refused_step(data):
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2 * SIZE))
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(SIZE, 4)),
        lb.Gaussian(lb.flatten_leading(net, 2, 2 * SIZE)),
    )
    with pytest.raises(NonFiniteError):
        train(vae, data, epochs=50, optimizer="sgd", learning_rate=1e10)
    assert all(torch.isfinite(value).all() for value in vae.state_dict().values())


def test_averaged_weights_come_with_averaged_statistics(data):
    net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Linear(8, 2 * SIZE))
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(SIZE, 4)),
        lb.Gaussian(lb.flatten_leading(net, 2, 2 * SIZE)),
    )
    train(vae, data, steps=3, epochs=None, ema=0.5)
    assert not torch.equal(net[1].running_var, torch.ones(8))


@pytest.mark.parametrize(("width", "expected"), [(4, 1), (2000, 2)])
def test_a_small_model_begins_with_one_thread(width, expected, data):
    threads = []

    class Watch(Observer):
        def on_step(self, loop):
            threads.append(torch.get_num_threads())

    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(SIZE, width, 4)),
        lb.Gaussian(lb.mlp(2, width, 2 * SIZE)),
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train(
            vae, data, lb.ELBO(samples=50), steps=1, epochs=None, batch_size=20, observers=[Watch()]
        )
        assert threads == [expected]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_an_own_observer_watches(data):
    class Counter(Observer):
        steps = 0

        def on_step(self, loop):
            self.steps += 1

    counter = Counter()
    train(make_vae(), data, epochs=2, batch_size=8, observers=[counter])
    assert counter.steps == 6


# Randomness and modes


def test_a_seed_fixes_every_figure(data):
    runs = [train(make_vae(), data, epochs=3, validation=0.25, seed=7) for _ in range(2)]
    assert timeless(runs[0].history) == timeless(runs[1].history)
    assert same(weights(runs[0].model), weights(runs[1].model))


def test_other_seeds_give_other_figures(data):
    one, other = (
        train(make_vae(), data, seed=seed).history[0]["train"]["bound"] for seed in (1, 2)
    )
    assert one != other


@pytest.mark.parametrize(
    "act",
    [
        lambda vae, data: train(vae, data, validation=0.25),
        lambda vae, data: lb.evaluate(vae, lb.ELBO(), data),
        lambda vae, data: vae.sample(3, seed=1),
        lambda vae, data: vae.encode(data),
    ],
    ids=["fit", "evaluate", "sample", "encode"],
)
def test_the_random_state_of_torch_is_left_alone(act, vae, data):
    before = torch.get_rng_state()
    act(vae, data)
    assert torch.equal(torch.get_rng_state(), before)


class Modes(nn.Module):
    """Remembers in which mode it was called, and drops units out while training."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(SIZE, outputs))
        self.seen: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.training)
        return self.layers(x)


def test_dropout_is_active_in_training_only(data):
    encoder = Modes(4)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(encoder), lb.Gaussian(lb.mlp(2, SIZE), scale=1.0)
    )
    train(model, data, epochs=2, batch_size=10, validation=data[:5], start=False)
    # each set is checked once, then come two steps and a validation for each epoch
    assert encoder.seen == [False, False, True, True, False, True, True, False]
    assert not any(module.training for module in model.modules())


def test_a_double_precision_model_trains_in_double_precision(data):
    model = make_vae().double()
    run = train(model, data)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert math.isfinite(run.history[0]["train"]["bound"])


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x,
        lambda x: x.numpy(),
        lambda x: x.double().numpy(),
        lambda x: x.tolist(),
        lb.Examples.of,
    ],
    ids=["tensor", "float32", "float64", "lists", "examples"],
)
def test_data_may_come_as(convert, data):
    reference = train(make_vae(), data)
    assert timeless(train(make_vae(), convert(data)).history) == timeless(reference.history)


def test_pixels_are_scaled_to_the_unit_interval():
    pixels = np.arange(80, dtype=np.uint8).reshape(20, SIZE)
    scaled = (torch.from_numpy(pixels) / 255).float()
    assert timeless(train(make_vae(), pixels).history) == timeless(
        train(make_vae(), scaled).history
    )


def test_the_run_says_what_came_of_it(vae, data):
    assert repr(train(vae, data, validation=0.25)).startswith(
        "Run(epochs=1, steps=2, bound: train -"
    )


# Data that do not fit


def test_examples_of_another_shape_are_refused(vae):
    with pytest.raises(ShapeError, match=r"\(4,\)"):
        train(vae, torch.zeros(10, SIZE + 1))


def test_data_that_are_not_numbers_are_refused_by_row_and_name(vae, data):
    data[13, 2] = math.nan
    with pytest.raises(DataError, match="training data: row 13, entry 2 is nan"):
        train(vae, data)


@pytest.fixture
def bernoulli_vae() -> lb.LatentModel:
    return make_vae(likelihood=lb.Bernoulli(lb.mlp(2, 5, SIZE)))


def test_grey_values_are_refused_by_a_bernoulli_likelihood(bernoulli_vae):
    grey = torch.zeros(10, SIZE)
    grey[6, 1] = 0.5
    with pytest.raises(DataError, match=r"row 6 .*pixels='binarize'.*Gaussian"):
        train(bernoulli_vae, grey)


@pytest.mark.parametrize("pixels", ["binarize", "binarize-once"])
def test_binarised_grey_values_are_taken(pixels, bernoulli_vae):
    grey = lb.Examples.of(torch.rand(10, SIZE)).prepare(pixels)
    assert train(bernoulli_vae, grey).history[0]["train"]["bound"] < 0


def test_booleans_are_binary_pixels(bernoulli_vae):
    assert train(bernoulli_vae, torch.rand(10, SIZE) < 0.5).history[0]["train"]["bound"] < 0


# When the numbers end


class Poisoned(nn.Module):
    """A decoder whose value, or only its gradient, becomes non-finite after some calls."""

    def __init__(self, healthy: int, where: str) -> None:
        super().__init__()
        self.linear = nn.Linear(2, SIZE)
        self.healthy, self.where, self.passes = healthy, where, 0

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        y = self.linear(z)
        self.passes += self.training
        if self.passes <= self.healthy:
            return y
        if self.where == "value":
            return y * math.nan
        # sqrt has an infinite slope at 0, and 0 * inf is not a number
        return y + (y - y).square().sqrt()


@pytest.mark.parametrize(
    ("where", "term", "tensor"),
    [
        ("value", "log_likelihood", "log p(x|z)"),
        ("gradient", "gradient", "posterior.network.layers.0.weight"),
    ],
)
def test_a_number_that_ends_is_named_and_never_reaches_the_weights(
    where, term, tensor, data, watch
):
    trace = watch(Trace())
    model = make_vae(likelihood=lb.Gaussian(Poisoned(4, where), scale=1.0))
    with pytest.raises(NonFiniteError, match=rf"step 5: the {term} is not finite") as caught:
        train(model, data, epochs=3)
    assert (caught.value.step, caught.value.term, caught.value.tensor) == (5, term, tensor)
    assert len(trace.weights) == 1 + 4
    assert same(weights(model), trace.weights[-1])
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@dataclass(frozen=True)
class Overflowing(lb.Objective):
    samples: int = 1
    gradient: str = "pathwise"

    def bound(self, draw):
        return draw.rate * math.inf


def test_an_objective_that_overflows_is_told_from_its_terms(vae, data):
    with pytest.raises(NonFiniteError) as caught:
        train(vae, data, Overflowing())
    assert (caught.value.step, caught.value.term) == (1, "bound")


def test_too_long_steps_are_named_with_a_remedy(data):
    model = make_vae(likelihood=lb.Gaussian(lb.mlp(2, SIZE), scale=1e-3))
    with pytest.raises(
        NonFiniteError, match=r"SGD at learning rate 100 .*optimizer='adam'"
    ) as caught:
        train(model, 100 * data, optimizer="sgd", learning_rate=100.0, epochs=20)
    assert caught.value.step > 1


def test_data_beyond_the_models_precision_are_named(vae):
    huge = np.full((10, SIZE), 1e300)
    with pytest.raises(NonFiniteError, match=r"beyond ±3.4e\+38, the limits of float32") as caught:
        train(vae, huge)
    assert caught.value.term == "data"


# Signals


class Signal(Observer):
    """Sends the process a signal after a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number, self.last = step, number, 0

    def on_step(self, loop) -> None:
        self.last = loop.progress.step
        if self.last == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_between_two_steps(number, vae, data, watch):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    watcher = watch(Signal(2, number))
    with pytest.raises(KeyboardInterrupt):
        train(vae, data)
    assert watcher.last == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize(
    ("state", "total_steps", "line"),
    [
        ({"step": 12, "epoch": 3}, 10, "the run has 12 steps already, more than the 10 asked for; "
         "to continue, ask for more than 12 steps"),
        ({"step": 12, "epoch": 3, "settled": True}, 8, "the run has 3 epochs already, more than "
         "the 2 asked for; to continue, ask for more than 3 epochs and a smaller tolerance"),
        ({"step": 12, "epoch": 3, "settled": True}, 400, "the training is complete at epoch 3; to "
         "continue, ask for a smaller tolerance"),
        ({"step": 12, "epoch": 3, "stopped_early": True}, 400, "the training is complete at epoch "
         "3; it stopped early, so it is not continued: train again without patience"),
    ],
)  # fmt: skip
def test_the_message_about_a_complete_run_says_how_to_continue_it(state, total_steps, line):
    assert describe_complete(Progress(**state), total_steps, 4) == line


def test_the_line_of_an_epoch_goes_to_standard_error(vae, data, capsys):
    train(vae, data, epochs=2, progress=True, validation=0.25, start=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[:2] for line in err.splitlines()][:2] == [["epoch", "1"], ["epoch", "2"]]
    assert err.splitlines()[-2].startswith("kept epoch")
    assert "independent entries" in err.splitlines()[-1]


def test_of_many_short_epochs_about_a_hundred_have_a_line(vae, data, capsys):
    train(vae, data, epochs=250, progress=True, start=False)
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    printed = [int(words[1]) for words in lines if words[0] == "epoch"]
    assert printed == [1, *range(2, 251, 2)]


class FakeLoop(SimpleNamespace):
    """A stand-in for a training loop, whose steps take given times on a fake clock."""

    def __init__(self, display, monkeypatch, **given):
        super().__init__(
            progress=Progress(), total_steps=1000, batch_size=10, autostop=None, train=range(50),
            autotuner=SimpleNamespace(option=Option(compiled=False), batch_size=10), now=0.0,
            display=display, averages=lambda: {"bound": 1.0}, model=None,
            objective=SimpleNamespace(label=lambda model: "bound"), **given,
        )  # fmt: skip
        monkeypatch.setattr(observers.time, "perf_counter", lambda: self.now)
        display.on_start(self)

    def step(self, seconds, compiled, examples=10):
        """Take a step; ``compiled`` says how the next one runs."""
        self.now += seconds
        self.progress.advance(examples)
        self.autotuner.option = Option(compiled=compiled)
        self.display.on_step(self)

    def epoch(self, speed=4.0):
        record = {"epoch": 1, "train": {"bound": 1.0}, "examples_per_second": speed}
        self.progress.position = 0
        self.display.on_epoch(self, record)


def compile_slowly(loop):
    """Five slow steps, one that waits for the compiler, and four fast ones."""
    for step in range(5):
        loop.step(2.0, compiled=step == 4)
    loop.step(60.0, compiled=True)
    for _ in range(4):
        loop.step(0.5, compiled=True)


def test_the_remaining_time_leaves_out_the_compiler(monkeypatch, capsys):
    loop = FakeLoop(observers.Display(), monkeypatch)
    compile_slowly(loop)
    loop.epoch()
    assert capsys.readouterr().err.endswith("4 examples/s  495 s left\n")  # 990 steps of 0.5 s


def test_a_short_batch_before_the_first_compiled_step_hides_no_compiling(monkeypatch, capsys):
    """A short last batch runs uncompiled, although the choice to compile was made before it."""
    loop = FakeLoop(observers.Display(), monkeypatch)
    for step in range(13):
        loop.step(1.0, compiled=step == 12)
    loop.step(1.0, compiled=True, examples=4)
    loop.epoch()
    capsys.readouterr()
    loop.step(60.0, compiled=True)
    for _ in range(4):
        loop.step(0.5, compiled=True)
    loop.epoch()
    assert capsys.readouterr().err.endswith("  490 s left\n")  # 981 steps of 0.5 s


def test_right_after_compiling_no_remaining_time_is_known(monkeypatch, capsys):
    loop = FakeLoop(observers.Display(), monkeypatch)
    loop.step(2.0, compiled=False)
    loop.epoch()  # only the rate of the epoch is known
    assert capsys.readouterr().err.endswith("  2,498 s left\n")
    loop.step(2.0, compiled=True)
    loop.step(60.0, compiled=True)
    loop.epoch()
    assert "left" not in capsys.readouterr().err


def test_the_progress_bar_leaves_out_the_compiler(monkeypatch):
    display = observers.Display()
    display.console = Console(file=io.StringIO(), force_terminal=True)
    loop = FakeLoop(display, monkeypatch)
    compile_slowly(loop)
    shown = display.bar.tasks[0].fields
    display.on_interrupt(loop)
    assert (shown["speed"], shown["left"]) == ("20/s", "0:08:15")


def test_the_progress_bar_shows_a_remaining_time_of_any_length(monkeypatch):
    display = observers.Display()
    display.console = Console(file=io.StringIO(), force_terminal=True)
    loop = FakeLoop(display, monkeypatch)
    loop.total_steps = 36 * 10**17 + 2
    loop.step(1.0, compiled=False)
    loop.step(1.0, compiled=False)
    display.on_interrupt(loop)
    assert display.bar.tasks[0].fields["left"] == "1,000,000,000,000,000:00:00"


def test_a_record_is_json(vae, data):
    record = train(vae, data, validation=0.25).history[0]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {
        "epoch", "step", "train", "validation", "learning_rate", "examples_per_second", "start",
        "seconds", "baseline",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("observer", "message"),
    [(Observer, "is a class; call it: Observer()"), (print, "is not a lowerbound.Observer")],
)
def test_what_is_not_an_observer_is_refused_before_the_training(data, observer, message):
    with pytest.raises(SettingsError, match=re.escape(message)):
        train(make_vae(), data, observers=[observer])


def test_a_shorter_length_leaves_a_complete_run_s_configuration(data, tmp_path):
    train(make_vae(), data, epochs=2, directory=tmp_path / "run")
    before = (tmp_path / "run" / "config.yaml").read_text()
    run = train(make_vae(), data, epochs=1, directory=tmp_path / "run", resume=True)
    assert run.history[-1]["epoch"] == 2
    assert (tmp_path / "run" / "config.yaml").read_text() == before
