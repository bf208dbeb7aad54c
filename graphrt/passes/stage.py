"""Updates are simultaneous: a parameter that takes another's old value must not read it after that one's own update."""

from __future__ import annotations

from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.ops import clone
from graphrt.passes.rewrite import rewrite


def stage_updates(graph: Graph) -> Graph:
    """``graph`` with a copy in front of each update whose value is, or is a view of, a parameter that is updated too."""
    own = {name: graph.sources[name].outputs[0] for name in graph.updates}
    staged = [name for name, v in graph.updates.items() if _source(v) in graph.updates and v is not own[name]]
    if not staged:
        return graph
    new = rewrite(graph, lambda node: None)
    for name in staged:
        with new.at(new.updates[name].node.origin):
            new.updates[name] = clone(new.updates[name])
    return new


def _source(v: Value) -> str:
    """The parameter that ``v`` shows through views; empty if it is computed."""
    while v.node.op.kind is Kind.VIEW and len(v.node.inputs) == 1:
        v = v.node.inputs[0]
    return v.node.name if v.node.op.kind is Kind.SOURCE else ""
