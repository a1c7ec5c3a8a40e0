"""Noise that belongs to examples, so that an evaluation does not depend on its batches.

A distribution of your own takes its noise from :func:`standard_normal` and :func:`uniform`. Torch's
own distributions, and others that draw by torch's functions, work as they are: see
:func:`for_foreign`.
"""

from lowerbound.runtime.noise.foreign import for_foreign
from lowerbound.runtime.noise.streams import (
    derived_seed,
    examples_axis,
    in_chunks,
    per_example,
    random_state,
    restore_random_state,
    standard_normal,
    uniform,
)

__all__ = [
    "derived_seed",
    "examples_axis",
    "for_foreign",
    "in_chunks",
    "per_example",
    "random_state",
    "restore_random_state",
    "standard_normal",
    "uniform",
]
