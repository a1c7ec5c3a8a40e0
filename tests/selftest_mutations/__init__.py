"""The mutations by which the checks of ``lowerbound selftest`` prove that they can fail.

A mutation is a function of pytest's ``monkeypatch`` that breaks the library, with the names of the
checks that must then fail. The modules of this package register them by subject.
"""

from importlib import import_module

MUTATIONS = {}


def breaks(*red: str):
    """Decorator: a function that breaks the library, and the checks that must then fail."""

    def register(function):
        MUTATIONS[function.__name__] = (function, red)
        return function

    return register


for _subject in (
    "densities",
    "objectives",
    "paths",
    "data",
    "joints",
    "evaluation",
    "judgements",
    "training",
):
    import_module(f"{__name__}.{_subject}")
