"""Modules compiled in one line and called as modules; Parameters in arithmetic; numbers and lists as inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import graphrt as grt
import graphrt.ops as F
from graphrt import nn
from graphrt.errors import ArgumentError, GraphError, InputError
from graphrt.types import TensorType, float32

X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


class Scaled(nn.Module):
    """Uses its parameters as Values: in operators on either side, as arguments, alone, in a list, in a child's call."""

    def __init__(self) -> None:
        self.w, self.v = nn.Parameter(np.arange(1.0, 5.0)), nn.Parameter(np.full((4, 2), 0.5))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        y = self.w * x + x / self.w - self.w**2 + np.ones(4, np.float32) * self.w
        y = y + F.sum(F.cat([self.w, self.w[1:3], -self.w])) + F.exp(self.w * 0.1)
        return (
            F.matmul(y, self.v) + (self.inner(x) + self.inner(self.w) * 0.0) @ self.v + F.where(self.w > 2.0, self.w, 0.0)[:2]
        )


def expected(net: Scaled, x: np.ndarray) -> np.ndarray:
    w, v = net.w.array, net.v.array
    y = w * x + x / w - w**2 + w + w[1:3].sum() + np.exp(w * 0.1)
    return y @ v + (x @ net.inner.weight.array.T + net.inner.bias.array) @ v + np.where(w > 2, w, 0)[:2]


def test_parameters_are_values_while_a_graph_is_built(target: str) -> None:
    net = Scaled()
    program = grt.compile(net, (X,), target=target)
    np.testing.assert_allclose(program(X), expected(net, X), rtol=1e-5, atol=1e-5)
    assert set(program.state) >= set(net.state_dict())
    graph = grt.Graph()
    loss = F.sum(net(graph.input("x", X.shape)))
    found = grt.compile(
        {p.name: g for p, g in zip(graph.parameters(), grt.grad(loss, graph.parameters()), strict=True)}, target=target
    )
    assert set(found(x=X)) == {"w", "v", "inner.weight", "inner.bias"}


def test_a_parameter_outside_of_a_graph() -> None:
    w = nn.Parameter(np.ones(3))
    with pytest.raises(GraphError, match="a Parameter has one while a module that is called on Values builds its graph"):
        w * 2.0
    graph = grt.Graph()
    assert (graph.input("x", (3,)) * w).shape == (3,) == w.shape and w.dtype is float32 and w.ndim == 1


def test_a_module_compiles_in_one_line() -> None:
    """In eval mode, on its own memory, for arrays, tensors and types; called as it is."""
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    programs = [
        grt.compile(net, example, target="cpu") for example in ((X,), X, [torch.from_numpy(X)], TensorType((3, 4), float32))
    ]
    results = [program(X) for program in programs]
    assert all(np.array_equal(results[0], r) for r in results) and net.training
    assert isinstance(programs[0](torch.from_numpy(X)), torch.Tensor)
    np.testing.assert_array_equal(programs[0](input=X), results[0])
    next(net.parameters()).array[...] = 0.0
    assert not np.array_equal(programs[0](X), results[0])
    graph = nn.trace(net, (X,), train=True)
    assert set(graph.updates) >= {"1.running_mean"}
    with pytest.raises(ArgumentError, match=r"compile\(model, \(x,\)\)"):
        grt.compile(net)
    with pytest.raises(ArgumentError, match="do not fit Sequential.forward"):
        grt.compile(net, (X, X))
    with pytest.raises(InputError, match="do not fit forward"):
        programs[0](X, X)


class Nested(nn.Module):
    def forward(self, x: Any, pair: Any, *, named: Any, factor: float = 1.0, flag: bool = False) -> Any:
        total = x + pair[0] * factor + pair[1]["deep"] + named
        return {"total": total, "parts": (total * 2.0, flag)}


def test_inputs_lie_as_the_example_does(target: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 16)).astype(np.float32).transpose(0, 3, 1, 2)
    net = nn.Conv2d(16, 8, 3)
    examples = {"array": x, "tensor": torch.from_numpy(x), "type": TensorType(x.shape, float32, (0, 2, 3, 1))}
    plain = grt.compile(net, (np.ascontiguousarray(x),), target=target)
    assert plain.inputs["input"].order is None
    for name, example in examples.items():
        program = grt.compile(net, (example,), target=target)
        assert program.inputs["input"].order == (0, 2, 3, 1), name
    np.testing.assert_allclose(program(x), plain(x), rtol=1e-4, atol=1e-5)


def test_structures_of_arguments_and_results() -> None:
    example = {"x": X, "pair": (X, {"deep": X}), "named": X, "factor": 3.0}
    program = grt.compile(Nested(), example, target="reference")
    found = program(X, (X, {"deep": X}), named=2 * X, factor=3.0)
    np.testing.assert_allclose(found["total"], 7 * X, rtol=1e-6)
    np.testing.assert_allclose(found["parts"][0], 14 * X, rtol=1e-6)
    assert found["parts"][1] is False and list(program.outputs) == ["out.total", "out.parts.0"]
    np.testing.assert_allclose(program(X, (X, {"deep": X}), named=2 * X, factor=3.0, flag=False)["total"], 7 * X, rtol=1e-6)
    for args, kwargs, message in (
        ((X, (X, {"deep": X})), {"named": X}, "missing argument 'factor': the example had one"),
        ((X, (X, {"deep": X})), {"named": X, "factor": 3.0, "flag": True}, "'flag' was left out of the example"),
        ((X, (X, {"deep": X})), {"named": X, "factor": X}, "the graph was made for 3.0"),
        ((X, (X, {"deep": X})), {"named": X, "factor": 2.0}, "the graph was made for 3.0"),
        ((X, (X,)), {"named": X, "factor": 3.0}, "the example had 2 in a sequence"),
        ((X, (X, {"other": X})), {"named": X, "factor": 3.0}, "the example had deep"),
    ):
        with pytest.raises(InputError, match=message):
            program(*args, **kwargs)


def test_numbers_and_lists_become_the_inputs_dtype(target: str) -> None:
    graph = grt.Graph()
    x, i, s = graph.input("x", (1, 3)), graph.input("i", (2,), "int32"), graph.input("s")
    graph.output("y", x * s + F.sum(F.cast(i, float32)))
    program = grt.compile(graph, target=target)
    for given in ([[1.0, 2.0, 3.0]], [(1, 2, 3)], [np.array([1, 2, 3], np.float64)], np.array([[1, 2, 3]], np.float32)):
        for scale in (2, 2.0, np.float64(2), np.int64(2), np.float32(2), np.array(2, np.float32)):
            np.testing.assert_array_equal(program(x=given, i=[1, 2], s=scale)["y"], [[5, 7, 9]])
    for bad, message in (
        ({"x": X[:1, :3].astype(np.float64)}, r"got float64; convert it first, an array with .astype\('float32'\)"),
        ({"x": torch.zeros(1, 3, dtype=torch.float64)}, "got "),
        ({"x": [[1.0, 2.0]]}, r"got shape \[1, 2\]"),
        ({"x": [["a", "b", "c"]]}, "no numbers"),
        ({"x": [[1.0], [2.0, 3.0]]}, "does not fit"),
        ({"i": [0.5, 1]}, "int32 does not hold it"),
        ({"i": [2**40, 1]}, "int32 does not hold it"),
    ):
        with pytest.raises(InputError, match=message):
            program({"x": [[1, 2, 3]], "i": [1, 2], "s": 1, **bad})
