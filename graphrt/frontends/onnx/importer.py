"""Walks an ONNX graph and builds ours: names to tensors, one table function a node, constants computed on the way."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphrt.config import Flags
from graphrt.errors import ArgumentError, ConversionError, GraphrtError
from graphrt.frontends.onnx import model as file
from graphrt.frontends.onnx import operators  # noqa: F401 - fills the table
from graphrt.frontends.onnx.expand import body, definition
from graphrt.frontends.onnx.table import TABLE, Expand, Items, Operator, Tensor, lift
from graphrt.ir import Graph, Origin, Value
from graphrt.runtime.arrays import to_numpy
from graphrt.targets.reference.evaluate import evaluate


@dataclass(eq=False)
class Known:
    """A tensor whose elements are known. One with a name is an initialiser, and a parameter once the program reads it."""

    array: np.ndarray
    name: str = ""
    made: Value | None = None  # what stands for it in the graph, from its first use on

    @property
    def weight(self) -> bool:
        """Whether it stays a parameter where it could be folded: an initialiser of floats that is more than a number."""
        return bool(self.name) and _floating(self.array) and self.array.ndim > 0

    def value(self, graph: Graph, trainable: bool = True) -> Value:
        """Its value in ``graph``: a parameter under its name if it has one, else a constant."""
        if self.made is None or self.made.graph is not graph:
            trained = trainable and _floating(self.array)
            self.made = graph.parameter(self.name, self.array, trainable=trained) if self.name else lift(graph, self.array)
        return self.made


def _floating(array: np.ndarray) -> bool:
    return array.dtype.kind not in "biu"


Env = dict[str, Value | Known | Items | None]


def import_model(
    model: onnx.ModelProto, name: str, shapes: Mapping[str, Sequence[int] | int], constants: Mapping[str, Any]
) -> Graph:
    """``model``, as ``prepare`` left it, as a graph; ``name`` is the file that origins show."""
    graph = Graph()
    graph.reserved = {t.name for t in model.graph.initializer}
    inputs = {v.name: v for v in model.graph.input}
    unknown = constants.keys() - inputs.keys()
    if unknown:
        raise ArgumentError(f"no input {sorted(unknown)} to fix; the inputs are {list(inputs)}")
    env: Env = {t.name: Known(file.array(t, f"initialiser {t.name!r}"), t.name) for t in model.graph.initializer}
    env |= {n: Known(to_numpy(v).astype(file.signature(inputs[n])[1].numpy)) for n, v in constants.items()}
    left = [v for n, v in inputs.items() if n not in env]
    _check_names(shapes, left)
    for v in left:
        dims, dtype = file.signature(v)
        env[v.name] = graph.input(v.name, _sizes(v.name, dims, shapes), dtype)
    importer = Importer(graph, name, file.opset(model))
    importer.walk(model.graph.node, env)
    for v in model.graph.output:
        if v.name not in env:
            raise ArgumentError(f"output {v.name!r} of the model is computed by no node")
        found = env[v.name]
        if not isinstance(found, Value | Known):
            raise ConversionError(f"output {v.name!r} of the model is a sequence; graphrt has tensors only")
        graph.output(v.name, found if isinstance(found, Value) else found.value(graph))
    return graph


def _check_names(shapes: Mapping[str, Sequence[int] | int], inputs: Sequence[onnx.ValueInfoProto]) -> None:
    """Raises ArgumentError for a name in ``shapes`` that is neither an input nor one of its dimensions."""
    names = [v.name for v in inputs]
    dims = dict.fromkeys(d for v in inputs for d in file.signature(v)[0] if isinstance(d, str))
    for name in shapes.keys() - {*names, *dims}:
        raise ArgumentError(
            f"shapes names {name!r}; there are the inputs {', '.join(names) or 'none'} and the open dimensions "
            f"{', '.join(dims) or 'none'}"
        )


def _sizes(name: str, dims: Sequence[file.Dim], shapes: Mapping[str, Sequence[int] | int]) -> list[int]:
    """The shape of input ``name``: its own where it is whole, what ``shapes`` says where it is not. Raises ArgumentError."""
    given = shapes.get(name)
    if given is None or isinstance(given, int):  # an int is the size of a dimension that happens to have this name
        dims = [shapes.get(d, d) if isinstance(d, str) else d for d in dims]  # type: ignore[misc]
        if not all(isinstance(d, int) for d in dims):
            raise ArgumentError(
                f"input {name!r} is [{', '.join(map(str, dims))}]; say what is open, as in shapes={{{name!r}: (1, ...)}} or by "
                "the name of a dimension"
            )
        return [int(d) for d in dims]
    wanted = list(given)
    fits = "of unknown rank" in dims or (
        len(wanted) == len(dims) and all(isinstance(d, str) or d == n for d, n in zip(dims, wanted, strict=True))
    )
    if not fits:
        raise ArgumentError(f"input {name!r} is [{', '.join(map(str, dims))}]; shapes says {wanted}")
    return wanted


class Importer:
    """State of one import: the graph under construction and the node it is at. Also what a table function has as ``call``."""

    def __init__(self, graph: Graph, name: str, opset: int) -> None:
        self.graph, self.name, self.opset = graph, name, opset
        self.outputs: Sequence[bool] = ()
        self._folded = 0  # bytes that were computed of constants so far
        self._env: Env = {}
        self._count = 0

    def walk(self, nodes: Iterable[onnx.NodeProto], env: Env) -> None:
        """Imports ``nodes`` in order into ``env``. Errors name the operator, the node and the opset."""
        for node in nodes:
            self._count += 1
            number, label = self._count, node.name or next((o for o in node.output if o), node.op_type)
            try:
                with self.graph.at(Origin(self.name, number, "fwd", label)):
                    self._node(node, env, label)
            except GraphrtError as error:
                raise _placed(error, node, label, number, self.name, self.opset) from None
            except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a node that is not well formed
                raise _placed(ArgumentError(str(error)), node, label, number, self.name, self.opset) from error

    def run(self, branch: onnx.GraphProto, arguments: Sequence[Tensor | Items] = ()) -> list[Tensor | Items]:
        """Imports a subgraph, which sees the names around it, for ``arguments``; its results."""
        outer, outputs = self._env, self.outputs
        env = outer | {t.name: Known(file.array(t)) for t in branch.initializer}
        env |= {v.name: _entered(a) for v, a in zip(branch.input, arguments, strict=True)}
        self.walk(branch.node, env)
        self._env, self.outputs = outer, outputs
        return [self._tensor(env[v.name]) for v in branch.output]

    def _tensor(self, x: Value | Known | Items | None) -> Tensor | Items:
        """The argument of a table function that takes any tensor: weights as values, other known tensors as arrays."""
        if isinstance(x, Known):
            return x.value(self.graph) if x.weight else x.array
        assert x is not None
        return x

    def _node(self, node: onnx.NodeProto, env: Env, label: str) -> None:
        """Enters what ``node`` computes into ``env``: arrays when all it reads is known, else values."""
        for name in node.input:
            if name and name not in env:
                raise ArgumentError(f"it reads {name!r}, which nothing before it defines")
        inputs = [env[name] if name else None for name in node.input]
        entry = TABLE.get(file.key(node))
        if entry is None:
            self._expand(node, inputs, env, label)
            return
        self._env, self.outputs = env, [bool(o) for o in node.output]
        call = self
        if entry.folds and all(x is None or (isinstance(x, Known) and not x.weight) for x in inputs):
            call = Importer(Graph(), self.name, self.opset)
            call.outputs, call._folded = self.outputs, self._folded
            inputs = [Known(x.array) if isinstance(x, Known) else None for x in inputs]
        try:
            results = call._build(entry, node, inputs)
        except Expand:
            self._expand(node, [env[name] if name else None for name in node.input], env, label)
            return
        if call is not self:
            self._folded = call._fold(results)
            results = [_computed(r) for r in results]
        env.update({name: _entered(r) for name, r in zip(node.output, results, strict=False) if name})

    def _fold(self, results: Sequence[Tensor | Items | None]) -> int:
        """Bytes that all constants take with those of this graph, which is about to be computed, and of ``results``.

        Raises ConversionError where that is more than GRAPHRT_FOLD allows: a few nodes may double a constant until no memory
        holds it.
        """
        arrays = sum(x.nbytes for r in results for x in (r if isinstance(r, Items) else [r]) if isinstance(x, np.ndarray))
        folded = self._folded + arrays + sum(v.type.nbytes for node in self.graph.nodes for v in node.outputs)
        if folded > (most := Flags.read().fold) * 1e9:
            raise ConversionError(
                f"with it, what is computed of constants at import takes {folded / 1e9:.3g} GB, and the bound is {most:g}; "
                "set GRAPHRT_FOLD to more GB if the model means it"
            )
        return folded

    def _expand(self, node: onnx.NodeProto, inputs: Sequence[Value | Known | Items | None], env: Env, label: str) -> None:
        """Imports the definition of an operator that ONNX defines by others. Raises ConversionError where there is none."""
        function = definition(node, self.opset, [x.array if isinstance(x, Known) else x for x in inputs])
        if function is None:
            raise ConversionError(
                "the operator is not in the table (docs/onnx_coverage.md). To add it, write a function of its inputs and "
                "attributes in graphrt/frontends/onnx/operators and decorate it with "
                f"@operator({node.op_type!r}{f', domain={node.domain!r}' if node.domain else ''})"
            )
        outer, self.opset = self.opset, next((o.version for o in function.opset_import if not o.domain), self.opset)
        try:
            self.walk(body(node, function, label), env)
        finally:
            self.opset = outer

    def _build(
        self, entry: Operator, node: onnx.NodeProto, inputs: Sequence[Value | Known | Items | None]
    ) -> Sequence[Tensor | Items | None]:
        """Binds inputs and attributes to the table function's parameters and calls it."""
        attributes = dict(file.attributes(node))
        arguments: list[Any] = []
        fixed = entry.fixed
        for i, p in enumerate(fixed):
            x = inputs[i] if i < len(inputs) else None
            if x is not None:
                arguments.append(self._argument(entry, p.name, x, node.input[i]))
            elif p.name in attributes:  # an attribute in some opsets, an input in others
                arguments.append(np.asarray(attributes.pop(p.name)))
            elif p.default is inspect.Parameter.empty:
                raise ArgumentError(f"input {p.name!r} is missing")
            else:
                arguments.append(p.default)
        more = [(x, name) for x, name in zip(inputs[len(fixed) :], node.input[len(fixed) :], strict=True) if x is not None]
        if more and entry.variadic is None:
            raise ConversionError(f"it has {len(inputs)} inputs, the table knows {', '.join(p.name for p in fixed) or 'none'}")
        arguments += [self._argument(entry, str(entry.variadic), x, name) for x, name in more]
        unknown = attributes.keys() - entry.attributes.keys()
        if unknown:
            known = ", ".join(entry.attributes) or "none"
            raise ConversionError(f"attribute {', '.join(sorted(unknown))} is not known; there is {known}")
        missing = [n for n, p in entry.attributes.items() if p.default is inspect.Parameter.empty and n not in attributes]
        if missing:
            raise ArgumentError(f"attribute {', '.join(missing)} is missing")
        if entry.takes_call:
            attributes["call"] = self
        results = entry.build(*arguments, **attributes)
        return results if isinstance(results, tuple | list) and not isinstance(results, Items) else (results,)

    def _argument(self, entry: Operator, parameter: str, x: Value | Known | Items, name: str) -> Tensor | Items:
        """Tensor ``name`` in the form the table function takes it in."""
        wants = entry.wants(parameter)
        if wants == "any":
            return self._tensor(x)
        if isinstance(x, Items) != (wants == "items"):
            raise ArgumentError(f"input {parameter!r} ({name!r}) must be a {'sequence' if wants == 'items' else 'tensor'}")
        if wants == "array" and isinstance(x, Value):
            raise ConversionError(
                f"input {parameter!r} ({name!r}) must be known at import, and depends on what the program is given; "
                f"if it is an input of the model, fix it with constants={{{name!r}: ...}}"
            )
        if wants == "value" and isinstance(x, Known):
            return x.value(self.graph, trainable=parameter not in entry.state)
        return x.array if wants == "array" and isinstance(x, Known) else self._tensor(x)


def _entered(x: Tensor | Items | None) -> Value | Known | Items | None:
    return Known(x) if isinstance(x, np.ndarray) else x


def _computed(x: Tensor | Items | None) -> np.ndarray | Items | None:
    """A value of a graph without inputs, as an array; sequences alike."""
    if isinstance(x, Items):
        return Items(y for y in map(_computed, x) if isinstance(y, np.ndarray))
    return evaluate(x.graph, x.graph.initial, "float32")[x] if isinstance(x, Value) else x


def _placed(error: GraphrtError, node: onnx.NodeProto, label: str, number: int, name: str, opset: int) -> GraphrtError:
    """``error`` with the operator, the node and the opset in front of it."""
    operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    found = type(error)(f"{operator} (node {label!r}, number {number} of {name}, opset {opset}): {error}")
    found.located = True
    return found
