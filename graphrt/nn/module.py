"""Module: parameters as NumPy arrays, and a call that builds graph nodes.

A module owns its parameters. Calling one on a graph's value appends nodes, and each parameter becomes a parameter of that
graph under its dotted path from the module that was called (``features.0.weight``), once per graph.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from graphrt.errors import ArgumentError, GraphError, InputError, ShapeError
from graphrt.ir import BUILDING, Graph, Stand, Value
from graphrt.ops.base import graph_of, resolved
from graphrt.runtime.arrays import to_numpy
from graphrt.types import DType, as_dtype

M = TypeVar("M", bound="Module")


class Parameter(Stand):
    """An array that a module owns: float32 unless ``array`` is a NumPy array of another type than float64.

    ``trainable`` False keeps the optimizer away from it; ``requires_grad`` is the same. ``name`` is its path in the module last
    called. In a module's ``forward`` it can be used as a Value: in arithmetic, and as an argument of functions. ``sharded`` is
    None, or the axis of a mesh along which each process has a part of it, on graphs that have that, and the dimension.
    """

    def __init__(self, array: Any, trainable: bool = True) -> None:
        array = np.array(array, order="C")
        self.array: np.ndarray = array.astype(np.float32) if array.dtype == np.float64 else array
        self._trainable = trainable
        self.name = ""
        self.sharded: tuple[str, int] | None = None  # axis of the mesh, dimension

    @property
    def trainable(self) -> bool:
        """Whether the optimizer updates it in graphs that are built from now on."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        _changed()
        self._trainable = value

    @property
    def requires_grad(self) -> bool:
        """``trainable``, as torch names it."""
        return self.trainable

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.trainable = value

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Sets ``trainable``. Returns the parameter."""
        self.trainable = requires_grad
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's."""
        return self.array.shape

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return self.array.ndim

    @property
    def dtype(self) -> DType:
        """The array's, as graphrt names it."""
        return as_dtype(self.array.dtype)

    def value(self, graph: Graph) -> Value:
        """The parameter of ``graph`` that stands for this one, made at first use.

        Raises GraphError when its name there belongs to another Parameter, ShapeError when its shape differs.
        """
        if (stepped := _STEPPED.get()) and (found := stepped.get(self)) is not None and found.graph is graph:
            return found
        names = _NAMES.setdefault(graph, {})
        name = names.get(self)
        if name in graph.sources:  # an op that failed may have taken it back
            return graph.sources[name].outputs[0]
        name = self.name or f"parameter_{len(names)}"
        source = graph.sources.get(name)
        if source is not None and any(n == name and p is not self for p, n in names.items()):
            raise GraphError(
                f"two modules called on one graph both have a parameter {name!r}; make them children of one Module "
                "(for example nn.Sequential) and call that"
            )
        cut = self.sharded if graph.mesh is not None and self.sharded and self.sharded[0] in graph.mesh.axes else None
        value = source.outputs[0] if source else graph.parameter(name, self.array, trainable=self.trainable, sharded=cut)
        if cut is None and value.shape != self.shape:
            raise ShapeError(f"parameter {name!r} has shape {list(self.shape)}; the graph has {value!r}")
        names[self] = name
        return value

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.name or '?'} : {self.array.dtype}{list(self.shape)}{'' if self.trainable else ', frozen'})"


class Buffer(Parameter):
    """State that is saved with a module but never trained, such as running statistics; ``array`` as of ``Parameter``."""

    def __init__(self, array: Any) -> None:
        super().__init__(array, trainable=False)


# Names only: a Value here would keep its graph alive for ever.
_NAMES: weakref.WeakKeyDictionary[Graph, dict[Parameter, str]] = weakref.WeakKeyDictionary()


_changes = 0


def _changed() -> None:
    global _changes
    _changes += 1


def changes() -> int:
    """A number that grows whenever what any module builds may have changed: its mode, its parameters, what is trainable."""
    return _changes


class Module:
    """Base of layers, losses and networks: assign Parameters and Modules as attributes, write ``forward``.

        class Net(nn.Module):
            def __init__(self):
                self.conv, self.head = nn.Conv2d(1, 6, 5), nn.Linear(6, 10)

            def forward(self, x):
                return self.head(F.mean(F.relu(self.conv(x)), (2, 3)))

    Lists, tuples and dicts of modules count as children under ``attribute.key``. ``training`` is the mode that calls build in,
    which ``train`` and ``eval`` set. There is no ``super().__init__()`` to call.
    """

    training: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        _changed()
        object.__setattr__(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's computation on Values."""
        raise GraphError(f"{type(self).__name__} must define forward(self, x)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Appends ``forward`` to the graph of the Values among the arguments, or nothing if that fails.

        Raises ArgumentError when there are none.
        """
        given = [*args, *kwargs.values()]
        graph = graph_of(*given)
        if graph is None:
            raise ArgumentError(
                f"{type(self).__name__} is called on Values of a Graph, got {', '.join(type(a).__name__ for a in given)}; "
                "make one with graph.input(name, shape), or pass arrays to a compiled program"
            )
        args, kwargs = tuple(resolved(args, graph)), dict(zip(kwargs, resolved(kwargs.values(), graph), strict=True))
        if BUILDING.get() is graph:
            return self._built(graph, args, kwargs)
        with inside(self, graph), graph.transaction():
            return self._built(graph, args, kwargs)

    def _built(self, graph: Graph, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``forward``, of which a note is taken where somebody asked for it."""
        calls, first = _CALLS.get(), len(graph.nodes)
        found = self.forward(*args, **kwargs)
        if calls is not None:
            calls.append(Call(self, first, len(graph.nodes), found))
        return found

    # --- members --------------------------------------------------------------------------------------------------

    def _members(self) -> Iterator[tuple[str, Any]]:
        """Attributes by name, with the elements of lists, tuples and dicts as ``name.key``."""
        for name, member in vars(self).items():
            if isinstance(member, list | tuple):
                yield from ((f"{name}.{i}", m) for i, m in enumerate(member))
            elif isinstance(member, dict):
                yield from ((f"{name}.{k}", m) for k, m in member.items())
            else:
                yield name, member

    def _named(self, prefix: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Parameter]]:
        """Parameters and buffers, own ones first, each once under its first name."""
        seen = set() if seen is None else seen
        children: list[tuple[str, Module]] = []
        for name, member in self._members():
            if isinstance(member, Module):
                children.append((name, member))
            elif isinstance(member, Parameter) and id(member) not in seen:
                seen.add(id(member))
                yield prefix + name, member
        for name, child in children:
            yield from child._named(f"{prefix}{name}.", seen)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Direct children by name."""
        return ((n, m) for n, m in self._members() if isinstance(m, Module))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (under "") and all below it, by dotted path."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        return (m for _, m in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters by dotted path, frozen ones included, buffers not."""
        return ((n, p) for n, p in self._named() if not isinstance(p, Buffer))

    def parameters(self) -> Iterator[Parameter]:
        """``named_parameters`` without the names."""
        return (p for _, p in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """Buffers by dotted path: what is saved with the module and not trained."""
        return ((n, p) for n, p in self._named() if isinstance(p, Buffer))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters and buffers by dotted path."""
        return {name: p.array.copy() for name, p in self._named()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copies arrays or torch tensors into the parameters and buffers of those names; nothing is changed on error.

        With ``strict`` False missing and unexpected names are passed over. A program compiled before keeps its own state.
        Raises InputError.
        """
        own = dict(self._named())
        given = {k: to_numpy(v) for k, v in state.items()}
        missing, unexpected = own.keys() - given.keys(), given.keys() - own.keys()
        shapes = [
            f"{n} ({list(own[n].shape)}, got {list(given[n].shape)})"
            for n in own
            if n in given and own[n].shape != given[n].shape
        ]
        if shapes or (strict and (missing or unexpected)):
            raise InputError(
                f"the state does not fit {type(self).__name__}: missing {sorted(missing)}, unexpected {sorted(unexpected)}, "
                f"misshapen {shapes}"
            )
        for name, array in given.items():
            if name in own:
                own[name].array[...] = array

    def train(self: M, mode: bool = True) -> M:
        """Sets the mode that later calls build in, of all parts: dropout active, batch statistics. Returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: M) -> M:
        """``train(False)``."""
        return self.train(False)

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Sets ``trainable`` of all parameters; buffers are never trained. Returns the module.

        Running statistics follow the mode and not this, as in torch: ``trunk.requires_grad_(False).eval()`` freezes a trunk.
        """
        for parameter in self.parameters():
            parameter.trainable = requires_grad
        return self

    def extra_repr(self) -> str:
        """Arguments as ``repr`` shows them: the plain attributes."""
        plain = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str | tuple) and k != "training"}
        return ", ".join(f"{k}={v!r}" for k, v in plain.items())

    def __repr__(self) -> str:
        children = [f"  ({n}): " + repr(m).replace("\n", "\n  ") for n, m in self.named_children()]
        name = type(self).__name__
        return f"{name}(\n" + "\n".join(children) + "\n)" if children else f"{name}({self.extra_repr()})"


@dataclass(frozen=True)
class Call:
    """A ``module`` that was called: it appended the nodes from ``first`` to before ``stop``, and returned ``output``."""

    module: Module
    first: int
    stop: int
    output: Any


_CALLS: ContextVar[list[Call] | None] = ContextVar("calls", default=None)


@contextmanager
def noted() -> Iterator[list[Call]]:
    """A list of the calls of modules inside, in the order in which they return."""
    calls: list[Call] = []
    token = _CALLS.set(calls)
    try:
        yield calls
    finally:
        _CALLS.reset(token)


_PREFIX: ContextVar[str] = ContextVar("prefix", default="")  # before the names of parameters of modules that are called


@contextmanager
def under(name: str) -> Iterator[None]:
    """Modules that are called inside are children of ``name``: a loss whose weight is called as a parameter of the network."""
    token = _PREFIX.set(f"{name}.")
    try:
        yield
    finally:
        _PREFIX.reset(token)


@contextmanager
def inside(module: Module, graph: Graph) -> Iterator[None]:
    """Parts of ``module`` that are called on ``graph`` are so as if from its ``forward``: names are those in ``module``."""
    for name, parameter in module._named(_PREFIX.get()):
        parameter.name = name
    token = BUILDING.set(graph)
    try:
        yield
    finally:
        BUILDING.reset(token)


_STEPPED: ContextVar[dict[Parameter, Value] | None] = ContextVar("stepped", default=None)


@contextmanager
def stepped() -> Iterator[dict[Parameter, Value]]:
    """A table of the values that parameters have from now on for modules that are called within, empty at first."""
    table: dict[Parameter, Value] = {}
    token = _STEPPED.set(table)
    try:
        yield table
    finally:
        _STEPPED.reset(token)


@contextmanager
def in_mode(module: Module, training: bool) -> Iterator[None]:
    """All of ``module`` in eval mode, or in training what is so by its own mode, then each part in the mode it had.

    A part that ``eval`` was called on stays as it is in training; a module that is itself in eval mode trains as a whole.
    """
    before = [(m, m.training) for m in module.modules()]
    if not (training and module.training):
        module.train(training)
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


def count_parameters(module: Module, trainable: bool = True) -> int:
    """Elements of the ``trainable`` parameters of ``module``, or of all its parameters; buffers do not count."""
    return sum(p.array.size for p in module.parameters() if p.trainable or not trainable)


def optional(parameter: Parameter | None, like: Value) -> Value | None:
    """The parameter as a value of the graph of ``like``, or None."""
    return None if parameter is None else parameter.value(like.graph)
