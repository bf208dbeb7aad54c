"""Halves of weights are kept from run to run: whoever updates a weight writes its half too, and no run converts it first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Order
from graphrt.passes.rewrite import rewrite
from graphrt.types import HALVES, DType


def keep_half_copies(graph: Graph, fixed: Mapping[str, Order]) -> Graph:
    """``graph`` in which a half of a weight that it updates is a parameter of its own, ``weight.bfloat16``.

    ``State`` knows it for a copy of the weight and makes it anew when something else has written the weight. Vectors, such as
    biases, are converted where they are read. ``fixed`` names state whose buffers exist already, with their order.
    """

    users, conversions = graph.users(), dict[DType, Node]()
    beside = {  # what lies in one buffer with others, such as sibling convolutions' filters, is no parameter of its own
        n.name for n in graph.nodes for x in n.outputs if any(len(r.inputs) > 1 and r.op.kind is Kind.VIEW for r in users[x])
    }

    def half(v: Value, dtype: DType) -> Value | None:
        """The half in ``dtype`` of ``v``, a weight or a view of one; None if it is something else."""
        node, new = v.node, v.graph
        if node.op.kind is Kind.VIEW and len(node.inputs) == 1 and node.types[0].dtype == node.inputs[0].dtype:
            inner = half(node.inputs[0], dtype)
            return None if inner is None else new.append(node.op, [inner], node.attrs, orders=[v.type.order]).outputs[0]
        name = f"{node.name}.{dtype}"
        if node.op.name != "parameter" or node.name not in graph.updates or name in graph.sources or v.ndim < 2:
            return None
        if name not in new.sources:
            attrs = {"trainable": False, "copy_of": node.name}
            new._source("parameter", name, v.shape, dtype, attrs, fixed.get(name, v.type.order))
            new.initial[name] = np.zeros((), dtype.numpy)  # State has the values
        return new.sources[name].outputs[0]

    def keep(node: Node) -> Sequence[Value] | None:
        dtype = node.types[0].dtype
        if (
            node.op.kind is not Kind.ELEMENTWISE
            or node.name in beside
            or len(node.inputs) != 1
            or dtype not in HALVES
            or node.inputs[0].dtype in HALVES
        ):
            return None  # of what has one operand only a conversion changes the type
        found = half(node.inputs[0], dtype)
        if found is None:
            return None
        conversions[dtype] = node
        return [found]

    new = rewrite(graph, keep)
    for name in [n for n in new.sources if n not in graph.sources]:
        type, value = new.sources[name].types[0], new.updates[new.sources[name].attrs["copy_of"]]
        with new.at(value.node.origin):
            conversion = conversions[type.dtype]
            new.updates[name] = new.append(conversion.op, [value], conversion.attrs, orders=[type.order]).outputs[0]
    return new
