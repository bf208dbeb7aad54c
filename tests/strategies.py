"""Random graphs over the whole registry and the public functions, tame by construction.

Nothing here knows what an op computes. Every value is evaluated as it is made, once exactly and a few times with every
rounding replaced by noise several times its size (Monte Carlo arithmetic: Parker, UCLA CSD-970002, 1997). What is not
finite, grows, or differs between the runs by more than noise (a division by almost nothing, a comparison of almost equal
numbers) is taken back. What the runs differ by is what a target may differ by, so the tolerance of each result follows from
its own graph: depth, length, dtypes and conditioning.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

import graphrt as grt
from graphrt import Value
from graphrt import ops as F
from graphrt.bench import builder as bench
from graphrt.bench.patterns import PATTERNS
from graphrt.errors import GraphrtError
from graphrt.op import REGISTRY, Kind, OpDef, Sample
from graphrt.types import DTYPES, DType, as_dtype

EXACT = (Kind.SOURCE, Kind.GENERATED, Kind.RANDOM, Kind.VIEW, Kind.GATHER)  # they round nothing
APART = (Kind.SOURCE, Kind.ELEMENTWISE, Kind.DECOMPOSITION, Kind.COLLECTIVE)  # drawn otherwise, or of many processes
RUNS = 13  # the first is exact, the others come in pairs of opposite noise: three pairs are close by chance too often
NOISE = 4.0  # in units of the dtype's epsilon
FACTORS = {"svd", "svdvals", "matrix_norm", "cond", "matrix_rank", "lu_factor"}  # or their gradients are not unique
LIMIT = 1e3  # values beyond it are not tame
DTYPE_WEIGHTS = {"float32": 24, "float64": 3, "float16": 2, "bfloat16": 2, "bool": 2}  # and 1 for each other


class Rejected(Exception):
    """A move that led nowhere; what it appended is taken back."""


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """By how much elements differ: equal infinities by nothing, and NaN from NaN."""
    with np.errstate(invalid="ignore"):
        return np.where((a == b) | ((a != a) & (b != b)), 0.0, np.abs(a - b))


class Numbers:
    """The value of every node, exact and with noise, kept up with a graph that grows."""

    def __init__(self, graph: grt.Graph, feeds: dict[str, np.ndarray], seed: int = 0) -> None:
        self.graph, self.feeds, self.seed = graph, feeds, seed
        self.table: dict[Value, list[np.ndarray]] = {}

    def extend(self) -> None:
        for node in reversed(self.graph.nodes):
            if node.outputs[0] in self.table:
                break
            start = node
        else:
            start = self.graph.nodes[0] if self.graph.nodes else None
        if not self.graph.nodes or self.graph.nodes[-1].outputs[0] in self.table:
            return
        with np.errstate(all="ignore"):
            for node in self.graph.nodes[self.graph.nodes.index(start) :]:
                noise = self._noise(node)
                runs = [
                    self._run(node, 0, None, 0),
                    *(self._run(node, r, noise[(r - 1) // 2], r % 2 * 2 - 1) for r in range(1, RUNS)),
                ]
                for i, v in enumerate(node.outputs):
                    self.table[v] = [r[i] for r in runs]

    def _noise(self, node: grt.Node) -> list[list[np.ndarray] | None]:
        """Numbers in -1..1 for the elements that ``node`` reads and makes, for each pair of runs."""
        if node.op.kind in EXACT:
            return [None] * (RUNS // 2)
        rng, values = np.random.default_rng((self.seed, len(self.table))), (*node.inputs, *node.outputs)
        return [[rng.uniform(-1, 1, v.shape if v.dtype.is_float else 0) for v in values] for _ in range(RUNS // 2)]

    def _run(self, node: grt.Node, run: int, noise: list[np.ndarray] | None, sign: float) -> list[np.ndarray]:
        if node.op.kind is Kind.SOURCE:
            array = self.feeds[node.name] if node.op.name == "input" else self.graph.initial[node.name]
            return [_wide(array, node.types[0].dtype)]
        terms = node.op.flops(node) / max(node.types[0].size, 1)
        more = max(terms, 1.0) ** 0.5  # partial sums grow, and so do their roundings, if terms are added one by one
        inputs, many = [self.table[v][run] for v in node.inputs], len(node.inputs)
        if noise is not None:
            inputs = [_shaken(x, v.dtype, n, sign * more) for x, v, n in zip(inputs, node.inputs, noise[:many], strict=True)]
        found = node.op.reference(*inputs, **node.attrs)
        arrays = [_wide(a, v.dtype) for a, v in zip(found if isinstance(found, tuple) else (found,), node.outputs, strict=True)]
        if noise is None:
            return arrays
        return [_shaken(a, v.dtype, n, sign) for a, v, n in zip(arrays, node.outputs, noise[many:], strict=True)]

    def exact(self, v: Value) -> np.ndarray:
        return self.table[v][0]

    def spread(self, v: Value) -> float:
        """The largest difference that noise makes to an element of ``v``; infinite if it changes an integer."""
        runs = self.table[v]
        if not v.dtype.is_float:
            return 0.0 if all(np.array_equal(runs[0], r) for r in runs[1:]) else math.inf
        return max(float(apart(r, runs[0]).max(initial=0.0)) for r in runs[1:])

    def tame(self, v: Value) -> bool:
        """Whether ``v`` is finite, of moderate size and moved little by noise."""
        x = self.exact(v)
        if _is_constant(v):
            return True  # such as the NaN that a loss becomes for a class that there is not
        if not v.dtype.is_float:
            return self.spread(v) == 0 and not self._knife_edge(v.node)
        largest = float(np.abs(x).max(initial=0.0))
        return bool(np.isfinite(x).all()) and largest <= LIMIT and self.spread(v) <= 0.05 * max(largest, 1.0)

    def _knife_edge(self, node: grt.Node) -> bool:
        """Whether ``node`` asks if two floats are equal that differ by no more than roundings do: noise never makes them so."""
        if node.op.name not in ("eq", "ne") or not node.inputs[0].dtype.is_float:
            return False
        a, b = (self.exact(v) for v in node.inputs)
        close = sum(2 * self.spread(v) for v in node.inputs) + 4 * epsilon(node.inputs[0].dtype) * np.maximum(
            np.abs(a), np.abs(b)
        )
        return bool(((a != b) & (np.abs(a - b) <= close)).any())


def _is_constant(v: Value) -> bool:
    while v.node.op.kind is Kind.VIEW:
        v = v.node.inputs[0]
    return v.node.op.kind is Kind.GENERATED


@functools.cache
def epsilon(dtype: DType) -> float:
    return float(ml_dtypes.finfo(dtype.numpy).eps)


@functools.cache
def _tiny(dtype: DType) -> float:
    return float(ml_dtypes.finfo(dtype.numpy).tiny)


def _wide(array: Any, dtype: DType) -> np.ndarray:
    return np.asarray(array).astype(np.float64 if dtype.is_float else dtype.numpy)


def _shaken(x: np.ndarray, dtype: DType, noise: np.ndarray, scale: float) -> np.ndarray:
    """``x`` with relative ``noise``, but for small multiples of 1/8: those are exact in any order of computation."""
    if not dtype.is_float:
        return x
    eps, eighths = epsilon(dtype), x * 8
    rough = (np.rint(eighths) != eighths) | (np.abs(eighths) > 1 / eps)
    noise = noise * (scale * NOISE * eps)
    return np.where(rough, x * (1 + noise) + noise * _tiny(dtype), x)


class Builder:
    """Draws one random DAG at a time onto ``graph``. Names of its inputs, parameters and outputs start with ``prefix``."""

    SIZES: Sequence[int] = (1, 2, 3, 4, 5, 7, 8, 17, 33)  # of dimensions
    REACH = 4.0  # how far back among the values a move looks for its operand, on average
    MOVES: Sequence[str] = ("elementwise",) * 6 + ("view",) * 4 + ("reduction",) * 3 + ("composite",) * 4 + (
        "contraction", "contraction", "window", "sampled", "sampled"
    )  # fmt: skip

    def __init__(self, seed: int, largest: int = 400) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph, self.feeds = grt.Graph(), dict[str, np.ndarray]()
        self.numbers = Numbers(self.graph, self.feeds, seed)
        self.largest, self.escaped = largest, list[str]()
        self.prefix, self.count = "", 0
        self.pool: list[Value] = []

    # --- drawing ------------------------------------------------------------------------------------------------

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def number(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        if high < low:
            raise Rejected
        return int(self.rng.integers(low, high + 1))

    def pick(self, items: Sequence[Any]) -> Any:
        if not len(items):
            raise Rejected
        return items[self.number(0, len(items) - 1)]

    def dtype(self) -> DType:
        weights = np.array([DTYPE_WEIGHTS.get(n, 1) for n in DTYPES], float)
        return list(DTYPES.values())[self.rng.choice(len(weights), p=weights / weights.sum())]

    def shape(self, ndim: int | None = None) -> tuple[int, ...]:
        while True:
            n = self.number(0, 4) if ndim is None else ndim
            found = tuple(int(self.rng.choice(self.SIZES)) for _ in range(n))
            if self.chance(0.02) and n:
                found = (*found[:-1], 0)
            if math.prod(found) <= self.largest:
                return found

    def array(self, shape: Sequence[int], dtype: DType, low: float = -2.0, high: float = 2.0) -> np.ndarray:
        """Random numbers, every third time multiples of 1/8 so that equal ones, zeros and whole ones occur."""
        if dtype.is_float:
            x = self.rng.uniform(low, high, shape)
            return np.asarray(np.rint(x * 8) / 8 if self.chance(0.3) else x).astype(dtype.numpy)
        if dtype.is_bool:
            return np.asarray(self.rng.random(shape) < 0.5)
        return self.rng.integers(0 if dtype.name == "uint8" else -9, 10, shape).astype(dtype.numpy)

    def leaf(self, array: np.ndarray, kind: str = "") -> Value:
        """``array`` as a parameter, "p", or as an input, "x"; by turns unless ``kind`` says which."""
        name, self.count = f"{self.prefix}.{kind or 'px'[self.count % 2]}{self.count}", self.count + 1
        if name.split(".")[1][0] == "p":
            return self.graph.parameter(name, array)
        self.feeds[name] = array
        return self.graph.input(name, array.shape, array.dtype)

    def fresh(self, shape: Sequence[int] | None = None, dtype: DType | None = None) -> Value:
        dtype = self.dtype() if dtype is None else dtype
        return self.leaf(self.array(self.shape() if shape is None else shape, dtype))

    def value(self, test: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value of the pool for which ``test`` holds, the latest ones more often."""
        found = [v for v in self.pool if test(v)]
        return found[-1 - min(int(self.rng.exponential(self.REACH)), len(found) - 1)] if found else self.pick(found)

    def floating(self) -> Value:
        return self.value(lambda v: v.dtype.is_float and v.type.size > 0)

    def like(self, x: Value, dtype: DType | None = None) -> Value:
        """A value of the shape of ``x`` (or broadcast to it) and ``dtype``."""
        dtype = dtype or x.dtype
        match self.number(0, 3):
            case 0:
                shape = tuple(1 if self.chance(0.4) else n for n in x.shape)[self.number(0, x.ndim) :]
                return F.expand(self.fresh(shape, dtype), x.shape)
            case 1:
                return self.adapted(self.floating() if dtype.is_float else self.value(), x.shape, dtype)
        same = [v for v in self.pool if v.shape == x.shape and v.dtype == dtype]
        return self.pick(same) if same else self.fresh(x.shape, dtype)

    def adapted(self, x: Value, shape: Sequence[int], dtype: DType) -> Value:
        """The elements of ``x``, repeated or cut off, in ``shape``."""
        size = math.prod(shape)
        flat = F.reshape(x, (-1,))
        if x.type.size < size:
            if not x.type.size:
                raise Rejected
            flat = F.reshape(F.expand(flat[None], (-(-size // x.type.size), x.type.size)), (-1,))
        if x.dtype.is_float and not dtype.is_float and not dtype.is_bool:
            flat = self.within(flat, 0.0, 9.0)  # what does not fit an integer type has no value
        return F.cast(F.reshape(flat[:size], shape), dtype)

    def within(self, x: Value, low: float, high: float) -> Value:
        """``x`` moved into [low, high], smoothly unless it lies there."""
        self.numbers.extend()
        now = self.numbers.exact(x)
        if not now.size or (now.min() >= low and now.max() <= high):
            return x
        if x.dtype.is_float:
            return F.sigmoid(x) * (high - low) * 0.98 + (low + (high - low) * 0.01)
        return F.remainder(x, math.floor(high) - math.ceil(low) + 1) + math.ceil(low)

    # --- moves: each returns new values -------------------------------------------------------------------------

    def elementwise(self) -> Any:
        op: OpDef = self.pick([op for op in REGISTRY.values() if op.kind is Kind.ELEMENTWISE])
        samples = op.samples(np.random.default_rng(0))
        attrs = dict(self.pick(samples).attrs)
        if "dtype" in attrs:
            attrs["dtype"] = self.dtype().name
        columns = [[a for a in column if a.size] for column in zip(*(s.inputs for s in samples), strict=True)]
        x = self.value()
        operands = []
        for column in columns:
            wanted = x.dtype
            if "dtype" not in attrs and all(a.dtype == bool for a in column):
                wanted = as_dtype("bool")
            elif wanted.is_float and column[0].dtype.kind == "i":
                wanted = operands[0].dtype if operands else self.pick([d for d in DTYPES.values() if d.is_int])
            v = x if not operands and wanted == x.dtype else self.like(x, wanted)
            low, high = min(float(a.min()) for a in column), max(float(a.max()) for a in column)
            if "dtype" in attrs and as_dtype(attrs["dtype"]).is_int and v.dtype.is_float:
                low, high = 0.0, 9.0
            if v.dtype.is_float or (v.dtype.is_int and column[0].dtype.kind == "i"):
                v = self.within(v, low, high)
            operands.append(v)
        return self.graph.append(op, operands, attrs).outputs

    def sampled(self) -> Any:
        """Any op as one of its samples calls it, its float operands often made of values at hand."""
        return self.called(self.pick([op for op in REGISTRY.values() if op.kind not in APART]))

    def template(self) -> Any:
        """As ``sampled``, an op that is a template of loops."""
        return self.called(
            self.pick([op for op in REGISTRY.values() if op.template is not None and op.kind is not Kind.DECOMPOSITION])
        )

    def called(self, op: OpDef) -> Any:
        sample: Sample = self.pick([s for s in op.samples(self.rng) if max([0, *map(np.size, s.inputs)]) <= 4 * self.largest])
        inputs = []
        for a in sample.inputs:
            a = np.asarray(a)
            chain = a.dtype.kind == "f" and self.chance(0.7)
            inputs.append(self.adapted(self.floating(), a.shape, as_dtype(a.dtype)) if chain else self.leaf(a))
        return self.graph.append(op, inputs, sample.attrs).outputs

    def view(self) -> Any:
        x = self.value()
        match self.number(0, 10):
            case 0:
                divisors = [d for d in range(1, x.type.size + 1) if x.type.size % d == 0] or [1]
                d = self.pick(divisors)
                return F.reshape(x, self.pick([(-1,), (d, x.type.size // d), (x.type.size // d, 1, d)]))
            case 1:
                return F.permute(x, [int(d) for d in self.rng.permutation(x.ndim)])
            case 2:
                return F.transpose(x, self.number(0, x.ndim - 1), self.number(0, x.ndim - 1)) if x.ndim else x
            case 3:
                shape = (*[self.number(1, 3) for _ in range(self.number(0, 1))],)
                return F.expand(x, (*shape, *(self.number(1, 4) if n == 1 else n for n in x.shape)))
            case 4 | 5:
                keys: list[Any] = []
                for n in x.shape:
                    a, b = sorted((self.number(0, n), self.number(0, n)))
                    step = self.pick([1, 1, 2, 3, -1, -2])
                    whole = slice(None, None, step)
                    cut = slice(a, b, step) if step > 0 else slice(b, a or None, step)
                    keys.append(
                        self.number(0, n - 1) if n and self.chance(0.15) else whole if self.chance(0.4) or a == b else cut
                    )
                return x[tuple(keys)]
            case 6:
                widths = [self.number(-1, 2) for _ in range(2 * self.number(0, min(x.ndim, 3)))]
                mode = self.pick(["constant", "constant", "reflect", "symmetric", "replicate", "circular"])
                return F.pad(x, widths, mode, value=self.pick([0, 1]) if not x.dtype.is_float else self.pick([0.0, 0.25]))
            case 7:
                return F.flip(x, [d for d in range(x.ndim) if self.chance(0.5)])
            case 8:
                others = [v for v in self.pool if v.dtype == x.dtype and v.ndim == x.ndim]
                return F.concat([x, *(self.pick(others) for _ in range(self.number(1, 2)))], self.number(0, x.ndim - 1))
            case 9:
                return F.stack([x, self.like(x)], self.number(0, x.ndim))
            case _:
                return F.unsqueeze(x, self.number(0, x.ndim)) if self.chance(0.5) else F.squeeze(x)

    def reduction(self) -> Any:
        x = self.value()
        if x.ndim and self.chance(0.5):
            dim: Any = [d for d in range(x.ndim) if self.chance(0.5)] or [self.number(0, x.ndim - 1)]
        else:
            dim = self.number(-x.ndim, x.ndim - 1) if x.ndim else None
        f = self.pick([F.sum, F.sum, F.mean, F.amax, F.amin, F.prod, F.var, F.logsumexp, F.any, F.all, F.argmax, F.argmin])
        if f in (F.argmax, F.argmin) and isinstance(dim, list):
            dim = dim[0]
        y = f(x, dim, keepdim=self.chance(0.5))
        if y.dtype.is_float and self.chance(0.4):  # what a norm does: the reduced value meets the whole again
            y = f(x, dim, keepdim=True)
            return x - y if self.chance(0.5) else x * y
        return y

    def contraction(self) -> Any:
        x = self.floating()
        match self.number(0, 3):
            case 0:
                a = x if x.ndim else F.reshape(x, (1,))
                k, n = a.shape[-1], self.pick([1, 2, 3, 5, 8, 17])
                lead = self.pick([(), (), a.shape[:-2], (1,) * max(a.ndim - 2, 0), (2, *(1 for _ in a.shape[:-2]))])
                b = (
                    self.adapted(self.floating(), (*lead, k, n), x.dtype)
                    if self.chance(0.3)
                    else self.fresh((*lead, k, n), x.dtype)
                )
                return F.matmul(a, b) * (1 / max(k, 1) ** 0.5)
            case 1:
                a = F.flatten(x, 1) if x.ndim > 1 else F.reshape(x, (1, -1))
                out, bias = self.number(1, 9), None
                if self.chance(0.6):
                    bias = self.fresh((out,), x.dtype)
                return F.linear(a, self.fresh((out, a.shape[1]), x.dtype), bias) * (1 / a.shape[1] ** 0.5)
            case _:
                g, kernel = self.pick([1, 1, 1, 2, 3]), (self.number(1, 3), self.number(1, 3))
                c, k = g * self.number(1, 3), g * self.pick([1, 2, 4, 5])
                a = self.maps(x, c)
                bias = self.fresh((k,), x.dtype) if self.chance(0.5) else None
                y = F.conv2d(
                    a,
                    self.fresh((k, c // g, *kernel), x.dtype),
                    bias,
                    stride=(self.number(1, 3), self.number(1, 2)),
                    padding=((self.number(0, 2), self.number(0, 2)), (self.number(0, 2), self.number(0, 1))),
                    dilation=(self.number(1, 2), 1),
                    groups=g,
                )
                return y * (1 / (c // g * math.prod(kernel)) ** 0.5)

    def maps(self, x: Value, channels: int) -> Value:
        if x.ndim == 4 and x.shape[1] == channels and x.type.size:
            return x
        n, h, w = self.number(1, 2), self.number(3, 7), self.number(3, 7)
        return self.adapted(x, (n, channels, h, w), x.dtype)

    def window(self) -> Any:
        x = self.floating()
        a = x if x.ndim == 4 else self.maps(x, self.number(1, 4))
        kernel = (self.number(1, 3), self.number(1, 3))
        arguments: dict[str, Any] = dict(
            stride=self.pick([None, 1, (2, 1)]),
            padding=tuple(self.number(0, k // 2) for k in kernel),
            ceil_mode=self.chance(0.3),
        )
        f = self.pick([F.max_pool2d, F.avg_pool2d, F.sum_pool2d])
        if f is F.max_pool2d:
            arguments["dilation"] = self.number(1, 2)
        return f(a, kernel, **arguments)

    def composite(self) -> Any:
        """A public function with arguments guessed from its signature; what it refuses must be refused by a GraphrtError."""
        name = self.pick(sorted(F.FUNCTIONS.keys() - FACTORS))
        x = self.value(lambda v: v.type.size > 0) if self.chance(0.3) else self.floating()
        arguments: dict[str, Any] = {}
        for i, p in enumerate(inspect.signature(F.FUNCTIONS[name]).parameters.values()):
            if p.kind is p.VAR_POSITIONAL or p.kind is p.VAR_KEYWORD:
                raise Rejected
            if i == 0:
                arguments[p.name] = x if "Sequence" not in str(p.annotation) else [x, self.like(x)]
            elif p.default is p.empty or self.chance(0.25):
                arguments[p.name] = self.guess(p, x)
        try:
            return F.FUNCTIONS[name](**arguments)
        except (GraphrtError, Rejected):
            raise Rejected from None
        except Exception as error:
            self.escaped.append(
                f"{name}({', '.join(f'{k}={v!r}' for k, v in arguments.items())}): {type(error).__name__}: {error}"
            )
            raise Rejected from None

    def guess(self, p: inspect.Parameter, x: Value) -> Any:
        kind = str(p.annotation)
        if p.name == "target" and self.chance(0.5):  # class indices
            dim = 1 if x.ndim > 1 else 0
            shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
            return self.leaf(np.asarray(self.rng.integers(0, x.shape[dim] if x.ndim else 1, shape)))
        if "Value" in kind or p.name in ("other", "target"):
            channels = x.shape[1:2] if p.name != "weight" or x.ndim != 2 else (self.number(1, 5), x.shape[1])
            return self.like(x) if self.chance(0.6) else self.fresh(self.pick([channels, x.shape[-1:]]), x.dtype)
        if p.name.startswith("dim") or p.name.endswith("dim"):
            return self.number(-x.ndim, x.ndim - 1) if x.ndim else None
        if p.name in ("shape", "normalized_shape"):
            return x.shape[-1:]
        if isinstance(p.default, bool):
            return not p.default
        if isinstance(p.default, str):
            return self.pick(["none", "mean", "sum", p.default])
        if isinstance(p.default, float):
            return self.pick([p.default, 0.5, 0.25])
        return self.pick([1, 2, 3, (2, 1)])

    # --- one DAG --------------------------------------------------------------------------------------------------

    def attempt(self, move: Callable[[], Any]) -> bool:
        """Makes a move and keeps it if all that it built is tame."""
        start = len(self.graph.nodes)
        try:
            with self.graph.transaction():
                found = move()
                values = [v for v in (found if isinstance(found, tuple | list) else [found]) if isinstance(v, Value)]
                self.numbers.extend()
                built = [v for node in self.graph.nodes[start:] for v in node.outputs]
                if any(v.type.size > 4 * self.largest for v in built) or not all(map(self.numbers.tame, built)):
                    raise Rejected
        except (Rejected, GraphrtError):
            return False
        self.pool += [v for v in values if v not in self.pool]
        return True

    def dag(self, prefix: str) -> None:
        self.prefix, self.count, self.pool = prefix, 0, []
        start = len(self.graph.nodes)
        for _ in range(self.number(1, 3)):
            self.pool.append(self.fresh(dtype=as_dtype("float32") if not self.pool else None))
        self.numbers.extend()
        kept, wanted = 0, self.number(2, 12)
        for _ in range(4 * wanted):
            kept += self.attempt(getattr(self, self.pick(self.MOVES)))
            if kept >= wanted:
                break
        for _ in range(self.number(0, 2)):
            self.attempt(self.gradients)
        used = {v for node in self.graph.nodes[start:] for v in node.inputs}
        ends = [v for v in self.pool if v not in used] or self.pool[-1:]
        ends += [v for v in self.pool if v in used and self.chance(0.1)]
        for i, v in enumerate(ends):
            self.graph.output(f"{prefix}.y{i}", v)
        for p in self.mine():
            self.attempt(lambda p=p: self.update(p))

    def mine(self) -> list[Value]:
        """The parameters of the DAG in hand."""
        return [v for v in self.graph.parameters() if v.node.name.startswith(f"{self.prefix}.")]

    def gradients(self) -> Any:
        """Gradients of a scalar made of some values, as new values: they may be read and differentiated again."""
        terms = [v for v in self.pool if v.dtype.is_float and v.type.size and self.chance(0.5)] or [self.floating()]
        leaves = [v for v in self.pool if v.dtype.is_float and self.chance(0.4)]
        loss = sum((F.cast(F.mean(F.sin(v)), "float32") for v in terms), start=self.graph.constant(0.0))
        leaves += [v for v in self.mine() if v.dtype.is_float]
        return grt.grad(loss, leaves[: self.number(1, 4)])

    def update(self, p: Value) -> None:
        if p.node.name in self.graph.updates:
            return
        mates = [v for v in self.pool if v.type.same(p.type) and v is not p]
        others = [q for q in self.mine() if q.type.same(p.type)]
        match self.number(0, 5):
            case 0 if len(others) > 1:  # a swap, or a cycle with what others take
                self.graph.update(p, self.pick(others))
            case 1 if mates:
                self.graph.update(p, self.pick(mates))
            case 2 if mates and p.dtype.is_float:
                self.graph.update(p, p * 0.9 + self.pick(mates) * 0.1)
            case 3 if p.ndim:
                self.graph.update(p, F.flip(p, 0))
            case 4:
                self.graph.update(p, p - self.like(p) if not p.dtype.is_bool else ~p)


class Chains(Builder):
    """Chains of templates with views and elementwise ops between them: each reads what stands just before."""

    REACH = 0.4
    MOVES = ("template",) * 3 + ("contraction", "window") + ("view",) * 6 + ("elementwise",) * 3


class Ones(Builder):
    """Most dimensions are 1."""

    SIZES = (1, 1, 1, 2, 3)


class Spliced(Builder):
    """What passes and the scheduler look for, the patterns that fusion is measured on, behind and before anything else."""

    REACH = 1.0
    MOVES = ("pattern",) * 4 + ("elementwise",) * 3 + ("view",) * 3 + ("reduction", "contraction")

    def pattern(self) -> Any:
        pattern = self.pick([p for p in PATTERNS.values() if p.backward])
        found = pattern.build(_Host(self, pattern.at("tiny")))
        return found if isinstance(found, Value) or found is None else tuple(found)


class _Host(bench.Builder):
    """Builds a pattern onto the graph of ``host``, most of its operands made of values at hand."""

    def __init__(self, host: Builder, sizes: bench.Sizes) -> None:
        super().__init__(sizes)
        self.host, self.graph = host, host.graph

    def input(self, name: str, *shape: int | str, **drawn: Any) -> Value:
        return self._operand(name, shape, drawn, 0.7, "x")

    def parameter(self, name: str, *shape: int | str, trainable: bool = True, **drawn: Any) -> Value:
        return self._operand(name, shape, drawn, 0.2 if trainable else 0.0, "p")  # statistics are updated

    def _operand(self, name: str, shape: Sequence[int | str], drawn: dict[str, Any], chain: float, kind: str) -> Value:
        found = {"dtype": "float32", "low": None, "high": 1.0, "kind": "uniform", **drawn}
        draw = self._draw(name, shape, found["dtype"], found["low"], found["high"] or 1.0, found["kind"])
        if draw.dtype.is_float and (found["low"] or -1.0) < 0 and self.host.chance(chain):
            return self.host.adapted(self.host.floating(), draw.shape, draw.dtype)
        return self.host.leaf(draw(self.host.rng), kind)


KINDS = {kind.__name__.lower(): kind for kind in (Builder, Chains, Ones, Spliced)}


def draw(seed: int, dags: int = 10, largest: int = 400, kind: type[Builder] = Builder) -> Builder:
    """One program of several disjoint DAGs, and what is known of its numbers."""
    builder = kind(seed, largest)
    for i in range(dags):
        builder.dag(f"d{i}")
    read = {v.node.name for node in builder.graph.nodes for v in node.inputs} | {v.node.name for v in builder.graph.results()}
    for name in [n for n in builder.feeds if n not in builder.graph.sources or n not in read]:
        builder.feeds.pop(name)
    return builder
