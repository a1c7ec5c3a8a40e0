"""Objectives that own modules: each is trained on its own loss, and nothing else changes."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import lowerbound as lb
from lowerbound.errors import NonFiniteError, SettingsError, StorageError
from lowerbound.objectives.base import Player
from lowerbound.runs.directory import RunDirectory
from lowerbound.training import autostop
from lowerbound.training.observing import Observer
from lowerbound.training.optim import make_optimizer

sys.path.insert(0, str(Path(__file__).parent))
from test_compiling import after, graphs, make_step

pytestmark = pytest.mark.usefixtures("without_learning_curves")

SIZE, LATENT = 4, 2


def make_critic(*, normed: bool = False) -> nn.Module:
    """A classifier of latents, from the same weights every time."""
    torch.manual_seed(5)
    norm = nn.BatchNorm1d(LATENT) if normed else nn.Identity()
    return nn.Sequential(norm, nn.Linear(LATENT, 8), nn.Tanh(), nn.Linear(8, 1))


@dataclass(frozen=True)
class Adversarial(lb.Objective):
    """The ELBO with a critic that tells latents of q from those of the prior.

    The model fools the critic, with some weight.
    """

    critic: nn.Module = field(default_factory=make_critic)
    weight: float = 0.3
    learning_rate: float | None = None
    samples: int = 1
    gradient: str = "pathwise"

    def players(self):
        return {"critic": Player(self.critic, self.learning_rate)}

    def bound(self, draw):
        return draw.log_likelihood.mean(0) - draw.rate

    def surrogate(self, draw):
        return self.bound(draw) + self.weight * self.critic(draw.z[0])[:, 0]

    def losses(self, draw):
        # Not detached: the step alone sees to it that this does not train the encoder.
        ours, theirs = self.critic(draw.z[0])[:, 0], self.critic(torch.randn_like(draw.z[0]))[:, 0]
        return {"critic": nn.functional.softplus(ours) + nn.functional.softplus(-theirs)}


def make_vae() -> lb.LatentModel:
    torch.manual_seed(0)
    return lb.LatentModel(
        lb.StandardNormal(LATENT),
        lb.Gaussian(lb.mlp(SIZE, 5, 2 * LATENT)),
        lb.Gaussian(lb.mlp(LATENT, 5, SIZE), scale=1.0),
    )


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(20, SIZE)


def train(data, objective=None, directory=None, **settings):
    usual = {"epochs": 6, "batch_size": 8, "progress": False, "device": "cpu"}
    settings = usual | {"learning_rate": 0.01, "directory": directory} | settings
    return lb.fit(make_vae(), objective or Adversarial(), data, **settings)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(history) -> list[dict]:
    clocks = ("seconds", "examples_per_second")
    return [{k: v for k, v in record.items() if k not in clocks} for record in history]


def steady(progress) -> dict:
    """The progress of a run, without what depends on the clock or on when it was stopped."""
    choices = ("compiled", "compiled_from", "onednn_products", "bfloat16", "threads")
    clocks = dict.fromkeys(("seconds", *choices))
    return progress | clocks | {"history": timeless(progress["history"])}


# Gradients


def by_hand(data: torch.Tensor, *, encoder_from_critic_loss: bool = False):
    """The gradients of one step, computed with torch alone."""
    model, objective = make_vae(), Adversarial()
    torch.manual_seed(3)
    draw = model.draw(data)
    surrogate, loss = -objective.surrogate(draw).mean(), objective.losses(draw)["critic"].mean()
    own, theirs = list(model.parameters()), list(objective.critic.parameters())
    of_model = torch.autograd.grad(surrogate, own, retain_graph=True)
    if encoder_from_critic_loss:
        return torch.autograd.grad(loss, own, allow_unused=True)
    return [*of_model, *torch.autograd.grad(loss, theirs)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("compiled", [False, True])
def test_each_parameter_is_trained_on_one_loss(compiled, data, lowered):
    model, objective = make_vae(), Adversarial()
    optimizer = make_optimizer(model, lambda p, lr: torch.optim.SGD(p, lr=lr), 1.0, None, objective)
    players = nn.ModuleDict({"critic": objective.critic})
    steps = make_step(model, objective, lb.Examples.of(data), optimizer, players=players)
    if compiled:
        steps.compile()
    before = [p.detach().clone() for p in (*model.parameters(), *objective.critic.parameters())]
    torch.manual_seed(3)
    steps.run(compiled=compiled)
    now = [*model.parameters(), *objective.critic.parameters()]
    for old, new, gradient in zip(before, now, by_hand(data), strict=True):
        torch.testing.assert_close(old - new, gradient, atol=1e-6, rtol=1e-4)
    # The test can fail: the critic's loss does have a gradient with respect to the encoder.
    leaked = by_hand(data, encoder_from_critic_loss=True)
    assert any(g is not None and g.abs().max() > 1e-4 for g in leaked)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_steps_agree(data, lowered):
    def make():
        model, objective = make_vae(), Adversarial(make_critic(normed=True))
        optimizer = make_optimizer(model, "adam", 0.01, None, objective)
        players = nn.ModuleDict({"critic": objective.critic.train()})
        settings = {"players": players, "clip_norm": 0.5}
        both.append(players)
        return make_step(model, objective, lb.Examples.of(data), optimizer, **settings)

    both = []
    compiled, eager = after(make(), compiled=True), after(make(), compiled=False)
    torch.testing.assert_close(compiled[0], eager[0])
    torch.testing.assert_close(*(dict(players.state_dict()) for players in both))
    assert compiled[1] == pytest.approx(eager[1], rel=1e-5)
    assert "critic loss" in compiled[1]
    assert graphs() == 1


class Steady(Adversarial):
    """The critic's loss is the same at every step, though the surrogate depends on the draw."""

    def losses(self, draw):
        return {"critic": self.critic(torch.ones_like(draw.z[0]))[:, 0].square()}


def test_a_player_with_the_learning_rate_0_stays_as_it_is(data):
    objective = Steady(learning_rate=0.0)
    before = [parameter.detach().clone() for parameter in objective.critic.parameters()]
    train(data, objective, epochs=1, optimizer="sgd")
    for parameter, old in zip(objective.critic.parameters(), before, strict=True):
        assert torch.equal(parameter, old)


def test_no_gradient_is_left_where_nobody_looks(data):
    """Neither of the surrogate, which sees the critic too, nor of earlier steps."""

    class Look(Observer):
        def on_step(self, loop):
            gradients.append([p.grad.clone() for p in loop.objective.critic.parameters()])

    gradients = []
    settings = {"batch_size": 20, "epochs": 3, "optimizer": "sgd", "observers": [Look()]}
    train(data, Steady(learning_rate=1e-30), **settings)
    critic = make_critic()
    critic(torch.ones(20, LATENT))[:, 0].square().mean().backward()
    for found in gradients:
        for gradient, parameter in zip(found, critic.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad)


def test_a_critic_without_weight_leaves_the_model_as_it_would_be(data):
    """The model's weights are those of the same training without a critic, bit for bit."""

    class Silent(Adversarial):
        def losses(self, draw):
            return {"critic": self.critic(draw.z[0])[:, 0].square()}

        def surrogate(self, draw):
            return self.bound(draw)

    settings = {"clip_norm": 0.5, "validation": 0.25}
    with_critic, alone = train(data, Silent(), **settings), train(data, lb.ELBO(), **settings)
    assert same(weights(with_critic.model), weights(alone.model))
    for record, plain in zip(with_critic.history, alone.history, strict=True):
        for part in ("train", "validation"):
            assert record[part].pop("critic loss") > 0
            assert record[part] == plain[part]


# The optimiser


def test_each_player_is_a_named_group_with_its_own_rate(data):
    class Groups(Observer):
        def on_step(self, loop):
            rates.append({group["name"]: group["lr"] for group in loop.optimizer.param_groups})

    rates = []
    settings = {"schedule": "linear", "epochs": None, "steps": 2, "observers": [Groups()]}
    train(data, Adversarial(learning_rate=0.4), **settings)
    assert rates == [{"model": 0.01, "critic": 0.4}, {"model": 0.005, "critic": 0.2}]
    rates.clear()
    train(data, Adversarial(), **settings)
    assert rates[0] == {"model": 0.01, "critic": 0.01}


def test_an_instance_must_hold_the_players(data):
    model, objective = make_vae(), Adversarial()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(SettingsError, match="lacks parameters of the objective's player 'critic'"):
        lb.fit(model, objective, data, optimizer=optimizer, progress=False)
    optimizer.add_param_group({"params": objective.critic.parameters()})
    before = weights(objective.critic)
    lb.fit(model, objective, data, optimizer=optimizer, epochs=1, progress=False)
    assert not same(weights(objective.critic), before)


def test_clipping_is_for_each_player_alone(data):
    class Loud(Adversarial):
        def losses(self, draw):
            return {name: 1e6 * loss for name, loss in super().losses(draw).items()}

    moved = {}
    for kind in (Adversarial, Loud):
        objective, start = kind(), weights(make_vae())
        run = train(data, objective, steps=1, epochs=None, optimizer="sgd", clip_norm=0.1)
        now = weights(run.model)
        moved[kind] = {name: now[name] - start[name] for name in start}
    assert same(moved[Adversarial], moved[Loud])


# What is kept


@pytest.mark.parametrize("stop_after", [1, 7, 9])
@pytest.mark.parametrize(
    "settings",
    [{}, {"ema": 0.9, "validation": 0.25, "schedule": "cosine"}, {"tolerance": 10.0, "epochs": 8}],
    ids=["plain", "validation", "tolerance"],
)
def test_resuming_is_as_if_it_had_never_stopped(settings, stop_after, data, tmp_path, monkeypatch):
    """With a tolerance, windows end after steps 3, 6, 12 and 24, the last three without a gain."""
    monkeypatch.setattr(autostop, "_FIRST_WINDOW_STEPS", 3)

    class Stop(Observer):
        def on_step(self, loop):
            if loop.progress.step == stop_after:
                raise RuntimeError("power cut")

    def objective():
        return Adversarial(make_critic(normed=True), learning_rate=0.02)

    straight = train(data, objective(), tmp_path / "straight", **settings)
    with pytest.raises(RuntimeError, match="power cut"):
        train(data, objective(), tmp_path / "resumed", observers=[Stop()], **settings)
    resumed = train(data, objective(), tmp_path / "resumed", resume=True, **settings)
    assert timeless(resumed.history) == timeless(straight.history)
    assert same(weights(resumed.model), weights(straight.model))
    assert same(weights(resumed.objective.critic), weights(straight.objective.critic))
    (files, state), (others, other_state) = (
        RunDirectory(tmp_path / name).read_newest() for name in ("resumed", "straight")
    )
    assert steady(state["progress"]) == steady(other_state["progress"])
    assert resumed.settled == straight.settled == ("tolerance" in settings)
    assert files.keys() == others.keys()
    assert "objective" in files
    assert all(same(files[name], others[name]) for name in files)


def test_the_best_critic_is_kept_with_the_best_model(data, tmp_path):
    settings = {"validation": data + 1, "learning_rate": 0.03}
    run = train(data + 4, None, tmp_path / "run", epochs=20, **settings)
    tensors, state = RunDirectory(tmp_path / "run").read_newest()
    assert state["progress"]["best_epoch"] == run.best_epoch < 20
    short = train(data + 4, epochs=run.best_epoch, **settings)
    assert same(weights(run.objective.critic), weights(short.objective.critic))
    kept = {f"critic.{name}": value for name, value in weights(run.objective.critic).items()}
    assert same(tensors["best-objective"], kept)


def test_critics_are_in_evaluation_mode_when_evaluated(data):
    run = train(data, Adversarial(make_critic(normed=True)), epochs=1)
    critic = run.objective.critic.train()
    before = weights(critic)
    estimate = lb.evaluate(run.model, run.objective, data)
    assert estimate.terms["critic loss"].mean > 0
    assert same(weights(critic), before)
    assert critic.training


def test_a_step_that_is_refused_changes_no_player(data):
    class Failing(Adversarial):
        def losses(self, draw):
            critic = self.critic(draw.z[0])[:, 0]
            calls.append(critic.requires_grad)
            # The value is finite, but its gradient is not: the square root of 0 has none.
            poison = (critic - critic).square().sqrt() if sum(calls) > 4 else 0.0
            return {"critic": critic.square() + poison}

    class Trace(Observer):
        def on_step(self, loop):
            seen.append((weights(loop.model), weights(loop.players)))

    calls, seen = [], []
    objective = Failing(make_critic(normed=True))
    model = make_vae()
    settings = {"epochs": 3, "batch_size": 8, "progress": False, "observers": [Trace()]}
    with pytest.raises(NonFiniteError, match=r"step \d: the gradient is not finite") as caught:
        lb.fit(model, objective, data, compile="never", **settings)
    assert caught.value.tensor.startswith("critic.")
    assert len(seen) == caught.value.step - 1
    assert same(weights(model), seen[-1][0])
    critic = {f"critic.{name}": value for name, value in weights(objective.critic).items()}
    assert same(critic, seen[-1][1])


# What is refused


class NoLosses(Adversarial):
    def losses(self, draw):
        return {}


class WithoutGradient(Adversarial):
    def losses(self, draw):
        return {"critic": draw.rate.detach()}


class Scalar(Adversarial):
    def losses(self, draw):
        return {"critic": super().losses(draw)["critic"].mean()}


@pytest.mark.parametrize(("kind", "message"), [
    (NoLosses, "the players are critic, but losses"),
    (WithoutGradient, "'critic' has no gradient"),
    (Scalar, "'critic loss' has the shape"),
])  # fmt: skip
def test_mistakes_are_named(kind, message, data):
    with pytest.raises(lb.errors.LowerboundError, match=message):
        train(data, kind(), epochs=1)


def test_a_parameter_has_one_owner(data):
    model = make_vae()
    with pytest.raises(SettingsError, match="also one of the model"):
        lb.fit(model, Adversarial(model.posterior), data, progress=False)


def test_a_player_without_parameters_is_refused(data):
    with pytest.raises(SettingsError, match="player 'critic' has no parameters"):
        train(data, Adversarial(nn.Identity()))


def test_weights_of_another_critic_are_refused(data, tmp_path):
    train(data, None, tmp_path / "run", epochs=1)
    other = Adversarial(nn.Sequential(nn.Linear(LATENT, 3), nn.Linear(3, 1)))
    with pytest.raises((StorageError, SettingsError), match="of another model"):
        train(data, other, tmp_path / "run", epochs=2, resume=True)


def test_the_configuration_names_the_objective(data, tmp_path):
    train(data, None, tmp_path / "run", epochs=1)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["objective"]["foreign"].endswith("Adversarial")
