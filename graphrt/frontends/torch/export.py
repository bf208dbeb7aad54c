"""from_torch: a torch module or function as a Graph, by torch.export.

Parameters and buffers become parameters of the graph under their own names, and the graph's State holds the module's own
memory: training a program trains the module. What the module does to its buffers (running statistics) becomes an update.
"""

from __future__ import annotations

import inspect
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind
from torch.utils import _pytree as pytree

from graphrt.errors import ArgumentError, ConversionError, InputError
from graphrt.frontends.torch.build import check, decompositions, is_users, output, tracing, translate
from graphrt.frontends.torch.views import order_of
from graphrt.ir import Graph, Value
from graphrt.runtime.arrays import from_numpy, to_numpy
from graphrt.runtime.state import State
from graphrt.signature import CallSignature, Name, equal, settled
from graphrt.types import DTYPES, as_dtype

# torch's warning of tensors put where there were none, which a graph forgets; torch's own recurrent modules do so to no effect
_FORGOTTEN = r"The tensor attributes? (?:\S+, )*(?!\S*\._flat_weights\[)\S+ .*assigned during export"
Model = torch.nn.Module | Callable[..., Any]


def from_torch(model: Model, example_inputs: Any, train: bool = False) -> Graph:
    """The graph of ``model(*example_inputs)``, for inputs of the shapes and dtypes of the example's.

    ``model`` is a torch module, or a function of tensors, which may call modules that it finds around it. ``example_inputs``
    is a tuple of arguments, a dict of keyword arguments, or a single tensor; tensors and NumPy arrays may lie in nested tuples,
    lists and dicts, and what is neither is a constant. ``train`` traces in training mode: dropout drops, and batch
    normalisation uses the batch's statistics and updates the running ones. The module's own mode is left as it is.

    A program compiled from the graph is called like the model and returns what it does, in new memory; what the model writes
    into its arguments is written there. ``graph.state`` holds the module's parameters, buffers and tensor attributes in their
    own memory; ``graph.state.sync_to_torch()`` copies those that could not be shared.
    Raises ConversionError for what torch.export cannot trace, and for operators that the ATen table lacks.
    """
    module = model if isinstance(model, torch.nn.Module) else _Function(model)
    call = inspect.signature(module.forward)
    args, kwargs = _arguments(call, example_inputs)
    graph, state = Graph(), State()
    graph.state = state
    with _mode(module, train), _attributes_as_buffers(module):
        with tracing():
            program = _export(module, args, kwargs)
        check(program.graph_module)
        inputs, names = _inputs(graph, state, module, program)
    results = translate(program.graph_module, graph, inputs, written=_written(program))
    spec = program.call_spec.out_spec
    assert spec is not None and program.call_spec.in_spec is not None
    leaves, written = _outputs(graph, program, results, spec)
    graph.signature = TorchSignature(call, program.call_spec.in_spec, tuple(names), spec, tuple(leaves), written)
    return graph


class _Function(torch.nn.Module):
    """A function as a module, the modules that it refers to as children, so that their parameters are the graph's."""

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise ArgumentError(f"from_torch takes a torch.nn.Module or a function, got {type(function).__name__}")
        super().__init__()
        around = inspect.getclosurevars(function) if inspect.isfunction(function) or inspect.ismethod(function) else None
        for name, found in {**around.globals, **around.nonlocals}.items() if around else ():
            if isinstance(found, torch.nn.Module):
                self.add_module(name, found)

        called = _named_forward(function)

        def forward(*args: Any, **kwargs: Any) -> Any:
            return called(*args, **kwargs)

        try:
            forward.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        except ValueError as error:
            raise ArgumentError(f"{error}; write lambda x: {getattr(function, '__name__', 'function')}(x)") from None
        self.forward = forward
        self.title = getattr(function, "__qualname__", type(function).__name__)


def _named_forward(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` under the name ``forward``: the lines that torch.export keeps are those of functions of that name."""
    if inspect.ismethod(function):
        return types.MethodType(_named_forward(function.__func__), function.__self__)
    if not inspect.isfunction(function):
        return function
    code = function.__code__.replace(co_name="forward")
    copy = types.FunctionType(code, function.__globals__, "forward", function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@dataclass(frozen=True)
class TorchSignature:
    """How a program of a torch model is called: as the model.

    ``names`` has the input's name, or the constant in a tuple, for each leaf of the arguments; ``leaves`` likewise for what
    is returned. ``written`` has the output that the model writes into an input, by the input's name.
    """

    call: inspect.Signature
    arguments: pytree.TreeSpec
    names: tuple[str | tuple[Any], ...]
    returned: pytree.TreeSpec
    leaves: tuple[str | tuple[Any], ...]
    written: Mapping[str, str]

    @cached_property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs, those that are written into inputs first."""
        return list(dict.fromkeys([*self.written.values(), *(leaf for leaf in self.leaves if isinstance(leaf, str))]))

    @cached_property
    def _plain(self) -> Sequence[str]:
        """The inputs' names, where the arguments of the example were as many tensors, given by position; else none."""
        args, kwargs = pytree.tree_unflatten(list(self.names), self.arguments)
        names = [n for n in self.names if isinstance(n, str)]
        return names if list(args) == names and not kwargs else []

    @cached_property
    def _example(self) -> dict[str, Any]:
        """The example's arguments, names in place of tensors."""
        args, kwargs = _tree(self.names, self.arguments)
        return self.call.bind(*args, **kwargs).arguments

    @cached_property
    def _single(self) -> str | None:
        """The output's name, where the model returned one tensor."""
        found = pytree.tree_unflatten(list(self.leaves), self.returned)
        return found if isinstance(found, str) else None

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name. Raises InputError for arguments of another structure, or other constants, than the example's."""
        if len(args) == len(self._plain) and args and not kwargs:
            return dict(zip(self._plain, args, strict=True))
        bound = settled(self.call, self._example, args, kwargs)
        try:
            leaves = self.arguments.flatten_up_to((bound.args, bound.kwargs))
        except (TypeError, ValueError) as error:
            raise InputError(f"the arguments do not have the structure of the example inputs: {error}") from None
        found = {}
        for name, leaf in zip(self.names, leaves, strict=True):
            if isinstance(name, str):
                found[name] = leaf
            elif not equal(leaf, name[0]):
                raise InputError(f"the graph was made for {name[0]!r} where the arguments have {leaf!r}; make another graph")
        return found

    def result(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The outputs in the structure in which the model returned them; tensors where no input says otherwise.

        Raises InputError for an input that the model writes into and that cannot be written.
        """
        if not any(isinstance(name, str) for name in self.names):
            outputs = {n: from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in outputs.items()}
        for name, new in self.written.items():
            _write(name, inputs[name], outputs[new])
        if self._single is not None:
            return outputs[self._single]
        leaves = [outputs[leaf] if isinstance(leaf, str) else leaf[0] for leaf in self.leaves]
        return pytree.tree_unflatten(leaves, self.returned)

    def kept(self) -> CallSignature | None:
        """The same call without torch, None where the model writes into its inputs."""
        return None if self.written else CallSignature(self.call, self._example, _tree(self.leaves, self.returned))


def _tree(leaves: Sequence[str | tuple[Any, ...]], spec: pytree.TreeSpec) -> Any:
    """The structure ``spec`` of ``leaves``, names or constants."""
    return pytree.tree_unflatten([Name(leaf) if isinstance(leaf, str) else leaf[0] for leaf in leaves], spec)


def _write(name: str, input: Any, value: Any) -> None:  # noqa: A002 - what it is
    """Makes the array or tensor ``input`` hold ``value``. Raises InputError."""
    try:
        if isinstance(input, torch.Tensor):
            with torch.no_grad():
                input.copy_(from_numpy(value) if isinstance(value, np.ndarray) else value)
        else:
            np.copyto(input, to_numpy(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"the model writes into its input {name!r}, which must be a tensor or array that can be: {error}"
        ) from None


def _arguments(call: inspect.Signature, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``example`` as the positional and keyword arguments of a call. Raises ArgumentError."""
    args = (example,) if isinstance(example, torch.Tensor | np.ndarray) else () if isinstance(example, Mapping) else example
    kwargs = example if isinstance(example, Mapping) else {}
    if not isinstance(args, tuple | list):
        raise ArgumentError(f"example_inputs must be a tuple, a dict or a tensor, got {type(example).__name__}")
    try:
        bound = call.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"example_inputs do not fit forward{call}: {error}") from None
    given = pytree.tree_map_only(np.ndarray, lambda a: from_numpy(np.array(a)), (bound.args, bound.kwargs))
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, given)  # one tensor twice: two inputs


@contextmanager
def _attributes_as_buffers(module: torch.nn.Module) -> Iterator[None]:
    """Plain attributes that are tensors count as buffers for a while, so that what the model keeps there is state."""
    found = []
    for m in module.modules():
        for name, v in list(vars(m).items()):
            if isinstance(v, torch.Tensor) and v.layout is torch.strided and str(v.dtype).removeprefix("torch.") in DTYPES:
                del vars(m)[name]
                m.register_buffer(name, v.detach(), persistent=False)
                found.append((m, name, v))
    try:
        yield
    finally:
        for m, name, v in found:
            delattr(m, name)
            vars(m)[name] = v


@contextmanager
def _mode(module: torch.nn.Module, train: bool) -> Iterator[None]:
    """Training or eval mode for a while."""
    before = {m: m.training for m in module.modules()}
    module.train(train)
    try:
        yield
    finally:
        for m, training in before.items():
            m.training = training


def _export(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    """``module`` as one graph of core ATen operators and those of the table, without mutation."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)  # torch's own use of it
            warnings.filterwarnings("ignore", "The tensor attributes? .*assigned during export")  # recurrent modules' weights
            warnings.filterwarnings("error", _FORGOTTEN)
            program = torch.export.export(module, args, kwargs, strict=False)
            return program.run_decompositions(decompositions(torch.export.default_decompositions()))
    except Exception as error:  # whatever export stumbles over is the model's
        name = module.title if isinstance(module, _Function) else type(module).__name__
        raise ConversionError(
            f"torch.export cannot trace {name}{_place(error)}: {error}\n"
            "graphrt needs the whole model as one graph of fixed shapes: where its control flow depends on the values of "
            'tensors, use torch.where, or torch.compile(model, backend="graphrt"), which splits the model there.'
        ) from error


def _place(error: BaseException) -> str:
    """`` at file:line`` of the innermost line of the user's that ``error`` passed, if there is one."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    users = [f for f in frames if is_users(f[0])]
    return f" at {users[-1][0]}:{users[-1][1]}" if users else ""


def _inputs(graph: Graph, state: State, module: torch.nn.Module, program: ExportedProgram) -> tuple[list[Any], list[Any]]:
    """The placeholders' values, in order: parameters of ``graph``, its inputs, constants; and the names of user inputs."""
    values: list[Any] = []
    names: list[Any] = []
    seen: dict[int, Value] = {}
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            if isinstance(spec.arg, ConstantArgument):
                names.append((spec.arg.value,))
                values.append(spec.arg.value)
                continue
            example = node.meta["val"]
            name = _free(graph, spec.arg.name)
            names.append(name)
            values.append(graph.input(name, tuple(example.shape), as_dtype(example.dtype), order_of(example)))
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            path = str(spec.target)
            tensor = module.get_parameter(path) if spec.kind is InputKind.PARAMETER else module.get_buffer(path)
            if id(tensor) not in seen:  # a tensor with two names is one parameter
                trainable = spec.kind is InputKind.PARAMETER and tensor.requires_grad
                seen[id(tensor)] = graph.parameter(path, to_numpy(tensor), trainable=trainable)
                state.share(path, tensor)
            values.append(seen[id(tensor)])
        elif spec.kind is InputKind.TOKEN:
            values.append(None)
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            values.append(graph.constant(to_numpy(program.constants[str(spec.target)])))
        else:
            raise ConversionError(f"the model takes {spec.kind.name.lower()} {spec.target}, which graphrt does not know")
    return values, names


def _written(program: ExportedProgram) -> dict[fx.Node, fx.Node]:
    """The parameter for each result that was written into one, which torch allows where no gradient is recorded only.

    What is read there afterwards has the gradient of the parameter, whatever the result was made of.
    """
    placeholders = {n.name: n for n in program.graph.find_nodes(op="placeholder")}
    parameters = {
        s.target: placeholders[s.arg.name] for s in program.graph_signature.input_specs if s.kind is InputKind.PARAMETER
    }
    found: dict[fx.Node, fx.Node] = {}
    (nodes,) = program.graph.output_node().args
    for node, out in zip(nodes, program.graph_signature.output_specs, strict=True):
        if out.kind is not OutputKind.PARAMETER_MUTATION:
            continue
        parameter, contents = parameters[out.target], []
        while node.op == "call_function" and isinstance(node.args[0], fx.Node):
            contents.append(node)
            node = node.args[0]  # what was written before
        if node is parameter:  # else it is a copy of something, of which it has the name here
            found.update((n, parameter) for n in contents if str(n.target) != "aten.detach.default")
    return found


def _free(graph: Graph, name: str) -> str:
    while name in graph.sources:
        name += "_"
    return name


def _outputs(
    graph: Graph, program: ExportedProgram, results: Sequence[Any], spec: pytree.TreeSpec
) -> tuple[list[Any], dict[str, str]]:
    """Makes ``results`` the outputs and updates of ``graph``, the outputs in torch's order in memory.

    Returns the output's name, or the constant, for each leaf; and by input the output that is written into it.
    """
    leaves: list[Any] = []
    written: dict[str, str] = {}
    (nodes,) = program.graph.output_node().args
    count = spec.num_leaves
    names = iter(_names(spec))
    for node, value, out in zip(nodes, results, program.graph_signature.output_specs, strict=True):
        if out.kind is OutputKind.USER_OUTPUT:
            name = next(names)
            leaves.append(name if isinstance(value, Value) else (value,))
            if isinstance(value, Value):
                output(graph, name, value, order_of(node.meta["val"]))
        elif out.kind is OutputKind.USER_INPUT_MUTATION:
            name = written[str(out.target)] = f"{out.target} as written"
            graph.output(name, value)
        elif out.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
            graph.update(graph.sources[str(out.target)].outputs[0], value)
        elif out.kind is not OutputKind.TOKEN:
            raise ConversionError(f"the model returns {out.kind.name.lower()} {out.target}, which graphrt does not know")
    assert len(leaves) == count
    return leaves, written


def _names(spec: pytree.TreeSpec) -> list[str]:
    """A name for each leaf of what the model returns: ``out``, ``out0``, ``logits``, ``logits.0``."""
    tree = pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
    found = []
    for path, _ in pytree.tree_flatten_with_path(tree)[0]:
        parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path]
        name = ".".join(parts)
        found.append(name if name and not name[0].isdigit() else f"out{name}")
    return found
