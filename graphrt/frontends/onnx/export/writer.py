"""Walks a graph and writes ONNX nodes: values to names, scalar code or a rule for each op that the outputs need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphrt.errors import ArgumentError, ConversionError
from graphrt.frontends.onnx.export import rules
from graphrt.frontends.onnx.export.scalars import OPERATORS, Scalars, Term
from graphrt.frontends.onnx.export.sizes import Dim, Size, Sized
from graphrt.frontends.onnx.table import ELEMENT_TYPES
from graphrt.ir import Node, Value
from graphrt.op import Kind
from graphrt.ops.base import broadcast_shape
from graphrt.runtime.state import State
from graphrt.types import HALVES, DType, float32

NUMBERS = {name: number for number, name in ELEMENT_TYPES.items()}


def write(sized: Sized, opset: int) -> onnx.ModelProto:
    """The model of a graph. Raises ConversionError, ArgumentError."""
    graph = sized.graph
    if graph.updates:
        names = ", ".join(list(graph.updates)[:3])
        raise ArgumentError(f"to_onnx writes inference graphs, and this one updates {names}; build it in evaluation mode")
    if not graph.outputs:
        raise ArgumentError("the graph has no outputs: graph.output(name, value) names one")
    return Writer(sized, opset).model()


class Writer:
    """The model under construction; also what a rule gets as ``w``."""

    def __init__(self, sized: Sized, opset: int) -> None:
        self.sized, self.opset = sized, opset
        self.nodes: list[onnx.NodeProto] = []
        self.initial: dict[str, TensorProto] = {}
        self.names: dict[Value, str] = {}
        self.node: Node = sized.graph.nodes[0]  # being written
        self._made: dict[Any, str] = {}  # tensors that are computed once
        self._taken = {*sized.graph.sources, *sized.graph.outputs}

    def model(self) -> onnx.ModelProto:
        """Writes everything."""
        graph, needed = self.sized.graph, set[Node]()
        pending = [v.node for v in graph.outputs.values()]
        while pending:
            node = pending.pop()
            if node not in needed:
                needed.add(node)
                pending += [v.node for v in node.inputs]
        for node in graph.nodes:
            if node.op.name == "input":
                self.names[node.outputs[0]] = node.name
            elif node in needed:
                self.node = node
                self._write(node)
        inputs = [self._info(n.name, n.outputs[0]) for n in graph.nodes if n.op.name == "input"]
        for name, value in graph.outputs.items():
            self.node = value.node
            self.emit("Identity", self.name(value), result=name)
        outputs = [self._info(name, value) for name, value in graph.outputs.items()]
        self._shorten()
        self._prune()
        made = helper.make_graph(self.nodes, "graphrt", inputs, outputs, list(self.initial.values()))
        opsets = [helper.make_opsetid("", self.opset)]
        version = helper.find_min_ir_version_for(opsets)
        return helper.make_model(made, producer_name="graphrt", opset_imports=opsets, ir_version=max(version, 8))

    def _shorten(self) -> None:
        """Lets nodes write outputs themselves where nothing but a copy would."""
        results = self.sized.graph.outputs
        computed = {name for node in self.nodes for name in node.output if node.op_type != "Identity"}
        copies = {n.input[0]: n.output[0] for n in self.nodes if n.op_type == "Identity" and n.output[0] in results}
        copies = {old: new for old, new in copies.items() if old in computed}
        kept = []
        for node in self.nodes:
            if node.op_type == "Identity" and copies.get(node.input[0]) == node.output[0]:
                continue
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = copies.get(name, name)
            kept.append(node)
        self.nodes = kept

    def _prune(self) -> None:
        """Drops what no output needs, such as broadcasts that ONNX does by itself."""
        needed, kept = set(self.sized.graph.outputs), []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.initial = {name: tensor for name, tensor in self.initial.items() if name in needed}

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        shape = [n if isinstance(n, int) else str(n) for n in self.shape(value)]
        return helper.make_tensor_value_info(name, NUMBERS[value.dtype.name], shape)

    # --- nodes ----------------------------------------------------------------------------------------------------

    def _write(self, node: Node) -> None:
        op = node.op
        if op.name == "parameter":
            self._parameter(node)
        elif op.name in rules.RULES:
            results = rules.RULES[op.name](self, node, self.sized.attrs[node])
            names = results if isinstance(results, tuple) else (results,)
            self.names |= {v: name for v, name in zip(node.outputs, names, strict=False) if name}
        elif op.kind is Kind.ELEMENTWISE or op.name == "constant":
            self.names[node.outputs[0]] = self._scalars(node)
        else:
            raise self.refused(f"the op {op.name} has no ONNX form here")

    def refused(self, why: str) -> ConversionError:
        """The error for the node that is being written."""
        return ConversionError(f"{self.node.where()} cannot be written as ONNX: {why}")

    def _parameter(self, node: Node) -> None:
        graph, name = self.sized.graph, node.name
        memory = graph.state if isinstance(graph.state, State) else State()
        array = memory[name] if name in memory else graph.initial.get(name)
        if array is None:
            raise ArgumentError(f"parameter {name!r} has no value yet; give it one, or load a checkpoint")
        self.initial[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.names[node.outputs[0]] = name

    def _scalars(self, node: Node) -> str:
        """The node from its scalar code; halves are computed in float32."""
        operands, dtype = self._operands(node), node.types[0].dtype
        if node.op.name in OPERATORS and dtype not in HALVES:
            return self.emit(OPERATORS[node.op.name], *operands)
        scalars = Scalars(self)
        terms = [scalars.wide(Term(name, v.dtype)) for name, v in zip(operands, node.inputs, strict=True)]
        assert node.op.body is not None
        index = [()] if node.op.kind is Kind.GENERATED else []
        return scalars.stored(node.op.body(scalars, *index, *terms, **node.attrs), dtype)

    def _operands(self, node: Node) -> list[str]:
        """Names of the operands, without broadcasts that ONNX does by itself."""
        inner = [v.node.inputs[0] if v.node.op.name == "broadcast" else v for v in node.inputs]
        for i in range(len(inner) + 1):
            shape: tuple[int, ...] = ()
            for v in inner:
                shape = broadcast_shape(shape, v.shape)
            if shape == node.types[0].shape or i == len(inner):
                break
            inner[i] = node.inputs[i]
        return [self.name(v) for v in inner]

    def name(self, value: Value) -> str:
        """The name of a tensor that is written. Raises ConversionError for a result that its rule does not give."""
        if value not in self.names:
            what = f"result {value.index} of {value.node.op.name} has no ONNX form"
            raise ConversionError(f"{value.node.where()} cannot be written as ONNX: {what}")
        return self.names[value]

    def shape(self, value: Value) -> tuple[Dim, ...]:
        """The shape of ``value``, open where it follows the batch."""
        return self.sized.shapes[value]

    def emit(self, operator: str, *inputs: str, results: int = 1, result: str = "", **attributes: Any) -> Any:
        """Appends a node and returns the name of its result, or a tuple of ``results`` of them."""
        names = [result] if result else [self._fresh() for _ in range(results)]
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operator, inputs, names, name=f"{operator}:{names[0]}", **attributes))
        return names[0] if results == 1 else tuple(names)

    def _fresh(self) -> str:
        """A name of a tensor: the node's, with a number behind it where that is taken."""
        name, number = self.node.name, 0
        while name in self._taken:
            number += 1
            name = f"{self.node.name}.{number}"
        self._taken.add(name)
        return name

    # --- numbers --------------------------------------------------------------------------------------------------

    def number(self, value: Any, dtype: DType) -> str:
        """A scalar, which is written once."""
        key = ("number", repr(value), dtype)
        if key not in self._made:
            self._made[key] = self.array(np.asarray(value).astype(dtype.numpy), "number")
        return self._made[key]

    def array(self, array: np.ndarray, what: str = "array") -> str:
        """An initialiser."""
        name = f"{what}.{len(self.initial)}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self.initial[name] = numpy_helper.from_array(np.ascontiguousarray(array) if array.ndim else array, name)
        return name

    def ints(self, dims: Sequence[Dim]) -> str:
        """An int64 vector, such as a shape, computed where an entry follows the batch."""
        key = ("ints", tuple(dims))
        if key not in self._made:
            if all(isinstance(d, int) for d in dims):
                self._made[key] = self.array(np.array(dims, np.int64), "ints")
            else:
                self._made[key] = self.emit("Concat", *map(self._size, dims), axis=0)
        return self._made[key]

    def _size(self, dim: Dim) -> str:
        if isinstance(dim, int):
            return self.ints((dim,))
        key = ("size", dim)
        if key not in self._made:
            found = self._batch()
            if dim.slope != 1:
                found = self.emit("Mul", found, self.ints((dim.slope,)))
            self._made[key] = self.emit("Add", found, self.ints((dim.offset,))) if dim.offset else found
        return self._made[key]

    def _batch(self) -> str:
        """The batch, as a vector of one."""
        if "batch" not in self._made:
            source = next(v for v in self.sized.shapes if v.node.op.name == "input" and self.shape(v)[:1] == (Size(1),))
            self._made["batch"] = self.emit("Shape", self.names[source], start=0, end=1)
        return self._made["batch"]

    # --- what several rules do ------------------------------------------------------------------------------------

    def cast(self, name: str, dtype: DType) -> str:
        """``name`` as ``dtype``."""
        return self.emit("Cast", name, to=NUMBERS[dtype.name])

    def reshape(self, name: str, shape: Sequence[Dim]) -> str:
        """``name`` in ``shape``."""
        open_dims = [i for i, d in enumerate(shape) if isinstance(d, Size)]
        if len(open_dims) == 1 and 0 not in shape:
            shape = [-1 if i in open_dims else d for i, d in enumerate(shape)]
        return self.emit("Reshape", name, self.ints(shape), allowzero=1 if 0 in shape else None)

    def expand(self, name: str, shape: Sequence[Dim]) -> str:
        """``name`` broadcast to ``shape``."""
        return self.emit("Expand", name, self.ints(shape))

    def slice(self, name: str, starts: Sequence[Dim], ends: Sequence[Dim], axes: Sequence[int], steps: Sequence[int]) -> str:
        """``name[..., start:end:step, ...]``."""
        return self.emit("Slice", name, self.ints(starts), self.ints(ends), self.ints(axes), self.ints(steps))

    def pad(self, name: str, low: Sequence[Dim], high: Sequence[Dim], value: float, dtype: DType) -> str:
        """``name`` with ``value`` before and behind."""
        if not any((*low, *high)):
            return name
        return self.emit("Pad", name, self.ints((*low, *high)), self.number(value, dtype))

    def full(self, value: float, dtype: DType, shape: Sequence[Dim]) -> str:
        """``value`` in ``shape``."""
        return self.expand(self.number(value, dtype), shape)

    def wide(self, value: Value) -> str:
        """The name of ``value``, halves as float32."""
        return self.cast(self.name(value), float32) if value.dtype in HALVES else self.name(value)

    def narrow(self, name: str, dtype: DType) -> str:
        """A result that was computed in float32, as a half if it is one."""
        return self.cast(name, dtype) if dtype in HALVES else name
