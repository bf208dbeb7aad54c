"""Layers whose weights are sharded along an axis of a mesh: tensor parallelism (Shoeybi et al., "Megatron-LM", 2019).

    x ──▶ ColumnParallelLinear ──▶ gelu ──▶ RowParallelLinear ──▶ all_reduce ──▶ y
          each process some outputs         each some inputs      once forward, once backward

On a graph without that axis they compute what ``Linear`` does, with the same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from graphrt.errors import ArgumentError
from graphrt.ir import Node, Value
from graphrt.mesh import Mesh
from graphrt.nn.layers import Linear
from graphrt.nn.module import Module
from graphrt.nn.trace import trace
from graphrt.op import Kind

M = TypeVar("M", bound=Module)


class ColumnParallelLinear(Linear):
    """``Linear`` of which each process along ``axis`` of the mesh computes some of the outputs.

    [..., in_features], the same in all, gives [..., out_features / size], of which each has its own; ``weight`` and ``bias``
    are cut along ``out_features``, a multiple of the processes, and start as ``Linear``'s. Raises ArgumentError; when called,
    ShapeError and DTypeError.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: str = "tp") -> None:
        super().__init__(in_features, out_features, bias)
        self.axis = axis
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.sharded = (axis, 0)


class RowParallelLinear(Linear):
    """``Linear`` of which each process along ``axis`` of the mesh has some of the inputs.

    [..., in_features / size], of which each has its own, gives [..., out_features], the same in all: the sum of what they make
    of theirs, plus ``bias``. ``weight`` is cut along ``in_features``, a multiple of the processes. Raises ArgumentError; when
    called, ShapeError and DTypeError.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, axis: str = "tp") -> None:
        super().__init__(in_features, out_features, bias)
        self.axis = axis
        self.weight.sharded = (axis, 1)


def tensor_parallel(net: M, example_inputs: Any, mesh: Mesh, axis: str = "tp") -> M:
    """Cuts the pairs of ``Linear`` in ``net``, those with only elementwise layers between them, along ``axis`` of ``mesh``.

    The first, or several such as a gate and what it opens, becomes what ``ColumnParallelLinear`` is, the second what
    ``RowParallelLinear`` is. They are found by ``example_inputs``, which are as of ``nn.trace``: in order, each layer in one
    pair, of units that are a multiple of the processes; layers that are called twice stay whole. Returns ``net``, whose
    parameters' ``sharded`` then say so. Raises ArgumentError for a mesh without the axis, and where there is no pair.
    """
    mesh.varying(axis)
    graph = trace(net, example_inputs)
    users = graph.users()
    layers = {f"{path}.weight": part for path, part in net.named_modules() if type(part) is Linear}
    products = {}  # and the weight's name
    for node in graph.nodes:
        if node.op.name == "matmul" and node.inputs[1].node.op.name == "permute":
            of = node.inputs[1].node.inputs[0].node
            if of.name in layers and len(users[of.outputs[0]]) == 1:
                products[node.outputs[0]] = of.name
    taken: set[str] = set()
    for product, name in products.items():
        rows, found = layers[name], _columns(product.node, products, users)
        if found and found.isdisjoint(taken) and name not in taken and rows.in_features % mesh.axes[axis] == 0:
            rows.weight.sharded = (axis, 1)
            for columns in (layers[one] for one in found):
                columns.weight.sharded = (axis, 0)
                if columns.bias is not None:
                    columns.bias.sharded = (axis, 0)
            taken |= {name, *found}
    if not taken:
        raise ArgumentError(
            f"no two Linear layers of {type(net).__name__} have only elementwise layers between them, and a multiple of "
            f"{mesh.axes[axis]} units: nn.ColumnParallelLinear and nn.RowParallelLinear say by hand what is cut"
        )
    return net


def _columns(last: Node, products: Mapping[Value, str], users: Mapping[Value, Sequence[Node]]) -> set[str]:
    """The weights of whose products alone the operand of ``last`` is made, feature by feature, and which nobody else reads."""
    found, between, pending = set[str](), set[Value](), [last.inputs[0]]
    biases = set[Value]()
    while pending:
        v = pending.pop()
        node = v.node
        if v in between or (node.op.name == "broadcast" and node.inputs[0].type.size == 1):
            continue
        if node.op.name == "broadcast" and node.inputs[0].node.op.name == "parameter" and v.shape[-1:] == node.inputs[0].shape:
            biases.add(node.inputs[0])
            continue
        between.add(v)
        if v in products:
            found.add(products[v])
        elif node.op.kind is Kind.ELEMENTWISE or (node.op.name == "reshape" and node.inputs[0].shape[-1:] == v.shape[-1:]):
            pending += node.inputs
        else:
            return set()
    inside = all(user is last or user.outputs[0] in between for v in between for user in users[v])
    own = {f"{name.removesuffix('weight')}bias" for name in found}
    alone = all(len(users[bias]) == 1 and bias.name in own for bias in biases)
    return found if inside and alone and between.isdisjoint(last.graph.results()) else set()
