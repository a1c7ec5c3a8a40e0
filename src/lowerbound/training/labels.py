"""Names for those parts of a step that a profile cannot tell from their operations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

DATA = "lowerbound::data"
UPDATE = "lowerbound::update"


def labelled(name: str) -> AbstractContextManager[Any]:
    """Within the block, a running profiler counts all operations as part ``name`` of the step."""
    if torch.compiler.is_compiling() or not torch._C._autograd._profiler_enabled():
        return nullcontext()
    return torch.profiler.record_function(name)
