"""trace: a module as a Graph whose programs are called like the module.

Its parameters and buffers are the graph's, under their dotted paths, and the graph's State is the module's own memory, as with
``from_torch``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphrt.compiler import TRACERS
from graphrt.errors import ArgumentError, InputError
from graphrt.ir import Graph, Value
from graphrt.nn.module import Module, in_mode
from graphrt.runtime.arrays import order_of
from graphrt.runtime.state import State
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
        return _Name(graph.input(path, type.shape, type.dtype, type.order).name)

    inputs = {name: _mapped(source, name, leaf) for name, leaf in bound.arguments.items()}
    bound.arguments.update(
        _mapped(lambda _, leaf: graph.sources[leaf].outputs[0] if isinstance(leaf, _Name) else leaf, "", inputs)
    )
    with in_mode(module, train):
        results = module(*bound.args, **bound.kwargs)

    def result(path: str, leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        graph.output(path, leaf)
        return _Name(path)

    graph.signature = ModuleSignature(call, inputs, _mapped(result, "out", results))
    return graph


TRACERS[Module] = trace


class _Name(str):
    """The name of an input or an output, where the arguments or the results have it."""


@dataclass(frozen=True)
class ModuleSignature:
    """How a program of a module is called: as the module. In place of tensors ``inputs`` and ``results`` have their names."""

    call: inspect.Signature
    inputs: Mapping[str, Any]
    results: Any

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs, in the order in which the module returns them."""
        return [leaf for leaf in _leaves(self.results) if isinstance(leaf, _Name)]

    @property
    def written(self) -> Mapping[str, str]:
        """Nothing: values never change."""
        return {}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name. Raises InputError for arguments of another structure, or other constants, than the example's."""
        try:
            given = self.call.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InputError(f"the arguments do not fit forward{self.call}: {error}") from None
        return dict(_pairs(self.inputs, given))

    def result(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The outputs in the structure in which the module returned them."""
        return _mapped(lambda _, leaf: outputs[leaf] if isinstance(leaf, _Name) else leaf, "", self.results)


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


def _mapped(f: Callable[[str, Any], Any], path: str, tree: Any) -> Any:
    """``tree`` of tuples, lists and dicts with ``f(path, leaf)`` for each leaf."""
    if isinstance(tree, Mapping):
        return {k: _mapped(f, f"{path}.{k}" if path else str(k), v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [_mapped(f, f"{path}.{i}", v) for i, v in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return f(path, tree)


def _leaves(tree: Any) -> Iterator[Any]:
    found: list[Any] = []
    _mapped(lambda _, leaf: found.append(leaf), "", tree)
    return iter(found)


def _pairs(wanted: Any, given: Any) -> Iterator[tuple[str, Any]]:
    """The names in ``wanted`` with what ``given`` has in their place. Raises InputError where the two differ."""
    if isinstance(wanted, _Name):
        yield str(wanted), given
    elif isinstance(wanted, Mapping):
        if not isinstance(given, Mapping) or wanted.keys() != given.keys():
            raise InputError(f"the example had {', '.join(map(str, wanted))} where the arguments have {given!r}")
        for key, value in wanted.items():
            yield from _pairs(value, given[key])
    elif isinstance(wanted, list | tuple):
        if not isinstance(given, list | tuple) or len(wanted) != len(given):
            raise InputError(f"the example had {len(wanted)} in a sequence where the arguments have {given!r}")
        for a, b in zip(wanted, given, strict=True):
            yield from _pairs(a, b)
    elif not (given is wanted or given == wanted):
        raise InputError(f"the graph was made for {wanted!r} where the arguments have {given!r}; make another graph")
