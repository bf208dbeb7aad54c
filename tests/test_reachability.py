"""Who waits for whom while nodes are merged into groups, beside networkx on the graph in which they are contracted."""

from __future__ import annotations

import hypothesis.strategies as st
import networkx as nx
import pytest
from conftest import INTERPRETED
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F
from graphrt.ir import Node
from graphrt.schedule.reachability import Reachability

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the schedule is the same in both lanes")


@settings(max_examples=100)
@given(st.data())
def test_what_is_merged_waits_together(data: st.DataObject) -> None:
    """Of any two sets of nodes, after each of some merges, whatever circles those make."""
    g = grt.Graph()
    values = [g.input("x", ()), g.input("y", ())]
    for _ in range(data.draw(st.integers(2, 9))):
        values.append(F.add(*(data.draw(st.sampled_from(values)) for _ in range(2))))
    nodes = [v.node for v in values]
    assert nodes == g.nodes
    reach, unit = Reachability(g), {node: i for i, node in enumerate(nodes)}
    for _ in range(data.draw(st.integers(0, 6))):
        a, b = (data.draw(st.sampled_from(nodes)) for _ in range(2))
        reach.merge(a, b)
        unit = {node: unit[a] if i == unit[b] else i for node, i in unit.items()}
        dag = nx.DiGraph((unit[x.node], unit[node]) for node in nodes for x in node.inputs)
        dag.add_nodes_from(unit.values())
        below = {i: {i, *nx.descendants(dag, i)} for i in dag}
        some: list[set[Node]] = [data.draw(st.sets(st.sampled_from(nodes))) for _ in range(2)]
        pairs = [*some], *([{c}, {d}] for c in nodes for d in nodes)
        for start, goals in pairs:
            expected = any(unit[d] in below[unit[c]] for c in start for d in goals)
            assert reach.reaches(start, goals) == expected, (start, goals)
