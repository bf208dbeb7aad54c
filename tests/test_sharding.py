"""Sharding: parameters cut into parts, and the policies that cut an optimizer's state, gradients and parameters.

All processes of a mesh are walked in NumPy, in float64, beside one process that has the whole batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from hypothesis import given
from hypothesis import strategies as st

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.errors import ArgumentError, GraphError, ShapeError
from graphrt.ir import Graph
from graphrt.mesh import Mesh
from graphrt.op import Kind
from graphrt.optim import Optimizer
from graphrt.passes.decision import Decision
from graphrt.passes.patterns.shard import POLICIES, shard_updates
from graphrt.passes.pipeline import run_passes
from graphrt.passes.simplify import dead_code
from graphrt.reference import walk_ranks
from graphrt.schedule.memory import waits
from graphrt.sharding import SUM, Sharding, cut_of, part_shape, shardings
from graphrt.targets.target import Settings, parse

pytestmark = pytest.mark.skipif(INTERPRETED, reason="walked in NumPy")

BATCH = 12
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: optim.SGD(lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda: optim.AdamW(lr=0.05),
    "clipped": lambda: optim.Adam(lr=0.05, clip_grad_norm=0.1),
    "largest": lambda: optim.Adamax(lr=0.05, clip_grad_value=0.02, ema_decay=0.9),
    "accumulated": lambda: optim.Adagrad(lr=0.05, initial_accumulator_value=0.5, accumulation_steps=2),
    "lamb": lambda: optim.LAMB(lr=0.05),
    "muon": lambda: optim.Muon(lr=0.05),
    "parts": lambda: optim.Adam(lr=0.05, groups=[("b*", {"lr": 0.02}), ("w2", {"frozen": True})]),
}


def built(mesh: Mesh | None, optimizer: Optimizer, rows: int) -> Graph:
    """A training step of two layers, whose sizes no number of processes divides all of, with a norm's statistics."""
    rng, g = np.random.default_rng(0), Graph(mesh)
    over: Any = "dp" if mesh else ()
    x, t = g.input("x", (rows, 8), varying=over), g.input("t", (rows, 5), varying=over)
    params = {name: g.parameter(name, rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    seen = g.parameter("seen", np.zeros(6), trainable=False)
    h = F.relu(x @ params["w1"] + params["b1"])
    mean = F.mean(h, 0)
    g.update(seen, seen * 0.9 + (F.all_reduce(mean, "dp", "mean") if mesh else mean) * 0.1)
    y = h @ params["w2"] + params["b2"]
    loss = F.mean((y - t) * (y - t))
    loss = F.all_reduce(loss, "dp", "mean") if mesh else loss
    g.output("loss", loss)
    optimizer.apply([*params.values()], grt.grad(loss, [*params.values()]), g.constant(0.05))
    return g


SHAPES = {"w1": (8, 6), "b1": (6,), "w2": (6, 5), "b2": (5,)}
BATCHES = [
    (np.random.default_rng(i).standard_normal((BATCH, 8)), np.random.default_rng(100 + i).standard_normal((BATCH, 5)))
    for i in range(4)
]


def steps(
    graph: Graph, mesh: Mesh, whole: bool = False, between: Graph | None = None
) -> tuple[list[float], dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """The losses of a few steps of all processes, the state behind them, whole, and what each process keeps.

    Each has its part of the batch, or the ``whole`` of it. Every other step is that of the graph ``between``.
    """
    cuts = shardings(mesh, list(graph.sources.values()))
    own = [mesh.coordinates(rank) for rank in range(mesh.size)]
    states = [{name: cuts[name].part(a, at) if name in cuts else a.copy() for name, a in graph.initial.items()} for at in own]
    losses = []
    update = graph
    for number, (x, t) in enumerate(BATCHES):
        graph = between if between is not None and number % 2 == 0 else update
        nodes = [n for n in graph.nodes if n.op.kind is not Kind.SOURCE]
        rows = BATCH // mesh.axes["dp"]
        tables = []
        for at, state in zip(own, states, strict=True):
            part = slice(None) if whole else slice(at["dp"] * rows, (at["dp"] + 1) * rows)
            feeds = {**state, "x": x[part], "t": t[part]}
            tables.append({n.outputs[0]: np.asarray(feeds[name]) for name, n in graph.sources.items()})
        walk_ranks(nodes, mesh, tables)
        losses.append(float(tables[0][graph.outputs["loss"]]))
        for state, table in zip(states, tables, strict=True):
            state.update({name: table[v] for name, v in graph.updates.items()})
    joined = {n: cuts[n].join([s[n] for s in states]) if n in cuts else states[0][n] for n in states[0]}
    return losses, joined, states


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_policies_train_as_one_process_does(name: str, policy: str, size: int) -> None:
    alone = Mesh(dp=1)
    expected, state, _ = steps(built(alone, OPTIMIZERS[name](), BATCH), alone)
    mesh, decisions = Mesh(dp=size), list[Decision]()
    graph = shard_updates(built(mesh, OPTIMIZERS[name](), BATCH // size), policy, {}, decisions)
    graph.verify()
    assert str(Graph.parse(str(graph))) == str(graph)
    losses, found, kept = steps(graph, mesh)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert found.keys() == state.keys()
    for key, array in state.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-7, atol=1e-9, err_msg=key)
    cut = shardings(mesh, list(graph.sources.values()))
    for s in kept[1:]:
        assert all(np.array_equal(s[key], kept[0][key]) for key in s if key not in cut)


def test_parameters_are_gathered_while_the_layer_before_is_computed() -> None:
    """Forward and backward, each layer's in a message that begins in front of the first launch that reads the one before."""
    mesh = Mesh(dp=2)
    graph = Graph(mesh)
    h = x = graph.input("x", (16, 32), varying="dp")
    layers = [graph.parameter(f"w{i}", np.ones((32, 32), np.float32)) for i in range(5)]
    for w in layers:
        h = F.tanh(h @ w)
    optim.SGD(lr=0.1).apply(layers, grt.grad(F.all_reduce(F.mean(h * x), "dp"), layers), graph.constant(0.1))
    counts = {}
    for size in (0, 2 * 32 * 32 * 4, 1 << 20):
        lowered = lower_graph(shard_updates(graph, "fsdp", {}, []), parse("cpu", Settings(bucket_bytes=size)), {})
        assert lowered.schedule is not None
        names = [[n.op.name for g in launch.groups for n in g.nodes] for launch in lowered.schedule.launches]
        gathers, first = [i for i, ops in enumerate(names) if ops == ["all_gather"]], waits(lowered.kernels)
        assert all(later < first[before] for before, later in zip(gathers, gathers[1:], strict=False)), f"{size}\n{names}"
        counts[size] = len(gathers)
    assert counts == {0: 9, 2 * 32 * 32 * 4: 5, 1 << 20: 2}, "the last layer's is there when the backward pass begins"


@pytest.mark.parametrize("size", [2, 4])
def test_each_process_keeps_its_share(size: int) -> None:
    mesh = Mesh(dp=size)

    def kept(policy: str) -> int:
        graph = shard_updates(built(mesh, optim.Adam(lr=0.05), BATCH // size), policy, {}, [])
        return sum(n.types[0].size for n in graph.nodes if n.op.name == "parameter" and n.types[0].ndim and n.name != "seen")

    whole = sum(int(np.prod(shape)) for shape in SHAPES.values())
    part = sum(int(np.prod(part_shape(cut_of("dp", size, shape), size))) for shape in SHAPES.values())
    assert kept("all_reduce") == 3 * whole
    assert kept("zero1") == kept("zero2") == whole + 2 * part
    assert kept("fsdp") == 3 * part


def test_verdicts_say_what_is_not_sharded_and_why() -> None:
    decisions: list[Decision] = []
    shard_updates(built(Mesh(dp=2), optim.Muon(lr=0.05), BATCH // 2), "fsdp", {}, decisions)
    told = {d.node: d for d in decisions}
    assert not told["w1"].taken and "all of it" in told["w1"].reason and told["w1"].change
    assert told["b1"].taken


def test_what_was_sharded_is_in_evaluation_too() -> None:
    """A program without updates gathers the parameters that are sharded already, and those only."""
    g = Graph(Mesh(dp=2))
    x, w, b = g.input("x", (3, 4)), g.parameter("w", np.ones((4, 6))), g.parameter("b", np.ones(6))
    g.output("y", x @ w + b)
    graph = shard_updates(g, "fsdp", {"w": True, "b": False}, [])
    assert graph.sources["w"].attrs["cuts"] and "cuts" not in graph.sources["b"].attrs


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["adamw", "clipped", "lamb", "muon"])
def test_gradients_are_added_up_without_a_message(name: str, policy: str, size: int) -> None:
    """Two batches make the step of one twice as large; the first is exchanged with nobody but for parameters that are cut."""

    def made(mesh: Mesh, rows: int, completes: bool | None) -> Graph:
        graph, over = Graph(mesh), () if completes is None else "dp"
        x, t = graph.input("x", (rows, 8), varying=over), graph.input("t", (rows, 5), varying=over)
        params = {n: graph.parameter(n, np.random.default_rng(1).standard_normal(shape)) for n, shape in SHAPES.items()}
        y = F.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
        loss = F.mean((y - t) * (y - t))
        graph.output("loss", loss)
        penalty = F.sum(params["w1"] * params["w1"]) * 0.01  # the same in all processes
        whole = (loss if completes is None else F.all_reduce(loss, "dp", "mean")) + penalty
        run = None if completes is None else optim.Run(graph.constant(float(rows * size)), completes)
        total = whole if run is None else whole * (rows * size)
        optimizer = OPTIMIZERS[name]()
        optimizer.apply([*params.values()], grt.grad(total, [*params.values()]), graph.constant(0.05), run)
        return dead_code(graph)

    alone, mesh = Mesh(dp=1), Mesh(dp=size)
    large = made(alone, 2 * BATCH, None)
    update = shard_updates(made(mesh, BATCH // size, True), policy, {}, [])
    held = {n: n in shardings(mesh, list(update.sources.values())) for n in update.sources}
    between = shard_updates(made(mesh, BATCH // size, False), policy, held, [])
    sent = [n for n in between.nodes if n.op.kind is Kind.COLLECTIVE and size > 1]
    assert {n.op.name for n in sent} <= ({"all_gather"} if policy == "fsdp" else set())
    _, found, kept = steps(update, mesh, between=between)
    state = {n: np.asarray(a) for n, a in large.initial.items()}
    for (x, t), (x2, t2) in zip(BATCHES[::2], BATCHES[1::2], strict=True):
        feeds = {**state, "x": np.concatenate([x, x2]), "t": np.concatenate([t, t2])}
        table = {n.outputs[0]: np.asarray(feeds[key]) for key, n in large.sources.items()}
        walk_ranks([n for n in large.nodes if n.op.kind is not Kind.SOURCE], alone, [table])
        state |= {n: table[v] for n, v in large.updates.items()}
    assert found.keys() - state.keys() == {f"{n}.accumulated" for n in SHAPES} | {n for n in found if "_share" in n}
    for key, array in state.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-7, atol=1e-9, err_msg=key)
    cuts = shardings(mesh, list(update.sources.values()))
    for key in SHAPES:
        assert not found[f"{key}.accumulated"].any() and cuts[f"{key}.accumulated"].cuts == (("dp", SUM, SHAPES[key]),)


def test_a_checkpoint_between_two_updates_goes_on(tmp_path: Any) -> None:
    """Epochs of four steps, of which each three make an update: that behind a checkpoint is of steps before and behind it."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 5)).astype(np.float32), rng.integers(0, 3, 16)
    y[[2, 3, 7]] = -100

    def trainer() -> grt.Trainer:
        nn.manual_seed(0)
        optimizer = optim.Adam(lr=0.05, accumulation_steps=3, clip_grad_norm=0.5)
        return grt.Trainer(
            nn.Linear(5, 3), nn.CrossEntropyLoss(), optimizer, target="cpu", mesh=Mesh(dp=1), metrics="grad_norm"
        )

    whole, first, second = trainer(), trainer(), trainer()
    whole.fit((x, y), 3, 4, progress=False)
    first.fit((x, y), 1, 4, progress=False)
    first.save(tmp_path / "between.safetensors")
    assert first.state["weight.accumulated"].any() and first.state["weight.accumulated_share"] > 0
    second.load(tmp_path / "between.safetensors")
    second.fit((x, y), 3, 4, progress=False)
    for name, array in whole.state.items():
        np.testing.assert_array_equal(second.state[name], array, err_msg=name)
    assert second.history.loss == whole.history.loss and len(whole.history.columns()["grad_norm"]) == 3


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_rest_that_all_take_whole_is_stepped_in_parts_too(policy: str) -> None:
    """Where nothing varies gradients are no sums over processes, and the state is sharded as in the other program."""
    mesh, alone = Mesh(dp=2), Mesh(dp=1)
    expected, state, _ = steps(built(alone, optim.AdamW(lr=0.05), BATCH), alone)
    g, rng = Graph(mesh), np.random.default_rng(0)
    x, t = g.input("x", (BATCH, 8)), g.input("t", (BATCH, 5))
    params = {name: g.parameter(name, rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    seen = g.parameter("seen", np.zeros(6), trainable=False)
    h = F.relu(x @ params["w1"] + params["b1"])
    g.update(seen, seen * 0.9 + F.mean(h, 0) * 0.1)
    y = h @ params["w2"] + params["b2"]
    loss = g.output("loss", F.mean((y - t) * (y - t)))
    optim.AdamW(lr=0.05).apply([*params.values()], grt.grad(loss, [*params.values()]), g.constant(0.05))
    graph = shard_updates(g, policy, {}, [])
    assert "cuts" in graph.sources["w1.exp_avg"].attrs
    losses, found, _ = steps(graph, mesh, whole=True)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for key, array in state.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-7, atol=1e-9, err_msg=key)


def test_a_synchronised_norm_of_one_process_is_a_norm() -> None:
    """Its running variance is that of the examples that there are, in a program for any batch too."""
    nn.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((38, 6)).astype(np.float32)

    def trained(net: nn.Module) -> dict[str, np.ndarray]:
        trainer = grt.Trainer(net, nn.MSELoss(), optim.SGD(lr=0.1), target="cpu", metrics=())
        trainer.fit((x, x), epochs=2, batch_size=16, progress=False)
        return net.state_dict()

    plain = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    synced = nn.sync_batch_norm(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    synced.load_state_dict(plain.state_dict())
    for (name, a), b in zip(trained(plain).items(), trained(synced).values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_parts_make_the_whole(shape: list[int], dp: int, tp: int, seed: int) -> None:
    mesh, array = Mesh(dp=dp, tp=tp), np.random.default_rng(seed).standard_normal(shape)
    cut = cut_of("tp", tp, tuple(shape))
    cuts = (cut, cut_of("dp", dp, part_shape(cut, tp)))
    sharding = Sharding(mesh, cuts)
    parts = [sharding.part(array, mesh.coordinates(rank)) for rank in range(mesh.size)]
    assert {p.shape for p in parts} == {part_shape(cuts[1], dp)}
    np.testing.assert_array_equal(sharding.join(parts), array)
    summands = Sharding(mesh, (cut, ("dp", SUM, part_shape(cut, tp))))  # of which only the first has anything at first
    parts = [summands.part(array, mesh.coordinates(rank)) for rank in range(mesh.size)]
    np.testing.assert_array_equal(summands.join(parts), array)
    np.testing.assert_allclose(summands.join([p + 1.0 for p in parts]), array + dp)


class Gated(nn.Module):
    """A linear unit with a gate; or with a ``reader`` of what lies between its layers."""

    def __init__(self, reader: bool) -> None:
        self.gate, self.up, self.down = nn.Linear(8, 12, False), nn.Linear(8, 12), nn.Linear(12, 8)
        self.reader = reader

    def forward(self, input: Any) -> Any:
        h = self.up(input)
        return self.down(F.silu(self.gate(input)) * h) + (F.sum(h) if self.reader else 0.0)


def test_pairs_of_layers_are_found() -> None:
    """Only where nothing but arithmetic, feature by feature, lies between them; and each layer is in one pair."""

    def cut(net: nn.Module, *shape: int) -> dict[str, Any]:
        nn.tensor_parallel(net, (np.zeros(shape, np.float32),), Mesh(dp=2, tp=2))
        return {name: p.sharded[1] for name, p in net.named_parameters() if p.sharded is not None}

    chain = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Dropout(0.1), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
    assert cut(chain, 2, 3, 8) == {"0.weight": 0, "0.bias": 0, "3.weight": 1}
    assert cut(Gated(False), 4, 8) == {"gate.weight": 0, "up.weight": 0, "up.bias": 0, "down.weight": 1}
    assert cut(nn.TransformerEncoderLayer(8, 2, 16), 2, 3, 8) == {"linear1.weight": 0, "linear1.bias": 0, "linear2.weight": 1}
    twice = nn.Linear(8, 8)
    for refused in (
        nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.Linear(12, 4)),
        nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.Linear(12, 4)),
        nn.Sequential(nn.Linear(8, 11), nn.GELU(), nn.Linear(11, 4)),
        nn.Sequential(twice, nn.GELU(), twice),
        Gated(True),
    ):
        with pytest.raises(ArgumentError, match="no two Linear layers of .* a multiple of 2 units"):
            cut(refused, 4, 8)
    with pytest.raises(ArgumentError, match="has no axis 'tp'"):
        nn.tensor_parallel(chain, (np.zeros((2, 8), np.float32),), Mesh(dp=2))
    with pytest.raises(ArgumentError, match="policy='tensor' cuts layers along an axis tp"):
        grt.Trainer(chain, nn.MSELoss(), optim.SGD(), mesh=Mesh(dp=1), policy="tensor")
    graph = Graph(Mesh(tp=1))
    graph.output("y", graph.input("x", (2,)) * 2)
    with pytest.raises(ArgumentError, match=r"policy must be all_reduce, .*nn.tensor_parallel cuts a network's layers"):
        grt.compile(graph, target="cpu", policy="tensor")


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_policy_tensor_cuts_layers_before_the_first_graph(training: bool) -> None:
    net = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 4))
    trainer = grt.Trainer(net, nn.MSELoss(), optim.SGD(), target="cpu", mesh=Mesh(tp=1), policy="tensor")
    build = trainer.training_graph if training else trainer.evaluation_graph
    sources = build(((4, 8), "float32"), ((4, 4), "float32")).sources
    cut = {name: [c[:2] for c in sources[name].attrs.get("cuts", ())] for name, _ in net.named_parameters()}
    assert cut == {"0.weight": [("tp", 0)], "0.bias": [("tp", 0)], "2.weight": [("tp", 1)], "2.bias": []}


@pytest.mark.parametrize("found", [False, True], ids=["said", "found"])
def test_tensor_parallel_layers_are_linear_layers(found: bool) -> None:
    """Column then row, on a mesh of two axes, with the gradients of a clipped step, beside the dense layers."""
    nn.manual_seed(0)
    if found:
        net = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 5))
        nn.tensor_parallel(net, (np.zeros((2, 8), np.float32),), Mesh(tp=3))
    else:
        net = nn.Sequential(nn.ColumnParallelLinear(8, 12), nn.GELU(), nn.RowParallelLinear(12, 5))
    x = np.random.default_rng(0).standard_normal((BATCH, 8)).astype(np.float32)

    def made(mesh: Mesh, rows: int) -> Graph:
        g = Graph(mesh)
        y = net(g.input("x", (rows, 8), varying="dp"))
        g.input("t", (rows, 5), varying="dp")
        loss = F.all_reduce(F.mean(y * y), "dp", "mean")
        g.output("loss", loss)
        optim.Adam(lr=0.05, clip_grad_norm=0.01).apply(g.parameters(), grt.grad(loss, g.parameters()), g.constant(0.05))
        return g

    alone, both = Mesh(dp=1), Mesh(dp=2, tp=3)
    expected, state, _ = steps(made(alone, BATCH), alone)
    losses, joined, kept = steps(made(both, BATCH // 2), both)
    assert kept[0]["0.weight"].shape == (4, 8) and kept[0]["2.weight"].shape == (5, 4)
    assert kept[0]["0.weight.exp_avg"].shape == (4, 8)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for key, array in state.items():
        np.testing.assert_allclose(joined[key], array, rtol=1e-6, atol=1e-9, err_msg=key)
    assert x.shape == (BATCH, 8)


def test_batch_norm_sees_the_whole_batch() -> None:
    def made(mesh: Mesh, rows: int, sync: bool) -> Graph:
        g = Graph(mesh)
        x = g.input("x", (rows, 8), varying="dp")
        g.input("t", (rows, 5), varying="dp")
        mean, var = g.parameter("mean", np.zeros(8), trainable=False), g.parameter("var", np.ones(8), trainable=False)
        w = g.parameter("w", np.linspace(0.5, 2.0, 8))
        y = F.batch_norm(x * F.abs(x), mean, var, w, training=True, sync=sync)
        loss = F.all_reduce(F.mean(y * y * y), "dp", "mean")
        g.output("loss", loss)
        optim.SGD(lr=0.5).apply([w], grt.grad(loss, [w]), g.constant(0.5))
        return g

    alone, four = Mesh(dp=1), Mesh(dp=4)
    expected, state, _ = steps(made(alone, BATCH, False), alone)
    losses, found, _ = steps(made(four, BATCH // 4, True), four)
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    for key, array in state.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-9, err_msg=key)
    assert abs(steps(made(four, BATCH // 4, False), four)[0][0] - expected[0]) > 1e-3


def test_processes_draw_numbers_of_their_own() -> None:
    """Each along the axis over which an input varies; and a draw, whose seed is computed, lowers as any other."""
    mesh = Mesh(dp=2, tp=2)
    g = Graph(mesh)
    x = g.input("x", (64,), varying="dp")
    g.output("y", F.dropout(x, 0.5))
    lower_graph(g, parse("cpu"), {})
    tables = [{n.outputs[0]: g.initial.get(name, np.ones(64)) for name, n in g.sources.items()} for _ in range(4)]
    walk_ranks((n for n in g.nodes if n.op.kind is not Kind.SOURCE), mesh, tables)
    y = [table[g.outputs["y"]] for table in tables]
    assert np.array_equal(y[0], y[1]) and np.array_equal(y[2], y[3]) and not np.array_equal(y[0], y[2])


SENT = re.compile(r"(\w+) over dp, sends ([\d,]+) bytes")


def test_a_plan_for_thousands_of_processes(tmp_path: Any) -> None:
    """On torch's fake process group, of which this is one: what each sends is what the policy must send, and no more."""
    code = """
        import numpy as np, torch.distributed as dist
        from torch.testing._internal.distributed.fake_pg import FakeStore
        import graphrt as grt
        from graphrt import models, nn, optim

        dist.init_process_group("fake", rank=5, world_size=4096, store=FakeStore())
        mesh = grt.Mesh(dp=4096)
        for policy in ("all_reduce", "zero1", "zero2", "fsdp"):
            net = models.get("lenet5").build()
            trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.Adam(), target="cpu", mesh=mesh, policy=policy)
            graph = trainer.training_graph(((1, 1, 32, 32), "float32"), ((1,), "int64"), parts=4096)
            lowered = grt.compiler.lower_graph(
                grt.passes.patterns.shard.shard_updates(graph, policy, {}, []),
                grt.targets.target.parse("cpu", grt.targets.target.Settings()), {})
            print(policy, *(str(g) for g in lowered.schedule.groups() if g.kind == "collective"), sep="\\n")
    """
    import subprocess
    import sys
    import textwrap

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = dict(zip(POLICIES, re.split(r"^(?:all_reduce|zero1|zero2|fsdp)$", done.stdout, flags=re.M)[1:], strict=True))
    whole = 4 * 61_706  # bytes of LeNet-5's parameters
    for policy, times in {"all_reduce": 2, "zero1": 3, "zero2": 2, "fsdp": 3}.items():
        sent = sum(int(n.replace(",", "")) for _, n in SENT.findall(parts[policy]))
        least = times * whole * 4095 / 4096
        padding = 8 * times * 4 * 4096  # parts of as many elements each, of the smallest tensors mostly zeros
        assert least <= sent <= least + padding, policy


def test_parameters_that_cannot_be_sharded_are_refused() -> None:
    g = Graph(Mesh(tp=2))
    with pytest.raises(ShapeError, match="multiple of 2"):
        g.parameter("w", np.ones((3, 4)), sharded=("tp", 0))
    with pytest.raises(ArgumentError, match="no axis 'dp'"):
        g.parameter("w", np.ones((4, 4)), sharded=("dp", 0))
    with pytest.raises(ArgumentError, match=r"build on Graph\(mesh="):
        Graph().input("x", (2,), varying="dp")
    with pytest.raises(GraphError, match="without a mesh|mesh"):
        F.all_reduce(Graph().input("x", (2,)), "dp")
    assert Mesh(tp=2).data == ""  # all of whose processes have the same examples
    with pytest.raises(ArgumentError, match="along an axis dp; the mesh is tp=2"):
        shard_updates(g, "zero1", {}, [])
    with pytest.raises(ArgumentError, match="policy must be"):
        grt.compile(F.relu(Graph().input("x", (2,))), target="reference", policy="zero")


def test_buckets_follow_the_argument() -> None:
    graph = built(Mesh(dp=2), optim.SGD(lr=0.1), 6)
    policy = parse("cpu").passes()

    def messages(size: int) -> int:
        from dataclasses import replace

        final = run_passes(graph, replace(policy, bucket_bytes=size), {})[0][-1][1]
        return sum(n.op.name == "all_reduce" and n.origin.phase == "bwd" for n in final.nodes)

    assert [messages(n) for n in (0, 300, 1 << 20)] == [4, 3, 1]
