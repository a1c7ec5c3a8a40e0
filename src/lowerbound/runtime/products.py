"""Which library multiplies the matrices of compiled code: torch's own, or oneDNN.

torch multiplies float32 matrices on a CPU with the library that it was built with, usually MKL.
torch contains oneDNN too, which takes half of MKL's time on processors whose widest instructions
MKL does not use. A trial of 20 to 50 milliseconds shows which one is faster on this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor

Library = Literal["torch", "oneDNN"]

# The size of the trial's matrices, and the number of turns. oneDNN is used only if its shortest
# time is at most this share of the shortest time of torch's own library.
_SIZE, _TURNS, _WORTH_A_CHANGE = 384, 10, 0.85


def has_onednn() -> bool:
    """Whether this version of torch can multiply with oneDNN, and the user allows it."""
    mkldnn = torch.backends.mkldnn
    return (
        mkldnn.is_available()
        and bool(mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def choose_library(device: torch.device) -> Library:
    """Choose the library that multiplies matrices in code that is compiled for a device."""
    if device.type != "cpu" or not has_onednn():
        return "torch"
    return _find_faster_library()


@cache
def _find_faster_library() -> Library:
    """Multiply two matrices with each library in turns; the answer is kept for the process."""
    a, b = (torch.ones(_SIZE, _SIZE, dtype=torch.float32) for _ in range(2))
    with torch.no_grad():
        return _compare(
            lambda: torch.mm(a, b),
            lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""),
        )


def _compare(multiply: Callable[[], Tensor], multiply_otherwise: Callable[[], Tensor]) -> Library:
    multiply(), multiply_otherwise()
    times = [(_time(multiply), _time(multiply_otherwise)) for _ in range(_TURNS)]
    seconds, other_seconds = map(min, zip(*times, strict=True))
    if other_seconds <= _WORTH_A_CHANGE * seconds and knows_compiler():
        return "oneDNN"
    return "torch"


def knows_compiler() -> bool:
    """Whether this version of torch's compiler has the parts that the product pass uses."""
    try:
        import_module("lowerbound.runtime.product_pass")
    except (ImportError, AttributeError):
        return False
    return True


def _time(work: Callable[[], Tensor]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def make_product_options(library: Library) -> dict[str, Any]:
    """Make the options of the code generator for code that multiplies with a library."""
    if library == "torch":
        return {}
    from lowerbound.runtime.product_pass import ProductPass  # imports much of the compiler

    return {"post_grad_custom_pre_pass": ProductPass()}
