"""The time of a collective by an alpha-beta model: so many steps that each take a latency, and bytes over a bandwidth.

The model and most constants are those by which NCCL itself chooses between its algorithms (``Topology.sources``). Bandwidths
are of the bus: what a rank sends and receives in a second, so that a ring's all_reduce of ``size`` bytes takes 2 (n - 1) / n
``size`` over it. Times are in seconds, sizes in bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.measure import RESULTS

KINDS = ("all_reduce", "reduce_scatter", "all_gather")
MEASURED = RESULTS / "scale_gloo.jsonl"


@dataclass(frozen=True)
class Algorithm:
    """A way to carry out collectives, ``shape`` ring, tree or network (switches add up).

    A collective takes ``start`` seconds, and ``inside`` or ``between`` for each step in a node or from node to node; it gets
    ``share`` of the bus's bandwidth, at most ``most`` in one node, in two, and in more.
    """

    name: str
    shape: str
    start: float
    inside: float
    between: float
    share: float = 1.0
    most: tuple[float, float, float] = (math.inf, math.inf, math.inf)


@dataclass(frozen=True)
class Topology:
    """Nodes of ``node`` ranks: bandwidth of the bus ``inside`` a node, and ``between`` nodes, of all adapters of one.

    ``sources`` says where each figure is from.
    """

    name: str
    node: int
    inside: float
    between: float
    algorithms: tuple[Algorithm, ...]
    sources: Mapping[str, str] = field(default_factory=dict)

    def nodes(self, ranks: int) -> int:
        """The number of nodes that hold ``ranks``."""
        return -(-ranks // self.node)

    def bus(self, ranks: int) -> float:
        """The bandwidth of the bus of ``ranks``."""
        return self.inside if ranks <= self.node else min(self.inside, self.between)


def moved(kind: str, ranks: int, size: float) -> float:
    """The bytes that each rank must send in a collective of ``size`` bytes, the whole tensor: the lower bound, a ring's."""
    return (2 if kind == "all_reduce" else 1) * (ranks - 1) / ranks * size


def seconds(kind: str, algorithm: Algorithm, topology: Topology, ranks: int, size: float) -> float:
    """Seconds of a collective of ``size`` bytes, the whole tensor's; infinite where ``algorithm`` has none of ``kind``."""
    if ranks == 1:
        return 0.0
    nodes = topology.nodes(ranks)
    bandwidth = min(algorithm.share * topology.bus(ranks), algorithm.most[min(nodes, 3) - 1])
    local = min(ranks, topology.node)
    if algorithm.shape == "ring":
        turns = 2 if kind == "all_reduce" else 1
        hops = turns * nodes if nodes > 1 else 0
        steps = turns * (ranks - 1)
        latency = max(steps - hops, 0) * algorithm.inside + min(hops, steps) * algorithm.between
        return algorithm.start + latency + moved(kind, ranks, size) / bandwidth
    if kind != "all_reduce" or (algorithm.shape == "network" and nodes == 1):
        return math.inf
    depth = math.ceil(math.log2(nodes)) if algorithm.shape == "tree" else 0.5
    latency = 2 * ((local - 1) * algorithm.inside + depth * algorithm.between)
    return algorithm.start + latency + 2 * size / bandwidth


def hierarchical(topology: Topology, ranks: int, size: float) -> float:
    """Seconds of an all_reduce that scatters inside each node, reduces each part between nodes, and gathers inside again.

    Between nodes each rank has an adapter of its own.
    """
    nodes = topology.nodes(ranks)
    if nodes == 1 or ranks % topology.node:
        return math.inf
    part = Topology(topology.name, 1, topology.inside, topology.between / topology.node, topology.algorithms)
    across = min(seconds("all_reduce", a, part, nodes, size / topology.node) for a in topology.algorithms)
    around = [best(kind, topology, topology.node, size)[0] for kind in ("reduce_scatter", "all_gather")]
    return sum(around) + across


def best(kind: str, topology: Topology, ranks: int, size: float) -> tuple[float, str]:
    """(seconds, algorithm) of the fastest way to carry out one collective of ``size`` bytes, the whole tensor's."""
    found = [(seconds(kind, a, topology, ranks, size), a.name) for a in topology.algorithms]
    if kind == "all_reduce" and topology.nodes(ranks) < ranks:
        found.append((hierarchical(topology, ranks, size), "hierarchical"))
    return min(found)


def _nccl(name: str, shape: str, start: float, inside: float, between: float, share: float, *most: float) -> Algorithm:
    """An algorithm of NCCL's table, microseconds and gigabytes a second."""
    limits = [1e9 * m for m in most] or [math.inf] * 3
    return Algorithm(name, shape, 1e-6 * start, 1e-6 * inside, 1e-6 * between, share, (limits[0], limits[1], limits[2]))


# NCCL 2.20 src/graph/tuning.cc: base latency, latency of a hop over NVLink and over the network, share of the bus, and limits
# on Hopper in one node, two, and more. LL is limited as with Intel CPUs. The limits of a channel never bind and are left out.
_NCCL = (
    _nccl("ring LL", "ring", 6.6, 0.6, 2.7, 1 / 4, 87.7, 39.0, 20.4),
    _nccl("ring LL128", "ring", 14.0, 1.9, 4.0, 0.92),
    _nccl("ring simple", "ring", 8.4, 3.4, 14.0, 1.0),
    _nccl("tree LL", "tree", 6.8, 0.6, 5.0, 0.92 / 3.8, 87.7, 39.0, 20.4),
    _nccl("tree LL128", "tree", 14.0, 1.25, 8.5, 0.92 * 120 / 128),
    _nccl("tree simple", "tree", 0.0, 28.0, 28.0, 0.92),
)
_SHARP = _nccl("network", "network", 0.0, 2.8, 30.0, 1.0)

_SOURCES = {
    "node": "DGX H100 data sheet: 8 GPUs",
    "inside": "18 NVLinks (data sheet) of 20.6 GB/s each way, as NCCL counts a link of Hopper (src/graph/topo.h); nominal 25",
    "between": "DGX H100 data sheet: 8 ConnectX-7 of 400 Gb/s, one for each GPU",
    "algorithms": "NCCL 2.20.3, src/graph/tuning.cc: baseLat, hwLat and the bandwidths of ncclTopoTuneModel",
}

DGX_H100 = Topology("dgx-h100", 8, 18 * 20.6e9, 8 * 50e9, _NCCL, _SOURCES)
DGX_H100_SHARP = Topology("dgx-h100-sharp", 8, 18 * 20.6e9, 8 * 50e9, (*_NCCL, _SHARP), _SOURCES)


def gloo_local() -> Topology:
    """Processes of this machine, by what ``--measure`` found last. Raises LookupError where it was not run."""
    if not MEASURED.exists():
        raise LookupError("gloo was not measured here: python -m bench.scale --measure")
    rows = [json.loads(line) for line in MEASURED.read_text().splitlines()]
    last = rows[-1]
    ring = Algorithm("gloo", "ring", 0.0, last["alpha"], last["alpha"])
    source = {"algorithms": f"measured with 2 processes, bench/results/{MEASURED.name}"}
    return Topology("gloo-local", 1 << 20, last["bandwidth"], last["bandwidth"], (ring,), source)


def find(name: str) -> Topology:
    """The topology called ``name``. Raises LookupError."""
    if name == "gloo-local":
        return gloo_local()
    known = {t.name: t for t in (DGX_H100, DGX_H100_SHARP)}
    if name not in known:
        raise LookupError(f"no topology {name!r}; there is {', '.join(known)} and gloo-local")
    return known[name]
