"""Tensors from nothing: constants, sequences, random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.table import Call, Ints, Tensor, element_type, ints, operator
from graphrt.ir import Value


@operator("Constant")
def constant(
    *,
    value: np.ndarray | None = None,
    value_float: float | None = None,
    value_floats: Any = None,
    value_int: int | None = None,
    value_ints: Any = None,
) -> np.ndarray:
    if value is not None:
        return value
    number = value_float if value_float is not None else value_floats
    if number is not None:
        return np.asarray(number, np.float32)
    return np.asarray(value_int if value_int is not None else value_ints, np.int64)


@operator("ConstantOfShape")
def constant_of_shape(shape: np.ndarray, *, value: np.ndarray | None = None) -> np.ndarray:
    fill = np.zeros(1, np.float32) if value is None else value
    return np.full(ints(shape), fill.reshape(()), fill.dtype)


@operator("Range")
def range_(start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    first, step = start.item(), delta.item()
    count = max(int(np.ceil((limit.item() - first) / step)), 0)
    return (first + np.arange(count) * step).astype(start.dtype)


@operator("EyeLike")
def eye_like(x: Tensor, *, dtype: int | None = None, k: int = 0) -> np.ndarray:
    kind = (x.dtype.numpy if isinstance(x, Value) else x.dtype) if dtype is None else element_type(dtype).numpy
    rows, columns = x.shape
    return np.eye(rows, columns, k, kind)


@operator("OneHot")
def one_hot(indices: Value, depth: np.ndarray, values: Value, *, axis: int = -1) -> Value:
    """``values`` [off, on]: on along a new ``axis`` at each index; negative indices count from the end."""
    count, at = int(depth.item()), axis if axis >= 0 else axis + indices.ndim + 1
    index = F.cast(indices, "int64")
    wide = F.unsqueeze(F.where(index < 0, index + count, index), at)
    shape = [count if d == at else n for d, n in enumerate(wide.shape)]
    steps = F.reshape(F.arange(indices.graph, count), [count if d == at else 1 for d in range(len(shape))])
    return F.where(F.eq(F.broadcast_to(wide, shape), steps), values[1], values[0])


@operator("RandomUniform", folds=False)
def random_uniform(*, dtype: int = 1, high: float = 1.0, low: float = 0.0, seed: float = 0.0, shape: Ints, call: Call) -> Value:
    """New numbers at every run; ``manual_seed`` of the graph takes the part of ``seed``."""
    return F.cast(F.uniform(call.graph, list(shape)) * (high - low) + low, element_type(dtype))


@operator("RandomUniformLike", folds=False)
def random_uniform_like(
    x: Tensor, *, dtype: int | None = None, high: float = 1.0, low: float = 0.0, seed: float = 0.0, call: Call
) -> Value:
    kind = x.dtype if dtype is None else element_type(dtype)
    return F.cast(F.uniform(call.graph, x.shape) * (high - low) + low, kind)


@operator("RandomNormal", folds=False)
def random_normal(
    *, dtype: int = 1, mean: float = 0.0, scale: float = 1.0, seed: float = 0.0, shape: Ints, call: Call
) -> Value:
    return F.cast(F.normal(call.graph, list(shape), mean, scale), element_type(dtype))


@operator("RandomNormalLike", folds=False)
def random_normal_like(
    x: Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float = 0.0, call: Call
) -> Value:
    kind = x.dtype if dtype is None else element_type(dtype)
    return F.cast(F.normal(call.graph, x.shape, mean, scale), kind)


@operator("Bernoulli", folds=False)
def bernoulli(x: Value, *, dtype: int | None = None, seed: float = 0.0) -> Value:
    return F.cast(F.bernoulli(x), x.dtype if dtype is None else element_type(dtype))
