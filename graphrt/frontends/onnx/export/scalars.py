"""The scalar operations of op bodies as ONNX operators on whole tensors: the handler ``s`` that bodies are written for.

An op's body is its one definition, from which C and Triton are printed too; ops of ``OPERATORS`` are what an ONNX operator is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrt.schedule.emitter import COMPARE, SAME
from graphrt.types import HALVES, DType, as_dtype, bool_, float32

if TYPE_CHECKING:
    from graphrt.frontends.onnx.export.writer import Writer

OPERATORS = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tan": "Tan", "sinh": "Sinh", "cosh": "Cosh", "asin": "Asin", "acos": "Acos",
    "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
    "logical_and": "And", "logical_or": "Or", "logical_not": "Not",
}  # fmt: skip
SCALARS = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "neg": "Neg", "abs": "Abs", "minimum": "Min", "maximum": "Max",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "logical_and": "And", "logical_or": "Or", "logical_not": "Not",
    "exp": "Exp", "exp_bounded": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "erf": "Erf",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "atan": "Atan", "pow": "Pow",
}  # fmt: skip
BITS = {"bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr", "bitwise_xor": "BitwiseXor", "bitwise_not": "BitwiseNot"}
LOGIC = {"bitwise_and": "And", "bitwise_or": "Or", "bitwise_xor": "Xor", "bitwise_not": "Not"}


@dataclass(frozen=True)
class Term:
    """A tensor that scalar code computes with, its dtype, and its number if it is one."""

    name: str
    dtype: DType
    number: Any = None


class Scalars:
    """Writes scalar code as nodes of ``writer``."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def __getattr__(self, op: str) -> Callable[..., Term]:
        if op not in COMPARE and op not in SAME:
            raise AttributeError(f"{op!r} is no scalar operation")
        return lambda *terms: self._term(op, terms)

    def _term(self, op: str, terms: tuple[Term, ...]) -> Term:
        dtype = bool_ if op in COMPARE else terms[0].dtype
        form = getattr(self, f"_{op}", None) if f"_{op}" in type(self).__dict__ else None
        if form is not None:
            return form(*terms)
        table = BITS if not dtype.is_bool else LOGIC
        operator = table.get(op) or SCALARS.get(op)
        if operator is None:
            raise self.writer.refused(f"the scalar operation {op} has no ONNX operator")
        if op in BITS and table is BITS and self.writer.opset < 18:
            raise self.writer.refused(f"{operator} needs opset 18")
        if op in ("lt", "le", "gt", "ge", "minimum", "maximum") and terms[0].dtype.is_bool:
            raise self.writer.refused(f"{operator} takes no bool")
        return Term(self.writer.emit(operator, *(t.name for t in terms)), dtype)

    # --- what is a node or two ------------------------------------------------------------------------------------

    def const(self, number: Any, like: Any) -> Term:
        """``number`` in the dtype in which ``like``, a term or a dtype, is computed."""
        dtype = like.dtype if isinstance(like, Term) else as_dtype(like)
        dtype = float32 if dtype in HALVES else dtype
        return Term(self.writer.number(number, dtype), dtype, number)

    def cast(self, x: Term, like: Any) -> Term:
        """``x`` in the dtype of ``like``; rounded to a half it is computed on in float32."""
        dtype = like.dtype if isinstance(like, Term) else as_dtype(like)
        if dtype in HALVES:
            return self.wide(Term(self.writer.cast(x.name, dtype), dtype))
        return x if x.dtype is dtype else Term(self.writer.cast(x.name, dtype), dtype)

    def where(self, condition: Term, a: Term, b: Term) -> Term:
        """``a`` where ``condition`` holds, else ``b``."""
        return Term(self.writer.emit("Where", condition.name, a.name, b.name), a.dtype)

    def wide(self, x: Term) -> Term:
        """``x``, a half as float32."""
        return Term(self.writer.cast(x.name, float32), float32) if x.dtype in HALVES else x

    def stored(self, x: Term, dtype: DType) -> str:
        """The name of ``x`` as ``dtype``."""
        return x.name if x.dtype is dtype else self.writer.cast(x.name, dtype)

    def _ne(self, a: Term, b: Term) -> Term:
        return self.logical_not(self.eq(a, b))

    def _rsqrt(self, x: Term) -> Term:
        return Term(self.writer.emit("Reciprocal", self.sqrt(x).name), x.dtype)

    def _trunc(self, x: Term) -> Term:
        return self.where(self.lt(x, self.const(0, x)), self.ceil(x), self.floor(x))

    def _fma(self, a: Term, b: Term, c: Term) -> Term:
        """Rounded twice: ONNX has nothing that is not."""
        return self.add(self.mul(a, b), c)

    def _fmod(self, a: Term, b: Term) -> Term:
        return Term(self.writer.emit("Mod", a.name, b.name, fmod=1), a.dtype)

    def _quotient(self, a: Term, b: Term) -> Term:
        """Rounded to zero, as ONNX divides integers."""
        found = Term(self.writer.emit("Div", a.name, b.name), a.dtype)
        return self.trunc(found) if a.dtype.is_float else found

    def _exp2(self, x: Term) -> Term:
        return self.pow(self.const(2, x), x)

    def _log2(self, x: Term) -> Term:
        return self.div(self.log(x), self.const(math.log(2), x))

    def _log10(self, x: Term) -> Term:
        return self.div(self.log(x), self.const(math.log(10), x))

    def _expm1(self, x: Term) -> Term:
        """``2 t / (1 - t)`` of ``t = tanh(x / 2)`` near 0, where ``exp(x) - 1`` loses digits."""
        one, half = self.const(1, x), self.const(0.5, x)
        t = self.tanh(self.mul(x, half))
        near = self.div(self.mul(self.const(2, x), t), self.sub(one, t))
        return self.where(self.lt(self.abs(x), half), near, self.sub(self.exp(x), one))

    def _log1p(self, x: Term) -> Term:
        """``log(u) x / (u - 1)`` of ``u = 1 + x``, which makes up for what was rounded off (Kahan)."""
        one = self.const(1, x)
        u = self.add(one, x)
        exact = self.eq(u, one)
        below = self.where(exact, one, self.sub(u, one))
        corrected = self.where(exact, x, self.div(self.mul(self.log(u), x), below))
        return self.where(self.lt(self.abs(x), self.const(0.5, x)), corrected, self.log(u))

    def _erfc(self, x: Term) -> Term:
        raise self.writer.refused("erfc has no ONNX operator, and 1 - erf has no digits where it is small")

    def _copysign(self, a: Term, b: Term) -> Term:
        """By the sign of ``1 / b`` where ``b`` is 0."""
        zero = self.const(0, b)
        at = self.where(self.eq(b, zero), Term(self.writer.emit("Reciprocal", b.name), b.dtype), b)
        return self.where(self.lt(at, zero), self.neg(self.abs(a)), self.abs(a))

    def _left_shift(self, a: Term, b: Term) -> Term:
        return self._shift(a, b, "LEFT")

    def _right_shift(self, a: Term, b: Term) -> Term:
        return self._shift(a, b, "RIGHT")

    def _shift(self, a: Term, b: Term, direction: str) -> Term:
        if np.dtype(a.dtype.numpy).kind != "u":
            raise self.writer.refused("BitShift takes unsigned integers only")
        return Term(self.writer.emit("BitShift", a.name, b.name, direction=direction), a.dtype)
