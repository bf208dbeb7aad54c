"""Collectives of a compiled program: which there are, where their tensors lie, and a run that starts and awaits them."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from graphrt.mesh import Mesh
from graphrt.runtime.collectives import Collectives, Started
from graphrt.runtime.processes import processes
from graphrt.types import TensorType

# Of a collective that is over: its launch, and when it began, was waited for, and was there, in nanoseconds.
Note = Callable[[int, int, int, int], None]
Place = tuple[int, int, TensorType]  # entry of the program's table of pointers, bytes from there, what lies there


@dataclass(frozen=True)
class Exchange:
    """The collective that launch number ``launch`` is; it must be over before launch ``until``."""

    launch: int
    until: int
    op: str
    attrs: Mapping[str, Any]
    sources: Sequence[Place]
    results: Sequence[Place]

    def to_json(self) -> dict[str, Any]:
        """Plain data, which ``of_json`` reads."""
        places = {side: [[e, at, str(t)] for e, at, t in getattr(self, side)] for side in ("sources", "results")}
        own = {"launch": self.launch, "until": self.until, "op": self.op, "attrs": repr(dict(self.attrs))}
        return {**own, **places}

    @staticmethod
    def of_json(data: Mapping[str, Any]) -> Exchange:
        """The reverse of ``to_json``. Raises KeyError, ValueError, TypeError."""
        attrs = ast.literal_eval(data["attrs"])
        sources, results = ([(int(e), int(at), TensorType.parse(t)) for e, at, t in data[s]] for s in ("sources", "results"))
        return Exchange(int(data["launch"]), int(data["until"]), data["op"], attrs, sources, results)


@dataclass(frozen=True)
class Exchanges:
    """All collectives of a program of the processes of ``mesh``."""

    mesh: Mesh
    all: Sequence[Exchange]

    def to_json(self) -> dict[str, Any]:
        """Plain data, which ``of_json`` reads."""
        return {"mesh": str(self.mesh), "all": [exchange.to_json() for exchange in self.all]}

    @staticmethod
    def of_json(data: Mapping[str, Any] | None) -> Exchanges | None:
        """The reverse of ``to_json``. Raises KeyError, ValueError, TypeError."""
        return None if data is None else Exchanges(Mesh.parse(data["mesh"]), list(map(Exchange.of_json, data["all"])))

    @contextmanager
    def running(
        self, view: Callable[[Place], Any], launch: Callable[[int], None], beside: bool, note: Note
    ) -> Iterator[Callable[[int], None]]:
        """In the block, what runs a launch by its number: one after the other, collectives ``beside`` those behind them.

        ``view`` shows the tensor of torch in a place, ``launch`` runs what is no collective. Each that is over is given to
        ``note``. Behind the block all are.
        """
        by_launch = {exchange.launch: exchange for exchange in self.all}
        joined, pending = Collectives(processes(self.mesh)), dict[int, tuple[int, Started]]()

        def wait(number: int) -> None:
            begun, started = pending.pop(number)
            waiting = time.perf_counter_ns()
            started.wait()
            note(number, begun, waiting, time.perf_counter_ns())

        def step(number: int) -> None:
            for start in [s for s in pending if by_launch[s].until <= number]:
                wait(start)
            if number in by_launch:
                pending[number] = time.perf_counter_ns(), _start(joined, by_launch[number], view)
                if not beside:
                    wait(number)
            else:
                launch(number)

        try:
            yield step
        finally:  # also where Ctrl-C ends it: until then they write into its memory
            for number in [*pending]:
                wait(number)


def _start(joined: Collectives, exchange: Exchange, view: Callable[[Place], Any]) -> Started:
    sources, results = map(view, exchange.sources), map(view, exchange.results)
    return joined.start(exchange.op, exchange.attrs, list(sources), list(results))
