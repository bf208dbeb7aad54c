"""Operators that ONNX defines by others: such a node becomes the nodes of its definition, with names of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import defs, helper

from graphrt.frontends.onnx.table import ELEMENT_TYPES, Items, Tensor
from graphrt.ir import Value
from graphrt.types import as_dtype

Rename = Callable[[str], str]


def definition(node: onnx.NodeProto, opset: int, inputs: Sequence[Tensor | Items | None]) -> onnx.FunctionProto | None:
    """ONNX's definition of ``node`` in the newest opset up to ``opset``; None for a primitive or unknown operator."""
    try:
        schema: Any = defs.get_schema(node.op_type, opset if node.domain in ("", "ai.onnx") else 1, node.domain)
    except defs.SchemaError:
        return None
    if schema.has_context_dependent_function:
        types = [_type(x).SerializeToString() for x in inputs]
        for version in _newest(schema.context_dependent_function_opset_versions, opset):
            text = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
            if text:
                return _read(text)
    for version in _newest(schema.function_opset_versions, opset):
        return _read(schema.get_function_with_opset_version(version))
    return None


def _newest(versions: Sequence[int], opset: int) -> list[int]:
    return sorted((v for v in versions if v <= opset), reverse=True) or sorted(versions)


def _read(text: bytes) -> onnx.FunctionProto:
    found = onnx.FunctionProto()
    found.ParseFromString(text)
    return found


def _type(x: Tensor | Items | None) -> onnx.TypeProto:
    """The type of a tensor or sequence for ONNX, an empty one for an input that is left out."""
    if isinstance(x, Items):
        return helper.make_sequence_type_proto(_type(x[0]) if x else onnx.TypeProto())
    if x is None:
        return onnx.TypeProto()
    dtype = x.dtype if isinstance(x, Value) else as_dtype(x.dtype)
    number = next(n for n, name in ELEMENT_TYPES.items() if name == dtype.name)
    return helper.make_tensor_type_proto(number, x.shape)


def body(node: onnx.NodeProto, function: onnx.FunctionProto, prefix: str) -> list[onnx.NodeProto]:
    """The nodes of ``function`` in place of ``node``: its tensors by their names, inner ones behind ``prefix``."""
    names = {"": ""}
    for formal, actual in ((function.input, node.input), (function.output, node.output)):
        for i, name in enumerate(formal):
            if i < len(actual) and actual[i]:
                names[name] = actual[i]
            elif formal is function.input:
                names[name] = ""
    schema = defs.get_schema(node.op_type, function.opset_import[0].version if not node.domain else 1, node.domain)
    given = {n: a.default_value for n, a in schema.attributes.items() if a.default_value.name}
    given |= {a.name: a for a in node.attribute}
    return [_copied(n, lambda name: names.get(name, f"{prefix}/{name}"), given) for n in function.node]


def _copied(node: onnx.NodeProto, rename: Rename, given: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    """``node`` with its tensors renamed and the attributes that refer to the function's filled in."""
    new = onnx.NodeProto()
    new.CopyFrom(node)
    new.input[:], new.output[:] = map(rename, node.input), map(rename, node.output)
    del new.attribute[:]
    for a in node.attribute:
        if a.ref_attr_name and a.ref_attr_name not in given:
            continue
        copy = new.attribute.add()
        copy.CopyFrom(given[a.ref_attr_name] if a.ref_attr_name else a)
        copy.name = a.name
        if a.type == a.GRAPH:
            _rename_graph(copy.g, a.g, rename, given)
    return new


def _rename_graph(new: onnx.GraphProto, old: onnx.GraphProto, rename: Rename, given: Mapping[str, onnx.AttributeProto]) -> None:
    for part in (new.input, new.output, new.initializer):
        for v in part:
            v.name = rename(v.name)
    del new.node[:]
    new.node.extend(_copied(n, rename, given) for n in old.node)
