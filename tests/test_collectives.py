"""Collectives without processes: all ranks of a mesh are walked in NumPy (``walk_ranks``), in float64.

What they are is stated a second time on the world: one array whose first dimensions are those of the mesh. Gradients, whose
reductions autodiff writes, are held by finite differences of that statement, and those of networks by one dense program.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from hypothesis import given
from hypothesis import strategies as st

import graphrt as grt
from graphrt import Graph, Mesh, Value, errors, nn, optim
from graphrt import ops as F
from graphrt.op import Kind
from graphrt.passes.bucket import fill_buckets, narrow_sums
from graphrt.passes.decision import Decision
from graphrt.passes.patterns.shard import POLICIES, shard_updates
from graphrt.passes.pipeline import PassPolicy, run_passes
from graphrt.reference import fit, walk_ranks
from graphrt.sharding import part_shape, shardings
from graphrt.targets.reference.evaluate import evaluate
from graphrt.train.objective import Objective
from graphrt.types import TensorType

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the reference only, the same in both lanes")
STEP = 1e-5
World = np.ndarray  # what all processes have: the dimensions of the mesh, then those of each one's array


def walked(graph: Graph, worlds: Mapping[str, World]) -> list[dict[Value, np.ndarray]]:
    """Every value of ``graph``, for each rank; ``worlds`` are those of inputs, and of parameters that vary."""
    assert graph.mesh is not None
    sizes = list(graph.mesh.axes.values())
    tables: list[dict[Value, np.ndarray]] = []
    for rank in range(graph.mesh.size):
        at = np.unravel_index(rank, sizes)
        feeds = graph.initial | {name: world[at] for name, world in worlds.items()}
        tables.append({n.outputs[0]: fit(feeds[n.name], n.outputs[0], "float64") for n in graph.sources.values()})
    walk_ranks([n for n in graph.nodes if n.op.kind is not Kind.SOURCE], graph.mesh, tables)
    return tables


def world_of(tables: Sequence[dict[Value, np.ndarray]], v: Value) -> World:
    """``v`` of every rank. Along axes over which its type does not vary it must be the same."""
    assert v.graph.mesh is not None
    found = np.stack([table[v] for table in tables]).reshape(*v.graph.mesh.axes.values(), *v.shape)
    for number, axis in enumerate(v.graph.mesh.axes):
        if axis not in v.type.varying:
            assert (found == np.take(found, [0], number)).all(), f"{v.node.where()} is {v.type} and differs along {axis}"
    return found


def summed(v: Value) -> Value:
    """The sum of ``v`` in all processes that have one of their own."""
    v = F.sum(v)
    for axis in v.type.varying:
        v = F.all_reduce(v, axis)
    return v


# --- each collective on the world ------------------------------------------------------------------------------------------


def merged(world: World, moved: int, dim: int) -> World:
    """``world`` with its axis ``moved`` taken away and its parts side by side along ``dim``, counted without it."""
    world = np.moveaxis(world, moved, dim)
    return world.reshape(*world.shape[:dim], -1, *world.shape[dim + 2 :])


def cut(world: World, dim: int, parts: int) -> World:
    """``world`` with ``dim`` as two: parts, and what each has."""
    return world.reshape(*world.shape[:dim], parts, world.shape[dim] // parts, *world.shape[dim + 1 :])


def everywhere(world: World, axis: int, size: int) -> World:
    """``world``, which has no such axis, the same along one of ``size``."""
    return np.repeat(np.expand_dims(world, axis), size, axis)


@dataclass(frozen=True)
class Case:
    """A collective along ``axis`` of ``mesh`` on arrays of ``shape``: what is called, and what it is on the world."""

    mesh: Mesh
    axis: str
    shape: tuple[int, ...]
    call: Callable[[Value], Value]
    stated: Callable[[World], World]
    varies: bool  # its results, along the axis
    operand_varies: bool = True


EXTREMES = {"max": np.max, "min": np.min}
NAMES = ["sum", "mean", "max", "min", "gather", "gather_same", "scatter", "to_all", "permute", "from", "shard", "pvary"]


@st.composite
def cases(draw: Any, names: Sequence[str] = NAMES) -> Case:
    """A collective of ``names`` on a mesh of one axis or two, of up to three processes each."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
    mesh = Mesh(**dict(zip(draw(st.permutations(["dp", "tp"])), sizes, strict=False)))
    a = draw(st.integers(0, len(sizes) - 1))
    axis, size, n = list(mesh.axes)[a], sizes[a], len(sizes)
    shape = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    d, e = (draw(st.integers(0, len(shape) - 1)) for _ in "de")
    name = draw(st.sampled_from(names))
    if name in ("scatter", "to_all", "shard"):
        shape[d] *= size
    negative = draw(st.booleans())  # dimensions are counted from the end as well
    dim, other = (d - len(shape), e - len(shape)) if negative else (d, e)

    def case(call: Callable[[Value], Value], stated: Callable[[World], World], varies: bool, operand: bool = True) -> Case:
        return Case(mesh, axis, tuple(shape), call, stated, varies, operand)

    def own(world: World) -> World:
        parts = cut(world, n + d, size)
        return np.stack([np.take(np.take(parts, i, n + d), i, a) for i in range(size)], a)

    if name == "sum":
        return case(lambda x: F.all_reduce(x, axis), lambda w: everywhere(w.sum(a), a, size), False)
    if name == "mean":
        return case(lambda x: F.all_reduce(x, axis, "mean"), lambda w: everywhere(w.mean(a), a, size), False)
    if name in EXTREMES:
        return case(lambda x: F.all_reduce(x, axis, name), lambda w: everywhere(EXTREMES[name](w, a), a, size), False)
    if name.startswith("gather"):
        varies = name == "gather"
        return case(
            lambda x: F.all_gather(x, axis, dim, varies), lambda w: everywhere(merged(w, a, n - 1 + d), a, size), varies
        )
    if name == "scatter":
        return case(
            lambda x: F.reduce_scatter(x, axis, dim), lambda w: np.moveaxis(cut(w.sum(a), n - 1 + d, size), n - 1 + d, a), True
        )
    if name == "to_all":

        def exchanged(w: World) -> World:
            sent = np.moveaxis(cut(w, n + d, size), n + d, 0)  # receiver, mesh with the sender at a, rest
            return np.stack([merged(part, a, n - 1 + e) for part in sent], a)

        return case(lambda x: F.all_to_all(x, axis, dim, other), exchanged, True)
    if name == "permute":
        senders = draw(st.lists(st.sampled_from(range(size)), unique=True))
        perm = list(zip(senders, draw(st.permutations(range(size))), strict=False))

        def permuted(w: World) -> World:
            out = np.zeros_like(w)
            for sender, receiver in perm:
                np.moveaxis(out, a, 0)[receiver] = np.moveaxis(w, a, 0)[sender]
            return out

        return case(lambda x: F.ppermute(x, axis, perm), permuted, True)
    if name == "from":
        source = draw(st.integers(0, size - 1))
        return case(lambda x: F.broadcast_from(x, axis, source), lambda w: everywhere(np.take(w, source, a), a, size), False)
    if name == "shard":
        return case(lambda x: F.shard(x, axis, dim), own, True, False)
    return case(lambda x: F.pvary(x, axis), lambda w: w, True, False)


def drawn_world(case: Case, rng: np.random.Generator, shape: Sequence[int], varying: Sequence[str]) -> World:
    """Numbers for each process, the same along axes that are not in ``varying``."""
    sizes = [size if axis in varying else 1 for axis, size in case.mesh.axes.items()]
    numbers = rng.permutation(math.prod([*sizes, *shape])) + rng.uniform(0.3, 0.7)  # no two of them close to each other
    numbers = (numbers / max(numbers.size, 1) * 4 - 2).reshape(*sizes, *shape)
    return np.broadcast_to(numbers, (*case.mesh.axes.values(), *shape)).copy()


def operand_axes(case: Case, others: bool) -> tuple[str, ...]:
    return tuple(axis for axis in sorted(case.mesh.axes) if (case.operand_varies if axis == case.axis else others))


@given(cases(), st.booleans(), st.integers(0, 99))
def test_forward_is_what_it_says_of_the_world(case: Case, others: bool, seed: int) -> None:
    varying = operand_axes(case, others)
    graph = Graph(mesh=case.mesh)
    x = graph.input("x", case.shape, "float64", varying=varying)
    y = graph.output("y", case.call(x))
    assert set(y.type.varying) == ({*varying} - {case.axis}) | ({case.axis} if case.varies else set())
    world = drawn_world(case, np.random.default_rng(seed), case.shape, varying)
    np.testing.assert_allclose(world_of(walked(graph, {"x": world}), y), case.stated(world), rtol=1e-14, atol=1e-14)
    graph.verify()
    again = Graph.parse(str(graph))
    assert str(again) == str(graph) and again.mesh == case.mesh and again.outputs["y"].type == y.type


@given(cases(), st.booleans(), st.lists(st.booleans(), min_size=2, max_size=2), st.integers(0, 99))
def test_gradients_of_both_orders(case: Case, others: bool, weighted: list[bool], seed: int) -> None:
    """The loss of all, by differences along a direction; the first gradient by differences of the statement on the world."""
    rng, varying = np.random.default_rng(seed), operand_axes(case, others)
    graph = Graph(mesh=case.mesh)
    x = graph.input("x", case.shape, "float64", varying=varying)
    y = case.call(x)
    over = tuple(axis for axis, wanted in zip(sorted(case.mesh.axes), weighted, strict=False) if wanted)
    w = graph.input("w", y.shape, "float64", varying=over)
    (first,) = grt.grad(summed(y * y * w), [x])
    u = graph.input("u", x.shape, "float64", varying=varying)
    (second,) = grt.grad(summed(first * u), [x])
    assert first.type.varying == second.type.varying == x.type.varying
    worlds = {
        "x": drawn_world(case, rng, x.shape, varying),
        "w": drawn_world(case, rng, y.shape, over),
        "u": drawn_world(case, rng, x.shape, varying),
    }

    def added(world: World, axes: Sequence[str]) -> float:
        """The sum over all processes that have one of their own, along ``axes``."""
        for number, axis in reversed([*enumerate(case.mesh.axes)]):
            world = world.sum(number) if axis in axes else np.take(world, 0, number)
        return float(world.sum())

    def loss(step: float) -> float:
        """By the statement."""
        found = case.stated(worlds["x"] + step * worlds["u"])
        return added(found * found * worlds["w"], {*y.type.varying, *over})

    tables = walked(graph, worlds)
    directional = added(world_of(tables, first) * worlds["u"], varying)
    assert directional == pytest.approx((loss(STEP) - loss(-STEP)) / (2 * STEP), rel=1e-6, abs=1e-6)
    moved = [walked(graph, worlds | {"x": worlds["x"] + s * STEP * worlds["u"]}) for s in (1, -1)]
    slopes = [added(world_of(t, first) * worlds["u"], varying) for t in moved]
    curved = added(world_of(tables, second) * worlds["u"], varying)
    assert curved == pytest.approx((slopes[0] - slopes[1]) / (2 * STEP), rel=1e-5, abs=1e-5)


def test_axis_index_counts_along_its_axis() -> None:
    graph = Graph(mesh=Mesh(dp=2, tp=3))
    dp, tp = F.axis_index(graph, "dp"), F.axis_index(graph, "tp")
    both = graph.output("rank", dp * 3 + tp)
    assert str(dp.type) == "i32[]@dp" and str(both.type) == "i32[]@dp*tp"
    assert world_of(walked(graph, {}), both).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_of_equal_extremes_all_have_a_share_of_the_gradient() -> None:
    graph = Graph(mesh=Mesh(dp=4))
    x = graph.input("x", (3,), "float64", varying="dp")
    (g,) = grt.grad(F.sum(F.all_reduce(x, "dp", "max") * graph.constant([1.0, 2.0, 3.0], "float64")), [x])
    world = np.array([[1, 5, 0], [2, 5, 0], [2, 4, 0], [0, 5, 0]], float)
    expected = np.array([[0, 1, 1], [1, 1, 1], [1, 0, 1], [0, 1, 1]]) * np.array([1 / 2, 2 / 3, 3 / 4])
    np.testing.assert_allclose(world_of(walked(graph, {"x": world}), g), expected)


def test_a_mean_of_halves_is_made_in_float32() -> None:
    """The sum of two numbers that a float16 just holds is none that it holds."""
    graph = Graph(mesh=Mesh(dp=2))
    x = graph.input("x", (1,), "float16", varying="dp")
    y = F.all_reduce(x, "dp", "mean")
    sent = next(n for n in graph.nodes if n.op.name == "all_reduce")
    assert y.dtype.name == "float16" and sent.types[0].dtype.name == "float32"


# --- gradients of networks ---------------------------------------------------------------------------------------------------


def test_a_weight_used_by_all_alike_and_by_each_on_its_own() -> None:
    """What comes from a use that is the same in all processes counts once, what each has of its own is summed."""
    graph = Graph(mesh=Mesh(dp=3))
    x, w = graph.input("x", (2,), "float64", varying="dp"), graph.input("w", (2,), "float64")
    (g,) = grt.grad(summed(x * w * w) + F.sum(w * w * w), [w])
    (h,) = grt.grad(F.sum(g * g), [w])
    xs, ws = np.arange(6.0).reshape(3, 2), np.array([1.5, -2.0])
    tables = walked(graph, {"x": xs, "w": np.stack([ws] * 3)})
    slope = 2 * xs.sum(0) * ws + 3 * ws**2
    np.testing.assert_allclose(world_of(tables, g)[0], slope)
    np.testing.assert_allclose(world_of(tables, h)[0], 2 * slope * (2 * xs.sum(0) + 6 * ws))


def test_what_is_made_of_parameters_alone_has_the_gradient_of_all() -> None:
    """Its sum over processes is taken behind it, but for what is asked for, and where one use is the same in all."""
    graph = Graph(mesh=Mesh(dp=2))
    x, p = graph.input("x", (3,), "float64", varying="dp"), graph.parameter("p", np.array([0.5, -1.0, 2.0]))
    w = F.tanh(p)
    loss = summed(x * w * w) + F.sum(w * p)
    of_w, of_p = grt.grad(loss, [w, p])
    (only_p,) = grt.grad(loss, [p])
    (second,) = grt.grad(F.sum(only_p * only_p), [p])
    xs = np.array([[1.0, 2, 3], [4, 6, 8]])
    tables = walked(graph, {"x": xs})
    ps = graph.initial["p"]
    ws, slope, curve = np.tanh(ps), 1 - np.tanh(ps) ** 2, -2 * np.tanh(ps) * (1 - np.tanh(ps) ** 2)
    dw = 2 * xs.sum(0) * ws + ps
    np.testing.assert_allclose(world_of(tables, of_w)[0], dw)
    for g in (of_p, only_p):
        np.testing.assert_allclose(world_of(tables, g)[0], dw * slope + ws)
    bend = (2 * xs.sum(0) * slope + 1) * slope + dw * curve + slope
    np.testing.assert_allclose(world_of(tables, second)[0], 2 * (dw * slope + ws) * bend)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.NLLLoss(np.arange(1.0, 5.0))], ids=["even", "weighted"])
def test_a_process_of_which_no_example_counts_adds_nothing(loss: nn.Module) -> None:
    """The mean of nothing is no number, and neither is its gradient: a process gives a sum."""
    rng = np.random.default_rng(0)
    x, w, y = rng.standard_normal((2, 3, 5)), rng.standard_normal((5, 4)), np.array([[-100] * 3, [2, -100, 1]])
    found = []
    for mesh, rows, labels in ((Mesh(dp=2), x, y), (Mesh(dp=1), x.reshape(1, 6, 5), y.reshape(1, 6))):
        graph = Graph(mesh=mesh)
        weight = graph.parameter("w", w)
        xs = graph.input("x", rows.shape[1:], "float64", varying="dp")
        ys = graph.input("y", labels.shape[1:], "int64", varying="dp")
        Objective(loss, ()).outputs(graph, F.log_softmax(xs @ weight, 1), ys, ys, None, False)
        (slope,) = grt.grad(graph.outputs["loss"], [weight])
        tables = walked(graph, {"x": rows, "y": labels})
        found.append([world_of(tables, v)[0] for v in (graph.outputs["loss"], slope)])
    for ours, dense in zip(*found, strict=True):
        np.testing.assert_allclose(ours, dense, rtol=1e-6)


Net = Callable[[Graph, dict[str, Value], Value, Value], Value]  # graph, weights, images or rows, targets -> the loss of those
RNG = np.random.default_rng(0)


def linear_net(graph: Graph, w: dict[str, Value], x: Value, target: Value) -> Value:
    h = F.gelu(F.linear(F.flatten(x, 1), w["w1"], w["b1"]))
    return F.cross_entropy(F.linear(h, w["w2"], w["b2"]), target)


def conv_net(graph: Graph, w: dict[str, Value], x: Value, target: Value) -> Value:
    h = F.relu(F.conv2d(x, w["k1"], w["c1"], padding=1))
    h = F.layer_norm(h, h.shape[1:], w["scale"], w["shift"])
    h = F.max_pool2d(F.tanh(F.conv2d(h, w["k2"])), 2)
    return F.cross_entropy(F.linear(F.flatten(h, 1), w["w"]), target) + 0.1 * F.mean(h * h)


SHAPES: dict[str, tuple[Net, dict[str, tuple[int, ...]]]] = {
    "linear": (linear_net, {"w1": (12, 72), "b1": (12,), "w2": (5, 12), "b2": (5,)}),
    "conv": (
        conv_net,
        {"k1": (3, 2, 3, 3), "c1": (3,), "scale": (3, 6, 6), "shift": (3, 6, 6), "k2": (4, 3, 3, 3), "w": (5, 16)},
    ),
}
DECAY = 0.05


def batch(*split: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve images of two channels and their classes, in equal parts along the dimensions ``split``."""
    rng = np.random.default_rng(5)
    x, target = rng.standard_normal((12, 2, 6, 6)), rng.integers(0, 5, 12)
    return x.reshape(*split, -1, 2, 6, 6), target.reshape(*split, -1)


def dense(name: str) -> tuple[float, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The loss of all images in one process with weight decay, the weights and their gradients."""
    net, shapes = SHAPES[name]
    rng = np.random.default_rng(7)
    values = {n: rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]) or 1) for n, shape in shapes.items()}
    graph = Graph()
    x, target = graph.input("x", (12, 2, 6, 6), "float64"), graph.input("target", (12,), "int64")
    w = {n: graph.parameter(n, a) for n, a in values.items()}
    loss = net(graph, w, x, target) + sum((F.sum(v * v) for v in w.values()), start=0.0) * DECAY
    grads = grt.grad(loss, list(w.values()))
    images, targets = batch()
    table = evaluate(graph, values | {"x": images, "target": targets})
    return float(table[loss]), values, {n: table[g] for n, g in zip(w, grads, strict=True)}


@pytest.mark.parametrize("axes", [{"dp": 3}, {"dp": 2, "pods": 2}])
@pytest.mark.parametrize("name", SHAPES)
def test_data_parallel_is_the_large_batch(name: str, axes: dict[str, int]) -> None:
    """The mean loss of all parts with weight decay, and its gradients: those of one process that has all images."""
    expected, values, gradients = dense(name)
    graph = Graph(mesh=Mesh(**axes))
    images, targets = batch(*axes.values())
    x = graph.input("x", images.shape[len(axes) :], "float64", varying=list(axes))
    target = graph.input("target", targets.shape[len(axes) :], "int64", varying=list(axes))
    w = {n: graph.parameter(n, a) for n, a in values.items()}
    loss = SHAPES[name][0](graph, w, x, target)
    for axis in axes:
        loss = F.all_reduce(loss, axis, "mean")
    loss = loss + sum((F.sum(v * v) for v in w.values()), start=0.0) * DECAY
    grads = grt.grad(loss, list(w.values()))
    for v, g in zip(w.values(), grads, strict=True):
        assert g.type.same(v.type) and not g.type.varying
        graph.update(v, v - 0.1 * g)
    tables = walked(graph, {"x": images, "target": targets})
    assert world_of(tables, loss).ravel() == pytest.approx(expected, rel=1e-12)
    for n, g in zip(w, grads, strict=True):
        found = world_of(tables, g).reshape(-1, *gradients[n].shape)
        np.testing.assert_allclose(found[0], gradients[n], rtol=1e-10, atol=1e-13, err_msg=n)


@pytest.mark.parametrize("varying", [True, False])
def test_sharded_weights_are_the_same_network(varying: bool) -> None:
    """Each process has a part of each weight, gathers all for its part of the batch, and has the gradient of its own part."""
    expected, values, gradients = dense("linear")
    graph = Graph(mesh=Mesh(dp=2))
    images, targets = batch(2)
    x = graph.input("x", images.shape[1:], "float64", varying="dp")
    target = graph.input("target", targets.shape[1:], "int64", varying="dp")
    cuts = {"w1": 0, "b1": 0, "w2": 1}
    parts = {n: np.stack(np.split(values[n], 2, d)) for n, d in cuts.items()}
    own = {n: graph.parameter(n, shape=a.shape[1:], dtype="float64", varying="dp") for n, a in parts.items()}
    w = {n: F.all_gather(v, "dp", cuts[n], varying) for n, v in own.items()}
    w["b2"] = graph.parameter("b2", values["b2"])
    loss = F.all_reduce(linear_net(graph, w, x, target), "dp", "mean")
    loss = loss + F.sum(w["b2"] * w["b2"]) * DECAY + sum((summed(v * v) for v in own.values()), start=0.0) * DECAY
    wrt = {**own, "b2": w["b2"]}
    grads = dict(zip(wrt, grt.grad(loss, list(wrt.values())), strict=True))
    scattered = sum(n.op.name == "reduce_scatter" for n in graph.nodes)
    assert scattered == (3 if varying else 0) and all(grads[n].type.varying == v.type.varying for n, v in wrt.items())
    tables = walked(graph, {"x": images, "target": targets, **parts})
    assert world_of(tables, loss) == pytest.approx(expected, rel=1e-12)
    for n, g in grads.items():
        whole = np.stack(np.split(gradients[n], 2, cuts[n])) if n in cuts else np.stack([gradients[n]] * 2)
        np.testing.assert_allclose(world_of(tables, g), whole, rtol=1e-10, atol=1e-13, err_msg=n)


@pytest.mark.parametrize("scatter", [False, True])
def test_a_pair_of_sharded_products_is_the_dense_one(scatter: bool) -> None:
    """Columns, then rows, along one axis and parts of the batch along the other; the sum in all, or cut and gathered again."""
    expected, values, gradients = dense("linear")
    mesh = Mesh(dp=2, tp=3)
    graph = Graph(mesh=mesh)
    images, targets = batch(2)
    x = graph.input("x", images.shape[1:], "float64", varying="dp")
    target = graph.input("target", targets.shape[1:], "int64", varying="dp")
    cuts = {"w1": 0, "b1": 0, "w2": 1}
    parts = {n: np.stack(np.split(values[n], 3, d)) for n, d in cuts.items()}
    w = {n: graph.parameter(n, shape=a.shape[1:], dtype="float64", varying="tp") for n, a in parts.items()}
    w["b2"] = graph.parameter("b2", values["b2"])
    hidden = F.gelu(F.linear(F.flatten(x, 1), w["w1"], w["b1"]))
    product = F.linear(hidden, w["w2"])
    assert str(product.type) == "f64[6,5]@dp*tp"
    if scatter:
        product = F.all_gather(F.reduce_scatter(product, "tp"), "tp", varying=False)
    else:
        product = F.all_reduce(product, "tp")
    loss = F.all_reduce(F.cross_entropy(product + w["b2"], target), "dp", "mean")
    loss = loss + sum((summed(v * v) for v in w.values()), start=0.0) * DECAY
    grads = dict(zip(w, grt.grad(loss, list(w.values())), strict=True))
    worlds = {n: np.stack([a] * 2) for n, a in parts.items()}
    worlds |= {n: np.stack([a] * 3, 1) for n, a in (("x", images), ("target", targets))}
    tables = walked(graph, worlds)
    assert world_of(tables, loss) == pytest.approx(expected, rel=1e-12)
    for n, g in grads.items():
        whole = np.stack(np.split(gradients[n], 3, cuts[n])) if n in cuts else np.stack([gradients[n]] * 3)
        np.testing.assert_allclose(world_of(tables, g)[1], whole, rtol=1e-10, atol=1e-13, err_msg=n)


def test_a_loop_over_steps_is_the_large_batch() -> None:
    """The cell's weights are the same in all processes, each has sequences of its own."""

    def built(graph: Graph, rows: int, varying: str | tuple[str, ...]) -> tuple[Value, list[Value]]:
        x = graph.input("x", (4, rows, 3), "float64", varying=varying)
        start = graph.constant(0.0, "float64")
        w, u = graph.parameter("w", values["w"]), graph.parameter("u", values["u"])
        _, h = F.scan(lambda h, x: (s := F.tanh(F.linear(x, w) + F.linear(h, u)), s), F.expand(start, (rows, 5)), x)
        loss = F.mean(h * h)
        return loss, [w, u]

    rng = np.random.default_rng(3)
    values = {"w": rng.standard_normal((5, 3)), "u": rng.standard_normal((5, 5))}
    x = rng.standard_normal((4, 6, 3))
    one = Graph()
    loss, wrt = built(one, 6, ())
    grads = grt.grad(loss, wrt)
    expected = evaluate(one, values | {"x": x})
    many = Graph(mesh=Mesh(dp=2))
    part, weights = built(many, 3, "dp")
    total = F.all_reduce(part, "dp", "mean")
    found = grt.grad(total, weights)
    tables = walked(many, {"x": np.stack(np.split(x, 2, 1))})
    assert world_of(tables, total) == pytest.approx(float(expected[loss]), rel=1e-12)
    for a, b in zip(found, grads, strict=True):
        np.testing.assert_allclose(world_of(tables, a)[0], expected[b], rtol=1e-10)


# --- passes, buckets -------------------------------------------------------------------------------------------------------


def stepped(mesh: Mesh) -> Graph:
    """A training step of the linear network, whose rows are in parts along all axes, with one of its weights sharded."""
    graph = Graph(mesh=mesh)
    axes, last = list(mesh.axes), list(mesh.axes)[-1]
    x = graph.input("x", (2, 2, 6, 6), "float64", varying=axes)
    target = graph.input("target", (2,), "int64", varying=axes)
    rng = np.random.default_rng(1)
    w = {n: graph.parameter(n, rng.standard_normal(s) * 0.2) for n, s in SHAPES["linear"][1].items() if n != "b1"}
    part = graph.parameter("b1", shape=(12 // mesh.axes[last],), dtype="float64", varying=last)
    loss = linear_net(graph, {**w, "b1": F.all_gather(part, last)}, x, target)
    for axis in axes:
        loss = F.all_reduce(loss, axis, "mean")
    graph.output("loss", loss)
    graph.output("worst", F.all_reduce(F.amax(x) * 1.0, last, "max"))
    wrt = [*w.values(), part]
    for v, g in zip(wrt, grt.grad(loss, wrt), strict=True):
        graph.update(v, v - 0.1 * g)
    return graph


def results(graph: Graph) -> dict[str, World]:
    rng = np.random.default_rng(2)
    assert graph.mesh is not None
    sizes = tuple(graph.mesh.axes.values())
    worlds = {"x": rng.standard_normal((*sizes, 2, 2, 6, 6)), "target": rng.integers(0, 5, (*sizes, 2))}
    worlds["b1"] = np.broadcast_to(rng.standard_normal((sizes[-1], 12 // sizes[-1])), (*sizes, 12 // sizes[-1]))
    tables = walked(graph, worlds)
    return {name: world_of(tables, v) for name, v in {**graph.outputs, **graph.updates}.items()}


@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("mesh", [Mesh(dp=1), Mesh(dp=3), Mesh(tp=2, dp=2), Mesh(dp=1, tp=2), Mesh(dp=2, tp=1)], ids=str)
def test_every_pass_keeps_the_results_and_their_types(mesh: Mesh, loops: bool) -> None:
    graph = stepped(mesh)
    expected = results(graph)
    steps, _ = run_passes(graph, PassPolicy(splits=lambda node: 0, loops=loops), {}, check=True)
    assert "bucket" in dict(steps)
    for name, after in steps[1:]:
        after.verify()
        assert after.mesh == mesh, name
        for result, world in results(after).items():
            np.testing.assert_allclose(world, expected[result], rtol=1e-11, atol=1e-13, err_msg=f"{result} behind {name}")
    alone = {axis for axis, size in mesh.axes.items() if size == 1}
    left = {n.attrs["axis"] for n in steps[-1][1].nodes if n.op.kind is Kind.COLLECTIVE}
    assert not alone & left, "a process that is alone exchanges nothing"


def messages(graph: Graph) -> list[int]:
    """The bytes of each sum of gradients."""
    sums = [n for n in graph.nodes if n.op.name == "all_reduce" and n.origin.phase == "bwd"]
    return [sum(v.type.nbytes for v in n.inputs) for n in sums]


@pytest.mark.parametrize("size", [0, 1 << 10, 1 << 40])
def test_buckets_of_any_size_give_the_same_sums(size: int) -> None:
    graph, decisions = stepped(Mesh(dp=2)), list[Decision]()
    found = fill_buckets(graph, size, decisions)
    found.verify()
    for name, world in results(found).items():
        assert (world == results(graph)[name]).all(), name
    assert sum(messages(found)) == sum(messages(graph))
    if size == 0:
        assert found is graph and not decisions
    elif size == 1 << 10:
        assert 1 < len(messages(found)) < len(messages(graph)) or max(messages(graph)) > size
        assert all(b <= size or b in messages(graph) for b in messages(found))
        refused = [d for d in decisions if not d.taken]
        assert refused and all("larger than 1024 bytes" in d.reason and "bucket_bytes" in d.change for d in refused)
    else:
        assert len(messages(found)) == 1 and all(d.taken for d in decisions)


@pytest.mark.parametrize("policy", POLICIES)
def test_gradients_are_sent_in_half_as_many_bytes(policy: str) -> None:
    """On request: each is rounded to 8 bits before its sum and behind it; norms' sums and updates stay as they are."""
    mesh = Mesh(dp=2)

    def made(dtype: str | None) -> tuple[Graph, list[Decision]]:
        graph, rng, decisions = Graph(mesh), np.random.default_rng(0), list[Decision]()
        x = graph.input("x", (3, 6), varying="dp")
        w = graph.parameter("w", rng.standard_normal((6, 8)).astype(np.float32))
        one = graph.parameter("one", np.float32(1.5))
        mean, var = (graph.parameter(n, np.full(8, a, np.float32), trainable=False) for n, a in (("mean", 0), ("var", 1)))
        h = F.batch_norm(x @ w, mean, var, training=True, sync=True)
        loss = F.all_reduce(F.mean(F.square(h * h - one)), "dp", "mean")
        optim.SGD(lr=1.0).apply([w, one], grt.grad(loss, [w, one]), graph.constant(1.0))
        graph = shard_updates(graph, policy, {}, decisions)
        return narrow_sums(graph, dtype, decisions), decisions

    wide, (graph, decisions) = made(None)[0], made("bfloat16")
    graph.verify()
    (told,) = [d for d in decisions if d.stage == "wire" and d.taken]
    sent = [n for n in graph.nodes if n.op.kind is Kind.COLLECTIVE and n.types[0].dtype.name == "bfloat16"]
    assert len(sent) == 1 and sent[0].op.name == ("all_reduce" if policy in ("all_reduce", "zero1") else "reduce_scatter")
    assert "is sent in bfloat16" in str(told)
    cut, feeds = shardings(mesh, list(graph.sources.values())), np.random.default_rng(3).standard_normal((2, 3, 6))
    found = []
    for one in (wide, graph):
        tables = []
        for rank in range(2):
            own = {n: cut[n].part(a, mesh.coordinates(rank)) if n in cut else a for n, a in one.initial.items()}
            own["x"] = feeds[rank]
            tables.append({n.outputs[0]: fit(own[name], n.outputs[0], "float32") for name, n in one.sources.items()})
        walk_ranks([n for n in one.nodes if n.op.kind is not Kind.SOURCE], mesh, tables, "float32")
        parts = [table[one.updates["w"]] for table in tables]
        found.append((cut["w"].join(parts) if "w" in cut else parts[0]) - one.initial["w"])
    error = np.abs(found[1] - found[0])
    assert error.max() > 0 and error.max() <= 2**-7 * np.abs(found[0]).max()
    assert made(None)[1] == [d for d in decisions if d.stage != "wire"]
    with pytest.raises(errors.ArgumentError, match="sent as they are .*, or in bfloat16; got float16"):
        narrow_sums(wide, "float16", [])
    with pytest.raises(errors.ArgumentError, match="reduce_dtype='bfloat16' is for several processes"):
        grt.compile(optimized(None, 2, "momentum"), target="reference", reduce_dtype="bfloat16")


def test_sums_that_wait_for_each_other_are_not_of_one_bucket() -> None:
    graph = Graph(mesh=Mesh(dp=2))
    x, w = graph.input("x", (4,), varying="dp"), graph.input("w", (4,))
    (g,) = grt.grad(summed(w * w * x), [w])
    (h,) = grt.grad(summed(F.square(g * w * x)), [w])
    graph.output("g", g)
    graph.output("h", h)
    decisions: list[Decision] = []
    fill_buckets(graph, 1 << 40, decisions)
    assert any("is made of the sum of the other" in d.reason for d in decisions)


# --- policies ---------------------------------------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "momentum": lambda: optim.SGD(lr=0.05, momentum=0.9),
    "clipped": lambda: optim.AdamW(lr=0.05, clip_grad_norm=0.1),
    "accumulated": lambda: optim.Adam(lr=0.05, accumulation_steps=2, ema_decay=0.9),
    "lamb": lambda: optim.LAMB(lr=0.05),
    "muon": lambda: optim.Muon(lr=0.05),
}


def optimized(mesh: Mesh | None, rows: int, optimizer: str) -> Graph:
    """A training step of two layers, none of whose sizes is a multiple of all numbers of processes."""
    graph, varying = Graph(mesh), [] if mesh is None else [mesh.data]
    x, target = graph.input("x", (rows, 6), "float64", varying=varying), graph.input("t", (rows, 5), "float64", varying=varying)
    rng = np.random.default_rng(0)
    shapes = {"w1": (6, 8), "b1": (8,), "w2": (8, 5), "b2": (5,)}
    w = {n: graph.parameter(n, rng.standard_normal(shape)) for n, shape in shapes.items()}
    y = F.tanh(x @ w["w1"] + w["b1"]) @ w["w2"] + w["b2"]
    loss = F.mean(F.square(y - target))
    loss = loss if mesh is None else F.all_reduce(loss, mesh.data, "mean")
    parameters = list(w.values())
    OPTIMIZERS[optimizer]().apply(parameters, grt.grad(loss, parameters), graph.constant(0.05, "float64"))
    graph.output("loss", loss)
    return graph


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mesh", [Mesh(dp=3), Mesh(tp=2, dp=2)], ids=str)
def test_policies_train_as_one_process_does(mesh: Mesh, policy: str, optimizer: str) -> None:
    """Three steps, behind all passes; what each keeps is less, and is that of one process when it is put together."""
    one, n = optimized(None, 6, optimizer), mesh.axes[mesh.data]
    graph = shard_updates(optimized(mesh, 6 // n, optimizer), policy, {}, [])
    graph.verify()
    graph = run_passes(graph, PassPolicy(splits=lambda node: 0, loops=True), {}, check=True)[0][-1][1]
    cut = shardings(mesh, list(graph.sources.values()))
    whole = dict(one.initial)
    parts = [
        {name: cut[name].part(a, mesh.coordinates(r)) if name in cut else a for name, a in graph.initial.items()}
        for r in range(mesh.size)
    ]
    state = graph.updates.keys() - {"w1", "b1", "w2", "b2"}
    trained = {"b1", "b2"} if optimizer == "muon" else {"w1", "b1", "w2", "b2"}  # Muon needs whole matrices
    assert (trained <= cut.keys()) == (policy == "fsdp") and (policy == "all_reduce") == (not cut)
    if optimizer == "momentum" and policy != "all_reduce":
        assert state <= cut.keys() and all(part_shape(cut[s].cuts[0], n) == parts[0][s].shape for s in state)
    rng = np.random.default_rng(4)
    for _ in range(3):
        batch = {"x": rng.standard_normal((6, 6)), "t": rng.standard_normal((6, 5))}
        expected = evaluate(one, whole | batch)
        tables: list[dict[Value, np.ndarray]] = []
        for r in range(mesh.size):
            at = mesh.coordinates(r)[mesh.data]
            feeds = parts[r] | {name: np.split(a, n)[at] for name, a in batch.items()}
            tables.append({s.outputs[0]: fit(feeds[s.name], s.outputs[0], "float64") for s in graph.sources.values()})
        walk_ranks([node for node in graph.nodes if node.op.kind is not Kind.SOURCE], mesh, tables)
        loss = expected[one.outputs["loss"]]
        np.testing.assert_allclose(world_of(tables, graph.outputs["loss"]), loss, rtol=1e-6)
        whole |= {name: expected[v] for name, v in one.updates.items()}
        for name, v in graph.updates.items():
            for r, table in enumerate(tables):
                parts[r][name] = table[v]
            found = cut[name].join([p[name] for p in parts]) if name in cut else parts[-1][name]
            np.testing.assert_allclose(found, whole[name], rtol=1e-6, atol=1e-8, err_msg=name)


# --- types, meshes, what is refused ---------------------------------------------------------------------------------------


def test_a_mesh_says_who_stands_where() -> None:
    mesh = Mesh(dp=2, tp=3)
    assert mesh.size == 6 and mesh.coordinates(4) == {"dp": 1, "tp": 1}
    assert [mesh.coordinates(r) for r in range(6)] == [{"dp": d, "tp": t} for d in range(2) for t in range(3)]
    assert mesh.groups("tp") == [[0, 1, 2], [3, 4, 5]] and mesh.groups("dp") == [[0, 3], [1, 4], [2, 5]]
    assert mesh.varying("tp") == ("tp",) and mesh.varying(["tp", "dp", "tp"]) == ("dp", "tp")
    assert str(mesh) == "dp=2*tp=3" and repr(mesh) == "Mesh(dp=2, tp=3)" and Mesh.parse(str(mesh)) == mesh
    assert mesh != Mesh(tp=3, dp=2) and mesh != Mesh(dp=2) and hash(mesh) == hash(Mesh(dp=2, tp=3)) and mesh != "dp=2*tp=3"


@given(
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(["float32", "bfloat16", "int64", "bool"]),
    st.sets(st.sampled_from(["dp", "tp", "pp", "a_1"])),
    st.booleans(),
)
def test_types_are_printed_and_read(shape: list[int], dtype: str, varying: set[str], transposed: bool) -> None:
    made = TensorType(tuple(shape), grt.types.as_dtype(dtype)).with_order(range(len(shape))[:: -1 if transposed else 1])
    type = made.over(tuple(sorted(varying)))
    assert TensorType.parse(str(type)) == type and type.same(made) and type.like(made) == (not varying)


def test_results_vary_where_an_operand_does() -> None:
    graph = Graph(mesh=Mesh(dp=2, tp=2))
    both, dp = graph.input("both", (2, 3), varying=("tp", "dp")), graph.input("dp", (2, 3), varying="dp")
    tp, none = graph.parameter("tp", np.ones((3, 3)), varying=["tp"]), graph.input("none", (2, 3))
    assert str(both.type) == "f32[2,3]@dp*tp" and str(tp.type) == "f64[3,3]@tp"
    assert (dp + none).type.varying == ("dp",) and (both + dp).type.varying == ("dp", "tp") == (
        dp.cast("float64") @ tp
    ).type.varying
    assert none.sum().type.varying == () and F.pvary(none, "tp").type.varying == ("tp",) and F.pvary(dp, "dp") is dp
    assert F.concat([none, dp]).type.varying == F.where(dp > 0, none, 1.0).type.varying == ("dp",)


def test_a_wrong_type_is_found() -> None:
    """In a graph that was written by hand: the collective says that its result is the same in all processes."""
    graph = Graph(mesh=Mesh(dp=2))
    graph.output("y", F.all_reduce(graph.input("x", (4,), varying="dp"), "dp"))
    text = str(graph)
    right = next(line for line in text.splitlines() if " = all_reduce(" in line)
    name, type = right.split(" : ")[0], right.split(" : ")[1].split(" = ")[0]
    assert type == "f32[4]"
    with pytest.raises(errors.GraphError, match=r"all_reduce_0 : f32\[4\]@dp = .*inference says f32\[4\]"):
        Graph.parse(text.replace(f"{name} : {type}", f"{name} : {type}@dp"))
    with pytest.raises(errors.GraphError, match=r"x \(.*\) varies along dp, and the graph has no mesh"):
        Graph.parse(text.replace("mesh dp=2\n", "")).verify()
    with pytest.raises(errors.GraphError, match="all_reduce_0 .*is of 2 processes along dp, and the mesh is dp=4"):
        Graph.parse(text.replace("mesh dp=2\n", "mesh dp=4\n")).verify()


def _x(g: Graph, *shape: int, varying: str = "dp", size: int = 2) -> Value:
    """An input of a graph of two processes."""
    if g.mesh is None:
        g.mesh = Mesh(dp=size, tp=2)
    return g.input("x", shape or (4, 3), varying=varying)


ALONE = "build on Graph\\(mesh=Mesh\\(dp=4\\)\\)"
SAME = "the same in all processes along tp, or of a step of scan"
WRONG: list[tuple[str, Callable[[Graph], Any], str]] = [
    ("pvary", lambda g: F.pvary(g.input("x"), "dp"), ALONE),
    ("pvary", lambda g: F.pvary(_x(g), "pp"), "has no axis 'pp'; it is dp=2\\*tp=2"),
    ("pvary", lambda g: F.pvary(_x(g), 0), "axis must be a str, got 0"),
    ("all_reduce", lambda g: F.all_reduce(g.input("x"), "dp"), ALONE),
    ("all_reduce", lambda g: F.all_reduce(_x(g), "tp"), SAME),
    ("all_reduce", lambda g: F.all_reduce(_x(g), "dp", "prod"), "op must be sum, mean, max or min, got 'prod'"),
    ("all_gather", lambda g: F.all_gather(g.input("x", (2,)), "dp"), ALONE),
    ("all_gather", lambda g: F.all_gather(_x(g), "tp"), SAME),
    ("all_gather", lambda g: F.all_gather(_x(g), "dp", 2), "dim"),
    ("reduce_scatter", lambda g: F.reduce_scatter(_x(g), "pp"), "has no axis 'pp'"),
    ("reduce_scatter", lambda g: F.reduce_scatter(_x(g), "tp"), SAME),
    ("reduce_scatter", lambda g: F.reduce_scatter(_x(g), "dp", 1), r"dimension 1 of \[4, 3\] must be a multiple of 2"),
    ("all_to_all", lambda g: F.all_to_all(_x(g), "tp"), SAME),
    ("all_to_all", lambda g: F.all_to_all(_x(g), "dp", 1, 0), r"dimension 1 of \[4, 3\] must be a multiple of 2"),
    ("all_to_all", lambda g: F.all_to_all(_x(g), "dp", 0, -3), "dim"),
    ("ppermute", lambda g: F.ppermute(_x(g), "tp", [(0, 1)]), SAME),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [(0, 2)]), "of numbers below 2"),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [(0, 1, 1)]), r"pairs \(sender, receiver\)"),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [(0, 0), (0, 1)]), "no process may send twice"),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [(0, 1), (1, 1)]), "no process may receive twice"),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [(0, 0.5)]), "perm"),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [0, 1]), "perm"),
    ("ppermute", lambda g: F.ppermute(_x(g), "dp", [("a", "b")]), "perm"),
    ("broadcast_from", lambda g: F.broadcast_from(_x(g), "tp"), SAME),
    ("broadcast_from", lambda g: F.broadcast_from(_x(g), "dp", 2), "source must be below 2, the processes along dp, got 2"),
    ("broadcast_from", lambda g: F.broadcast_from(_x(g), "dp", -1), "source must be below 2"),
    ("shard", lambda g: F.shard(g.input("x", (2,)), "dp"), ALONE),
    ("shard", lambda g: F.shard(_x(g, varying="tp"), "dp", 1), r"dimension 1 of \[4, 3\] must be a multiple of 2"),
    ("shard", lambda g: F.shard(_x(g), "dp", 5), "dim"),
    ("axis_index", lambda g: F.axis_index(g, "dp"), ALONE),
    ("axis_index", lambda g: F.axis_index(_x(g).graph, "pp"), "has no axis 'pp'"),
    ("axis_index", lambda g: F.axis_index(_x(g).graph, 1), "axis must be a str, got 1"),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Callable[[Graph], Any], message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message) as caught:
        call(Graph())
    assert "test_collectives.py" in str(caught.value) or name in str(caught.value)


def test_what_graphs_and_meshes_refuse() -> None:
    for axes, message in (
        ({}, "at least one axis"),
        ({"dp": 0}, "1 or more; dp is 0"),
        ({"dp": True}, "dp is True"),
        ({"dp": 2.0}, "dp is 2.0"),
        ({"d p": 2}, "named like dp or tp, got 'd p'"),
        ({"_": 2}, "named like dp or tp"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            Mesh(**axes)
    with pytest.raises(errors.ArgumentError, match=r"about the axes of a mesh: build on Graph\(mesh=Mesh\(dp="):
        Graph().input("x", (2,), varying="dp")
    graph = Graph(mesh=Mesh(dp=2))
    with pytest.raises(errors.ArgumentError, match="has no axis 'tp'; it is dp=2"):
        graph.parameter("p", shape=(2,), varying=("dp", "tp"))
    x, p = graph.input("x", (2,), varying="dp"), graph.parameter("p", shape=(2,))
    with pytest.raises(errors.GraphError, match=r"'p' is the same in all processes, its update .* is f32\[2\]@dp"):
        graph.update(p, p + x)
    loss = F.sum(p * x)
    with pytest.raises(errors.GraphError, match=r"each process has a loss of its own.*all_reduce\(loss, 'dp', \"mean\"\)"):
        grt.grad(loss, [p])
    (of_all,) = grt.grad(loss, [p], F.pvary(graph.constant(1.0), "dp"))  # each says what its own counts
    assert of_all.type.same(p.type)
    graph.update(p, p - grt.grad(F.all_reduce(loss, "dp", "mean"), [p])[0])


def test_steps_of_a_loop_exchange_nothing() -> None:
    graph = Graph(mesh=Mesh(dp=2))
    x, w = graph.input("x", (8, 4)), graph.input("w", (4,), varying="dp")
    for step in (lambda h, x: (F.all_reduce(h * w, "dp") + x, None), lambda h, x: (F.pvary(h, "dp"), None)):
        with pytest.raises(
            errors.ArgumentError, match="about other processes in a step: exchange before the scan, or behind it"
        ):
            F.scan(step, x[0], x)
    h, _ = F.scan(lambda h, x: (h * w + x, None), x[0], x)
    assert h.type.varying == ("dp",)


def test_one_process_is_not_a_mesh() -> None:
    graph = Graph(mesh=Mesh(dp=2))
    graph.output("y", F.all_reduce(graph.input("x", (2,), varying="dp"), "dp"))
    with pytest.raises(
        errors.TargetError, match=r"Mesh\(dp=2\) is 2 processes, and this is one: .*torchrun --nproc-per-node 2"
    ):
        grt.compile(graph, target="cpu")({"x": np.ones(2, np.float32)})
