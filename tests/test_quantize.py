"""Weights of eight bits: what becomes of a weight, what stays, and what a network loses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED, assert_close, examples
from hypothesis import given, settings
from hypothesis import strategies as st

import graphrt as grt
from graphrt import errors, nn
from graphrt import ops as F

TARGET = "interpret" if INTERPRETED else "cpu"
pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def weights(graph: grt.Graph) -> dict[str, np.ndarray]:
    """The weights of a quantized graph as products see them, by the name that each had."""
    names = [name.removesuffix(".int8") for name in graph.sources if name.endswith(".int8")]
    return {name: graph.initial[f"{name}.int8"] * scales(graph, name) for name in names}


def scales(graph: grt.Graph, name: str) -> np.ndarray:
    """The scale of each element of a weight, of those along which there is one as one."""
    shape, found = graph.initial[f"{name}.int8"].shape, graph.initial[f"{name}.scale"]
    for d, (n, count) in enumerate(zip(shape, found.shape, strict=True)):
        found = found if count == 1 else np.repeat(found, n // count, d)
    return found


KINDS = ["linear", "matmul", "conv", "grouped", "transposed", "grouped transposed", "twice", "sliced", "loop", "by step"]


def product(g: grt.Graph, kind: str, sizes: tuple[int, int, int], draw: Callable[..., np.ndarray]) -> tuple[grt.Value, Any]:
    """A result by a weight w that is drawn, from an input x; and the shape of its scales."""
    c, k, groups = sizes
    if kind in ("loop", "by step"):
        x = g.input("x", (3, c))
        w = g.parameter("w", draw(c, c) if kind == "loop" else draw(6, c, c))
        if kind == "loop":
            return F.scan(lambda h, _: (F.tanh(h @ w + x), None), x, length=6)[0], (1, c)
        return F.scan(lambda h, part: (F.tanh(h @ part + x), None), x, w)[0], (6, 1, c)
    if kind in ("linear", "matmul", "twice", "sliced"):
        x, wide = g.input("x", (3, c)), kind == "sliced"
        w = g.parameter("w", draw(c, k) if kind == "matmul" else draw(2 * k if wide else k, c))
        if kind == "matmul":
            return x @ w, (1, k)
        y = F.linear(x, w[:k] if wide else w)
        return y if kind == "linear" else y + F.linear(F.tanh(x), w[k:] if wide else w), (w.shape[0], 1)
    groups = groups if "grouped" in kind else 1
    x = g.input("x", (2, c * groups, 5, 4))
    if "transposed" in kind:
        return F.conv_transpose2d(x, g.parameter("w", draw(c * groups, k, 3, 2)), groups=groups), (groups, k, 1, 1)
    return F.conv2d(x, g.parameter("w", draw(k * groups, c, 3, 2)), groups=groups), (k * groups, 1, 1, 1)


@settings(max_examples=examples(16))
@given(st.data())
def test_no_weight_moves_by_more_than_half_a_scale(data: st.DataObject) -> None:
    """And results are those of the weights that are left, whatever product reads them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    kind = data.draw(st.sampled_from(KINDS))
    low = data.draw(st.integers(-20, 4 if kind not in ("loop", "by step") else -2))  # steps would make roundings larger
    sizes = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 3)))
    g = grt.Graph()
    y, shape = product(g, kind, sizes, lambda *shape: (rng.standard_normal(shape) * 2.0**low).astype("f"))
    g.output("y", y)
    q = grt.quantize_weights(g, least=1)
    q.verify()
    assert q.initial["w.int8"].dtype == np.int8 and "w" not in q.sources and "w" in g.sources
    assert q.initial["w.scale"].shape == shape
    left = weights(q)["w"]
    assert (np.abs(left - g.initial["w"]) <= scales(q, "w") * (0.5 + 1e-5)).all()
    feeds = {"x": rng.standard_normal(g.sources["x"].types[0].shape).astype("f")}
    program = grt.compile(g, target="reference")
    program.state.set("w", left.astype("f"))
    assert_close(grt.compile(q, target=TARGET)(feeds)["y"], program(feeds)["y"], sizes[0] * 6)


def test_what_else_reads_a_weight_keeps_it() -> None:
    """An embedding that is the head too, weights that are results, seen otherwise or not, one in two roles, vectors and small
    ones, and what a loop begins with."""
    g = grt.Graph()
    ids, x = g.input("ids", (4,), "int64"), g.input("x", (4, 32))
    tied, plain, both = (g.parameter(n, np.ones((32, 32), np.float32)) for n in ("tied", "plain", "both"))
    given, small = g.parameter("given", np.ones((32, 32), np.float32)), g.parameter("small", np.ones((32, 4), np.float32))
    h = F.embedding(ids, tied) + x @ plain
    g.output("y", F.linear(h, tied) @ both @ F.transpose(both, 0, 1) @ given @ small + g.parameter("bias", np.ones(4, "f")))
    g.output("given", given)
    seen, first = g.parameter("seen", np.ones((32, 32), np.float32)), g.parameter("first", np.ones((32, 32), np.float32))
    g.output("seen", F.transpose(seen, 0, 1))
    g.output("z", F.scan(lambda w, _: (w * 0.5, x @ seen @ w), first, length=6)[1] + x @ first)
    q = grt.quantize_weights(g)
    assert [*weights(q)] == ["plain"]
    assert {"tied", "both", "given", "small", "bias", "seen", "first"} <= q.sources.keys()
    assert str(grt.Graph.parse(str(q))) == str(q)


def test_channels_of_zeros_and_of_one_sign() -> None:
    g = grt.Graph()
    w = np.array([[0.0, 0.0], [3.0, 1.5], [-1e-30, 1e-30], [1e30, -1e30]], np.float32)
    g.output("y", F.linear(g.input("x", (1, 2)), g.parameter("w", w)))
    q = grt.quantize_weights(g, least=1)
    assert q.initial["w.int8"].tolist() == [[0, 0], [127, 64], [-127, 127], [127, -127]]
    assert np.isfinite(q.initial["w.scale"]).all()
    np.testing.assert_allclose(weights(q)["w"][[0, 2, 3]], w[[0, 2, 3]], rtol=1e-6)


def test_the_parameters_of_a_state_count(target: str) -> None:
    """All of them: weights, and what stays as it was; those of a program that trains them further do not change."""
    g = grt.Graph()
    y = g.input("x", (2, 40)) @ g.parameter("w", np.zeros((40, 40), np.float32)) + g.parameter("b", np.zeros(40, np.float32))
    g.output("y", y)
    program = grt.compile(g, target="reference")
    program.state.set("w", np.eye(40, dtype=np.float32))
    program.state.set("b", np.full(40, 3, np.float32))
    q = grt.quantize_weights(g, state=program.state)
    np.testing.assert_allclose(weights(q)["w"], np.eye(40), rtol=1e-6)
    x = np.ones((2, 40), np.float32)
    np.testing.assert_allclose(grt.compile(q, target=target)(x=x)["y"], program(x=x)["y"], rtol=1e-6)
    assert not weights(grt.quantize_weights(g))["w"].any() and not g.initial["b"].any()
    with pytest.raises(errors.InputError, match="the state has 'w', and this graph the same in eight bits"):
        grt.compile(q, target="reference", state=program.state)
    assert {*program.state} == {"w", "b"}


def test_a_traced_module_keeps_its_weights() -> None:
    """Programs of its quantized graph have a state of their own, with what the module's memory has by then."""
    nn.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    x = np.random.default_rng(0).standard_normal((2, 64)).astype("f")
    g = grt.compiler.trace(net, (x,))
    net[0].weight.array[...] = np.eye(64)
    net[0].bias.array[...] = 0.0
    eight = grt.compile(grt.quantize_weights(g), target="reference")
    np.testing.assert_allclose(eight(x), np.maximum(x, 0.0), rtol=1e-6)
    assert {*eight.state} == {"0.weight.int8", "0.weight.scale", "0.bias"}
    np.testing.assert_array_equal(grt.compile(g, target="reference")(x), np.maximum(x, 0.0))


@pytest.mark.parametrize("factor", [1e200, 1e-60, 1.0])
def test_doubles_have_scales_of_doubles(factor: float) -> None:
    w = np.random.default_rng(0).standard_normal((32, 32)) * factor
    g = grt.Graph()
    g.output("y", g.input("x", (2, 32), "float64") @ g.parameter("w", w))
    np.testing.assert_allclose(weights(grt.quantize_weights(g))["w"], w, atol=0.02 * factor)


@pytest.mark.skipif(INTERPRETED, reason="a GPU, whose plans the interpreter has, is predicted to gain by one product of three")
def test_products_of_one_input_read_their_own_weights() -> None:
    """No float copy of weights lies in the arena of a cpu so that three products might be one."""
    rng, g = np.random.default_rng(0), grt.Graph()
    x = g.input("x", (4, 512))
    for name in "qkv":
        g.output(name, F.linear(x, g.parameter(f"w{name}", rng.standard_normal((512, 512)).astype("f"))))
    q = grt.compile(grt.quantize_weights(g), target="cpu")
    assert q.memory().size < 512 * 512 * 4
    feeds = {"x": rng.standard_normal((4, 512)).astype("f")}
    expected, found = grt.compile(g, target="cpu")(feeds), q(feeds)
    assert all(np.abs(found[n] - expected[n]).max() < 0.03 * np.abs(expected[n]).max() for n in "qkv")


def test_what_cannot_be_is_said() -> None:
    g = grt.Graph()
    x, w = g.input("x", (2, 40)), g.parameter("w", np.ones((40, 40), np.float32))
    g.output("y", x + 1.0)
    with pytest.raises(errors.ArgumentError, match="no parameter of 1024 elements or more .* the parameters are w"):
        grt.quantize_weights(g)
    y = g.output("z", F.sum(x @ w))
    with pytest.raises(errors.ArgumentError, match="no parameter of 5000 elements"):
        grt.quantize_weights(g, 5000)
    for arguments, message in (
        ((None,), "takes a Graph, got NoneType"),
        ((g, "a"), "least is a number of elements, got 'a'"),
        ((g, -1), "least is a number of elements, got -1"),
        ((g, 1, 5), "state has arrays by the names of parameters, got int"),
        ((g, 1, {"w": np.ones((3, 3), "f")}), r"the state has float32 \[3, 3\] for 'w', which is f32\[40,40\]"),
        ((grt.quantize_weights(g),), "'w.int8' is of eight bits already"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            grt.quantize_weights(*arguments)  # type: ignore[arg-type]
    g.initial["w"] = np.full((40, 40), np.inf, np.float32)
    with pytest.raises(errors.ArgumentError, match="'w' has elements that are not finite"):
        grt.quantize_weights(g)
    g.update(w, w - grt.grad(y, [w])[0])
    with pytest.raises(errors.ArgumentError, match="trains 'w': .* for inference"):
        grt.quantize_weights(g)


def test_networks_keep_their_answers(target: str) -> None:
    """Of convolutions, of attention, of depthwise convolutions: results near those of float32, in as many launches."""
    nn.manual_seed(0)
    convolutions = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.GELU(), nn.Conv2d(32, 64, 1)
    )
    attention = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    up = nn.Sequential(nn.ConvTranspose2d(16, 32, 3, 2, groups=4), nn.ReLU(), nn.ConvTranspose2d(32, 8, 2))
    cross = nn.MultiheadAttention(64, 4, batch_first=True)
    for net, shape in ((convolutions, (2, 3, 8, 8)), (attention, (2, 5, 64)), (up, (2, 16, 4, 4)), (cross, (2, 5, 64))):
        g = grt.Graph()
        x = g.input("x", shape)
        g.output("y", net.eval()(x) if net is not cross else net.eval()(x, F.tanh(x), F.tanh(x))[0])
        q = grt.quantize_weights(g, least=256)
        assert weights(q).keys() == {n for n, s in g.sources.items() if s.types[0].size >= 256 and n != "x"}
        plain, eight = grt.compile(g, target=target), grt.compile(q, target=target)
        x = np.random.default_rng(0).standard_normal(shape).astype("f")
        expected, found = plain({"x": x})["y"], eight({"x": x})["y"]
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
        assert eight.launches == plain.launches


def test_a_recurrent_network_keeps_its_answers(target: str) -> None:
    """What its loop reads is of eight bits too, and converted once for all steps."""
    nn.manual_seed(0)
    net, g = nn.LSTM(32, 32, batch_first=True), grt.Graph()
    g.output("y", net.eval()(g.input("x", (2, 8, 32)))[0])
    q = grt.quantize_weights(g)
    assert weights(q).keys() == {"weight_ih_l0", "weight_hh_l0"}
    x = np.random.default_rng(0).standard_normal((2, 8, 32)).astype("f")
    expected, found = grt.compile(g, target=target)({"x": x})["y"], grt.compile(q, target=target)({"x": x})["y"]
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.skipif(INTERPRETED, reason="the interpreter's programs are not saved")
def test_saved_weights_are_a_quarter(tmp_path: Path) -> None:
    nn.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256))
    g = grt.Graph()
    g.output("y", net(g.input("x", (3, 64))))
    x, sizes = np.random.default_rng(0).standard_normal((3, 64)).astype("f"), list[int]()
    for name, one in (("plain", g), ("eight", grt.quantize_weights(g))):
        program = grt.compile(one, target="cpu")
        program.save(tmp_path / name)
        np.testing.assert_array_equal(grt.load(tmp_path / name)(x=x)["y"], program(x=x)["y"])
        sizes.append(sum(f.stat().st_size for f in (tmp_path / name).glob("*.safetensors")))
    assert sizes[1] < 0.3 * sizes[0]
