"""A log joint density of the user's own: what it is called with, and what is said where it fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.errors import LogJointError, LowerboundError, SettingsError, ShapeError

# Characters of an error that are told; torch's may hold all the data.
_LONGEST = 300


class OfAll(nn.Module):
    """A log joint of batches that holds all data: called with the variables alone.

    Args:
        log_joint: called with a batch and its factor first.
        x: all examples, ``[N, *event]``.
    """

    def __init__(self, log_joint: Callable[..., Tensor], x: Tensor) -> None:
        super().__init__()
        self.log_joint = (
            log_joint  # a part of this module if it is one itself, so that it is evaluated as such
        )
        self.x = x

    def forward(self, **values: Tensor) -> Tensor:
        """The log joint of all data."""
        return self.log_joint(self.x, 1.0, **values)


def refuse_other_arguments(
    log_joint: Callable[..., Tensor], names: Iterable[str], given: int
) -> None:
    """Refuse a log joint that takes other arguments than the variables, which would fail at every draw.

    Args:
        log_joint: the function.
        names: of the variables.
        given: how many arguments come before them.

    Raises:
        SettingsError: saying what it takes.
    """
    names = list(names)
    try:
        signature = inspect.signature(log_joint)
    except (TypeError, ValueError):
        return  # what is built in does not tell
    try:
        signature.bind(*[None] * given, **dict.fromkeys(names))
    except TypeError as error:
        batch = "a batch and its scale first, then " if given else ""
        raise SettingsError(
            f"LogJoint: the log joint is called with {batch}the variables {', '.join(names)} by name, but takes {signature}: {error}; "
            "give both the same names"
        ) from None


def called(
    log_joint: Callable[..., Tensor],
    given: tuple[Any, ...],
    values: dict[str, Tensor],
    *,
    vectorized: bool,
) -> Any:
    """What the log joint gives for some draws.

    Args:
        log_joint: the function.
        given: what comes before the variables: nothing, or a batch and its factor.
        values: the draws by name, ``[K, *shape]``.
        vectorized: whether it takes all of them at once.

    Raises:
        LogJointError: if it fails, with what it was called with.
    """

    def call() -> Any:
        if vectorized:
            return log_joint(*given, **values)
        return torch.vmap(lambda one: log_joint(*given, **one))(values)

    if torch.compiler.is_compiling():
        return call()
    try:
        return call()
    except (LowerboundError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise _told(error, given, values) from error


def refuse_mixed_draws(log_joint: Callable[[Tensor], Tensor], u: Tensor) -> None:
    """Refuse a log joint that gives a draw another value beside other draws than alone, as one does that sums over the draws too.

    Args:
        log_joint: of points ``[K, J]``, ``[K]``. One that is random, such as a bound of its own draws, cannot be told.
        u: some points.

    Raises:
        ShapeError: saying so.
    """
    together, again = log_joint(u), log_joint(u)
    if not torch.equal(together, again) or not bool(together.isfinite().all()):
        return
    alone = torch.cat([log_joint(one) for one in u.split(1)])
    if not torch.allclose(alone, together, rtol=1e-3, atol=1e-3):
        raise ShapeError(
            f"LogJoint: the log joint of a draw is {float(together[0]):.6g} beside {len(u) - 1} others, but {float(alone[0]):.6g} alone, so it mixes draws. "
            "Likely cause: a sum or mean over all dimensions; keep the first one: .sum(-1), not .sum()"
        )


def explain_values(values: Mapping[str, Tensor]) -> tuple[str, str]:
    """The cause and the remedy for a log joint that is not finite at some values, ``[1, *shape]``."""
    shown = ", ".join(f"{name} = {_shorten(value[0])}" for name, value in values.items())
    remedy = (
        "look at it there; give variables the supports they have (lb.Variable); begin with "
        "model.start(), or take a smaller learning_rate"
    )
    return f"it has no finite value at {shown}", remedy


def _shorten(value: Tensor) -> str:
    """The first entries of a value."""
    entries = [f"{entry:.4g}" for entry in value.flatten()[:4].tolist()]
    if value.dim() == 0:
        return entries[0]
    if value.numel() > len(entries):
        entries.append("...")
    return f"[{', '.join(entries)}]"


def _told(error: Exception, given: tuple[Any, ...], values: dict[str, Tensor]) -> LogJointError:
    """What the log joint's own error says, with what it was called with."""
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
    batch = f"a batch {tuple(given[0].shape)}, " if given else ""
    reason = " ".join(str(error).split())
    reason = reason if len(reason) <= _LONGEST else f"{reason[:_LONGEST]} ..."
    some = next(iter(values.values()))
    remedy = "draws are the first dimension of each; write it for one draw and pass vectorized=False if that is simpler"
    if "support" in reason or "constraint" in reason:
        remedy = (
            "a variable, or the data, has values that this distribution does not allow: give the variable its support, such as "
            "lb.Variable((), constraints.positive), or mend the data"
        )
    elif "same device" in reason:
        remedy = f"the posterior is on {some.device}: move the data that the log joint uses there, or fit with device='cpu'"
    elif "dtype" in reason or "same type" in reason:
        remedy = f"the posterior is of {some.dtype}: make the data that the log joint uses of that type, or call model.double()"
    return LogJointError(
        f"LogJoint: the log joint, called with {batch}{shapes}, failed: {reason}. Likely remedy: {remedy}"
    )
