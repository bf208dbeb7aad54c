"""Normalisation beside torch: values, gradients and running statistics; and how many kernels each takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, assert_close
from test_functional import TARGET, Call, compare, data

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.errors import GraphrtError

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def test_norms_equal_torch() -> None:
    calls: dict[str, Call] = {}
    for shape in ((6, 4), (3, 4, 5), (2, 4, 3, 5), (2, 4, 2, 3, 2)):
        w, b, mean, var = data(4), data(4, seed=1), data(4, seed=2), np.abs(data(4, seed=3)) + 0.5
        calls[f"batch {shape}"] = (
            lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
            lambda x, w, b: T.batch_norm(x, None, None, w, b, True),
            [data(*shape), w, b],
        )
        calls[f"inference {shape}"] = (
            lambda x, w, b, m=mean, v=var: F.batch_norm(x, x.graph.constant(m), x.graph.constant(v), w, b),
            lambda x, w, b, m=mean, v=var: T.batch_norm(x, torch.from_numpy(m).double(), torch.from_numpy(v).double(), w, b),
            [data(*shape), w, b],
        )
        calls[f"group {shape}"] = (
            lambda x, w, b: F.group_norm(x, 2, w, b),
            lambda x, w, b: T.group_norm(x, 2, w, b),
            [data(*shape), w, b],
        )
        if len(shape) > 2:
            calls[f"instance {shape}"] = (
                lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
                lambda x, w, b: T.instance_norm(x, weight=w, bias=b),
                [data(*shape), w, b],
            )
            for size in (1, 2, 5):
                calls[f"local {shape} {size}"] = (
                    lambda x, n=size: F.local_response_norm(x, n, 0.3, 0.75, 2.0),
                    lambda x, n=size: T.local_response_norm(x, n, 0.3, 0.75, 2.0),
                    [data(*shape)],
                )
    calls["layer"] = (
        lambda x, w, b: F.layer_norm(x, (4, 5), w, b),
        lambda x, w, b: T.layer_norm(x, (4, 5), w, b),
        [data(3, 4, 5), data(4, 5), data(4, 5, seed=1)],
    )
    calls["rms"] = (lambda x, w: F.rms_norm(x, 5, w), lambda x, w: T.rms_norm(x, (5,), w, 1.1920929e-07), [data(3, 5), data(5)])
    for dim in (0, 1, None):
        g = np.abs(data(*{0: (4, 1, 1), 1: (1, 3, 1), None: (1, 1, 1)}[dim])) + 0.1
        calls[f"weight {dim}"] = (
            lambda v, g, d=dim: F.weight_norm(v, g, d),
            lambda v, g, d=dim: torch._weight_norm(v, g, d) if d is not None else v * (g / v.norm()),
            [data(4, 3, 2), g],
        )
    compare({k: c for i, (k, c) in enumerate(calls.items()) if not INTERPRETED or i % 3 == 0}, 60)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_halves_with_float32_statistics_stays_half(training: bool) -> None:
    x = data(6, 4).astype(np.float16)
    graph = grt.Graph()
    v, stats = graph.input("x", x.shape, "float16"), [graph.constant(np.full(4, n, np.float32)) for n in (0.1, 2.0, 0.5)]
    mean, var, w = stats
    graph.output("y", F.batch_norm(v, None if training else mean, None if training else var, w, training=training))
    y = grt.compile(graph, target=TARGET)(x=x)["y"]
    m, s, k = (torch.full((4,), n, dtype=torch.float64) for n in (0.1, 2.0, 0.5))
    assert y.dtype == np.float16
    assert_close(y, T.batch_norm(torch.from_numpy(x).double(), m, s, k, training=training).numpy(), 6)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_follow_torch(momentum: float | None) -> None:
    ours, theirs = nn.BatchNorm2d(4, momentum=momentum), torch.nn.BatchNorm2d(4, momentum=momentum)
    own = nn.InstanceNorm2d(4, momentum=0.3, track_running_stats=True)
    other = torch.nn.InstanceNorm2d(4, momentum=0.3, track_running_stats=True)
    graph = grt.Graph()
    x = graph.input("x", (5, 4, 3, 3))
    net = nn.Sequential({"batch": ours, "instance": own})
    graph.output("y", net(x))
    program = grt.compile(graph, target=TARGET)
    for step in range(3):
        batch = data(5, 4, 3, 3, seed=step) * (step + 1) + step
        y = program(x=batch)["y"]
        expected = other(theirs(torch.from_numpy(batch)))
        np.testing.assert_allclose(y, expected.detach(), rtol=1e-4, atol=1e-4)
    for name, module in (("batch", theirs), ("instance", other)):
        for key in ("running_mean", "running_var"):
            np.testing.assert_allclose(program.state[f"{name}.{key}"], getattr(module, key), rtol=1e-4, atol=1e-5)
    assert program.state["batch.num_batches_tracked"] == 3 == int(theirs.num_batches_tracked)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_layer_called_twice_on_one_graph_moves_its_statistics_twice(target: str, momentum: float | None) -> None:
    """As Siamese networks and discriminators do; a call in eval mode behind them reads what they left."""
    ours, theirs = nn.BatchNorm2d(4, momentum=momentum), torch.nn.BatchNorm2d(4, momentum=momentum)
    own = nn.InstanceNorm2d(4, momentum=0.3, track_running_stats=True)
    other = torch.nn.InstanceNorm2d(4, momentum=0.3, track_running_stats=True)
    graph = grt.Graph()
    inputs = {n: graph.input(n, (5, 4, 3, 3)) for n in "ab"}

    class Pair(nn.Module):
        def __init__(self) -> None:
            self.batch, self.instance = ours, own

        def forward(self, a: grt.Value, b: grt.Value) -> list[grt.Value]:
            found = [self.instance(self.batch(v)) for v in (a, b)]
            self.batch.eval()
            return [*found, self.batch(a)]

    for i, y in enumerate(Pair()(*inputs.values())):
        graph.output(f"y{i}", y)
    program = grt.compile(graph, target=target)
    for step in range(2):
        batches = {n: data(5, 4, 3, 3, seed=7 * step + i) * (step + 1) + i for i, n in enumerate("ab")}
        found = program(batches)
        a, b = map(torch.from_numpy, batches.values())
        expected = [other(theirs.train()(v)) for v in (a, b)] + [theirs.eval()(a)]
        for y, right in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(y, right.detach(), rtol=1e-4, atol=1e-4)
    for name, module in (("batch", theirs), ("instance", other)):
        for key in ("running_mean", "running_var"):
            np.testing.assert_allclose(program.state[f"{name}.{key}"], getattr(module, key), rtol=1e-4, atol=1e-5)
    assert program.state["batch.num_batches_tracked"] == 4 == int(theirs.num_batches_tracked)


def test_modules_equal_torch() -> None:
    made: dict[str, tuple[nn.Module, torch.nn.Module, np.ndarray]] = {
        "BatchNorm3d": (nn.BatchNorm3d(4), torch.nn.BatchNorm3d(4), data(2, 4, 3, 2, 2)),
        "InstanceNorm1d": (nn.InstanceNorm1d(4, affine=True), torch.nn.InstanceNorm1d(4, affine=True), data(2, 4, 6)),
        "InstanceNorm2d": (nn.InstanceNorm2d(4), torch.nn.InstanceNorm2d(4), data(4, 6, 3)),
        "InstanceNorm3d": (nn.InstanceNorm3d(4), torch.nn.InstanceNorm3d(4), data(2, 4, 3, 2, 2)),
        "GroupNorm": (nn.GroupNorm(2, 4), torch.nn.GroupNorm(2, 4), data(2, 4, 6)),
        "RMSNorm": (nn.RMSNorm(6, 1e-6), torch.nn.RMSNorm(6, 1e-6), data(2, 4, 6)),
        "LocalResponseNorm": (nn.LocalResponseNorm(3), torch.nn.LocalResponseNorm(3), data(2, 4, 6)),
        "LayerNorm": (nn.LayerNorm((4, 6)), torch.nn.LayerNorm((4, 6)), data(2, 4, 6)),
    }
    graph, feeds = grt.Graph(), {}
    holder = nn.Sequential({n: m for n, (m, _, _) in made.items()})
    assert {n.split(".", 1)[1] for n in holder.state_dict()} >= {"weight", "bias", "running_mean", "num_batches_tracked"}
    programs = {}
    for n, (ours, _, x) in made.items():
        ours.eval()
        graph = grt.Graph()
        graph.output("y", ours(graph.input("x", x.shape)))
        programs[n], feeds[n] = grt.compile(graph, target=TARGET), x
    for n, program in programs.items():
        expected = made[n][1].eval()(torch.from_numpy(feeds[n])).detach()
        np.testing.assert_allclose(program(x=feeds[n])["y"], expected, rtol=1e-4, atol=1e-5, err_msg=n)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("dim", [0, 1])
def test_weight_norm_equals_torch(dim: int) -> None:
    """Same result as before, and the gradients of length and direction."""
    theirs = torch.nn.utils.weight_norm(torch.nn.Conv1d(3, 4, 2), dim=dim)
    ours = nn.weight_norm(nn.Conv1d(3, 4, 2), dim=dim)
    names = {"bias", "weight_g", "weight_v"}
    assert set(ours.state_dict()) == names == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    graph, x = grt.Graph(), data(2, 3, 5)
    y = graph.output("y", ours(graph.input("x", x.shape)))
    parameters = [graph.sources[n].outputs[0] for n in sorted(names)]
    for n, dp in zip(sorted(names), grt.grad(F.sum(y * y), parameters), strict=True):
        graph.output(n, dp)
    expected = theirs(torch.from_numpy(x))
    expected.square().sum().backward()
    outputs = grt.compile(graph, target=TARGET)(x=x)
    np.testing.assert_allclose(outputs["y"], expected.detach(), rtol=1e-4, atol=1e-5)
    for n, p in theirs.named_parameters():
        np.testing.assert_allclose(outputs[n], p.grad, rtol=1e-4, atol=1e-4, err_msg=n)
    with pytest.raises(GraphrtError, match="no parameter"):
        nn.weight_norm(nn.ReLU())


Form = Callable[[grt.Graph], grt.Value]
ONE: dict[str, Form] = {
    "softmax": lambda g: F.softmax(g.input("x", (32, 100))),
    "log_softmax": lambda g: F.log_softmax(g.input("x", (32, 100))),
    "layer_norm": lambda g: F.layer_norm(g.input("x", (32, 100)), 100, g.input("w", (100,)), g.input("b", (100,))),
    "rms_norm": lambda g: F.rms_norm(g.input("x", (32, 100)), 100, g.input("w", (100,))),
    "group_norm": lambda g: F.group_norm(g.input("x", (4, 8, 6, 6)), 4),
    "instance_norm": lambda g: F.instance_norm(g.input("x", (4, 8, 6, 6))),
    "gelu": lambda g: F.gelu(g.input("x", (32, 100))),
    "attention's softmax": lambda g: F.softmax(
        F.masked_fill(g.input("x", (2, 4, 8, 8)) * 0.3, g.input("m", (8, 8), "bool"), float("-inf"))
    ),
    "residual and norm": lambda g: F.layer_norm(g.input("x", (32, 100)) + F.relu(g.input("y", (32, 100))), 100),
}


@pytest.mark.parametrize("name", ONE)
def test_one_kernel(name: str) -> None:
    graph = grt.Graph()
    graph.output("y", ONE[name](graph))
    program = grt.compile(graph, target=TARGET)
    assert program.launches == 1, program.plan_text()


def test_dropout_and_residual_are_one_kernel_beside_the_counter() -> None:
    graph = grt.Graph()
    graph.output("y", F.dropout(g := graph.input("x", (64, 64)), 0.1) + g)
    assert grt.compile(graph, target=TARGET).launches == 2


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 4, 5))


def _bad(name: str, *calls: Any) -> list[tuple[str, Any]]:
    return [(name, lambda g, c=c: getattr(F, name)(*c(g))) for c in calls]


BAD: list[tuple[str, Any]] = [
    *_bad("batch_norm", lambda g: (_x(g), g.input("m", (4,)), None), lambda g: (g.input("i", (3, 4), "int64"), None, None)),
    *_bad("instance_norm", lambda g: (g.input("v", (3, 4)),), lambda g: (_x(g), None, None, g.input("w", (3,))),
          lambda g: (g.input("v", (3, 4, 1)),), lambda g: (_x(g), None, None, None, None, False)),
    *_bad("group_norm", lambda g: (_x(g), 3), lambda g: (_x(g), 0), lambda g: (_x(g), 2, g.input("w", (2,)))),
    *_bad("layer_norm", lambda g: (_x(g), 4), lambda g: (_x(g), (4, 5), g.input("w", (5,))), lambda g: (_x(g), ())),
    *_bad("rms_norm", lambda g: (_x(g), 4), lambda g: (_x(g), 5, g.input("w", (4,))),
          lambda g: (g.input("i", (3,), "int64"), 3)),
    *_bad("local_response_norm", lambda g: (g.input("v", (3, 4)), 2), lambda g: (_x(g), 0), lambda g: (_x(g), 1.5)),
    *_bad("weight_norm", lambda g: (_x(g), g.input("g", (3,))), lambda g: (_x(g), g.input("g", (3, 1, 1)), 3),
          lambda g: (_x(g), None)),
]  # fmt: skip


@pytest.mark.skipif(INTERPRETED, reason="the plan of the cpu target")
def test_group_norm_of_long_rows_is_one_launch_on_a_cpu(rng: np.random.Generator) -> None:
    """Two where a row is too long to be kept; few rows are cut, so that threads share them."""
    for n, size, launches in ((32, 32, 1), (16, 64, 2), (1, 64, 5)):
        graph = grt.Graph()
        x = graph.input("x", (n, 64, size, size))
        graph.output("y", F.silu(F.group_norm(x, 8)))
        program = grt.compile(graph, target="cpu")
        assert program.launches == launches, program.plan_text()
        value = rng.standard_normal(x.shape).astype(np.float32)
        assert_close(program(x=value)["y"], T.silu(T.group_norm(torch.from_numpy(value).double(), 8)).numpy(), 8 * size * size)
