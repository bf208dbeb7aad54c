"""The size of buckets follows from what is predicted of kernels and of messages, and is explained."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import Graph, Mesh
from graphrt import ops as F
from graphrt.ir import Node
from graphrt.op import Kind
from graphrt.passes.bucket import fill_buckets
from graphrt.passes.bucket_size import BYTES, MATTERS, SIZES, Pace
from graphrt.passes.decision import Decision
from graphrt.passes.pipeline import PassPolicy, run_passes
from graphrt.targets.target import Settings, parse

MB = 1 << 20
LAYERS, WIDTH = 24, 512  # gradients of 1 MB each
PACE = Pace(flop=1e-12, byte=0.0, launch=0.0, latency=1e-6, sent=1e-11)


def step(mesh: Mesh) -> Graph:
    """A step of layers alike."""
    graph = Graph(mesh)
    h = graph.input("x", (4, WIDTH), varying="dp")
    for i in range(LAYERS):
        h = F.tanh(F.linear(h, graph.parameter(f"w{i}", np.zeros((WIDTH, WIDTH), np.float32))))
    parameters = graph.parameters()
    for p, g in zip(parameters, grt.grad(F.all_reduce(F.mean(h), "dp", "mean"), parameters), strict=True):
        graph.update(p, p - g * 0.1)
    return graph


@functools.cache
def before(dp: int) -> Graph:
    """The step of so many processes as the pass gets it."""
    steps, _ = run_passes(step(Mesh(dp=dp)), PassPolicy(splits=lambda node: 0), {})
    names = [name for name, _ in steps]
    return steps[names.index("bucket") - 1][1]


def planned(pace: Pace | None, size: int | None = None, dp: int = 8) -> tuple[list[int], list[Decision]]:
    """Megabytes of each message, and what was said of their size."""
    decisions: list[Decision] = []
    graph = fill_buckets(before(dp), size, decisions, pace)
    sums = [n for n in graph.nodes if n.op.name == "all_reduce" and n.inputs[0].type.size > 1]
    return [sum(v.type.nbytes for v in n.inputs) // MB for n in sums], [d for d in decisions if d.stage == "buckets"]


@pytest.mark.parametrize("size", [*SIZES, None])
def test_messages_are_of_the_size(size: int | None) -> None:
    """Without predictions it is 8 MB, and nothing is said of it."""
    messages, said = planned(None, size)
    assert sum(messages) == LAYERS and not said
    assert messages[:-1] == [min((size or BYTES) // MB, LAYERS)] * (len(messages) - 1)


@functools.cache
def products(dp: int) -> list[int]:
    """How many products are made until each sum may begin, in the order of the step: all are of one size."""
    made, found = dict[Node, int](), list[int]()
    for node in before(dp).nodes:
        if node.op.kind is Kind.CONTRACTION:
            made[node] = len(made) + 1
        if node.op.name == "all_reduce" and node.inputs[0].type.size > 1:
            source = node.inputs[0].node
            while source not in made:
                source = source.inputs[0].node
            found.append(made[source])
    assert len(made) == 3 * LAYERS - 1 and len(found) == LAYERS
    return sorted(found)


def end(size: int, pace: Pace, dp: int) -> float:
    """The time at which the last sum is there, by hand."""
    ready = [2 * 4 * WIDTH * WIDTH * pace.flop * number for number in products(dp)]
    free, each = 0.0, max(size // MB, 1)
    for start in range(0, LAYERS, each):
        bucket = ready[start : start + each]
        ring = 2 * (dp - 1) * pace.latency + 2 * (dp - 1) / dp * len(bucket) * MB * pace.sent
        trees = 2 * math.ceil(math.log2(dp)) * pace.latency + 2 * len(bucket) * MB * pace.sent
        free = max(free, bucket[-1]) + min(ring, trees)
    return free


@settings(max_examples=15)
@given(st.floats(1e-7, 1e-2), st.floats(1e-12, 1e-9), st.floats(1e-13, 1e-10), st.sampled_from([2, 8, 256]))
@example(5e-05, 8.663258950582446e-11, 4.767204676035768e-11, 2)  # the last two sums may begin a product apart
def test_the_size_is_that_of_the_least_predicted_time(latency: float, sent: float, flop: float, dp: int) -> None:
    pace = replace(PACE, latency=latency, sent=sent, flop=flop)
    ends = {size: end(size, pace, dp) for size in SIZES}
    took = ends[BYTES] - min(ends.values()) > MATTERS * 2 * 4 * WIDTH * WIDTH * flop * (3 * LAYERS - 1)
    messages, said = planned(pace, None, dp)
    chosen = messages[0] * MB if messages[0] < LAYERS else 32 * MB  # or 64, which is all of them too
    if took:
        assert ends[chosen] == pytest.approx(min(ends.values()), rel=1e-6)
    else:
        assert chosen == BYTES
    assert not said or sum(d.taken for d in said) == 1 and all(d.change for d in said if not d.taken)


def test_latency_makes_them_large_and_bytes_small() -> None:
    """Where messages take no latency the last should be small, where they take nothing else there should be one."""
    assert planned(replace(PACE, latency=0.0, sent=1e-9, flop=1e-9))[0] == [1] * LAYERS
    assert planned(replace(PACE, latency=1e-3, sent=0.0, flop=1e-12))[0] == [LAYERS]


@pytest.mark.parametrize("target", ["cpu", "null"])
def test_what_is_asked_for_is_taken(target: str) -> None:
    """Targets predict, and settings say otherwise."""
    assert parse(target, Settings()).passes().pace is not None
    messages, said = planned(PACE, 2 * MB)
    assert messages == [2] * (LAYERS // 2) and not said
