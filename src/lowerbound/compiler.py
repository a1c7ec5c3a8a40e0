"""torch's compiler: how it is asked, what its own failures are, and when it is worth its time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from lowerbound.errors import SettingsError

Choice = Literal["auto", "always", "never"]

# Seconds of uncompiled work still to do from which on the compiler is asked. It takes 10 to 30 seconds itself, for each
# precision, and saves a fifth to a half of the time.
WORTH_COMPILING = 90.0

# Random numbers are those of uncompiled work, and shapes are what they are. A hyperbolic tangent is 2 sigmoid(2x) - 1, which is
# off by a rounding of 1 at most, in a third of the time.
_ASKED: dict[str, Any] = {
    "dynamic": False,
    "options": {"fallback_random": True, "cpp.use_decompose_tanh": True},
    "isolate_recompiles": True,  # what else had compiled does not count
    "recompile_limit": 3,
}


def check_choice(name: str, choice: Any) -> None:
    """Refuse what is no :data:`Choice`.

    Raises:
        SettingsError: naming who was given it.
    """
    if choice not in get_args(Choice):
        raise SettingsError(f"{name}: compile={choice!r} must be one of {', '.join(get_args(Choice))}")


def asked(**options: Any) -> dict[str, Any]:
    """The arguments of ``torch.compile``, with these options of its code generator beside the usual ones."""
    return _ASKED | {"options": _ASKED["options"] | options}


def is_the_compilers(error: Exception) -> bool:
    """Whether the compiler failed: as it compiled, or because something that changes had it compile again and again."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    return isinstance(error, (TorchDynamoException, FailOnRecompileLimitHit, InvalidCxxCompiler))


def failure(error: Exception) -> str:
    """What the compiler says, in its first line."""
    return f"the compiler failed ({next(iter(str(error).splitlines()), type(error).__name__)})"


def place(error: Exception) -> str:
    """Where the compiler could not go on: the last line of code that its message names."""
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    return "{}, line {}".format("/".join(Path(places[-1][0]).parts[-2:]), places[-1][1]) if places else "the model"


def synchronize(device: torch.device) -> None:
    """Wait for a device, so that time can be told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
