"""Buckets: sums over processes that are sent in one piece, each when the last of its gradients is there.

    conv2.weight.grad --\
                         all_reduce (one, of both)        many small messages wait for the network many times,
    conv1.weight.grad --/                                 one of all starts when nothing is left to compute beside it

The tensors keep their places in the graph: an ``all_reduce`` has as many operands as its bucket, and the memory plan lays them
side by side (``schedule.memory``), so nothing is copied. Parameters of which each process has a part are gathered in buckets
too. Li et al., "PyTorch Distributed", VLDB 2020.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Node, Value
from graphrt.ops.base import cast
from graphrt.passes.bucket_size import Pace, chosen_size
from graphrt.passes.decision import Decision
from graphrt.passes.rewrite import rewrite
from graphrt.types import as_dtype, bfloat16

SENT = {("all_reduce", "bwd"), ("reduce_scatter", "bwd"), ("all_gather", "opt")}  # collectives and the phases they are of


def narrow_sums(graph: Graph, dtype: str | None, decisions: list[Decision]) -> Graph:
    """``graph`` with the sums of parameters' gradients over processes sent, and added up, in the half ``dtype``.

    Gradients of one number, and what is no gradient of a parameter, such as the sums of a norm, stay as they are. Verdicts are
    added to ``decisions``. The same object where ``dtype`` is None. Raises ArgumentError.
    """
    if dtype is None or graph.mesh is None:
        return graph
    half = as_dtype(dtype)
    if half is not bfloat16:
        raise ArgumentError(f"gradients are sent as they are (reduce_dtype=None), or in bfloat16; got {half}")

    def narrow(node: Node) -> list[Value] | None:
        of = graph.sources.get(node.origin.source)
        gradient = of is not None and of.op.name == "parameter" and node.origin.phase == "bwd"
        sums = node.op.name in ("all_reduce", "reduce_scatter") and node.attrs.get("op", "sum") == "sum"
        if not sums or not gradient or node.attrs["size"] == 1:
            return None
        wide, taken = node.types[0].dtype, node.inputs[0].type.size > 1 and node.types[0].dtype.itemsize > half.itemsize
        reason = "of a gradient, as reduce_dtype asks" if taken else "one number, or of as few bytes"
        decisions.append(Decision("wire", node.name, half.name, taken, reason, change="" if taken else "it were larger"))
        if not taken:
            return None
        sent = node.graph.append(node.op, [cast(v, half) for v in node.inputs], node.attrs)
        return [cast(v, wide) for v in sent.outputs]

    return rewrite(graph, narrow)


def fill_buckets(graph: Graph, size: int | None, decisions: list[Decision], pace: Pace | None = None) -> Graph:
    """``graph`` with the sums of gradients in buckets of at most about ``size`` bytes; 0 leaves each alone.

    None is the size that is best by ``pace`` (``bucket_size``). Verdicts are added to ``decisions``.
    """
    sums = [n for n in graph.nodes if _is_sent(n)]
    if len(sums) < 2 or size == 0:
        return graph
    position = {node: i for i, node in enumerate(graph.nodes)}
    sums = sorted(sums, key=lambda n: position[n] if _is_read(n) else max(position[v.node] for v in n.inputs))
    bit = {node: 1 << i for i, node in enumerate(sums)}
    waits: dict[Node, int] = {}  # which sums each node is made of
    for node in graph.nodes:
        waits[node] = bit.get(node, 0)
        for v in node.inputs:
            waits[node] |= waits[v.node]
    if size is None:
        grads = [n for n in sums if n.origin.phase == "bwd"]
        size = chosen_size(graph.nodes, pace, lambda size: _buckets(grads, waits, bit, size, []), decisions)
    buckets = _buckets(sums, waits, bit, size, decisions)
    return _merged(graph, buckets) if any(len(b) > 1 for b in buckets) else graph


def _is_sent(node: Node) -> bool:
    """Whether ``node`` is a sum of gradients, or gathers parameters."""
    return ((node.op.name, node.origin.phase) in SENT and node.attrs.get("op", "sum") == "sum") or _is_read(node)


def _is_read(node: Node) -> bool:
    """Whether ``node`` gathers a parameter of which each process has a part, to be read."""
    return node.op.name == "all_gather" and node.inputs[0].node.op.name == "parameter"


def _buckets(
    sums: Sequence[Node], waits: dict[Node, int], bit: dict[Node, int], size: int, decisions: list[Decision]
) -> list[list[Node]]:
    """``sums``, in the order in which what they send is there, by bucket; ``waits`` has the bits of those that a node is of."""
    found: list[list[Node]] = []
    open: dict[object, list[Node]] = {}  # the bucket that is being filled, by what must be alike
    for node in sums:
        kind = (node.op.name, *node.attrs.items(), node.inputs[0].dtype)
        bucket = open.get(kind)
        reason, change = _obstacle(node, bucket, waits, bit, size)
        if bucket is not None:
            decisions.append(
                Decision("bucket", node.name, bucket[0].name, not reason, reason or "both are there", change=change)
            )
        if bucket is None or reason:
            open[kind] = bucket = []
            found.append(bucket)
        bucket.append(node)
    return found


def _obstacle(
    node: Node, bucket: Sequence[Node] | None, waits: dict[Node, int], bit: dict[Node, int], size: int
) -> tuple[str, str]:
    """Why ``node`` is not put into ``bucket``, and what would have to change; empty where it is."""
    if bucket is None:
        return "", ""
    if sum(max(n.inputs[0].type.nbytes, n.types[0].nbytes) for n in (*bucket, node)) > size:
        return f"the bucket would be larger than {size} bytes", "buckets were larger (bucket_bytes)"
    members = sum(bit[n] for n in bucket)
    sent = [v.node for n in (*bucket, node) for v in n.inputs]
    if any(waits[n] & (members | bit[node]) for n in sent):
        return "one of them is made of the sum of the other", "they did not wait for each other"
    return "", ""


def _merged(graph: Graph, buckets: Sequence[Sequence[Node]]) -> Graph:
    """``graph`` with one node for each bucket; nodes stay in order but for those that wait for it."""
    bucket_of = {node: bucket for bucket in buckets if len(bucket) > 1 for node in bucket}
    position = {node: i for i, node in enumerate(graph.nodes)}
    new, table = graph.like(), dict[Value, Value]()
    waiting: dict[Node, int] = {}
    readers: dict[Node, list[Node]] = {n: [] for n in graph.nodes}
    for node in graph.nodes:
        parents = {v.node for v in node.inputs}
        waiting[node] = len(parents)
        for parent in parents:
            readers[parent].append(node)
    ready = [position[n] for n in graph.nodes if not waiting[n]]
    heapq.heapify(ready)
    arrived: set[Node] = set()
    while ready:
        node = graph.nodes[heapq.heappop(ready)]
        arrived.add(node)
        done: Sequence[Node] = [node]
        if node in bucket_of:
            if not arrived.issuperset(bucket_of[node]):
                continue
            done = bucket_of[node]
            with new.at(done[0].origin):
                operands = [table[v] for n in done for v in n.inputs]
                merged = new.append(
                    node.op, operands, node.attrs, done[0].name, [v.type.order for n in done for v in n.outputs]
                )
            table.update(zip([v for n in done for v in n.outputs], merged.outputs, strict=True))
        else:
            table.update(zip(node.outputs, new.adopt(node, [table[v] for v in node.inputs]).outputs, strict=True))
        for reader in (r for n in done for r in readers[n]):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, position[reader])
    new.take_results(graph, table)
    return new
