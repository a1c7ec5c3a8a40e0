"""Descriptions of the parts of a model, from which the parts are made again."""

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
