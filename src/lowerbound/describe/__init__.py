"""Parts of a model that can say how they were made, and how they are made again from that."""

from lowerbound.describe.graph import (
    KINDS,
    build,
    completed,
    describable,
    describe,
    foreign_parts,
    has_references,
)

__all__ = [
    "KINDS",
    "build",
    "completed",
    "describable",
    "describe",
    "foreign_parts",
    "has_references",
]
