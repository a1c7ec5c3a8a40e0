"""Puts a mutation into the library that this process has imported.

The functions of the mutated file get new code, and the constants of its module new values. Both
happen in place, so that everything that holds a function or has imported a constant sees the
mutation. It takes milliseconds, where importing the library and collecting its tests anew would
take seconds.
"""

from __future__ import annotations

import ast
import gc
import importlib
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

from mutation import SOURCE, Mutation

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class UnsuitableMutationError(ValueError):
    """What the mutation changes is neither in a function nor a constant of the module."""


def check(mutation: Mutation) -> None:
    """Check that a mutation can be put in.

    Raises:
        UnsuitableMutationError: if it cannot.
    """
    _find_changed_constants(*_read(mutation), mutation)


def list_functions() -> list[FunctionType]:
    """List all functions of the library that this process has imported."""
    return [
        value
        for value in gc.get_objects()
        if type(value) is FunctionType and value.__code__.co_filename.startswith(str(SOURCE))
    ]


def put_in(mutation: Mutation, functions: Iterable[FunctionType]) -> None:
    """Put a mutation into the imported library; for a process that then runs tests and ends.

    Raises:
        RuntimeError: if nothing has changed.

    Args:
        mutation: the mutation.
        functions: all functions of the library.
    """
    old, new = _read(mutation)
    name = "lowerbound." + mutation.file.removesuffix(".py").replace("/", ".")
    module = importlib.import_module(name.removesuffix(".__init__"))
    codes = dict(_pair(_compile(old, module), _compile(new, module)))
    changed = 0
    for function in functions:
        before = function.__code__
        if before in codes:
            function.__code__ = codes[before]
            changed += before.co_code != function.__code__.co_code
            changed += before.co_consts != function.__code__.co_consts
            changed += before.co_names != function.__code__.co_names
    for statement in _find_changed_constants(old, new, mutation):
        _assign(statement, module)
        changed += 1
    if not changed:
        raise RuntimeError(f"{mutation.key} changed nothing; has its file changed meanwhile?")


def _read(mutation: Mutation) -> tuple[str, str]:
    old = (SOURCE / mutation.file).read_text()
    return old, old.replace(mutation.old, mutation.new)


def _compile(text: str, module: ModuleType) -> CodeType:
    return compile(text, str(module.__file__), "exec")


def _pair(old: CodeType, new: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """The old and the new code of each function of a module and of its classes."""
    for before, after in zip(_list_codes(old), _list_codes(new), strict=True):
        if before.co_qualname != after.co_qualname:
            raise UnsuitableMutationError(f"{before.co_qualname} becomes {after.co_qualname}")
        yield before, after
        # Functions within functions exist already where a decorator has made them.
        inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (before, after)]
        if len(inner[0]) == len(inner[1]):
            yield from zip(*inner, strict=True)


def _list_codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if not isinstance(constant, CodeType):
            continue
        if constant.co_flags & 0x2:  # CO_NEWLOCALS: a function, and not the body of a class
            yield constant
        else:
            yield from _list_codes(constant)


def _find_changed_constants(old: str, new: str, mutation: Mutation) -> list[ast.stmt]:
    """The assignments of the module that change."""
    before, after = ast.parse(old).body, ast.parse(new).body
    if len(before) != len(after):
        raise UnsuitableMutationError(f"{mutation.key} changes the number of statements")
    changed = []
    for one, other in zip(before, after, strict=True):
        if _describe(one) == _describe(other):
            continue
        if not isinstance(other, ast.Assign | ast.AnnAssign):
            raise UnsuitableMutationError(f"{mutation.key} is outside of functions and constants")
        changed.append(other)
    return changed


def _describe(node: ast.AST) -> str:
    """What a statement of a module is, without the bodies of functions."""
    if isinstance(node, _FUNCTIONS):
        heads = [*node.decorator_list, node.args]
        return f"{node.name} {' '.join(map(ast.dump, heads))}"
    if isinstance(node, ast.ClassDef):
        return f"{node.name} {' '.join(map(_describe, node.body))}"
    return ast.dump(node)


def _assign(statement: ast.stmt, module: ModuleType) -> None:
    """Give a constant its new value, also where other modules have imported it."""
    names = [node.id for node in ast.walk(statement) if _is_target(node)]
    before: dict[str, Any] = {name: vars(module).get(name) for name in names}
    exec(compile(ast.Module([statement], []), str(module.__file__), "exec"), vars(module))
    for other in list(sys.modules.values()):
        for name, value in before.items():
            if isinstance(other, ModuleType) and vars(other).get(name, _NOTHING) is value:
                vars(other)[name] = vars(module)[name]


_NOTHING = object()


def _is_target(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
