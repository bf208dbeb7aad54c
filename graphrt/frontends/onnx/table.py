"""The operator table: one function per ONNX operator, whose signature says what the operator takes.

    @operator("Gemm")
    def gemm(a: Value, b: Value, c: Value | None = None, *, alpha: float = 1.0, transA: int = 0, ...) -> Value:

Parameters before the star are ONNX's inputs, in order: a ``Value`` is computed by the program, an ``np.ndarray`` must be
known at import (a shape, axes), a ``Tensor`` may be either, ``Items`` are a sequence. Those behind the star are attributes with
ONNX's names and defaults. What was an attribute in one opset and is an input in another is written as an input and taken from
either. One more parameter is no attribute: ``call``, the node being imported (its graph, its opset, which outputs it names).
A form of a node that an entry leaves to ONNX's own definition of the operator raises ``Expand``.
ONNX says what an operator means; an entry has a docstring, which docs/onnx_coverage.md shows, only where something is to be
added to that.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_type_hints

import numpy as np

from graphrt.errors import DTypeError
from graphrt.ir import Graph, Value
from graphrt.ops.base import broadcast_to
from graphrt.types import DType, as_dtype

Tensor = Value | np.ndarray


class Items(list[Value | np.ndarray]):
    """An ONNX sequence: tensors in a list whose length is known, which exists at import only."""


Ints = Sequence[int]
F = TypeVar("F", bound=Callable[..., Any])

ELEMENT_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}  # ONNX's numbers for the dtypes that graphrt has
OLDEST = 13  # the opset whose forms the table holds; older models are converted to it


class Expand(Exception):
    """Raised by an entry for a node that ONNX's own definition is to stand for."""


class Call(Protocol):
    """The node being imported, as a table function may ask for it."""

    graph: Graph
    opset: int
    outputs: Sequence[bool]  # which of its results the node names

    def run(self, branch: Any, arguments: Sequence[Tensor | Items] = ()) -> list[Tensor | Items]:
        """Imports a subgraph attribute for ``arguments``; its results."""


@dataclass(frozen=True)
class Operator:
    """One entry of the table: ``name`` in ``domain``, the function that builds it, and how its inputs are taken."""

    name: str
    domain: str
    build: Callable[..., Any]
    state: frozenset[str]  # inputs that are never trained, such as running statistics
    folds: bool  # whether known inputs give known results
    inputs: Mapping[str, inspect.Parameter]
    attributes: Mapping[str, inspect.Parameter]
    hints: Mapping[str, Any]

    def wants(self, name: str) -> str:
        """The kind of argument that the function takes for ``name``: "value", "array", "either", "items", or "any" of these."""
        hint = self.hints[name]
        parts = set(getattr(hint, "__args__", (hint,))) - {type(None)}
        if Items in parts:
            return "any" if len(parts) > 1 else "items"
        return "either" if len(parts) > 1 else "array" if np.ndarray in parts else "value"

    @property
    def fixed(self) -> list[inspect.Parameter]:
        """The inputs with a place of their own."""
        return [p for p in self.inputs.values() if p.kind is not p.VAR_POSITIONAL]

    @property
    def variadic(self) -> str | None:
        """The name of the inputs that may be any number."""
        return next((p.name for p in self.inputs.values() if p.kind is p.VAR_POSITIONAL), None)

    @property
    def takes_call(self) -> bool:
        """Whether it has the parameter ``call``, the node being imported."""
        return "call" in self.hints


TABLE: dict[tuple[str, str], Operator] = {}


def operator(name: str, *, domain: str = "", state: Sequence[str] = (), folds: bool = True) -> Callable[[F], F]:
    """Enters the decorated function into the table under ``name``."""

    def enter(build: F) -> F:
        parameters = inspect.signature(build).parameters
        inputs = {n: p for n, p in parameters.items() if p.kind is not p.KEYWORD_ONLY}
        attributes = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY and n != "call"}
        assert (domain, name) not in TABLE, f"two entries for {name}"
        TABLE[domain, name] = Operator(
            name, domain, build, frozenset(state), folds, inputs, attributes, get_type_hints(build, globalns=build.__globals__)
        )
        return build

    return enter


def element_type(number: int) -> DType:
    """The DType behind one of ONNX's numbers. Raises DTypeError."""
    if number not in ELEMENT_TYPES:
        raise DTypeError(f"ONNX's element type {number} has no dtype here; there are {', '.join(ELEMENT_TYPES.values())}")
    return as_dtype(ELEMENT_TYPES[number])


def lift(graph: Graph, x: Tensor) -> Value:
    """``x`` as a value of ``graph``: a single number as a constant, other arrays as a buffer."""
    if isinstance(x, Value):
        return x
    dtype = as_dtype(x.dtype)
    if x.size == 1:
        return broadcast_to(graph.constant(x.item(), dtype), x.shape)
    return graph.constant(x, dtype)


def ints(array: np.ndarray | None) -> list[int]:
    """A known tensor as a list of Python integers; empty for None."""
    return [] if array is None else [int(n) for n in np.asarray(array).reshape(-1)]
