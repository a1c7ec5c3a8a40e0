"""torch's compiler: how it is called, and how its errors are recognised."""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lowerbound.errors import SettingsError
from lowerbound.runtime.modes import without_argument_checks

Choice = Literal["auto", "always", "never"]

# The options of the compiler. Random numbers are those of uncompiled code, and shapes are static.
# tanh(x) is computed as 2 sigmoid(2x) - 1, which takes a third of the time and differs by one
# rounding at most. `cpp.vec_isa_ok` leaves out most of the test programs with which torch looks for
# the processor's vector instructions: they take ten seconds in every new environment. Any C++
# compiler that can compile torch's headers knows these instructions; where a compiler fails,
# uncompiled code is used. A user's own value of torch's variable is kept.
_COMPILER_OPTIONS: dict[str, Any] = {
    "dynamic": False,
    "options": {
        "fallback_random": True,
        "cpp.use_decompose_tanh": True,
        "cpp.vec_isa_ok": os.environ.get("TORCHINDUCTOR_VEC_ISA_OK", "1") == "1",
    },
}

# Other code that was compiled in this process does not count towards the limit of recompilations,
# nor do the other pieces of a function that is compiled in pieces. torch.compile takes these
# arguments from torch 2.13 on. Earlier versions know the limit only as a switch of the process.
_RECOMPILE_LIMIT = 3
_LIMITS: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": _RECOMPILE_LIMIT}


def check_choice(name: str, choice: Any) -> None:
    """Refuse a value that is not a :data:`Choice`.

    Raises:
        SettingsError: naming the function that was given it.
    """
    if choice not in get_args(Choice):
        known = ", ".join(get_args(Choice))
        raise SettingsError(f"{name}: compile={choice!r} must be one of {known}")


class CompiledFunction:
    """The compiled version of a function, which is compiled when it is first called.

    Args:
        function: takes tensors.
        whole: whether to compile one graph, and fail if something prevents that. Otherwise the
            function is compiled in pieces.
        any_threads: whether the code is kept when torch's number of threads changes. The compiler
            would compile it again for each number.
        is_repeatable: whether the inputs of the last call are kept, so that it can be repeated, see
            :meth:`take_last_call`.
        options: further options of the code generator.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        whole: bool = True,
        any_threads: bool = False,
        is_repeatable: bool = False,
        **options: Any,
    ) -> None:
        self.function, self.whole, self.options = function, whole, options
        self.any_threads, self.is_repeatable = any_threads, is_repeatable
        self._start()

    def _start(self) -> None:
        own = dict(self.options)
        if self.any_threads:
            own["guard_filter_fn"] = _drop_global_state
        self.state = _get_global_state()
        asked = _COMPILER_OPTIONS | {"options": _COMPILER_OPTIONS["options"] | own}
        known = inspect.signature(torch.compile).parameters
        asked |= {name: value for name, value in _LIMITS.items() if name in known}
        self.own = _copy_code(self.function)
        self._last: tuple[Callable[..., Any], list[Any]] | None = None
        with setting_compiler_switches():
            self.made = torch.compile(
                self.own, fullgraph=self.whole, backend=_Backend(self), **asked
            )
        self.is_called = False

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call the function, after compiling it if this is the first call."""
        if self.any_threads and self.state != _get_global_state():
            self._start()
        with setting_compiler_switches():
            if self.is_called:
                return self.made(*given, **named)
            self.is_called = True
            with warnings.catch_warnings(), _caching_custom_functions():
                # A warning about the compiler's own code, which calls a function by an old name.
                message = ".*torch._prims_common.check.* is deprecated"
                warnings.filterwarnings("ignore", message, FutureWarning)
                return self.made(*given, **named)

    def remember_call(
        self, code: Callable[..., Any], given: Sequence[Any], results: Sequence[Any]
    ) -> None:
        """Remember what a call of the generated code received, unless it returned something.

        Python uses what it returns, for example as a new attribute of a module, and a repetition
        would not do that.
        """
        self._last = None
        if not results:
            self._last = code, list(given)

    def take_last_call(self, changing: Sequence[Tensor]) -> LastCall | None:
        """Return the last call's code, to be repeated with other tensors, and forget the call.

        Args:
            changing: those of its tensors that the repetitions replace.

        Returns:
            ``None`` if the call did more than change tensors, or if a changing tensor was not
            exactly one of the inputs of the generated code.
        """
        if self._last is None:
            return None
        (code, inputs), self._last = self._last, None
        places = [[i for i, given in enumerate(inputs) if given is own] for own in changing]
        if any(len(found) != 1 for found in places):
            return None
        return LastCall(code, inputs, [place for (place,) in places])

    def guards_of_last_call(self) -> Callable[..., bool] | None:
        """Return a function that says whether the last call's code is valid for other arguments.

        It checks what the compiler checks before each call: types, shapes and modes, and every
        attribute that the function read, such as a setting of a module. Returns ``None`` if this
        version of torch does not show its checks, or if the function is a closure.
        """
        bound = getattr(self.own, "__self__", None)
        code = getattr(self.own, "__func__", self.own).__code__
        names = code.co_varnames[: code.co_argcount]
        frames: Any = torch._C._dynamo.eval_frame
        if not hasattr(frames, "_debug_get_cache_entry_list"):
            return None
        entries = frames._debug_get_cache_entry_list(code)
        if code.co_freevars or not entries or not hasattr(entries[0], "guard_manager"):
            return None
        entry = entries[0]  # the one that was used last

        def hold(*given: Any) -> bool:
            every = given if bound is None else (bound, *given)
            with setting_compiler_switches():
                return bool(entry.guard_manager.check(dict(zip(names, every, strict=True))))

        return hold


class _Backend:
    """Generates the code of a function's graphs, and lets the function remember its last call.

    torch never forgets a backend, so this one must not keep the function in memory.

    Args:
        function: the function.
    """

    def __init__(self, function: CompiledFunction) -> None:
        self.function = weakref.ref(function)

    def __call__(
        self, graph: torch.fx.GraphModule, inputs: list[Any], *, options: dict[str, Any]
    ) -> Callable[..., Any]:
        code, function = generate_code(graph, inputs, options), self.function
        owner = function()
        if owner is None or not owner.is_repeatable:
            return code

        def call(*given: Any) -> Any:
            results = code(*given)
            called = function()
            if called is not None:
                called.remember_call(code, given, results)
            return results

        return call


def generate_code(
    graph: torch.fx.GraphModule, inputs: list[Any], options: dict[str, Any]
) -> Callable[..., Any]:
    """Let torch generate the code of a graph."""
    made: Callable[..., Any] = torch._inductor.compile(graph, inputs, options)
    return made


class LastCall:
    """The generated code of a call, to be repeated without the compiler's checks.

    Repeat it only if nothing has changed since the call but the values of tensors. A first call
    cannot show that: see :meth:`continues`.

    Args:
        code: takes the inputs of the graph.
        inputs: those of the call.
        places: the positions of the inputs that a repetition replaces.
    """

    def __init__(self, code: Callable[..., Any], inputs: list[Any], places: Sequence[int]) -> None:
        self.code, self.inputs, self.places = code, inputs, list(places)
        self.layouts = [_describe_layout(inputs[place]) for place in places]

    def continues(self, before: LastCall) -> bool:
        """Whether an earlier call ran the same code on the same tensors, but for the changing ones.

        If nothing else has changed between them, then the code does not change what the compiler
        checks, such as a flag of a module, and Python makes none of its inputs anew.
        """
        return (
            self.code is before.code
            and self.places == before.places
            and all(
                own is other
                for place, (own, other) in enumerate(zip(self.inputs, before.inputs, strict=True))
                if place not in self.places
            )
        )

    def repeat(self, changing: Sequence[Tensor]) -> bool:
        """Run the code with these tensors instead of the earlier ones, if their layouts agree.

        Returns:
            Whether they fit. Otherwise nothing was done.
        """
        if [_describe_layout(tensor) for tensor in changing] != self.layouts:
            return False
        for place, tensor in zip(self.places, changing, strict=True):
            self.inputs[place] = tensor
        self.code(*self.inputs)
        return True


def _describe_layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _drop_global_state(guards: Sequence[Any]) -> list[bool]:
    """Drop the compiler's check of the process's state, which includes the number of threads."""
    return [guard.guard_type != "GLOBAL_STATE" for guard in guards]


def _get_global_state() -> tuple[Any, ...]:
    """Get the parts of that state, other than the number of threads, that change results."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
    )


def forget_compiler_threads() -> None:
    """Forget the threads in which the compiler works; in a copy of the process they do not run."""
    module = sys.modules.get("torch._inductor.async_compile")
    pool: Any = getattr(getattr(module, "AsyncCompile", None), "pool", None)
    if hasattr(pool, "cache_clear"):
        pool.cache_clear()


def _caching_custom_functions() -> AbstractContextManager[None]:
    """Within the block, code that contains custom functions of autograd is cached too.

    The compiler's cache is then used from an earlier stage on, which halves the time of reading
    from it. Its keys contain the forward and the backward code of such functions.
    """
    from torch._functorch import config

    name = "autograd_cache_allow_custom_autograd_functions"
    if not hasattr(config, name):  # another version of torch
        return nullcontext()
    patch: AbstractContextManager[None] = config.patch({name: True})
    return patch


@contextmanager
def setting_compiler_switches() -> Iterator[None]:
    """Within the block, the process-wide switches have the values that compiled code needs.

    - Distributions do not check their arguments, because a graph cannot raise errors. The compiler
      itself would leave this check off for the rest of the process.
    - A graph may contain calls of ``torch.autograd.grad``.
    - A function is compiled again three times at most.

    The compiler's own ``config.patch`` does the same in 30 microseconds, a tenth of a small step.
    """
    config = torch._dynamo.config
    before = config.trace_autograd_ops, config.recompile_limit
    config.trace_autograd_ops, config.recompile_limit = True, _RECOMPILE_LIMIT
    try:
        with without_argument_checks():
            yield
    finally:
        config.trace_autograd_ops, config.recompile_limit = before


def _copy_code(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same function with a code object of its own.

    The compiler ties what it makes to the code object, and its limits count per code object. With
    a copy, both end when the function does, so a program may compile any number of functions.
    """
    from torch._C._dynamo.eval_frame import reset_code

    plain: Any = getattr(function, "__func__", function)
    own = FunctionType(
        plain.__code__.replace(),
        plain.__globals__,
        plain.__name__,
        plain.__defaults__,
        plain.__closure__,
    )
    own.__kwdefaults__ = plain.__kwdefaults__
    weakref.finalize(own, reset_code, own.__code__)
    bound = getattr(function, "__self__", None)
    if bound is None:
        return own
    return MethodType(own, bound)


def is_compiler_error(error: Exception) -> bool:
    """Whether the compiler failed, or had to compile the function too often."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    return isinstance(error, (TorchDynamoException, FailOnRecompileLimitHit, InvalidCxxCompiler))


def is_graph_break(error: Exception) -> bool:
    """Whether the function cannot be one graph, but may be compiled in pieces."""
    from torch._dynamo.exc import Unsupported

    return isinstance(error, Unsupported)


def describe_failure(error: Exception) -> str:
    """Say in one line why the compiler failed, and at which line of code."""
    from torch._dynamo.exc import FailOnRecompileLimitHit

    reason = next(iter(str(error).splitlines()), type(error).__name__)
    if isinstance(error, FailOnRecompileLimitHit):
        reason = "something in the model changes from call to call"
    elif is_graph_break(error):
        reason += f" in {describe_place(error)}"
    return f"the compiler failed ({reason})"


def describe_place(error: Exception) -> str:
    """Name the line of code that could not be compiled: the last one in the compiler's message."""
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    if not places:
        return "the model"
    file, line = places[-1]
    return f"{'/'.join(Path(file).parts[-2:])}, line {line}"
