"""The kinds of matrix products in a computation, by shape and layout in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# oneDNN needs 30 to 40 microseconds more than MKL to begin, so products of fewer multiplications
# than this are left to torch's own library.
_LEAST_MULTIPLICATIONS = 4e6


class Product(NamedTuple):
    """A kind of matrix product, ``a @ b``.

    Args:
        rows: of ``a``.
        inputs: the number of columns of ``a``, and of rows of ``b``.
        columns: of ``b``.
        layouts: of ``a`` and ``b``. ``"N"`` for a matrix whose rows are contiguous in memory, and
            ``"T"`` for the transpose of such a matrix.
    """

    rows: int
    inputs: int
    columns: int
    layouts: str

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> Product:
        """The kind of ``a @ b``."""
        layouts = "".join("N" if each.stride(1) == 1 else "T" for each in (a, b))
        return cls(int(a.shape[0]), int(a.shape[1]), int(b.shape[1]), layouts)

    def __str__(self) -> str:
        return f"{self.rows}x{self.inputs}x{self.columns} {self.layouts}"

    def make_matrices(self) -> tuple[Tensor, Tensor]:
        """Make matrices of ones of this kind."""
        made = []
        sizes = (self.rows, self.inputs), (self.inputs, self.columns)
        for size, layout in zip(sizes, self.layouts, strict=True):
            shape = size if layout == "N" else size[::-1]
            matrix = torch.ones(shape, dtype=torch.float32, device="cpu")
            made.append(matrix if layout == "N" else matrix.t())
        a, b = made
        return a, b


def suits_onednn(*arguments: Tensor) -> bool:
    """Whether oneDNN can compute ``bias + a @ b`` or ``a @ b``, and the product is large enough."""
    *bias, a, b = arguments
    return (
        all(map(_is_dense_float32, arguments))
        and all(each.shape == b.shape[1:] for each in bias)
        and _has_contiguous_vectors(b)
        and a.shape[0] * a.shape[1] * b.shape[1] >= _LEAST_MULTIPLICATIONS
    )


def _is_dense_float32(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout == torch.strided
    )


def _has_contiguous_vectors(matrix: Tensor) -> bool:
    """Whether the rows of a matrix, or its columns, are contiguous and do not overlap."""
    (rows, columns), (row, column) = matrix.shape, matrix.stride()
    return bool((column == 1 and row >= columns) or (row == 1 and column >= rows))


@contextmanager
def noticing_products() -> Iterator[set[Product]]:
    """Collect the kinds of products that uncompiled code computes and that oneDNN can compute."""
    with _Noticing() as noticing:
        yield noticing.kinds


class _Noticing(TorchDispatchMode):
    # Operators that call functions, such as torch.cond, run as they do without this mode. So do
    # parts of a model that the user has compiled. Their products are not noticed.
    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler at the first operation, which takes seconds.
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kinds: set[Product] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        products = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
        if func in products and not kwargs and suits_onednn(*args):
            self.kinds.add(Product.of(*args[-2:]))
        return func(*args, **(kwargs or {}))
