"""Transaction: a part of a graph that is built whole or not at all; and the line of the user's for which it is built.

Python's frames say whose line that is. What is built in one transaction is built for whoever began it, unless it calls the
user back, so frames outside of it are looked at once.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from graphrt.node import Origin

if TYPE_CHECKING:
    from graphrt.ir import Graph

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MODELS, _COMMANDS = f"{_PACKAGE}models{os.sep}", (f"{_PACKAGE}cli{os.sep}", f"{_PACKAGE}inspection{os.sep}")
_Place = tuple[str, int, bool]  # file, line, and whether that is a command's, for which a model's line says more


class Transaction:
    """A block that takes back every node appended to ``graph`` inside when an error is raised."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __enter__(self) -> None:
        graph = self.graph
        self.nodes, self.entries, self.counts = len(graph.nodes), len(graph._before), graph._counts.copy()
        self.frame, self.place = sys._getframe(1), None
        graph._open.append(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        graph = self.graph
        graph._open.pop()
        if isinstance(error, Exception):
            self._take_back()
        if not graph._open:
            graph._before.clear()
        del self.frame

    def _take_back(self) -> None:
        graph = self.graph
        for node in graph.nodes[self.nodes :]:
            graph.sources.pop(node.name, None)
        del graph.nodes[self.nodes :]
        graph._counts = self.counts
        while len(graph._before) > self.entries:
            table, name, old = graph._before.pop()
            table.pop(name, None)
            if old is not None:
                table[name] = old

    frame: FrameType  # that it is a block of
    place: _Place | None  # of whom that frame works for, once that was asked


@functools.cache
def _room(file: str) -> str:
    """The owner of the code in ``file``: the user's, that of models or commands, or another part of this package."""
    found = {_COMMANDS[0]: "commands", _COMMANDS[1]: "commands", _MODELS: "models", _PACKAGE: "graphrt"}
    return next((room for folder, room in found.items() if file.startswith(folder)), "user")


def origin_of_caller(graph: Graph, phase: str, source: str) -> Origin:
    """The user's line; under a command that builds a model of graphrt's there is none, and it is the model's."""
    file, line, _ = _place(sys._getframe(1), graph._open)
    return Origin(file, line, phase, source)


def _place(start: FrameType, open: Sequence[Transaction]) -> _Place:
    """The place of the first frame from ``start`` outwards that is not this package's; ``open`` transactions know theirs."""
    frame = last = start
    model: FrameType | None = None
    inner = open[-1].frame if open else None
    while True:
        back, room = frame.f_back, _room(frame.f_code.co_filename)
        if back is None or room == "user":
            return frame.f_code.co_filename, frame.f_lineno, False
        if frame is inner:
            found = open[-1].place = open[-1].place or _place(frame, open[:-1])
            return (model.f_code.co_filename, model.f_lineno, True) if model and found[2] else found
        if room == "models":
            model = model or frame
        elif room == "commands":
            frame = model or last
            return frame.f_code.co_filename, frame.f_lineno, True
        frame, last = back, frame
