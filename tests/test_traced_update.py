"""The update within a compiled step: it agrees with the optimiser's own, and uses its state."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from lowerbound.training.compiling import StepAutotuner, StepOptions
from lowerbound.training.traced_update import TracedUpdate

sys.path.insert(0, str(Path(__file__).parent))
import lowerbound as lb
from test_compiling import Steps, after, binary, graphs, make_step, make_vae

SETTINGS = {
    "Adam": (Adam, {}),
    "Adam, not fused": (Adam, {"fused": False}),
    "Adam with weight decay": (Adam, {"weight_decay": 0.1, "betas": (0.7, 0.95), "eps": 1e-3}),
    "Adam that maximises": (Adam, {"maximize": True, "weight_decay": 0.1}),
    "AdamW": (AdamW, {"weight_decay": 0.3}),
    "AdamW that maximises": (AdamW, {"weight_decay": 0.3, "maximize": True}),
    "SGD": (SGD, {}),
    "SGD with weight decay": (SGD, {"weight_decay": 0.1}),
    "SGD that maximises": (SGD, {"maximize": True, "weight_decay": 0.1}),
    "momentum": (SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "momentum with dampening": (SGD, {"momentum": 0.9, "dampening": 0.3, "maximize": True}),
    "Nesterov": (SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
}


def make_optimizer(name: str, dtype: torch.dtype) -> torch.optim.Optimizer:
    """Make an optimiser of two groups with different learning rates, and take its first step."""
    kind, settings = SETTINGS[name]
    generator = torch.Generator().manual_seed(0)
    first, second, third = (
        nn.Parameter(torch.randn(size, generator=generator, dtype=dtype))
        for size in ((4, 3), (5,), ())
    )
    groups = [{"params": [first, second], "lr": 0.05}, {"params": [third], "lr": 0.02}]
    optimizer = kind(groups, lr=0.01, **({"fused": True} | settings))
    step(optimizer, 0)
    return optimizer


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def draw_gradients(parameters: list[torch.Tensor], number: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + number)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def step(optimizer: torch.optim.Optimizer, number: int) -> None:
    parameters = parameters_of(optimizer)
    for parameter, gradient in zip(parameters, draw_gradients(parameters, number), strict=True):
        parameter.grad = gradient
    optimizer.step()


@torch.no_grad()
def step_traced(
    traced: TracedUpdate, optimizer: torch.optim.Optimizer, number: int, *, refused: bool = False
) -> None:
    parameters = parameters_of(optimizer)
    gradients: list = draw_gradients(parameters, number)
    if refused:
        gradients = [torch.full_like(gradient, torch.nan) for gradient in gradients]
    assert traced.fits()
    assert traced.covers(gradients)
    traced.prepare()
    traced(parameters, gradients, torch.tensor(refused))


def values_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [value for value in states if isinstance(value, torch.Tensor)]
    return [value.detach().clone() for value in (*parameters_of(optimizer), *tensors)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SETTINGS)
def test_traced_steps_agree_with_the_optimiser_s_own(name, dtype):
    """While the learning rate grows, and with an ordinary step now and then."""
    ours, theirs = (make_optimizer(name, dtype) for _ in range(2))
    traced = TracedUpdate.of(ours, parameters_of(ours))
    assert traced is not None
    for number in range(1, 21):
        for group in (*ours.param_groups, *theirs.param_groups):
            group["lr"] *= 1.1
        step(theirs, number)
        if number % 6:
            step_traced(traced, ours, number)
        else:
            step(ours, number)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(values_of(ours), values_of(theirs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_refused_step_changes_no_bit(name):
    optimizer = make_optimizer(name, torch.float32)
    traced = TracedUpdate.of(optimizer, parameters_of(optimizer))
    step_traced(traced, optimizer, 1)
    before = values_of(optimizer)
    step_traced(traced, optimizer, 2, refused=True)
    for value, old in zip(values_of(optimizer), before, strict=True):
        assert torch.equal(value, old)


def use_amsgrad(optimizer):
    optimizer.param_groups[0]["amsgrad"] = True


def use_a_tensor_as_rate(optimizer):
    optimizer.param_groups[1]["lr"] = torch.tensor(0.1)


def register_a_hook(optimizer):
    optimizer.register_step_pre_hook(lambda *_: None)


def let_counts_differ(optimizer):
    optimizer.state[parameters_of(optimizer)[0]]["step"].add_(1)


def forget_the_state(optimizer):
    optimizer.state.clear()


def replace_an_average(optimizer):
    own = optimizer.state[parameters_of(optimizer)[0]]
    own["exp_avg"] = torch.zeros_like(own["exp_avg"])


def test_a_tensor_of_the_state_that_is_replaced_is_used():
    optimizer = make_optimizer("Adam", torch.float32)
    traced = TracedUpdate.of(optimizer, parameters_of(optimizer))
    replace_an_average(optimizer)
    assert not traced.fits()
    again = TracedUpdate.of(optimizer, parameters_of(optimizer))
    step_traced(again, optimizer, 1)
    assert optimizer.state[parameters_of(optimizer)[0]]["exp_avg"].count_nonzero() > 0


@pytest.mark.parametrize(
    "change",
    [use_amsgrad, use_a_tensor_as_rate, register_a_hook, let_counts_differ, forget_the_state],
)
def test_unusual_settings_and_states_are_left_to_the_optimiser(change):
    optimizer = make_optimizer("Adam", torch.float32)
    traced = TracedUpdate.of(optimizer, parameters_of(optimizer))
    assert traced.fits()
    change(optimizer)
    assert not traced.fits()
    again = TracedUpdate.of(optimizer, parameters_of(optimizer))
    gradients = draw_gradients(parameters_of(optimizer), 1)
    assert again is None or not again.covers(gradients)


def test_parameters_that_share_memory_are_left_to_the_optimiser():
    values = torch.ones(6)
    parameters = [nn.Parameter(values[:3]), nn.Parameter(values[3:])]
    assert TracedUpdate.of(SGD(parameters, 0.1), parameters) is None


def test_other_optimisers_and_mixed_types_are_not_traced():
    single, double = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3).double())
    assert TracedUpdate.of(torch.optim.RMSprop([single]), [single]) is None
    assert TracedUpdate.of(SGD([single, double], 0.1), [single, double]) is None


def make_steps(optimizer: str = "adam") -> Steps:
    return make_step(make_vae(), lb.ELBO(), binary((6,)), optimizer)


@pytest.mark.usefixtures("fresh_compiler", "lowered")
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_new_learning_rates_and_loaded_states_need_no_compilation(optimizer):
    steps, plain = make_steps(optimizer), make_steps(optimizer)
    for number in range(6):
        for each in (steps, plain):
            each.step.optimizer.param_groups[0]["lr"] = 0.01 * (1 + number)
            if number == 4:
                each.step.optimizer.load_state_dict(each.step.optimizer.state_dict())
            if number == 1 and each is steps:
                steps.compile()
            torch.manual_seed(number)
            each.run(compiled=each is steps and number not in (0, 3))
    assert steps.step.update.traced is not None
    assert graphs() == 1
    weights = (dict(each.step.model.state_dict()) for each in (steps, plain))
    torch.testing.assert_close(*weights)
    assert steps.step.taken == 6 == steps.step.accepted


def test_the_description_of_compiled_steps_has_the_rule_of_the_optimiser():
    """And not the learning rate, because other factors need no other code."""
    descriptions = []
    for settings in ({}, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True}):
        model = make_vae()
        steps = make_step(model, lb.ELBO(), binary((6,)), SGD(model.parameters(), 0.1, **settings))
        tuner = StepAutotuner(steps.step, StepOptions(), 12, lambda line: None)
        steps.run()
        descriptions.append(tuner._describe())
        for name, value in (("lr", 0.2), ("maximize", True)):
            steps.step.optimizer.param_groups[0][name] = value
            assert tuner._describe() == descriptions[-1]
    plain, momentum, nesterov = descriptions
    assert plain != momentum == nesterov


@pytest.mark.usefixtures("fresh_compiler", "lowered")
def test_an_update_that_is_interrupted_before_it_begins_leaves_no_trace(monkeypatch):
    steps = make_steps()
    after(steps, 3, compiled=True)
    before, noise = values_of(steps.step.optimizer), torch.get_rng_state()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(steps.step.update, "prepare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        steps.run(compiled=True)
    assert steps.step.taken == 3 == steps.step.accepted
    assert torch.equal(torch.get_rng_state(), noise)
    for value, old in zip(values_of(steps.step.optimizer), before, strict=True):
        assert torch.equal(value, old)
