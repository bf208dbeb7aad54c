"""The ONNX file: read, brought to an opset of the table; its tensors as arrays, its attributes as Python values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, inliner, numpy_helper

from graphrt.errors import ArgumentError, ConversionError, DTypeError
from graphrt.frontends.onnx.legacy import converted
from graphrt.frontends.onnx.table import OLDEST, element_type
from graphrt.types import DType

Dim = int | str  # a size, or the name of one ("?" where it has none)


def read_model(path: str | Path) -> onnx.ModelProto:
    """The model at ``path`` with its external data. Raises ArgumentError, OSError."""
    try:
        return onnx.load(path)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ArgumentError(f"{path} cannot be read as an ONNX model: {error}") from None


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that ``model`` is written in; the oldest that is known if it does not say."""
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), OLDEST)


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` in an opset of the table, with the functions that it defines itself expanded."""
    if not model.HasField("graph") or not model.graph.output:
        raise ArgumentError("the ONNX model is empty: it has no graph with outputs")
    model = converted(model, opset(model))
    return inliner.inline_local_functions(model) if model.functions else model


def key(node: onnx.NodeProto) -> tuple[str, str]:
    """The domain and the type of ``node``, under which the table has it."""
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def array(tensor: onnx.TensorProto, what: str = "a tensor") -> np.ndarray:
    """The elements of ``tensor``. Raises DTypeError for a type that graphrt does not have, ArgumentError for another size."""
    dtype(tensor.data_type, what)
    try:
        found = numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"{what} is not what its shape {list(tensor.dims)} says: {error}") from None
    assert isinstance(found, np.ndarray)
    return found


def dtype(number: int, what: str) -> DType:
    """The DType of one of ONNX's type numbers. Raises DTypeError."""
    try:
        return element_type(number)
    except DTypeError as error:
        raise DTypeError(f"{what} is of type {onnx.TensorProto.DataType.Name(number).lower()}: {error}") from None


def signature(value: onnx.ValueInfoProto) -> tuple[list[Dim], DType]:
    """Dimensions and dtype of a graph's input. Raises ConversionError for one that is no tensor."""
    if value.type.WhichOneof("value") != "tensor_type":
        raise ConversionError(f"input {value.name!r} is a {value.type.WhichOneof('value')}; graphrt has tensors only")
    tensor = value.type.tensor_type
    dims: list[Dim] = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
    if not tensor.HasField("shape"):
        dims = ["of unknown rank"]
    return dims, dtype(tensor.elem_type, f"input {value.name!r}")


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """The attributes as Python values: numbers, strings, lists, arrays for tensors, GraphProto for subgraphs."""
    found = {}
    for a in node.attribute:
        value = helper.get_attribute_value(a)
        if a.type == a.TENSOR:
            value = array(value, f"attribute {a.name}")
        elif a.type == a.SPARSE_TENSOR:
            raise ConversionError("sparse tensors have no counterpart")
        elif a.type == a.STRING:
            value = value.decode()
        elif a.type == a.STRINGS:
            value = [v.decode() for v in value]
        elif a.type in (a.INTS, a.FLOATS):
            value = list(value)
        found[a.name] = value
    return found
