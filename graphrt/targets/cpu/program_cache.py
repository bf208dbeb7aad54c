"""Programs that were compiled before, found by their graphs: what a cpu program needs to run, without scheduling it again.

A record lies beside the shared object in the cache. Its name follows from all that the object depends on: the graph but for
the lines it was written on, the memory orders of its state, flags, this package's sources, compiler and processor.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphrt.config import Flags
from graphrt.files import intact, sealed, whole
from graphrt.ir import Graph
from graphrt.op import OpDef, Order
from graphrt.passes.stages import Fusion
from graphrt.runtime.exchange import Exchanges
from graphrt.runtime.lowering import Interface
from graphrt.targets.cpu.build import folder, identity
from graphrt.types import TensorType

_PACKAGE = Path(__file__).parents[2]
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
    if not all(map(_own, {node.op for node in graph.nodes})):
        return ""  # what it does may have changed with the program that defines it
    flags = replace(Flags.read(), cache=Path(), target="", threads=0, debug=0, poison=False, fuse="", timeout=0.0)
    held = sorted((name, order) for name, order in orders.items() if name in graph.sources)
    parts = (graph.text(lines=False), held, str(fusion), settings, flags, _sources(), identity())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


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


@functools.cache
def _own(op: OpDef) -> bool:
    """Whether every rule of ``op`` is this package's, whose sources are part of the key, or NumPy's."""
    rules = [rule for rule in vars(op).values() if callable(rule)]
    return all(str(getattr(rule, "__module__", "numpy")).split(".")[0] in ("graphrt", "numpy", "_operator") for rule in rules)


def _path(key: str) -> Path:
    return folder() / f"program-{key}.json"


@functools.cache
def _sources() -> str:
    """This package's code as one short text."""
    files = sorted(_PACKAGE.rglob("*.py"))
    return hashlib.sha256(b"\0".join(p.read_bytes() for p in files)).hexdigest()
