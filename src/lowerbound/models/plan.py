"""The requirements of a model on its own training."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.data.examples import Examples


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """What is special about the training of a model on some data; see :meth:`Model.training_plan`.

    Args:
        examples: The examples of an epoch.
        learning_rate: The default of the learning rate.
        batch_size: The batch size, if the model allows only one.
        why_no_batch_size: Why no other batch size can be chosen, for the error message.
        why_no_validation: Why the model cannot be validated, for the error message; ``None`` if it
            can.
        needs_linear_objective: Whether a batch replaces all data, so that only a bound that is
            linear in log weights has the right mean over batches.
        stays_on_device: Whether the model stays where it is if the user names no device, because
            data that it stores would not move with it.
        shown: The terms of the bound that the display shows: a label, the term, and its sign.
    """

    examples: Examples
    learning_rate: float = 1e-3
    batch_size: int | None = None
    why_no_batch_size: str = ""
    why_no_validation: str | None = None
    needs_linear_objective: bool = False
    stays_on_device: bool = False
    shown: tuple[tuple[str, str, int], ...] = (("rate", "rate", 1), ("distortion", "distortion", 1))
