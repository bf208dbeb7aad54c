"""What follows a contraction is computed behind it: activations, masks of the backward pass, batch norm in eval mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import ops as F
from graphrt.schedule.cost import launch_cost

Activation = Callable[[grt.Value], grt.Value]
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "tanh_gelu": lambda x: F.gelu(x, "tanh"),
    "mish": F.mish,
    "hardswish": F.hardswish,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.5),
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "silu": F.silu,
    "prelu": lambda x: F.prelu(x, x.graph.parameter(f"slope{len(x.graph.sources)}", np.full(1, 0.3, np.float32))),
}


def moved(program: grt.Program) -> int:
    """The bytes that the launches of ``program`` move."""
    return sum(launch_cost(kernels).bytes for kernels in program.kernel_ir)


def _layer(g: grt.Graph, name: str, kind: str, rng: np.random.Generator) -> tuple[grt.Value, dict[str, np.ndarray]]:
    """A linear layer or a convolution with a bias, and its input."""
    shape = (6, 24) if kind == "linear" else (2, 3, 5, 7)
    x = g.input(f"{name}.x", shape)
    weight = g.parameter(
        f"{name}.w", rng.standard_normal((40, *shape[1:2], *((3, 3) * (kind == "conv")))).astype(np.float32) / 4
    )
    bias = g.parameter(f"{name}.b", rng.standard_normal(40).astype(np.float32))
    y = F.linear(x, weight, bias) if kind == "linear" else F.conv2d(x, weight, bias, padding=1)
    return y, {x.node.name: rng.standard_normal(shape).astype(np.float32)}


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_an_activation_that_reads_its_input_twice_is_no_launch(kind: str, target: str, rng: np.random.Generator) -> None:
    g, feeds, least = grt.Graph(), dict[str, np.ndarray](), 0
    for name, activation in ACTIVATIONS.items():
        z, given = _layer(g, name, kind, rng)
        y = g.output(name, activation(z))
        feeds |= given
        least += y.type.nbytes
    least += sum(n.types[0].nbytes for n in g.sources.values())
    check(g, feeds, target, 27)
    program = grt.compile(g, target=target)
    assert program.launches == len(ACTIVATIONS)
    assert moved(program) == least


@pytest.mark.parametrize("name", ["gelu", "tanh_gelu", "mish", "hardswish", "leaky_relu", "elu", "silu"])
def test_the_backward_pass_gets_the_input_of_an_activation(name: str, target: str, rng: np.random.Generator) -> None:
    """Between two linear layers: the first stores two maps at most, the gradient's product reads one and stores one."""
    g = grt.Graph()
    z, feeds = _layer(g, "a", "linear", rng)
    w = g.parameter("v", rng.standard_normal((24, 40)).astype(np.float32))
    y = g.output("y", F.linear(ACTIVATIONS[name](z), w))
    feeds["dy"] = rng.standard_normal(y.shape).astype(np.float32)
    for p, d in zip(g.parameters(), grt.grad(y, g.parameters(), g.input("dy", y.shape)), strict=True):
        g.output(f"d {p.name}", d)
    check(g, feeds, target, 40)
    program = grt.compile(g, target=target)
    small = sum(n.types[0].nbytes for n in g.sources.values()) + sum(v.type.nbytes for v in g.outputs.values())
    again = sum(g.sources[n].outputs[0].type.nbytes for n in ("v", "a.x", "dy"))  # read by a second product
    assert program.launches <= 6  # two products, three of gradients, and the sum for the bias
    assert moved(program) <= small + again + 8 * z.type.nbytes  # three maps, of which others load two twice


def test_the_mask_of_a_relu_is_stored_by_its_convolution(target: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    z, feeds = _layer(g, "a", "conv", rng)
    y = g.output("y", F.relu(z))
    feeds["dy"] = rng.standard_normal(y.shape).astype(np.float32)
    wrt = [g.sources[n].outputs[0] for n in ("a.x", "a.w", "a.b")]
    for v, d in zip(wrt, grt.grad(y, wrt, g.input("dy", y.shape)), strict=True):
        g.output(f"d {v.name}", d)
    check(g, feeds, target, 80)
    program = grt.compile(g, target=target)
    assert program.schedule is not None
    kinds = [group.kind for group in program.schedule.groups()]
    assert "pointwise" not in kinds
    assert any("le_" in node.name for group in program.schedule.groups() if group.label == "conv_0" for node in group.nodes)


def test_batch_norm_in_eval_mode_is_no_launch_behind_a_convolution(target: str, rng: np.random.Generator) -> None:
    """Neither is the root of its variances, of which there are few beside what the convolution computes."""
    g = grt.Graph()
    x = g.input("x", (2, 16, 6, 6))
    w = g.parameter("w", rng.standard_normal((32, 16, 3, 3)).astype(np.float32) / 12)
    mean, var, gamma, beta = (g.parameter(n, rng.random(32).astype(np.float32) + 0.5) for n in ("mean", "var", "gamma", "beta"))
    g.output("y", F.relu(F.batch_norm(F.conv2d(x, w), mean, var, gamma, beta, training=False)))
    check(g, {"x": rng.standard_normal(x.shape).astype(np.float32)}, target, 144)
    program = grt.compile(g, target=target)
    assert program.launches == 1
    assert moved(program) == sum(v.type.nbytes for v in (x, w, mean, var, gamma, beta, *g.outputs.values()))


def test_a_result_behind_several_views_is_stored_by_who_computes_it(target: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    x = g.input("x", (6, 20))
    g.output("y", F.permute(F.reshape(F.tanh(x), (6, 4, 5)), (2, 0, 1)))
    check(g, {"x": rng.standard_normal(x.shape).astype(np.float32)}, target, 1)
    assert grt.compile(g, target=target).launches == 1


def test_why_rows_and_columns_are_read_apart_is_said(target: str) -> None:
    g = grt.Graph()
    x = g.input("x", (48, 40))
    g.output("rows", F.sum(x, 1))
    g.output("columns", F.sum(x, 0))
    said = "\n".join(map(str, grt.compile(g, target=target).explain().why("reduce_1", "reduce_0")))
    assert "reads it again: a kernel has whole rows at hand, or whole columns" in said
