"""Small ONNX models made by hand, and how they are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphrt as grt


def info(name: str, shape: Sequence[Any] | None, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str] = ("y",),
    initial: dict[str, np.ndarray] | None = None,
    opset: int = 21,
    **kwargs: Any,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(a), name) for name, a in (initial or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [info(o, None) for o in outputs], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10, **kwargs)


def run(proto: onnx.ModelProto, target: str = "reference", **inputs: Any) -> Any:
    """The first output for ``inputs``, whose shapes settle what the model leaves open."""
    graph = grt.from_onnx(proto, {name: np.shape(a) for name, a in inputs.items()})
    graph.verify()
    return next(iter(grt.compile(graph, target=target)(inputs).values()))


def ort(proto: onnx.ModelProto, **inputs: np.ndarray) -> np.ndarray:
    """The same by ONNX Runtime."""
    runtime = pytest.importorskip("onnxruntime", reason="compares with ONNX Runtime where it is installed")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


X = info("x", [2, 3])
