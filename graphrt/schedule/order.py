"""The order of launches: which groups share one, and which launch is first."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import pairwise

import networkx as nx

from graphrt.ir import Graph
from graphrt.passes.decision import Decision
from graphrt.schedule.concat_buffers import ConcatBuffers
from graphrt.schedule.group import Group, Launch
from graphrt.schedule.horizontal import pair, share
from graphrt.schedule.place import place
from graphrt.schedule.policy import SchedulePolicy
from graphrt.schedule.schedule import Schedule


def arrange(
    graph: Graph, groups: list[Group], buffers: ConcatBuffers, policy: SchedulePolicy
) -> tuple[Schedule, list[Decision]]:
    """The schedule of ``groups``, with concatenations in ``buffers``, and what was decided on the way."""
    schedule, dag, decisions = place(graph, groups, buffers, "in_place" in policy.fusion)
    launches = [[g] for g in dag.nodes]
    if "horizontal" in policy.fusion:
        launches, found = share(dag, buffers, policy.tiles)
        decisions += found
    launches = order(graph, dag, launches)
    if policy.pairs and "pairs" in policy.fusion:
        launches, found = pair(dag, launches)
        decisions += found
        launches = order(graph, dag, launches)
    schedule.launches = [Launch(launch) for launch in launches]
    for i, g in enumerate(schedule.groups()):
        g.name = f"g{i}"
    return schedule, decisions


def order(graph: Graph, dag: nx.DiGraph, parts: list[list[Group]]) -> list[list[Group]]:
    """Topological order of the launches (Kahn), the one whose last node was defined first when there is a choice.

    A contraction that a parameter becomes counts from itself, not from the update, which may be the last that is said: what
    it reads is still in a cache, and need not lie anywhere for longer.
    Where something is computed again to save memory, that is not done before it is needed: there a launch is as early as the
    first that waits for it, and updates come as soon as they can.
    """
    position = {n: i for i, n in enumerate(graph.nodes)}
    part_of = {g: i for i, part in enumerate(parts) for g in part}
    saving = any(g.phase == "again" for part in parts for g in part)
    updated = {v.node for v in graph.updates.values()}
    early = {g for part in parts for g in part if g.anchor and (saving or not updated.isdisjoint(g.nodes))}
    members = [[n for g in part for n in ([g.anchor] if g.anchor and g in early else g.nodes)] for part in parts]
    places = [[position[n] for n in nodes if not (saving and n.origin.phase == "opt")] for nodes in members]
    rank: list[float] = [max(found, default=len(position)) for found in places]
    rank = _ahead(dag, parts, part_of, rank)
    sent = {i for i, part in enumerate(parts) if any(g.kind == "collective" and dag.in_degree(g) for g in part)}
    rank = [-1 if i in sent else place for i, place in enumerate(rank)]  # others work on while processes exchange
    after: list[set[int]] = [set() for _ in parts]
    waits = [0] * len(parts)
    for a, b in dag.edges:
        i, j = part_of[a], part_of[b]
        if i != j and j not in after[i]:
            after[i].add(j)
            waits[j] += 1
    if saving:
        rank = _needed(rank, after, waits)
    ready = [(rank[i], i) for i in range(len(parts)) if waits[i] == 0]
    heapq.heapify(ready)
    launches = []
    while ready:
        _, i = heapq.heappop(ready)
        launches.append(parts[i])
        for j in after[i]:
            waits[j] -= 1
            if waits[j] == 0:
                heapq.heappush(ready, (rank[j], j))
    assert len(launches) == len(parts), "the groups wait for each other in a circle"
    return launches


def _ahead(dag: nx.DiGraph, parts: list[list[Group]], part_of: Mapping[Group, int], rank: list[float]) -> list[float]:
    """``rank`` with parameters gathered in front of what reads those gathered before: they come while that is computed."""
    first: dict[int, float] = {}  # reader of each gather
    for i, part in enumerate(parts):
        for g in part:
            if g.anchor is not None and g.anchor.op.name == "all_gather" and not dag.in_degree(g):
                first[i] = min((rank[part_of[b]] for b in dag.successors(g)), default=rank[i])
    found = [*rank]
    for before, i in pairwise(sorted(first, key=lambda i: (first[i], i))):
        found[i] = min(found[i], first[before] - 0.5)
    return found


def _needed(rank: list[float], after: list[set[int]], waits: list[int]) -> list[float]:
    """``rank`` in which none is behind a launch ``after`` it, of which each ``waits`` for so many."""
    left, pending, done = list(waits), [i for i, n in enumerate(waits) if n == 0], list[int]()
    while pending:
        done.append(i := pending.pop())
        for j in after[i]:
            left[j] -= 1
            if left[j] == 0:
                pending.append(j)
    found = list(rank)
    for i in reversed(done):
        found[i] = min([rank[i], *(found[j] for j in after[i])])
    return found
