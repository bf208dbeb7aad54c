"""A pattern of fusion, and the builder of its graph.

A pattern is a few operations of real networks between which something should fuse, with its sizes and the same in torch:

    Pattern(name, build, sizes) -- graph(pattern, "small") --> Graph with outputs y0, y1, ...;   with backward also "d x", "d w"

A ``Builder`` makes the graph's inputs and parameters and remembers how their numbers are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.optim import Optimizer
from graphrt.types import DType, as_dtype

FAMILIES = ("conv", "linear", "norm", "softmax", "loss", "attention", "recurrent", "optimizer", "elementwise")
SIZES = ("tiny", "small", "large")
Sizes = Mapping[str, int]
Results = Value | Sequence[Value] | None


@dataclass(frozen=True)
class Pattern:
    """Operations that should fuse. ``about`` says in one line what is computed, and what should become one kernel.

    ``build`` makes the graph with a ``Builder`` and returns the results, None where there are only updates. ``sizes`` gives
    each size by name as a triple: tiny, odd numbers for tests; small, so that a forward run takes a CPU's core 0.1 to 5 ms;
    large, batch and channels of real networks, for a GPU. ``backward`` says whether a gradient is of interest. ``peer`` is the
    same in eager torch: ``peer(sizes, *tensors)``, the tensors in the order of ``Builder.operands``, returns the results, or
    the new values of the parameters that the pattern updates; it may write into its tensors.
    """

    name: str
    family: str
    about: str
    build: Callable[[Builder], Results]
    sizes: Mapping[str, tuple[int, int, int]]
    peer: Callable[..., Any] | None = None
    backward: bool = True

    def at(self, size: str) -> dict[str, int]:
        """The sizes by name at "tiny", "small" or "large". Raises ArgumentError for any other ``size``."""
        if size not in SIZES:
            raise ArgumentError(f"a size is {', '.join(SIZES)}, got {size!r}")
        return {name: triple[SIZES.index(size)] for name, triple in self.sizes.items()}

    @property
    def small(self) -> dict[str, int]:
        """The sizes for a CPU."""
        return self.at("small")

    @property
    def large(self) -> dict[str, int]:
        """The sizes for a GPU."""
        return self.at("large")


@dataclass(frozen=True)
class _Draw:
    """How the numbers of a tensor are drawn: in [low, high), with mean 0 and variance 1, or, of bool, True or False."""

    shape: tuple[int, ...]
    dtype: DType
    low: float
    high: float
    kind: str

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        if self.dtype.is_bool:
            return rng.integers(0, 2, self.shape).astype(np.bool_)
        if self.dtype.is_int:
            return rng.integers(int(self.low), int(self.high), self.shape, dtype=self.dtype.numpy)
        if self.kind == "normal":
            return np.asarray(rng.standard_normal(self.shape, np.float32)).astype(self.dtype.numpy)
        spread = np.float32(self.high - self.low)
        return np.asarray(rng.random(self.shape, np.float32) * spread + np.float32(self.low)).astype(self.dtype.numpy)


class Builder:
    """Makes the ``graph`` of a pattern at ``sizes``; ``b["n"]`` is a size. ``seed`` is that of the parameters' first values."""

    def __init__(self, sizes: Sizes, seed: int = 0) -> None:
        self.sizes = dict(sizes)
        self.graph = Graph()
        self.wrt: dict[str, Value] = {}  # what the backward pass differentiates by
        self._operands: list[str] = []
        self._draws: dict[str, _Draw] = {}
        self._rng = np.random.default_rng(seed)

    def __getitem__(self, size: str) -> int:
        return self.sizes[size]

    def input(
        self,
        name: str,
        *shape: int | str,
        dtype: str = "float32",
        low: float | None = None,
        high: float = 1.0,
        kind: str = "uniform",
        differentiable: bool = True,
    ) -> Value:
        """An input whose ``shape`` is of numbers and names of sizes.

        Its numbers are drawn from [low, high), where ``low`` is -1 for floats and 0 for integers unless given, or with ``kind``
        "normal" with mean 0 and variance 1. One that is not ``differentiable`` gets no gradient. Raises ArgumentError.
        """
        draw = self._draw(name, shape, dtype, low, high, kind)
        self._operands.append(name)
        return self._fed(name, draw, differentiable)

    def parameter(
        self,
        name: str,
        *shape: int | str,
        dtype: str = "float32",
        low: float | None = None,
        high: float | None = None,
        kind: str = "uniform",
        trainable: bool = True,
    ) -> Value:
        """A parameter, drawn as an ``input`` is, but within one over the root of its inputs' number if it is a weight matrix.

        ``trainable`` False is for what has no gradient. Raises ArgumentError.
        """
        bound = 1.0
        if high is None and len(shape) > 1:
            bound = 1.0 / math.sqrt(math.prod(self._shape(shape[1:])))
            low = -bound if low is None else low
        draw = self._draw(name, shape, dtype, low, bound if high is None else high, kind)
        value = self.graph.parameter(name, draw(self._rng), trainable=trainable)
        self._operands.append(name)
        if trainable and value.dtype.is_float:
            self.wrt[name] = value
        return value

    def step(self, optimizer: Optimizer, parameters: Sequence[Value], gradients: Sequence[Value]) -> None:
        """Updates ``parameters`` by ``optimizer``, at its learning rate; the state that it makes joins the operands."""
        optimizer.apply(parameters, gradients, self.graph.constant(optimizer.lr, "float32"))
        new = (v.node.name for v in self.graph.parameters(trainable=False))
        self._operands += [name for name in new if name not in self._operands]

    def differentiate(self, results: Sequence[Value]) -> None:
        """Adds an output "d NAME" for each of ``wrt``: the gradient of the sum of ``results`` times random inputs dy0, dy1, ...

        A result that is a number is its own loss, so its dy is 1; one that is of integers takes no part.
        """
        floats = [(i, y) for i, y in enumerate(results) if y.dtype.is_float]
        dys = [
            self.graph.constant(1.0, y.dtype)
            if y.shape == ()
            else self._fed(f"dy{i}", _Draw(y.shape, y.dtype, -1.0, 1.0, "uniform"), False)
            for i, y in floats
        ]
        loss, dy = floats[0][1], dys[0]
        if len(floats) > 1:
            parts = [F.sum(y * d) for (_, y), d in zip(floats, dys, strict=True)]
            loss, dy = parts[0], self.graph.constant(1.0, loss.dtype)
            for part in parts[1:]:
                loss = loss + part
        for name, g in zip(self.wrt, grad(loss, [*self.wrt.values()], dy), strict=True):
            self.graph.output(f"d {name}", g)

    def feeds(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random numbers for each input of the graph, those of the backward pass among them."""
        return {name: draw(rng) for name, draw in self._draws.items()}

    def operands(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arguments of ``Pattern.peer``: inputs from ``feeds`` and copies of parameters' first values.

        They are in the order in which they were made, and at the end an optimizer's state.
        """
        return {name: feeds[name] if name in feeds else self.graph.initial[name].copy() for name in self._operands}

    @property
    def random(self) -> bool:
        """Whether the pattern draws random numbers, so that torch's results differ."""
        return "rng.counter" in self.graph.sources

    def _shape(self, shape: Sequence[int | str]) -> tuple[int, ...]:
        return tuple(n if isinstance(n, int) else self.sizes[n] for n in shape)

    def _draw(self, name: str, shape: Sequence[int | str], dtype: str, low: float | None, high: float, kind: str) -> _Draw:
        found = as_dtype(dtype)
        low = (-1.0 if found.is_float else 0.0) if low is None else low
        if kind not in ("uniform", "normal"):
            raise ArgumentError(f"{name}: kind is uniform or normal, got {kind!r}")
        if not low < high:
            raise ArgumentError(f"{name} is drawn from [low, high), got [{low}, {high})")
        return _Draw(self._shape(shape), found, low, high, kind)

    def _fed(self, name: str, draw: _Draw, differentiable: bool) -> Value:
        value = self.graph.input(name, draw.shape, draw.dtype)
        self._draws[name] = draw
        if differentiable and value.dtype.is_float:
            self.wrt[name] = value
        return value


def graph(pattern: Pattern, size: str = "small", backward: bool = False) -> tuple[Graph, Builder]:
    """The graph of ``pattern`` at ``size``, and its builder, which draws the feeds.

    Results are the outputs y0, y1, ...; with ``backward`` the gradients of trainable parameters and of inputs are the outputs
    "d NAME". Raises ArgumentError for another size, and for ``backward`` of a pattern that has no gradient.
    """
    if backward and not pattern.backward:
        raise ArgumentError(f"{pattern.name} has no backward pass")
    b = Builder(pattern.at(size))
    built = pattern.build(b)
    results = [] if built is None else [built] if isinstance(built, Value) else [*built]
    for i, y in enumerate(results):
        b.graph.output(f"y{i}", y)
    if backward:
        b.differentiate(results)
    return b.graph, b
