"""Sources and generated values: what has no operands. Inputs and parameters are buffers; constants and indices are computed
wherever they are read, and never stored."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphrt.errors import ShapeError
from graphrt.ir import Value
from graphrt.op import REGISTRY, Attrs, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import dim_index
from graphrt.types import Shape, TensorType, as_dtype


def _source(name: str) -> OpDef:
    def infer(*, shape: Shape, dtype: str, **_: Any) -> Types:
        if any(n < 0 for n in shape):
            raise ShapeError(f"shape must not be negative, got {list(shape)}")
        return (TensorType(tuple(shape), as_dtype(dtype)),)

    def reference(**_: Any) -> None:
        raise AssertionError("sources are given, not computed")

    def varying(types: Types, attrs: Attrs) -> tuple[str, ...]:
        return tuple(sorted({*attrs.get("varying", ()), *(axis for axis, *_ in attrs.get("cuts", ()))}))

    return register(OpDef(name, Kind.SOURCE, infer, None, reference, lambda rng: [], varying=varying))


_source("input")
_source("parameter")

register(
    OpDef(
        name="constant",
        kind=Kind.GENERATED,
        infer=lambda *, value, dtype: (TensorType((), as_dtype(dtype)),),
        vjp=lambda n, dy: [],
        reference=lambda value, dtype: np.asarray(value, as_dtype(dtype).numpy),
        samples=lambda rng: [Sample((), {"value": 2.5, "dtype": "float32"})],
        body=lambda s, index, value, dtype: s.const(value, as_dtype(dtype)),
    )
)


def _infer_iota(*, shape: Shape, dim: int) -> Types:
    dim_index(dim, len(shape))
    return (TensorType(tuple(shape), as_dtype("int64")),)


register(
    OpDef(
        name="iota",
        kind=Kind.GENERATED,
        infer=_infer_iota,
        vjp=lambda n, dy: [],
        reference=lambda shape, dim: np.broadcast_to(
            np.arange(shape[dim]).reshape([-1 if i == dim else 1 for i in range(len(shape))]), shape
        ),
        samples=lambda rng: [Sample((), {"shape": (3, 4), "dim": d}) for d in (0, 1)],
        body=lambda s, index, shape, dim: s.index(index[dim]),
    )
)


def iota(like: Value, dim: int) -> Value:
    """The index along ``dim`` at each element of ``like``, int64."""
    shape = like.shape
    return like.graph.append(REGISTRY["iota"], (), {"shape": shape, "dim": dim_index(dim, len(shape))}).outputs[0]
