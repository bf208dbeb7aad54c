"""Kernels of rows, drawn: several reductions, several uses of each, numerators, second rows, kept values, elements chosen.

Whatever ``targets/cpu/reduction_rewrites.py`` makes of a kernel computes what the kernel says: compared with the same program
without these rewrites, and with the float64 reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import examples
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.cpu import loop_ir
from graphrt.targets.reference.evaluate import evaluate

ROWS = 7
LENGTHS = (1, 2, 15, 16, 17, 255, 256, 257, 512, 1000, 1300, 20000)  # around vectors, guesses, blocks; longer than what is kept
Draw = Callable[[Any], Any]
Step = Callable[["Builder", grt.Value, grt.Value], grt.Value]


@dataclass
class Builder:
    """A graph that grows: ``full`` values have a row's elements, ``row`` values one number for each; none becomes large."""

    draw: Draw
    length: int
    graph: grt.Graph = field(default_factory=grt.Graph)
    full: list[grt.Value] = field(default_factory=list)
    row: list[grt.Value] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.full += [self.graph.input(name, (ROWS, self.length)) for name in ("x", "z")]
        self.row.append(self.graph.input("s", (ROWS, 1)))
        self.at = self.graph.input("at", (ROWS, 1), "int64")

    def one_of(self, choices: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(choices))

    def step(self) -> None:
        """One more value of each kind."""
        v, r = self.one_of(self.full), self.one_of(self.row)
        if self.draw(st.booleans()):
            self.full.append(self.one_of(FULL)(self, v, r))
        else:
            self.row.append(self.one_of(ROW)(self, v, r))


def most(v: grt.Value) -> grt.Value:
    return F.amax(v, 1, keepdim=True)


def shares(b: Builder, v: grt.Value, r: grt.Value) -> grt.Value:
    """A softmax as people write it; the exponentials and their sum stay there to be used again."""
    powers = F.exp(v - most(v))
    total = F.sum(powers, 1, keepdim=True)
    b.full.append(powers)
    b.row.append(F.log(total))
    return b.one_of([powers / total, powers * (1.0 / total), powers * (r / total), v / total])


def chosen(b: Builder, v: grt.Value, r: grt.Value) -> grt.Value:
    """The element at a position, as losses say it."""
    index = F.arange(b.graph, b.length)
    return F.sum(F.where(F.eq(index, b.at), v, b.one_of([0.0, -0.0])), 1, keepdim=True)


FULL: list[Step] = [
    shares,
    lambda b, v, r: F.exp(v - most(v)),
    lambda b, v, r: F.exp(v - F.max(v, 1, keepdim=True)[0]),
    lambda b, v, r: F.log_softmax(v, 1),
    lambda b, v, r: F.tanh(v),
    lambda b, v, r: v * b.one_of([0.5, -1.0, 0.0, -0.0]),
    lambda b, v, r: F.tanh(1.0 / (F.abs(v * 0.0) * b.one_of([1.0, -1.0]))),  # of both zeros
    lambda b, v, r: v - r,
    lambda b, v, r: v / (F.abs(r) + 0.5),
    lambda b, v, r: v * F.tanh(b.one_of(b.full)),
]
ROW: list[Step] = [
    chosen,
    lambda b, v, r: most(v),
    lambda b, v, r: F.min(v, 1, keepdim=True)[0],
    lambda b, v, r: F.mean(v, 1, keepdim=True),
    lambda b, v, r: F.sum(v * F.tanh(b.one_of(b.full)), 1, keepdim=True) * (1.0 / b.length),
    lambda b, v, r: F.logsumexp(v, 1, keepdim=True),
    lambda b, v, r: F.log(F.abs(r) + 1.0),
]


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
    return {"x": x, "z": z, "s": s, "at": rng.integers(-1, length + 1, (ROWS, 1))}


def plainly(graph: grt.Graph) -> grt.Program:
    """``graph`` compiled without the rewrites of rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_ir, "bound_exponentials", lambda kernel: kernel)
        patch.setattr(loop_ir, "read_chosen", lambda kernel: kernel)
        patch.setattr(loop_ir, "keep_costly", lambda kernel, beside=0: (kernel, []))
        patch.setattr(loop_ir, "guess_maximum", lambda passes, kept: None)
        program = grt.compile(graph, target="cpu")
        program.source()
        return program


@settings(max_examples=examples(15))
@given(st.data())
def test_rewritten_rows_compute_what_they_did(data: st.DataObject) -> None:
    built = Builder(data.draw, data.draw(st.sampled_from(LENGTHS)))
    if data.draw(st.booleans()):
        built.full.append(shares(built, built.full[0], built.row[0]))
    for _ in range(data.draw(st.integers(1, 6))):
        built.step()
    graph, values = built.graph, [*built.full[2:], *built.row[1:]]
    for i in data.draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=4)):
        graph.output(f"y{i}", values[i])
    feeds = numbers(data.draw, built.length)
    found, plain, exact = grt.compile(graph, target="cpu")(feeds), plainly(graph)(feeds), evaluate(graph, feeds)
    text = str(graph)
    for name, v in graph.outputs.items():
        scale = np.abs(exact[v][np.isfinite(exact[v])]).max(initial=1.0)
        close = {"rtol": 1e-4, "atol": 2e-5 * scale, "err_msg": f"{name}\n{text}"}
        np.testing.assert_allclose(found[name], exact[v], **close)
        np.testing.assert_allclose(found[name], plain[name], **close)
