"""The scalar operations of Kernel IR as source text, one table per language.

A new scalar operation is one row here per language and one name in ``schedule.emitter``; nothing else prints arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphrt.errors import TargetError
from graphrt.index import Expr
from graphrt.schedule.kernel_ir import Inst, Var
from graphrt.types import DType, bfloat16, bool_, float16, float32, float64, int8, int16, int32, int64, uint8

C_TYPES = {  # bool is a byte of 0 or 1: loops that store a _Bool do not vectorise
    bool_: "uint8_t", uint8: "uint8_t", int8: "int8_t", int16: "int16_t", int32: "int32_t", int64: "int64_t",
    float16: "_Float16", bfloat16: "grt_bf16", float32: "float", float64: "double",
}  # fmt: skip
TRITON_TYPES = {
    bool_: "tl.int1", uint8: "tl.uint8", int8: "tl.int8", int16: "tl.int16", int32: "tl.int32", int64: "tl.int64",
    float16: "tl.float16", bfloat16: "tl.bfloat16", float32: "tl.float32", float64: "tl.float64",
}  # fmt: skip

_COMMON = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "neg": "-{0}",
    "eq": "{0} == {1}", "ne": "{0} != {1}", "lt": "{0} < {1}", "le": "{0} <= {1}", "gt": "{0} > {1}", "ge": "{0} >= {1}",
}  # fmt: skip
C = {
    **_COMMON,
    "logical_and": "{0} & {1}", "logical_or": "{0} | {1}", "logical_not": "!{0}", "where": "{0} ? {1} : {2}",
    "abs": "grt_abs({0})", "minimum": "grt_min({0}, {1})", "maximum": "grt_max({0}, {1})",
    "exp": "grt_exp({0})", "exp_bounded": "grt_exp_bounded({0})", "log": "grt_log({0})",
    "sqrt": "sqrt{f}({0})", "rsqrt": "1 / sqrt{f}({0})",
    "sin": "sin{f}({0})", "cos": "cos{f}({0})", "tanh": "grt_tanh({0})", "erf": "grt_erf({0})", "floor": "floor{f}({0})",
    "pow": "grt_pow({0}, {1})", "ceil": "ceil{f}({0})", "trunc": "trunc{f}({0})", "round": "rint{f}({0})",
    "exp2": "exp2{f}({0})", "log2": "log2{f}({0})", "log10": "log10{f}({0})", "expm1": "expm1{f}({0})",
    "log1p": "log1p{f}({0})", "atan": "atan{f}({0})", "atan2": "atan2{f}({0}, {1})",
    "erfc": "grt_erfc({0})", "erfinv": "grt_erfinv({0})",
    "fma": "__builtin_fma{f}({0}, {1}, {2})",
    "fmod": "fmod{f}({0}, {1})", "quotient": "grt_quotient({0}, {1})", "copysign": "copysign{f}({0}, {1})",
    "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}", "bitwise_not": "~{0}",
    "left_shift": "{0} << {1}", "right_shift": "{0} >> {1}",
}  # fmt: skip
WRAPPING = ("add", "sub", "mul", "neg", "left_shift")  # of integers: they wrap around, which C promises for unsigned only
TRITON = {
    **_COMMON,
    "neg": "{0} * -1.0",  # Triton's -x is 0 - x, which is no -0; LLVM makes this the negation
    "logical_and": "{0} & {1}", "logical_or": "{0} | {1}", "logical_not": "{0} == 0", "where": "tl.where({0}, {1}, {2})",
    "abs": "tl.abs({0})",
    "minimum": "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "maximum": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "exp": "tl.exp({0})", "log": "tl.log({0})", "sqrt": "tl.sqrt_rn({0})", "rsqrt": "1 / tl.sqrt_rn({0})",
    "sin": "tl.sin({0})", "cos": "tl.cos({0})", "erf": "tl.erf({0})", "floor": "tl.floor({0})",
    "ceil": "tl.ceil({0})", "log2": "tl.log2({0})", "fma": "tl.fma({0}, {1}, {2})",
    **{f: f"grt_{f}({{0}})" for f in ("tanh", "trunc", "round", "exp2", "expm1", "log1p", "log10", "atan", "erfc", "erfinv")},
    **{f: f"grt_{f}({{0}}, {{1}})" for f in ("div", "pow", "atan2", "fmod", "quotient", "copysign")},
    "bitwise_and": "{0} & {1}", "bitwise_or": "{0} | {1}", "bitwise_xor": "{0} ^ {1}", "bitwise_not": "grt_not({0})",
    "left_shift": "{0} << {1}", "right_shift": "{0} >> {1}",
}  # fmt: skip
TRITON_INTEGERS = {"neg": "-{0}", **{f: f"tl.{f}({{0}}, {{1}})" for f in ("minimum", "maximum")}}  # where those differ


def c_number(number: float | int, dtype: DType) -> str:
    """``number`` as a C literal of ``dtype``."""
    if dtype.is_float:
        if not math.isfinite(number):
            text = "NAN" if math.isnan(number) else "INFINITY" if number > 0 else "-INFINITY"
            return f"({C_TYPES[dtype]}){text}"
        return f"{float(number)!r}f" if dtype is float32 else repr(float(number))
    if number == -(2**63):
        return "INT64_MIN"
    return f"INT64_C({int(number)})" if dtype is int64 else str(int(number))


def triton_number(number: float | int, dtype: DType) -> str:
    """``number`` as Triton source; infinities and NaN have no literal."""
    if not math.isfinite(number):
        return f'float("{"nan" if math.isnan(number) else "inf" if number > 0 else "-inf"}")'
    return repr(float(number)) if dtype.is_float else str(int(number))


def identity(op: str, dtype: DType) -> float | int:
    """The neutral element of a reduction or scan over ``dtype``."""
    if op in ("sum", "prod"):
        return 0 if op == "sum" else 1
    if dtype.is_float:
        return math.inf if op == "min" else -math.inf  # of max and logaddexp
    bits = 8 * dtype.itemsize
    low, high = (0, 2**bits - 1) if dtype.short.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return high if op == "min" else low


def scalar(inst: Inst, table: dict[str, str], name: Callable[[Var], str]) -> str:
    """The right-hand side of an arithmetic ``inst``."""
    if inst.op not in table:
        raise TargetError(f"scalar operation {inst.op!r} has no row in this target's table")
    args = [name(a) for a in inst.args]
    dtype = inst.args[0].dtype
    if table is C and dtype.is_int and inst.op in WRAPPING:
        return wrapping(table[inst.op], args, dtype)
    if table is TRITON and dtype.is_int and inst.op in TRITON_INTEGERS:
        return TRITON_INTEGERS[inst.op].format(*args)
    text = table[inst.op].format(*args, f="f" if dtype is float32 else "")
    return text.replace("tl.sqrt_rn", "tl.sqrt") if table is TRITON and dtype is float64 else text


def wrapping(form: str, args: Sequence[str], dtype: DType) -> str:
    """Integer arithmetic in C that wraps around."""
    unsigned = "uint64_t" if dtype is int64 else "uint32_t"
    return f"({C_TYPES[dtype]})({form.format(*(f'({unsigned}){a}' for a in args))})"


def guard_text(guards: tuple[tuple[Expr, int, int], ...], division: str, joiner: str) -> str:
    """All of ``lo <= e < hi``, without the comparisons that always hold."""
    parts = []
    for e, lo, hi in guards:
        low, high = e.range()
        text = e.render(division)
        if low < lo:
            parts.append(f"({text} >= {lo})")
        if high >= hi:
            parts.append(f"({text} < {hi})")
    return joiner.join(dict.fromkeys(parts))
