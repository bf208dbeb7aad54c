"""ONNX's windows and positions, drawn at random, beside ONNX Runtime."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import pytest
from conftest import INTERPRETED
from hypothesis import assume, given, settings
from onnx import helper
from onnx_models import info, model, ort, run

pytestmark = pytest.mark.skipif(INTERPRETED, reason="what a model means does not depend on the target")


@st.composite
def windows(draw: st.DrawFn, transposed: bool = False) -> tuple[int, list[int], dict[str, Any]]:
    """Rank, input sizes and the attributes of a window operator."""
    rank = draw(st.integers(1, 3))
    several = lambda low, high: draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))  # noqa: E731
    attrs: dict[str, Any] = {"kernel_shape": several(1, 3), "strides": several(1, 3)}
    attrs["auto_pad"] = draw(st.sampled_from(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if attrs["auto_pad"] == "NOTSET":
        attrs["dilations"] = several(1, 2)
        low = [draw(st.integers(0, (k - 1) // 2)) for k in attrs["kernel_shape"]]
        attrs["pads"] = [*low, *(draw(st.integers(0, k - 1)) for k in attrs["kernel_shape"])]
    return rank, several(5, 8), attrs


def skips(attrs: dict[str, Any]) -> bool:
    """Whether windows further apart than they are wide are to fill up the input: ONNX Runtime makes that negative padding."""
    steps = zip(attrs["strides"], attrs["kernel_shape"], strict=True)
    return attrs["auto_pad"].startswith("SAME") and any(s > k for s, k in steps)


def close_to_ort(proto: onnx.ModelProto, **inputs: np.ndarray) -> None:
    np.testing.assert_allclose(run(proto, **inputs), ort(proto, **inputs), rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(windows(), st.sampled_from([(2, 4), (1, 3)]))
def test_convolutions(drawn: tuple[int, list[int], dict[str, Any]], channels: tuple[int, int]) -> None:
    _, sizes, attrs = drawn
    groups, filters = channels[0], 4 if channels[0] == 2 else 3
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2 * groups, *sizes)).astype(np.float32)
    w = rng.standard_normal((filters, 2, *attrs["kernel_shape"])).astype(np.float32)
    b = rng.standard_normal(filters).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=groups, **attrs)
    close_to_ort(model([node], [info("x", x.shape)], initial={"w": w, "b": b}), x=x)


@settings(max_examples=30)
@given(windows(), st.booleans())
def test_transposed_convolutions(drawn: tuple[int, list[int], dict[str, Any]], sized: bool) -> None:
    _, sizes, attrs = drawn
    assume(not skips(attrs))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4, *sizes)).astype(np.float32)
    w = rng.standard_normal((4, 3, *attrs["kernel_shape"])).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2, **attrs)
    if sized and "pads" not in attrs and attrs["auto_pad"] != "VALID":
        node.attribute.append(
            helper.make_attribute("output_shape", [n * s for n, s in zip(sizes, attrs["strides"], strict=True)])
        )
    close_to_ort(model([node], [info("x", x.shape)], initial={"w": w}), x=x)


@settings(max_examples=40)
@given(windows(), st.sampled_from(["MaxPool", "AveragePool", "AveragePool all", "LpPool"]), st.booleans())
def test_pooling(drawn: tuple[int, list[int], dict[str, Any]], op: str, ceil: bool) -> None:
    _, sizes, attrs = drawn
    assume(not skips(attrs))
    if op == "AveragePool all":
        attrs = {**attrs, "count_include_pad": 1}
    x = np.random.default_rng(0).standard_normal((1, 2, *sizes)).astype(np.float32)
    if ceil and "pads" in attrs and op == "MaxPool":
        attrs["ceil_mode"] = 1
    close_to_ort(model([helper.make_node(op.split()[0], ["x"], ["y"], **attrs)], [info("x", x.shape)]), x=x)


@settings(max_examples=40)
@given(
    st.tuples(*[st.integers(2, 9)] * 2),
    st.tuples(*[st.integers(1, 12)] * 2),
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
)
def test_resizing(before: tuple[int, int], after: tuple[int, int], mode: str, coordinates: str, nearest: str) -> None:
    if mode == "nearest":  # of a scale that float32 does not hold, rounding decides where a position falls
        after = tuple(n * m if m < 6 else max(n // (m - 4), 1) for n, m in zip(before, after, strict=True))
        assume(all(a % b == 0 or b in (2 * a, 4 * a) for a, b in zip(after, before, strict=True)))
    x = np.random.default_rng(0).standard_normal((1, 2, *before)).astype(np.float32)
    named = {"nearest_mode": nearest} if mode == "nearest" else {}
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode=mode, coordinate_transformation_mode=coordinates, **named
    )
    close_to_ort(model([node], [info("x", x.shape)], initial={"sizes": np.asarray([1, 2, *after])}), x=x)


@settings(max_examples=40)
@given(st.data())
def test_slices_pads_and_gathers(data: st.DataObject) -> None:
    """One after the other on a matrix, with positions from both ends."""
    shape = data.draw(st.tuples(*[st.integers(2, 6)] * 2))
    axis, step = data.draw(st.integers(-2, 1)), data.draw(st.sampled_from([-2, -1, 1, 2]))
    n = shape[axis]
    start, end = data.draw(st.integers(-n - 1, n + 1)), data.draw(st.sampled_from([-(2**62), -n, -1, 0, 1, n, 2**62]))
    index = data.draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=4))
    mode = data.draw(st.sampled_from(["constant", "edge", "reflect"]))
    initial = {name: np.asarray([v]) for name, v in {"start": start, "end": end, "axis": axis, "step": step}.items()}
    initial |= {"index": np.asarray(index), "pads": np.asarray(data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4)))}
    nodes = [
        helper.make_node("Gather", ["x", "index"], ["rows"], axis=axis),
        helper.make_node("Pad", ["x", "pads"], ["wide"], mode=mode),
        helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["part"]),
        helper.make_node("Concat", ["x", "rows", "part"], ["joined"], axis=axis),
        helper.make_node("ReduceSum", ["joined"], ["total"]),
        helper.make_node("Mul", ["wide", "total"], ["y"]),
    ]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    close_to_ort(model(nodes, [info("x", shape)], initial=initial), x=x)
