"""ONNX models as graphs: ``from_onnx``. The operators are in ``table``, a function each, by family in ``operators/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphrt.errors import ArgumentError
from graphrt.ir import Graph


def from_onnx(
    model: Any,
    shapes: Mapping[str, Sequence[int] | int] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> Graph:
    """The graph of an ONNX model: a path or a ModelProto, with external data beside it. Compile it like any other.

    Initialisers become parameters under their names, trainable where they are floating point and not statistics; what depends
    on nothing but constants is computed now. ``shapes`` says what is left open: the shape of an input by its name, or the
    size of a symbolic dimension by its name. ``constants`` fixes inputs at import, such as one that holds a shape.

        graph = grt.from_onnx("resnet.onnx", shapes={"batch": 8})
        program = grt.compile(graph, target="cpu")
        program(x=images)

    Needs the package onnx (``pip install onnx``). Raises ConversionError for an operator that is not in the table
    (docs/onnx_coverage.md lists it), ArgumentError for a model that is none or an open dimension, ShapeError, DTypeError.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ArgumentError("from_onnx needs the package onnx: pip install onnx") from None
    from graphrt.frontends.onnx.importer import import_model
    from graphrt.frontends.onnx.model import prepare, read_model

    name = "model.onnx"
    if isinstance(model, str | Path):
        model, name = read_model(model), Path(model).name
    if not isinstance(model, onnx.ModelProto):
        raise ArgumentError(f"from_onnx takes a path or a ModelProto, got {type(model).__name__}")
    return import_model(prepare(model), name, shapes or {}, constants or {})
