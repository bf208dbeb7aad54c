"""Contractions that can take their operands through tensor descriptors (TMA): what their kernels are then told.

A descriptor reads a dense tensor in boxes. So an operand must lie densely in an order that the kernel knows. A prologue becomes
a closure that is given the blocks of what it loads whole, at most three. Only the left operand of a convolution may have one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from graphrt.index import axis, linearize, row_major
from graphrt.schedule.kernel_ir import Inst, TemplateKernel
from graphrt.schedule.schedule import Slot
from graphrt.types import HALVES, float32

Lies = tuple[list[Inst], str]  # the loads of an operand, and the order in which all of them lie
MAPS = 3  # that one operand is made of
_ORDERS = {"X": ("nhwc",), "DY": ("npqk",), "W": ("rsck", "krsc")}  # of coordinates in memory, that the kernels know
_DIRECTIONS = {"conv": "fwd", "conv_dgrad": "dgrad"}


def described(kernel: TemplateKernel, plain: Mapping[str, bool], arch: str, slots: Sequence[Slot]) -> dict[str, Any] | str:
    """Places, orders and direction for ``matmul_tma`` or ``conv_tma``, or why neither can compute ``kernel``.

    The reason is empty where they are out of the question. ``plain`` says of each operand whether it is loaded as it lies,
    ``slots`` are the buffers in the order of the pointers.
    """
    if not _in_question(kernel, arch):
        return ""
    family, operands = kernel.spec.family, {operand: lying(kernel, operand) for operand in kernel.loaders}
    lies = {o: found for o, found in operands.items() if found is not None}
    if len(lies) < len(operands):
        return f"{next(o for o in operands if o not in lies)} does not lie densely in an order that the kernel knows"
    if computed := [o for o in lies if not plain[o] and (family == "matmul" or o == "W")]:
        return f"{computed[0]} is computed on load"
    return _matmul(kernel, lies, arch, slots) if family == "matmul" else _conv(kernel, lies, arch, slots)


def _in_question(kernel: TemplateKernel, arch: str) -> bool:
    """Whether ``kernel`` is a contraction on tensor cores (else operands go through registers anyway) that has such a form."""
    from graphrt.kernels.triton import config

    cores = kernel.factors in HALVES or (kernel.factors is float32 and kernel.precision != "highest")
    return kernel.spec.name in ("matmul", *_DIRECTIONS) and cores and config.has_tma(arch)


def _itemsize(lies: Mapping[str, Lies]) -> int:
    """Bytes of the smallest element that is loaded."""
    return min(i.args[0].type.dtype.itemsize for loads, _ in lies.values() for i in loads)


def _places(lies: Mapping[str, Lies], slots: Sequence[Slot]) -> dict[str, tuple[int, ...]]:
    """The numbers of the pointers that each operand is loaded from."""
    return {o: tuple(slots.index(i.args[0]) for i in loads) for o, (loads, _) in lies.items()}


def _matmul(kernel: TemplateKernel, lies: Mapping[str, Lies], arch: str, slots: Sequence[Slot]) -> dict[str, Any] | str:
    from graphrt.kernels.triton import config

    spec, anchor, itemsize = kernel.spec, kernel.group.anchor, _itemsize(lies)
    assert anchor is not None
    inner = tuple(spec.operand_extents(anchor, o)[lies[o][1][-1]] for o in "AB")
    if not config.takes_tma(inner, itemsize, arch):
        return f"lines of {inner[0]} and {inner[1]} elements of {itemsize} bytes are no multiples of 16 bytes"
    places = _places(lies, slots)
    rows = {f"{o}_ROWS": lies[o][1] == "".join(spec.operands[o]) for o in "AB"}
    return {"A": places["A"][0], "B": places["B"][0], **rows}


def _conv(kernel: TemplateKernel, lies: Mapping[str, Lies], arch: str, slots: Sequence[Slot]) -> dict[str, Any] | str:
    from graphrt.kernels.triton import config

    kind, g, itemsize = _DIRECTIONS[kernel.spec.name], config.Geometry(**kernel.sizes), _itemsize(lies)
    if not config.conv_takes_tma(kind, g, itemsize, arch):
        return f"it has groups, skips pixels, or {g.C} or {g.K} channels of {itemsize} bytes are no multiple of 16 bytes"
    places = _places(lies, slots)
    return {
        "X_PLACES": places["DY" if kind == "dgrad" else "X"],
        "W_PLACE": places["W"][0],
        "W_ROWS": lies["W"][1] == "rsck",
        "GRADIENT": kind == "dgrad",
    }


def lying(kernel: TemplateKernel, operand: str) -> Lies | None:
    """The loads that an operand's elements come from, and the order in which all of them lie; None where there is none.

    A matrix lies in rows or in columns.
    """
    assert kernel.group.anchor is not None
    extents = kernel.spec.operand_extents(kernel.group.anchor, operand)
    moving = {c for c, n in extents.items() if n > 1}
    found = [i for i in kernel.loaders[operand].insts if i.op == "load" and i.args[1].axes() >= moving]
    if not 1 <= len(found) <= MAPS or any(i.args[2] for i in found):
        return None
    first, *rest = kernel.spec.operands[operand]
    for order in _ORDERS.get(operand, ((first, *rest), (first, *reversed(rest)))):
        at = linearize([axis(c, extents[c]) for c in order], row_major([extents[c] for c in order]))
        if all(i.args[1] == at for i in found):
            return found, "".join(order)
    return None
