"""Checks of this library's results, which run on the user's machine.

Results are compared with closed forms, enumeration and other libraries.
"""

from importlib import import_module

from lowerbound.selftest.registry import CHECKS, Check, Outcome, check, run_checks, run_each

__all__ = ["CHECKS", "Check", "Outcome", "check", "run_checks", "run_each"]

# Each module registers its checks. They run in this order, because later checks build on earlier
# ones.
for _subject in (
    "noise",
    "densities",
    "correlated",
    "fields",
    "likelihoods",
    "tables",
    "bounds",
    "penalties",
    "gradients",
    "paths",
    "discrete",
    "structured",
    "supports",
    "joints",
    "evaluation",
    "gaps",
    "information",
    "intervals",
    "annealing",
    "weights",
    "training",
    "ascent",
):
    import_module(f"lowerbound.selftest.{_subject}")
