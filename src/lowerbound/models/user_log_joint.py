"""A log joint density that a user wrote: its arguments, its call, and its errors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.errors import LogJointError, LowerboundError, SettingsError, ShapeError

# A message repeats at most this many characters of an error, because torch's may show all data.
_MOST_CHARACTERS = 300

# The errors of a log joint that are explained to the user.
_EXPLAINED_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)

# A log joint of batches gets at most this many examples at once. If there are more, they are in
# float64, because a sum of a million terms in float32 is off by a tenth of a nat.
_MOST_EXAMPLES = 4096


class FullDataLogJoint(nn.Module):
    """A log joint of batches that is always given all of the data; its arguments are the variables.

    Args:
        log_joint: takes a batch and its scale first.
        x: all examples, ``[N, *event]``.
    """

    def __init__(self, log_joint: Callable[..., Tensor], x: Tensor) -> None:
        super().__init__()
        self.log_joint = log_joint  # if it is a module, its mode follows that of this one
        self.x = x
        # Whether it takes float64, or None until the first call without an error has shown it.
        self.takes_float64: bool | None = None
        if x.device.type == "mps":  # Apple's GPUs have no float64
            self.takes_float64 = False

    def forward(self, **values: Tensor) -> Tensor:
        """The log joint for all data, in float64 if there are many and the function takes it.

        The first call without an error decides on the type, so that all values have the same
        precision.
        """
        if len(self.x) <= _MOST_EXAMPLES:
            return self.log_joint(self.x, 1.0, **values)
        if self.takes_float64 is False or torch.compiler.is_compiling():
            return self._add_parts(values, self.x.dtype)
        try:
            precise = {name: value.double() for name, value in values.items()}
            total = self._add_parts(precise, torch.float64)
        except _EXPLAINED_ERRORS:
            if self.takes_float64:
                raise
            # It may have tensors of another type. If it fails at these values in any type, the
            # error is that of the type in which it was trained.
            total = self._add_parts(values, self.x.dtype)
            self.takes_float64 = False
            return total
        self.takes_float64 = True
        return total

    def _add_parts(self, values: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
        """Add the log joint up from batches.

        A batch of B of N examples, scaled by N / B, gives the log prior plus N / B times the log
        likelihood of the batch. The mean of these values with the weights B / N is the log joint.
        """
        count = len(self.x)
        shares = [
            self.log_joint(part.to(dtype), count / len(part), **values) * (len(part) / count)
            for part in self.x.split(_MOST_EXAMPLES)
        ]
        return torch.stack(shares).sum(0)


def check_arguments(log_joint: Callable[..., Tensor], names: Iterable[str], before: int) -> None:
    """Check that a log joint takes the variables by name.

    Args:
        log_joint: the function.
        names: of the variables.
        before: the number of arguments that come before them.

    Raises:
        SettingsError: naming its arguments.
    """
    names = list(names)
    try:
        signature = inspect.signature(log_joint)
    except (TypeError, ValueError):
        return  # a built-in function may have no signature
    try:
        signature.bind(*[None] * before, **dict.fromkeys(names))
    except TypeError as error:
        batch = "a batch and its scale first, then " if before else ""
        raise SettingsError(
            f"LogJoint: the log joint is called with {batch}the variables {', '.join(names)} by "
            f"name, but it takes {signature}: {error}; use the same names in both"
        ) from None


def call_log_joint(
    log_joint: Callable[..., Tensor],
    batch: tuple[Any, ...],
    values: dict[str, Tensor],
    *,
    vectorized: bool,
) -> Any:
    """The value of the log joint for some draws.

    Args:
        log_joint: the function.
        batch: the arguments before the variables: none, or a batch and its scale.
        values: the draws by name, ``[K, *shape]``.
        vectorized: whether it takes all draws at once.

    Raises:
        LogJointError: if it fails, naming its arguments.
    """

    def call() -> Any:
        if vectorized:
            return log_joint(*batch, **values)
        return torch.vmap(lambda one: log_joint(*batch, **one))(values)

    if torch.compiler.is_compiling():
        return call()
    try:
        return call()
    except (LowerboundError, torch.OutOfMemoryError):
        raise
    except _EXPLAINED_ERRORS as error:
        raise _explain_error(error, batch, values) from error


def check_draws_are_apart(log_joint: Callable[[Tensor], Tensor], u: Tensor) -> None:
    """Check that the log joint of a draw is the same with and without other draws.

    They differ if the log joint sums over the draws by mistake. A random log joint, such as a bound
    from draws of its own, cannot be checked.

    Args:
        log_joint: of points ``[K, J]``, ``[K]``.
        u: the points.

    Raises:
        ShapeError: if it mixes draws.
    """
    together, again = log_joint(u), log_joint(u)
    if not torch.equal(together, again) or not bool(together.isfinite().all()):
        return
    alone = torch.cat([log_joint(one) for one in u.split(1)])
    if not torch.allclose(alone, together, rtol=1e-3, atol=1e-3):
        raise ShapeError(
            f"LogJoint: the log joint of a draw is {float(together[0]):.6g} with {len(u) - 1} "
            f"other draws, but {float(alone[0]):.6g} alone, so it mixes draws. Likely cause: a "
            "sum or mean over all dimensions; keep the first one: .sum(-1), not .sum()"
        )


def check_gradient(z: Tensor, log_joint: Tensor) -> None:
    """Check that a log joint has a gradient if its variables have one.

    Raises:
        SettingsError: if it has none.
    """
    if z.requires_grad and not log_joint.requires_grad:
        raise SettingsError(
            "fit: the log joint has no gradient with respect to its variables, so the posterior "
            "cannot learn. Compute it from them with torch, without numpy and .detach(). If it "
            "rounds a variable to whole numbers, sum that variable out: return torch.logsumexp of "
            "the log joints of all its values. Else take lb.ELBO(samples=K, "
            "gradient='score-function')"
        )


def check_value(value: Any, draws: int) -> None:
    """Check that a log joint returned one value for each draw.

    Raises:
        ShapeError: saying what it gave.
    """
    found = type(value).__name__
    if isinstance(value, Tensor):
        if value.shape == (draws,):
            return
        found = f"the shape {tuple(value.shape)}"
    raise ShapeError(
        f"LogJoint: the log joint gave {found} for {draws} draws, but must give ({draws},), "
        "one value for each draw. Its arguments have the draws as first dimension; sum over all "
        "others, or write it for one draw and pass vectorized=False"
    )


def advise_steps(*, is_started: bool) -> str:
    """The advice to take smaller steps, and to call ``start()`` if that was not done."""
    if is_started:
        return "take a smaller learning_rate"
    return "call model.start() before training, or take a smaller learning_rate"


def explain_values(values: Mapping[str, Tensor], *, is_started: bool) -> tuple[str, str]:
    """The cause and the remedy if a log joint is not finite at some values, ``[1, *shape]``."""
    shown = ", ".join(f"{name} = {_shorten(value[0])}" for name, value in values.items())
    remedy = (
        "check it there; give the variables their supports (lb.Variable); "
        f"{advise_steps(is_started=is_started)}"
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


def _explain_error(
    error: Exception, batch: tuple[Any, ...], values: dict[str, Tensor]
) -> LogJointError:
    """Explain the log joint's own error by the shapes of its arguments, and give a remedy."""
    shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
    if batch:
        shapes = f"a batch {tuple(batch[0].shape)}, {shapes}"
    reason = " ".join(str(error).split())
    if len(reason) > _MOST_CHARACTERS:
        reason = f"{reason[:_MOST_CHARACTERS]} ..."
    return LogJointError(
        f"LogJoint: the log joint, called with {shapes}, failed: {reason}. Likely remedy: "
        f"{_find_remedy(reason, next(iter(values.values())))}"
    )


def _find_remedy(reason: str, value: Tensor) -> str:
    if "support" in reason or "constraint" in reason:
        return (
            "a variable, or the data, has values that this distribution does not allow: give the "
            "variable its support, such as lb.Variable((), constraints.positive), or correct the "
            "data"
        )
    if "same device" in reason:
        return (
            f"the posterior is on {value.device}: move the data that the log joint uses there, or "
            "fit with device='cpu'"
        )
    if "dtype" in reason or "same type" in reason:
        return (
            f"the posterior is of {value.dtype}: make the data that the log joint uses of that "
            "type, or call model.double()"
        )
    return (
        "draws are the first dimension of each; write it for one draw and pass vectorized=False if "
        "that is simpler"
    )
