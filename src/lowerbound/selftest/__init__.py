"""Statements about this library's results, each measured on the machine where it runs.

They are compared with closed forms, enumeration and other libraries.
"""

from importlib import import_module

from lowerbound.selftest.registry import CHECKS, Check, Outcome, check, run_checks, run_each

__all__ = ["CHECKS", "Check", "Outcome", "check", "run_checks", "run_each"]

# In the order in which they run: later checks build on earlier ones.
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
