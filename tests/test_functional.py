"""Public functions beside torch.nn.functional, forward and backward; many calls to a program, because a compile costs most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, assert_close, examples
from hypothesis import given, settings

import graphrt as grt
from graphrt import ops as F

TARGET = "interpret" if INTERPRETED else "cpu"
pytestmark = [pytest.mark.interpret] if INTERPRETED else []
Call = tuple[Callable[..., Any], Callable[..., Any], list[np.ndarray]]


def compare(calls: dict[str, Call], length: int = 1) -> None:
    """Runs every call in one graphrt program and in float64 torch; compares results and gradients of a weighted sum."""
    graph, feeds = grt.Graph(), dict[str, Any]()
    expected: dict[str, np.ndarray] = {}
    for name, (ours, theirs, arrays) in calls.items():
        inputs, tensors = [], []
        for i, a in enumerate(arrays):
            feeds[f"{name}.{i}"] = a
            inputs.append(graph.input(f"{name}.{i}", a.shape, a.dtype))
            t = torch.from_numpy(a.astype(np.float64) if a.dtype.kind == "f" else a)
            tensors.append(t.requires_grad_(a.dtype.kind == "f"))
        y, z = ours(*inputs), theirs(*tensors)
        graph.output(name, y)
        expected[name] = z.detach().numpy()
        assert y.shape == tuple(z.shape), f"{name}: {y.shape} is not {tuple(z.shape)}"
        if not z.requires_grad or not y.dtype.is_float:
            continue
        weights = np.random.default_rng(len(name)).standard_normal(y.shape).astype(np.float32)
        feeds[f"{name}.dy"] = weights
        dy = graph.input(f"{name}.dy", y.shape)
        z.backward(torch.from_numpy(weights.astype(np.float64)))
        wrt = [(v, t) for v, t in zip(inputs, tensors, strict=True) if t.requires_grad]
        for i, (g, (_, t)) in enumerate(zip(grt.grad(y, [v for v, _ in wrt], dy), wrt, strict=True)):
            graph.output(f"{name}.grad{i}", g)
            expected[f"{name}.grad{i}"] = np.zeros(t.shape) if t.grad is None else t.grad.numpy()
    outputs = grt.compile(graph, target=TARGET)(feeds)
    for name, value in expected.items():
        assert_close(outputs[name], value, length, name)


def data(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + len(shape)).standard_normal(shape).astype(np.float32)


def same(name: str, arrays: list[np.ndarray], **kwargs: Any) -> Call:
    """The function of one name in both libraries, with the same keyword arguments."""
    theirs = getattr(T, name, None) or getattr(torch, name)
    return lambda *a: F.FUNCTIONS[name](*a, **kwargs), lambda *a: theirs(*a, **kwargs), arrays


def test_activations() -> None:
    x = np.concatenate([data(40), np.array([0.0, -0.0, 30.0, -30.0, 90.0, -90.0], np.float32)])
    names = ["relu", "sigmoid", "tanh", "silu", "softplus", "elu", "leaky_relu", "sin", "cos", "erf"]
    calls = {n: same(n, [x]) for n in names}
    calls["gelu"] = same("gelu", [x[:-6]])
    calls["gelu tanh"] = same("gelu", [x[:-6]], approximate="tanh")
    calls["leaky 0.1"] = same("leaky_relu", [x], negative_slope=0.1)
    calls["elu 0.5"] = same("elu", [x], alpha=0.5)
    for dim in (0, 1, 2):
        calls[f"softmax {dim}"] = same("softmax", [data(3, 5, 4)], dim=dim)
        calls[f"log_softmax {dim}"] = same("log_softmax", [data(3, 5, 4) * 20], dim=dim)
    compare(calls, 8)


def test_losses() -> None:
    logits, classes = data(6, 5), np.array([0, 4, 2, 2, 1, 3])
    maps, labels = data(2, 5, 3, 3), np.random.default_rng(0).integers(0, 5, (2, 3, 3))
    ignored = np.array([0, -100, 2, -100, 1, 3])
    soft = np.random.default_rng(1).dirichlet(np.ones(5), 6).astype(np.float32)
    calls: dict[str, Call] = {}
    for r in ("none", "mean", "sum"):
        calls[f"cross_entropy {r}"] = same("cross_entropy", [logits, classes], reduction=r)
        calls[f"cross_entropy maps {r}"] = same("cross_entropy", [maps, labels], reduction=r)
        calls[f"cross_entropy ignored {r}"] = same("cross_entropy", [logits, ignored], reduction=r, ignore_index=-100)
        calls[f"cross_entropy smooth {r}"] = same("cross_entropy", [logits, classes], reduction=r, label_smoothing=0.1)
        calls[f"cross_entropy soft {r}"] = same("cross_entropy", [logits, soft], reduction=r)
        calls[f"nll {r}"] = same("nll_loss", [logits, ignored], reduction=r)
        calls[f"bce {r}"] = same(
            "binary_cross_entropy_with_logits", [data(7) * 40, np.abs(np.sin(data(7, seed=3)))], reduction=r
        )
        calls[f"mse {r}"] = same("mse_loss", [data(3, 4), data(3, 4, seed=1)], reduction=r)
        calls[f"l1 {r}"] = same("l1_loss", [data(3, 4), data(3, 4, seed=1)], reduction=r)
    compare(calls, 40)


def test_matmul_in_every_form() -> None:
    shapes = [((4,), (4,)), ((3, 4), (4,)), ((4,), (4, 5)), ((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5))]
    shapes += [((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 5)), ((2, 3, 4), (4,)), ((1, 17), (17, 1)), ((3, 0), (0, 2))]
    calls = {f"{a} {b}": (F.matmul, torch.matmul, [data(*a), data(*b, seed=1)]) for a, b in shapes}
    calls["linear"] = same("linear", [data(2, 3, 4), data(5, 4), data(5)])
    calls["transposed"] = (
        lambda a, b: F.matmul(F.transpose(a, 0, 1), F.transpose(b, 0, 1)),
        lambda a, b: a.T @ b.T,
        [data(70, 33), data(20, 70)],
    )
    compare(calls, 70)


def test_matmul_of_integers_wraps_as_torch() -> None:
    rng = np.random.default_rng(0)
    calls: dict[str, Call] = {}
    for dtype in (np.int8, np.uint8, np.int16, np.int32, np.int64):
        limit = np.iinfo(dtype)
        a, b = (rng.integers(limit.min, limit.max, s, dtype, True) for s in ((2, 3, 40), (40, 5)))
        calls[f"{limit.dtype}"] = (F.matmul, torch.matmul, [a, b])
    calls["vectors"] = (F.matmul, torch.matmul, [a[0, 0], b[:, 0]])
    calls["linear"] = same("linear", [a, b.T.copy(), b[0, :5]])
    calls["bmm"] = same("bmm", [a, np.stack([b, b])])
    calls["addmm"] = (
        lambda x, a, b: F.addmm(x, a, b, beta=2, alpha=3),
        lambda x, a, b: torch.addmm(x, a, b, beta=2, alpha=3),
        [b[:3, :5], a[0], b],
    )
    calls["nothing"] = (F.matmul, torch.matmul, [a[:, :, :0], b[:0]])
    graph, feeds, expected = grt.Graph(), dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name, (ours, theirs, arrays) in calls.items():
        feeds.update({f"{name}.{i}": v for i, v in enumerate(arrays)})
        graph.output(name, ours(*(graph.input(f"{name}.{i}", v.shape, v.dtype) for i, v in enumerate(arrays))))
        expected[name] = theirs(*map(torch.from_numpy, arrays)).numpy()
    found = grt.compile(graph, target=TARGET)(feeds)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name


def test_zero_and_minus_zero_are_two_constants() -> None:
    graph = grt.Graph()
    x = graph.input("x", (2,))
    zeros = F.stack([x * 0.0 + 1.0, F.zeros_like(x), -F.zeros_like(x)])
    graph.output("y", 1.0 / zeros)
    graph.output("negative", F.signbit(zeros))
    found = grt.compile(graph, target=TARGET)(x=np.ones(2, np.float32))
    assert found["y"].tolist() == [[1.0] * 2, [np.inf] * 2, [-np.inf] * 2]
    assert found["negative"].tolist() == [[False] * 2, [False] * 2, [True] * 2]


def test_reductions() -> None:
    x = data(3, 4, 5)
    calls: dict[str, Call] = {}
    for dim in (0, -1, (0, 2), (0, 1, 2)):
        for keep in (False, True):
            for name in ("sum", "mean", "amax", "amin", "logsumexp"):
                calls[f"{name} {dim} {keep}"] = same(name, [x], dim=dim, keepdim=keep)
            calls[f"var {dim} {keep}"] = same("var", [x], dim=dim, correction=1, keepdim=keep)
            calls[f"std {dim} {keep}"] = same("std", [x], dim=dim, correction=0, keepdim=keep)
    for dim in (0, 1, 2):
        calls[f"argmax {dim}"] = same("argmax", [x], dim=dim)
        calls[f"argmin {dim}"] = same("argmin", [x], dim=dim)
        calls[f"prod {dim}"] = same("prod", [np.where(np.abs(x) < 0.3, 0, x).astype(np.float32)], dim=dim)
    calls["any"] = (lambda a: F.any(a > 1.0, 1), lambda a: (a > 1.0).any(1), [x])
    calls["all"] = (lambda a: F.all(a > -1.0, 1), lambda a: (a > -1.0).all(1), [x])
    calls["integers"] = same("sum", [np.arange(12).reshape(3, 4)], dim=1)
    compare(calls, 60)


def test_views() -> None:
    x = data(4, 5, 6)
    keys: dict[str, Any] = {
        "step": (slice(None), slice(0, 5, 2)),
        "int": (1, ..., 2),
        "none": (None, slice(1, 3)),
        "negative": (-1, slice(-3, None)),
        "empty": (slice(2, 2),),
    }
    calls: dict[str, Call] = {n: (lambda a, k=k: a[k] * 1.0, lambda a, k=k: a[k] * 1.0, [x]) for n, k in keys.items()}
    calls["backwards"] = (lambda a: a[:, ::-2] * 1.0, lambda a: torch.flip(a, (1,))[:, ::2] * 1.0, [x])
    for mode in ("constant", "reflect", "replicate", "circular"):
        calls[f"pad {mode}"] = same("pad", [data(2, 3, 5, 6)], pad=(1, 2, 2, 1), mode=mode)
    calls["pad crop"] = same("pad", [x], pad=(-1, 2), value=3.0)
    calls["concat"] = (lambda a, b: F.concat([a, b, a], 1), lambda a, b: torch.cat([a, b, a], 1), [x, data(4, 2, 6)])
    calls["stack"] = (lambda a, b: F.stack([a, b], 1), lambda a, b: torch.stack([a, b], 1), [x, data(4, 5, 6, seed=2)])
    calls["flip"] = (lambda a: F.flip(a, (0, 2)), lambda a: torch.flip(a, (0, 2)), [x])
    calls["moved"] = (lambda a: F.movedim(a, 0, 2), lambda a: torch.movedim(a, 0, 2), [x])
    calls["expand"] = (lambda a: F.expand(a, (3, -1, 4)), lambda a: a.expand(3, -1, 4), [data(5, 1)])
    mixed: Call = (
        lambda a: F.reshape(F.permute(F.reshape(a, (2, 2, 30)), (2, 0, 1)), (6, 20)) + 1.0,
        lambda a: a.reshape(2, 2, 30).permute(2, 0, 1).reshape(6, 20) + 1.0,
        [x],
    )
    calls["mixed"] = mixed
    compare(calls)


def test_norms() -> None:
    x, w, b = data(4, 3, 5, 5), data(3), data(3, seed=5)
    mean, var = data(3, seed=1), np.abs(data(3, seed=2)) + 0.5
    calls: dict[str, Call] = {
        "layer": (
            lambda x, w, b: F.layer_norm(x, 7, w, b),
            lambda x, w, b: T.layer_norm(x, (7,), w, b),
            [data(4, 7), data(7), data(7)],
        ),
        "batch eval": (
            lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
            lambda x, m, v, w, b: (x - _wide(m)) / torch.sqrt(_wide(v) + 1e-5) * _wide(w) + _wide(b),  # torch's has no dm, dv
            [x, mean, var, w, b],
        ),
        "batch train": (
            lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
            lambda x, w, b: T.batch_norm(x, None, None, w, b, training=True),
            [x, w, b],
        ),
        "batch train 2-d": (
            lambda x: F.batch_norm(x, None, None, training=True),
            lambda x: T.batch_norm(x, None, None, training=True),
            [data(16, 6)],
        ),
    }
    compare(calls, 200)


def _wide(t: torch.Tensor) -> torch.Tensor:
    return t.reshape(1, -1, 1, 1)


def test_running_statistics() -> None:
    g = grt.Graph()
    x = g.input("x", (6, 3, 4, 4))
    m, v = g.parameter("m", np.zeros(3, np.float32), trainable=False), g.parameter("v", np.ones(3, np.float32), trainable=False)
    g.output("y", F.batch_norm(x, m, v, training=True, momentum=0.2))
    program = grt.compile(g, target=TARGET)
    tm, tv = torch.zeros(3), torch.ones(3)
    for seed in range(3):
        batch = data(6, 3, 4, 4, seed=seed)
        program(x=batch)
        T.batch_norm(torch.from_numpy(batch), tm, tv, training=True, momentum=0.2)
    np.testing.assert_allclose(program.state["m"], tm.numpy(), atol=1e-6)
    np.testing.assert_allclose(program.state["v"], tv.numpy(), atol=1e-6)


@st.composite
def windows(draw: Any) -> dict[str, Any]:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = draw(st.integers(1, 2))
    return {
        "batch": draw(st.integers(1, 3)),
        "kernel": kernel,
        "size": tuple((k - 1) * dilation + 1 + draw(st.integers(0, 6)) for k in kernel),
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": dilation,
        "groups": draw(st.sampled_from([1, 1, 2, 4])),
        "channels": draw(st.sampled_from([1, 3, 5])),
        "filters": draw(st.sampled_from([1, 3, 20])),
    }


@given(st.lists(windows(), min_size=3, max_size=3))
@settings(max_examples=examples(12, 4))
def test_convolution_shapes(cases: list[dict[str, Any]]) -> None:
    calls = {}
    for i, c in enumerate(cases):
        arguments = {k: c[k] for k in ("stride", "padding", "dilation", "groups")}
        g = c["groups"]
        x, w = data(c["batch"], c["channels"] * g, *c["size"]), data(c["filters"] * g, c["channels"], *c["kernel"])
        calls[f"conv {i} {c}"] = same("conv2d", [x, w, data(c["filters"] * g)], **arguments)
    compare(calls, 400)


def test_convolution_padding_forms() -> None:
    x, w = data(2, 3, 7, 8), data(4, 3, 3, 2)
    uneven: Call = (
        lambda x, w: F.conv2d(x, w, padding=((1, 0), (0, 2))),
        lambda x, w: T.conv2d(T.pad(x, (0, 2, 1, 0)), w),
        [x, w],
    )
    compare(
        {"same": same("conv2d", [x, w], padding="same"), "valid": same("conv2d", [x, w], padding="valid"), "uneven": uneven}, 30
    )


@given(st.lists(windows(), min_size=3, max_size=3), st.booleans(), st.booleans())
@settings(max_examples=examples(12, 4))
def test_pooling_shapes(cases: list[dict[str, Any]], ceil_mode: bool, count_include_pad: bool) -> None:
    calls = {}
    for i, c in enumerate(cases):
        shape = (c["batch"], c["channels"] * c["groups"], *c["size"])
        x = np.random.default_rng(i).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32) / 100
        arguments = {k: c[k] for k in ("stride", "padding")} | {"kernel_size": c["kernel"], "ceil_mode": ceil_mode}
        calls[f"max {i} {c}"] = same("max_pool2d", [x], **arguments, dilation=c["dilation"])
        calls[f"avg {i} {c}"] = same("avg_pool2d", [x], **arguments, count_include_pad=count_include_pad)
        plain = {"kernel_size": c["kernel"], "stride": c["stride"], "padding": c["padding"]}
        area = float(np.prod(c["kernel"]))
        calls[f"sum {i} {c}"] = (
            lambda x, a=plain: F.sum_pool2d(x, **a),
            lambda x, a=plain, n=area: T.avg_pool2d(x, **a) * n,
            [x],
        )
    compare(calls, 16)


def test_nan_and_infinity() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0, -0.0], np.float32)
    y = np.array([1.0, np.nan, np.inf, np.inf, 0.0], np.float32)
    graph = grt.Graph()
    a, b = graph.input("a", (5,)), graph.input("b", (5,))
    pairs = {
        "maximum": (F.maximum(a, b), torch.maximum),
        "minimum": (F.minimum(a, b), torch.minimum),
        "add": (a + b, torch.add),
        "mul": (a * b, torch.mul),
        "div": (a / b, torch.div),
        "lt": (a < b, torch.lt),
        "ne": (F.ne(a, b), torch.ne),
    }
    single = {
        "relu": F.relu(a),
        "exp": F.exp(a),
        "amax": F.amax(a, 0),
        "amin": F.amin(b, 0),
        "sum": F.sum(a),
        "sqrt": F.sqrt(a),
    }
    for name, (v, _) in pairs.items():
        graph.output(name, v)
    for name, v in single.items():
        graph.output(name, v)
    graph.output("pool", F.max_pool2d(F.reshape(F.concat([a, b[1:]], 0), (1, 1, 3, 3)), 2, 1))
    graph.output("argmax", F.argmax(a, 0))
    outputs = grt.compile(graph, target=TARGET)(a=x, b=y)
    p, q = torch.from_numpy(x), torch.from_numpy(y)
    for name, (_, theirs) in pairs.items():
        np.testing.assert_array_equal(outputs[name], theirs(p, q).numpy(), name)
    for name in single:
        theirs = {"amax": p.amax(0), "amin": q.amin(0), "sum": p.sum()}.get(name)
        np.testing.assert_allclose(
            outputs[name], getattr(torch, name)(p) if theirs is None else theirs, rtol=1e-6, err_msg=name
        )
    np.testing.assert_array_equal(outputs["pool"], T.max_pool2d(torch.cat([p, q[1:]]).reshape(1, 1, 3, 3), 2, 1).numpy())
    assert outputs["argmax"] == 0


def test_dtypes() -> None:
    """float64 stays double, float16 is computed in float, integers and bool follow torch's promotion."""
    rng = np.random.default_rng(0)
    graph = grt.Graph()
    d, h = graph.input("d", (5, 7), "float64"), graph.input("h", (5, 7), "float16")
    i, u, b = graph.input("i", (5, 7), "int32"), graph.input("u", (5, 7), "uint8"), graph.input("b", (5, 7), "bool")
    ours = {
        "double": F.sum(F.exp(d) * d, 1),
        "half": F.sum(h * h, 1),
        "matmul": d @ F.transpose(d, 0, 1),
        "mixed": h * F.cast(i, "float16"),
        "int": i * 3 - i,
        "add8": u + u,
        "bool": F.where(b, i, 0),
        "scaled": i * 0.5,
        "counted": F.sum(b, 0),
        "not": ~b,
    }
    for name, v in ours.items():
        graph.output(name, v)
    feeds = {
        "d": rng.standard_normal((5, 7)),
        "h": rng.standard_normal((5, 7)).astype(np.float16),
        "i": rng.integers(-9, 9, (5, 7)).astype(np.int32),
        "u": rng.integers(0, 255, (5, 7)).astype(np.uint8),
        "b": rng.random((5, 7)) > 0.5,
    }
    outputs = grt.compile(graph, target=TARGET)(feeds)
    d, h, i, u, b = (torch.from_numpy(feeds[k]) for k in "dhiub")
    theirs = {
        "double": (d.exp() * d).sum(1),
        "half": (h * h).sum(1),
        "matmul": d @ d.T,
        "mixed": h * i.half(),
        "int": i * 3 - i,
        "add8": u + u,
        "bool": torch.where(b, i, 0),
        "scaled": i * 0.5,
        "counted": b.sum(0),
        "not": ~b,
    }
    for name, t in theirs.items():
        assert str(outputs[name].dtype) == str(t.dtype).removeprefix("torch."), name
        assert_close(outputs[name], t.double().numpy(), 8, name)


def test_empty_tensors() -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (0, 4)), graph.input("w", (3, 4))
    y = F.relu(F.linear(x, w))
    graph.output("y", y)
    graph.output("total", F.sum(y))
    graph.output("dw", grt.grad(F.sum(y), [w])[0])
    outputs = grt.compile(graph, target=TARGET)(x=np.zeros((0, 4), np.float32), w=data(3, 4))
    assert outputs["y"].shape == (0, 3) and outputs["total"] == 0 and not outputs["dw"].any()


def test_dropout_draws_one_mask_for_every_target() -> None:
    def masks(target: str) -> list[np.ndarray]:
        graph = grt.Graph()
        x = graph.input("x", (40, 50))
        F.manual_seed(graph, 7)
        y = graph.output("y", F.dropout(x, 0.3))
        graph.output("dx", grt.grad(F.sum(y), [x])[0])
        program = grt.compile(graph, target=target)
        runs = [program(x=np.ones((40, 50), np.float32)) for _ in range(2)]
        assert program.state["rng.counter"] == 2
        for r in runs:
            np.testing.assert_array_equal(r["y"], r["dx"])  # one mask, forward and backward
        return [r["y"] for r in runs]

    ours, reference = masks(TARGET), masks("reference")
    for a, b in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(a > 0, b > 0)
    assert (ours[0] != ours[1]).any(), "every run draws anew"
    assert abs((ours[0] > 0).mean() - 0.7) < 0.03


def test_products_and_softmax_over_nothing() -> None:
    calls: dict[str, Call] = {
        "batch": (F.matmul, torch.matmul, [data(2, 3, 0), data(0, 4)]),
        "linear": same("linear", [data(2, 3, 0), data(4, 0)]),
        "no rows": (F.matmul, torch.matmul, [data(2, 0, 5), data(5, 4)]),
        "softmax": same("softmax", [data(3, 0)], dim=1),
        "log_softmax": same("log_softmax", [data(3, 0)], dim=1),
    }
    compare(calls)


@pytest.mark.parametrize("where", [TARGET, "reference"])
def test_convolution_of_an_empty_batch(where: str) -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (0, 3, 5, 5)), graph.input("w", (4, 3, 3, 3))
    y = graph.output("y", F.conv2d(x, w))
    for name, g in zip(("dx", "dw"), grt.grad(F.sum(y), [x, w]), strict=True):
        graph.output(name, g)
    outputs = grt.compile(graph, target=where)(x=np.zeros((0, 3, 5, 5), np.float32), w=data(4, 3, 3, 3))
    assert outputs["y"].shape == (0, 4, 3, 3) and outputs["dx"].shape == (0, 3, 5, 5)
    assert outputs["dw"].shape == (4, 3, 3, 3) and not outputs["dw"].any()


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_average_pooling_keeps_dtype_and_precision(dtype: str) -> None:
    """Also where windows at the border count fewer elements than the others."""
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 7)).astype(dtype)
    graph = grt.Graph()
    v = graph.input("x", x.shape, dtype)
    graph.output("y", F.avg_pool2d(v, 3, 2, 1, ceil_mode=True, count_include_pad=False))
    y = grt.compile(graph, target=TARGET)(x=x)["y"]
    expected = T.avg_pool2d(torch.from_numpy(x).double(), 3, 2, 1, ceil_mode=True, count_include_pad=False)
    assert y.dtype == x.dtype
    assert_close(y, expected.numpy(), 9)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_integers_wrap_around_inside_kernels(dtype: str) -> None:
    """An overflow wraps as in torch, also where the wrapped number is never stored."""
    limits = np.iinfo(dtype)
    x = np.array([limits.min, limits.min + 1, 0, 1, limits.max - 1, limits.max], dtype)
    graph = grt.Graph()
    v = graph.input("x", x.shape, dtype)
    cases = {"sum": v + v, "less": v - 3, "negated": -v, "size": F.abs(v), "product": v * v * 3}
    for name, y in cases.items():
        graph.output(name, y)
        graph.output(f"{name} positive", y > 0)
    outputs = grt.compile(graph, target=TARGET)(x=x)
    t = torch.from_numpy(x)
    theirs = {"sum": t + t, "less": t - 3, "negated": -t, "size": t.abs(), "product": t * t * 3}
    for name, z in theirs.items():
        np.testing.assert_array_equal(outputs[name], z.numpy(), name)
        np.testing.assert_array_equal(outputs[f"{name} positive"], (z > 0).numpy(), f"{name} positive")


def test_numpy_operands_on_either_side() -> None:
    graph = grt.Graph()
    x = graph.input("x", (2,))
    array = np.array([0.5, 4.0], np.float32)
    cases = {"right": x * array, "left": array * x, "minus": array - x, "scalar": np.float32(3.0) + x, "over": array / x}
    for name, y in cases.items():
        assert isinstance(y, grt.Value), f"{name}: numpy took the operator over and made {type(y).__name__}"
        graph.output(name, y)
    outputs = grt.compile(graph, target=TARGET)(x=np.array([2.0, 8.0], np.float32))
    expected = {"right": [1, 32], "left": [1, 32], "minus": [-1.5, -4], "scalar": [5, 11], "over": [0.25, 0.5]}
    assert {n: v.tolist() for n, v in outputs.items()} == expected


@pytest.mark.parametrize("where", [TARGET, "reference"])
def test_sign_of_nan_is_zero(where: str) -> None:
    graph = grt.Graph()
    graph.output("y", F.sign(graph.input("x", (4,))))
    assert grt.compile(graph, target=where)(x=np.array([np.nan, np.inf, -2.0, 0.0], np.float32))["y"].tolist() == [0, 1, -1, 0]


def test_shifts_by_any_number_equal_torch() -> None:
    """Negative ones, and those of as many bits and more, too."""
    graph, expected = grt.Graph(), {}
    feeds = {}
    for kind in ("int8", "int32", "int64", "uint8"):
        a = np.array([1, 100, 5, 0], kind) if kind == "uint8" else np.array([1, -100, 5, -1], kind)
        for by in (0, 3, 7, 8, 31, 32, 63, 64, 100, *(() if kind == "uint8" else (-1, -3))):
            b = np.full(4, by, kind)
            for name in ("bitwise_left_shift", "bitwise_right_shift"):
                key = f"{name} {kind} {by}"
                feeds[f"a {kind}"], feeds[f"b {kind} {by}"] = a, b
                found = [graph.sources.get(n) for n in (f"a {kind}", f"b {kind} {by}")]
                x = found[0].outputs[0] if found[0] else graph.input(f"a {kind}", (4,), kind)
                y = found[1].outputs[0] if found[1] else graph.input(f"b {kind} {by}", (4,), kind)
                graph.output(key, getattr(F, name)(x, y))
                expected[key] = getattr(torch, name)(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    outputs = grt.compile(graph, target=TARGET)(feeds)
    for key, value in expected.items():
        np.testing.assert_array_equal(outputs[key], value, err_msg=key)


def test_inverse_error_function_of_doubles(target: str) -> None:
    """The Triton targets have float32's accuracy there."""
    x = np.linspace(-0.999999, 0.999999, 41)
    g = grt.Graph()
    y = grt.compile(F.erfinv(g.input("x", x.shape, "float64")), target=target)(x=x)
    np.testing.assert_allclose(y, torch.erfinv(torch.from_numpy(x)), rtol=1e-5, atol=1e-7)
