"""A kernel that has rows at hand adds up their columns: gradients of scales, shifts and biases read no rows of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import check, examples, target_parameters
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import ops as F
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.group import Group

Build = Callable[[grt.Graph, grt.Value], grt.Value]


def _parameter(g: grt.Graph, name: str, size: int) -> grt.Value:
    return g.parameter(name, np.random.default_rng(size).random(size).astype(np.float32) + 0.5)


def layer_norm(g: grt.Graph, x: grt.Value) -> grt.Value:
    return F.layer_norm(x, x.shape[-1], *(_parameter(g, n, x.shape[-1]) for n in ("gamma", "beta")))


def rms_norm(g: grt.Graph, x: grt.Value) -> grt.Value:
    return F.rms_norm(x, x.shape[-1], _parameter(g, "gamma", x.shape[-1]), 1e-6)


def biased_softmax(g: grt.Graph, x: grt.Value) -> grt.Value:
    return F.softmax(x + _parameter(g, "bias", x.shape[-1]), -1)


def dropped(g: grt.Graph, x: grt.Value) -> grt.Value:
    return layer_norm(g, F.dropout(x, 0.2))


def step(build: Build, shape: tuple[int, ...], dtype: str = "float32") -> grt.Graph:
    """``build`` of x, and the gradients of all it is made of."""
    g = grt.Graph()
    x = g.input("x", shape, dtype)
    y = g.output("y", build(g, x))
    wrt = [x, *g.parameters()]
    for v, d in zip(wrt, grt.grad(y, wrt, g.input("dy", y.shape, y.dtype.name)), strict=True):
        g.output(f"d {v.node.name}", d)
    return g


def feeds(g: grt.Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    drawn = {n: rng.standard_normal(g.sources[n].types[0].shape) for n in ("x", "dy", "rows", "other") if n in g.sources}
    return {n: array.astype(g.sources[n].types[0].dtype.numpy) for n, array in drawn.items()}


def adding(program: grt.Program) -> list[Group]:
    """The kernels that reduce rows and add up their columns."""
    assert program.schedule is not None
    return [g for g in program.schedule.groups() if g.kind == "reduction" and g.segments]


def moved(program: grt.Program) -> int:
    return sum(launch_cost(kernels).bytes for kernels in program.kernel_ir)


@pytest.mark.parametrize("build", [layer_norm, rms_norm, biased_softmax, dropped])
def test_rows_are_read_once_for_their_columns_too(build: Build, target: str, rng: np.random.Generator) -> None:
    g = step(build, (128, 160))
    check(g, feeds(g, rng), target, 128 * 160)
    program = grt.compile(g, target=target)
    assert len(adding(program)) == 1 and program.launches == 2
    whole = 128 * 160 * 4
    assert moved(program) < 4 * whole + whole, "x, dy, y, dx, and what is small"
    (group,) = adding(program)
    said = "\n".join(map(str, program.explain().why(next(iter(group.segments)).name, group.label)))
    assert "adds up the columns of the same rows" in said


@pytest.mark.parametrize("target", target_parameters())
@settings(max_examples=examples(12))
@given(
    st.sampled_from([layer_norm, rms_norm, biased_softmax, dropped]),
    st.sampled_from([(64, 272), (8, 24, 130), (96, 255), (3, 5, 8, 200), (200, 101)]),
    st.integers(0, 1 << 30),
)
def test_any_rows_and_columns(target: str, build: Build, shape: tuple[int, ...], seed: int) -> None:
    g = step(build, shape)
    check(g, feeds(g, np.random.default_rng(seed)), target, int(np.prod(shape)))


def test_halves_are_added_up_in_float32(target: str, rng: np.random.Generator) -> None:
    g = step(layer_norm, (128, 160), "float16")
    check(g, feeds(g, rng), target, 128 * 160)


def test_rows_and_columns_of_one_tensor_are_read_once(target: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    x = g.input("x", (128, 160))
    g.output("rows", F.sum(x, 1))
    g.output("columns", F.sum(x, 0))
    check(g, feeds(g, rng), target, 128 * 160)
    program = grt.compile(g, target=target)
    assert len(adding(program)) == 1
    assert moved(program) < 1.3 * x.type.nbytes


def test_columns_of_what_rows_give_are_added_up_in_a_later_pass(target: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    y = g.output("y", F.softmax(g.input("x", (128, 160)), -1))
    g.output("columns", F.sum(y * y, 0))
    check(g, feeds(g, rng), target, 128 * 160)
    (group,) = adding(grt.compile(g, target=target))
    assert group.levels()[next(iter(group.segments))] == 2


def transposed(g: grt.Graph, x: grt.Value) -> None:
    g.output("rows", F.sum(x, 1))
    g.output("columns", F.sum(F.permute(F.reshape(x, (160, 128)), (1, 0)) * F.cos(x), 0))


def waits(g: grt.Graph, x: grt.Value) -> None:
    columns = F.sum(x, 0)
    g.output("rows", F.sum(x * F.sin(columns), 1))


def maxima(g: grt.Graph, x: grt.Value) -> None:
    g.output("rows", F.sum(x, 1))
    g.output("columns", F.amax(x, 0))


@pytest.mark.parametrize("build", [transposed, waits, maxima])
def test_what_lies_elsewhere_waits_or_is_no_sum_is_not(
    build: Callable[[grt.Graph, grt.Value], None], target: str, rng: np.random.Generator
) -> None:
    g = grt.Graph()
    build(g, g.input("x", (128, 160)))
    check(g, feeds(g, rng), target, 128 * 160)
    assert not adding(grt.compile(g, target=target))


def test_it_can_be_forbidden_and_switched_off(target: str, rng: np.random.Generator) -> None:
    g = step(layer_norm, (128, 160))
    (group,) = adding(grt.compile(g, target=target))
    apart = next(iter(group.segments))
    others = adding(grt.compile(g, target=target, forbid=[(apart.name, group.label)]))
    assert apart.name not in {node.name for g in others for node in g.segments}
    for stages in ("-rows", "-partial", "none"):
        assert not adding(grt.compile(g, target=target, fusion=stages))
        check(g, feeds(g, rng), target, 128 * 160)


def test_rows_past_the_count_of_any_batch_are_no_part_of_columns(target: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    y = F.softmax(F.exp(g.input("x", (128, 160))), -1)
    g.output("y", y)
    g.output("columns", F.sum(y, 0))
    program = grt.compile(g, target=target, batch=grt.up_to(128))
    assert adding(program)
    for count in (128, 77, 1):
        x = rng.standard_normal((count, 160)).astype(np.float32)
        found = program({"x": x})
        exact = np.exp(np.exp(x.astype(np.float64)))
        exact /= exact.sum(1, keepdims=True)
        np.testing.assert_allclose(found["y"], exact, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["columns"], exact.sum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("target", target_parameters())
@settings(max_examples=examples(24, 12))
@given(data=st.data())
def test_segments_of_any_length(target: str, data: st.DataObject) -> None:
    """Sums over a middle dimension, as a user writes them: of rows that fill no tile, of other segments beside, of few."""
    many, length, size = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 70)), data.draw(st.integers(2, 40))
    rng, g = np.random.default_rng(many * length), grt.Graph()
    x = g.input("x", (many, length, size))
    y = g.output("y", F.softmax(x, -1) if data.draw(st.booleans()) else x - F.mean(x, -1, True))
    g.output("sums", F.sum(y, 1))
    if data.draw(st.booleans()):
        g.output("others", F.sum(F.reshape(y * y, (many * length, 1, size)), 1))
    if many % 2 == 0 and data.draw(st.booleans()):
        g.output("pairs", F.sum(F.reshape(F.exp(y), (many // 2, 2 * length, size)), 1))
    g.output("all", F.sum(y * 2.0, (0, 1)))
    check(g, feeds(g, rng), target, many * length)
