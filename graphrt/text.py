"""The text of a graph: how a node, an output and an update are printed as one line each, and what such a line says.

%7 relu_2 : f32[64,6,28,28] = relu(%6)   # lenet.py:41 fwd
output y = %7{0,2,3,1}
update w = %9

An attribute that is a text of several lines, such as the body of a loop, stands behind its node, each line after a bar.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphrt.node import Node, Origin, Value
from graphrt.op import Order
from graphrt.types import TensorType

_NAME = r'(?:"(?:[^"\\]|\\.)*"|[\w.]+)'
_LINE = re.compile(
    rf"(?P<ids>%\d+(?:, %\d+)*) (?P<name>{_NAME}) : (?P<types>.*?) = (?P<op>\w+)\((?P<args>.*)\)   # (?P<origin>.*)"
)
_TYPE = re.compile(r"\w+\[[^\]]*\](?:\{[^}]*\})?(?:@[\w*]+)?")
_PLAIN = re.compile(r"[\w.]+").fullmatch
_BAR = "    | "
_RESULT = re.compile(rf"(output|update) ({_NAME}) = (%\d+)(?:{{([\d,]*)}})?")
_ORIGIN = re.compile(r"(.*):(\d+) (\w+)(?: of (.*?))?(?:, part (\d+))?")


@dataclass(frozen=True)
class NodeLine:
    """A node as its line says; values are numbers, such as %7."""

    results: Sequence[str]
    name: str
    types: tuple[TensorType, ...]
    op: str
    inputs: Sequence[str]
    attrs: Mapping[str, Any]
    origin: Origin


@dataclass(frozen=True)
class ResultLine:
    """An output with its order in memory, or an update, as its line says: ``kind`` is output or update."""

    kind: str
    name: str
    value: str
    order: Sequence[int] | None


def node_line(node: Node, number: Mapping[Value, str], origin: bool = True) -> str:
    """The line of ``node``, whose values have a ``number``; without ``origin`` it names no file of the user's."""
    return f"{', '.join(number[v] for v in node.outputs)} {equation(node, number, origin)}"


def equation(node: Node, number: Mapping[Value, str], origin: bool = True) -> str:
    """The line of ``node`` without the numbers of its own values."""
    types = ", ".join([str(t) for t in node.types])
    args, below = [number[v] for v in node.inputs], list[str]()
    for k, a in node.attrs.items():
        if isinstance(a, str) and "\n" in a:
            args.append(f"{k}=...")
            below += [f"\n{_BAR}{part}" for part in a.splitlines()]
        else:
            args.append(f"{k}={a!r}")
    comes_from = node.origin if origin else f"{node.origin.phase} of {node.origin.source}"
    return f"{_quote(node.name)} : {types} = {node.op.name}({', '.join(args)})   # {comes_from}{''.join(below)}"


def result_line(kind: str, name: str, value: str, order: Order = None) -> str:
    """The line of an output or an update."""
    return f"{kind} {_quote(name)} = {value}" + ("" if order is None else "{" + ",".join(map(str, order)) + "}")


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a graph's ``text`` that are not empty, by number, each with those that belong to it."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(_BAR) and found:
            found[-1] = found[-1][0], f"{found[-1][1]}\n{line}"
        elif line.strip():
            found.append((number, line.strip()))
    return iter(found)


def parse_line(line: str) -> NodeLine | ResultLine:
    """The node, output or update that ``line`` says. Raises ValueError, SyntaxError."""
    line, *block = line.split("\n")
    text = "".join(f"{part.removeprefix(_BAR)}\n" for part in block)
    found = _RESULT.fullmatch(line)
    if found:
        order = None if found[4] is None else [int(d) for d in found[4].split(",") if d]
        return ResultLine(found[1], _unquote(found[2]), found[3], order)
    match = _LINE.fullmatch(line)
    if match is None:
        raise ValueError("not a node, output or update line")
    call = ast.parse("f(" + re.sub(r"%(\d+)", r"_\1", match["args"]) + ")", mode="eval").body
    assert isinstance(call, ast.Call)
    where = _ORIGIN.fullmatch(match["origin"])
    return NodeLine(
        results=match["ids"].split(", "),
        name=_unquote(match["name"]),
        types=tuple(map(TensorType.parse, _TYPE.findall(match["types"]))),
        op=match["op"],
        inputs=["%" + arg.id[1:] for arg in call.args if isinstance(arg, ast.Name)],
        attrs={str(k.arg): text if (value := _literal(k.value)) is ... else value for k in call.keywords},
        origin=Origin(where[1], int(where[2]), where[3], where[4] or "", int(where[5] or 0)) if where else Origin(),
    )


def _quote(name: str) -> str:
    return name if name.isascii() and _PLAIN(name) else json.dumps(name)


def _unquote(text: str) -> str:
    return json.loads(text) if text.startswith('"') else text


def _literal(node: ast.expr) -> Any:
    """A Python literal, with ``inf`` and ``nan`` as floats."""
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):
        return float(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_literal(node.operand)
    if isinstance(node, ast.Tuple):
        return tuple(_literal(e) for e in node.elts)
    return ast.literal_eval(node)
