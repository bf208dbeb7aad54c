"""Which contractions can take their operands through tensor descriptors (TMA), and what their kernels are then told.

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

MAPS = 3  # that one operand is made of
_ORDERS = {"X": ("nhwc",), "DY": ("npqk",), "W": ("rsck", "krsc")}  # of coordinates in memory, that the kernels know


def described(kernel: TemplateKernel, plain: Mapping[str, bool], arch: str, slots: Sequence[Slot]) -> dict[str, Any] | None:
    """Places, orders and direction for ``matmul_tma`` or ``conv_tma``; None where they cannot compute ``kernel``.

    ``plain`` says of each operand whether it is loaded as it lies, ``slots`` are the buffers in the order of the pointers.
    """
    from graphrt.kernels.triton import config  # type: ignore[import-not-found]

    spec, family, anchor = kernel.spec, kernel.spec.family, kernel.group.anchor
    assert anchor is not None
    cores = kernel.factors in HALVES or (kernel.factors is float32 and kernel.precision != "highest")
    if family not in ("matmul", "conv") or not cores:
        return None  # without tensor cores operands go through registers anyway
    operands = {operand: lying(kernel, operand) for operand in kernel.loaders}
    if not all(operands.values()) or not all(plain[o] for o in operands if family == "matmul" or o == "W"):
        return None
    loaded = {o: [i.args[0] for i in found[0]] for o, found in operands.items() if found is not None}
    orders = {o: found[1] for o, found in operands.items() if found is not None}
    itemsize = min(s.type.dtype.itemsize for found in loaded.values() for s in found)
    places = {o: tuple(map(slots.index, found)) for o, found in loaded.items()}
    if family == "matmul":
        inner = tuple(spec.operand_extents(anchor, o)[orders[o][-1]] for o in "AB")
        rows = {f"{o}_ROWS": orders[o] == "".join(spec.operands[o]) for o in "AB"}
        return {"A": places["A"][0], "B": places["B"][0], **rows} if config.takes_tma(inner, itemsize, arch) else None
    kind = {"conv": "fwd", "conv_dgrad": "dgrad"}.get(spec.name, "")
    if not config.conv_takes_tma(kind, config.Geometry(**kernel.sizes), itemsize, arch):
        return None
    left = "DY" if kind == "dgrad" else "X"
    return {
        "X_PLACES": places[left],
        "W_PLACE": places["W"][0],
        "W_ROWS": orders["W"] == "rsck",
        "GRADIENT": kind == "dgrad",
    }


def lying(kernel: TemplateKernel, operand: str) -> tuple[list[Inst], str] | None:
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
