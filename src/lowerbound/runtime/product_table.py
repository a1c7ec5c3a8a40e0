"""A file with the fastest routine of each kind of matrix product, for later processes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


class ProductTable:
    """The routines that were the fastest on this machine, in the folder of the compiler's cache.

    The table keeps the choices of later processes the same, so that they find the compiled code of
    earlier ones. It depends on the version of torch, the processor and the number of threads. A
    file that cannot be read or written is ignored.

    Args:
        threads: the number of threads of the products.
    """

    def __init__(self, threads: int) -> None:
        machine = [torch.__version__, _name_processor(), torch.backends.cpu.get_cpu_capability()]
        text = json.dumps([*machine, threads])
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = _find_folder() / f"lowerbound-products-{name}.json"

    def read(self) -> dict[str, str]:
        """The names of the routines by the name of the product."""
        with suppress(OSError, ValueError):
            table: Any = json.loads(self.path.read_text(encoding="utf8"))
            if isinstance(table, dict) and all(isinstance(used, str) for used in table.values()):
                return table
        return {}

    def write(self, table: Mapping[str, str]) -> None:
        """Replace the file as a whole, so that other processes never read a part of it."""
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps(table, indent=1), encoding="utf8")
                os.replace(partial, self.path)
            finally:
                partial.unlink(missing_ok=True)


def _find_folder() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


def has_intel_processor() -> bool:
    """Whether the processor is Intel's, as far as the system says."""
    return _read_processor("vendor_id") == "GenuineIntel"


def _name_processor() -> str:
    return _read_processor("model name") or platform.processor() or platform.machine()


def _read_processor(field: str) -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return ""
