"""Which library multiplies the matrices of compiled code: torch's own, or oneDNN.

torch multiplies float32 matrices on a CPU with the library that it was built with, usually MKL.
torch contains oneDNN too. Which of them is faster depends on the processor, and on the shape and
the memory layout of the matrices, often by a factor of two. So each kind of product is timed with
both, in a few turns. The results are kept beside the compiler's cache.
"""

from __future__ import annotations

import heapq
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lowerbound.runtime.compiled_before import find_cache_folder
from lowerbound.runtime.product_kinds import Product, noticing_products

Result = TypeVar("Result")

# A trial ends when the two shortest times of each library differ by at most this share, after a
# number of turns within these limits, or with the turn in which this many seconds have passed.
# oneDNN is used if its shortest time is at most this share of that of torch's own library.
_AGREEMENT, _FEWEST_TURNS, _MOST_TURNS, _MOST_SECONDS = 0.03, 4, 20, 1.0
_WORTH_A_CHANGE = 0.95


def has_onednn() -> bool:
    """Whether this version of torch can multiply with oneDNN, and the user allows it."""
    mkldnn = torch.backends.mkldnn
    return (
        mkldnn.is_available()
        and bool(mkldnn.enabled)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def can_use_onednn() -> bool:
    """Whether compiled code can multiply with oneDNN.

    This version of torch's compiler must have the parts that the product pass uses.
    """
    if not has_onednn():
        return False
    try:
        import_module("lowerbound.runtime.product_pass")
    except (ImportError, AttributeError):
        return False
    return True


class ProductChoice:
    """The choice of the products that oneDNN computes in some compiled work.

    The first uncompiled piece of the work shows which kinds of products there are.

    Args:
        device: of the work.
    """

    def __init__(self, device: torch.device) -> None:
        self.kinds: set[Product] | None = None if device.type == "cpu" else set()
        self.made: list[str] | None = None
        """The choice; ``None`` before it."""

    def run(self, work: Callable[[], Result]) -> Result:
        """Do a piece of work, uncompiled, and notice its products if it is the first."""
        if self.kinds is not None or not has_onednn():
            return work()
        with noticing_products() as kinds:
            result = work()
        self.kinds = kinds
        return result

    def make(self) -> list[str]:
        """The names of the products that oneDNN computes, in alphabetical order.

        When this is called first, those kinds are timed that were not timed on this machine before,
        on as many threads as torch uses.
        """
        if self.made is None:
            self.made = _choose(self.kinds or set())
        return self.made

    def resume(self, names: Iterable[str]) -> None:
        """Repeat the choice of an earlier process, if this version of torch has the means."""
        names = list(names)
        self.made = names if not names or can_use_onednn() else []


def _choose(kinds: set[Product]) -> list[str]:
    """Choose the kinds for which oneDNN is faster."""
    if not kinds or not has_onednn():
        return []
    shares = _read_shares()
    new = {str(kind): _time_share(kind) for kind in sorted(kinds) if str(kind) not in shares}
    if new:
        # Another process may have kept its results meanwhile. Then those count, so that both
        # processes and later ones choose alike.
        shares |= new | _read_shares()
        _keep_shares(shares)
    names = sorted(str(kind) for kind in kinds if shares[str(kind)] <= _WORTH_A_CHANGE)
    return names if not names or can_use_onednn() else []


def make_product_options(onednn_products: Iterable[str]) -> dict[str, Any]:
    """Make the options of the code generator that let oneDNN compute these kinds of products."""
    names = tuple(onednn_products)
    if not names:
        return {}
    from lowerbound.runtime.product_pass import ProductPass  # imports much of the compiler

    return {"post_grad_custom_pre_pass": ProductPass(names)}


def _time_share(kind: Product) -> float:
    """The shortest time of oneDNN divided by that of torch's own library, in alternate turns.

    oneDNN is given a contiguous ``a``. In compiled steps the copy of a transposed one was found to
    cost little, compared with a copy by itself.
    """
    a, b = kind.make_matrices()
    contiguous = a.contiguous()
    with torch.no_grad():
        times: list[list[float]] = [[], []]
        end = time.perf_counter() + _MOST_SECONDS
        torch.mm(a, b), _multiply_with_onednn(contiguous, b)
        for turn in range(_MOST_TURNS):
            times[0].append(_time(torch.mm, a, b))
            times[1].append(_time(_multiply_with_onednn, contiguous, b))
            is_clear = turn + 1 >= _FEWEST_TURNS and all(map(_agree, times))
            if is_clear or time.perf_counter() > end:
                break
    return min(times[1]) / min(times[0])


def _agree(times: list[float]) -> bool:
    """Whether the two shortest times are nearly equal, so other programs did not add to them."""
    first, second = heapq.nsmallest(2, times)
    return second <= (1 + _AGREEMENT) * first


def _multiply_with_onednn(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


def _time(multiply: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    began = time.perf_counter()
    multiply(a, b)
    return time.perf_counter() - began


def _read_shares() -> dict[str, float]:
    """Read the results of earlier trials on this machine."""
    with suppress(OSError, ValueError, TypeError):
        read = json.loads(_find_file().read_text(encoding="utf8"))
        return {name: float(share) for name, share in dict(read).items()}
    return {}


def _keep_shares(shares: Mapping[str, float]) -> None:
    """Keep the results of trials. If that fails, later processes make their own."""
    file = _find_file()
    unfinished = file.with_suffix(f".{os.getpid()}")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(shares, indent=1) + "\n", encoding="utf8")
        unfinished.replace(file)


def _find_file() -> Path:
    """The file of results for this processor, version of torch and number of threads."""
    processor = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
        processor = next((line for line in lines if line.startswith("model name")), processor)
    machine = f"{processor} {platform.machine()} {torch.get_num_threads()} {torch.__version__}"
    return find_cache_folder() / f"products-{sha256(machine.encode()).hexdigest()[:16]}.json"
