"""What a profile calls those parts of a step that cannot be told by their operations."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

DATA = "lowerbound::data"
UPDATE = "lowerbound::update"


def labelled(name: str) -> AbstractContextManager[Any]:
    """Within the block, a profile that is being made attributes operations to this part."""
    if torch.compiler.is_compiling() or not torch._C._autograd._profiler_enabled():
        return nullcontext()
    return torch.profiler.record_function(name)
