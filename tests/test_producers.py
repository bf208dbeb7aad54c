"""Elementwise kernels that become part of a reduction which reads them at its own elements, and those that cannot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import INTERPRETED, assert_close, check

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.schedule.cost import launch_cost
from graphrt.targets.target import parse

ROWS, COLUMNS = 48, 64
Case = Callable[[grt.Value], dict[str, grt.Value]]


def stored_for_columns(x: grt.Value) -> dict[str, grt.Value]:
    e = F.exp(x)  # too dear for both to compute it
    return {"rows": F.sum(e, 1), "columns": F.sum(e * e, 0)}


def of_other_rows(x: grt.Value) -> dict[str, grt.Value]:
    """The sums see what is computed as rows of another length, so the same elements by another index."""
    e = F.exp(x)
    return {"parts": F.sum(F.reshape(e, (ROWS // 2, 2 * COLUMNS)), 1), "columns": F.sum(e, 0)}


def returned(x: grt.Value) -> dict[str, grt.Value]:
    """A result that is stored in any case, computed in front of two sums of it."""
    y = F.tanh(x) + 1.0
    return {"y": y, "rows": F.sum(y, 1), "columns": F.sum(y, 0)}


def through_an_operation(x: grt.Value) -> dict[str, grt.Value]:
    """What the sums compute on load reads it at their own elements."""
    e = F.exp(x)
    return {"rows": F.sum(F.neg(e) * x, 1), "columns": F.sum(F.neg(e), 0)}


def of_a_column(x: grt.Value) -> dict[str, grt.Value]:
    """Dimensions of one element are nowhere in an index."""
    e = F.exp(F.reshape(x, (ROWS, 1, COLUMNS)))
    return {"rows": F.sum(e, 2), "columns": F.sum(e, 0)}


@pytest.mark.parametrize("case", [stored_for_columns, of_other_rows, returned, through_an_operation, of_a_column])
def test_a_reduction_computes_what_it_reads_for_others_too(case: Case, target: str, rng: np.random.Generator) -> None:
    g = built(case, (ROWS, COLUMNS))
    check(g, {"x": rng.uniform(-1, 1, (ROWS, COLUMNS)).astype(np.float32)}, target, length=ROWS * COLUMNS)
    lowering = lower_graph(g, parse("cpu"), {})
    assert all(group.kind == "reduction" for group in lowering.schedule.groups())  # type: ignore[union-attr]
    size, small = 4 * ROWS * COLUMNS, [v.type.nbytes for v in g.results() if v.shape != (ROWS, COLUMNS)]
    assert sum(c.bytes for c in lowering.costs) == 3 * size + sum(small)  # x read, what is made of it stored, and read once


def transposed(x: grt.Value) -> dict[str, grt.Value]:
    """Each sum reads two elements for one of its own."""
    e = F.exp(x)
    return {"rows": F.sum(e + F.permute(e, (1, 0)), 1), "columns": F.sum(e - F.permute(e, (1, 0)) * x, 0)}


def waits(x: grt.Value) -> dict[str, grt.Value]:
    """The sum of rows, which reads at its own elements, waits for the other sum, which does not."""
    e = F.exp(x)
    return {"rows": F.sum(e * F.matmul(F.sum(e + F.permute(e, (1, 0)), 0, keepdim=True), x), 1)}


def window(x: grt.Value) -> dict[str, grt.Value]:
    """As many elements are read as there are, but not each once."""
    e, half = F.exp(x), COLUMNS // 2
    twice = F.reshape(F.broadcast_to(F.reshape(e[:, :half], (COLUMNS, 1, half)), (COLUMNS, 2, half)), (COLUMNS, COLUMNS))
    return {"rows": F.sum(twice * x, 1), "others": F.sum(twice - x, 0), "y": e}


@pytest.mark.parametrize("case", [transposed, waits, window])
def test_what_it_reads_elsewhere_or_waits_for_it_does_not(case: Case, target: str, rng: np.random.Generator) -> None:
    g = built(case, (COLUMNS, COLUMNS))
    check(g, {"x": rng.uniform(-1, 1, (COLUMNS, COLUMNS)).astype(np.float32)}, target, length=COLUMNS * COLUMNS)
    groups = lower_graph(g, parse("cpu"), {}).schedule.groups()  # type: ignore[union-attr]
    assert [n.name for group in groups if group.kind == "pointwise" for n in group.nodes] == ["exp_0"]


def test_an_update_is_not_stored_over_what_a_later_pass_reads(target: str, rng: np.random.Generator) -> None:
    """The variance of the rows of a new parameter, which is stored over the old one, takes two passes."""
    g = grt.Graph()
    w = g.parameter("w", rng.uniform(-1, 1, (ROWS, COLUMNS)).astype(np.float32))
    new = w - F.exp(w) * 0.1
    g.update(w, new)
    g.output("spread", F.var(new, 1))
    g.output("columns", F.sum(new, 0))
    check(g, {}, target, length=ROWS * COLUMNS)


def test_it_is_a_decision_that_can_be_forbidden() -> None:
    g = built(stored_for_columns, (ROWS, COLUMNS))
    (found,) = [d for d in grt.compile(g, target="cpu").explain().why("exp_0", "reduce_0") if d.taken]
    assert found.stage == "inline" and found.reason == "same element, stored for others along the way" and found.saved > 0
    apart = grt.compile(g, target="cpu", forbid=[("exp_0", "reduce_0"), ("exp_0", "reduce_1")])
    assert "pointwise[exp_0]" in apart.plan_text()


def built(case: Case, shape: tuple[int, int]) -> grt.Graph:
    g = grt.Graph()
    for name, v in case(g.input("x", shape)).items():
        g.output(name, v)
    return g


def test_the_gradient_of_a_loss_is_stored_beside_the_loss(target: str, rng: np.random.Generator) -> None:
    """Both read the same elements, and neither waits for the other."""
    g = grt.Graph()
    x, y = (g.input(name, (96, 40)) for name in "xy")
    loss = g.output("loss", F.mse_loss(x, y))
    g.output("d x", grt.grad(loss, [x])[0])
    check(g, {name: rng.standard_normal((96, 40)).astype(np.float32) for name in "xy"}, target, 96 * 40)
    program = grt.compile(g, target=target)
    moved = sum(launch_cost(kernels).bytes for kernels in program.kernel_ir)
    assert moved < 3.2 * x.type.nbytes, "x, y and the gradient"


def test_what_reads_the_same_and_waits_is_a_kernel_of_its_own(target: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    x = g.input("x", (8, 12, 40))
    total = F.sum(F.sin(x), (0, 2), keepdim=True)
    g.output("total", total)
    g.output("y", F.cos(x) * F.sum(total, 1, keepdim=True))
    check(g, {"x": rng.standard_normal(x.shape).astype(np.float32)}, target, 480)


def test_long_rows_that_are_read_once_store_too() -> None:
    """The loss of many elements is summed from parts, on a GPU of more elements each than a program holds."""
    g = grt.Graph()
    x, y = (g.input(name, (16384, 2048)) for name in "xy")
    loss = g.output("loss", F.mse_loss(x, y))
    g.output("d x", grt.grad(loss, [x])[0])
    lowered = lower_graph(g, parse("interpret" if INTERPRETED else "cuda:sm_90"), {})
    assert sum(cost.bytes for cost in lowered.costs) < 3.01 * x.type.nbytes


def test_rows_that_no_program_holds_store_block_by_block(target: str, rng: np.random.Generator) -> None:
    g = built(lambda x: {"y": F.tanh(x) + 1.0, "rows": F.sum(F.tanh(x) + 1.0, 1)}, (2, 40_000))
    x = rng.uniform(-1, 1, (2, 40_000)).astype(np.float32)
    found = grt.compile(g, target=target, fusion="-split")(x=x)
    y = np.tanh(x.astype(np.float64)) + 1.0
    assert_close(found["y"], y)
    assert_close(found["rows"], y.sum(1), 40_000)
    if not INTERPRETED:
        assert "for start in range(0, 40000" in grt.compile(g, target="cuda:sm_90", fusion="-split").source()
