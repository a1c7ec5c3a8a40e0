"""The matrix products of compiled code: each kind is computed by the fastest routine.

torch multiplies matrices of float32 on a CPU with the BLAS library that it was built with, usually
MKL. torch also contains oneDNN, which is faster on some processors and slower on others, and which
one is faster depends on the shapes and memory layouts too. So each kind of product in a step is
timed once with every routine, and compiled steps call the fastest one, see
:mod:`lowerbound.runtime.product_pass`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lowerbound.runtime.product_table import ProductTable, has_intel_processor

MM, ADDMM = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
_PERMUTE, _CLONE = torch.ops.aten.permute.default, torch.ops.aten.clone.default

# Products that take less time than this are not timed with other routines: a trial could not
# distinguish them.
_LEAST_SECONDS = 50e-6

# Another routine is used only if it takes at most this share of the time of torch's own, by the
# minimum and by the median. Smaller gains cannot be distinguished from noise in so short a trial.
_WORTH_A_CHANGE = 0.8

# Each product is timed in so many turns, or fewer if they take longer than this. All products
# together are timed for so many seconds at most; those that remain keep torch's own routine.
_TURNS, _SECONDS_OF_TURNS, _MOST_SECONDS = 12, 0.05, 0.8

# A product of more operations than this is timed on smaller matrices, because the routines' rates
# differ in the same ratio there.
_MOST_OPERATIONS = 2e8

# oneDNN multiplies an input by the transpose of weights, and adds a bias. It reads the weights in
# any layout, and copies an input that is not contiguous.
torch.library.define("lowerbound::linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
LINEAR = torch.ops.lowerbound.linear.default


@torch.library.impl("lowerbound::linear", "CPU")
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


@torch.library.register_fake("lowerbound::linear")  # type: ignore[untyped-decorator]
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@dataclass(frozen=True)
class Product:
    """A kind of product, ``A @ B`` or ``A @ B + bias`` with a bias for each column.

    Its text names it in tables and records, for example ``100x784x200 a=(784,1) b=(1,784) float32
    with bias``: ``A`` is [100, 784], ``B`` is [784, 200], and their strides follow.
    """

    m: int
    """The number of rows of ``A``."""
    k: int
    """The number of columns of ``A``, and of rows of ``B``."""
    n: int
    """The number of columns of ``B``."""
    a_stride: tuple[int, int]
    b_stride: tuple[int, int]
    dtype: torch.dtype
    has_bias: bool

    @classmethod
    def of(cls, *arguments: Any, **options: Any) -> Product | None:
        """The kind of product that a call of ``mm`` or ``addmm`` computes.

        Returns:
            ``None`` if the call has only one routine: on another device, of another type than
            float32 and bfloat16, or with a factor, a bias of another shape or a layout that is not
            that of a matrix or its transpose.
        """
        *bias, a, b = arguments
        kinds = {(value.device.type, value.dtype) for value in arguments}
        if options or kinds not in ({("cpu", torch.float32)}, {("cpu", torch.bfloat16)}):
            return None
        if bias and (tuple(bias[0].shape), bias[0].stride()) != ((b.shape[1],), (1,)):
            return None
        if 0 in (*a.shape, *b.shape) or not (_is_matrix(a) and _is_matrix(b)):
            return None
        m, k, n = a.shape[0], a.shape[1], b.shape[1]
        return cls(m, k, n, tuple(a.stride()), tuple(b.stride()), a.dtype, bool(bias))

    @property
    def transposed(self) -> Product:
        """The product of the transposed matrices in the opposite order, without a bias."""
        strides = self.b_stride[::-1], self.a_stride[::-1]
        return Product(self.n, self.k, self.m, *strides, self.dtype, has_bias=False)

    @property
    def operations(self) -> float:
        """The number of multiplications and additions."""
        return 2.0 * self.m * self.k * self.n

    def shrink(self, most_operations: float) -> Product:
        """A product of smaller, contiguous matrices of the same orientation, if this is larger."""
        sizes = [self.m, self.k, self.n]
        if self.operations <= most_operations:
            return self
        while 2.0 * sizes[0] * sizes[1] * sizes[2] > most_operations:
            largest = sizes.index(max(sizes))
            sizes[largest] = (sizes[largest] + 1) // 2
        m, k, n = sizes
        strides = _pack(self.a_stride, m, k), _pack(self.b_stride, k, n)
        return replace(self, m=m, k=k, n=n, a_stride=strides[0], b_stride=strides[1])

    def make_operands(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Make constant operands of these shapes and layouts: ``A``, ``B`` and the bias."""
        a = _fill((self.m, self.k), self.a_stride, self.dtype)
        b = _fill((self.k, self.n), self.b_stride, self.dtype)
        if self.has_bias:
            return a, b, _fill((self.n,), (1,), self.dtype)
        return a, b, None

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        layouts = f"a={self.a_stride} b={self.b_stride}".replace(", ", ",")
        return f"{self.m}x{self.k}x{self.n} {layouts} {kind}" + " with bias" * self.has_bias


def _is_matrix(matrix: Tensor) -> bool:
    (rows, columns), (row_stride, column_stride) = matrix.shape, matrix.stride()
    by_rows = column_stride == 1 and row_stride >= columns
    return by_rows or (row_stride == 1 and column_stride >= rows)


def _pack(stride: tuple[int, int], rows: int, columns: int) -> tuple[int, int]:
    if stride[1] == 1:
        return columns, 1
    return 1, rows


def _fill(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=dtype).fill_(1.0)


# What calls an operation of torch with arguments: directly, or within a graph.
Call = Callable[..., Any]


def _transpose(call: Call, matrix: Any) -> Any:
    return call(_PERMUTE, matrix, [1, 0])


def _copy(call: Call, matrix: Any) -> Any:
    return call(_CLONE, matrix, memory_format=torch.contiguous_format)


def _multiply_with_torch(call: Call, product: Product, a: Any, b: Any, bias: Any) -> Any:
    if product.has_bias:
        return call(ADDMM, bias, a, b)
    return call(MM, a, b)


def _multiply_with_onednn(call: Call, product: Product, a: Any, b: Any, bias: Any) -> Any:
    if product.a_stride != (product.k, 1):
        # The compiler may write the copy together with what computes the matrix.
        a = _copy(call, a)
    return call(LINEAR, a, _transpose(call, b), bias)


def _multiply_transposed(call: Call, product: Product, a: Any, b: Any, bias: Any) -> Any:
    """Compute ``(B^T A^T)^T``: of two matrices that are not contiguous, it copies the other."""
    a, b = _transpose(call, a), _transpose(call, b)
    made = _multiply_with_onednn(call, product.transposed, b, a, None)
    return _copy(call, _transpose(call, made))


Routine = Callable[[Call, Product, Any, Any, Any], Any]

TORCH = "torch"
ROUTINES: dict[str, Routine] = {
    TORCH: _multiply_with_torch,
    "oneDNN": _multiply_with_onednn,
    "oneDNN transposed": _multiply_transposed,
}


def list_routines(product: Product) -> list[str]:
    """List the names of the routines that can compute a product on this machine; torch's first."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return [TORCH]
    if product.has_bias or product.a_stride[1] == 1:
        return [TORCH, "oneDNN"]
    return list(ROUTINES)


def multiply(routine: str, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply two matrices with the routine of this name, which must be able to."""
    arguments = [value for value in (bias, a, b) if value is not None]
    product = Product.of(*arguments)
    assert product is not None
    made: Tensor = ROUTINES[routine](_call, product, a, b, bias)
    return made


def _call(operation: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    return operation(*arguments, **options)


@torch.no_grad()
def find_fastest(product: Product) -> str:
    """Time the routines for a product in turns, and return the name of the fastest.

    torch's own is returned unless another is faster by a fifth, and where a trial could not show
    that.
    """
    product = product.shrink(_MOST_OPERATIONS)
    operands = product.make_operands()
    runs = {
        name: partial(ROUTINES[name], _call, product, *operands) for name in list_routines(product)
    }
    if min(_time(runs[TORCH]) for _ in range(3)) < _LEAST_SECONDS:
        return TORCH
    first: dict[str, float] = {}
    for name, run in runs.items():
        try:
            first[name] = min(_time(run) for _ in range(2))
        except RuntimeError:  # oneDNN may lack the type on this processor
            continue
    times: dict[str, list[float]] = {
        name: [] for name, seconds in first.items() if seconds <= first[TORCH]
    }
    began = time.perf_counter()
    for _ in range(_TURNS if len(times) > 1 else 0):
        for name, own in times.items():
            own.append(_time(runs[name]))
        if time.perf_counter() - began > _SECONDS_OF_TURNS:
            break
    if not times[TORCH]:
        return TORCH
    for name in sorted(times, key=lambda name: min(times[name])):
        shares = [summary(times[name]) / summary(times[TORCH]) for summary in (min, median)]
        if max(shares) <= _WORTH_A_CHANGE:
            return name
    return TORCH


def _time(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


class _Observer(TorchDispatchMode):
    """Collects the kinds of the products that are computed."""

    def __init__(self, seen: dict[str, Product]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (MM, ADDMM):
            product = Product.of(*args, **(kwargs or {}))
            if product is not None:
                self.seen[str(product)] = product
        return func(*args, **(kwargs or {}))


class ProductTuner:
    """Chooses the routines of the products that a compiled function computes.

    Args:
        tell: is called with a line about the choices, if one differs from torch's own.
    """

    def __init__(self, tell: Callable[[str], None] = lambda line: None) -> None:
        self.tell = tell
        self.seen: dict[str, Product] = {}
        """The kinds of products that uncompiled work has computed, by name."""
        self.choices: dict[str, str] = {}
        """The routines that differ from torch's own, by the name of the product."""
        self.is_resumed = False

    def resume(self, choices: Mapping[str, str] | None) -> None:
        """Use the choices of an earlier process, so that rounding is the same."""
        self.choices, self.is_resumed = dict(choices or {}), True

    def observing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same uncompiled work, which collects the kinds of the products that it computes."""

        def observed(*given: Any) -> Any:
            with _Observer(self.seen):
                return work(*given)

        return observed

    def choose(self) -> dict[str, str]:
        """Choose a routine for each product that was seen; time those that the table lacks.

        Returns:
            The choices that differ from torch's own.
        """
        # MKL takes its fastest instructions on Intel's processors. In whole steps oneDNN gains
        # nothing there, and short trials of single products have chosen it nevertheless.
        if self.is_resumed or has_intel_processor():
            return self.choices
        began = time.perf_counter()
        table = ProductTable(torch.get_num_threads())
        known = table.read()
        fastest = {name: known[name] for name in self.seen if known.get(name) in ROUTINES}
        timed = 0
        for name, product in self._list_untimed(fastest):
            if time.perf_counter() - began > _MOST_SECONDS:
                break
            fastest[name] = find_fastest(product)
            timed += 1
        if timed:
            table.write(known | fastest)
        before = self.choices
        self.choices = {name: used for name, used in fastest.items() if used != TORCH}
        if self.choices and self.choices != before:
            self.tell(self._describe(timed, time.perf_counter() - began))
        return self.choices

    def _list_untimed(self, known: Mapping[str, str]) -> list[tuple[str, Product]]:
        """List the products without a choice, the largest first."""
        left = [(name, product) for name, product in self.seen.items() if name not in known]
        return sorted(left, key=lambda item: -item[1].operations)

    def _describe(self, timed: int, seconds: float) -> str:
        changed, kinds = len(self.choices), len(self.seen)
        line = (
            f"matrix products: oneDNN instead of torch's own routine for {changed} of {kinds} kinds"
        )
        if timed:
            line += f"; {seconds:.2g} s to time them"
        return line
