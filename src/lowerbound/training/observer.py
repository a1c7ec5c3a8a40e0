"""What watches a training, and what it may do between two steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from lowerbound.training.loop import Loop


class Observer:
    """Watches training. The loop calls all methods, which do nothing by default.

    To write your own: subclass, override the methods that you need, and pass an instance in
    ``observers`` of :func:`lowerbound.fit`. Compiled steps of a small model are a tenth faster if
    no observer of yours overrides :meth:`on_step` or :meth:`on_choice`, or if each that does has
    ``only_reads = True``.
    """

    only_reads: ClassVar[bool] = False
    """Whether :meth:`on_step` and :meth:`on_choice` change nothing of the model, the objective and
    the optimiser, and do not read the gradients of parameters."""

    def on_start(self, loop: Loop) -> None:
        """Before the first step."""

    def on_choice(self, loop: Loop, line: str) -> None:
        """After the choice of how steps run, or after a profile; ``line`` describes it."""

    def on_step(self, loop: Loop) -> None:
        """After a step."""

    def on_epoch(self, loop: Loop, record: dict[str, Any]) -> None:
        """After an epoch and its validation."""

    def on_interrupt(self, loop: Loop) -> None:
        """After an error or a signal ended the training, before the error is raised again."""

    def on_end(self, loop: Loop) -> None:
        """After the last epoch, with the weights that are kept."""


def may_interfere(observer: Observer) -> bool:
    """Whether an observer may change a training, or read gradients, between two steps."""
    if observer.only_reads:
        return False
    own = type(observer)
    return own.on_step is not Observer.on_step or own.on_choice is not Observer.on_choice
