"""What a training leaves: a model, a history, a directory; and how to load it again."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.storage import file_of, load_model
from lowerbound.training.record import RunDirectory


@dataclass(frozen=True, eq=False)
class Run:
    """A training that has ended.

    Args:
        model: with the weights that were kept, in evaluation mode.
        objective: what was maximised.
        history: a record for each epoch, as in ``metrics.jsonl``.
        directory: of the run's files, or ``None``.
        best_epoch: the epoch whose weights were kept where there was validation, or at which the window of averaged weights ended that were
            kept where there was a tolerance, else 0.
        stopped_early: whether early stopping ended it.
        unfinished: a line for each schedule of the objective that had not come to its end, and for a training that had not settled.
        settled: whether it stopped by itself, see ``tolerance`` of :func:`lowerbound.fit`.
    """

    model: Model
    objective: Objective
    history: list[dict[str, Any]]
    directory: Path | None
    best_epoch: int
    stopped_early: bool
    unfinished: tuple[str, ...] = ()
    settled: bool = False

    def __repr__(self) -> str:
        last = self.history[-1]
        bounds = ", ".join(f"{part} {last[part]['bound']:.2f}" for part in ("train", "validation") if part in last)
        where = f", directory={str(self.directory)!r}" if self.directory else ""
        return f"Run(epochs={last['epoch']}, steps={last['step']}, bound: {bounds} nats{where})" + "".join(
            f"\n{line}" for line in self.unfinished
        )


def load(path: str | os.PathLike[str], constructor: Callable[[], nn.Module] | nn.Module | None = None) -> Any:
    """The model of a run's directory, or of a file that :func:`lowerbound.save` wrote: in evaluation mode, on the CPU.

    Of a run with validation it is the one with the best validation bound, else the newest.

    Args:
        path: of the directory or the file.
        constructor: makes the untrained model, or is it; needed only where it holds a network of your own.

    Raises:
        StorageError: if nothing is there, a file is damaged, or a constructor is needed.

    Example:
        >>> import tempfile, lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (2, 8, 8)))
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = lb.fit(vae, lb.ELBO(), digits.train, epochs=1, directory=f"{folder}/run", progress=False)
        ...     again = lb.load(f"{folder}/run")
        >>> bool((again.encode(digits.test) == vae.encode(digits.test)).all())
        True
    """
    path = Path(path)
    if not path.exists():
        path = file_of(path)
    if not path.is_dir():
        return load_model(path, constructor)
    run = RunDirectory(path)
    failure = run.failure()
    if failure is not None:
        warnings.warn(f"{path}: this training failed, so its model may be worthless: {failure}", stacklevel=2)
    return load_model(run.model_file(), constructor)
