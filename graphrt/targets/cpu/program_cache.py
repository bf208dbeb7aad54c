"""Programs that were compiled before, found by their graphs: what a cpu program needs to run, without scheduling it again.

A record lies beside the shared object in the cache. Its name follows from all that the object depends on: the graph but for
the lines it was written on, the memory orders of its state, flags, this package's sources, compiler and processor.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import marshal
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import networkx as nx
import numpy as np

from graphrt.config import Flags
from graphrt.files import intact, sealed, whole
from graphrt.ir import Graph
from graphrt.op import Kind, OpDef, Order
from graphrt.ops.body import Loop
from graphrt.passes.stages import Fusion
from graphrt.runtime.exchange import Exchanges
from graphrt.runtime.lowering import Interface
from graphrt.targets.cpu.build import folder, identity
from graphrt.types import TensorType

_PACKAGE = Path(__file__).parents[2]
# Rooms of the package that come behind the compiler: what they make of a graph is in the graph.
LATER = {*"nn optim data models train visualize gradcheck frontends bench inspection cli".split()}
_TYPES = ("inputs", "outputs", "state")


@dataclass(frozen=True)
class CachedProgram:
    """A compiled program: its interface and what ``CpuBinary`` is made with; ``object`` is the file of its code.

    Of its ``launches`` the first ``unwritten`` write no state; ``exchanges`` are those that other processes take part in.
    """

    interface: Interface
    object: str
    arena: int
    entries: list[tuple[str, str]]
    frozen: int
    launches: int
    unwritten: int
    exchanges: Exchanges | None = None


def key(graph: Graph, orders: Mapping[str, Order], fusion: Fusion, *settings: object) -> str:
    """The key of the record of ``graph`` compiled with the flags in force; empty where an op is not graphrt's own.

    ``orders`` are the memory orders of state that exists already, ``settings`` what else decides how it is compiled.
    """
    if not all(map(_own, _ops(graph))):
        return ""  # what it does may have changed with the program that defines it
    flags = replace(Flags.read(), cache=Path(), target="", threads=0, debug=0, poison=False, fuse="", timeout=0.0)
    held = sorted((name, order) for name, order in orders.items() if name in graph.sources)
    fused = sorted(fusion.stages), sorted(map(sorted, fusion.apart))
    parts = held, fused, settings, flags, _sources(), _versions(), identity()
    digest = hashlib.sha256(repr(parts).encode())
    digest.update(_content(graph))
    return digest.hexdigest()[:24]


def _content(graph: Graph) -> bytes:
    """All of ``graph`` but the user's lines, and the values of parameters, which no pass reads.

    As marshal writes it in its first version, whose bytes follow from what is written alone.
    """
    number = {v: i for i, v in enumerate(graph.values())}
    nodes = []
    for node in graph.nodes:
        types = [(t.shape, t.dtype.name, t.order, t.varying) for t in node.types]
        origin, attrs = node.origin, repr([*node.attrs.items()]) if node.attrs else ""
        about = node.op.name, node.name, attrs, types, origin.phase, origin.source, origin.part
        nodes.append((*about, [number[v] for v in node.inputs]))
    outputs = [(name, number[v], graph.orders.get(name)) for name, v in graph.outputs.items()]
    updates = [(name, number[v]) for name, v in graph.updates.items()]
    return marshal.dumps((str(graph.mesh), nodes, outputs, updates), 0)


def find(key: str) -> CachedProgram | None:
    """The record of ``key``, if it is there whole, and the object too."""
    try:
        found: dict[str, Any] = json.loads(sealed(_path(key))) if key else {}
        made = found.pop("interface")
        for kind in _TYPES:
            made[kind] = {name: TensorType.parse(type) for name, type in made[kind].items()}
        entries = [(space, name) for space, name in found.pop("entries")]
        exchanges = Exchanges.of_json(found.pop("exchanges"))
        program = CachedProgram(Interface(**made), entries=entries, exchanges=exchanges, **found)
        return program if Path(program.object).name == program.object and intact(folder() / program.object) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # none, or none that is whole: compile again


def keep(key: str, program: CachedProgram) -> None:
    """Writes the record of ``key``, if the cache can be written: objects may lie in one that cannot."""
    if not key:
        return
    made = dict(vars(program.interface))
    for kind in _TYPES:
        made[kind] = {name: str(type) for name, type in made[kind].items()}
    with contextlib.suppress(OSError), whole(_path(key), sealed=True) as file:
        exchanges = program.exchanges and program.exchanges.to_json()
        file.write_text(json.dumps({**vars(program), "interface": made, "exchanges": exchanges}))


def _ops(graph: Graph) -> set[OpDef]:
    """The ops of ``graph``, and of the bodies of its loops."""
    found = {node.op for node in graph.nodes}
    if any(op.kind is Kind.LOOP for op in found):
        found |= {op for node in graph.nodes if node.op.kind is Kind.LOOP for op in _ops(Loop.of(node).body)}
    return found


@functools.cache
def _own(op: OpDef) -> bool:
    """Whether every rule of ``op`` is of the code that is part of the key, or NumPy's."""
    return all(_part_of_key(str(getattr(rule, "__module__", "numpy"))) for rule in vars(op).values() if callable(rule))


def _part_of_key(module: str) -> bool:
    package, room, *_ = f"{module}..".split(".")
    return package in ("numpy", "_operator") or (package == "graphrt" and room not in LATER)


def _path(key: str) -> Path:
    return folder() / f"program-{key}.json"


@functools.cache
def _sources() -> str:
    """The code of this package that graphs pass through, as one short text."""
    places = [p for p in sorted(_PACKAGE.iterdir()) if p.stem not in LATER]
    files = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _versions() -> tuple[str, ...]:
    """The versions of what passes and the scheduler reckon with."""
    return platform.python_version(), np.__version__, nx.__version__, ml_dtypes.__version__
