"""What can go wrong by the user's hand, each with a message that says what, where, and how to mend it.

Every error here is the user's to mend, so the command prints its message on one line and ends with exit code 2.
Anything else that escapes is a fault of the library.
"""

from __future__ import annotations


class LowerboundError(Exception):
    """The base of all errors that a user can mend.

    To write your own: subclass the nearest class below, and let the message name the thing at fault (file, row,
    argument, step), what was found there, and what to do.
    """


class DataError(LowerboundError, ValueError):
    """Data that cannot be read, or that a model cannot take: names the file or row, and what would be accepted."""


class ShapeError(LowerboundError, ValueError):
    """Two parts of a model, or a model and its data, do not fit: names both shapes."""


class SettingsError(LowerboundError, ValueError):
    """An argument, flag or configuration entry that is unknown or out of range: names it and what is allowed."""


class UnsupportedError(LowerboundError, TypeError):
    """A combination that has no meaning, such as a pathwise gradient through a posterior that cannot be reparameterised."""


class StorageError(LowerboundError, OSError):
    """A run, checkpoint or model file that is missing, damaged, in the way, or not loadable without help."""


class LogJointError(LowerboundError):
    """A log joint density of the user's own raised an error: names it, and the variables with the shapes that it was called with."""


class NonFiniteError(LowerboundError, ArithmeticError):
    """The bound or a gradient stopped being a number; the model still has its last finite parameters.

    Attributes:
        step: the optimiser step, counted from 1, that would have used the value.
        term: the first quantity that was not finite: ``"rate"``, ``"log_likelihood"``, ``"gradient"``, ...
        tensor: the tensor in which it was found, such as ``"likelihood.network.layers.0.weight"``.
    """

    def __init__(self, message: str, *, step: int, term: str, tensor: str) -> None:
        super().__init__(message)
        self.step = step
        self.term = term
        self.tensor = tensor
