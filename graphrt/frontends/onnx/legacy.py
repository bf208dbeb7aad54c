"""The meaning of operators in old opsets, where onnx's converter leaves it out: put into the nodes that it made, or refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import onnx
from onnx import helper, version_converter

from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import OLDEST

_REFUSED = {  # operator: the opset from which on the converter knows what it is, and what that does not translate
    "PRelu": (7, "has its slopes by channel"),
    "Scan": (9, "walks batches of sequences"),
}


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """``model`` of ``opset`` with nodes of ``OLDEST`` or later that mean the same. Raises ConversionError."""
    for name, (first, form) in _REFUSED.items():
        if opset < first and any(n.op_type == name for n in _nodes(model.graph)):
            raise ConversionError(
                f"{name} of opset {opset} {form}, which onnx's converter does not translate; export it again with a newer opset"
            )
    if opset < OLDEST:
        try:
            model = version_converter.convert_version(model, OLDEST)
        except (RuntimeError, onnx.checker.ValidationError) as error:
            reason = str(error).rpartition("failed: ")[2]
            raise ConversionError(
                f"the model is of opset {opset}, and onnx's converter does not bring {_culprit(model, reason)} to {OLDEST}, "
                f"the oldest one known: {reason}; export it again with a newer opset"
            ) from None
    if opset < 16 and any(n.op_type in _MEANINGS for n in _nodes(model.graph)):
        new = onnx.ModelProto()
        new.CopyFrom(model)
        _complete(new.graph, opset)
        return new
    return model


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of ``graph`` and of the subgraphs in it."""
    for node in graph.node:
        yield node
        for a in node.attribute:
            if a.type == a.GRAPH:
                yield from _nodes(a.g)


def _culprit(model: onnx.ModelProto, error: str) -> str:
    """The operators that the converter's ``error`` can be about."""
    named = re.search(r"for (\w+)", error, re.IGNORECASE)
    found = {n.op_type for n in _nodes(model.graph) if any(a.name == "broadcast" for a in n.attribute)}
    return named[1] if named else " or ".join(sorted(found)) or "it"


def _complete(graph: onnx.GraphProto, opset: int) -> None:
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for a in node.attribute:
            if a.type == a.GRAPH:
                _complete(a.g, opset)
        nodes += _MEANINGS[node.op_type](node, opset) if node.op_type in _MEANINGS else [node]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _with(node: onnx.NodeProto, **attributes: Any) -> onnx.NodeProto:
    """``node`` with ``attributes``, in place of those that it has."""
    kept = [a for a in node.attribute if a.name not in attributes]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in attributes.items())])
    return node


def _hardmax(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """Before opset 13 over all dimensions from ``axis`` on, taken together."""
    if opset >= 13:
        return [node]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    (x,), (y,) = node.input, node.output
    return [
        helper.make_node("Shape", [x], [f"{y}/shape"]),
        helper.make_node("Flatten", [x], [f"{y}/flat"], axis=axis),
        helper.make_node("Hardmax", [f"{y}/flat"], [f"{y}/hard"], name=node.name, axis=1),
        helper.make_node("Reshape", [f"{y}/hard", f"{y}/shape"], [y]),
    ]


def _resize(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """Before opset 11 an output element lay at its index over the scale; Upsample was another name for it."""
    if opset >= 11:
        return [node]
    mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "nearest")
    mode = "linear" if mode == "bilinear" else mode
    return [_with(node, coordinate_transformation_mode="asymmetric", nearest_mode="simple", mode=mode)]


def _roi_align(node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """Before opset 16 boxes were not moved by half a pixel."""
    return [_with(node, coordinate_transformation_mode="output_half_pixel")]


_MEANINGS = {"Hardmax": _hardmax, "Resize": _resize, "RoiAlign": _roi_align}
