"""A training step: one function of tensors, from draw to update, which torch's compiler takes as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lowerbound.conditionals import networks_in
from lowerbound.errors import SettingsError
from lowerbound.evaluation.scoring import terms_of
from lowerbound.models import Draw, Model
from lowerbound.objectives import Objective
from lowerbound.runtime.compiler import compiled
from lowerbound.runtime.devices import device_of, dtype_of
from lowerbound.runtime.noise import random_state, restore_random_state
from lowerbound.training.failing import diagnosis
from lowerbound.training.feeding import Feed
from lowerbound.training.labels import UPDATE, labelled
from lowerbound.training.optim import QuickStep


@dataclass(frozen=True, eq=False)
class _Beginning:
    """All that a step needs to be taken once more."""

    batch: Tensor
    scheduled: dict[str, float]
    random: dict[str, Tensor]


@dataclass(eq=False)
class TrainingStep:
    """One step: from parameters, optimiser state and a batch of examples to new ones, and sums of the bound's terms.

    Nothing in it depends on a value that the device would have to be asked for. The bound and the norm of all gradients
    decide, on the device, whether the optimiser sees them, so that it is never fed anything that is not a number.

    Args:
        model: is changed in place.
        objective: is maximised, averaged over the batch.
        optimizer: of the model's parameters.
        feed: of the examples to learn from.
        clip_norm: gradients whose total norm is larger are scaled down to it.
        averaged: the average of the weights, kept up to date.
    """

    model: Model
    objective: Objective
    optimizer: Optimizer
    feed: Feed
    clip_norm: float | None = None
    averaged: AveragedModel | None = None
    profiled: bool = False
    """Whether what the compiler makes is named, so that a profile tells it apart."""
    half: bool = False
    """Whether networks compute in bfloat16; parameters, their gradients and the terms of the bound do not."""
    taken: int = 0

    def __post_init__(self) -> None:
        self.device, self.dtype = device_of(self.model), dtype_of(self.model)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.of_model = list(self.model.parameters())
        # Running statistics, which the forward pass changes, go back to what they were if the step is refused.
        kept = self.model.state_dict(keep_vars=True)
        self.buffers = [buffer for name, buffer in self.model.named_buffers() if name in kept]
        self.before = [buffer.clone() for buffer in self.buffers]
        self.optimize = QuickStep(self.optimizer)
        self.interrupted: BaseException | None = None  # what ended an update within a compiled step
        self.updated = False  # until then the optimiser's state may not be there
        self.names: tuple[str, ...] = ()
        self.sums: Tensor | None = None
        # In double precision, which does not spread: a tensor without dimensions leaves the type of others as it is.
        self.values = {
            name: torch.zeros((), dtype=torch.float64, device=self.device)
            for name in self.objective.schedules()
        }
        self.current = self.objective.holding(self.values)
        self.refused = torch.zeros((), dtype=torch.bool, device=self.device)
        self.accepted = torch.zeros((), dtype=torch.int64, device=self.device)
        self.unchecked: list[_Beginning] = []
        self.compiled: Callable[[Tensor], None] | None = None
        self.last: tuple[Tensor, Draw, Tensor] | None = (
            None  # data, draw and bound of the last uncompiled step
        )
        self.number = next(_NUMBERS)
        _STEPS[self.number] = self

    def __call__(
        self, batch: Tensor, scheduled: Mapping[str, float], *, compiled: bool = False
    ) -> None:
        """Take the step.

        Args:
            batch: of the feed.
            scheduled: values in the place of the objective's schedules.
            compiled: whether to take it as the compiler made it, which :meth:`compile` asks for.

        Raises:
            NonFiniteError: where the numbers are at hand without waiting for a device, see :meth:`check`.
        """
        begins = _Beginning(batch, dict(scheduled), random_state(self.device))
        taken = self.taken
        self.unchecked.append(begins)
        self.last = None
        try:
            self._take(begins, self.compiled if compiled else None)
        except BaseException:
            if self.taken == taken:  # it did not come to its update, so it is taken back
                self.unchecked.pop()
                restore_random_state(begins.random, self.device)
                _copy(self.before, self.buffers)
            raise
        if self.device.type == "cpu":
            self.check()
        if (
            self.averaged is not None
        ):  # of the running statistics too, which a graph has put in their place by now
            self._unless_refused(self.refused, self._average, self._averages)

    def _take(self, begins: _Beginning, take: Callable[[Tensor], None] | None = None) -> None:
        for name, value in begins.scheduled.items():
            self.values[name].fill_(value)
        _copy(self.buffers, self.before)
        for (
            parameter
        ) in self.of_model:  # as zero_grad does, which looks for them in all modules each time
            parameter.grad = None
        batch = begins.batch
        if not self.feed.at_hand:
            # Not within the graph, where the compiler would make numbers of bytes anew wherever it uses them.
            batch = self.feed.numbers(batch, self.dtype)
        with networks_in(self.model, torch.bfloat16 if self.half else None):
            (take or self.take)(batch)

    def check(self) -> None:
        """Wait for the device, and see whether it refused a step, and with it all later ones.

        Raises:
            NonFiniteError: if the bound or a gradient is not finite; parameters are those of before that step.
        """
        unchecked, self.unchecked = self.unchecked, []
        if not bool(self.refused):
            return
        accepted = int(self.accepted)
        later = self.taken - accepted
        if (
            self.last is None or later > 1
        ):  # the refused step once more, on the same noise, to see where it began
            restore_random_state(unchecked[-later].random, self.device)
            self._take(unchecked[-later])
        assert self.last is not None
        self.taken = accepted
        if self.averaged is not None and self.device.type != "cpu":
            self.averaged.n_averaged -= later
        raise diagnosis(self.model, self.optimizer, accepted + 1, self.last)

    def resume(self, taken: int, totals: Mapping[str, float]) -> None:
        """Go on from where an earlier training stood: so many steps taken, and these sums of the epoch under way."""
        self.taken = taken
        self.accepted.fill_(taken)
        if totals:
            self.names = tuple(totals)
            self.sums = torch.tensor(list(totals.values()), dtype=torch.float64, device=self.device)

    @property
    def totals(self) -> dict[str, float]:
        """Sums over the examples seen of the epoch under way, by term; costs a synchronisation with the device."""
        return {} if self.sums is None else dict(zip(self.names, self.sums.tolist(), strict=True))

    def begin_epoch(self) -> None:
        """From here on the sums are another epoch's."""
        self.last = None  # what it holds would outlive the epoch
        if self.sums is not None:
            self.sums.zero_()

    def take(self, batch: Tensor) -> None:
        """The step itself, on the numbers of examples that are at hand, or on what they are, ``[B, *shape]``."""
        x = self.feed.numbers(batch, self.dtype) if self.feed.at_hand else batch
        draw = self.model.draw(x, self.objective.samples, self.objective.gradient)
        slopes = self._slopes(-self.current.surrogate(draw).mean())
        with torch.no_grad():
            terms = terms_of(
                self.current, draw, len(x)
            )  # before the update, of which a term must not know
            bound, norm = terms["bound"].mean(), _norm(slopes)
            self.refused |= ~(bound.isfinite() & norm.isfinite())
            self.accepted += ~self.refused
            for buffer, before in zip(self.buffers, self.before, strict=True):
                buffer.copy_(torch.where(self.refused, before, buffer))
            if self.clip_norm is not None:
                scale = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
                slopes = [None if slope is None else slope * scale for slope in slopes]
            self._add(terms)
            if torch.compiler.is_compiling():
                torch.ops.lowerbound.update(self.parameters, slopes, self.refused, self.number)
            else:
                self.last = (x, draw, bound)
                self.update(slopes, self.refused)

    def _slopes(self, loss: Tensor) -> list[Tensor | None]:
        """The gradient of each parameter, laid out in memory as the parameter is: fused optimisers count on it."""
        if not torch.compiler.is_compiling():
            loss.backward()
            return [parameter.grad for parameter in self.parameters]
        learning = [parameter for parameter in self.parameters if parameter.requires_grad]
        found = dict(
            zip(learning, torch.autograd.grad(loss, learning, allow_unused=True), strict=True)
        )
        slopes = [(parameter, found.get(parameter)) for parameter in self.parameters]
        return [
            slope
            if slope is None or slope.stride() == parameter.stride()
            else torch.empty_like(parameter).copy_(slope)
            for parameter, slope in slopes
        ]

    def update(self, gradients: Sequence[Tensor | None], refused: Tensor) -> None:
        """Let the optimiser take its step, unless it is refused."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.taken += 1  # before the update, so that one cut short is not mistaken for none
        with labelled(UPDATE):
            self._unless_refused(refused, self.optimize, self._optimized, at_hand=not self.updated)
        self.updated = True

    def _optimized(self) -> list[Tensor]:
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return [*self.parameters, *(value for value in states if isinstance(value, Tensor))]

    def _average(self) -> None:
        assert self.averaged is not None
        self.averaged.update_parameters(self.model)

    def _averages(self) -> list[Tensor]:
        assert self.averaged is not None
        return list(self.averaged.module.state_dict().values())

    def _unless_refused(
        self,
        refused: Tensor,
        change: Callable[[], Any],
        changing: Callable[[], list[Tensor]],
        *,
        at_hand: bool = False,
    ) -> None:
        """Make a change of some tensors, unless the step is refused.

        ``at_hand`` says to wait for the device, as must be where the change makes tensors that are not there yet; so it must
        where some of them are not on the device.
        """
        tensors = [] if at_hand or self.device.type == "cpu" else changing()
        if not tensors or any(tensor.device != refused.device for tensor in tensors):
            if not bool(refused):
                change()
            return
        # The answer is not asked for: the change is made, and taken back on the device where it was refused.
        before = [tensor.clone() for tensor in tensors]
        change()
        for tensor, old in zip(tensors, before, strict=True):
            tensor.copy_(torch.where(refused, old, tensor))

    def compile(self, *, whole: bool = True, thoroughly: bool = False) -> None:
        """Have steps compiled; the first of them waits for the compiler.

        Args:
            whole: as one graph; the compiler fails where something in the model keeps it from that. Else in pieces.
            thoroughly: on a CPU, also what calls the graph's operations one after another, which Python does otherwise. It
                takes some seconds more, and a few tenths of a millisecond from every step.
        """
        made = compiled(
            self.take, whole=whole, **_options(self.device, self.profiled, whole and thoroughly)
        )
        config = torch._dynamo.config
        on_cuda = self.device.type == "cuda"
        if (
            on_cuda
        ):  # a graph of the device's changes what lies where it lay when the graph was recorded
            for tensor in self._in_place():
                torch._dynamo.mark_static_address(tensor)

        def take(batch: Tensor) -> None:
            if on_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            before, config.trace_autograd_ops = (
                config.trace_autograd_ops,
                True,
            )  # config.patch would take 30 us
            try:
                made(batch)
            except BaseException as error:
                if self.interrupted is None or error is self.interrupted:
                    raise
                raise self.interrupted from None  # compiled thoroughly, all that comes out is a RuntimeError
            finally:
                config.trace_autograd_ops, self.interrupted = before, None

        def take_in_pieces(batch: Tensor) -> None:
            with warnings.catch_warnings():
                # Between pieces the compiler looks at gradients that nobody asked for.
                warnings.filterwarnings(
                    "ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning
                )
                take(batch)

        self.compiled = take if whole else take_in_pieces

    def _in_place(self) -> list[Tensor]:
        """What steps change, beside parameters."""
        sums = [] if self.sums is None else [self.sums]
        return [
            self.refused,
            self.accepted,
            *self.values.values(),
            *self.buffers,
            *self.before,
            *sums,
        ]

    def _add(self, terms: Mapping[str, Tensor]) -> None:
        if self.sums is None:
            self.names = tuple(terms)
            self.sums = torch.zeros(len(terms), dtype=torch.float64, device=self.refused.device)
        if terms.keys() != set(self.names):
            raise SettingsError(
                f"{type(self.objective).__name__}: its terms were {', '.join(self.names)}, and are now {', '.join(terms)}; "
                "report the same at every step"
            )
        sums = torch.stack([terms[name].detach().sum(dtype=torch.float64) for name in self.names])
        self.sums += torch.where(self.refused, torch.zeros_like(sums), sums)


def _options(device: torch.device, profiled: bool, thoroughly: bool = False) -> dict[str, Any]:
    """The compiler's, for steps on this device."""
    more: dict[str, Any] = {"cpp.enable_kernel_profile": True} if profiled else {}
    if thoroughly and device.type == "cpu":
        more["cpp_wrapper"] = True
    if (
        device.type == "cuda"
    ):  # what mode="reduce-overhead" stands for, which goes with no other option
        more["triton.cudagraphs"] = True
    return more


def _copy(tensors: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    for tensor, copy in zip(tensors, copies, strict=True):
        copy.copy_(tensor)


def _norm(gradients: Sequence[Tensor | None]) -> Tensor:
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients if gradient is not None]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
    return norm


_NUMBERS = count()
_STEPS: WeakValueDictionary[int, TrainingStep] = WeakValueDictionary()


# Defined without torch's decorator for operations, which takes longer to call than a small optimiser to run.
torch.library.define(
    "lowerbound::update",
    "(Tensor(a!)[] parameters, Tensor?[] gradients, Tensor refused, SymInt step) -> ()",
    tags=(
        torch.Tag.cudagraph_unsafe,
    ),  # it counts steps, which a graph of the device's that is replayed would not
)


@torch.library.impl("lowerbound::update", "CompositeExplicitAutograd")
def _update_now(
    parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, step: int
) -> None:
    """The update within a compiled step, of which the compiler sees no more than that it changes the parameters.

    So any optimiser can be part of one graph, with its own fused kernels.
    """
    taken = _STEPS[step]
    try:
        taken.update(gradients, refused)
    except BaseException as error:
        taken.interrupted = error
        raise
    for given, own in zip(parameters, taken.parameters, strict=True):
        if (
            given.data_ptr() != own.data_ptr()
        ):  # a copy, which the compiler will put in the parameter's place
            given.copy_(own)


@torch.library.register_fake("lowerbound::update")  # type: ignore[untyped-decorator]
def _(parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, step: int) -> None:
    return None
