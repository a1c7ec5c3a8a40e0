"""Statements about the numbers of this library, each measured where it runs: closed forms, enumeration, other libraries."""

from importlib import import_module

from lowerbound.selftest.registry import CHECKS, Check, Outcome, check, outcomes, run_checks

__all__ = ["CHECKS", "Check", "Outcome", "check", "outcomes", "run_checks"]

# In the order in which they run: what comes first is what the rest is made of.
for _subject in (
    "densities",
    "bounds",
    "gradients",
    "discrete",
    "evaluation",
    "annealing",
    "training",
):
    import_module(f"lowerbound.selftest.{_subject}")
