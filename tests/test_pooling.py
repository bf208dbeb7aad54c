"""Pooling of every rank, adaptive, global, across channels, with indices, beside torch in float64."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, assert_close, check, examples
from hypothesis import given, settings
from test_functional import TARGET, Call, compare, data, same

import graphrt as grt
from graphrt import nn
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def distinct(*shape: int) -> np.ndarray:
    """No two elements equal, so that the gradient of a maximum exists."""
    return (np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape) / 50).astype(np.float32)


def indices(name: str, x: np.ndarray, **kwargs: Any) -> Call:
    return (
        lambda v: F.FUNCTIONS[name](v, **kwargs, return_indices=True)[1],
        lambda t: getattr(T, name)(t, **kwargs, return_indices=True)[1],
        [x],
    )


@st.composite
def cases(draw: st.DrawFn, rank: int) -> tuple[tuple[int, ...], dict[str, Any], tuple[int, ...]]:
    many = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))  # noqa: E731
    kernel, dilation = many(1, 3), many(1, 2)
    size = tuple(d * (k - 1) + 1 + draw(st.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True))
    arguments = {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), st.just(many(1, 3)))),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    return (*draw(st.sampled_from([(), (1,), (2,)])), draw(st.integers(1, 3)), *size), arguments, dilation


@given(st.data())
@settings(max_examples=examples(8, 2))
def test_windows(draw: st.DataObject) -> None:
    calls: dict[str, Call] = {}
    for rank in (1, 2, 3):
        shape, arguments, dilation = draw.draw(cases(rank))
        x, text = distinct(*shape), f"{shape} {arguments} {dilation}"
        count = draw.draw(st.booleans())
        calls[f"max {text}"] = same(f"max_pool{rank}d", [x], dilation=dilation, **arguments)
        calls[f"indices {text}"] = indices(f"max_pool{rank}d", x, dilation=dilation, **arguments)
        calls[f"avg {text}"] = same(f"avg_pool{rank}d", [x], count_include_pad=count, **arguments)
        plain = {k: v for k, v in arguments.items() if k != "padding"}
        if rank == 1:  # torch's lp_pool1d takes a number only
            plain["kernel_size"] = arguments["kernel_size"][0]
        calls[f"lp {text}"] = same(f"lp_pool{rank}d", [x + 0.1], norm_type=3.0, **plain)
    compare(calls, 27)


@given(st.data())
@settings(max_examples=examples(6, 2))
def test_adaptive(draw: st.DataObject) -> None:
    calls: dict[str, Call] = {}
    for rank in (1, 2, 3):
        size = tuple(draw.draw(st.integers(1, 7)) for _ in range(rank))
        out = tuple(draw.draw(st.integers(1, 4)) for _ in range(rank))
        x = distinct(*draw.draw(st.sampled_from([(), (2,)])), 2, *size)
        calls[f"avg {x.shape} {out}"] = same(f"adaptive_avg_pool{rank}d", [x], output_size=out)
        calls[f"max {x.shape} {out}"] = same(f"adaptive_max_pool{rank}d", [x], output_size=out)
        calls[f"indices {x.shape} {out}"] = indices(f"adaptive_max_pool{rank}d", x, output_size=out)
    compare(calls, 64)


def test_other_forms() -> None:
    x = data(2, 6, 4, 5)
    ones = np.ones((1, 1, 4, 4, 4), np.float32)
    compare(
        {
            "divisor": same("avg_pool2d", [x], kernel_size=2, padding=1, divisor_override=3),
            "divisor 3": same("avg_pool3d", [data(1, 2, 4, 4, 4)], kernel_size=2, divisor_override=5),
            "none": same("adaptive_avg_pool2d", [x], output_size=(None, 3)),
            "ties": same("max_pool3d", [ones], kernel_size=3, stride=1),
            "tied indices": indices("max_pool3d", ones, kernel_size=3, stride=1, padding=1),
            "sum": (lambda x: F.sum_pool1d(x, 2), lambda x: T.avg_pool1d(x, 2) * 2, [data(2, 3, 6)]),
            "sum 3": (lambda x: F.sum_pool3d(x, 2), lambda x: T.avg_pool3d(x, 2) * 8, [data(1, 2, 4, 5, 4)]),
            "pairs": (
                lambda x: F.max_pool2d(x, 2, 1, padding=((1, 0), (0, 2))),
                lambda x: T.max_pool2d(T.pad(x, (0, 2, 1, 0), value=-torch.inf), 2, 1),
                [distinct(2, 3, 4, 5)],
            ),
            "sum of pairs, dilated": (
                lambda x: F.sum_pool2d(x, 2, 1, padding=((0, 1), (2, 0)), dilation=2),
                lambda x: T.conv2d(T.pad(x, (2, 0, 0, 1)), torch.ones(6, 1, 2, 2, dtype=x.dtype), dilation=2, groups=6),
                [x],
            ),
            "global avg": (F.global_avg_pool, lambda x: x.mean((2, 3, 4), keepdim=True), [data(2, 3, 4, 5, 2)]),
            "global max": (F.global_max_pool, lambda x: x.amax(2, keepdim=True), [data(2, 3, 9)]),
            "maxout": (lambda x: F.maxout(x, 3), lambda x: x.reshape(2, 2, 3, 4, 5).amax(2), [x]),
            "maxout last": (lambda x: F.maxout(x, 5, -1), lambda x: x.amax(-1, keepdim=True), [x]),
            "channels": (
                lambda x: F.channel_pool(x, 3, 1),
                lambda x: T.max_pool3d(x, (3, 1, 1), (1, 1, 1)),
                [x],
            ),
            "channels avg": (
                lambda x: F.channel_pool(x, 2, mode="avg"),
                lambda x: T.avg_pool3d(x, (2, 1, 1)),
                [x],
            ),
        },
        60,
    )


def test_empty_batch_and_half_precision() -> None:
    graph = grt.Graph()
    x, h = graph.input("x", (0, 2, 5, 5)), graph.input("h", (1, 2, 5, 5), "float16")
    graph.output("max", F.max_pool2d(x, 2))
    graph.output("avg", F.avg_pool2d(h, 3, 2, 1, count_include_pad=False))
    graph.output("adaptive", F.adaptive_avg_pool2d(h, 3))
    outputs = grt.compile(graph, target=TARGET)(x=np.zeros((0, 2, 5, 5), np.float32), h=np.ones((1, 2, 5, 5), np.float16))
    assert outputs["max"].shape == (0, 2, 2, 2)
    for name in ("avg", "adaptive"):
        assert outputs[name].dtype == np.float16
        np.testing.assert_allclose(outputs[name], 1, rtol=2e-3)


def test_pooling_to_the_size_that_is_there_takes_no_kernel() -> None:
    """AlexNet and VGG end in an adaptive pool that changes nothing for images of the published size."""
    g = grt.Graph()
    x = g.input("x", (2, 3, 6, 6))
    y = F.adaptive_avg_pool2d(F.relu(x), 6)
    g.output("y", y)
    g.output("dx", grt.grad(y, [x], g.input("dy", y.shape))[0])
    program = grt.compile(g, target=TARGET)
    assert not [n for n in program.graph.nodes if "pool" in n.op.name]
    values, dy = np.random.default_rng(0).standard_normal((2, 2, 3, 6, 6)).astype(np.float32)
    found = program(x=values, dy=dy)
    np.testing.assert_array_equal(found["y"], np.maximum(values, 0))
    np.testing.assert_array_equal(found["dx"], np.where(values > 0, dy, 0))


def test_layers() -> None:
    graph, feeds, expected = grt.Graph(), dict[str, Any](), dict[str, Any]()
    arguments = {"MaxPool": (2,), "AvgPool": (2, 1), "LPPool": (2, 3), "AdaptiveAvgPool": (3,), "AdaptiveMaxPool": (2,)}
    for name, given_ in arguments.items():
        for rank in (1, 2, 3):
            layer = f"{name}{rank}d"
            feeds[layer] = np.abs(distinct(1, 2, *(5, 4, 4)[:rank]))
            graph.output(f"{layer}.y", getattr(nn, layer)(*given_)(graph.input(layer, feeds[layer].shape)))
            expected[f"{layer}.y"] = getattr(torch.nn, layer)(*given_)(torch.from_numpy(feeds[layer]).double()).numpy()
    outputs = grt.compile(graph, target=TARGET)(feeds)
    for name, value in expected.items():
        assert_close(outputs[name], value, 30, name)


def _x(g: grt.Graph, *shape: int, dtype: str = "float32") -> grt.Value:
    return g.input(f"i{len(g.sources)}", shape, dtype)


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = []
for _name in ("max_pool", "avg_pool", "sum_pool"):
    for _rank in (1, 2, 3):
        _f, _s = f"{_name}{_rank}d", (1, 1, *(4,) * _rank)
        BAD += [
            (f"{_f} rank", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s, 4), 2)),  # type: ignore[misc]
            (f"{_f} kernel", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), 0)),  # type: ignore[misc]
            (f"{_f} too big", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), 5)),  # type: ignore[misc]
            (f"{_f} padding", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), 2, padding=2)),  # type: ignore[misc]
            (f"{_f} stride", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), 2, stride=-1)),  # type: ignore[misc]
            (f"{_f} dtype", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s, dtype="int32"), 2)),  # type: ignore[misc]
            (f"{_f} no value", lambda g, f=_f: (_x(g, 1), F.FUNCTIONS[f](2.0, 2))),  # type: ignore[misc]
        ]
for _name in ("adaptive_avg_pool", "adaptive_max_pool"):
    for _rank in (1, 2, 3):
        _f, _s = f"{_name}{_rank}d", (1, 1, *(4,) * _rank)
        BAD += [
            (f"{_f} zero", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), 0)),  # type: ignore[misc]
            (f"{_f} count", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), (1,) * 4)),  # type: ignore[misc]
            (f"{_f} float", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s), 1.5)),  # type: ignore[misc]
            (f"{_f} rank", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, 4), 1)),  # type: ignore[misc]
            (f"{_f} empty", lambda g, f=_f, s=_s: F.FUNCTIONS[f](_x(g, *s[:-1], 0), 1)),  # type: ignore[misc]
        ]
BAD += [
    ("divisor", lambda g: F.avg_pool2d(_x(g, 1, 1, 4, 4), 2, divisor_override=0)),
    ("lp norm", lambda g: F.lp_pool1d(_x(g, 1, 1, 4), 0, 2)),
    ("lp norm text", lambda g: F.lp_pool2d(_x(g, 1, 1, 4, 4), "2", 2)),
    ("lp kernel", lambda g: F.lp_pool3d(_x(g, 1, 1, 4, 4, 4), 2, 5)),
    ("lp dtype", lambda g: F.lp_pool1d(_x(g, 1, 1, 4, dtype="int64"), 2, 2)),
    ("global rank", lambda g: F.global_avg_pool(_x(g, 1, 1))),
    ("global empty", lambda g: F.global_max_pool(_x(g, 1, 1, 0))),
    ("global many", lambda g: F.global_max_pool(_x(g, 1, 1, 1, 1, 1, 1))),
    ("maxout size", lambda g: F.maxout(_x(g, 1, 4), 3)),
    ("maxout zero", lambda g: F.maxout(_x(g, 1, 4), 0)),
    ("maxout dim", lambda g: F.maxout(_x(g, 4), 2, 1)),
    ("channel rank", lambda g: F.channel_pool(_x(g, 4), 2)),
    ("channel kernel", lambda g: F.channel_pool(_x(g, 1, 4, 2), 5)),
    ("channel mode", lambda g: F.channel_pool(_x(g, 1, 4, 2), 2, mode="min")),
]


def test_gradients_of_maxima_by_cells_of_the_stride(target: str) -> None:
    """Channels last on a GPU: odd sizes, pixels that no tap meets, dilated taps, strides of one axis; ties go to the first."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    cases = [
        ((2, 16, 9, 11), 3, 2, 1, 1),
        ((1, 8, 12, 7), (2, 3), (2, 3), 1, 1),
        ((1, 8, 11, 10), 3, (1, 2), 1, 2),
        ((1, 8, 9, 9), 1, 3, 0, 1),
    ]
    feeds = {}
    for i, (shape, *window) in enumerate(cases):
        x = g.input(f"x{i}", shape, order=(0, 2, 3, 1))
        y = F.max_pool2d(x, *window)
        g.output(f"dx{i}", grt.grad(F.sum(y * y), [x])[0])
        feeds[f"x{i}"] = rng.integers(-3, 4, shape).astype(np.float32)
    check(g, feeds, target)
    if not INTERPRETED and find_spec("triton"):
        codes = grt.compile(g, target="cuda:sm_90")._executable._compilation.codes
        assert sorted(c.constants["CHANNELS"] for c in codes if c.display == "max_pool_grad") == [8, 8, 8, 16]


def test_windows_of_many_taps(target: str) -> None:
    """More than a kernel writes out: a loop, which the last taps do not fill."""
    g = grt.Graph()
    x = g.input("x", (1, 2, 10, 9))
    for name, y in (("max", F.max_pool2d(x, (9, 8), 1, 4)), ("avg", F.avg_pool2d(x, (9, 8), 1, 4))):
        g.output(name, y)
        g.output(f"d{name}", grt.grad(F.sum(y * y), [x])[0])
    check(g, {"x": distinct(1, 2, 10, 9)}, target, 72)


def test_rows_of_many_taps(target: str, rng: np.random.Generator) -> None:
    """As a convolution of few channels in a group has them, forward and backward."""
    g = grt.Graph()
    x, w = g.input("x", (2, 3, 1, 50)), g.input("w", (3, 1, 1, 40))
    y = g.output("y", F.conv2d(x, w, padding=(0, 3), groups=3))
    dx, dw = grt.grad(F.sum(y * y), [x, w])
    g.output("dx", dx)
    g.output("dw", dw)
    check(g, {n: rng.standard_normal(v.types[0].shape).astype(np.float32) for n, v in g.sources.items()}, target, 40)


def test_a_sum_over_all_of_an_image_is_a_reduction() -> None:
    """In any rank, and by any of its names; padded it is not. What is before and behind it shares its launch."""
    x = data(2, 6, 4, 5)
    compare(
        {
            "avg": same("avg_pool2d", [x], kernel_size=(4, 5)),
            "adaptive": same("adaptive_avg_pool2d", [x], output_size=1),
            "adaptive 1": same("adaptive_avg_pool1d", [data(2, 3, 7)], output_size=1),
            "adaptive 3": same("adaptive_avg_pool3d", [data(2, 3, 2, 3, 4)], output_size=1),
            "lp": same("lp_pool2d", [x + 3.0], norm_type=2.0, kernel_size=(4, 5)),
            "padded": same("avg_pool2d", [data(2, 3, 2, 2)], kernel_size=2, padding=1),
            "divisor": same("avg_pool2d", [x], kernel_size=(4, 5), divisor_override=7),
        },
        64,
    )
    g = grt.Graph()
    x = g.input("x", (8, 64, 7, 7))
    g.output("y", F.adaptive_avg_pool2d(F.relu(x), 1) * 2.0)
    g.output("padded", F.avg_pool2d(x, 7, padding=1))
    templates = [n.op.template for n in g.nodes if n.op.template]
    assert templates == ["sum_pool"]
    loss = F.sum(F.adaptive_avg_pool2d(x, 1) * F.adaptive_avg_pool2d(x, 1))
    (dx,) = grt.grad(loss, [x])
    assert "sum_pool_grad" not in {n.op.template for n in dx.graph.nodes}


@given(st.data())
@settings(max_examples=examples(12, 2))
def test_maxima_without_indices_are_those_with_them(draw: st.DataObject) -> None:
    """Other loops compute them on a cpu: what is no number wins in both, and infinities are numbers."""
    shape, arguments, dilation = draw.draw(cases(2))
    shape = ((1,) * (4 - len(shape)) + shape)[-4:]
    x = np.random.default_rng(draw.draw(st.integers(0, 99))).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)
    for odd in (np.nan, np.inf, -np.inf):
        x[tuple(draw.draw(st.integers(0, n - 1)) for n in shape)] = odd
    given = torch.from_numpy(x)
    if draw.draw(st.booleans()):
        given = given.to(memory_format=torch.channels_last)
    graph = grt.Graph()
    kwargs = arguments | {"dilation": dilation}
    graph.output("y", F.max_pool2d(graph.input("x", shape), **kwargs))
    alone = grt.compile(graph, target=TARGET)(x=given)
    graph = grt.Graph()
    y, index = F.max_pool2d(graph.input("x", shape), **kwargs, return_indices=True)
    graph.output("y", y)
    graph.output("index", index)
    both = grt.compile(graph, target=TARGET)(x=given)
    np.testing.assert_array_equal(np.asarray(alone["y"]), np.asarray(both["y"]))
    np.testing.assert_array_equal(np.asarray(alone["y"]), T.max_pool2d(given, **kwargs).numpy())
