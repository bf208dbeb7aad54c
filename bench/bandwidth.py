"""Do memory-bound groups reach the speed of a copy? GB/s of graphrt beside torch.Tensor.copy_ of as many bytes, same run.

python -m bench.bandwidth [--size 16] [--rounds 20] [--save]

Bytes are those of the operands read once and of the result written once, from their shapes; a copy reads half of its bytes
and writes the other half. Neither side makes a new array: a graph's result goes into a parameter, as a copy goes into its
destination. Tensors that fit into the caches are faster than memory on both sides, so that each group is compared with a copy
of as many bytes and with one that no cache holds, which says what the machine's memory gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

import graphrt
import graphrt.ops as F
from bench.measure import interleave, report
from graphrt import Graph, Program, Value

COLUMNS = 1024  # elements of a row: 4 KB
MEMORY = 512 << 20  # bytes read and written by the copy that no cache holds


def elementwise(g: Graph, rows: int) -> Value:
    return F.relu(g.input("x", (rows, COLUMNS)) * g.input("y", (rows, COLUMNS)) + 1.0)


def softmax(g: Graph, rows: int) -> Value:
    return F.softmax(g.input("x", (rows, COLUMNS)), -1)


def layer_norm(g: Graph, rows: int) -> Value:
    return F.layer_norm(g.input("x", (rows, COLUMNS)), COLUMNS, g.input("weight", (COLUMNS,)), g.input("bias", (COLUMNS,)))


def cross_entropy(g: Graph, rows: int) -> Value:
    return F.cross_entropy(g.input("x", (rows, COLUMNS)), g.input("target", (rows,), "int64"))


GROUPS: dict[str, Callable[[Graph, int], Value]] = {
    "elementwise": elementwise,
    "softmax": softmax,
    "layer norm": layer_norm,
    "cross-entropy": cross_entropy,
}


def compiled(build: Callable[[Graph, int], Value], rows: int) -> tuple[Program, Callable[[], Any], int]:
    """The program, a call of it, and the bytes that it reads and writes."""
    graph = Graph()
    result = build(graph, rows)
    graph.update(graph.parameter("result", shape=result.shape, trainable=False), result)
    program = graphrt.compile(graph)
    rng, arrays = np.random.default_rng(0), {}
    for name, type in program.inputs.items():
        if type.dtype.is_int:
            arrays[name] = rng.integers(0, COLUMNS, type.shape)
        else:
            arrays[name] = rng.standard_normal(type.shape, np.float32)
    moved = sum(a.nbytes for a in arrays.values()) + result.type.nbytes
    return program, lambda: program(arrays), moved


def copy(nbytes: int) -> Callable[[], Any]:
    """A torch copy that reads and writes ``nbytes`` in all."""
    source = torch.ones(nbytes // 8)
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def main(
    group: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(GROUPS)}; all when left out")] = None,
    size: Annotated[list[int] | None, typer.Option(min=1, help="MB of the tensor x; 1, 4, 16, 64 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="calls in a turn")] = 5,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/bandwidth.jsonl")] = False,
) -> None:
    """Prints GB/s of each group and of the copy, and the one as a percentage of the other."""
    rows = []
    for name in group or GROUPS:
        for megabytes in size or [1, 4, 16, 64]:
            program, call, moved = compiled(GROUPS[name], megabytes * 2**20 // (4 * COLUMNS))
            timings = interleave({"graphrt": call, "copy": copy(moved), "memory": copy(MEMORY)}, rounds, calls)
            ours, theirs, memory = timings["graphrt"], timings["copy"], timings["memory"]
            assert ours is not None and theirs is not None and memory is not None
            rows.append(
                {"group": name, "MB": megabytes, "MB moved": moved / 2**20, "launches": program.launches}
                | {"ms": ours.median, "p10": ours.low, "p90": ours.high}
                | {"GB/s": moved / ours.median / 1e6, "copy GB/s": moved / theirs.median / 1e6}
                | {"memory GB/s": MEMORY / memory.median / 1e6, "% of copy": 100 * theirs.median / ours.median}
                | {"% of memory": 100 * moved / ours.median * memory.median / MEMORY}
            )
    report("memory-bound groups, float32, beside a torch copy of as many bytes", rows, "bandwidth" if save else None)


if __name__ == "__main__":
    typer.run(main)
