"""Row chunks: a product of many rows is made a few rows at a time, where all that is made of its rows is small.

    z = h @ w, p = softmax(z), dz = p - y, dw = h.T @ dz, dh = dz @ w          z and dz [N, V] are as large as they look
    for h', y' of each N / K rows: z', p', dz'; loss' and dh' are stacked, dw += h'.T @ dz'              z' [N / K, V] is not

The last layer of a language model and its cross-entropy, forward and backward, are what this is for (as Liger Kernel does by
hand: Hsu et al., 2024; "Cut Your Losses": Wijmans et al., ICLR 2025): logits are used up row by row, so no more of them than a
chunk's need exist, and nothing is computed twice. The chunks are a loop, whose states are the sums over all rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.ops.base import broadcast_to, cast, widened
from graphrt.ops.elementwise import add
from graphrt.ops.slicing import concat, getitem
from graphrt.ops.tracing import Trace
from graphrt.ops.view import permute, reshape
from graphrt.passes.decision import Decision
from graphrt.passes.loops import FEW, tidy_loops
from graphrt.passes.row_region import Refusal, Region
from graphrt.passes.simplify import dead_code
from graphrt.types import HALVES, DType, float32


def chunk_rows(graph: Graph, most: int, loops: bool, decisions: list[Decision]) -> Graph:
    """``graph`` in which products of more than twice ``most`` bytes are made in chunks of at most that, unless needed whole.

    The chunks are a loop, or, unless there are ``loops``, written out one by one. Appends to ``decisions``.
    """
    if graph.mesh is not None and graph.mesh.size > 1:
        return graph
    for name in [n.name for n in graph.nodes if n.origin.phase == "fwd" and _is_long(n, most)]:
        product = next((n for n in graph.nodes if n.name == name), None)
        if product is None:  # a part of another's chunks
            continue
        z = product.outputs[0]
        try:
            region = Region.of(graph, product)
            length = _length(region, most)
            chunked = _chunked(graph, region, length, loops)
        except Refusal as refusal:
            decisions.append(Decision("chunks", name, "chunks of rows", False, refusal.reason, change=refusal.change))
            continue
        rows = z.shape[0] // length
        reason = f"{length} times {rows} rows need {z.type.nbytes // length:,} bytes of {z.type.nbytes:,}, and nobody reads all"
        decisions.append(Decision("chunks", name, "chunks of rows", True, reason))
        graph = tidy_loops(chunked, True) if loops else dead_code(chunked)
    return graph


def _is_long(node: Node, most: int) -> bool:
    """Whether ``node`` is a product of more than twice ``most`` bytes, and of many times the bytes of its left operand."""
    if node.op.kind is not Kind.CONTRACTION or len(node.types) != 1 or len(node.types[0].shape) != 2 or len(node.inputs) != 2:
        return False
    return node.types[0].nbytes > 2 * most and node.inputs[0].ndim == 2 and 4 * node.inputs[0].type.size <= node.types[0].size


def _length(region: Region, most: int) -> int:
    """The number of chunks, whose rows are equally many. Raises Refusal."""
    z, count = region.product.outputs[0], region.count
    sums = sum(v.type.size * _dtype_of_sum(v).numpy.itemsize for v in region.sums)
    if 4 * sums > z.type.nbytes:  # each is there twice, before and after a chunk
        raise Refusal(
            f"its sums over rows are {sums:,} bytes, more than a quarter of the product's {z.type.nbytes:,}",
            f"it had {-(-4 * sums // (z.type.nbytes // z.shape[0])):,} rows or more",
        )
    wanted = max(min(most * count // z.type.nbytes, count // (FEW + 1)), 1)  # a loop of few steps is none
    wanted = max(wanted, -(-sums * count // z.type.nbytes))  # all chunks together move no more of sums than of the product
    each = next(n for n in range(wanted, 0, -1) if count % n == 0)
    if 4 * each < wanted or count == 1:
        raise Refusal(f"{count:,} rows are no number of equal chunks of about {wanted:,}", "they were, as powers of two are")
    return count // each


def _chunked(graph: Graph, region: Region, length: int, loops: bool) -> Graph:
    """``graph`` with ``region`` in ``length`` chunks, in a loop if there are ``loops``; in front is what it needs."""
    new, table = graph.like(), dict[Value, Value]()
    again = set(region.nodes)

    def adopt(node: Node) -> None:
        with new.at(node.origin):
            table.update(zip(node.outputs, new.adopt(node, [table[v] for v in node.inputs]).outputs, strict=True))

    for node in graph.nodes:
        if node not in region.behind:
            adopt(node)
    phase = "bwd" if any(n.origin.phase == "bwd" for n in region.nodes) else region.product.origin.phase
    with new.at(replace(region.product.origin, phase=phase)):
        table.update((_looped if loops and length > FEW else _written_out)(new, region, table, length))
    for node in graph.nodes:
        if node in region.behind and node not in again:
            adopt(node)
    new.take_results(graph, table)
    return new


def _looped(new: Graph, region: Region, table: Mapping[Value, Value], length: int) -> dict[Value, Value]:
    """The results of ``region`` from a loop of ``length`` steps on the graph ``new``, whose ``table`` has what is outside."""
    cut = {v: _cut(_leaf(new, v, region.rows[v], table), region.rows[v], length) for v in region.leaves}
    begin = {v: broadcast_to(new.constant(0.0, _dtype_of_sum(v)), v.shape) for v in region.sums}
    with Trace(new, length, False) as trace:
        states = {v: trace.state(zeros, history=False) for v, zeros in begin.items()}
        here = _chunk(new, region, table, {v: trace.sequence(parts) for v, parts in cut.items()}, length)
        for v, state in states.items():
            trace.become(state, add(state, here[v]))
        for v in region.stacked:
            trace.stack(here[v])
        outputs = trace.close()
    found = {v: _joined(outputs.stacked(here[v]), region.rows[v]) for v in region.stacked}
    return found | {v: cast(outputs.final(state), v.dtype) for v, state in states.items()}


def _written_out(new: Graph, region: Region, table: Mapping[Value, Value], length: int) -> dict[Value, Value]:
    """The results of ``region`` from ``length`` chunks, one after the other, which are kept apart (``Origin.part``)."""
    cut = {v: _cut(_leaf(new, v, region.rows[v], table), region.rows[v], length) for v in region.leaves}
    chunks, sums = list[dict[Value, Value]](), dict[Value, Value]()
    for i in range(length):
        given = {v: getitem(parts, i) for v, parts in cut.items()}
        chunks.append(here := _chunk(new, region, table, given, length, i + 1))
        with new.at(replace(region.product.origin, phase="bwd", part=i + 1)):
            sums = {v: add(sums[v], here[v]) if i else here[v] for v in region.sums}
    found = {v: concat([here[v] for here in chunks], region.rows[v]) for v in region.stacked}
    return found | {v: cast(total, v.dtype) for v, total in sums.items()}


def _chunk(
    new: Graph, region: Region, table: Mapping[Value, Value], given: Mapping[Value, Value], length: int, part: int = 0
) -> dict[Value, Value]:
    """All values of one of ``length`` chunks, of which those that are cut are ``given``; ``part`` is its number."""
    here = {v: broadcast_to(x, region.shape(v, length)) for v, x in given.items()}
    for node in region.nodes:
        operands = [here[v] if v in here else table[v] for v in node.inputs]
        if not set(node.outputs).isdisjoint(region.sums):  # halves are summed as float32
            operands = [widened(v) for v in operands]
        name = node.name if node in region.behind and not part else None
        with new.at(replace(node.origin, part=part)):
            made = new.append(node.op, operands, region.part(node, length), name)
        here.update(zip(node.outputs, made.outputs, strict=True))
    return here


def _dtype_of_sum(v: Value) -> DType:
    return float32 if v.dtype in HALVES else v.dtype


def _leaf(new: Graph, v: Value, dim: int, table: Mapping[Value, Value]) -> Value:
    """``v`` on the graph ``new``, to be cut along ``dim``; what counts rows is as narrow as can be."""
    if v.node.op.kind is not Kind.GENERATED:
        return table[v]
    shape = tuple(n if d == dim else 1 for d, n in enumerate(v.shape))
    return new.append(v.node.op, (), {**v.node.attrs, "shape": shape}).outputs[0]


def _cut(v: Value, dim: int, length: int) -> Value:
    """``v`` as ``length`` parts along ``dim``, one behind the other along a dimension in front."""
    parts = reshape(v, (*v.shape[:dim], length, v.shape[dim] // length, *v.shape[dim + 1 :]))
    return permute(parts, (dim, *(d for d in range(parts.ndim) if d != dim)))


def _joined(parts: Value, dim: int) -> Value:
    """The reverse of ``_cut``."""
    length, *shape = parts.shape
    order = [*range(1, dim + 1), 0, *range(dim + 1, parts.ndim)]
    return reshape(permute(parts, order), (*shape[:dim], length * shape[dim], *shape[dim + 1 :]))
