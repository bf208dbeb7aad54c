"""Updates are simultaneous: a parameter that takes another's old value must not read it after that one's own update."""

from __future__ import annotations

from graphrt.ir import Graph, Value
from graphrt.op import Kind
from graphrt.ops import clone
from graphrt.passes.rewrite import rewrite


def snapshot_updates(graph: Graph) -> Graph:
    """``graph`` with a copy in front of each update whose value is, or is a view of, a parameter that is updated too."""
    own = {name: graph.sources[name].outputs[0] for name in graph.updates}
    staged = [name for name, v in graph.updates.items() if _sources(v) & graph.updates.keys() and v is not own[name]]
    if not staged:
        return graph
    new = rewrite(graph, lambda node: None)
    for name in staged:
        with new.at(new.updates[name].node.origin):
            new.updates[name] = clone(new.updates[name])
    return new


def _sources(v: Value) -> set[str]:
    """The parameters that ``v`` shows through views; none if it is computed."""
    if v.node.op.kind is Kind.VIEW:
        return set().union(*(_sources(x) for x in v.node.inputs))
    return {v.node.name} if v.node.op.kind is Kind.SOURCE else set()
