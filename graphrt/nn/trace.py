"""trace: a module as a Graph whose programs are called like the module.

Its parameters and buffers are the graph's, under their dotted paths, and the graph's State is the module's own memory, as with
``from_torch``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from graphrt.compiler import TRACERS
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.nn.module import Module, in_mode
from graphrt.runtime.arrays import order_of
from graphrt.runtime.state import State
from graphrt.signature import CallSignature, Name, mapped
from graphrt.types import TensorType, as_dtype


def trace(module: Module, example_inputs: Any, train: bool = False) -> Graph:
    """The graph of ``module(*example_inputs)``, for inputs of the shapes, dtypes and memory order of the example's.

    ``example_inputs`` is a tuple of arguments, a dict of keyword arguments, or a single tensor. Tensors are arrays, torch
    tensors or TensorTypes, and may lie in nested tuples, lists and dicts; what is none is a constant. ``train`` builds in
    training mode, in which batch norm updates its running statistics. The module's own mode is left as it is.
    Raises ArgumentError for arguments that do not fit ``forward``.
    """
    call = inspect.signature(module.forward)
    kwargs = example_inputs if isinstance(example_inputs, Mapping) else {}
    args = example_inputs if isinstance(example_inputs, tuple | list) else () if kwargs is example_inputs else (example_inputs,)
    try:
        bound = call.bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(f"example_inputs do not fit {type(module).__name__}.forward{call}: {error}") from None
    graph, state, taken = Graph(), State(), dict(module._named())
    graph.state = state
    for name, parameter in taken.items():
        state.share(name, parameter.array)

    def source(path: str, leaf: Any) -> Any:
        type = _type(leaf)
        if type is None:
            return leaf
        while path in taken or path in graph.sources:
            path += "_"
        return Name(graph.input(path, type.shape, type.dtype, type.order).name)

    inputs = {name: mapped(source, name, leaf) for name, leaf in bound.arguments.items()}
    bound.arguments.update(
        mapped(lambda _, leaf: graph.sources[leaf].outputs[0] if isinstance(leaf, Name) else leaf, "", inputs)
    )
    with in_mode(module, train):
        results = module(*bound.args, **bound.kwargs)

    def result(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        graph.output(path, leaf)
        return Name(path)

    graph.signature = CallSignature(call, inputs, mapped(result, "out", results))
    return graph


TRACERS[Module] = trace


def _type(leaf: Any) -> TensorType | None:
    """The type of a tensor, None for what is none."""
    if isinstance(leaf, TensorType):
        return leaf
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return None
    return TensorType(tuple(leaf.shape), as_dtype(leaf.dtype), order_of(leaf))


def kinds(tree: Any) -> Any:
    """All that a graph traced with arguments ``tree`` depends on, hashable: types of tensors, and whatever is none."""
    if isinstance(tree, Mapping):
        return tuple((name, kinds(part)) for name, part in tree.items())
    if isinstance(tree, list | tuple):
        return tuple(kinds(part) for part in tree)
    return _type(tree) or repr(tree)
