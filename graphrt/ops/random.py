"""Random numbers from a counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).

A random tensor is a function of (seed, counter, stream, element), so every target draws the same numbers, a recomputed mask
equals the first one, and nothing but the counter is state. The graph owns ``rng.seed`` and ``rng.counter``; each run of a
program that draws adds one to the counter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, DTypeError
from graphrt.index import linearize, row_major
from graphrt.ir import Graph, Value
from graphrt.op import REGISTRY, Kind, OpDef, Sample, Types, register
from graphrt.ops.base import cast, creation, function, integers, require_float
from graphrt.ops.collective import axis_index
from graphrt.ops.elementwise import cos, floor, log, lt, sqrt
from graphrt.types import Shape, TensorType, float32, int64

APART = 0x3C6EF372FE94F82B  # between the seeds of processes that draw apart

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)


def philox(counter: Sequence[Any], key: Sequence[Any]) -> list[np.ndarray]:
    """Ten rounds of Philox4x32 on four 32-bit counter words under two key words, as NumPy uint64 arrays of 32-bit words."""
    c = [np.asarray(w, np.uint64) & _MASK for w in counter]
    k = [np.asarray(w, np.uint64) & _MASK for w in key]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(_M0), c[2] * np.uint64(_M1)
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = [high1 ^ c[1] ^ k[0], p1 & _MASK, high0 ^ c[3] ^ k[1], p0 & _MASK]
        k = [(k[0] + np.uint64(_W0)) & _MASK, (k[1] + np.uint64(_W1)) & _MASK]
    return c


def _reference_uniform(seed: np.ndarray, counter: np.ndarray, shape: Shape, stream: int) -> np.ndarray:
    element = np.arange(int(np.prod(shape)), dtype=np.uint64).reshape(shape)
    s, c = int(seed) & (2**64 - 1), int(counter) & 0xFFFFFFFF
    words = philox((element, np.uint64(c), np.uint64(stream), np.uint64(0)), (np.uint64(s & 0xFFFFFFFF), np.uint64(s >> 32)))
    return (words[0] >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)


def _infer_uniform(seed: TensorType, counter: TensorType, *, shape: Shape, stream: int) -> Types:
    if seed != TensorType((), int64) or counter != TensorType((), int64):
        raise DTypeError(f"seed and counter must be int64 scalars, got {seed} and {counter}")
    return (TensorType(tuple(shape), float32),)


def _body(s: Any, index: Any, seed: Any, counter: Any, shape: Shape, stream: int) -> Any:
    return s.uniform(seed, counter, stream, linearize(index, row_major(shape)))


register(
    OpDef(
        name="uniform",
        kind=Kind.RANDOM,
        infer=_infer_uniform,
        vjp=lambda n, dy: [None, None],
        reference=_reference_uniform,
        samples=lambda rng: [
            Sample((np.asarray(s, np.int64), np.asarray(c, np.int64)), {"shape": shape, "stream": t})
            for s, c, shape, t in ((0, 0, (4, 5), 0), (2**40 + 3, 7, (3,), 2), (5, 1, (), 1))
        ],
        body=_body,
        cheap=False,
    )
)


@creation
def manual_seed(graph: Graph, seed: int) -> None:
    """Sets the seed that the graph's random ops start from; without it the seed is 0."""
    (number,) = integers((seed,), "seed")
    if not -(2**63) <= number < 2**63:
        raise ArgumentError(f"seed must fit 64 bits, got {number}")
    state(graph)
    graph.put(graph.initial, "rng.seed", np.asarray(number, np.int64))


def state(graph: Graph) -> tuple[Value, Value]:
    """The graph's seed and counter, made at first use together with the counter's update."""
    if "rng.seed" not in graph.sources:
        graph.parameter("rng.seed", np.asarray(0, np.int64), trainable=False)
        counter = graph.parameter("rng.counter", np.asarray(0, np.int64), trainable=False)
        graph.update(counter, counter + 1)
    return graph.sources["rng.seed"].outputs[0], graph.sources["rng.counter"].outputs[0]


@creation
def uniform(graph: Graph, shape: Sequence[int]) -> Value:
    """float32 numbers [*shape] in [0, 1), new ones at every run, and in each process along the axes of a mesh over which an
    input varies. Raises ArgumentError for more than 2**32 of them."""
    sizes = integers(shape, "shape", 0)
    if math.prod(sizes) >= 2**32:
        raise ArgumentError(f"one draw makes less than 2**32 numbers, got {math.prod(sizes)}")
    stream = sum(n.op.name == "uniform" for n in graph.nodes)
    seed, counter = state(graph)
    inputs = [source.types[0] for source in graph.sources.values() if source.op.name == "input"]
    for axis in sorted({axis for type in inputs for axis in type.varying}):
        seed = seed + cast(axis_index(graph, axis), int64) * APART
    attrs = {"shape": sizes, "stream": stream}
    return graph.append(REGISTRY["uniform"], (seed, counter), attrs).outputs[0]


@creation
def normal(graph: Graph, shape: Sequence[int], mean: float = 0.0, std: float = 1.0) -> Value:
    """float32 normal numbers [*shape] of that ``mean`` and deviation ``std``, new ones at every run.

    Box and Muller (1958), from two uniform draws.
    """
    if not (0 <= std < math.inf and math.isfinite(mean)):
        raise ArgumentError(f"mean and std must be finite, std >= 0, got {mean} and {std}")
    radius = sqrt(log(1.0 - uniform(graph, shape)) * -2.0)  # 1 - u is never 0
    return radius * cos(uniform(graph, shape) * (2 * math.pi)) * float(std) + float(mean)


@creation
def randint(graph: Graph, low: int, high: int, shape: Sequence[int]) -> Value:
    """int64 numbers [*shape] in [low, high), new ones at every run; at most 2**24 different ones."""
    low, high = integers((low, high), "low and high")
    if not 0 < high - low <= 2**24:
        raise ArgumentError(f"high must lie 1 to 2**24 above low, got {low} and {high}")
    return cast(floor(uniform(graph, shape) * float(high - low)), int64) + low


@creation
def exponential(graph: Graph, shape: Sequence[int], lambd: float = 1.0) -> Value:
    """float32 numbers [*shape] with density ``lambd * exp(-lambd * x)``, new ones at every run."""
    if not 0 < lambd < math.inf:
        raise ArgumentError(f"lambd must be positive and finite, got {lambd}")
    return log(1.0 - uniform(graph, shape)) * (-1.0 / lambd)


@function
def uniform_like(input: Value) -> Value:
    """float32 numbers in [0, 1) in the shape of ``input``."""
    return uniform(input.graph, input.shape)


@function
def normal_like(input: Value) -> Value:
    """float32 standard normal numbers in the shape of ``input``."""
    return normal(input.graph, input.shape)


@function
def bernoulli(input: Value) -> Value:
    """1 with the probability that each element of ``input`` is, else 0, in its dtype; no gradient flows."""
    require_float(input.dtype, "input")
    return cast(lt(uniform_like(input), cast(input, float32)), input.dtype)
