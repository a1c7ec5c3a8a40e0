"""What a model requires of its own training."""

from __future__ import annotations

from dataclasses import dataclass

from lowerbound.data.examples import Examples


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """How a model is trained on some data; see :meth:`Model.training_plan`.

    Args:
        examples: The examples of an epoch.
        learning_rate: The default learning rate.
        batch_size: The batch size, if the model allows only one.
        why_no_batch_size: Why no other batch size can be chosen, for the error message.
        why_no_validation: Why the model cannot be validated, for the error message; ``None`` if it
            can.
        needs_linear_objective: Whether a batch stands for all data. Then the mean over batches is
            right only for a bound that is linear in log weights.
        stays_on_device: Whether the model keeps its device if the user names none, because the data
            that it stores would not move with it.
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
