"""The size of buckets: that with which the sums of gradients are predicted to be there soonest.

    backward   ████████████████████████ │ the last gradient            small ones pay the latency of each,
    network        ▒▒▒▒▒▒  ▒▒▒▒▒▒ ▒▒▒▒▒▒│▒▒▒▒▒▒ the last bucket        of a large one more is left when nothing runs beside it

A bucket is sent when its last gradient is there and the network is free. An exchange takes so long for each of its steps and so
long for each byte (alpha and beta), by a ring or by two trees: Thakur, Rabenseifner and Gropp, "Optimization of collective
communication operations in MPICH", 2005; Sanders, Speck and Traeff, "Two-tree algorithms for full bandwidth broadcast,
reduction and scan", 2009.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from graphrt.ir import Node
from graphrt.op import Kind
from graphrt.passes.decision import Decision

BYTES = 8 << 20  # of a bucket, where nothing is predicted, or all sizes are as good
MATTERS = 0.01  # of a step's predicted time that another size must save
SIZES = tuple(1 << n for n in range(20, 27))  # of which one is chosen
_FREE = (Kind.SOURCE, Kind.VIEW, Kind.ELEMENTWISE, Kind.RANDOM, Kind.GENERATED, Kind.COLLECTIVE)  # or part of another's kernel


@dataclass(frozen=True)
class Pace:
    """A target's predictions, in seconds: of a flop, of a byte of memory, of a launch; of a step of an exchange between two
    processes (``latency``), and of a byte that is ``sent`` there."""

    flop: float
    byte: float
    launch: float
    latency: float
    sent: float

    def computes(self, node: Node) -> float:
        """The time of ``node``; what is computed in others' kernels takes none."""
        if node.op.kind in _FREE:
            return 0.0
        moved = sum(v.type.nbytes for v in node.inputs) + sum(t.nbytes for t in node.types)
        return self.launch + max(moved * self.byte, node.op.flops(node) * self.flop)

    def exchanges(self, name: str, processes: int, size: int) -> float:
        """The time of the collective called ``name`` of ``size`` bytes, the whole tensor's, by the faster algorithm."""
        ring = (processes - 1) * self.latency + (processes - 1) / processes * size * self.sent
        if name != "all_reduce":
            return ring
        return min(2 * ring, 2 * math.ceil(math.log2(processes)) * self.latency + 2 * size * self.sent)


Buckets = Sequence[Sequence[Node]]


def chosen_size(nodes: Sequence[Node], pace: Pace | None, fill: Callable[[int], Buckets], decisions: list[Decision]) -> int:
    """The size in bytes with which the sums among ``nodes``, which ``fill`` puts into buckets of a size, are there soonest.

    It is ``BYTES`` where another would save little. What was decided is added to ``decisions``.
    """
    if pace is None:
        return BYTES
    clock, there = 0.0, dict[Node, float]()  # when each is computed
    for node in nodes:
        clock += pace.computes(node)
        there[node] = clock
    behind = {size: _last(fill(size), there, pace) - clock for size in SIZES}
    best = min(SIZES, key=lambda size: (behind[size], abs(size - BYTES)))
    chosen = best if behind[BYTES] - behind[best] > MATTERS * clock else BYTES
    if max(behind.values()) == min(behind.values()):
        return chosen
    for size in SIZES:
        about = f"the last sum is there {1e3 * behind[size]:.3f} ms behind the last kernel, by prediction"
        about += f", and a step takes {1e3 * clock:.3f} ms" if size == chosen else ""
        change = "" if size == chosen else f"bucket_bytes={size} asked for it"
        decisions.append(Decision("buckets", "bucket_bytes", f"{size >> 20} MB", size == chosen, about, change=change))
    return chosen


def _last(buckets: Buckets, there: Mapping[Node, float], pace: Pace) -> float:
    """The time at which the last of ``buckets`` has been sent, of which each is begun behind those before."""
    free = 0.0
    for bucket in sorted(buckets, key=lambda b: max(there[v.node] for n in b for v in n.inputs)):
        size = sum(max(n.inputs[0].type.nbytes, n.types[0].nbytes) for n in bucket)
        ready = max(there[v.node] for n in bucket for v in n.inputs)
        free = max(free, ready) + pace.exchanges(bucket[0].op.name, bucket[0].attrs["size"], size)
    return free
