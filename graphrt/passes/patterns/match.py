"""Rewrite rules as data: a pattern of ops, a condition, and what is built in its place.

    Rule(op("where", op("le", "x", 0), 0, op("max_pool_grad", "dy", "at")), condition, replacement)

A string names what it matches, the same thing wherever it stands; a number matches that constant, broadcast or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphrt.ir import Node, Value
from graphrt.ops.base import constant_of

Match = dict[str, Value]


@dataclass(frozen=True)
class Op:
    """The first result of an op named ``name`` whose operands match ``inputs``, one by one."""

    name: str
    inputs: tuple[Pattern, ...]

    def __call__(self, node: Node) -> Match | None:
        """The values that the names of the pattern stand for where ``node`` is the op; None where it is not."""
        found: Match = {}
        return found if self._matches(node, found) else None

    def _matches(self, node: Node, found: Match) -> bool:
        return node.op.name == self.name and all(_matches(p, v, found) for p, v in zip(self.inputs, node.inputs, strict=True))


Pattern = Op | str | float


def op(name: str, *inputs: Pattern) -> Op:
    """The pattern of op ``name`` on ``inputs``."""
    return Op(name, inputs)


def _matches(pattern: Pattern, value: Value, found: Match) -> bool:
    if isinstance(pattern, Op):
        return value.index == 0 and pattern._matches(value.node, found)
    if isinstance(pattern, str):
        return found.setdefault(pattern, value) is value
    return constant_of(value) == pattern


@dataclass(frozen=True)
class Rule:
    """``replacement`` for what matches ``pattern`` where ``condition`` holds; both get the node and what was matched.

    A replacement is an equal value, NaN, infinities and the sign of zero included; None leaves the node as it is.
    """

    pattern: Op
    condition: Callable[[Node, Match], bool]
    replacement: Callable[[Node, Match], Value | None]

    def __call__(self, node: Node) -> Value | None:
        """The value that takes the place of the first result of ``node``, or None."""
        found = self.pattern(node)
        return self.replacement(node, found) if found is not None and self.condition(node, found) else None
