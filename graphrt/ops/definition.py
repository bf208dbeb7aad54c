"""The definition of an elementwise op, and the public function of one: what all of them have in common.

Operands of one op have one shape and (but for ``where`` and ``cast``) one dtype; the public functions broadcast and promote
before they append a node. A body is scalar code over a handler ``s``, written once for Triton, C and analysis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphrt.errors import DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, register
from graphrt.ops.base import apply, constant_of, function, lift, tensor
from graphrt.ops.base import cast as cast_to
from graphrt.types import TensorType, bool_, float32

Grads = Sequence[Value | None]
EDGES = [0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0, 7.5]


def same_shape(types: Types, names: Sequence[str]) -> None:
    """Raises ShapeError unless all have one shape."""
    if any(t.shape != types[0].shape for t in types):
        raise ShapeError(f"{', '.join(names)} must have one shape, got {[list(t.shape) for t in types]}")


def infer(names: Sequence[str], result: str, *types: TensorType) -> Types:
    """Shape and dtype rule; ``result``: any, same (any number), float, integer, bits (or bool), compare, logical."""
    same_shape(types, names)
    dtypes = {t.dtype for t in types}
    if len(dtypes) > 1:
        raise DTypeError(f"{', '.join(names)} must have one dtype, got {[t.dtype for t in types]}")
    dtype = types[0].dtype
    if result == "float" and not dtype.is_float:
        raise DTypeError(f"{names[0]} must be floating point, got {dtype}; cast it first")
    if result == "logical" and not dtype.is_bool:
        raise DTypeError(f"{names[0]} must be bool, got {dtype}; compare it with something first")
    if result == "integer" and not dtype.is_int:
        raise DTypeError(f"{names[0]} must be an integer, got {dtype}; cast it first")
    if result == "bits" and dtype.is_float:
        raise DTypeError(f"{names[0]} must be an integer or bool, got {dtype}; cast it first")
    if result == "same" and dtype.is_bool:
        raise DTypeError(f"{names[0]} must be a number, got bool; cast it first")
    return (TensorType(types[0].shape, bool_ if result == "compare" else dtype),)


def _samples(arity: int, low: float, high: float, kind: str) -> Callable[[np.random.Generator], list[Sample]]:
    def make(rng: np.random.Generator) -> list[Sample]:
        found = []
        for shape in ((3, 5), (), (1,), (2, 0, 3)):
            arrays: list[Any] = [rng.uniform(low, high, shape).astype(np.float32) for _ in range(arity)]
            if kind == "logical":
                arrays = [a > (low + high) / 2 for a in arrays]
            elif kind in ("integer", "bits"):
                arrays = [a.astype(np.int32) for a in arrays]
            found.append(Sample(tuple(np.asarray(a) for a in arrays), {}))
        edges = np.array([e for e in EDGES if low <= e <= high], np.int32 if kind in ("integer", "bits") else np.float32)
        if len(edges) and kind != "logical":
            found.append(Sample(tuple(np.roll(edges, i) for i in range(arity)), {}))
        return found

    return make


def define(
    name: str,
    body: Callable[..., Any],
    reference: Callable[..., Any],
    vjp: Callable[..., Grads] | None,
    *,
    names: Sequence[str] = ("input",),
    result: str = "float",
    domain: tuple[float, float] = (-3.0, 3.0),
    **rules: Any,
) -> OpDef:
    """Registers an elementwise op of the operands ``names``, with samples drawn from ``domain``; ``rules`` are OpDef's others.

    ``result`` says what its operands may be and what comes of them (``infer``).
    """
    return register(
        OpDef(
            name=name,
            kind=Kind.ELEMENTWISE,
            infer=lambda *types: infer(names, result, *types),
            vjp=vjp,
            reference=reference,
            samples=_samples(len(names), *domain, result),
            body=body,
            **rules,
        )
    )


def neutral(number: float, left: bool = True) -> Callable[[Node], Value | None]:
    """Drops an operand that is ``number``: the right one, or also the left one."""

    def simplify(node: Node) -> Value | None:
        a, b = node.inputs
        if constant_of(b) == number:
            return a
        return b if left and constant_of(a) == number else None

    return simplify


def idempotent(node: Node) -> Value | None:
    """The last two operands, where they are one value: the larger, or either, of a number and itself is that number."""
    a, b = node.inputs[-2:]
    return a if a is b else None


def either(*rules: Callable[[Node], Value | None]) -> Callable[[Node], Value | None]:
    """The rule that gives what the first of ``rules`` that applies gives."""

    def simplify(node: Node) -> Value | None:
        return next((found for rule in rules if (found := rule(node)) is not None), None)

    return simplify


def twice(node: Node) -> Value | None:
    """The operand of two of the same op, each of which undoes the other."""
    inner = node.inputs[0].node
    return inner.inputs[0] if inner.op is node.op else None


def _float(x: Any) -> Value:
    """The operand of a float-only op: integers become float32, as in torch."""
    x = tensor(x)
    return x if x.dtype.is_float else cast_to(x, float32)


def _named(f: Callable[..., Value], op: OpDef, doc: str) -> Callable[..., Value]:
    """``f`` as the function of ``op``, of the module in which that is defined."""
    f.__name__, f.__doc__, f.__module__ = op.name, doc, op.body.__module__
    return f


def unary(op: OpDef, doc: str, integers: bool = False) -> Callable[[Value], Value]:
    """The public function of an op of one operand, with ``doc``; integers become float32 unless it takes ``integers``."""

    def f(input: Value) -> Value:
        return apply(op.name, tensor(input) if integers else _float(input))

    return function(_named(f, op, doc))


def binary(op: OpDef, doc: str, dtype: Any = None) -> Callable[[Any, Any], Value]:
    """The public function of an op of two operands, with ``doc``; they are broadcast, and promoted or cast to ``dtype``."""

    def f(input: Any, other: Any) -> Value:
        a, b = lift(input, other, dtype=dtype)
        if op.name in ("div", "atan2", "copysign", "hypot", "xlogy") and not a.dtype.is_float:
            a, b = cast_to(a, float32), cast_to(b, float32)
        return apply(op.name, a, b)

    return function(_named(f, op, doc))
