"""A stage of torch's compiler that lets oneDNN multiply matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
from torch._inductor.lowering import permute, register_lowering
from torch._inductor.mkldnn_ir import LinearUnary
from torch.fx import Graph

from lowerbound.runtime import product_kinds
from lowerbound.runtime.product_kinds import Product, suits_onednn

# The matrix product in a graph, with a bias for each column or without.
torch.library.define("lowerbound::product", "(Tensor a, Tensor b, Tensor? bias) -> Tensor")


def multiply_with_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``a @ b + bias`` with oneDNN.

    It reads ``b`` in any layout, and copies an ``a`` that is not contiguous.
    """
    if bias is not None:
        bias = bias.contiguous()  # oneDNN would read another layout wrongly
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return product


torch.library.impl("lowerbound::product", "CPU", multiply_with_onednn)


@torch.library.register_fake("lowerbound::product")  # type: ignore[untyped-decorator]
def _(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[1])


_MM, _ADDMM = torch.ops.aten.mm.default, torch.ops.aten.addmm.default
_PRODUCT = torch.ops.lowerbound.product.default


class ProductPass(CustomGraphPass):  # type: ignore[misc]
    """Lets oneDNN compute some kinds of products in a graph.

    Args:
        names: of the kinds.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def uuid(self) -> Any:
        """The identity of this stage in the keys of the compiler's cache."""
        return get_hash_for_files((__file__, product_kinds.__file__), repr(self.names))

    def __call__(self, graph: Graph) -> None:
        """Replace the products."""
        for operation in (_MM, _ADDMM):
            for node in list(graph.find_nodes(op="call_function", target=operation)):
                arguments = [each.meta["val"] for each in node.args]
                if (
                    not node.kwargs
                    and suits_onednn(*arguments)
                    and str(Product.of(*arguments[-2:])) in self.names
                ):
                    *bias, a, b = node.args
                    node.target, node.args = _PRODUCT, (a, b, next(iter(bias), None))


@register_lowering(_PRODUCT, type_promotion_kind=None)  # type: ignore[untyped-decorator]
def _lower(a: Any, b: Any, bias: Any) -> Any:
    """Let compiled code call oneDNN directly, without Python and without a copy of ``b``."""
    size = [a.get_size()[0], b.get_size()[1]]
    a = ExternKernel.require_contiguous(ExternKernel.realize_input(a))
    tensors = [a, ExternKernel.realize_input(permute(b, [1, 0]))]
    constants: list[Any] = ["none", [-1], ""]
    if bias is None:
        constants.insert(0, None)
    else:
        tensors.append(ExternKernel.require_contiguous(ExternKernel.realize_input(bias)))
    layout = FixedLayout(device=a.get_device(), dtype=a.get_dtype(), size=size)
    return TensorBox.create(LinearUnary(layout, tensors, constants))
