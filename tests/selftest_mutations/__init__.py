"""The mutations that show that each check of ``lowerbound selftest`` can fail.

A mutation is a function of pytest's ``monkeypatch`` that breaks the library, with the names of the
checks that must then fail. The modules of this package register them by subject.
"""

from importlib import import_module

MUTATIONS = {}


def breaks(*checks: str):
    """Decorator: register a function that breaks the library, and the checks that must then fail.

    The function's name says what is wrong in the broken library.
    """

    def register(function):
        MUTATIONS[function.__name__] = (function, checks)
        return function

    return register


for _subject in (
    "densities",
    "objectives",
    "parts",
    "tables",
    "paths",
    "data",
    "joints",
    "evaluation",
    "judgements",
    "training",
):
    import_module(f"{__name__}.{_subject}")
