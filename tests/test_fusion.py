"""Fusion changes nothing but speed: random graphs fused, unfused and by the reference; the plan's own promises.

Graphs are small and have several per program, because a C compiler run costs more than all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, assert_close, check, examples
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.op import Kind
from graphrt.schedule.group import FREE
from graphrt.schedule.horizontal import MOST
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import parse

TARGET = "interpret" if INTERPRETED else "cpu"
pytestmark = [pytest.mark.interpret] if INTERPRETED else []

UNARY = (F.relu, F.tanh, F.sigmoid, F.neg, F.abs, lambda x: F.exp(x * 0.1), lambda x: x * 0.5 + 1.0, F.gelu)
BINARY = (F.add, F.sub, F.mul, F.maximum, lambda a, b: F.where(a > b, a, b * 0.5), lambda a, b: a / (F.abs(b) + 1.0))


def random_graph(draw: Any, name: str, graph: grt.Graph, feeds: dict[str, Any], rng: np.random.Generator) -> None:
    """Appends a random network: maps, matrices and vectors that pass through ops of every kind and meet again."""

    def leaf(shape: tuple[int, ...], trainable: bool = False) -> grt.Value:
        label = f"{name}.{len(feeds) + len(graph.initial)}"
        array = rng.standard_normal(shape).astype(np.float32)
        if trainable:
            return graph.parameter(label, array * 0.3)
        feeds[label] = array
        return graph.input(label, shape)

    n, c, size = draw(st.integers(1, 3)), draw(st.sampled_from([1, 3, 4])), draw(st.sampled_from([4, 5, 7]))
    values = [leaf((n, c, size, size)), leaf((n, 6))]
    for _ in range(draw(st.integers(2, 9))):
        x = values[draw(st.integers(0, len(values) - 1))]
        match draw(st.sampled_from(["unary", "binary", "broadcast", "reduce", "softmax", "view", "anchor", "norm"])):
            case "unary":
                y = draw(st.sampled_from(UNARY))(x)
            case "binary":
                partners = [v for v in values if v.shape == x.shape]
                y = draw(st.sampled_from(BINARY))(x, partners[draw(st.integers(0, len(partners) - 1))])
            case "broadcast":
                y = x * leaf(tuple(m if i == 1 or x.ndim < 2 else 1 for i, m in enumerate(x.shape)), True) + 0.5
            case "reduce":
                dims = draw(st.sampled_from([(x.ndim - 1,), (0,), tuple(range(1, x.ndim)) or (0,)])) if x.ndim else ()
                reduce = draw(st.sampled_from([F.sum, F.mean, F.amax]))
                y = x - reduce(x, dims, keepdim=True) if x.ndim else x
            case "softmax":
                y = F.log_softmax(x, draw(st.integers(0, x.ndim - 1)))
            case "view":
                y = draw(st.sampled_from([_flip, _swap, _pad_and_cut, _halves]))(x)
            case "norm" if x.ndim == 4:
                y = F.layer_norm(x, x.shape[2:])
            case "anchor" if x.ndim == 4 and min(x.shape[2:]) >= 3:
                k = draw(st.sampled_from([1, 3, 5]))
                conv = F.conv2d(x, leaf((k, x.shape[1], 3, 3), True), leaf((k,), True), padding=1)
                y = draw(st.sampled_from([F.relu, lambda v: F.max_pool2d(v, 2), lambda v: F.avg_pool2d(F.relu(v), 3, 2)]))(conv)
            case _:
                flat = F.flatten(x, 1) if x.ndim > 1 else F.reshape(x, (1, -1))
                y = F.linear(flat, leaf((6, flat.shape[1]), True), leaf((6,), True))
        values.append(y)
    loss = F.mean(values[-1] * values[-1]) + sum((F.mean(F.tanh(v)) for v in values[2:-1:2]), start=graph.constant(0.0))
    graph.output(f"{name}.loss", loss)
    graph.output(f"{name}.last", values[-1])
    parameters = [p for p in graph.parameters() if p.node.name.startswith(f"{name}.")]
    for p, g in zip(parameters, grt.grad(loss, parameters), strict=True):
        graph.update(p, p - g * 0.1)


def _flip(x: grt.Value) -> grt.Value:
    return F.flip(x, x.ndim - 1)


def _swap(x: grt.Value) -> grt.Value:
    return F.transpose(x, 0, -1) * 1.5


def _pad_and_cut(x: grt.Value) -> grt.Value:
    return F.pad(x, (1, 2), value=0.25)[..., 1:-1]


def _halves(x: grt.Value) -> grt.Value:
    return F.concat([x[..., ::2], x[..., 1::2]], x.ndim - 1)


@st.composite
def programs(draw: Any) -> tuple[grt.Graph, dict[str, Any]]:
    graph, feeds = grt.Graph(), dict[str, Any]()
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    for i in range(3):
        random_graph(draw, f"net{i}", graph, feeds, rng)
    return graph, feeds


SUBSETS = st.one_of(st.just("none"), st.lists(st.sampled_from(list(grt.STAGES)), min_size=1, unique=True).map(",".join))


@given(programs(), SUBSETS)
@settings(max_examples=examples(10, 5))
def test_random_graphs(case: tuple[grt.Graph, dict[str, Any]], stages: str) -> None:
    """Whatever the stages of fusion, the numbers are the same."""
    graph, feeds = case
    table = evaluate(graph, {**graph.initial, **feeds})
    for fusion in ("all", stages):
        program = grt.compile(graph, target=TARGET, fusion=fusion)
        outputs = program(feeds)
        for name, v in graph.outputs.items():
            assert_close(outputs[name], table[v], 2000, f"{name}, fused {fusion}", graph)
        for name, v in graph.updates.items():
            assert_close(program.state[name], table[v], 2000, f"{name}, fused {fusion}", graph)
        _plan_keeps_its_promises(program)


def _plan_keeps_its_promises(program: grt.Program) -> None:
    """Every computed node has one owner (or is inlined); launches run after what they read; live bytes do not overlap."""
    assert program.schedule is not None and program.plan is not None
    owners: dict[grt.Node, int] = {}
    inlined = set()
    for step, launch in enumerate(program.schedule.launches):
        for group in launch.groups:
            inlined.update(group.inlined)
            for node in group.nodes:
                assert node not in owners, f"{node.where()} is computed twice"
                owners[node] = step
    for node in program.graph.nodes:
        assert node.op.kind in FREE or node in owners or node in inlined, f"{node.where()} is never computed"
    for step, launch in enumerate(program.schedule.launches):
        for group in launch.groups:
            for v in group.inputs:
                if v.node.op.kind is not Kind.SOURCE:
                    assert owners[v.node] < step or (owners[v.node] == step and v in group.index), f"{v!r} is read too early"
    assert all(d.reason for d in program.decisions)
    plan = program.plan
    slots = list(plan.offset)
    for i, a in enumerate(slots):
        assert plan.offset[a] % 256 == 0 and plan.offset[a] + a.type.nbytes <= plan.size
        for b in slots[:i]:
            live = plan.lifetime[a][0] <= plan.lifetime[b][1] and plan.lifetime[b][0] <= plan.lifetime[a][1]
            apart = plan.offset[a] + a.type.nbytes <= plan.offset[b] or plan.offset[b] + b.type.nbytes <= plan.offset[a]
            assert not live or apart or plan.alias.get(a) == b or plan.alias.get(b) == a, f"{a.name} overlaps {b.name}"
    assert plan.size <= plan.unplanned


ONE_KERNEL: dict[str, Any] = {
    "softmax": lambda x: F.softmax(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "layer_norm": lambda x: F.layer_norm(x, 20),
    "gelu": F.gelu,
    "chain": lambda x: F.tanh(F.relu(x) * 2.0 + 1.0) * F.sigmoid(x),
    "logsumexp": lambda x: F.logsumexp(x, -1),
    "var": lambda x: F.var(x, -1),
    "argmax": lambda x: F.argmax(x, -1),
}


@pytest.mark.parametrize("name", ONE_KERNEL)
def test_composites_are_one_kernel(name: str, rng: np.random.Generator) -> None:
    graph = grt.Graph()
    graph.output("y", ONE_KERNEL[name](graph.input("x", (6, 20))))
    program = grt.compile(graph, target=TARGET)
    x = rng.standard_normal((6, 20)).astype(np.float32)
    assert_close(program(x=x)["y"], evaluate(graph, {"x": x})[graph.outputs["y"]], 20)
    assert program.launches == 1, program.plan_text()


def test_softmax_cross_entropy_and_its_gradient_are_one_kernel(rng: np.random.Generator) -> None:
    graph = grt.Graph()
    x, target = graph.input("x", (8, 10)), graph.input("target", (8,), "int64")
    loss = F.cross_entropy(x, target, reduction="none")
    graph.output("loss", loss)
    graph.output("dx", grt.grad(F.sum(loss), [x])[0])
    program = grt.compile(graph, target=TARGET)
    feeds = {"x": rng.standard_normal((8, 10)).astype(np.float32), "target": rng.integers(0, 10, 8)}
    outputs, table = program(feeds), evaluate(graph, feeds)
    for name, v in graph.outputs.items():
        assert_close(outputs[name], table[v], 10)
    assert program.launches == 1, program.plan_text()


def test_small_totals_are_found_by_each_kernel_that_reads_them(target: str, rng: np.random.Generator) -> None:
    """By rows, by columns and element by element; not sums of floats, whose rounding is another in each kernel."""
    graph = grt.Graph()
    feeds: dict[str, Any] = {}
    for n, c in ((37, 20), (1, 3), (512, 5)):
        a, b = graph.input(f"a{n}", (n, c)), graph.input(f"b{n}", (2, n), "int32")
        feeds |= {
            f"a{n}": rng.standard_normal((n, c)).astype(np.float32),
            f"b{n}": rng.integers(-3, 3, (2, n)).astype(np.int32),
        }
        count = F.cast(F.sum(F.ne(F.transpose(b, 0, 1), 0)), "float32")
        most = F.amax(F.abs(F.cast(b, "float32")))
        graph.output(f"rows{n}", F.softmax(a * count, 1) + most)
        graph.output(f"columns{n}", F.amax(a, 0) - count)
        graph.output(f"elements{n}", F.tanh(a) * most)
    check(graph, feeds, target, 20)
    program = grt.compile(graph, target=target)
    groups = [g for launch in program.schedule.launches for g in launch.groups]
    assert not [g for g in groups if g.anchor is not None and g.anchor.types[0].shape == () and g.shape], program.plan_text()
    x, w = graph.input("x", (8, 5)), graph.input("w", (64,))
    program = grt.compile({"y": F.softmax(x, 1) / F.sum(w), "z": F.tanh(x) * F.sum(w)}, target=target)
    assert sum("reduce" in str(launch) and "in=(w)" in str(launch) for launch in program.schedule.launches) == 1


def test_runs_repeat_bit_for_bit_and_results_stay() -> None:
    graph = grt.Graph()
    x, w = (
        graph.input("x", (4, 3, 9, 9)),
        graph.parameter("w", np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype("f")),
    )
    y = F.relu(F.conv2d(x, w, padding=1))
    loss = graph.output("loss", F.mean(y * y))
    graph.output("dw", grt.grad(loss, [w])[0])
    program = grt.compile(graph, target=TARGET)
    feeds = [{"x": np.random.default_rng(i).standard_normal((4, 3, 9, 9)).astype(np.float32)} for i in range(2)]
    first = program(feeds[0])
    kept = {k: v.copy() for k, v in first.items()}
    program(feeds[1])
    again = program(feeds[0])
    for name, value in kept.items():
        assert np.array_equal(first[name], value), "a later run overwrote an earlier result"
        assert np.array_equal(again[name], value), "the same inputs gave other bits"


def test_swapped_parameters_and_shared_updates() -> None:
    """Updates are simultaneous: each new value is computed from the old ones."""
    graph = grt.Graph()
    a, b = graph.parameter("a", np.array([1.0, 2.0], np.float32)), graph.parameter("b", np.array([3.0, 4.0], np.float32))
    c = graph.parameter("c", np.zeros(2, np.float32))
    graph.update(a, b)
    graph.update(b, a)
    graph.update(c, a + b)
    d = graph.parameter("d", np.array([5.0, 6.0], np.float32))
    graph.update(d, F.flip(d, 0))
    program = grt.compile(graph, target=TARGET)
    program()
    assert [program.state[n].tolist() for n in "abcd"] == [[3.0, 4.0], [1.0, 2.0], [4.0, 6.0], [6.0, 5.0]]


def test_views_of_views_are_stored_where_they_are_computed(target: str, rng: np.random.Generator) -> None:
    """Each view on the way says where an element goes, the innermost first."""
    g = grt.Graph()
    x = F.tanh(g.input("x", (6, 4)))
    g.output("y", F.permute(F.reshape(x, (2, 3, 4)), (2, 0, 1)))
    g.output("z", F.reshape(F.permute(x * 2.0, (1, 0)), (2, 2, 6)))
    assert grt.compile(g, target=target).launches == 1
    check(g, {"x": rng.standard_normal((6, 4)).astype("f")}, target)


def test_explain_names_every_verdict() -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (2, 3, 8, 8)), graph.parameter("w", shape=(4, 3, 3, 3))
    graph.output("y", F.max_pool2d(F.relu(F.conv2d(x, w)), 2))
    program = grt.compile(graph, target=TARGET)
    edges = [(d.node, d.other) for d in program.decisions]
    assert len(set(edges)) == len(edges), "one verdict an edge"
    text = program.explain().full()
    assert "relu_0 into conv_0: fused, saves" in text
    assert "max_pool_0 into conv_0: not fused: is a window: a kernel of its own" in text


def test_an_update_may_join_pieces_of_parameters() -> None:
    """A view with several operands reads old values too: rotating a parameter, and two that trade halves."""
    graph = grt.Graph()
    h = graph.parameter("h", np.arange(4, dtype=np.float32))
    a, b = graph.parameter("a", np.arange(4, dtype=np.float32)), graph.parameter("b", np.full(4, 9, np.float32))
    graph.update(h, F.concat([h[1:], h[:1]], 0))
    graph.update(a, F.concat([b[1:], a[:1]], 0))
    graph.update(b, F.concat([a[1:], b[:1]], 0))
    program = grt.compile(graph, target=TARGET)
    program()
    found = {n: program.state[n].tolist() for n in "hab"}
    assert found == {"h": [1.0, 2.0, 3.0, 0.0], "a": [9.0, 9.0, 9.0, 0.0], "b": [1.0, 2.0, 3.0, 9.0]}


def test_a_long_chain_compiles(rng: np.random.Generator) -> None:
    """Hundreds of ops in a row fuse without running out of stack."""
    graph = grt.Graph()
    x = graph.input("x", (3,))
    y = x
    for _ in range(200):
        y = F.relu(y) + x
    graph.output("y", y)
    feeds = {"x": rng.standard_normal(3).astype(np.float32)}
    assert_close(grt.compile(graph, target=TARGET)(feeds)["y"], evaluate(graph, feeds)[y], 200)


def _twice(g: grt.Graph) -> None:
    s = F.sum(g.input("x", (7,)), 0, keepdim=True)
    g.output("wide", F.expand(s, (3, 1)))
    g.output("plain", s)


def _reduced(g: grt.Graph) -> None:
    p = g.parameter("p", np.full((7, 5, 1), 3, np.float32))
    g.update(p, F.sum(p, 2, keepdim=True))


def _own_row(g: grt.Graph) -> None:
    p = g.parameter("p", np.float32(1.0))
    g.update(p, F.reshape(F.sum(g.input("x", (24, 1)) * F.cos(F.expand(p, (24, 1))), 0), ()))


def _itself(g: grt.Graph) -> None:
    p = g.parameter("p", np.ones(3, np.float32))
    g.output("y", F.sin(p))
    g.update(p, p * 1.0)


def _nothing(g: grt.Graph) -> None:
    x = g.input("x", (4, 8, 0))
    g.output("largest", F.amax(x, 1, keepdim=True))
    g.output("scaled", x * F.prod(x, (1, 2), keepdim=True))
    g.output("sum", F.expand(F.sum(x + 1.0), (0,)) + 1.0)


def _reordered(g: grt.Graph) -> None:
    y = F.avg_pool2d(g.input("x", (1, 4, 3, 4)), (2, 1), (2, 1), ceil_mode=True)
    g.output("y", F.reshape(F.reshape(y, (32,)), (2, 8, 2)))
    p = g.input("p", (4, 3, 5, 2))
    g.output("z", F.reshape(F.reshape(F.sum(p * p, 1), (40,)), (8, 5)))


def _old_value_in_a_later_pass(g: grt.Graph) -> None:
    p = g.parameter("p", np.linspace(0, 1, 21, dtype=np.float32).reshape(7, 3))
    y = F.exp2(p)
    g.output("y", y * F.expand(F.sum(g.input("x", (7, 3)), 0, keepdim=True), (7, 3)))
    g.update(p, y)


def _old_row_in_a_later_pass(g: grt.Graph) -> None:
    p, x = g.parameter("p", np.arange(1, 8, dtype=np.float32)), g.input("x", (7, 4))
    first = F.sum(x, 1)
    g.output("y", p * F.sum(F.square(x - F.unsqueeze(first, 1)), 1))
    g.update(p, p + first)


def _old_row_in_a_later_loop(g: grt.Graph) -> None:
    p, x = g.parameter("p", np.arange(1, 8, dtype=np.float32)), g.input("x", (7, 30))
    total = F.sum(x, 1)
    g.update(p, p + total)
    g.output("y", (x - F.unsqueeze(total, 1)) * F.unsqueeze(p, 1))


def _new_row_before_the_last_pass(g: grt.Graph) -> None:
    p = g.parameter("p", np.random.default_rng(1).standard_normal((7, 30)).astype(np.float32))
    new = p * F.rsqrt(F.mean(p * p, 1, keepdim=True))
    g.update(p, new)
    g.output("sum", F.sum(new, 1))
    g.output("y", new - F.mean(new, 1, keepdim=True))


def _wider_elements_in_as_many_bytes(g: grt.Graph) -> None:
    x = (g.input("x", (528,)) + 0.5) * 1000.0
    g.output("y", F.cast(x[:264], "int64") + 1)


def _two_groups_that_read_each_other(g: grt.Graph) -> None:
    p = g.parameter("p", np.ones((3, 2), np.float32))
    n, s = -p, F.sign(g.input("c", (3, 2, 2)))
    t = F.sigmoid(F.reshape(F.reshape(s, (12,))[:6], (3, 2)))
    rows = F.broadcast_to(F.reshape(n, (1, 6)), (2, 6))
    g.output("y", s + F.reshape(rows, (3, 2, 2)))
    g.update(p, p - F.pow(F.exp(g.input("a", (3, 2))), t) * n)


def _computed_again_behind(g: grt.Graph) -> None:
    """A sigmoid that the backward pass, which alone reads it, computes again: the first is needed no more."""

    def x(name: str, rows: int = 5, columns: int = 9) -> grt.Value:
        return g.input(name, (rows, columns))

    a = F.matmul(x("q", 5, 7), x("w", 7)) + x("b") + x("c")
    s = F.sigmoid(a)
    with g.phase("bwd", s.node.name):
        first, second = x("i") * F.cos(a), F.matmul(x("u", 5, 7), x("v", 7))
        y = first + F.neg((second + x("d") + x("e")) * x("f") * x("h")) + x("j") * s * x("k")
    g.output("y", y)


FOUND = [
    _two_groups_that_read_each_other,
    _twice,
    _reduced,
    _own_row,
    _itself,
    _nothing,
    _reordered,
    _old_value_in_a_later_pass,
    _old_row_in_a_later_pass,
    _old_row_in_a_later_loop,
    _new_row_before_the_last_pass,
    _wider_elements_in_as_many_bytes,
    _computed_again_behind,
]


@pytest.mark.parametrize("fused", ["all", "none", "in_place,horizontal,inline,remat,split"])
@pytest.mark.parametrize("build", FOUND)
def test_what_the_fuzzer_found(
    build: Callable[[grt.Graph], None],
    fused: str,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
) -> None:
    """Graphs that failed once, or with a planted fault: results that show a reduction, empty rows, memory taken over early."""
    monkeypatch.setenv("GRAPHRT_FUSE", fused)
    graph = grt.Graph()
    build(graph)
    feeds = {n.name: rng.standard_normal(n.types[0].shape).astype(np.float32) for n in graph.nodes if n.op.name == "input"}
    check(graph, feeds, TARGET, 24)


def test_a_launch_has_a_bounded_number_of_updates(rng: np.random.Generator) -> None:
    """A kernel of hundreds of updates takes a compiler minutes; two of half as many run as well."""
    g, count = grt.Graph(), MOST + 10
    for i in range(count):
        p = g.parameter(f"p{i}", rng.standard_normal(3 + i % 5).astype(np.float32))
        g.update(p, p * 0.5 + 1.0)  # the values differ, and what is compiled does not
    program = grt.compile(g, target=TARGET)
    assert program.schedule is not None
    assert [len(launch.groups) for launch in program.schedule.launches] == [count // 2, count - count // 2]
    check(g, {}, TARGET)


@pytest.mark.skipif(INTERPRETED, reason="a GPU's plan is another")
def test_a_product_stores_an_activation_that_others_read(rng: np.random.Generator) -> None:
    """A perceptron with GELU, trained: the first product stores its sums, which the derivative is made of, and the activation,
    which the next product and the gradient of its weights read as it lies."""
    graph = grt.Graph()
    x, w, v = graph.input("x", (64, 48)), graph.parameter("w", shape=(48, 96)), graph.parameter("v", shape=(96, 32))
    y = graph.output("y", F.gelu(x @ w) @ v)
    for p, d in zip((w, v), grt.grad(F.sum(y * y), [w, v]), strict=True):
        graph.update(p, p - 0.1 * d)
    program = grt.compile(graph, target="cpu")
    assert program.schedule is not None
    first, *later = (g for g in program.schedule.groups() if g.anchor is not None)
    given, *_, activation = first.outputs
    assert given.node is first.anchor and sum(activation in g.inputs for g in later) == 2
    (slope,) = (g for g in later if given in g.inputs)
    assert activation not in slope.inputs, "the derivative is made of what the activation is made of"
    feeds = {"x": rng.standard_normal((64, 48)).astype(np.float32)}
    state = {n: rng.standard_normal(graph.sources[n].types[0].shape).astype(np.float32) * 0.2 for n in "wv"}
    for n, value in state.items():
        program.state.set(n, value)
    found = program(feeds)
    reference = grt.compile(graph, target="reference:float64")
    for n, value in state.items():
        reference.state.set(n, value)
    expected = reference(feeds)
    assert_close(found["y"], np.asarray(expected["y"]), 96, "y")
    for n in "wv":
        assert_close(program.state[n], np.asarray(reference.state[n]), 64 * 32, n)


def test_what_only_updates_wait_for_shares_launches() -> None:
    """Norms of weights and of gradients by themselves (LARS), or of all of them at once: as many launches for more weights."""

    def launches(optimizer: grt.optim.Optimizer, count: int) -> int:
        g = grt.Graph()
        params = [g.parameter(f"p{i}", np.ones((3 + i, 5), np.float32)) for i in range(count)]
        grads = [g.input(f"g{i}", p.shape) for i, p in enumerate(params)]
        optimizer.apply(params, grads, g.constant(0.1))
        return len(lower_graph(g, parse(TARGET), {}).kernels)

    for optimizer in (lambda: grt.optim.LARS(0.1), lambda: grt.optim.SGD(0.1, clip_grad_norm=1.0)):
        assert launches(optimizer(), 12) == launches(optimizer(), 4) <= 5
    bounded = launches(grt.optim.SGD(0.1, clip_grad_norm=1.0), 4)
    assert launches(grt.optim.AdamW(0.1, clip_grad_norm=1.0), 4) == bounded  # its corrections share the norm's launch
