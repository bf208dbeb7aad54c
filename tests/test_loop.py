"""Loops: a scan beside its steps written out one by one, on every target, with its gradients, and as text, plan and program."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import INTERPRETED, check, examples
from hypothesis import given, settings
from test_functional import TARGET
from test_report import data_of

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.errors import ArgumentError, GraphrtError
from graphrt.ops.body import Loop
from graphrt.schedule.kernel_ir import LoopKernel
from graphrt.targets.target import Settings, parse

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
compiled_only = pytest.mark.skipif(INTERPRETED, reason="is about the cpu target, which keeps loops")

Step = Callable[[Any, Any], tuple[Any, Any]]


def unrolled(f: Step, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False) -> tuple[Any, Any]:
    """What ``scan`` is, step by step, for xs and ys that are one Value, a list of them, or None."""
    many = isinstance(xs, list)
    steps = length or (xs[0] if many else xs).shape[0]
    carry, found = init, list[Any]()
    for t in reversed(range(steps)) if reverse else range(steps):
        carry, y = f(carry, None if xs is None else [x[t] for x in xs] if many else xs[t])
        found.append(y)
    found = found[::-1] if reverse else found
    if found[0] is None:
        return carry, None
    return carry, [F.stack(ys) for ys in zip(*found, strict=True)] if isinstance(found[0], list) else F.stack(found)


def leaves(x: Any) -> list[grt.Value]:
    if isinstance(x, grt.Value):
        return [x]
    return [v for e in (x.values() if isinstance(x, dict) else x or ()) for v in leaves(e)]


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape).astype(np.float32)


Case = Callable[[Any, Sequence[grt.Value]], Any]  # what a scan-like function makes of Values


def built(case: Case, scan: Any, arrays: Sequence[np.ndarray], wrt: bool = True) -> grt.Graph:
    """The graph of a ``case`` and of the gradients of a sum of all its floats, with respect to all that is given."""
    graph = grt.Graph()
    given = [graph.input(f"a{i}", a.shape, str(a.dtype)) for i, a in enumerate(arrays)]
    results = leaves(case(scan, given))
    for i, v in enumerate(results):
        graph.output(f"y{i}", v)
    if wrt:
        loss = F.stack(
            [(F.cast(v, "float32") * (i + 1.5)).sin().sum() for i, v in enumerate(results) if v.dtype.is_float]
        ).sum()
        floats = [v for v in given if v.dtype.is_float]
        for v, d in zip(floats, grt.grad(loss, floats), strict=True):
            graph.output(f"d {v.name}", d)
    return graph


def agree(case: Case, *arrays: np.ndarray, wrt: bool = True, tolerance: float = 2e-5) -> None:
    """The loop, on this process's target and the reference, has the results of its steps in double."""
    feeds = {f"a{i}": a for i, a in enumerate(arrays)}
    expected = grt.compile(built(case, unrolled, arrays, wrt), target="reference:float64")(**feeds)
    graph = built(case, F.scan, arrays, wrt)
    assert any(n.op.name == "loop" for n in graph.nodes)
    graph.verify()
    assert str(grt.Graph.parse(str(graph))) == str(graph)
    for target in (TARGET, "reference"):
        found = grt.compile(graph, target=target)(**feeds)
        assert found.keys() == expected.keys()
        for name, a in found.items():
            scale = tolerance * max(1.0, float(np.abs(expected[name]).max(initial=0)))
            np.testing.assert_allclose(a, expected[name], atol=scale, rtol=0, err_msg=f"{target} {name}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_a_cell(steps: int, reverse: bool) -> None:
    """Two states, what does not change, a matrix and what is read of it, results that are states and that are not."""

    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        h, c, x, w, s = given

        def step(carry: Any, x: Any) -> Any:
            h, c = carry
            gates = x + F.linear(h, w)
            c = gates[:, :4].sigmoid() * c + gates[:, 4:].tanh() * s
            return (c.tanh(), c), [c.tanh(), (h * c).sum(), x * 2.0]

        return scan(step, (h, c), x, reverse=reverse)

    agree(case, array(3, 4), array(3, 4, seed=1), array(steps, 3, 8), array(8, 4), array(4))


def test_structures_of_states_and_elements() -> None:
    """Several sequences, integers, a state that nobody changes, one that is an element, and results that are constants."""

    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        a, n, x, y = given

        def step(carry: Any, elements: Any) -> Any:
            s, k = carry["s"], carry["k"]
            after = {"s": [s[1], elements[0] * s[0]], "k": k + 1}
            return after, [s[0], k, elements[1] * F.cast(k, "float32"), F.exp(a)]

        return scan(step, {"s": [a, a * 2.0], "k": n}, [x, y])

    agree(case, array(4), np.array(3, np.int64), array(7, 4), array(7, 2))


def test_no_elements_and_no_results() -> None:
    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        return scan(lambda x, _: (x - 0.1 * F.tanh(x @ given[1]), None), given[0], None, length=12)

    agree(case, array(3, 5), array(5, 5))


def test_a_loop_in_a_loop() -> None:
    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        h, x, w = given

        def outer(h: Any, x: Any) -> Any:
            h, ys = scan(lambda s, e: ((s @ w + e).tanh(), s * e), h, x)
            return h, ys.sum(0)

        return scan(outer, h, x)

    agree(case, array(2, 3), array(6, 5, 2, 3), array(3, 3))


def test_convolutions_and_halves() -> None:
    """A feature map that a convolution makes of itself and of the next image, and products of halves."""

    def images(scan: Any, given: Sequence[grt.Value]) -> Any:
        h, x, w = given
        return scan(
            lambda h, x: ((F.conv2d(h, w, padding=1) + x).relu(), h.mean((2, 3))), h, F.conv2d(x, w).reshape((6, 2, 3, 5, 5))
        )

    agree(images, array(2, 3, 5, 5), array(12, 3, 7, 7), array(3, 3, 3, 3))

    def halves(scan: Any, given: Sequence[grt.Value]) -> Any:
        h, x, w = given
        w = F.cast(w, "bfloat16")
        return scan(lambda h, x: (F.cast(F.cast(h, "bfloat16") @ w, "float32").tanh() + x, h), h, x)

    agree(halves, array(4, 8), array(5, 4, 8), array(8, 8), tolerance=0.05)


def test_operands_that_are_views() -> None:
    """Slices, transposed and repeated tensors, and constants: each step's part is found where it lies, or copied."""

    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        x, w = given
        zeros = F.zeros(x.graph, (3, 4))
        found = [
            scan(lambda h, e: (((h + e) @ w).tanh(), h), zeros, part)
            for part in (x[1:], x[::2], F.flip(x, 0), F.transpose(x.reshape((11, 4, 3)), 1, 2))
        ]
        return [found, scan(lambda h, e: (h * e, None), x[0], F.broadcast_to(x[1], (6, 3, 4)))[0]]

    agree(case, array(11, 3, 4), array(4, 4))


@settings(max_examples=examples(12, 3))
@given(st.data())
def test_drawn_steps(data: st.DataObject) -> None:
    """Steps of random arithmetic on random states and elements."""
    states, sequences = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 2))
    plan = data.draw(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=7))
    after = data.draw(st.lists(st.integers(0, 99), min_size=states, max_size=states))
    picked = data.draw(st.lists(st.integers(0, 99), max_size=3))
    length, reverse = data.draw(st.integers(1, 8)), data.draw(st.booleans())

    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        w = given[-1]

        def step(carry: list[Any], elements: Any) -> Any:
            pool = [*carry, *(elements or ()), w.mean(0)[None] * 1.0]
            for kind, i, j in plan:
                a, b = pool[i % len(pool)], pool[j % len(pool)]
                pool.append(
                    [
                        lambda a=a, b=b: a + b,
                        lambda a=a, b=b: a * b,
                        lambda a=a: a.tanh(),
                        lambda a=a: F.broadcast_to(a, (3, 4)) @ w,
                        lambda a=a: a - a.mean(1, keepdim=True),
                        lambda a=a, b=b: F.where(F.gt(a, b), a, b * 0.5),
                        lambda a=a: F.flip(a, 1),
                    ][kind]()
                )
            whole = [F.broadcast_to(v, (3, 4)) * 0.7 for v in pool]
            return [whole[i % len(pool)] for i in after], [pool[i % len(pool)] for i in picked] or None

        xs = list(given[states:-1]) or None
        return scan(step, list(given[:states]), xs, length, reverse)

    given_arrays = [array(3, 4, seed=i) for i in range(states)] + [array(length, 3, 4, seed=i) for i in range(sequences)]
    agree(case, *given_arrays, array(4, 4))


def test_second_gradients() -> None:
    def case(scan: Any, given: Sequence[grt.Value]) -> Any:
        h, x, w = given
        _, ys = scan(lambda h, x: ((h @ w + x).tanh(), h * x), h, x)
        return [ys, *grt.grad(ys.sum(), [h, x, w])]

    agree(case, array(2, 3), array(5, 2, 3), array(3, 3), tolerance=2e-4)


# --- what the compiler makes of it --------------------------------------------------------------------------------------------


def recurrent(steps: int, gradient: bool = True) -> grt.Graph:
    graph = grt.Graph()
    x, h = graph.input("x", (steps, 2, 6)), graph.input("h", (2, 6))
    w = graph.parameter("w", array(6, 6))
    last, ys = F.scan(lambda h, x: ((h @ w + x).tanh(), h * 2.0), h, x)
    graph.output("loss", loss := (ys * ys).mean() + last.sum())
    if gradient:
        graph.update(w, w - 0.1 * grt.grad(loss, [w])[0])
    return graph


def test_results_that_leave_more_than_once() -> None:
    """As two outputs, as an output and an update, and as two results of a step."""
    graph = grt.Graph()
    x, s = graph.input("x", (6, 2)), graph.parameter("s", np.zeros((6, 2), np.float32))
    _, (a, b) = F.scan(lambda c, e: ((c + e).tanh(), ((z := c * e), z)), x[0], x + s)
    for name, v in (("a", a), ("b", b), ("again", a)):
        graph.output(name, v)
    graph.update(s, b)
    program, given_x = grt.compile(graph, target=TARGET), array(6, 2)
    found = program(x=given_x)
    c, expected = given_x[0], []
    for e in given_x:
        expected.append(c * e)
        c = np.tanh(c + e)
    for result in (*found.values(), program.state["s"]):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_a_view_of_a_result_is_returned() -> None:
    """In another shape and turned: a loop stores each result as it is."""
    graph = grt.Graph()
    x = graph.input("x", (6, 2, 3))
    last, y = F.scan(lambda c, e: ((c + e.sum()).tanh(), c * e), x.sum(), x)
    graph.output("last", last * 2.0)
    graph.output("flat", F.reshape(y, (12, 3)))
    graph.output("turned", F.permute(y, (2, 0, 1)))
    check(graph, {"x": array(6, 2, 3)}, TARGET)


class Recurrent(nn.Module):
    """Layers whose states a contraction makes, and a step that is one."""

    def __init__(self) -> None:
        self.rnn, self.lstm, self.gru = nn.RNN(4, 6, nonlinearity="relu"), nn.LSTM(4, 6, proj_size=4), nn.GRU(4, 6)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: grt.Value) -> grt.Value:
        last, _ = F.scan(lambda c, e: (self.linear(c + e), None), x[0], x)
        found = [last, *(layer(x)[0] for layer in (self.rnn, self.lstm, self.gru))]
        assert last.dtype.name == "float32"
        return F.stack([F.cast(v, "float32").sum() for v in found]).sum()


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_a_carry_keeps_its_dtype_in_mixed_precision(half: str) -> None:
    graph = grt.Graph()
    x = graph.input("x", (5, 3, 4))
    with graph.autocast(half):
        loss = Recurrent()(x)
    graph.output("loss", loss)
    for p, d in zip(graph.parameters(), grt.grad(loss, graph.parameters()), strict=True):
        assert d.type.same(p.type)
        graph.output(f"d {p.node.name}", d)
    found = grt.compile(graph, target=TARGET)(x=array(5, 3, 4))
    assert all(np.isfinite(a).all() for a in found.values())


def test_a_value_of_a_step_stays_in_it() -> None:
    graph, kept = grt.Graph(), list[grt.Value]()
    x = graph.input("x", (5, 3))
    F.scan(lambda c, e: (kept.append(c * e) or c, e), x[0], x)  # type: ignore[func-returns-value]
    for use in (lambda v: F.sum(v), lambda v: graph.output("z", v)):
        with pytest.raises(GraphrtError, match="return it as a y"):
            use(kept[0])


@compiled_only
def test_more_steps_are_no_more_code() -> None:
    few, many = (grt.compile(recurrent(n), target="cpu") for n in (20, 2000))
    assert many.launches <= few.launches + 2 and len(many.graph.nodes) <= len(few.graph.nodes) + 4
    assert abs(len(few.source()) - len(many.source())) < 0.1 * len(few.source())


@compiled_only
def test_what_nobody_reads_is_not_stacked() -> None:
    graph = grt.Graph()
    x, h, w = graph.input("x", (8, 2, 6)), graph.input("h", (2, 6)), graph.input("w", (6, 6))
    (h, _), ys = F.scan(lambda s, x: ((s[0] @ w + x, s[1] + 1.0), [x * 2.0, x * 3.0]), (h, h), x)
    program = grt.compile([h, ys[1]], target="cpu")
    (node,) = [n for n in program.graph.nodes if n.op.name == "loop"]
    loop = Loop.of(node)
    assert len(loop.history) == 1 and len(node.outputs) == 2 and len(loop.results) == 2


@compiled_only
def test_nodes_of_a_body_are_kept_apart() -> None:
    feeds = {"x": array(12, 2, 6), "h": array(2, 6)}
    program = grt.compile(recurrent(12, gradient=False), target="cpu")
    (kernel,) = [k for kernels in program.kernel_ir for k in kernels if isinstance(k, LoopKernel)]
    fused = next(g for g in kernel.body.schedule.groups() if len(g.nodes) > 1)
    pair = {n.name for n in fused.nodes[:2]}
    apart = grt.compile(recurrent(12, gradient=False), target="cpu", forbid=[pair])
    (other,) = [k for kernels in apart.kernel_ir for k in kernels if isinstance(k, LoopKernel)]
    assert not any(pair <= {n.name for n in (*g.nodes, *g.inlined)} for g in other.body.schedule.groups())
    np.testing.assert_allclose(apart(**feeds)["loss"], program(**feeds)["loss"], rtol=1e-6)
    with pytest.raises(GraphrtError, match="no node of program.graph"):
        grt.compile(recurrent(12), target="cpu", forbid=[("conv_9", "relu_9")])


@compiled_only
def test_a_loop_is_explained_checked_profiled_and_saved(tmp_path: Path) -> None:
    program = grt.compile(recurrent(12), target="cpu")
    feeds = {"x": array(12, 2, 6), "h": array(2, 6)}
    ledger = lower_graph(recurrent(12), parse("cpu", Settings()), {}).ledger
    assert ledger.unfused - ledger.fused == ledger.saved
    explanation = program.explain()
    assert "loop" in str(explanation) and "loop" in program.plan_text()
    inner = re.findall(r"^    (\w+) (\w+)\[.*?\].* stop: (\w+) (.*?)(?:;|$)", program.plan_text(), re.M)
    assert inner, "nothing was refused in a body"
    for name, _, node, reason in inner:  # what a body does not do is told, and its groups and nodes can be asked for
        (about,) = {
            d for d in explanation.refused() if d.node == node and d.reason == reason and d.other in explanation.group(name)
        }
        assert about.change and about in explanation.why(node, about.other) and str(about) in explanation.group(name)
    data = explanation.to_json()
    entries = sum(d["saved"] for d in data["decisions"] if d["taken"]) + sum(data["bytes"]["passes"].values())
    assert entries == data["bytes"]["unfused"] - data["bytes"]["fused"]
    assert program.check(**feeds) is None
    assert any("loop" in row.name for row in program.profile(**feeds))
    program.report(tmp_path / "net.html")
    page = data_of((tmp_path / "net.html").read_text())
    assert {node for _, _, node, _ in inner} <= {
        n[0] for launch in page["launches"] for g in launch["groups"] for n in g["nodes"]
    }
    program, again = (grt.compile(recurrent(12, gradient=False), target="cpu") for _ in range(2))
    program.save(tmp_path / "net")
    loaded = grt.load(tmp_path / "net")
    assert program(**feeds)["loss"] == loaded(**feeds)["loss"] == again(**feeds)["loss"]


def _scan(f: Any, init: Any = None, xs: Any = None, **options: Any) -> Callable[[grt.Graph], Any]:
    """A scan from h [3] over x [5, 3], unless others are given."""

    def call(g: grt.Graph) -> Any:
        h, x = g.input("h", (3,)), g.input("x", (5, 3))
        return F.scan(f, h if init is None else init(g), x if xs is None else xs(g, x), **options)

    return call


def _updates(h: grt.Value, x: grt.Value) -> Any:
    graph = h.graph
    graph.update(graph.parameter("w", np.zeros(3, np.float32)), h)
    return h, x


WRONG: list[tuple[str, str, Callable[[grt.Graph], Any]]] = [
    ("update", "cannot update 'w'", _scan(_updates)),
    ("random", "draws in a step", _scan(lambda h, x: (h * F.dropout(x, 0.5, True), x))),
    ("shape", r"state 0 begins as f32\[3\] and a step makes f32\[2\]", _scan(lambda h, x: (h[:2], x))),
    ("dtype", "state 0 begins as", _scan(lambda h, x: (F.cast(h, "int64"), x))),
    ("no pair", r"return \(carry, y\)", _scan(lambda h, x: h)),
    ("two states", "a carry of 1 Values", _scan(lambda h, x: ((h, h), x))),
    ("number", "ys that are Values", _scan(lambda h, x: (h, 3.0))),
    ("lengths", "the same first dimension", _scan(lambda h, x: (h, h), xs=lambda g, x: [x, g.input("z", (4, 3))])),
    ("no length", "length", _scan(lambda h, x: (h, h), xs=lambda g, x: ())),
    ("no steps", "at least one step", _scan(lambda h, x: (h, x), xs=lambda g, x: g.input("none", (0, 3)))),
    ("no function", "f must be a Callable", _scan(3)),
    ("length", "length is 4", _scan(lambda h, x: (h, x), length=4)),
    ("number of states", "structures of Values", _scan(lambda h, x: (h, x), init=lambda g: [1.0])),
]
BAD = [(f"scan {name}", call) for name, _, call in WRONG]


@pytest.mark.parametrize(("message", "call"), [pytest.param(*rest, id=name) for name, *rest in WRONG])
def test_steps_that_are_refused(message: str, call: Callable[[grt.Graph], Any]) -> None:
    graph = grt.Graph()
    with pytest.raises(GraphrtError, match=message):
        call(graph)
    assert not graph.updates and all(n.op.kind.value == "source" for n in graph.nodes)


def test_what_a_step_cannot_update_says_what_serves() -> None:
    """The counters of BatchNorm cannot go from step to step; each way that the message names builds."""

    def build(norm: nn.Module) -> None:
        g = grt.Graph()
        F.scan(lambda h, x: (norm(h + x), h), g.input("h", (3, 4)), g.input("x", (5, 3, 4)))

    with pytest.raises(ArgumentError, match="update 'num_batches_tracked'.*track_running_stats=False, or take LayerNorm"):
        build(nn.BatchNorm1d(4))
    for norm in (nn.BatchNorm1d(4).eval(), nn.BatchNorm1d(4, track_running_stats=False), nn.LayerNorm(4)):
        build(norm)
