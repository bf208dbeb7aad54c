"""The loop that a node is: its body, a graph that is an attribute as a text, and what it hands from step to step."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind


@functools.lru_cache(1024)
def parse_body(text: str) -> Graph:
    """The graph that a body's ``text`` is; nobody may change it."""
    return Graph.parse(text)


@dataclass(frozen=True)
class Loop:
    """A loop as its node says: its body, whose inputs are ``states``, an element of each of ``sequences`` and ``constants``.

    A body's outputs are the next states, then the results that are stacked over ``length`` steps. ``history`` says of which
    states all are kept: those before each step and, at the end where the loop arrives, the last; of the others only the last.
    """

    body: Graph
    states: tuple[Value, ...]
    sequences: tuple[Value, ...]
    constants: tuple[Value, ...]
    history: tuple[bool, ...]
    length: int
    reverse: bool

    @staticmethod
    def of(node: Node) -> Loop:
        """The loop that ``node`` is."""
        a = node.attrs
        states, sequences = len(a["history"]), a["sequences"]
        return Loop(
            parse_body(a["body"]),
            node.inputs[:states],
            node.inputs[states : states + sequences],
            node.inputs[states + sequences :],
            tuple(a["history"]),
            a["length"],
            a["reverse"],
        )

    @property
    def arguments(self) -> list[Value]:
        """The inputs of the body."""
        return [n.outputs[0] for n in self.body.nodes if n.op.kind is Kind.SOURCE]

    @property
    def results(self) -> list[Value]:
        """The outputs of the body."""
        return list(self.body.outputs.values())

    @property
    def met(self) -> slice:
        """The places in a history of the states that steps begin with, in the order of the sequences."""
        return slice(1, None) if self.reverse else slice(None, -1)

    @property
    def left(self) -> slice:
        """The places in a history of the states that steps end with."""
        return slice(None, -1) if self.reverse else slice(1, None)

    @property
    def last(self) -> int:
        """The place in a history of the last state."""
        return 0 if self.reverse else self.length


def contracted(node: Node) -> int:
    """The flops of contractions in ``node``, of a loop those of all its steps."""
    if node.op.kind is Kind.LOOP:
        loop = Loop.of(node)
        return loop.length * sum(map(contracted, loop.body.nodes))
    return node.op.flops(node) if node.op.kind is Kind.CONTRACTION else 0
