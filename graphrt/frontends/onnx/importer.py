"""Walks an ONNX graph and builds ours: names to tensors, one table function a node, constants computed on the way."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from graphrt.errors import ArgumentError, GraphrtError, UnsupportedError
from graphrt.frontends.onnx import model as file
from graphrt.frontends.onnx import operators  # noqa: F401 - fills the table
from graphrt.frontends.onnx.expand import body, definition
from graphrt.frontends.onnx.table import TABLE, Operator, Tensor, lift
from graphrt.ir import Graph, Origin, Value
from graphrt.runtime.arrays import to_numpy
from graphrt.targets.reference import evaluate

Env = dict[str, Tensor | None]


def import_model(
    model: onnx.ModelProto, name: str, shapes: Mapping[str, Sequence[int] | int], constants: Mapping[str, Any]
) -> Graph:
    """``model``, as ``prepare`` left it, as a graph; ``name`` is the file that origins show."""
    graph = Graph()
    importer = Importer(graph, name, file.opset(model))
    initial = {t.name: file.array(t, f"initialiser {t.name!r}") for t in model.graph.initializer}
    open_inputs = [v for v in model.graph.input if v.name not in initial]
    unknown = constants.keys() - {v.name for v in model.graph.input}
    if unknown:
        raise ArgumentError(f"no input {sorted(unknown)} to fix; the inputs are {[v.name for v in model.graph.input]}")
    _check_names(shapes, [v for v in open_inputs if v.name not in constants])
    env: Env = {**initial, **{n: to_numpy(v) for n, v in constants.items()}}
    for v in open_inputs:
        if v.name not in constants:
            dims, dtype = file.signature(v)
            env[v.name] = graph.input(v.name, _sizes(v.name, dims, shapes), dtype)
    importer.weights = {n for n in initial.keys() - constants.keys() if initial[n].dtype.kind not in "biu" and initial[n].ndim}
    importer.initial = set(initial) - constants.keys()
    importer.walk(model.graph.node, env)
    for v in model.graph.output:
        if v.name not in env:
            raise ArgumentError(f"output {v.name!r} of the model is computed by no node")
        graph.output(v.name, importer.value(v.name, env))
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
    if given is None:
        dims = [shapes.get(d, d) if isinstance(d, str) else d for d in dims]  # type: ignore[misc]
        if not all(isinstance(d, int) for d in dims):
            raise ArgumentError(
                f"input {name!r} is [{', '.join(map(str, dims))}]; say what is open, as in shapes={{{name!r}: (1, ...)}} or by "
                "the name of a dimension"
            )
        return [int(d) for d in dims]
    wanted = [given] if isinstance(given, int) else list(given)
    fits = "of unknown rank" in dims or (
        len(wanted) == len(dims) and all(isinstance(d, str) or d == n for d, n in zip(dims, wanted, strict=True))
    )
    if not fits:
        raise ArgumentError(f"input {name!r} is [{', '.join(map(str, dims))}]; shapes says {wanted}")
    return wanted


class Importer:
    """State of one import: the graph under construction and what is known of initialisers. Also a table function's Call."""

    def __init__(self, graph: Graph, name: str, opset: int) -> None:
        self.graph, self.name, self.opset = graph, name, opset
        self.initial: set[str] = set()  # initialisers: parameters when a program reads them
        self.weights: set[str] = set()  # those among them that stay parameters even where they could be folded
        self.outputs: Sequence[bool] = ()
        self._env: Env = {}
        self._lifted: dict[str, Value] = {}
        self._count = 0

    def walk(self, nodes: Iterable[onnx.NodeProto], env: Env) -> None:
        """Imports ``nodes`` in order into ``env``."""
        for node in nodes:
            self._count += 1
            number, label = self._count, node.name or next((o for o in node.output if o), node.op_type)
            try:
                with self.graph.at(Origin(self.name, number, "fwd", label)):
                    self._node(node, env, label)
            except GraphrtError as error:
                raise _placed(error, node, label, number, self.name, self.opset) from None

    def run(self, branch: onnx.GraphProto, arguments: Sequence[Tensor] = ()) -> list[Tensor]:
        """Imports a subgraph, which sees the names around it, for ``arguments``; its results."""
        outer, inner = self._env, dict(self._env)
        for t in branch.initializer:
            inner[t.name] = file.array(t)
        inner.update({v.name: a for v, a in zip(branch.input, arguments, strict=True)})
        hidden = {t.name for t in (*branch.input, *branch.initializer)}.union(*(n.output for n in branch.node))
        kept = {n: self._lifted.pop(n) for n in hidden & self._lifted.keys()}
        outputs = self.outputs
        self.walk(branch.node, inner)
        results = [inner[v.name] for v in branch.output]
        for n in hidden & self._lifted.keys():
            del self._lifted[n]
        self._lifted.update(kept)
        self._env, self.outputs = outer, outputs
        return [r for r in results if r is not None]

    def value(self, name: str, env: Env, trainable: bool = True) -> Value:
        """The tensor ``name`` as a value of the graph; an initialiser as a parameter of that name."""
        x = env[name]
        assert x is not None
        if isinstance(x, Value):
            return x
        if name not in self._lifted:
            if name in self.initial:
                floating = x.dtype.kind not in "biu"
                self._lifted[name] = self.graph.parameter(name, x, trainable=trainable and floating)
            else:
                self._lifted[name] = lift(self.graph, x)
        return self._lifted[name]

    def _node(self, node: onnx.NodeProto, env: Env, label: str) -> None:
        """Enters what ``node`` computes into ``env``: arrays when all it reads is known, else values."""
        for name in node.input:
            if name and name not in env:
                raise ArgumentError(f"it reads {name!r}, which nothing before it defines")
        entry = TABLE.get(file.key(node))
        if entry is None:
            self._expand(node, env, label)
            return
        self._env, self.outputs = env, [bool(o) for o in node.output]
        names = list(node.input)
        given = [env[n] for n in names if n]
        if entry.folds and not any(isinstance(v, Value) for v in given) and not self.weights & set(names):
            scratch = Importer(Graph(), self.name, self.opset)
            scratch.outputs = self.outputs
            results: Sequence[Tensor | None] = [_computed(r) for r in scratch._build(entry, node, names, env, scratch)]
        else:
            results = self._build(entry, node, names, env, self)
        env.update({name: r for name, r in zip(node.output, results, strict=False) if name})

    def _expand(self, node: onnx.NodeProto, env: Env, label: str) -> None:
        """Imports the definition of an operator that ONNX defines by others. Raises UnsupportedError where there is none."""
        function = definition(node, self.opset, [env[n] if n else None for n in node.input])
        if function is None:
            raise UnsupportedError(
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
        self, entry: Operator, node: onnx.NodeProto, names: list[str], env: Env, call: Importer
    ) -> Sequence[Tensor | None]:
        """Binds inputs and attributes to the table function's parameters and calls it."""
        attributes = dict(file.attributes(node))
        arguments: list[Any] = []
        parameters = list(entry.inputs.values())
        variadic = parameters[-1] if parameters and parameters[-1].kind is inspect.Parameter.VAR_POSITIONAL else None
        fixed = parameters[:-1] if variadic else parameters
        for i, p in enumerate(fixed):
            name = names[i] if i < len(names) else ""
            if name and env[name] is not None:
                arguments.append(self._argument(entry, p.name, name, env))
            elif p.name in attributes:  # an attribute in some opsets, an input in others
                arguments.append(np.asarray(attributes.pop(p.name)))
            elif p.default is inspect.Parameter.empty:
                raise ArgumentError(f"input {p.name!r} is missing")
            else:
                arguments.append(p.default)
        if variadic:
            arguments += [self._argument(entry, variadic.name, n, env) for n in names[len(fixed) :]]
        elif len(names) > len(fixed) and any(names[len(fixed) :]):
            raise UnsupportedError(f"it has {len(names)} inputs, the table knows {', '.join(p.name for p in fixed) or 'none'}")
        unknown = attributes.keys() - entry.attributes.keys()
        if unknown:
            known = ", ".join(entry.attributes) or "none"
            raise UnsupportedError(f"attribute {', '.join(sorted(unknown))} is not known; there is {known}")
        missing = [n for n, p in entry.attributes.items() if p.default is inspect.Parameter.empty and n not in attributes]
        if missing:
            raise ArgumentError(f"attribute {', '.join(missing)} is missing")
        if entry.takes_call:
            attributes["call"] = call
        results = entry.build(*arguments, **attributes)
        return results if isinstance(results, tuple | list) else (results,)

    def _argument(self, entry: Operator, parameter: str, name: str, env: Env) -> Tensor:
        """Tensor ``name`` in the form the table function takes it in."""
        x, wants = env[name], entry.wants(parameter)
        assert x is not None
        if wants == "array":
            if isinstance(x, Value):
                raise UnsupportedError(
                    f"input {parameter!r} ({name!r}) must be known at import, and depends on what the program is given; "
                    f"if it is an input of the model, fix it with constants={{{name!r}: ...}}"
                )
            return x
        if wants == "either" and name not in self.weights:
            return x
        return self.value(name, env, trainable=parameter not in entry.state)


def _computed(x: Tensor | None) -> np.ndarray | None:
    """A value of a graph without inputs, as an array."""
    return evaluate(x.graph, x.graph.initial, "float32")[x] if isinstance(x, Value) else x


def _placed(error: GraphrtError, node: onnx.NodeProto, label: str, number: int, name: str, opset: int) -> GraphrtError:
    """``error`` with the operator, the node and the opset in front of it."""
    operator = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
    found = type(error)(f"{operator} (node {label!r}, number {number} of {name}, opset {opset}): {error}")
    found.located = True
    return found
