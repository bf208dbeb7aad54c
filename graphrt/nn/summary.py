"""The parts of a network: its parameters, and for an input what each layer makes of it and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from graphrt.ir import Graph, Node, Value
from graphrt.nn.module import Buffer, Call, Module, Parameter, count_parameters, in_mode, noted
from graphrt.op import Kind
from graphrt.ops.body import contracted
from graphrt.types import DTypeLike


@dataclass(frozen=True)
class Layer:
    """A layer as ``layers`` found it, by its ``path`` in the network and its ``kind``, the name of its class.

    ``shape`` is that of its output, ``parameters`` counts its own, ``multiplications`` those of its products and convolutions,
    ``bytes`` its output, and ``field`` is its receptive field: the rows and columns of the input that one element depends on,
    None where that is all of them, or the input is no picture [N, C, H, W].
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiplications: int
    bytes: int
    field: tuple[int, int] | None


Shapes = Sequence[int] | Mapping[str, Sequence[int]]


def layers(module: Module, input_shape: Shapes, dtype: DTypeLike = "float32") -> list[Layer]:
    """The layers of ``module`` in evaluation mode for an input of ``input_shape``, the batch included, and ``dtype``.

    Of a module of several inputs ``input_shape`` has the shape of each by name.
    These are the modules without others inside and those with parameters of their own, in the order of their calls; what is
    computed between them is the last row, where it has multiplications. Nothing is run. Raises what the call raises.
    """
    graph = Graph()
    with in_mode(module, False), noted() as calls:
        if isinstance(input_shape, Mapping):
            module(**{name: graph.input(name, shape, dtype) for name, shape in input_shape.items()})
        else:
            module(graph.input("x", input_shape, dtype))
    fields = _fields(graph)
    paths = {id(m): path for path, m in reversed(list(module.named_modules()))}
    rows, counted = [], set[Node]()
    for call in calls:
        own = [p for _, p in call.module._members() if isinstance(p, Parameter) and not isinstance(p, Buffer)]
        if any(True for _ in call.module.named_children()) and not own:
            continue
        nodes = [n for n in graph.nodes[call.first : call.stop] if n not in counted]
        counted.update(nodes)
        rows.append(_layer(paths[id(call.module)], call, own, _multiplications(nodes), fields))
    if left := _multiplications([n for n in graph.nodes if n not in counted]):
        rows.append(Layer("", "functions", (), 0, left, 0, None))
    return rows


def _layer(path: str, call: Call, own: Sequence[Parameter], products: int, fields: dict[Value, _Field]) -> Layer:
    output = call.output
    while isinstance(output, tuple | list):
        output = output[0]
    shape = output.shape if isinstance(output, Value) else ()
    size = prod(shape) * output.dtype.numpy.itemsize if isinstance(output, Value) else 0
    field = fields[output] if isinstance(output, Value) and output in fields else None
    seen = None if field is None else field.size
    return Layer(path, type(call.module).__name__, shape, sum(p.array.size for p in own), products, size, seen)


def _multiplications(nodes: Sequence[Node]) -> int:
    return sum(contracted(n) // 2 for n in nodes)


def summary(module: Module, input_shape: Shapes | None = None, dtype: DTypeLike = "float32") -> str:
    """The network by layer as a table.

    Without ``input_shape`` a line for each module with parameters of its own: path, kind, shapes, elements; then the total.
    With it, the batch included, or one by name of each of several inputs, and their ``dtype``: what ``layers`` found, and the
    totals.
    """
    if input_shape is None:
        return _parameters(module)
    found = layers(module, input_shape, dtype)
    shapes = input_shape.values() if isinstance(input_shape, Mapping) else [input_shape]
    pictures = any(len(shape) == 4 for shape in shapes)
    lines = [_line("layer", "kind", "output", "parameters", "multiplications", "bytes", "receptive field")]
    for row in found:
        seen = ("all" if row.field is None else f"{row.field[0]}x{row.field[1]}") if pictures else ""
        counts = (f"{row.parameters:,}", f"{row.multiplications:,}", f"{row.bytes:,}")
        lines.append(_line(row.path or ".", row.kind, "x".join(map(str, row.shape)), *counts, seen))
    totals = (f"{count_parameters(module, trainable=False):,}", f"{sum(row.multiplications for row in found):,}")
    lines.append(_line("total", "", "", *totals, f"{sum(row.bytes for row in found):,}", ""))
    return "\n".join(lines)


def _line(*cells: str) -> str:
    path, kind, shape, parameters, products, size, field = cells
    return f"{path:<36} {kind:<18} {shape:<18} {parameters:>13} {products:>17} {size:>14} {field:>15}".rstrip()


def _parameters(module: Module) -> str:
    lines = []
    for path, child in module.named_modules():
        own = {n: p for n, p in child._members() if isinstance(p, Parameter) and not isinstance(p, Buffer)}
        if own:
            shapes = ", ".join(f"{n} {list(p.shape)}" for n, p in own.items())
            count = sum(p.array.size for p in own.values())
            lines.append(f"{path or '.':<20} {type(child).__name__:<14} {shapes:<40} {count:>12,}")
    lines.append(f"{'total':<76} {count_parameters(module, trainable=False):>12,}")
    return "\n".join(lines)


# --- receptive fields ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """Rows and columns of the input behind an element, how far apart those of neighbours are, and which dimensions they are.

    ``size`` None is the whole input; ``dims`` None where a reshape has mixed them with others.
    """

    size: tuple[int, int] | None
    step: tuple[int, int]
    dims: tuple[int, int] | None


def _fields(graph: Graph) -> dict[Value, _Field]:
    found: dict[Value, _Field] = {}
    for node in graph.nodes:
        if node.op.name == "input" and node.outputs[0].ndim == 4:
            found[node.outputs[0]] = _Field((1, 1), (1, 1), (2, 3))
            continue
        before = [found[v] for v in node.inputs if v in found]
        if before:
            joined = _joined(before)
            found |= dict.fromkeys(node.outputs, _behind(node, joined, before[0]))
    return found


def _joined(before: Sequence[_Field]) -> _Field:
    sizes = [f.size for f in before]
    whole = any(size is None for size in sizes)
    known = [size for size in sizes if size is not None]
    size = None if whole else (max(s[0] for s in known), max(s[1] for s in known))
    step = max(f.step[0] for f in before), max(f.step[1] for f in before)
    return _Field(size, step, next((f.dims for f in before if f.dims is not None), None))


def _behind(node: Node, field: _Field, first: _Field) -> _Field:
    """The field behind ``node`` of what it reads."""
    attrs, shape = node.attrs, node.outputs[0].shape
    if field.size is None:
        return field
    whole = _Field(None, field.step, None)
    if node.op.kind in (Kind.CONTRACTION, Kind.WINDOW):
        if "stride" not in attrs or "shape" in attrs:  # a product, or a transposed convolution
            return whole
        kernel = attrs.get("kernel") or node.inputs[1].shape[2:]
        reach = [(k - 1) * d * s for k, d, s in zip(kernel, attrs["dilation"], field.step, strict=True)]
        size = field.size[0] + reach[0], field.size[1] + reach[1]
        return _Field(size, (field.step[0] * attrs["stride"][0], field.step[1] * attrs["stride"][1]), (2, 3))
    if node.op.kind in (Kind.REDUCTION, Kind.SCAN, Kind.SORT):
        dims = tuple(_dims(attrs))
        if field.dims is None or any(d in dims for d in field.dims):
            return whole
        moved = [d - sum(r < d for r in dims) for d in field.dims] if len(shape) < node.inputs[0].ndim else field.dims
        return _Field(field.size, field.step, (moved[0], moved[1]))
    if node.op.kind is Kind.VIEW and field.dims is not None:
        return _viewed(node, field, field.dims)
    return field


def _dims(attrs: Any) -> Sequence[int]:
    return attrs.get("dims") or [attrs.get("dim", -1)]


def _viewed(node: Node, field: _Field, dims: tuple[int, int]) -> _Field:
    if "dims" in node.attrs:  # of a permutation
        order = tuple(node.attrs["dims"])
        return _Field(field.size, field.step, (order.index(dims[0]), order.index(dims[1])))
    if "step" in node.attrs:
        by = node.attrs["step"]
        return _Field(field.size, (field.step[0] * by[dims[0]], field.step[1] * by[dims[1]]), dims)
    before, after = node.inputs[0].shape, node.outputs[0].shape
    kept = len(after) == len(before) and all(a == b for a, b in zip(before, after, strict=True))
    if node.op.name == "reshape" and not kept:
        return _Field(field.size, field.step, None)
    return field
