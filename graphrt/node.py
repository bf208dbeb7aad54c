"""Values and nodes: what a graph is made of.

A node is one equation, frozen once made; identity is the object. Arithmetic on values appends nodes to their graph.
"""

from __future__ import annotations

import functools
import math
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graphrt.errors import GraphError, ShapeError
from graphrt.op import OpDef
from graphrt.types import DType, Shape, TensorType

if TYPE_CHECKING:
    from graphrt.ir import Graph

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MODELS, _COMMANDS = f"{_PACKAGE}models{os.sep}", (f"{_PACKAGE}cli{os.sep}", f"{_PACKAGE}inspection{os.sep}")

OPERATORS: dict[str, Callable[..., Any]] = {}  # what Value's operators call; graphrt.ops fills it in


_REFLECTED = {  # what Python would call for `array OP value`, by the function that NumPy calls instead
    **{"add": "__radd__", "subtract": "__rsub__", "multiply": "__rmul__", "divide": "__rtruediv__", "power": "__rpow__"},
    **{"matmul": "__rmatmul__", "less": "__gt__", "less_equal": "__ge__", "greater": "__lt__", "greater_equal": "__le__"},
}


@dataclass(frozen=True)
class Origin:
    """The origin of a node: the user's file and line, the phase, and its forward node's name.

    The phase is fwd, bwd or opt, or again for what of the forward pass the backward pass computes again. Nodes of two
    parts, ``part`` counts from 1, share no kernel and no launch, so that one is over before the next begins; 0 is none.
    """

    file: str = "?"
    line: int = 0
    phase: str = "fwd"
    source: str = ""
    part: int = 0

    @staticmethod
    def of_caller(phase: str, source: str) -> Origin:
        """The user's line; under a command that builds a model of graphrt's there is none, and it is the model's."""
        frame = last = sys._getframe(1)
        model = None
        while (back := frame.f_back) is not None and (file := frame.f_code.co_filename).startswith(_PACKAGE):
            if file.startswith(_MODELS):
                model = model or frame
            elif file.startswith(_COMMANDS):
                frame = model or last
                break
            frame, last = back, frame
        return Origin(frame.f_code.co_filename, frame.f_lineno, phase, source)

    def __str__(self) -> str:
        """One line, whatever the user's file and names hold."""
        return _printed(self)


class Carrying:
    """A block in which nodes of ``graph`` carry ``origin``. Passes begin one for each node: a generator would take longer."""

    def __init__(self, graph: Graph, origin: Origin | None) -> None:
        self.graph, self.origin = graph, origin

    def __enter__(self) -> None:
        self.graph._origin, self.origin = self.origin, self.graph._origin

    def __exit__(self, *_: object) -> None:
        self.graph._origin = self.origin


@functools.lru_cache(1 << 12)
def _printed(origin: Origin) -> str:
    text = f"{os.path.basename(origin.file)}:{origin.line} {origin.phase}" + (f" of {origin.source}" if origin.source else "")
    text += f", part {origin.part}" if origin.part else ""
    return "".join(c if c.isprintable() else "?" for c in text).strip()


class Operand:
    """An operand of arithmetic, which appends nodes: a Value, and what stands for one (``Stand``)."""

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **options: Any) -> Any:
        """Leaves ``array * value`` to us. Raises GraphError for NumPy's functions, which take arrays alone."""
        other = _REFLECTED.get(ufunc.__name__)
        if method == "__call__" and other is not None and not options and len(given) == 2 and given[1] is self:
            return getattr(self, other)(given[0])
        if ufunc.__name__ in ("equal", "not_equal"):
            return ufunc.__name__ == "not_equal"  # as for all objects: ops.eq compares elements
        ours = ufunc.__name__ if ufunc.__name__ in OPERATORS else {"absolute": "abs"}.get(ufunc.__name__)
        hint = f"; graphrt.ops.{ours} takes it" if ours else "; graphrt.ops has functions of values"
        raise GraphError(f"numpy.{ufunc.__name__} takes arrays, and {self!r} has no numbers while the graph is built{hint}")

    def __float__(self) -> float:
        raise GraphError(f"{self!r} is no number while the graph is built; a program that was compiled from it gives one")

    def __add__(self, other: Any) -> Value:
        return OPERATORS["add"](self, other)

    def __sub__(self, other: Any) -> Value:
        return OPERATORS["sub"](self, other)

    def __mul__(self, other: Any) -> Value:
        return OPERATORS["mul"](self, other)

    def __truediv__(self, other: Any) -> Value:
        return OPERATORS["div"](self, other)

    def __pow__(self, other: Any) -> Value:
        return OPERATORS["pow"](self, other)

    def __floordiv__(self, other: Any) -> Value:
        return OPERATORS["floor_divide"](self, other)

    def __mod__(self, other: Any) -> Value:
        return OPERATORS["remainder"](self, other)

    def __matmul__(self, other: Any) -> Value:
        return OPERATORS["matmul"](self, other)

    def __radd__(self, other: Any) -> Value:
        return OPERATORS["add"](other, self)

    def __rsub__(self, other: Any) -> Value:
        return OPERATORS["sub"](other, self)

    def __rmul__(self, other: Any) -> Value:
        return OPERATORS["mul"](other, self)

    def __rtruediv__(self, other: Any) -> Value:
        return OPERATORS["div"](other, self)

    def __rpow__(self, other: Any) -> Value:
        return OPERATORS["pow"](other, self)

    def __neg__(self) -> Value:
        return OPERATORS["neg"](self)

    def __abs__(self) -> Value:
        return OPERATORS["abs"](self)

    def __invert__(self) -> Value:
        return OPERATORS["logical_not"](self)

    def __and__(self, other: Any) -> Value:
        return OPERATORS["logical_and"](self, other)

    def __or__(self, other: Any) -> Value:
        return OPERATORS["logical_or"](self, other)

    def __lt__(self, other: Any) -> Value:
        return OPERATORS["lt"](self, other)

    def __le__(self, other: Any) -> Value:
        return OPERATORS["le"](self, other)

    def __gt__(self, other: Any) -> Value:
        return OPERATORS["gt"](self, other)

    def __ge__(self, other: Any) -> Value:
        return OPERATORS["ge"](self, other)

    def __getitem__(self, key: Any) -> Value:
        return OPERATORS["getitem"](self, key)

    def __rmatmul__(self, other: Any) -> Value:
        return OPERATORS["matmul"](other, self)


class Stand(Operand, ABC):
    """Stands for a Value of whichever graph it is used on, in operators and as an argument of ops functions."""

    @abstractmethod
    def value(self, graph: Graph) -> Value:
        """The Value of ``graph`` that it stands for."""


BUILDING: ContextVar[Graph | None] = ContextVar("graphrt_building", default=None)  # that a module is building at the moment


@dataclass(frozen=True, eq=False)
class Value(Operand):
    """One result of a node: the ``index``-th of ``node``. Arithmetic on values appends nodes to their graph.

    Functions of ``graphrt.ops`` are methods too: ``x.relu()`` is ``ops.relu(x)``. A Value has no numbers, and so no truth
    value, while the graph is built.
    """

    node: Node
    index: int

    @property
    def type(self) -> TensorType:
        """Shape, dtype and order in memory."""
        return self.node.types[self.index]

    @property
    def shape(self) -> Shape:
        """The size of each dimension."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The type of its elements."""
        return self.type.dtype

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def graph(self) -> Graph:
        """The graph it belongs to."""
        return self.node.graph

    @property
    def name(self) -> str:
        """The node's name, with ``.index`` behind it for other results than the first."""
        return self.node.name if self.index == 0 else f"{self.node.name}.{self.index}"

    def __repr__(self) -> str:
        return f"<{self.name} : {self.type}>"

    def __bool__(self) -> bool:
        raise GraphError(f"{self!r} has no truth value while the graph is built; use where(condition, a, b)")

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError(f"{self!r} is a scalar and has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Value]:
        return (self[i] for i in range(len(self)))

    def __getattr__(self, name: str) -> Callable[..., Value]:
        """``x.relu()`` is ``relu(x)`` for every function that ops offers as a method."""
        if name.startswith("_") or name not in OPERATORS:
            raise AttributeError(f"a Value has no attribute {name!r}")
        return lambda *args, **kwargs: OPERATORS[name](self, *args, **kwargs)


class Factor(float):
    """A number made of how many elements were reduced, such as a mean's 1 / count, which knows what of.

    It is a float to all but a program for any batch, where the count is known when it runs: ``of`` makes the number, as graph
    code, of the count of the elements of the Value named ``source`` along ``dims``, of which there are ``least`` or more.
    """

    source: str
    dims: tuple[int, ...]
    of: Callable[[Value], Value]
    least: int

    @staticmethod
    def make(number: float, source: Value, dims: Sequence[int], of: Callable[[Value], Value], least: int = 1) -> Factor:
        """``number`` with what it is made of."""
        found = Factor(number)
        found.source, found.dims, found.of, found.least = source.name, tuple(dims), of, least
        return found

    @staticmethod
    def unbiased(source: Value, dims: Sequence[int]) -> Factor:
        """The unbiased variance of ``source`` over ``dims`` as a multiple of the biased one; they hold two elements or more."""
        count = math.prod(source.shape[d] for d in dims)
        return Factor.make(count / (count - 1), source, dims, lambda count: count / (count - 1.0), least=2)

    def times(self, number: float) -> Factor:
        """The product with a number that does not depend on the count."""
        found, of = Factor(self * number), self.of
        found.source, found.dims, found.of, found.least = self.source, self.dims, lambda count: of(count) * number, self.least
        return found


@dataclass(frozen=True, eq=False)
class Node:
    """One equation of ``graph``: ``op`` of ``inputs`` with ``attrs`` gives results of ``types``. Identity is the object.

    ``name`` is unique in the graph; ``origin`` is the user's file and line, the phase, and for a gradient the forward node.
    """

    graph: Graph = field(repr=False)
    op: OpDef
    inputs: tuple[Value, ...]
    attrs: Mapping[str, Any]
    types: tuple[TensorType, ...]
    name: str
    origin: Origin
    outputs: tuple[Value, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.attrs, MappingProxyType):  # else another node's
            object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))
        object.__setattr__(self, "outputs", tuple([Value(self, i) for i in range(len(self.types))]))

    def where(self) -> str:
        """``name (file:line)`` for error messages."""
        return f"{self.name} ({self.origin.file}:{self.origin.line})"
