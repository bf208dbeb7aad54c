"""ATen operators that make tensors from nothing, and those that draw random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import graphrt.ops as F
from graphrt.frontends.torch.table import aten
from graphrt.ir import Graph, Value
from graphrt.types import as_dtype, float32

Number = bool | int | float


@aten("full.default", creates=True)
def full(graph: Graph, size: Sequence[int], fill_value: Number, *, dtype: Any = None, **_: Any) -> Value:
    return F.full(graph, list(size), fill_value, None if dtype is None else as_dtype(dtype))


@aten("zeros.default", "empty.memory_format", "empty_permuted.default", creates=True)
def zeros(graph: Graph, size: Sequence[int], *_: Any, dtype: Any = None, **__: Any) -> Value:
    return F.zeros(graph, list(size), float32 if dtype is None else as_dtype(dtype))


@aten("ones.default", creates=True)
def ones(graph: Graph, size: Sequence[int], *, dtype: Any = None, **_: Any) -> Value:
    return F.ones(graph, list(size), float32 if dtype is None else as_dtype(dtype))


@aten("empty_strided.default", creates=True)
def empty_strided(graph: Graph, size: Sequence[int], stride: Sequence[int], **options: Any) -> Value:
    return zeros(graph, size, **options)


@aten("scalar_tensor.default", creates=True)
def scalar_tensor(graph: Graph, value: Number, *, dtype: Any = None, **_: Any) -> Value:
    return F.full(graph, [], value, None if dtype is None else as_dtype(dtype))


@aten("arange.start_step", creates=True)
def arange(graph: Graph, start: int | float, end: int | float, step: int | float = 1, *, dtype: Any = None, **_: Any) -> Value:
    return F.arange(graph, start, end, step, None if dtype is None else as_dtype(dtype))


@aten("prims.iota.default", creates=True)
def iota(graph: Graph, length: int, *, start: int, step: int, **_: Any) -> Value:
    return F.arange(graph, length) * step + start


@aten("full_like.default")
def full_like(input: Value, fill_value: Number, *, dtype: Any = None, **_: Any) -> Value:
    return F.full_like(input, fill_value, input.dtype if dtype is None else as_dtype(dtype))


@aten("zeros_like.default", "empty_like.default")
def zeros_like(input: Value, *, dtype: Any = None, **_: Any) -> Value:
    return full_like(input, 0, dtype=dtype)


@aten("ones_like.default")
def ones_like(input: Value, *, dtype: Any = None, **_: Any) -> Value:
    return full_like(input, 1, dtype=dtype)


@aten("new_empty_strided.default", "new_empty.default", "new_zeros.default")
def new_zeros(input: Value, size: Sequence[int], *_: Any, dtype: Any = None, **__: Any) -> Value:
    return F.zeros(input.graph, list(size), input.dtype if dtype is None else as_dtype(dtype))


# --- random numbers: graphrt's own generator, so that they are the same on every target -----------------------------------


@aten("rand.default", creates=True)
def rand(graph: Graph, size: Sequence[int], **_: Any) -> Value:
    return F.uniform(graph, list(size))


@aten("randn.default", creates=True)
def randn(graph: Graph, size: Sequence[int], **_: Any) -> Value:
    return F.normal(graph, list(size))


@aten("randint.default", creates=True)
def randint(graph: Graph, high: int, size: Sequence[int], **_: Any) -> Value:
    return F.randint(graph, 0, high, list(size))


@aten("randint.low", creates=True)
def randint_low(graph: Graph, low: int, high: int, size: Sequence[int], **_: Any) -> Value:
    return F.randint(graph, low, high, list(size))


@aten("randperm.default", creates=True)
def randperm(graph: Graph, n: int, **_: Any) -> Value:
    return F.randperm(graph, n)


@aten("rand_like.default")
def rand_like(input: Value, **_: Any) -> Value:
    return F.uniform_like(input)


@aten("randn_like.default")
def randn_like(input: Value, **_: Any) -> Value:
    return F.normal_like(input)


@aten("bernoulli.default")
def bernoulli(input: Value, *, generator: Any = None) -> Value:
    return F.bernoulli(input)


@aten("bernoulli.p")
def bernoulli_p(input: Value, p: float = 0.5, *, generator: Any = None) -> Value:
    return F.uniform_like(input) < p


@aten("uniform.default")
def uniform(input: Value, low: float = 0.0, high: float = 1.0, *, generator: Any = None) -> Value:
    return F.uniform_like(input) * (high - low) + low


@aten("normal_functional.default")
def normal(input: Value, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Value:
    return F.normal_like(input) * std + mean


@aten("exponential.default")
def exponential(input: Value, lambd: float = 1.0, *, generator: Any = None) -> Value:
    return F.exponential(input.graph, input.shape, lambd)


@aten("native_dropout.default")
def native_dropout(input: Value, p: float, train: bool | None) -> tuple[Value, Value]:
    if not train or p == 0.0:
        return input, F.ones(input.graph, input.shape, "bool")
    keep = F.uniform_like(input) >= p
    return F.where(keep, input * (1.0 / (1.0 - p) if p < 1.0 else 0.0), 0.0), keep


@aten("rrelu_with_noise_functional.default")
def rrelu_with_noise(
    input: Value, noise: Value, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> tuple[Value, Value]:
    """Leaky ReLU with slopes drawn at random, and the slope that each element had."""
    if not training:
        return F.leaky_relu(input, (lower + upper) / 2), noise
    slope = F.where(input > 0.0, 1.0, F.uniform_like(input) * (upper - lower) + lower)
    return input * slope, slope


@aten("rrelu_with_noise_backward.default")
def rrelu_with_noise_backward(
    dy: Value, input: Value, noise: Value, lower: float, upper: float, training: bool, is_result: bool
) -> Value:
    return dy * (noise if training else F.where(input > 0.0, 1.0, (lower + upper) / 2))
