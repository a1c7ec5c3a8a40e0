"""torch's compiler: how it is asked, what its own failures are, and when it is worth its time."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Literal, get_args

import torch
from torch.distributions import Distribution

from lowerbound.errors import SettingsError

Choice = Literal["auto", "always", "never"]

# Seconds of uncompiled work still to do from which on the compiler is asked. It takes 5 to 30 seconds itself, and saves a fifth to a
# half of the time.
WORTH_COMPILING = 90.0

# Random numbers are those of uncompiled work, and shapes are what they are. A hyperbolic tangent is 2 sigmoid(2x) - 1, which is
# off by a rounding of 1 at most, in a third of the time.
_ASKED: dict[str, Any] = {
    "dynamic": False,
    "options": {"fallback_random": True, "cpp.use_decompose_tanh": True},
    "isolate_recompiles": True,  # what else had compiled does not count, in the parts of what is compiled in pieces either
    "recompile_limit": 3,
}


def check_choice(name: str, choice: Any) -> None:
    """Refuse what is no :data:`Choice`.

    Raises:
        SettingsError: naming who was given it.
    """
    if choice not in get_args(Choice):
        raise SettingsError(
            f"{name}: compile={choice!r} must be one of {', '.join(get_args(Choice))}"
        )


def compiled(
    function: Callable[..., Any], *, whole: bool = True, **options: Any
) -> Callable[..., Any]:
    """What the compiler makes of a function when it is first called.

    Distributions do not check what they are given within it, for a graph cannot raise errors; the compiler would have it so in
    all of the process from then on.

    Args:
        function: of tensors.
        whole: as one graph; the compiler fails where something keeps it from that. Else in pieces.
        options: of the compiler's code generator, beside the usual ones.
    """
    asked = _ASKED | {"options": _ASKED["options"] | options}
    checks = Distribution._validate_args
    try:
        made = torch.compile(_apart(function), fullgraph=whole, **asked)
    finally:
        Distribution._validate_args = checks

    def unchecked(*given: Any) -> Any:
        checks, Distribution._validate_args = Distribution._validate_args, False
        try:
            return made(*given)
        finally:
            Distribution._validate_args = checks

    return unchecked


def _apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with code of its own, to which the compiler ties what it makes: that goes when the function goes.

    So a program may compile any number of them, of which the compiler's limits count each for itself.
    """
    from torch._C._dynamo.eval_frame import reset_code

    plain: Any = getattr(function, "__func__", function)
    own = FunctionType(
        plain.__code__.replace(),
        plain.__globals__,
        plain.__name__,
        plain.__defaults__,
        plain.__closure__,
    )
    weakref.finalize(own, reset_code, own.__code__)
    bound = getattr(function, "__self__", None)
    return own if bound is None else MethodType(own, bound)


def is_the_compilers(error: Exception) -> bool:
    """Whether the compiler failed: as it compiled, or because something that changes had it compile again and again."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    return isinstance(error, (TorchDynamoException, FailOnRecompileLimitHit, InvalidCxxCompiler))


def failure(error: Exception) -> str:
    """That the compiler failed, and why: what it says in its first line, and where it could not go on."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, Unsupported

    reason = next(iter(str(error).splitlines()), type(error).__name__)
    if isinstance(error, FailOnRecompileLimitHit):
        reason = "something in the model changes from call to call"
    elif isinstance(error, Unsupported):
        reason += f" in {place(error)}"
    return f"the compiler failed ({reason})"


def place(error: Exception) -> str:
    """Where the compiler could not go on: the last line of code that its message names."""
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    return (
        "{}, line {}".format("/".join(Path(places[-1][0]).parts[-2:]), places[-1][1])
        if places
        else "the model"
    )
