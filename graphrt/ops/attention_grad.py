"""The gradients of attention, which store no score either (Dao et al., "FlashAttention", 2022, algorithm 4).

With weights ``P = exp(scores - lse)``, found again from the logarithm of each row's sum, and ``A = dy @ value.T``, scores get
``G = P * (A * keep - delta)``, where ``delta`` is the sum of a row of ``dy * y``. From G queries get a product along rows
(``attention_dq``, which also finds ``delta``) and keys and values products along columns (``attention_dkv``). A bias that is
learned gets G itself (``attention_dscores``).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphrt.errors import DTypeError, ShapeError
from graphrt.ir import Node, Value
from graphrt.op import Kind, OpDef, Sample, Types, leading, register
from graphrt.ops.base import cast
from graphrt.ops.elementwise import add, exp, ge, where
from graphrt.ops.matmul import matmul
from graphrt.ops.reduction import sum
from graphrt.ops.source import iota
from graphrt.ops.view import transpose, unsqueeze
from graphrt.types import HALVES, DType, TensorType, float32


def wide(dtype: DType) -> DType:
    """The dtype of scores: float32 for halves."""
    return float32 if dtype in HALVES else dtype


def check_operands(name: str, dtype: DType, **operands: tuple[TensorType, tuple[int, ...], DType]) -> None:
    """Raises ShapeError, DTypeError unless each of ``operands`` has the shape and the dtype that stand beside it."""
    if not dtype.is_float or any(t.dtype is not wanted for t, _, wanted in operands.values()):
        found = ", ".join(f"{n} {t.dtype}" for n, (t, _, _) in operands.items())
        raise DTypeError(f"{name} needs operands of one float dtype, and those of scores in {wide(dtype)}, got {found}")
    for operand, (t, shape, _) in operands.items():
        if t.shape != shape:
            raise ShapeError(f"{name} needs {operand} {list(shape)}, got {list(t.shape)}")


def _infer(name: str, results: Callable[[TensorType, TensorType, TensorType, TensorType], Types]) -> Callable[..., Types]:
    """The type rule: query, key, value, dy, bias, keep, then what is known of each row; ``results`` of the types of query, key,
    bias and a row's number."""

    def infer(
        query: TensorType,
        key: TensorType,
        value: TensorType,
        dy: TensorType,
        bias: TensorType,
        keep: TensorType,
        *rest: TensorType,
        **attrs: float,
    ) -> Types:
        (*batch, m, k), (n, v) = query.shape, value.shape[-2:]
        small, large = query.dtype, wide(query.dtype)
        row = TensorType((*batch, m), large)
        operands = {
            "key": (key, (*batch, n, k), small),
            "value": (value, (*batch, n, v), small),
            "dy": (dy, (*batch, m, v), small),
            "bias": (bias, (*batch, m, n), large),
            "keep": (keep, (*batch, m, n), large),
        }
        if len(rest) == 3:
            operands |= {"y": (rest[0], (*batch, m, v), small)}
        operands |= {n: (t, row.shape, large) for n, t in zip(("lse", "delta"), rest[-2:], strict=True)}
        check_operands(name, small, **operands)
        return results(query, key, bias, row)

    return infer


def weights_again(query: Value, key: Value, bias: Value, lse: Value, scale: float, rows: int) -> Value:
    """The weights of attention before dropout, all of them, from the logarithms of their sums."""
    q, k = (cast(x, bias.dtype) for x in (query, key))
    scores = matmul(q, transpose(k, -1, -2)) * scale + bias
    if rows:  # a query sees the keys up to its number, which is counted anew after so many
        scores = where(ge(iota(scores, -2) % rows, iota(scores, -1)), scores, -math.inf)
    return exp(scores - unsqueeze(lse, -1))


def _again(
    node: Node, delta: Value, d_dq: Value | None, d_dk: Value | None, d_dv: Value | None, d_scores: Value | None
) -> tuple[list[Value], Value]:
    """The gradients of a gradient, by matrices of scores: of query, key, value, dy, bias and keep; and of delta."""
    query, key, _, dy, bias, keep, *_ = node.inputs
    scale, rows = node.attrs["scale"], node.attrs["rows"]
    q, k, v, g = (cast(x, bias.dtype) for x in node.inputs[:4])
    u_q, u_k, u_v = (None if x is None else cast(x, bias.dtype) for x in (d_dq, d_dk, d_dv))

    def turned(x: Value) -> Value:
        return transpose(x, -1, -2)

    lse = node.inputs[-2]
    weights = weights_again(query, key, bias, lse, scale, rows)
    d_weights, far = matmul(g, turned(v)), unsqueeze(delta, -1)
    small = weights * (d_weights * keep - far) * scale
    of_small = [x for x in (d_scores,) if x is not None]
    of_query, of_key, of_dy = list[Value](), list[Value](), list[Value]()
    if u_q is not None:
        of_small.append(matmul(u_q, turned(k)) * scale)
        of_key.append(matmul(turned(small), u_q))
    if u_k is not None:
        of_small.append(matmul(q, turned(u_k)) * scale)
        of_query.append(matmul(small, u_k))
    top = functools.reduce(add, of_small)
    of_weights, of_keep = top * (d_weights * keep - far), top * weights * d_weights
    if u_v is not None:
        mixed = matmul(g, turned(u_v))
        of_weights, of_keep = of_weights + mixed * keep, of_keep + mixed * weights
        of_dy.append(matmul(weights * keep, u_v))
    of_scores, of_products = of_weights * weights, top * weights * keep
    of_query.append(matmul(of_scores, k) * scale)
    of_key.append(matmul(turned(of_scores), q) * scale)
    of_dy.append(matmul(of_products, v))
    first = [functools.reduce(add, found) for found in (of_query, of_key, [matmul(turned(of_products), g)], of_dy)]
    return [*(cast(x, dy.dtype) for x in first), of_scores, of_keep], -sum(top * weights, -1)


def _dq_vjp(node: Node, d_dq: Value, d_delta: Value) -> Sequence[Value | None]:
    _, _, _, dy, bias, _, y, _, _ = node.inputs
    delta = node.outputs[1]
    found, of_delta = _again(node, delta, d_dq, None, None, None)
    of_lse, of_delta = -sum(found[4], -1), of_delta + d_delta
    along = unsqueeze(of_delta, -1)
    found[3] = found[3] + cast(along * cast(y, bias.dtype), dy.dtype)
    return [*found, cast(along * cast(dy, bias.dtype), y.dtype), of_lse, -of_delta]


def _dkv_vjp(node: Node, d_dk: Value, d_dv: Value) -> Sequence[Value | None]:
    found, of_delta = _again(node, node.inputs[-1], None, d_dk, d_dv, None)
    return [*found, -sum(found[4], -1), of_delta]


def _dscores_vjp(node: Node, d_scores: Value) -> Sequence[Value | None]:
    found, of_delta = _again(node, node.inputs[-1], None, None, None, d_scores)
    return [*found, -sum(found[4], -1), of_delta]


Arrays = tuple[np.ndarray, ...]


def _found(operands: Sequence[np.ndarray], lse: np.ndarray, delta: np.ndarray, scale: float, rows: int) -> Arrays:
    """query, key, dy, the weights that are summed up, and what the scores get, in float64."""
    q, k, v, dy, bias, keep = (x.astype(np.float64) for x in operands)
    scores = np.einsum("...mk,...nk->...mn", q, k) * scale + bias
    m, n = scores.shape[-2:]
    if rows:
        scores = np.where(np.arange(n) <= np.arange(m)[:, None] % rows, scores, -np.inf)
    weights = np.exp(scores - lse[..., None])
    return q, k, dy, weights * keep, weights * (np.einsum("...mv,...nv->...mn", dy, v) * keep - delta[..., None])


def _dq_reference(*operands: Any, scale: float, rows: int) -> Arrays:
    query, dy, (y, lse, d_lse) = operands[0], operands[3], operands[6:]
    delta = np.einsum("...mv,...mv->...m", dy.astype(np.float64), y.astype(np.float64)) - d_lse
    _, k, _, _, d_scores = _found(operands[:6], lse, delta, scale, rows)
    return (scale * np.einsum("...mn,...nk->...mk", d_scores, k)).astype(query.dtype), delta.astype(lse.dtype)


def _dkv_reference(*operands: Any, scale: float, rows: int) -> Arrays:
    q, _, dy, weights, d_scores = _found(operands[:6], operands[6], operands[7], scale, rows)
    d_key, d_value = scale * np.einsum("...mn,...mk->...nk", d_scores, q), np.einsum("...mn,...mv->...nv", weights, dy)
    return d_key.astype(operands[1].dtype), d_value.astype(operands[2].dtype)


def _dscores_reference(*operands: Any, scale: float, rows: int) -> np.ndarray:
    return _found(operands[:6], operands[6], operands[7], scale, rows)[-1].astype(operands[4].dtype)


def _samples(square: bool, output: bool) -> Callable[[np.random.Generator], list[Sample]]:
    """Samples; ``square``: values are as long as keys; ``output``: with y."""

    def samples(rng: np.random.Generator) -> list[Sample]:
        found = []
        for batch, m, n, k, v, rows in (((2,), 3, 4, 5, 2, 0), ((), 5, 7, 3, 3, 5), ((1, 2), 6, 3, 2, 1, 3)):
            v = k if square else v
            shapes = (*batch, m, k), (*batch, n, k), (*batch, n, v), (*batch, m, v), (*batch, m, n)
            q, key, value, dy, bias = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
            keep = rng.integers(0, 2, bias.shape).astype(np.float32) * 2
            y, lse, delta = (rng.standard_normal((*batch, m, *at)).astype(np.float32) for at in ((v,), (), ()))
            rest = (y, lse + 2, delta) if output else (lse + 2, delta)
            found.append(Sample((q, key, value, dy, bias, keep, *rest), {"scale": 0.5, "rows": rows}))
        return found

    return samples


def _flops(products: int) -> Callable[[Node], int]:
    """Operations of so many products as large as the scores'."""
    return lambda n: 2 * n.inputs[4].type.size * (products * n.inputs[0].shape[-1] + 8)


register(
    OpDef(
        name="attention_dq",
        kind=Kind.ATTENTION,
        infer=_infer("attention_dq", lambda query, key, bias, row: (query, row)),
        vjp=_dq_vjp,
        reference=_dq_reference,
        samples=_samples(square=False, output=True),
        template="attention_dq",
        axes=leading,
        flops=_flops(3),
    )
)


def _dkv_types(query: TensorType, key: TensorType, bias: TensorType, row: TensorType) -> Types:
    return key, key


def _dkv_infer(*operands: TensorType, **attrs: float) -> Types:
    found = _infer("attention_dkv", _dkv_types)(*operands, **attrs)
    if operands[1].shape != operands[2].shape:
        raise ShapeError(f"attention_dkv needs keys and values of one shape, got {operands[1]} and {operands[2]}")
    return found


register(
    OpDef(
        name="attention_dkv",
        kind=Kind.ATTENTION,
        infer=_dkv_infer,
        vjp=_dkv_vjp,
        reference=_dkv_reference,
        samples=_samples(square=True, output=False),
        template="attention_dkv",
        axes=leading,
        flops=_flops(4),
    )
)
register(
    OpDef(
        name="attention_dscores",
        kind=Kind.ATTENTION,
        infer=_infer("attention_dscores", lambda query, key, bias, row: (bias,)),
        vjp=_dscores_vjp,
        reference=_dscores_reference,
        samples=_samples(square=False, output=False),
        template="attention_dscores",
        axes=leading,
        flops=_flops(2),
    )
)
