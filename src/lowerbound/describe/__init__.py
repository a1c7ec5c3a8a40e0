"""Descriptions of the parts of a model, from which the parts are made again."""

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
