"""The learning rates of an optimiser's groups, which follow one schedule."""

from __future__ import annotations

from collections.abc import Callable

from torch.optim import Optimizer


class LearningRates:
    """Sets each group's learning rate to its own rate times a factor.

    Args:
        optimizer: the optimiser, each of whose groups has a rate of its own.
        schedule: gives the factor at a step, counted from 0.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[int], float]) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self.own = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int, factor: float) -> None:
        """Set the rates of a step; ``factor`` multiplies that of the schedule."""
        self._multiply(self.schedule(step) * factor)

    def restore(self) -> None:
        """Restore the optimiser's own rates."""
        self._multiply(1.0)

    def compute_model_rate(self, step: int, factor: float) -> float:
        """Compute the model's rate at a step. The model is the first group."""
        rate: float = self.own[0] * (self.schedule(step) * factor)
        return rate

    def _multiply(self, factor: float) -> None:
        for group, own in zip(self.optimizer.param_groups, self.own, strict=True):
            group["lr"] = own * factor
