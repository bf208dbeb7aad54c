"""Graph IR: an ordered SSA list of nodes that prints one line a node and reads its own print back.

``Graph`` is append-only while a user builds it; passes take a graph and return another. Values never change: the only
effects are ``graph.updates``, which say what a parameter (or other state) becomes when the program has run.

    %7 relu_2 : f32[64,6,28,28] = relu(%6)   # lenet.py:41 fwd
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from weakref import WeakSet

import networkx as nx
import numpy as np

from graphrt.errors import ArgumentError, DTypeError, GraphError, GraphrtError
from graphrt.mesh import Axes, Mesh
from graphrt.node import BUILDING, OPERATORS, Carrying, Factor, Node, Origin, Stand, Value
from graphrt.op import REGISTRY, Kind, OpDef, Order
from graphrt.sharding import SUM, part_shape
from graphrt.signature import Memory, Signature
from graphrt.text import NodeLine, ResultLine, lines_of, node_line, parse_line, result_line
from graphrt.types import HALVES, DType, DTypeLike, as_array, as_dtype, bfloat16, float32
from graphrt.verify import check_name, check_owned, check_update, permutation, verify

__all__ = ["BUILDING", "OPERATORS", "Graph", "Node", "Origin", "Stand", "Value"]


class Graph:
    """A computation under construction or between passes.

    ``nodes`` are in definition order; ``outputs`` are named, and ``orders`` says how some of them shall lie in memory;
    ``updates`` maps a parameter's name to its next value; ``initial`` holds the starting values of parameters. A front end may
    set ``signature``, how programs are called when not by name, and ``state``, where their parameters are. ``mesh`` is of the
    processes that will run it, where there are several.
    """

    def __init__(self, mesh: Mesh | None = None) -> None:
        self.mesh = mesh
        self.nodes: list[Node] = []
        self.outputs: dict[str, Value] = {}
        self.orders: dict[str, tuple[int, ...]] = {}
        self.updates: dict[str, Value] = {}
        self.initial: dict[str, np.ndarray] = {}
        self.sources: dict[str, Node] = {}  # inputs and parameters by name
        self.signature: Signature | None = None
        self.state: Memory | None = None
        self.half: DType | None = None  # what contractions compute in while ``autocast`` is on
        self.reserved: Collection[str] = ()  # names that are to come, which no buffer may take
        self.of_steps: WeakSet[Node] = WeakSet()  # nodes that went into the bodies of loops
        self._counts: Counter[str] = Counter()
        self._phase: tuple[str, str] = ("fwd", "")
        self._origin: Origin | None = None
        self._transactions = 0  # that are going on
        self._before: list[tuple[dict[str, Any], str, Any]] = []  # entries of tables as they were, since the first began

    # --- building -----------------------------------------------------------------------------------------------

    def append(
        self,
        op: OpDef,
        inputs: Sequence[Value],
        attrs: Mapping[str, Any] | None = None,
        name: str | None = None,
        orders: Sequence[Order] | None = None,
    ) -> Node:
        """Adds ``op(*inputs, **attrs)``, whose results lie in memory in ``orders`` (None: row-major).

        Raises what the op's ``infer`` raises, or GraphError; then nothing is added.
        """
        attrs = dict(attrs or {})
        for value in inputs:
            check_owned(value, self, f"operand of {op.name}")
        try:
            types = op.types(tuple(v.type for v in inputs), attrs)
        except GraphrtError as error:
            raise self.located(error, op.name, inputs) from None
        if name is None:
            name = f"{op.name}_{self._counts[op.name]}"
            self._counts[op.name] += 1
        elif op.kind is not Kind.SOURCE:  # a copy keeps its name: count past it
            tail = name.rpartition("_")[2]
            self._counts[op.name] = max(self._counts[op.name], int(tail) + 1 if tail.isdigit() else 0)
        if orders is not None:
            types = tuple(t.with_order(order) for t, order in zip(types, orders, strict=True))
        return self._added(Node(self, op, tuple(inputs), attrs, types, name, self._origin or Origin.of_caller(*self._phase)))

    def _added(self, node: Node) -> Node:
        self.nodes.append(node)
        if node.op.kind is Kind.SOURCE:
            self.sources[node.name] = node
        return node

    def adopt(self, node: Node, inputs: Sequence[Value], orders: Sequence[Order] | None = None) -> Node:
        """Adds a copy of another graph's ``node`` that reads ``inputs`` instead of its own; None keeps its ``orders``."""
        types = node.types
        if orders is not None:
            types = tuple([t.with_order(order) for t, order in zip(types, orders, strict=True)])
        if all([new.type is old.type or new.type.like(old.type) for new, old in zip(inputs, node.inputs, strict=True)]):
            return self._added(Node(self, node.op, tuple(inputs), node.attrs, types, node.name, node.origin))
        return self.append(node.op, inputs, node.attrs, node.name, [t.order for t in types])

    def like(self) -> Graph:
        """An empty graph with the names, the starting values, the signature and the state of this one."""
        new = Graph(self.mesh)
        new.initial, new.signature, new.state, new._counts = self.initial, self.signature, self.state, self._counts.copy()
        return new

    def take_results(self, graph: Graph, table: Mapping[Value, Value]) -> None:
        """Makes the outputs and updates of ``graph`` those of this graph, which has its values as in ``table``."""
        self.outputs = {name: table[v] for name, v in graph.outputs.items()}
        self.updates = {name: table[v] for name, v in graph.updates.items()}
        self.orders = graph.orders

    def input(
        self,
        name: str,
        shape: Sequence[int] = (),
        dtype: DTypeLike = float32,
        order: Sequence[int] | None = None,
        varying: Axes = (),
    ) -> Value:
        """A tensor the caller passes at each run, by ``name``.

        ``order`` lists its dimensions as they lie in memory, the outermost first ((0, 2, 3, 1) is channels-last); arrays that
        lie otherwise are copied at each run. None is row-major. ``varying`` are the axes of the mesh along which each process
        passes its own, such as its part of the batch. Raises ArgumentError.
        """
        order = None if order is None else permutation(order, len(shape), f"input {name!r}")
        return self._source("input", name, shape, dtype, self._varying(varying), order)

    def parameter(
        self,
        name: str,
        value: Any = None,
        *,
        shape: Sequence[int] = (),
        dtype: DTypeLike = float32,
        trainable: bool = True,
        varying: Axes = (),
        sharded: tuple[str, int] | None = None,
    ) -> Value:
        """State the program owns: ``value`` at first (zeros of ``shape`` when None), then what ``update`` makes of it.

        ``varying`` are the axes of the mesh along which each process has its own. ``sharded`` is (axis, dimension) of a
        parameter that is cut along that dimension, of which each process along the axis has a part; ``value`` and ``shape``
        are the whole's. Raises ArgumentError, GraphError, ShapeError.
        """
        if value is not None:
            array = as_array(value, f"parameter {name!r}")
            array = np.ascontiguousarray(array).reshape(array.shape)
            shape, dtype = array.shape, as_dtype(array.dtype)
        else:
            array = np.zeros(tuple(shape), as_dtype(dtype).numpy)
        attrs = {"trainable": trainable, **self._varying(varying)}
        if sharded is not None:
            axis, dim = sharded
            cut = self._varying(axis)["varying"][0], dim % max(len(shape), 1), tuple(shape)
            shape, attrs["cuts"] = part_shape(cut, self.mesh.axes[axis] if self.mesh else 1), (cut,)
        result = self._source("parameter", name, shape, dtype, attrs)
        self.put(self.initial, name, array)
        return result

    def parameter_like(self, name: str, like: Value, summands: Axes = ()) -> Value:
        """State that starts at zero, of the shape and dtype of ``like``, sharded as that is where it is a parameter; not
        trainable. Each process along the axes ``summands`` has one of its own, and the state is their sum."""
        own = like.node.attrs if like.node.op.name == "parameter" else {}
        attrs = {k: a for k, a in own.items() if k in ("varying", "cuts")}
        if summands:
            whole = tuple((axis, SUM, like.shape) for axis in self._varying(summands)["varying"])
            attrs["cuts"] = (*attrs.get("cuts", ()), *whole)
        result = self._source("parameter", name, like.shape, like.dtype, {"trainable": False, **attrs})
        self.put(self.initial, name, np.zeros(attrs["cuts"][0][2] if "cuts" in attrs else like.shape, like.dtype.numpy))
        return result

    def constant(self, value: Any, dtype: DTypeLike | None = None) -> Value:
        """A Python number as a scalar node; an array as a buffer that no update may change.

        Without ``dtype`` floats are float32, arrays of float64 too, which is what NumPy makes of lists of numbers.
        """
        kind: DTypeLike
        if isinstance(value, bool | int | float):
            kind = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float32"
            final = as_dtype(dtype or kind)
            number: bool | int | float
            if final.is_float:
                number = value if isinstance(value, Factor) else float(value)
            else:
                number = bool(value) if final.is_bool else final.whole(value)
            return self.append(REGISTRY["constant"], (), {"value": number, "dtype": final.name}).outputs[0]
        array = as_array(value, "a constant")
        if array.dtype == np.float64 and dtype is None:
            array = array.astype(np.float32)
        array = array if dtype is None else array.astype(as_dtype(dtype).numpy)
        if array.ndim == 0:
            return self.constant(array.item(), as_dtype(array.dtype))
        while (name := f"buffer_{self._counts['buffer'] + 1}") in self.sources or name in self.reserved:
            self._counts["buffer"] += 1
        self._counts["buffer"] += 1
        return self.parameter(name, array, trainable=False)

    def output(self, name: str, value: Value, order: Sequence[int] | None = None) -> Value:
        """Makes ``value`` a result of the program under ``name``. Raises GraphError on a name used twice, ArgumentError.

        ``order`` lists its dimensions as they shall lie in memory, the outermost first; None leaves that to the compiler, as do
        an input or parameter returned as it is, a value returned in two orders, and templates that have no such result.
        """
        check_owned(value, self, f"output {name!r}")
        check_name(name, "output")
        if name in self.outputs:
            raise GraphError(f"output {name!r} is already {self.outputs[name]!r}")
        if order is not None:
            self.put(self.orders, name, permutation(order, value.ndim, f"output {name!r}"))
        self.put(self.outputs, name, value)
        return value

    def update(self, parameter: Value, value: Value) -> None:
        """Says that ``parameter`` becomes ``value`` when a run is over. Raises GraphError, ShapeError."""
        check_owned(parameter, self, "updated parameter")
        check_owned(value, self, "new value")
        check_update(parameter, value)
        name = parameter.node.name
        if name in self.updates:
            raise GraphError(f"parameter {name!r} has an update already: {self.updates[name]!r}")
        self.put(self.updates, name, value)

    def latest(self, value: Value) -> Value:
        """The value of a parameter behind the updates said so far; any other value is itself."""
        return self.updates.get(value.node.name, value) if value.node.op.name == "parameter" else value

    def advance(self, parameter: Value, value: Value) -> Value:
        """Says that ``parameter`` becomes ``value``, which is made of its ``latest``, so that a layer called twice moves its
        state twice; returns ``value``. Raises what ``update`` raises.
        """
        old = self.updates.pop(name := parameter.node.name, None)
        if old is not None and self._transactions:
            self._before.append((self.updates, name, old))
        self.update(parameter, value)
        return value

    @contextmanager
    def phase(self, phase: str, source: str = "") -> Iterator[None]:
        """Nodes appended inside carry ``phase`` and the name of the forward node they come from."""
        previous, self._phase = self._phase, (phase, source)
        try:
            yield
        finally:
            self._phase = previous

    @contextmanager
    def autocast(self, dtype: DTypeLike = bfloat16, enabled: bool = True) -> Iterator[None]:
        """Contractions built inside take their float32 operands in ``dtype``, bfloat16 or float16, as torch.autocast has it.

        What they are made of decides the type of everything else, but softmax and losses, which are computed in float32, and
        norms, whose statistics are float32 and whose results have their input's type. Parameters stay what they are: their
        gradients come back in float32. Build the forward graph inside, and gradients and updates outside. Raises DTypeError.
        """
        wanted = as_dtype(dtype)
        if wanted not in HALVES:
            raise DTypeError(f"autocast is to bfloat16 or float16, got {wanted}")
        previous, self.half = self.half, wanted if enabled else None
        try:
            yield
        finally:
            self.half = previous

    def at(self, origin: Origin) -> AbstractContextManager[None]:
        """Nodes appended inside carry ``origin``; passes use it to keep the user's line."""
        return Carrying(self, origin)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Takes back every node appended inside when an error is raised, so that nothing half-built remains."""
        nodes, entries, counts = len(self.nodes), len(self._before), self._counts.copy()
        self._transactions += 1
        try:
            yield
        except Exception:
            for node in self.nodes[nodes:]:
                self.sources.pop(node.name, None)
            del self.nodes[nodes:]
            self._counts = counts
            while len(self._before) > entries:
                table, name, old = self._before.pop()
                table.pop(name, None)
                if old is not None:
                    table[name] = old
            raise
        finally:
            self._transactions -= 1
            if not self._transactions:
                self._before.clear()

    def put(self, table: dict[str, Any], name: str, entry: Any) -> None:
        """Sets an ``entry`` of ``table``, one of this graph's, until the transaction that it is part of is taken back."""
        if self._transactions:
            self._before.append((table, name, table.get(name)))
        table[name] = entry

    def _source(
        self, op: str, name: str, shape: Sequence[int], dtype: DTypeLike, attrs: dict[str, Any], order: Order = None
    ) -> Value:
        check_name(name, op)
        if name in self.sources:
            raise GraphError(f"{name!r} is already the {self.sources[name].op.name} {self.sources[name].where()}")
        attrs = {"shape": tuple(int(n) for n in shape), "dtype": as_dtype(dtype).name, **attrs}
        return self.append(REGISTRY[op], (), attrs, name, [order]).outputs[0]

    def _varying(self, axes: Axes) -> dict[str, Any]:
        """The attribute of a source that varies over ``axes``."""
        if not axes:
            return {}
        if self.mesh is None:
            raise ArgumentError(f"varying={axes!r} is about the axes of a mesh: build on Graph(mesh=Mesh({axes!s}=...))")
        return {"varying": self.mesh.varying(axes)}

    def located(self, error: GraphrtError, what: str, inputs: Sequence[Value]) -> GraphrtError:
        """``error`` with the user's line and the operands in front of it, once; the innermost call explains best."""
        if error.located:
            return error
        here = self._origin or Origin.of_caller(*self._phase)
        operands = "".join(f"\n  operand {v.node.where()} : {v.type}" for v in inputs)
        found = type(error)(f"{what} at {here.file}:{here.line}: {error}{operands}")
        found.located = True
        return found

    # --- reading ------------------------------------------------------------------------------------------------

    def values(self) -> Iterator[Value]:
        """Every result of every node, in definition order."""
        return (v for node in self.nodes for v in node.outputs)

    def results(self) -> list[Value]:
        """Everything a run must produce: outputs, then new values of parameters."""
        return [*self.outputs.values(), *self.updates.values()]

    def parameters(self, trainable: bool = True) -> list[Value]:
        """The parameters in definition order; all state when ``trainable`` is False."""
        found = (n for n in self.nodes if n.op.name == "parameter")
        return [n.outputs[0] for n in found if n.attrs["trainable"] or not trainable]

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that read each value, in order; a node that reads one twice is listed once."""
        table: dict[Value, list[Node]] = {v: [] for v in self.values()}
        for node in self.nodes:
            for v in dict.fromkeys(node.inputs):
                table[v].append(node)
        return table

    def verify(self) -> None:
        """Checks types by inference, definition before use, sources, outputs and updates. Raises GraphError."""
        verify(self.nodes, self.sources, self.outputs, self.updates, self.mesh)

    def to_networkx(self) -> nx.MultiDiGraph:
        """The DAG of nodes, an edge per operand with the value it carries as attribute ``value``."""
        dag = nx.MultiDiGraph()
        dag.add_nodes_from(self.nodes)
        dag.add_edges_from((v.node, node, {"value": v}) for node in self.nodes for v in node.inputs)
        return dag

    def __str__(self) -> str:
        return self.text()

    def text(self, lines: bool = True) -> str:
        """A line for each node, output and update; without ``lines`` it does not say where in the user's files nodes are."""
        number = {v: f"%{i}" for i, v in enumerate(self.values())}
        found = [] if self.mesh is None else [f"mesh {self.mesh}"]
        found += [node_line(node, number, lines) for node in self.nodes]
        found += [result_line("output", name, number[v], self.orders.get(name)) for name, v in self.outputs.items()]
        found += [result_line("update", name, number[v]) for name, v in self.updates.items()]
        return "\n".join(found) + "\n"

    @staticmethod
    def parse(text: str) -> Graph:
        """Reads what ``str`` printed; parameters start at zero. Raises GraphError with the line at fault."""
        graph, table = Graph(), dict[str, Value]()
        for number, line in lines_of(text):
            try:
                if line.startswith("mesh "):
                    graph.mesh = Mesh.parse(line.removeprefix("mesh "))
                    continue
                graph._read(parse_line(line), table)
            except Exception as error:  # whatever an op's rules make of attributes that are not its own
                raise GraphError(f"line {number}: {line!r}: {error}") from None
        graph.verify()
        return graph

    def _read(self, line: NodeLine | ResultLine, table: dict[str, Value]) -> None:
        """Adds what ``line`` says; ``table`` has the values of the lines before by number. Raises ValueError, KeyError."""
        if isinstance(line, ResultLine):
            if line.kind == "output":
                self.output(line.name, table[line.value], line.order)
            else:
                self.update(self.sources[line.name].outputs[0], table[line.value])
            return
        with self.at(line.origin):
            orders = [t.order for t in line.types]
            node = self.append(REGISTRY[line.op], [table[v] for v in line.inputs], line.attrs, line.name, orders)
        if node.types != line.types:
            raise ValueError(f"inference says {', '.join(map(str, node.types))}")
        if node.op.name == "parameter":
            whole = node.attrs["cuts"][0][2] if "cuts" in node.attrs else node.types[0].shape
            self.initial[line.name] = np.zeros(whole, node.types[0].dtype.numpy)
        table.update(zip(line.results, node.outputs, strict=True))
