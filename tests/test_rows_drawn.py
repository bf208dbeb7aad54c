"""Kernels of rows, drawn: several reductions, several uses of each, numerators, second rows, kept values, elements chosen.

Whatever ``targets/cpu/rows.py`` makes of a kernel computes what the kernel says: compared with the same program without these
rewrites, and with the float64 reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.cpu import generated
from graphrt.targets.reference import evaluate

ROWS = 7
LENGTHS = (1, 2, 15, 16, 17, 255, 256, 257, 512, 1000, 1300, 20000)  # around vectors, guesses, blocks; longer than what is kept
Draw = Callable[[Any], Any]


@dataclass
class Builder:
    """A graph that grows: ``full`` values have a row's elements, ``row`` values one number for each; all are of moderate size."""

    draw: Draw
    length: int
    graph: grt.Graph = field(default_factory=grt.Graph)
    full: list[grt.Value] = field(default_factory=list)
    row: list[grt.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.full += [self.graph.input(name, (ROWS, self.length)) for name in ("x", "z")]
        self.row.append(self.graph.input("s", (ROWS, 1)))
        self.at = self.graph.input("at", (ROWS,), "int64")

    def a(self, values: list[grt.Value]) -> grt.Value:
        return values[self.draw(st.integers(0, len(values) - 1))]

    def step(self) -> None:
        v, r = self.a(self.full), self.a(self.row)
        find = getattr(self, self.draw(st.sampled_from(STEPS)))
        y = find(v, r)
        (self.full if y.shape[1] == self.length and self.length > 1 else self.row).append(y)
        if self.length == 1:
            self.full.append(y)

    def powers(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.exp(v - F.amax(v, 1, keepdim=True))

    def powers_of_the_values_of_max(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.exp(v - F.max(v, 1, keepdim=True)[0])

    def softmax(self, v: grt.Value, r: grt.Value) -> grt.Value:
        e = F.exp(v - F.amax(v, 1, keepdim=True))
        total = F.sum(e, 1, keepdim=True)
        self.full.append(e)
        self.row.append(F.log(total))
        return self.draw(st.sampled_from([lambda: e / total, lambda: e * (1.0 / total), lambda: e * (r / total), lambda: v / total]))()

    def log_softmax(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.log_softmax(v, 1)

    def tanh(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.tanh(v)

    def scaled(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return v * self.draw(st.sampled_from([0.5, -1.0, 0.0, -0.0]))

    def signed_zero(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.tanh(1.0 / (v * 0.0 + self.draw(st.sampled_from([0.0, -0.0]))))

    def shifted(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return v - r

    def over(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return v / (F.abs(r) + 0.5)

    def times(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return v * F.tanh(self.a(self.full))

    def mean(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.mean(v, 1, keepdim=True)

    def most(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.amax(v, 1, keepdim=True)

    def least(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.min(v, 1, keepdim=True)[0]

    def total(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.sum(v, 1, keepdim=True) * (1.0 / self.length)

    def chosen(self, v: grt.Value, r: grt.Value) -> grt.Value:
        index = F.arange(self.graph, self.length)
        return F.sum(F.where(F.eq(index, F.unsqueeze(self.at, 1)), v, 0.0), 1, keepdim=True)

    def row_only(self, v: grt.Value, r: grt.Value) -> grt.Value:
        return F.log(F.abs(r) + 1.0)


STEPS = [name for name in vars(Builder) if not name.startswith("_") and name not in ("step", "a", "draw", "length")]
STEPS = [name for name in STEPS if callable(getattr(Builder, name, None))]


def numbers(draw: Draw, length: int) -> dict[str, np.ndarray]:
    """Rows of numbers, then one with a NaN, an infinity, nothing but -inf, a large spread, equal numbers, one far above."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((ROWS, length)).astype(np.float32)
    x[1, rng.integers(length)] = np.nan
    x[2, rng.integers(length)] = draw(st.sampled_from([np.inf, -np.inf]))
    x[3] = -np.inf
    x[4] = rng.uniform(-80, 80, length)
    x[5] = 0.5
    x[6, -1] = draw(st.sampled_from([3.0, 9.0, 60.0]))
    z, s = rng.standard_normal((ROWS, length)).astype(np.float32), rng.standard_normal((ROWS, 1)).astype(np.float32)
    return {"x": x, "z": z, "s": s, "at": rng.integers(-1, length + 1, ROWS)}


def plainly(graph: grt.Graph) -> grt.Program:
    """``graph`` compiled without the rewrites of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generated, "bounded", lambda kernel: kernel)
        patch.setattr(generated, "choose", lambda kernel: kernel)
        patch.setattr(generated, "keep", lambda kernel: (kernel, []))
        patch.setattr(generated, "guessed", lambda passes, kept: None)
        program = grt.compile(graph, target="cpu")
        program.source()
        return program


@settings(max_examples=20)
@given(st.data())
def test_rewritten_rows_compute_what_they_did(data: st.DataObject) -> None:
    length = data.draw(st.sampled_from(LENGTHS))
    built = Builder(data.draw, length)
    for _ in range(data.draw(st.integers(2, 9))):
        built.step()
    graph, values = built.graph, [*built.full[2:], *built.row[1:]]
    for i in sorted(data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=4))) if values else []:
        graph.output(f"y{i}", values[i])
    feeds = numbers(data.draw, length)
    found, plain, exact = grt.compile(graph, target="cpu")(feeds), plainly(graph)(feeds), evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        wide = exact[v].astype(np.float64)
        ordinary = np.isfinite(wide[[0, 4, 5, 6]])
        assert ordinary.all(), "numbers stay numbers"
        scale = max(1.0, float(np.abs(wide[[0, 4, 5, 6]]).max(initial=0)))
        close = {"rtol": 1e-4, "atol": 2e-5 * scale}
        np.testing.assert_allclose(found[name], plain[name], **close, err_msg=f"{name}, without rewrites\n{graph}")
        np.testing.assert_allclose(found[name], wide, **close, err_msg=f"{name}, exactly\n{graph}")
    assert math.prod(graph.nodes[0].types[0].shape) == ROWS * length
