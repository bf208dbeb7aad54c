"""Drawn graphs on meshes: collectives behind and beside one another, their gradients, and what passes make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from hypothesis import given
from hypothesis import strategies as st
from test_collectives import summed, walked, world_of

import graphrt as grt
from graphrt import Graph, Mesh, Value
from graphrt import ops as F
from graphrt.passes.pipeline import PassPolicy, run_passes

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the reference only, the same in both lanes")
SIDE = 6  # of every value, which is a square: one, two and three processes cut it
MESHES = [Mesh(dp=2), Mesh(dp=3), Mesh(dp=2, tp=2), Mesh(tp=3, dp=2), Mesh(dp=1, tp=2)]
Draw = Callable[[Any], Any]
Step = Callable[[Draw, Value, Value, str], Value]  # of two values of the graph, the first varying or not along an axis


def square(v: Value) -> Value:
    """As many numbers as a square has, or several times as many, of which it is the mean."""
    return F.mean(F.reshape(v, (-1, SIDE, SIDE)), 0)


def permuted(draw: Draw, v: Value, axis: str) -> Value:
    size = v.graph.mesh.axes[axis]  # type: ignore[union-attr]
    senders = draw(st.lists(st.sampled_from(range(size)), unique=True))
    return F.ppermute(v, axis, list(zip(senders, draw(st.permutations(range(size))), strict=False)))


def dim(draw: Draw) -> int:
    return draw(st.integers(0, 1))


ANYWHERE: dict[str, Step] = {
    "tanh": lambda draw, v, u, axis: F.tanh(v),
    "sum": lambda draw, v, u, axis: v + u,
    "product": lambda draw, v, u, axis: v * u,
    "matmul": lambda draw, v, u, axis: F.matmul(v, u) * 0.3,
    "rows": lambda draw, v, u, axis: F.softmax(v, dim(draw)) - F.sum(u, 1, keepdim=True),
    "turned": lambda draw, v, u, axis: F.permute(v, (1, 0)),
}
VARYING: dict[str, Step] = {
    "all_reduce": lambda draw, v, u, axis: F.all_reduce(v, axis, draw(st.sampled_from(["sum", "mean", "max", "min"]))),
    "all_gather": lambda draw, v, u, axis: square(F.all_gather(v, axis, dim(draw), draw(st.booleans()))),
    "scatter": lambda draw, v, u, axis: F.all_gather(
        F.reduce_scatter(v, axis, dim(draw)), axis, dim(draw), draw(st.booleans())
    ),
    "all_to_all": lambda draw, v, u, axis: F.all_to_all(v, axis, dim(draw), dim(draw)),
    "ppermute": lambda draw, v, u, axis: permuted(draw, v, axis),
    "broadcast": lambda draw, v, u, axis: F.broadcast_from(v, axis),
}
SAME: dict[str, Step] = {
    "pvary": lambda draw, v, u, axis: F.pvary(v, axis),
    "shard": lambda draw, v, u, axis: F.all_gather(F.shard(v, axis, dim(draw)), axis, dim(draw), draw(st.booleans())),
    "index": lambda draw, v, u, axis: v * (F.cast(F.axis_index(v.graph, axis), "float64") + 0.5),
}


@st.composite
def graphs(draw: Draw) -> Graph:
    """Outputs ``loss``, and the gradients of the inputs and the parameter, whose updates they are part of."""
    mesh = draw(st.sampled_from(MESHES))
    graph, axes = Graph(mesh=mesh), sorted(mesh.axes)
    pool = [
        graph.input("x", (SIDE, SIDE), "float64", varying=axes),
        graph.input("y", (SIDE, SIDE), "float64", varying=axes[:1]),
    ]
    w = graph.parameter("w", np.random.default_rng(1).standard_normal((SIDE, SIDE)) * 0.5)
    pool.append(w)
    for _ in range(draw(st.integers(2, 9))):
        v, u, axis = draw(st.sampled_from(pool[-4:])), draw(st.sampled_from(pool)), draw(st.sampled_from(axes))
        steps = ANYWHERE | (VARYING if axis in v.type.varying else SAME)
        found = steps[draw(st.sampled_from(sorted(steps)))](draw, v, u, axis)
        pool.append(F.tanh(found if found.shape == (SIDE, SIDE) else F.reshape(found, (SIDE, SIDE))))
    loss = graph.output("loss", sum((summed(F.sin(v)) for v in pool[3:]), start=summed(pool[-1])))
    sources = [graph.sources[name].outputs[0] for name in ("x", "y", "w")]
    for v, d in zip(sources, grt.grad(loss, sources), strict=True):
        graph.output(f"d{v.node.name}", d)
        if v is w:
            graph.update(w, w - 0.1 * d)
    return graph


def worlds(graph: Graph, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Numbers for each process, the same along axes over which an input does not vary."""
    assert graph.mesh is not None
    found = {}
    for name in ("x", "y"):
        varying = graph.sources[name].types[0].varying
        own = [size if axis in varying else 1 for axis, size in graph.mesh.axes.items()]
        numbers = rng.standard_normal((*own, SIDE, SIDE))
        found[name] = np.broadcast_to(numbers, (*graph.mesh.axes.values(), SIDE, SIDE)).copy()
    return found


def distinct(graph: Graph, world: np.ndarray, varying: Sequence[str]) -> np.ndarray:
    """``world`` with one of what is the same along an axis."""
    assert graph.mesh is not None
    return world[tuple(slice(None) if axis in varying else slice(0, 1) for axis in graph.mesh.axes)]


def everything(graph: Graph, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tables = walked(graph, given)
    return {name: world_of(tables, v) for name, v in {**graph.outputs, **graph.updates}.items()}


@given(graphs(), st.integers(0, 2**31))
def test_gradients_are_those_of_the_world(graph: Graph, seed: int) -> None:
    """The loss of all by differences along a direction, of inputs and of the parameter that all have."""
    rng, step = np.random.default_rng(seed), 1e-6
    given_worlds, whole = worlds(graph, rng), graph.initial["w"]
    found, along = everything(graph, given_worlds), worlds(graph, rng)
    turn = rng.standard_normal(whole.shape)

    def loss(by: float) -> float:
        graph.initial["w"] = whole + by * turn
        result = everything(graph, {name: world + by * along[name] for name, world in given_worlds.items()})["loss"]
        graph.initial["w"] = whole
        return float(result.reshape(-1)[0])

    slope = (found["dw"].reshape(-1, SIDE, SIDE)[0] * turn).sum()
    for name, world in along.items():
        varying = graph.sources[name].types[0].varying
        slope += (distinct(graph, found[f"d{name}"], varying) * distinct(graph, world, varying)).sum()
    there, back = loss(step), loss(-step)
    scale = max(abs(slope), float(np.abs(found["loss"]).max()), 1.0)
    np.testing.assert_allclose(slope, (there - back) / (2 * step), atol=1e-5 * scale, err_msg=str(graph))


@given(graphs(), st.booleans(), st.integers(0, 2**31))
def test_passes_keep_the_results(graph: Graph, loops: bool, seed: int) -> None:
    given_worlds = worlds(graph, np.random.default_rng(seed))
    expected = everything(graph, given_worlds)
    steps, _ = run_passes(graph, PassPolicy(splits=lambda node: 0, loops=loops), {}, check=True)
    for name, after in steps[1:]:
        after.verify()
        for result, world in everything(after, given_worlds).items():
            np.testing.assert_allclose(
                world, expected[result], rtol=1e-9, atol=1e-10, err_msg=f"{result} behind {name}\n{graph}"
            )
    again = Graph.parse(str(graph))
    assert str(again) == str(graph)
