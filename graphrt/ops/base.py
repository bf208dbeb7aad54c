"""The common part of all op modules: turning arguments into values, broadcasting, promotion, and public functions.

A public function of ``graphrt.ops`` is written with ``@function``: it runs as a transaction (an error leaves nothing
half-built on the graph) and can be called as a method of a Value.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from graphrt.errors import ArgumentError, DTypeError, GraphError, GraphrtError, ShapeError
from graphrt.ir import BUILDING, OPERATORS, Graph, Stand, Value
from graphrt.op import REGISTRY, Kind
from graphrt.types import HALVES, DType, Shape, as_dtype, float32, promote

F = TypeVar("F", bound=Callable[..., Any])
FUNCTIONS: dict[str, Callable[..., Any]] = {}  # public functions that take a Value first
CREATIONS: dict[str, Callable[..., Any]] = {}  # public functions that take a Graph first
Number = bool | int | float
_PLAIN = {Value, bool, int, float, str, type(None)}  # classes whose instances hold no others


def function(f: F) -> F:
    """Makes ``f`` a public op function: transactional, callable as ``x.f(...)``, listed in FUNCTIONS.

    Arguments are checked against the type hints of ``f`` before it runs, so that it may rely on them.
    """

    def find(*args: Any) -> Graph:
        graph = graph_of(*args)
        if graph is None:
            lone = any(isinstance(a, Stand) for a in args)
            hint = "; a Parameter has one while a module that is called on Values builds its graph" if lone else ""
            raise GraphError(f"{f.__name__} needs at least one Value of a Graph among its arguments{hint}")
        return graph

    return alias(f.__name__, _transactional(f, find))


def alias(name: str, f: F) -> F:
    """Gives the public function ``f`` another ``name``, also as a method of Values, and returns it."""
    FUNCTIONS[name] = OPERATORS[name] = f
    return f


def creation(f: F) -> F:
    """As ``function`` for one that takes the Graph first, to make a tensor from nothing: in CREATIONS, no method of Values."""

    def find(*args: Any) -> Graph:
        if not args or not isinstance(args[0], Graph):
            raise ArgumentError(f"{f.__name__} takes the Graph first, got {type(args[0]).__name__ if args else 'nothing'}")
        return args[0]

    CREATIONS[f.__name__] = wrapped = _transactional(f, find)
    return wrapped


def check_exports(exported: Iterable[str]) -> None:
    """Raises GraphError for a public function that is registered and not ``exported``, or exported and not registered."""
    names = set(exported)
    registered = {name: f.__module__ for name, f in (*FUNCTIONS.items(), *CREATIONS.items())}
    if missing := registered.keys() - names:
        where = ", ".join(f"{name} of {registered[name]}" for name in sorted(missing))
        raise GraphError(f"graphrt/ops/__init__.py neither imports nor lists in __all__: {where}")
    if unknown := names - registered.keys():
        raise GraphError(f"__all__ of graphrt/ops/__init__.py lists what is no public function: {', '.join(sorted(unknown))}")


def _transactional(f: F, find: Callable[..., Graph]) -> F:
    check = _Arguments(f).check

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        graph = find(*args, *kwargs.values()) if kwargs else find(*args)
        with graph.transaction():
            try:
                args = _resolved(args, graph)
                if kwargs:
                    kwargs = dict(zip(kwargs, _resolved(tuple(kwargs.values()), graph), strict=True))
                check(args, kwargs)
                return f(*args, **kwargs)
            except GraphrtError as error:
                raise graph.located(error, f.__name__, [a for a in args if isinstance(a, Value)]) from None

    return wrapped  # type: ignore[return-value]


def _resolved(args: tuple[Any, ...], graph: Graph) -> tuple[Any, ...]:
    """``resolved``, in less time where nothing can stand for a Value."""
    return args if all(type(a) in _PLAIN for a in args) else tuple(resolved(args, graph))


def resolved(args: Iterable[Any], graph: Graph) -> Iterator[Any]:
    """``args`` with the Values of ``graph`` for what stands for them, in lists and tuples too."""
    for a in args:
        if isinstance(a, Stand):
            yield a.value(graph)
        elif type(a) in (list, tuple) and any(isinstance(e, Stand) for e in a):
            yield type(a)(resolved(a, graph))
        else:
            yield a


class _Arguments:
    """The arguments that a function takes, by its type hints."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.signature, self.hints = inspect.signature(f), get_type_hints(f)
        found = self.signature.parameters.values()
        self.simple = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in found)
        self.names = [p.name for p in found]
        self.required = {p.name for p in found if p.default is p.empty}
        self.seen: dict[str, set[type]] = {name: set() for name in self.names}  # classes whose every instance fits

    def check(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raises ArgumentError for an argument that is missing, unknown or not of its hint's type."""
        for name, value in self._given(args, kwargs).items():
            if type(value) not in self.seen[name]:
                self._check(name, value)

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments by name. Raises ArgumentError."""
        if self.simple and len(args) <= len(self.names):  # as most are, and binding takes long
            given = dict(zip(self.names, args, strict=False))
            if given.keys().isdisjoint(kwargs) and self.seen.keys() >= kwargs.keys():
                given.update(kwargs)
                if given.keys() >= self.required:
                    return given
        try:
            return self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise ArgumentError(f"{error}; the arguments are {', '.join(self.names)}") from None

    def _check(self, name: str, value: Any) -> None:
        several = self.signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
        for v in value if several else [value]:
            if not _fits(v, self.hints.get(name, Any)):
                raise ArgumentError(f"{name} must be {_spelled(self.hints[name])}, got {v!r}")
        if type(value) in _PLAIN and not several:
            self.seen[name].add(type(value))


def _fits(value: Any, hint: Any) -> bool:
    """Whether ``value`` is what ``hint`` says; an int serves as a float, a NumPy number as a number, a bool only as a bool."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or DType in parts:  # as_dtype says best what is no dtype
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin in (list, tuple, Sequence):
        inner = [p for p in parts if p is not ...]
        return isinstance(value, list | tuple | range) and all(any(_fits(v, p) for p in inner or [Any]) for v in value)
    if hint in (int, float):
        kinds = (int, np.integer) if hint is int else (int, float, np.integer, np.floating)
        return isinstance(value, kinds) and not isinstance(value, bool)
    return isinstance(value, origin or hint) if isinstance(origin or hint, type) else True


def _spelled(hint: Any) -> str:
    """``hint`` in words: "an int, a sequence of ints or None"."""
    if get_origin(hint) in (Union, types.UnionType):
        *parts, last = [_spelled(p) for p in get_args(hint)]
        return f"{', '.join(parts)} or {last}"
    if get_origin(hint) in (list, tuple, Sequence):
        inner = dict.fromkeys(_spelled(p) for p in get_args(hint) if p is not ...)
        return f"a sequence of {' or '.join(i.removeprefix('an ').removeprefix('a ') + 's' for i in inner)}"
    if hint is type(None):
        return "None"
    name = getattr(hint, "__name__", str(hint))
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def in_float32(f: F) -> F:
    """Makes ``f`` compute operands of a half type in float32 and round each of its results once, at its end."""
    return _widening(f, lambda graph: False)


def full_precision(f: F) -> F:
    """As ``in_float32``, but results stay float32 while ``Graph.autocast`` is on, as torch.autocast has it."""
    return _widening(f, lambda graph: graph.half is not None)


def _widening(f: F, stays: Callable[[Graph], bool]) -> F:
    """``f`` on widened operands; results of operands of one half type become that again, unless ``stays``."""

    @functools.wraps(f)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        floats = {v.dtype for v in _values((args, *kwargs.values())) if v.dtype.is_float}
        if floats.isdisjoint(HALVES):
            return f(*args, **kwargs)
        graph = graph_of(*args, *kwargs.values())
        assert graph is not None
        float32_stays = stays(graph)
        if len(floats) > 1 and not float32_stays:
            return f(*args, **kwargs)  # promotion makes them float32, or ``f`` refuses them
        y = f(*map(widened, args), **{name: widened(v) for name, v in kwargs.items()})
        return y if float32_stays else _narrowed(y, floats.pop())

    return wrapped  # type: ignore[return-value]


def _values(x: Any) -> Iterator[Value]:
    """The values in ``x``, a value, anything else, or lists, tuples and dicts of them."""
    if isinstance(x, Value):
        yield x
    elif isinstance(x, list | tuple | Mapping):
        for part in x.values() if isinstance(x, Mapping) else x:
            yield from _values(part)


def _narrowed(y: Any, half: DType) -> Any:
    """``y``, a value or a tuple of them, with what is float32 as ``half``."""
    if isinstance(y, tuple):
        return tuple(_narrowed(v, half) for v in y)
    return cast(y, half) if y.dtype is float32 else y


def widened(x: Any) -> Any:
    """``x`` in float32 if it is a Value of a half type, or a list or tuple of such: what sums and statistics are made from."""
    if isinstance(x, list | tuple):
        return type(x)(map(widened, x)) if any(isinstance(v, Value) for v in x) else x
    return cast(x, float32) if isinstance(x, Value) and x.dtype in HALVES else x


def graph_of(*args: Any) -> Graph | None:
    """The graph of the first Value among ``args`` (lists and tuples of values included), or that a module is building."""
    if args and type(args[0]) is Value:
        return args[0].graph
    if (found := next(_values(args), None)) is not None:
        return found.graph
    return BUILDING.get() if any(isinstance(arg, Stand) for arg in args) else None


def apply(name: str, *inputs: Value, **attrs: Any) -> Value:
    """Appends op ``name`` and returns its first output."""
    graph, op = inputs[0].graph, REGISTRY[name]
    if graph.half is not None and op.kind is Kind.CONTRACTION:
        inputs = tuple(cast(v, graph.half) if v.dtype is float32 else v for v in inputs)
    return graph.append(op, inputs, attrs).outputs[0]


def tensor(x: Any, what: str = "input") -> Value:
    """``x`` itself when it is a Value. Raises ArgumentError."""
    if not isinstance(x, Value):
        raise ArgumentError(f"{what} must be a Value, got {type(x).__name__}")
    return x


def lift(*args: Any, dtype: DType | None = None) -> list[Value]:
    """``args`` as values of one graph, one dtype and one shape: numbers become constants, shapes broadcast.

    A Python number takes the dtype of the tensors unless it is a float and they are not (then float32), as in torch.
    """
    graph = graph_of(*args)
    assert graph is not None
    typed = [a.dtype for a in args if isinstance(a, Value)] + [
        as_dtype(a.dtype) if a.dtype != np.float64 else float32 for a in args if isinstance(a, np.ndarray | np.generic)
    ]
    final = dtype or promote(*typed)
    if dtype is None and not final.is_float and any(isinstance(a, float) for a in args):
        final = float32
    if dtype is None and final.is_bool and any(type(a) is int for a in args):
        final = as_dtype("int64")
    values = []
    for a in args:
        if not isinstance(a, Value):
            if not isinstance(a, Number | np.ndarray | np.generic):
                raise ArgumentError(f"operands are Values, numbers or arrays, got {type(a).__name__}")
            a = graph.constant(a, final if isinstance(a, Number) or final.is_float else None)
        values.append(cast(a, final))
    shape = broadcast_shape(*(v.shape for v in values))
    return [broadcast_to(v, shape) for v in values]


def broadcast_shape(*shapes: Shape) -> Shape:
    """The shape that all ``shapes`` broadcast to (NumPy's rule). Raises ShapeError."""
    different = {*shapes} - {()}
    if len(different) <= 1:
        return next(iter(different), ())
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ShapeError(
            f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast: counted from the last dimension, "
            "sizes must be equal or 1"
        ) from None


def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """``x`` repeated along new and size-1 dimensions up to ``shape``."""
    shape = tuple(shape)
    return x if x.shape == shape else apply("broadcast", x, shape=shape)


def cast(x: Value, dtype: DType) -> Value:
    """``x`` as ``dtype``; a half is seen as float32, which is what it is computed in anyway."""
    if x.dtype == dtype:
        return x
    return apply("widen", x) if x.dtype in HALVES and dtype is float32 else apply("cast", x, dtype=dtype.name)


def biased(y: Value, bias: Value | None) -> Value:
    """``y`` plus ``bias``; a half stays one, whatever the bias is."""
    return y if bias is None else y + (cast(bias, y.dtype) if y.dtype in HALVES else bias)


def constant_of(v: Value) -> float | None:
    """The number that ``v`` is everywhere, if it is a (broadcast) constant."""
    everywhere = ("broadcast", "reshape", "widen", "pvary")  # views that leave it the same
    while v.node.op.kind is Kind.VIEW and len(v.node.inputs) == 1 and v.node.op.name in everywhere:
        v = v.node.inputs[0]
    return v.node.attrs["value"] if v.node.op.name == "constant" else None


def unbroadcast(dy: Value, shape: Shape) -> Value:
    """The gradient of ``broadcast_to``: sums ``dy`` over what was repeated."""
    lead = dy.ndim - len(shape)
    dims = [*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1 and dy.shape[lead + i] != 1)]
    if dims:
        dy = apply("reduce", dy, op="sum", dims=tuple(dims))
    return dy if dy.shape == shape else apply("reshape", dy, shape=shape)


def dim_index(dim: int, ndim: int, what: str = "dim") -> int:
    """``dim`` counted from the front. Raises ArgumentError when out of range."""
    integer(dim, what)
    if not -ndim <= dim < ndim:
        raise ArgumentError(f"{what} {dim} is out of range for {ndim} dimensions")
    return int(dim) % ndim


def identity(op: str, dtype: np.dtype) -> Any:
    """The number that changes nothing in a sum, prod, max or min of numbers of ``dtype``."""
    if op in ("sum", "prod"):
        return 0 if op == "sum" else 1
    if dtype.kind in "iu":
        return int(np.iinfo(dtype).min if op == "max" else np.iinfo(dtype).max)
    return -math.inf if op == "max" else math.inf


def integer(value: Any, what: str, minimum: int | None = None) -> int:
    """``value`` as an int. Raises ArgumentError when it is none, or under ``minimum``."""
    if not _fits(value, int) or (minimum is not None and value < minimum):
        raise ArgumentError(f"{what} must be an int{'' if minimum is None else f' >= {minimum}'}, got {value!r}")
    return int(value)


def integers(values: Any, what: str, minimum: int | None = None) -> list[int]:
    """A list, tuple or range of ints. Raises ArgumentError."""
    if not isinstance(values, list | tuple | range):
        raise ArgumentError(f"{what} must be a list or tuple of ints, got {values!r}")
    return [integer(v, f"each of {what}", minimum) for v in values]


def dim_indices(dim: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Sorted dimensions; None means all. Raises ArgumentError for one named twice."""
    if dim is None:
        return tuple(range(ndim))
    named: Any = dim if isinstance(dim, list | tuple) else [dim]
    dims = [dim_index(d, ndim) for d in named]
    if len(set(dims)) != len(dims):
        raise ArgumentError(f"dim {dim} names a dimension twice")
    return tuple(sorted(dims))


def require_float(dtype: DType, what: str) -> None:
    """Raises DTypeError, naming ``what``, unless ``dtype`` is a floating-point type."""
    if not dtype.is_float:
        raise DTypeError(f"{what} must be floating point, got {dtype}; cast it first")


def ntuple(value: int | Sequence[int], n: int, what: str, minimum: int) -> tuple[int, ...]:
    """``value`` for each of ``n`` spatial dimensions. Raises ArgumentError when it is shorter, or under ``minimum``."""
    values: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,) * n
    if len(values) != n or not all(_fits(v, int) and v >= minimum for v in values):
        raise ArgumentError(f"{what} must be an int >= {minimum} or {n} of them, got {value!r}")
    return tuple(int(v) for v in values)
