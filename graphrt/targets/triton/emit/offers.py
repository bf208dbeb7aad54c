"""Contractions that a library could compute in place of a template: those that compute nothing on load and nothing behind."""

from __future__ import annotations

from collections.abc import Sequence

from graphrt.index import Expr, axes
from graphrt.ir import Value
from graphrt.op import Kind
from graphrt.schedule.group import Read, pull
from graphrt.schedule.kernel_ir import Kernel, TemplateKernel
from graphrt.schedule.schedule import Place, Schedule, Slot
from graphrt.targets.triton.emit.options import Options
from graphrt.targets.triton.library import LibraryCall, View

_LIBRARIES = {"sm": {"matmul": "cuBLAS", "conv": "cuDNN"}, "gf": {"matmul": "hipBLAS", "conv": "MIOpen"}}
_GEOMETRY = ("stride", "padding", "dilation", "groups")


def offered(schedule: Schedule, launch: Sequence[Kernel], slots: Sequence[Slot], options: Options) -> LibraryCall | str:
    """The call that computes ``launch``, whose buffers are ``slots``; why there is none, empty where it is no contraction."""
    kernel = launch[0]
    if not isinstance(kernel, TemplateKernel) or kernel.group.anchor is None:
        return ""
    group, node = kernel.group, kernel.group.anchor
    if node.op.kind is not Kind.CONTRACTION:
        return ""
    if len(launch) > 1 or group.nodes != [node] or group.inlined:
        return "other ops are fused with it"
    if node.attrs.get("splits"):
        return "it is cut into partial sums"
    y = node.outputs[0]
    if not all(v.type.size for v in (*node.inputs, y)):
        return "it is empty"
    if any(low != high for low, high in node.attrs.get("padding", ())):
        return f"its padding {node.attrs['padding']} is not the same on both sides"
    operands = []
    for v in node.inputs:
        view = _view(schedule, v, slots)
        if isinstance(view, str):
            return f"{v.name} {view}"
        operands.append(view)
    results = [_whole(place, y, slots) for place in schedule.stores[group, y]]
    geometry = {n: node.attrs[n] for n in _GEOMETRY if n in node.attrs}
    if "padding" in geometry:
        geometry["padding"] = tuple(low for low, _ in geometry["padding"])
    library = "the CPU" if options.interpret else _LIBRARIES[options.arch[:2]][kernel.spec.family]
    return LibraryCall(kernel.spec.name, library, tuple(operands), tuple(results), tuple(geometry.items()), kernel.precision)


def _view(schedule: Schedule, value: Value, slots: Sequence[Slot]) -> View | str:
    """``value`` as a view of the buffer that holds it, or why it is none."""
    index = axes("i", value.shape)
    read, *others = [Read(value, index)] if value in schedule.buffered else pull(value, index)
    if others or read.guards:
        return "is padded or put together where it is read"
    place = schedule.home.get(read.value)
    if place is None:
        return "is computed where it is read"
    if place.slot.type.dtype is not value.dtype:
        return f"is {place.slot.type.dtype} and read as {value.dtype}"
    if read.value is value:
        return _whole(place, value, slots)
    offset = place.offset(read.index)
    strides = tuple(offset.stride(f"i{d}") for d in range(value.ndim))
    if any(s is None or s < 0 for s in strides):
        return "is a view without strides, or one that runs backwards"
    return View(slots.index(place.slot), value.shape, tuple(s or 0 for s in strides), offset.const)


def _whole(place: Place, value: Value, slots: Sequence[Slot]) -> View:
    """All of ``value`` where it lies."""
    first = place.offset((Expr(),) * value.ndim)
    return View(slots.index(place.slot), value.shape, place.slot.type.strides, first.const)
