"""A training step: from the weights and a batch of examples to new weights and sums of terms.

A step passes through three functions. :meth:`StepAutotuner.run` chooses how to run it,
:meth:`TrainingStep.compute` computes terms and gradients, and :class:`WeightUpdate` lets the
optimiser change the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lowerbound.conditionals import networks_in
from lowerbound.errors import SettingsError
from lowerbound.evaluation.scoring import compute_terms
from lowerbound.models import Draw, Model
from lowerbound.objectives import Objective
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.noise import random_state, restore_random_state
from lowerbound.training.batches import Batch
from lowerbound.training.failing import diagnose
from lowerbound.training.optim import AverageUpdate
from lowerbound.training.players import compute_player_losses
from lowerbound.training.update import WeightUpdate, change_unless


@dataclass(frozen=True, eq=False)
class _Start:
    """The state at the start of a step, from which it can be computed once more."""

    batch: Batch
    scheduled: dict[str, float]
    network_dtype: torch.dtype | None
    random: dict[str, Tensor]


class TrainingStep:
    """A training step, as a function of tensors that torch's compiler compiles as a whole.

    It never waits for a value from the device. The device itself decides whether the optimiser uses
    the gradients: only if the bound and the norm of all gradients are finite.

    Args:
        model: the model, which is changed in place.
        objective: the objective, whose mean over the batch is maximised.
        optimizer: the optimiser of the model's parameters.
        players: modules that the objective owns, each of which is trained on its own loss.
        clip_norm: gradients whose total norm is larger are scaled down to it; those of the model
            and those of each player separately.
        averaged: the average of the model's weights, which each step updates.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        optimizer: Optimizer,
        *,
        players: nn.ModuleDict | None = None,
        clip_norm: float | None = None,
        averaged: AveragedModel | None = None,
    ) -> None:
        self.model, self.objective, self.optimizer = model, objective, optimizer
        self.players = nn.ModuleDict() if players is None else players
        self.clip_norm, self.averaged = clip_norm, averaged
        self.update_average = None if averaged is None else AverageUpdate(averaged, model)
        self.device, self.dtype = get_device(model), get_dtype(model)
        self.update = WeightUpdate(optimizer, self.device)
        self.player_names = tuple(self.players)
        modules: list[nn.Module] = [model, *self.players.values()]
        self.all_parameters = [p for module in modules for p in module.parameters()]
        self.learners = [self._find_positions(module) for module in modules]
        # A refused step must not change the running statistics. The forward pass changes them, so a
        # copy from before each step is kept.
        self.buffers = [buffer for module in modules for buffer in _list_stored_buffers(module)]
        self.buffers_before = [buffer.clone() for buffer in self.buffers]
        # In double precision, which does not spread to other tensors: a tensor without dimensions
        # does not change the type of a result.
        self.scheduled = {
            name: torch.zeros((), dtype=torch.float64, device=self.device)
            for name in objective.schedules()
        }
        self.current = objective.holding(self.scheduled)
        self.is_learned: tuple[bool, ...] = ()
        self.unchecked: list[_Start] = []
        self.is_watched = False
        """Whether other code may read the gradients, or change anything, between steps."""
        self.is_unchanged = False
        """Whether nothing has changed since the last step but the values of tensors."""
        self.last: tuple[Tensor, Draw, Tensor] | None = None
        """The data, draw and mean bound of the last step; ``None`` if it was compiled."""
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None

    @property
    def taken(self) -> int:
        """The number of steps so far, including refused steps that are not detected yet."""
        return self.update.taken

    @property
    def accepted(self) -> int:
        """The number of steps whose update was not refused; waits for the device."""
        return int(self.update.accepted)

    @contextmanager
    def attempt(
        self,
        batch: Batch,
        scheduled: Mapping[str, float],
        *,
        network_dtype: torch.dtype | None = None,
    ) -> Iterator[Batch]:
        """Around the computation of a step: prepares it, and undoes it if it is interrupted.

        Args:
            batch: the batch of the step.
            scheduled: the values of the objective's schedules.
            network_dtype: the type in which networks multiply matrices; ``None`` for their own
                type.

        Yields:
            The batch to compute with.

        Raises:
            NonFiniteError: on a CPU, if the update was refused, see :meth:`check`.
        """
        random, taken = random_state(self.device), self.taken
        start = _Start(batch, dict(scheduled), network_dtype, random)
        self.unchecked.append(start)
        self.last = None
        try:
            with self._preparing(start) as ready:
                yield ready
        except BaseException:
            if self.taken == taken:  # it was cut short before its update
                self.unchecked.pop()
                restore_random_state(start.random, self.device)
                _copy(self.buffers_before, self.buffers)
            raise
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            self.check()
        if self.update_average is not None:
            # Only now, because a graph stores new running statistics when it ends.
            change_unless(
                self.update.refused, self.update_average, self._list_averages, wait=on_cpu
            )

    @contextmanager
    def _preparing(self, start: _Start) -> Iterator[Batch]:
        for name, value in start.scheduled.items():
            self.scheduled[name].fill_(value)
        _copy(self.buffers, self.buffers_before)
        # zero_grad does the same, but looks for the parameters in all modules each time.
        for parameter in self.all_parameters:
            parameter.grad = None
        # The compiler of torch 2.11 checks this attribute, but not whether a parameter is frozen.
        self.is_learned = tuple(parameter.requires_grad for parameter in self.update.parameters)
        with networks_in(self.model, start.network_dtype):
            yield start.batch.decode_stored(self.dtype)

    def compute(self, batch: Batch) -> list[Tensor | None] | None:
        """Draw, compute terms and gradients, decide whether the step is refused, and update.

        Returns:
            The gradients, if the step is watched.
        """
        x, given = batch.decode(self.dtype)
        draw = self.model.draw(x, self.objective.samples, self.objective.gradient, **given)
        losses = compute_player_losses(self.current, self.player_names, draw)
        means = [-self.current.surrogate(draw).mean(), *(loss.mean() for loss in losses.values())]
        gradients = self._compute_gradients(means)
        with torch.no_grad():
            # Before the update, which must not affect the terms.
            terms = compute_terms(self.current, draw, len(x), losses)
            bound = terms["bound"].mean()
            norms = [
                _total_norm([gradients[i] for i in own], bound.device) for own in self.learners
            ]
            self.update.refuse_non_finite(bound, *norms)
            for buffer, before in zip(self.buffers, self.buffers_before, strict=True):
                buffer.copy_(torch.where(self.update.refused, before, buffer))
            if self.clip_norm is not None:
                self._clip(gradients, norms, self.clip_norm)
            self._add_terms(terms)
            if not torch.compiler.is_compiling():
                self.last = (x, draw, bound)
            self.update(gradients)
        if self.is_watched:
            return gradients
        return None

    def _compute_gradients(self, losses: Sequence[Tensor]) -> list[Tensor | None]:
        """Compute the gradient of each parameter that the optimiser updates.

        It is the gradient of one loss only: the first loss for the parameters of the model, and a
        player's own loss for the parameters of the player.
        """
        parameters = self.update.parameters
        gradients: list[Tensor | None] = [None] * len(parameters)
        for number, (loss, own) in enumerate(zip(losses, self.learners, strict=True)):
            learned = [i for i in own if self.is_learned[i]]
            inputs = [parameters[i] for i in learned]
            more_follow = number + 1 < len(losses)
            if torch.compiler.is_compiling():
                found = torch.autograd.grad(
                    loss, inputs, allow_unused=True, retain_graph=more_follow
                )
                for i, gradient in zip(learned, found, strict=True):
                    gradients[i] = _match_layout(parameters[i], gradient)
                continue
            # backward() calls all hooks, which grad() does not.
            if len(losses) == 1:
                loss.backward()
            else:
                loss.backward(inputs=inputs, retain_graph=more_follow)
            for i in own:
                gradients[i] = parameters[i].grad
        return gradients

    def _clip(
        self, gradients: list[Tensor | None], norms: Sequence[Tensor], largest: float
    ) -> None:
        for own, norm in zip(self.learners, norms, strict=True):
            scale = (largest / (norm + 1e-6)).clamp(max=1.0)
            for i in own:
                gradient = gradients[i]
                if gradient is not None:
                    gradients[i] = gradient * scale

    def _find_positions(self, module: nn.Module) -> list[int]:
        """Find the positions of a module's parameters in the optimiser's list."""
        own = {id(parameter) for parameter in module.parameters()}
        return [i for i, parameter in enumerate(self.update.parameters) if id(parameter) in own]

    def check(self) -> None:
        """Wait for the device, and check whether it refused a step, and with it all later ones.

        Raises:
            NonFiniteError: if the bound or a gradient is not finite. The weights are those before
                that step.
        """
        unchecked, self.unchecked = self.unchecked, []
        if not bool(self.update.refused):
            return
        refused = self.taken - self.accepted
        if self.last is None or refused > 1:
            # The first refused step is computed once more, on the same noise and uncompiled, to
            # find where it failed.
            start = unchecked[-refused]
            restore_random_state(start.random, self.device)
            with self._preparing(start) as ready:
                self.compute(ready)
        assert self.last is not None
        self.update.forget_refused()
        if self.averaged is not None and self.device.type != "cpu":
            self.averaged.n_averaged -= refused
        raise diagnose(self.model, self.players, self.optimizer, self.taken + 1, self.last)

    def resume(self, taken: int, totals: Mapping[str, float]) -> None:
        """Continue an earlier run: its number of steps, and the sums of the current epoch."""
        self.update.resume(taken)
        if totals:
            self._names = tuple(totals)
            self._sums = torch.tensor(
                list(totals.values()), dtype=torch.float64, device=self.device
            )

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the examples of the current epoch, by term; waits for the device."""
        if self._sums is None:
            return {}
        return dict(zip(self._names, self._sums.tolist(), strict=True))

    def begin_epoch(self) -> None:
        """Reset the sums for a new epoch."""
        self.last = None  # so that its tensors are freed
        if self._sums is not None:
            self._sums.zero_()

    @property
    def tensors_in_place(self) -> list[Tensor]:
        """The tensors, other than parameters, that a step changes in place."""
        tensors = [self.update.refused, self.update.accepted, *self.scheduled.values()]
        tensors += [*self.buffers, *self.buffers_before]
        if self._sums is not None:
            tensors.append(self._sums)
        return tensors

    def _add_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of a batch to the sums, unless the step is refused."""
        if self._sums is None:
            self._names = tuple(terms)
            self._sums = torch.zeros(
                len(terms), dtype=torch.float64, device=self.update.refused.device
            )
        if terms.keys() != set(self._names):
            raise SettingsError(
                f"{type(self.objective).__name__}: its terms were {', '.join(self._names)}, and "
                f"are now {', '.join(terms)}; report the same at every step"
            )
        sums = [terms[name].detach().sum(dtype=torch.float64) for name in self._names]
        added = torch.stack(sums)
        # Not `+=`, which would also set the attribute: compiled code that does so is not repeated.
        self._sums.add_(torch.where(self.update.refused, torch.zeros_like(added), added))

    def _list_averages(self) -> list[Tensor]:
        assert self.averaged is not None
        return list(self.averaged.module.state_dict().values())


def _list_stored_buffers(module: nn.Module) -> list[Tensor]:
    stored = module.state_dict(keep_vars=True)
    return [buffer for name, buffer in module.named_buffers() if name in stored]


def _copy(tensors: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        copy.copy_(tensor)


def _match_layout(parameter: Tensor, gradient: Tensor | None) -> Tensor | None:
    """Give a gradient the memory layout of its parameter, as fused optimisers require.

    ``backward`` does this by itself.
    """
    if gradient is None or gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _total_norm(gradients: Sequence[Tensor | None], device: torch.device) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
    if not norms:
        return torch.zeros((), device=device)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total
