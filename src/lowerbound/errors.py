"""Errors that a user can mend. Their messages say what is wrong, where, and how to mend it.

The command prints the message of such an error on one line and ends with exit code 2. Any other
exception is a bug in the library.
"""

from __future__ import annotations

from typing import Any


class LowerboundError(Exception):
    """The base of all errors that a user can mend.

    To write your own: subclass the nearest class below. The message names what is at fault (a file,
    row, argument or step), what was found there, and what to do.
    """


class DataError(LowerboundError, ValueError):
    """Data that cannot be read, or that a model cannot take.

    The message names the file or row, and what would be accepted.
    """


class ShapeError(LowerboundError, ValueError):
    """The shapes of two parts of a model, or of a model and its data, do not fit.

    The message names both shapes.
    """


class SettingsError(LowerboundError, ValueError):
    """An argument, flag or configuration entry that is unknown or out of range.

    The message names it and the allowed values.
    """


class UnsupportedError(LowerboundError, TypeError):
    """A combination that is not possible.

    An example is a pathwise gradient through a posterior that cannot be reparameterised.
    """


class StorageError(LowerboundError, OSError):
    """A run, checkpoint or model file that is missing, damaged or in the way.

    It is also raised for a model file that cannot be loaded without further arguments, such as a
    constructor.
    """


class LogJointError(LowerboundError):
    """A log joint density that the user wrote raised an error.

    The message names the error, and the variables with their shapes in the call.
    """


class NonFiniteError(LowerboundError, ArithmeticError):
    """The bound or a gradient became non-finite. The model still has its last finite weights.

    Attributes:
        step: the optimiser step, counted from 1, that would have used the value.
        term: the first quantity that was non-finite: ``"rate"``, ``"log_likelihood"``,
            ``"gradient"``, ...
        tensor: the tensor in which it was found, such as ``"likelihood.network.layers.0.weight"``.
    """

    def __init__(self, message: str, *, step: int, term: str, tensor: str) -> None:
        super().__init__(message)
        self.step = step
        self.term = term
        self.tensor = tensor


class TrainingInterrupted(KeyboardInterrupt):
    """A training that a signal such as Ctrl-C ended. The model has the best weights so far.

    It is not a :class:`LowerboundError`, since the user asked for it.

    Attributes:
        run: the :class:`lowerbound.Run` so far, with the model and the history of all complete
            epochs.
    """

    def __init__(self, message: str, *, run: Any) -> None:
        super().__init__(message)
        self.run = run


class TrainingWarning(UserWarning):
    """A training that is likely to give a worse model than the data allow.

    The bound is not above that of independent entries, or the units of the data make training slow.
    The message says what to do.
    """


class DoubtfulEstimateWarning(UserWarning):
    """An estimate is not to be trusted.

    The message says why, and what to do. The estimate has the same message as its ``warning``.
    """
