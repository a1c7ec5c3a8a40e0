"""Quick steps equal the optimiser's own, bit for bit, and give way to them where it matters."""

import pytest
import torch
from torch import nn

from lowerbound.training.optim import AverageUpdate, average_weights, make_optimizer
from lowerbound.training.quick_step import QuickStep, _in_pieces


def make(name: str, steps: int, quick: bool) -> tuple[nn.Module, torch.optim.Optimizer, QuickStep]:
    """A network after steps at changing rates on random gradients, which one parameter may lack."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    optimizer = make_optimizer(model, name, 1e-2, 0.1)
    step = QuickStep(optimizer)
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if number in (0, 3):
            model[1].bias.grad = None
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 / (1 + number)
        step() if quick else optimizer.step()
    return model, optimizer, step


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_both_ways_end_at_the_same_bits(name):
    (model, optimizer, step), (expected, theirs, _) = (
        make(name, 7, quick) for quick in (True, False)
    )
    assert (step.groups is not None) == (name != "sgd")
    for ours, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, other)
    states = zip(optimizer.state.values(), theirs.state.values(), strict=True)
    for ours, other in states:
        assert all(
            torch.equal(ours[key], other[key])
            for key in other
            if isinstance(other[key], torch.Tensor)
        )


def test_a_state_that_is_put_back_is_the_one_that_goes_on():
    model, optimizer, step = make("adam", 6, True)
    expected, theirs, _ = make("adam", 6, False)
    for some, one in ((model, optimizer), (expected, theirs)):
        one.load_state_dict(one.state_dict())
        for parameter in some.parameters():
            parameter.grad = torch.ones_like(parameter)
    step()
    theirs.step()
    assert [int(state["step"]) for state in optimizer.state.values()] == [7, 7, 7, 5]
    for ours, other in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, other)


def test_hooks_are_called():
    _, optimizer, step = make("adam", 2, True)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    step()
    assert seen == [1]


@pytest.mark.parametrize(
    "settings", [{"amsgrad": True}, {"fused": False}, {"lr": torch.tensor(1e-2)}]
)
def test_unusual_settings_are_left_to_the_optimiser(settings):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter], **({"lr": 1e-2, "fused": True} | settings))
    step = QuickStep(optimizer)
    for _ in range(3):
        parameter.grad = torch.ones(3)
        step()
    assert step.groups is None
    assert float(parameter.detach()[0]) == pytest.approx(1 - 3e-2, abs=1e-4)


def both(options, change, parameters=None) -> tuple[list, list]:
    """Parameters after steps of the two kinds, with something changed after the second step."""
    ends = []
    for quick in (True, False):
        values = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
        groups = [{"params": values}] if parameters is None else parameters(values)
        optimizer = torch.optim.Adam(groups, **({"lr": 0.1, "fused": True} | options))
        step = QuickStep(optimizer)
        for number in range(5):
            for value in values:
                if value.requires_grad:
                    value.grad = torch.linspace(-1, 1, len(value)) * (number + 1)
            if number == 2:
                change(optimizer, values)
            step() if quick else optimizer.step()
        ends.append([value.detach() for value in values])
    return ends[0], ends[1]


def one_state_is_reset(optimizer, values):
    optimizer.state[values[1]] = {}


def all_states_are_cleared(optimizer, values):
    optimizer.state.clear()


def the_averages_are_reset(optimizer, values):
    for state in optimizer.state.values():
        state["exp_avg"] = torch.zeros_like(state["exp_avg"])
        state["exp_avg_sq"] = torch.zeros_like(state["exp_avg_sq"])


def amsgrad_is_switched_on(optimizer, values):
    optimizer.param_groups[0]["amsgrad"] = True
    for state in optimizer.state.values():
        state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()


def a_group_without_gradients(values):
    values[0].requires_grad_(False)
    return [{"params": values[:1]}, {"params": values[1:]}]


@pytest.mark.parametrize(("options", "change", "parameters"), [
    ({"decoupled_weight_decay": True, "weight_decay": 0.1}, lambda *_: None, None),
    ({}, one_state_is_reset, None),
    ({}, all_states_are_cleared, None),
    ({}, the_averages_are_reset, None),
    ({}, amsgrad_is_switched_on, None),
    ({}, lambda *_: None, a_group_without_gradients),
])  # fmt: skip
def test_what_changes_on_the_way_is_noticed(options, change, parameters):
    ours, theirs = both(options, change, parameters)
    for found, expected in zip(ours, theirs, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("recorded", [False, True])
def test_a_step_that_the_device_refuses_changes_nothing(name, recorded):
    """And one that it accepts is the optimiser's own; a rate on the device is rounded."""
    model, optimizer, step = make(name, 5, True)
    expected, theirs, _ = make(name, 5, False)
    rates = [torch.tensor(optimizer.param_groups[0]["lr"])] if recorded else None
    for parameter, other in zip(model.parameters(), expected.parameters(), strict=True):
        parameter.grad = other.grad = torch.full_like(parameter, 0.5)
    assert (step.recordable() is not None) == (optimizer.state[model[1].bias] != {})
    assert step.step_unless(torch.tensor(False), rates)
    theirs.step()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    assert step.step_unless(torch.tensor(True), rates)
    for ours, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6 * recorded, atol=1e-9 * recorded)
    counts = [[int(state["step"]) for state in one.state.values()] for one in (optimizer, theirs)]
    assert counts[0] == counts[1] == [6, 6, 6, 4]


def test_other_optimisers_cannot_refuse_on_the_device():
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    step = QuickStep(torch.optim.SGD([parameter], 0.1))
    assert not step.step_unless(torch.tensor(False))
    assert step.recordable() is None
    assert torch.equal(parameter.detach(), torch.ones(3))


def test_pieces_are_all_values_in_order():
    tensors = [torch.arange(5000.0).reshape(50, 100), torch.arange(7.0), torch.ones(4, 3).T]
    counts = [torch.tensor(float(number)) for number in range(3)]
    pieces, steps = _in_pieces([tensors, counts])
    assert torch.equal(torch.cat(pieces[:5]), torch.arange(5000.0))
    assert torch.equal(pieces[5], tensors[1])
    assert pieces[6] is tensors[2]
    assert [float(step) for step in steps] == [0] * 5 + [1, 2]


@pytest.mark.parametrize("decay", [None, 0.9])
def test_an_average_is_torchs_to_the_bit(decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    ours, theirs = average_weights(model, decay), average_weights(model, decay)
    for _ in range(4):
        model(torch.randn(5, 3, dtype=torch.float64))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        AverageUpdate(ours, model)()
        theirs.update_parameters(model)
    assert int(ours.n_averaged) == int(theirs.n_averaged) == 4
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_what_one_kernel_cannot_update_is_not_recorded():
    def step(*parameters):
        optimizer = torch.optim.Adam(parameters, fused=True)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return QuickStep(optimizer)

    single, double = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3).double())
    assert step(single).recordable() is not None
    assert step(single, double).recordable() is None
    frozen = step(single)
    single.requires_grad_(False)
    assert frozen.recordable() is None
