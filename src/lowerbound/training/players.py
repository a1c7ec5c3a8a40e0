"""The players of an objective: modules that it owns, each trained on a loss of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor, nn

from lowerbound.errors import SettingsError
from lowerbound.models import Draw
from lowerbound.objectives import Objective

Weights = dict[str, dict[str, Tensor]]
"""Tensors by name, for each file of a checkpoint."""


def collect_weights(model: nn.Module, players: nn.Module) -> Weights:
    """Collect the weights of a model, and of an objective's players if it has any."""
    weights = {"model": model.state_dict(), "objective": players.state_dict()}
    return {file: tensors for file, tensors in weights.items() if tensors or file == "model"}


def copy_weights(weights: Weights) -> Weights:
    """Copy the weights, so that later steps do not change the copy."""
    return {
        file: {name: value.clone() for name, value in tensors.items()}
        for file, tensors in weights.items()
    }


def collect_players(model: nn.Module, objective: Objective) -> nn.ModuleDict:
    """Collect the players' modules by name. Most objectives have none.

    Raises:
        SettingsError: if a player shares parameters with the model or with another player, because
            each parameter is trained on one loss; or if it has no parameters to train.
    """
    modules = {name: player.module for name, player in objective.players().items()}
    owners = {id(parameter): "the model" for parameter in model.parameters()}
    for name, module in modules.items():
        if not _select_trainable(module.parameters()):
            raise SettingsError(f"fit: the player {name!r} has no parameters to train")
        for parameter in module.parameters():
            owner = owners.setdefault(id(parameter), f"the player {name!r}")
            if owner != f"the player {name!r}":
                raise SettingsError(
                    f"{type(objective).__name__}: the player {name!r} has a parameter that is also "
                    f"one of {owner}; give each its own"
                )
    return nn.ModuleDict(modules)


def make_parameter_groups(model: nn.Module, objective: Objective | None, rate: float) -> list[Any]:
    """Make an optimiser's parameter groups: the model's, and a named one for each player.

    Args:
        model: the model whose parameters to optimise.
        objective: the objective whose players to train.
        rate: the learning rate of the model, and of players without their own.

    Raises:
        SettingsError: if the model has no parameters to train.
    """
    players = {} if objective is None else objective.players()
    own = _select_trainable(model.parameters())
    if not own:
        raise SettingsError("fit: the model has no parameters to train")
    if not players:
        return own
    groups: list[dict[str, Any]] = [{"name": "model", "params": own}]
    for name, player in players.items():
        group = {"name": name, "params": _select_trainable(player.module.parameters()), "lr": rate}
        if player.learning_rate is not None:
            group["lr"] = player.learning_rate
        groups.append(group)
    return groups


def compute_player_losses(
    objective: Objective, names: Collection[str], draw: Draw
) -> dict[str, Tensor]:
    """Compute the loss of each player, ``[B]``, in the order of the players.

    Raises:
        SettingsError: unless the objective gives one loss with a gradient for each player.
    """
    if not names:
        return {}
    losses = objective.losses(draw)
    if losses.keys() != set(names):
        raise SettingsError(
            f"{type(objective).__name__}: the players are {', '.join(names)}, but losses() gives "
            f"losses of {', '.join(losses) or 'none'}"
        )
    for name in names:
        if not losses[name].requires_grad:
            raise SettingsError(
                f"{type(objective).__name__}: the loss of the player {name!r} has no gradient; "
                "compute it from the player's output"
            )
    return {name: losses[name] for name in names}


def _select_trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]
