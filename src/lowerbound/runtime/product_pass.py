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

# oneDNN needs 30 to 40 microseconds more than MKL to begin, so products of fewer multiplications
# than this are left to torch's own library.
_LEAST_MULTIPLICATIONS = 4e6


class ProductPass(CustomGraphPass):  # type: ignore[misc]
    """Lets oneDNN compute the large products of a graph, in float32 on a CPU."""

    def uuid(self) -> Any:
        """The identity of this stage in the keys of the compiler's cache."""
        return get_hash_for_files((__file__,))

    def __call__(self, graph: Graph) -> None:
        """Replace the products."""
        for operation in (_MM, _ADDMM):
            for node in list(graph.find_nodes(op="call_function", target=operation)):
                *bias, a, b = node.args
                if not node.kwargs and _suits(*(each.meta["val"] for each in node.args)):
                    node.target, node.args = _PRODUCT, (a, b, next(iter(bias), None))


def _suits(*arguments: Tensor) -> bool:
    """Whether oneDNN can compute ``bias + a @ b``, and the product is large enough."""
    *bias, a, b = arguments
    return (
        all(each.device.type == "cpu" and each.dtype == torch.float32 for each in arguments)
        and all(each.shape == b.shape[1:] for each in bias)
        and 1 in b.stride()
        and 0 not in b.stride()
        and a.shape[0] * a.shape[1] * b.shape[1] >= _LEAST_MULTIPLICATIONS
    )


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
