"""Descriptions of a model's parts, from which the parts can be rebuilt."""

from lowerbound.describe.graph import (
    KINDS,
    build,
    complete,
    describable,
    describe,
    find_foreign_parts,
    has_references,
)

__all__ = [
    "KINDS",
    "build",
    "complete",
    "describable",
    "describe",
    "find_foreign_parts",
    "has_references",
]
