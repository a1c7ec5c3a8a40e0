"""The stage of torch's compiler that gives each matrix product its routine."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

from lowerbound.runtime import products
from lowerbound.runtime.products import ADDMM, LINEAR, MM, ROUTINES, Product, list_routines


class ProductPass(CustomGraphPass):  # type: ignore[misc]
    """Replaces the products of a graph by the routines that were chosen for them.

    Args:
        choices: the name of the routine by the name of the product. The products that are not
            named keep torch's own.
    """

    def __init__(self, choices: Mapping[str, str]) -> None:
        super().__init__()
        self.choices = dict(choices)
        self.replaced = 0
        """The number of products that were replaced."""
        _register_lowering()

    def uuid(self) -> Any:
        """What the code depends on, so that the compiler's cache keeps the choices apart."""
        return get_hash_for_files((__file__, products.__file__)), tuple(
            sorted(self.choices.items())
        )

    def __call__(self, graph: Graph) -> None:
        """Replace the products."""
        for operation in (MM, ADDMM):
            for node in graph.find_nodes(op="call_function", target=operation):
                product = Product.of(*(each.meta["val"] for each in node.args), **node.kwargs)
                chosen = self.choices.get(str(product))
                if product is None or chosen not in list_routines(product):
                    continue
                self._replace(graph, node, product, chosen)

    def _replace(self, graph: Graph, node: Node, product: Product, routine: str) -> None:
        def call(operation: Any, *arguments: Any, **options: Any) -> Node:
            made = graph.call_function(operation, arguments, options)
            values = [each.meta["val"] if isinstance(each, Node) else each for each in arguments]
            with node.meta["val"].fake_mode:
                made.meta["val"] = operation(*values, **options)
            return made

        *bias, a, b = node.args
        with graph.inserting_before(node):
            made = ROUTINES[routine](call, product, a, b, next(iter(bias), None))
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        self.replaced += 1


@cache
def _register_lowering() -> None:
    """Let compiled code call oneDNN directly, without Python."""
    from torch._inductor.ir import ExternKernel, FixedLayout, TensorBox
    from torch._inductor.lowering import register_lowering
    from torch._inductor.mkldnn_ir import LinearUnary

    @register_lowering(LINEAR, type_promotion_kind=None)  # type: ignore[untyped-decorator]
    def lower(x: Any, weight: Any, bias: Any) -> Any:
        x = ExternKernel.require_contiguous(ExternKernel.realize_input(x))
        tensors = [x, ExternKernel.realize_input(weight)]
        constants: list[Any] = ["none", [-1], ""]
        if bias is None:
            constants.insert(0, None)
        else:
            tensors.append(ExternKernel.realize_input(bias))
        size = [x.get_size()[0], weight.get_size()[0]]
        layout = FixedLayout(device=x.get_device(), dtype=x.get_dtype(), size=size)
        return TensorBox.create(LinearUnary(layout, tensors, constants))
