"""Operators at each opset in which they changed: one model each, the same numbers as ONNX Runtime or ONNX's own evaluator has.

``CASES`` says what an operator takes at an opset; that every operator of the table that changed has a case is a test. A form
that is not supported is refused with the operator's name and the opset.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt.errors import GraphrtError

onnx = pytest.importorskip("onnx")
from onnx import defs, helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from graphrt.frontends.onnx import operators  # noqa: E402, F401 - fills the table
from graphrt.frontends.onnx.table import TABLE  # noqa: E402

ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(INTERPRETED, reason="what operators mean does not depend on the target")

Array = np.ndarray
Case = tuple[dict[str, Any], list[Any]]  # attributes, and inputs: arrays are fed, those in a tuple known, None is left out
NEWEST = 23  # the last opset that ONNX Runtime promises


def f(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed + sum(shape)).uniform(-2, 2, shape).astype(np.float32)


def i64(*numbers: int) -> tuple[Array]:
    return (np.array(numbers, np.int64),)


def fixed(x: Any, dtype: Any = np.float32) -> tuple[Array]:
    return (np.asarray(x, dtype),)


X = f(2, 3, 4, 5)


def unary(*, low: float = -2.0, **attributes: Any) -> Callable[[int], Case]:
    x = np.abs(f(2, 3)) + low if low > -2 else f(2, 3)
    return lambda v: (attributes, [x])


def binary(dtype: Any = np.float32, positive: bool = False) -> Callable[[int], Case]:
    def make(v: int) -> Case:
        a, b = f(2, 3, 4), f(4, seed=1)
        a, b = (np.abs(x) + 0.5 if positive else x for x in (a, b))
        if dtype is bool:
            a, b = a > 0, b > 0
        return ({"broadcast": 1} if v < 7 else {}), [a.astype(dtype), b.astype(dtype)]

    return make


def reduction(v: int, last: int = 18) -> Case:
    x = np.abs(f(2, 3, 4)) + 0.1
    return ({"keepdims": 0}, [x, i64(0, 2)]) if v >= last else ({"axes": [0, 2], "keepdims": 0}, [x])


def recurrent(gates: int) -> Callable[[int], Case]:
    def make(v: int) -> Case:
        h, more = 3, {"output_sequence": 1} if v < 7 else {}
        return {"hidden_size": h, **more}, [f(4, 2, 5), f(1, gates * h, 5), f(1, gates * h, h, seed=1), f(1, 2 * gates * h)]

    return make


def _batch_norm(v: int) -> Case:
    if v >= 14:
        attributes: dict[str, Any] = {"training_mode": 0}
    else:
        attributes = {} if v >= 7 else {"is_test": 1, **({"consumed_inputs": [0, 0, 0, 1, 1]} if v < 6 else {})}
    return attributes, [X, f(3), f(3, seed=1), f(3, seed=2), np.abs(f(3, seed=3)) + 0.5]


def _pad(v: int) -> Case:
    pads, x = [0, 1, 2, 0], f(2, 3)
    if v < 2:
        return {"paddings": pads, "value": 1.5}, [x]
    return ({"pads": pads, "value": 1.5}, [x]) if v < 11 else ({}, [x, i64(*pads), fixed(1.5)])


def _upsample(v: int) -> Case:
    if v < 7:
        return {"mode": "bilinear", "width_scale": 2.0, "height_scale": 1.5}, [X]
    scales = [1.0, 1.0, 1.5, 2.0]
    return ({"mode": "linear", "scales": scales}, [X]) if v < 9 else ({"mode": "linear"}, [X, fixed(scales)])


def _slice(v: int) -> Case:
    if v < 10:
        return {"starts": [1, -3], "ends": [3, 9], "axes": [1, 3]}, [X]
    return {}, [X, i64(1, -3), i64(3, 9), i64(1, 3), i64(1, 2)]


def _split(v: int) -> Case:
    if v == 1:
        return {"axis": 1}, [f(2, 5), fixed([2, 3])]
    return ({"axis": 1, "split": [2, 3]}, [f(2, 5)]) if v < 13 else ({"axis": 1}, [f(2, 5), i64(2, 3)])


def _dropout(v: int) -> Case:
    if v >= 12:
        return {}, [X, fixed(0.4)]
    return {"ratio": 0.4, **({"is_test": 1} if v < 7 else {})}, [X]


def _clip(v: int) -> Case:
    return ({"min": -1.0, "max": 0.5}, [X]) if v < 11 else ({}, [X, fixed(-1.0), fixed(0.5)])


def _top_k(v: int) -> Case:
    return ({"k": 2, "axis": 1}, [X]) if v == 1 else ({"axis": 1}, [X, i64(2)])


def _dims(attribute: str, axes: list[int], x: Array) -> Callable[[int], Case]:
    return lambda v: ({attribute: axes}, [x]) if v < 13 else ({}, [x, i64(*axes)])


def _cast(v: int) -> Case:
    return {"to": "INT32" if v < 6 else onnx.TensorProto.INT32}, [f(2, 3)]


def _gemm(v: int) -> Case:
    return {"alpha": 0.5, "beta": 2.0, "transB": 1, **({"broadcast": 1} if v < 7 else {})}, [f(2, 3), f(4, 3), f(4)]


def _tile(v: int) -> Case:
    return {}, [f(2, 3), fixed(2), fixed(1)] if v < 6 else [f(2, 3), i64(1, 2)]


def _reshape(v: int) -> Case:
    return ({"shape": [2, -1]}, [X]) if v < 5 else ({}, [X, i64(2, -1)])


def _lp_pool(v: int) -> Case:
    return {"kernel_shape": [2, 2], "p": 3.0 if v == 1 else 3, "strides": [2, 2]}, [np.abs(X)]


def _quantized(v: int) -> Case:
    axis = {"axis": 1} if v >= 13 else {}
    scale = np.array([0.05, 0.1, 0.2], np.float32) if axis else np.float32(0.1)
    zero = np.array([3, 7, 1], np.uint8) if axis else np.uint8(3)
    return axis, [X, np.asarray(scale), np.asarray(zero)]


def _dequantized(v: int) -> Case:
    axis, (_, scale, zero) = _quantized(v)
    return axis, [np.arange(120, dtype=np.uint8).reshape(X.shape), scale, zero]


def _branch(value: float) -> Any:
    tensor = helper.make_tensor("t", onnx.TensorProto.FLOAT, [2], [value, value])
    node = helper.make_node("Constant", [], [f"made{value}"], value=tensor)
    out = helper.make_tensor_value_info(f"made{value}", onnx.TensorProto.FLOAT, [2])
    return helper.make_graph([node], "branch", [], [out])


def _loop(v: int) -> Case:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Add", ["sum", "sum"], ["next"]), helper.make_node("Identity", ["going"], ["still"])],
        "body",
        [info("i", 7, []), info("going", 9, []), info("sum", 1, [2])],
        [info("still", 9, []), info("next", 1, [2])],
    )
    return {"body": body}, [fixed(3, np.int64), fixed(True, bool), f(2)]


def _scan(v: int) -> Case:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Add", ["sum", "x"], ["next"]), helper.make_node("Identity", ["next"], ["each"])]
    body = helper.make_graph(
        nodes, "body", [info("sum", 1, [2]), info("x", 1, [2])], [info("next", 1, [2]), info("each", 1, [2])]
    )
    if v < 9:
        return {"body": body, "num_scan_inputs": 1}, [None, f(1, 2), f(1, 4, 2)]
    return {"body": body, "num_scan_inputs": 1}, [f(2), f(4, 2)]


_BOXES = np.array([[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, 2, 1, 3]]], np.float32)
_AT = np.array([[0, 1, 1], [1, 0, 1]], np.int64)
CASES: dict[str, Callable[[int], Case]] = {
    **{n: unary() for n in "Abs Atan Ceil Cos Erf Exp Floor Neg Relu Round Sigmoid Sign Sin Sinh Cosh Asinh Tanh".split()},
    **{n: unary() for n in "Identity Softplus Softsign Celu HardSwish Shape Size IsNaN Mish".split()},
    **{n: unary() for n in ("Elu", "Selu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu")},
    **{n: unary(low=0.3) for n in ("Log", "Sqrt", "Reciprocal", "Tan")},
    **{n: lambda v: ({}, [f(2, 3) / 2.5]) for n in ("Acos", "Asin", "Atanh")},
    "Acosh": unary(low=1.1),
    **{n: binary() for n in ("Add", "Sub", "Mul", "Less", "Greater")},
    **{n: binary(positive=True) for n in ("Div", "Pow")},
    "Equal": binary(np.int32),
    **{n: binary(bool) for n in ("And", "Or", "Xor")},
    **{n: lambda v: ({}, [f(3, 4), f(3, 4, seed=1)]) for n in ("Max", "Min", "Sum", "Mean", "LessOrEqual", "GreaterOrEqual")},
    "MatMul": lambda v: ({}, [f(2, 3, 4), f(4, 2)]),
    "Mod": lambda v: ({}, [np.array([7, -7, 5], np.int32), np.array([3, 3, -3], np.int32)]),
    "BitShift": lambda v: ({"direction": "LEFT"}, [np.array([1, 5], np.uint8), np.array([2, 1], np.uint8)]),
    **{f"Reduce{n}": reduction for n in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")},
    "ReduceSum": lambda v: reduction(v, 13),
    **{n: lambda v: ({"axis": 1, "keepdims": 0}, [X]) for n in ("ArgMax", "ArgMin")},
    **{n: lambda v: ({}, [X]) for n in ("Softmax", "LogSoftmax", "Hardmax")},
    **{n: lambda v: ({}, [X]) for n in ("GlobalAveragePool", "GlobalMaxPool", "Flatten")},
    "GlobalLpPool": lambda v: ({"p": 3.0 if v == 1 else 3}, [np.abs(X)]),
    "AveragePool": lambda v: (
        {"kernel_shape": [3, 3], "pads": [1] * 4 if v >= 7 else [0] * 4, **({"ceil_mode": 1} if v >= 10 else {})},
        [X],  # whether padding counts was not said before opset 7
    ),
    "MaxPool": lambda v: (
        {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [2, 2], **({"ceil_mode": 1} if v >= 10 else {})},
        [X],
    ),
    "LpPool": _lp_pool,
    "LpNormalization": lambda v: ({"axis": 1}, [X]),
    "MeanVarianceNormalization": lambda v: ({}, [X]),
    "LRN": lambda v: ({"size": 3}, [X]),
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": lambda v: ({"consumed_inputs": [0, 0, 0]} if v < 6 else {}, [X, f(3), f(3, seed=1)]),
    "Dropout": _dropout,
    "Clip": _clip,
    "PRelu": lambda v: ({}, [X, f(3) if v < 7 else f(3, 1, 1)]),
    "Gemm": _gemm,
    "Conv": lambda v: ({"pads": [1] * 4}, [X, f(2, 3, 3, 3), f(2)]),
    "ConvTranspose": lambda v: ({"strides": [2, 2]}, [X, f(3, 2, 3, 3), f(2)]),
    "Cast": _cast,
    "Concat": lambda v: ({} if v == 1 else {"axis": 1}, [f(2, 3), f(2, 2)]),
    "Compress": lambda v: ({"axis": 1}, [X, fixed([True, False, True], bool)]),
    "CumSum": lambda v: ({"reverse": 1}, [X, fixed(1, np.int64)]),
    "Det": lambda v: ({}, [f(2, 3, 3)]),
    "DepthToSpace": lambda v: ({"blocksize": 2}, [f(1, 4, 2, 3)]),
    "SpaceToDepth": lambda v: ({"blocksize": 2}, [f(1, 2, 4, 6)]),
    "Einsum": lambda v: ({"equation": "ij,jk->ik"}, [f(2, 3), f(3, 4)]),
    "Expand": lambda v: ({}, [f(3, 1), i64(2, 3, 4)]),
    "EyeLike": lambda v: ({"k": 1}, [f(3, 4)]),
    "Constant": lambda v: ({"value": helper.make_tensor("t", 1, [2], [1.5, -2.0])}, []),
    "ConstantOfShape": lambda v: ({"value": helper.make_tensor("t", 1, [1], [2.5])}, [i64(2, 3)]),
    "Gather": lambda v: ({"axis": 1}, [X, np.array([2, 0], np.int64) - (3 if v >= 11 else 0)]),
    "GatherElements": lambda v: ({"axis": 1}, [f(2, 3), _AT]),
    "GatherND": lambda v: ({}, [f(2, 3), np.array([[0, 1], [1, 2]], np.int64)]),
    "ScatterElements": lambda v: ({"axis": 1}, [f(2, 3), np.array([[1], [0]], np.int64), f(2, 1)]),
    "ScatterND": lambda v: ({}, [f(4, 3), np.array([[1], [3]], np.int64), f(2, 3)]),
    "Scatter": lambda v: ({"axis": 1}, [f(2, 3), np.array([[1], [0]], np.int64), f(2, 1)]),
    "IsInf": lambda v: ({}, [np.array([1.0, np.inf, -np.inf], np.float32)]),
    "NonZero": lambda v: ({}, [fixed([[1.0, 0.0], [2.0, 3.0]])]),
    "OneHot": lambda v: ({"axis": 1}, [np.array([0, 2], np.int64), fixed(3, np.int64), fixed([0.5, 2.0])]),
    "NonMaxSuppression": lambda v: ({}, [(_BOXES,), fixed([[[0.9, 0.8, 0.7]]]), i64(3), fixed([0.5]), fixed([0.0])]),
    "Unique": lambda v: ({}, [fixed([2.0, 1.0, 1.0, 3.0])]),
    "Pad": _pad,
    "Range": lambda v: ({}, [fixed(1.0), fixed(7.0), fixed(2.0)]),
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _dims("axes", [0, 2], f(1, 3, 1, 2)),
    "Unsqueeze": _dims("axes", [0, 2], f(3, 2)),
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": lambda v: ({"perm": [1, 0, 2]}, [f(2, 3, 4)]),
    "Where": lambda v: ({}, [f(2, 3) > 0, f(2, 3), f(2, 3, seed=1)]),
    "ReverseSequence": lambda v: ({"time_axis": 0, "batch_axis": 1}, [f(4, 2), i64(3, 2)]),
    "Resize": lambda v: ({"mode": "linear"}, [X, fixed([1, 1, 1.5, 2])] if v < 11 else [X, None, fixed([1, 1, 1.5, 2])]),
    "Resize nearest": lambda v: ({}, [X, fixed([1, 1, 0.6, 2.5])] if v < 11 else [X, None, fixed([1, 1, 0.6, 2.5])]),
    "Upsample": _upsample,
    "RoiAlign": lambda v: (
        {"output_height": 2, "output_width": 2, "sampling_ratio": 2},
        [X, np.array([[0.2, 0.4, 3.3, 2.9]], np.float32), np.array([1], np.int64)],
    ),
    "MaxRoiPool": lambda v: ({"pooled_shape": [2, 2]}, [X, np.array([[1, 0, 0, 3, 2]], np.float32)]),
    "MaxUnpool": lambda v: (
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        [f(1, 1, 2, 2), np.array([[[[0, 3], [9, 14]]]], np.int64)],
    ),
    "CastLike": lambda v: ({}, [f(2, 3) * 3, np.zeros(1, np.int32)]),
    "GridSample": lambda v: ({"mode": "bilinear" if v < 20 else "linear", "padding_mode": "border"}, [X, f(2, 3, 2, 2) / 2]),
    "RNN": recurrent(1),
    "GRU": recurrent(3),
    "LSTM": recurrent(4),
    "QuantizeLinear": _quantized,
    "DequantizeLinear": _dequantized,
    "QLinearMatMul": lambda v: (
        {},
        [
            *(np.arange(6, dtype=np.uint8).reshape(2, 3), np.float32(0.1), np.uint8(1)),
            *(np.arange(6, dtype=np.uint8).reshape(3, 2), np.float32(0.2), np.uint8(2), np.float32(0.05), np.uint8(3)),
        ],
    ),
    "If": lambda v: ({"then_branch": _branch(1.0), "else_branch": _branch(2.0)}, [fixed(True, bool)]),
    "Loop": _loop,
    "Scan": _scan,
}
DRAWN = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli"}
SEQUENCES = {"SplitToSequence"}  # their results are no tensors; tests/test_onnx_nodes.py has them inside models


@functools.cache
def versions() -> dict[str, set[int]]:
    """The opsets in which each operator changed."""
    found = dict[str, set[int]]()
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            found.setdefault(schema.name, set()).add(schema.since_version)
    return found


def changes(name: str) -> list[int]:
    """The opsets in which ``name`` changed, up to the newest one that is tried."""
    return sorted(v for v in versions().get(name.split()[0], ()) if v <= NEWEST)


def model(name: str, opset: int) -> tuple[Any, dict[str, Array], dict[str, Array]]:
    """A model of one node, what it is fed, and what is known at import."""
    attributes, given = CASES[name](opset)
    names = ["" if a is None else f"x{i}" for i, a in enumerate(given)]
    known = {n: a[0] for n, a in zip(names, given, strict=True) if isinstance(a, tuple)}
    feeds = {n: np.asarray(a) for n, a in zip(names, given, strict=True) if a is not None and not isinstance(a, tuple)}
    count = {"Split": 2, "TopK": 2, "Scan": 2}.get(name, 1)
    outputs = [f"y{i}" for i in range(count)]
    graph = helper.make_graph(
        [helper.make_node(name.split()[0], names, outputs, **attributes)],
        "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()],
        [helper.make_empty_tensor_value_info(o) for o in outputs],
        [onnx.numpy_helper.from_array(a, n) for n, a in known.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 21 else 10)
    return made, feeds, known


def oracle(made: Any, feeds: dict[str, Array]) -> list[Array]:
    """What ONNX Runtime computes, or ONNX's evaluator where that has no kernel."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [np.asarray(a) for a in session.run(None, feeds)]
    except Exception:  # its errors have no common class
        return [np.asarray(a) for a in ReferenceEvaluator(made).run(None, feeds)]


REFUSED = {  # up to which opset
    **dict.fromkeys("And Or Xor Cast Equal Greater Less LSTM RNN LpPool GlobalLpPool Pad Split Tile".split(), 1),
    **{"GRU": 3, "PRelu": 6, "Scan": 8},
}


def expected(name: str, opset: int) -> list[Array]:
    """The oracle's numbers; where none has the old form, those of a newer one, which ``CASES`` makes the same."""
    for version in (opset, *reversed(changes(name))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return oracle(*model(name, version)[:2])
        except Exception:
            continue
    raise AssertionError(f"no oracle has {name}")


@pytest.mark.parametrize("name", CASES)
def test_every_form(name: str) -> None:
    for opset in changes(name):
        made, feeds, _ = model(name, opset)
        if opset <= REFUSED.get(name, 0):
            with pytest.raises(GraphrtError, match=rf"opset {opset}\D.*\b{name}\b|\b{name}\b.*opset {opset}\D"):
                grt.from_onnx(made)
            continue
        outputs = grt.compile(grt.from_onnx(made), target="reference")(feeds)
        for i, want in enumerate(expected(name, opset)):
            got = outputs[f"y{i}"]
            assert (got.dtype, got.shape) == (want.dtype, want.shape), f"opset {opset}"
            np.testing.assert_allclose(got, want, 1e-4, 1e-5, err_msg=f"opset {opset}")


def test_every_operator_that_changed_has_a_case() -> None:
    names = {name for domain, name in TABLE if not domain} | {"Scatter", "Upsample"}
    assert {n for n in names if len(changes(n)) > 1} <= CASES.keys() | DRAWN | SEQUENCES
