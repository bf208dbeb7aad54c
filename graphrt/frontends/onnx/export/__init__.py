"""Graphs as ONNX models: ``to_onnx``.

Elementwise ops are written from their scalar code (``scalars``), which ONNX is one more language for; the others have a rule
each (``rules``). Sizes that follow the batch are found by building the model at three batch sizes (``sizes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrt.errors import ArgumentError
from graphrt.ir import Graph

OLDEST = 17


def to_onnx(
    model: Any, path: str | Path | None = None, example_inputs: Any = None, *, dynamic_batch: bool = True, opset: int = 18
) -> Any:
    """Writes ``model`` as an ONNX file at ``path`` and returns the ModelProto; without ``path`` it is only returned.

    ``model`` is a Graph, or with ``example_inputs`` a module of ``graphrt.nn`` or torch, taken in eval mode: a tuple of
    arguments, a dict of keyword arguments, or a single array. A model's first dimension of each input and of what follows from
    it stays open under the name ``batch``, unless ``dynamic_batch`` is off; a Graph has the sizes it was built with.
    Inputs, outputs and parameters keep their names. ``opset`` is the version of ONNX's operators, 17 to the newest that the
    installed onnx knows. What is over 2 GB keeps its weights in ``path``.data.

        grt.to_onnx(net, "net.onnx", np.zeros((1, 3, 224, 224), np.float32))

    Needs the package onnx (``pip install onnx``). Raises ConversionError for an op that has no ONNX form, with the line that
    asked for it, and where the graph depends on the batch in another way than by sizes; ArgumentError for a graph that updates
    parameters and an unknown opset.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise ArgumentError("to_onnx needs the package onnx: pip install onnx") from None
    from graphrt.compiler import trace
    from graphrt.files import whole
    from graphrt.frontends.onnx.export.sizes import alone, batched
    from graphrt.frontends.onnx.export.writer import write

    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        raise ArgumentError(f"opset must be {OLDEST} to {newest}, the newest of the installed onnx, got {opset}")
    if isinstance(model, Graph):
        sized = alone(model)
    elif example_inputs is None:
        raise ArgumentError(f"to_onnx takes a Graph, or a model with example_inputs; got {type(model).__name__} without")
    else:
        arguments = example_inputs if isinstance(example_inputs, Mapping | tuple | list) else (example_inputs,)
        sized = batched(model, arguments) if dynamic_batch else alone(trace(model, arguments))
    made = write(sized, opset)
    if path is not None:
        path = Path(path)
        if made.ByteSize() > 2**31 - 2**20:
            onnx.save_model(made, path, save_as_external_data=True, location=f"{path.name}.data")
        else:
            with whole(path) as file:
                Path(file).write_bytes(made.SerializeToString())
    return made
