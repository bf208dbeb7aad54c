"""Reductions on the cpu: one element of a row is read instead of summed, costly values are kept; never what was overwritten."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.schedule.kernel_ir import ReductionKernel
from graphrt.schedule.policy import ROW_LIMIT
from graphrt.targets.cpu import loop_ir
from graphrt.targets.target import parse


def chosen(x: grt.Value, position: grt.Value) -> grt.Value:
    """The element of each row of ``x`` at ``position``, 0 where that lies outside: as losses say it."""
    index = F.arange(x.graph, x.shape[-1])
    return F.sum(F.where(F.eq(index, F.unsqueeze(position, -1)), x, 0.0), -1)


@pytest.mark.parametrize("columns", [5, 64, 1000])
def test_a_chosen_element_is_read(columns: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, columns)).astype(np.float32)
    at = np.array([0, columns - 1, -1, columns, 2, 2])
    graph = grt.Graph()
    values, position = graph.input("x", x.shape), graph.input("at", (6,), "int64")
    graph.output("y", chosen(F.exp(values), position) + chosen(values, position))
    program = grt.compile(graph, target="cpu")
    expected = [np.exp(r[k]) + r[k] if 0 <= k < columns else 0 for r, k in zip(x.astype(np.float64), at, strict=True)]
    np.testing.assert_allclose(program(x=x, at=at)["y"], expected, rtol=1e-5)
    assert "for (int j" not in program.source(), "nothing is summed"


def test_nothing_is_read_after_it_was_overwritten(rng: np.random.Generator) -> None:
    start = rng.standard_normal((6, 64)).astype(np.float32)
    at = np.arange(6) * 7
    graph = grt.Graph()
    table, position = graph.parameter("table", start), graph.input("at", (6,), "int64")
    centred = table - F.amax(table, -1, keepdim=True)
    graph.output("y", chosen(centred, position))
    graph.update(table, centred)
    program = grt.compile(graph, target="cpu")
    expected = start - start.max(-1, keepdims=True)
    for _ in range(2):  # the largest is 0 from then on
        np.testing.assert_allclose(program(at=at)["y"], expected[np.arange(6), at], rtol=1e-6)


def test_costly_values_are_kept_for_the_next_pass(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 200)).astype(np.float32)
    graph = grt.Graph()
    graph.output("y", F.softmax(graph.input("x", x.shape), -1))
    program = grt.compile(graph, target="cpu")
    assert program.source().count("grt_exp_bounded(") == 1
    assert str(program.graph).count("= mul(") == 1, "shares are products with the reciprocal of the sum"
    powers = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(program(x=x)["y"], powers / powers.sum(-1, keepdims=True), rtol=1e-5)


def test_what_is_made_of_costly_values_is_kept_in_their_place(rng: np.random.Generator) -> None:
    """Later passes read the activation alone, not what it is made of."""
    graph = grt.Graph()
    graph.output("y", F.layer_norm(F.gelu(graph.input("x", (4, 200))), 200))
    source = grt.compile(graph, target="cpu").source()
    assert source.count("_row[OUTER * SIZE]") == source.count("erf(") == source.count("= buf.x[") == 1
    check(graph, {"x": rng.standard_normal((4, 200)).astype(np.float32)}, "cpu", 200)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("shape", [(2, 21, 7, 9), (3, 200, 70), (1, 256, 33), (2, 300, 40)])
def test_costly_values_of_columns_are_kept_if_there_is_room(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator
) -> None:
    """For 64 columns at least; the loss has exponentials of a row's, and one of the column's own."""
    graph = grt.Graph()
    x, rows = F.cast(graph.input("x", shape), dtype), graph.input("target", (shape[0], *shape[2:]), "int64")
    graph.output("shares", F.softmax(x, 1))
    loss = F.cross_entropy(x, rows)
    graph.output("dx", grt.grad(loss, [x])[0])
    program = grt.compile(graph, target="cpu")
    kept = "_row[REDUCED * LANES]" in program.source()
    assert kept == (shape[1] <= 256), "64 columns of 256 elements are as many as fit"
    feeds = {"x": rng.standard_normal(shape).astype(np.float32)}
    check(graph, feeds | {"target": rng.integers(0, shape[1], (shape[0], *shape[2:]))}, "cpu", shape[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool"])
@pytest.mark.parametrize("columns", [64, 257, 1300])
def test_results_written_past_the_caches(
    dtype: str, columns: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(loop_ir, "STREAM", 1)
    monkeypatch.setattr(loop_ir, "LINES", 1)
    x = rng.standard_normal((9, columns)).astype(np.float32)

    def built() -> grt.Program:
        graph = grt.Graph()
        values = graph.input("x", x.shape)
        likely = F.softmax(values, -1)
        graph.output("row", F.cast(F.ge(likely, 1e-3) if dtype == "bool" else likely, dtype))
        graph.output("point", F.cast(values[1:, 1:] * 2.0, dtype))  # starts at an odd address
        return grt.compile(graph, target="cpu")

    program = built()
    assert program.source().count("grt_stream(") == 2 and program.source().count("grt_fence()") == 2
    monkeypatch.undo()
    plain = built()
    assert "grt_stream(" not in plain.source()
    expected = plain(x=x)
    for name, value in program(x=x).items():
        np.testing.assert_array_equal(np.asarray(value).view(np.uint8), np.asarray(expected[name]).view(np.uint8))


def special_rows(columns: int, spread: float) -> np.ndarray:
    """Eight rows, the first of numbers, the others with infinities or NaN."""
    x = np.linspace(-spread, spread, 8 * columns, dtype=np.float32).reshape(8, columns)
    x[1], x[2, 0], x[3, 1], x[4, 2] = -np.inf, -np.inf, np.inf, np.nan
    x[5, -1], x[7, : columns // 2] = np.inf, -np.inf
    x[6, -1:].view(np.uint32)[:] = 0x7FC12345  # a NaN of another pattern
    return x


@pytest.mark.parametrize("columns", [3, 40, 1000])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_a_sum_of_bounded_exponentials(columns: int, spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results below the normal range are dropped, which such a sum cannot show; NaN and infinities are not.

    Long rows guess their maximum, which is right for those of the smaller spread.
    """
    monkeypatch.setattr(loop_ir, "FETCH", 1)
    monkeypatch.setattr(loop_ir, "LINES", 1)
    x = special_rows(columns, spread)
    graph = grt.Graph()
    values = graph.input("x", x.shape)
    graph.output("y", F.log(F.sum(F.exp(values - F.amax(values, -1, keepdim=True)), -1)))
    program = grt.compile(graph, target="cpu")
    assert "grt_exp_bounded(" in program.source() and "__builtin_prefetch(" in program.source()
    assert ("_guess" in program.source()) == (columns == 1000)
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
        expected = np.log(np.exp(wide - wide.max(-1, keepdims=True)).sum(-1))
    np.testing.assert_allclose(program(x=x)["y"], expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("spread", [1.0, 300.0])
@pytest.mark.parametrize("shown", ["shares", "powers", "sum"])
def test_shares_of_a_sum_of_exponentials(spread: float, shown: str) -> None:
    """A guessed maximum does for shares alone, not where the exponentials or quotients of others and their sum are seen."""
    x = special_rows(1000, spread)
    graph = grt.Graph()
    values = graph.input("x", x.shape)
    powers = F.exp(values - F.amax(values, -1, keepdim=True))
    total = F.sum(powers, -1, keepdim=True)
    graph.output("shares", powers / total)
    graph.output("total", total)
    if shown == "powers":
        graph.output("powers", powers)
    if shown == "sum":
        graph.output("values", values / total)
    program = grt.compile(graph, target="cpu")
    assert ("_guess" in program.source()) == (shown == "shares")
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
        exact = {"powers": np.exp(wide - wide.max(-1, keepdims=True))}
        exact["total"] = exact["powers"].sum(-1, keepdims=True)
        exact |= {"shares": exact["powers"] / exact["total"], "values": wide / exact["total"]}
    for name, found in program(x=x).items():
        np.testing.assert_allclose(found, exact[name], rtol=3e-6, atol=1e-37, err_msg=name)


@pytest.mark.parametrize("columns", [255, 256, 1000])
def test_shares_with_numerators_of_their_own(columns: int) -> None:
    """A guess cancels out of what is divided by the sum, whatever else is in the quotient; each alone in its kernel."""
    x, s = special_rows(columns, 1.0)[:1].repeat(3, 0), np.float32([[0.5], [3.0], [-1.0]])
    x = x + np.float32([[0.0], [1.0], [2.0]])
    wide = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True).astype(np.float64))
    total = wide.sum(-1, keepdims=True)
    forms: list[tuple[Callable[..., grt.Value], np.ndarray]] = [
        (lambda e, t, s: e * (s / t), wide * (s / total)),
        (lambda e, t, s: e * (1.0 / t) * s, wide / total * s),
        (lambda e, t, s: e / t + s / t, (wide + s) / total),
        (lambda e, t, s: e * (1.0 / t) + e * 0.5, wide / total + wide * 0.5),
        (lambda e, t, s: (e * e) * (1.0 / t), wide * wide / total),
    ]
    for number, (form, expected) in enumerate(forms):
        graph = grt.Graph()
        values, scale = graph.input("x", x.shape), graph.input("s", s.shape)
        powers = F.exp(values - F.amax(values, -1, keepdim=True))
        graph.output("y", form(powers, F.sum(powers, -1, keepdim=True), scale))
        found = grt.compile(graph, target="cpu")(x=x, s=s)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7, err_msg=f"form {number}")


def test_bounded_exponentials_are_within_two_ulp() -> None:
    """Over their normal range; results below it are 0, and so are those of minus infinity."""
    x = np.zeros((2, 100_001), np.float32)  # the largest is 0
    x[0, 1:], x[1, 1:] = np.linspace(-87.3, 0, 100_000), np.linspace(-200, -87.4, 100_000)
    x[1, 1] = -np.inf
    graph = grt.Graph()
    values = graph.input("x", x.shape)
    powers = F.exp(values - F.amax(values, -1, keepdim=True))
    graph.output("y", powers)
    graph.output("shares", powers / F.sum(powers, -1, keepdim=True))
    program = grt.compile(graph, target="cpu")
    assert "grt_exp_bounded(" in program.source()
    found, exact = program(x=x), np.exp(x.astype(np.float64))
    assert (np.abs(found["y"][0] - exact[0]) / np.spacing(exact[0].astype(np.float32))).max() <= 2
    np.testing.assert_array_equal(found["y"][1], x[1] == 0)
    np.testing.assert_allclose(found["shares"][0], exact[0] / exact[0].sum(), rtol=2e-6, atol=1e-38)


def test_exponentials_of_what_belongs_to_the_row(rng: np.random.Generator) -> None:
    """Neither the row's value nor what its maximum is taken of is made in a pass."""
    x = rng.standard_normal((6, 64)).astype(np.float32)
    graph = grt.Graph()
    values = graph.input("x", x.shape)
    spread = F.expand(F.mean(values, -1, keepdim=True), x.shape)
    graph.output("below", F.sum(F.exp(spread - F.amax(values, -1, keepdim=True)), -1))
    graph.output("above", F.sum(F.exp(values + 90.0 - F.amax(spread, -1, keepdim=True)), -1))
    wide = x.astype(np.float64)
    mean, found = wide.mean(-1), grt.compile(graph, target="cpu")(x=x)
    np.testing.assert_allclose(found["below"], 64 * np.exp(mean - wide.max(-1)), rtol=1e-5)
    with np.errstate(over="ignore"):
        expected = np.exp(wide + 90 - mean[:, None]).sum(-1).astype(np.float32)
    np.testing.assert_allclose(found["above"], expected, rtol=1e-4)


@pytest.mark.parametrize("op", [F.amax, F.amin])
@pytest.mark.parametrize("columns", [7, 33, 200])
def test_extrema_of_rows_find_nan(op: Callable[..., grt.Value], columns: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal((columns + 1, columns)).astype(np.float32)
    x[np.arange(columns), np.arange(columns)] = np.nan
    x[columns] = -np.inf if op is F.amax else np.inf
    graph = grt.Graph()
    graph.output("y", op(graph.input("x", x.shape), -1))
    expected = (np.max if op is F.amax else np.min)(x, -1)
    np.testing.assert_array_equal(grt.compile(graph, target="cpu")(x=x)["y"], expected)


@pytest.mark.parametrize("shape", [(4, 1), (1, 1), (2, 1, 3)])
def test_axes_of_length_one(shape: tuple[int, ...], target: str, rng: np.random.Generator) -> None:
    """Reductions, losses and what is chosen along an axis that has one element."""
    graph = grt.Graph()
    x, target_class = graph.input("x", shape), graph.input("target", (shape[0], *shape[2:]), "int64")
    loss = F.nll_loss(F.log_softmax(x, 1), target_class)
    graph.output("loss", loss)
    graph.output("dx", grt.grad(loss, [x])[0])
    graph.output("chosen", F.sum(F.where(F.eq(F.arange(graph, 1), F.unsqueeze(F.amax(target_class), -1)), x[..., :1], 0.0), -1))
    for d in range(len(shape)):
        for f in (F.sum, F.amax, F.prod, F.argmax, F.logsumexp, F.softmax, F.cumsum):
            graph.output(f"{f.__name__}{d}", f(x * 2.0, d))
    check(graph, {"x": rng.standard_normal(shape).astype(np.float32), "target": np.zeros((shape[0], *shape[2:]), int)}, target)


def test_short_rows_whose_extreme_is_looked_for_are_not_in_vectors() -> None:
    def hinted(columns: int) -> bool:
        g = grt.Graph()
        g.output("y", F.amax(g.input("x", (6, columns)), 1))
        return "omp simd reduction" in grt.compile(g, target="cpu").source()

    assert [hinted(n) for n in (2 * loop_ir.VECTOR - 1, 2 * loop_ir.VECTOR)] == [False, True]


@pytest.mark.parametrize(("dim", "most"), [(1, ROW_LIMIT), (0, ROW_LIMIT // 32)])
def test_rows_are_held_on_chip_as_long_as_they_fit(dim: int, most: int) -> None:
    """Of columns some must fit side by side, or what is loaded together goes to waste."""

    def held(size: int) -> bool:
        g = grt.Graph()
        g.output("y", F.softmax(g.input("x", (64, size) if dim else (size, 64)), dim))
        lowering = lower_graph(g, parse("null"), {})
        kernels = [k for launch in lowering.kernels for k in launch if isinstance(k, ReductionKernel)]
        assert kernels[0].columns == (dim == 0)
        return len(kernels) == 1 and kernels[0].whole  # longer rows are split

    assert held(most) and not held(most + 1)
