"""Prints loops: a function that runs the launches of a body once for each step, on a table of its own."""

from __future__ import annotations

from graphrt.schedule.kernel_ir import LoopKernel, Moving
from graphrt.schedule.schedule import Slot
from graphrt.targets.cpu.launches import Part, tables
from graphrt.targets.cpu.printer import Buffers, CPrinter


def body_buffers(kernel: LoopKernel, checked: bool) -> Buffers:
    """The table of a body's buffers: entry 0 is its scratch memory, the others are inputs and outputs by name."""
    keys = [*(("input", name) for name in kernel.inputs), *(("output", name) for name in kernel.outputs)]
    places = kernel.body.schedule.home.values()
    constant = {place.slot for place in places if place.slot.space == "input" and place.slot.name in kernel.constants}
    return Buffers({key: i for i, key in enumerate(keys, 1)}, kernel.body.plan, constant, checked)


class RepeatPrinter(CPrinter):
    """Prints one loop, whose body is the ``launches`` on ``inner`` buffers."""

    def __init__(self, kernel: LoopKernel, buffers: Buffers, inner: Buffers, launches: list[list[Part]]) -> None:
        super().__init__(kernel, buffers)
        self.kernel, self.inner, self.launches = kernel, inner, launches
        self.number = {slot: i for i, slot in enumerate(self.first)}  # of its place in the table

    def generate(self) -> tuple[int | None, list[str]]:
        """The function; the body's kernels share out their work themselves."""
        kernel, entries, kept = self.kernel, len(self.inner.entries), len(self.inner.frozen)
        moving = [*kernel.inputs.values(), *kernel.outputs.values()]
        lines = [
            *tables(self.launches, "@_"),
            "GRT_LAUNCH void @(void **table) {",
            f"  enum {{ STEPS = {kernel.length}, ENTRIES = {entries}, KEPT = {kept} }};",
            "  void *inner[ENTRIES + 2], *there[@_PLACES], *kept[KEPT + 1] = {NULL};",
            f"  inner[0] = {self._pointer(kernel.scratch, 0)};",
            "  inner[ENTRIES + 1] = kept;",
        ]
        for source, to, size in kernel.initial:
            where = f"{self._pointer(to.slot, to.first)}, {self._pointer(source.slot, source.first)}"
            lines.append(f"  memcpy({where}, {size * to.slot.type.dtype.itemsize});")
        lines.append("  for (long step = 0; step < STEPS; step++) {")
        lines += [f"    inner[{i}] = {self._moved(place)};" for i, place in enumerate(moving, 1)]
        lines += [
            "    for (int i = 0; i < @_LAUNCHES; i++)",
            "      grt_launch(@_parts + @_first[i], @_first[i + 1] - @_first[i], @_places, there, inner);",
            "  }",
            "  grt_drop(kept, KEPT);",
            "}",
        ]
        return None, lines

    def _pointer(self, slot: Slot, element: int, step: str = "") -> str:
        """The address of ``element`` of ``slot``."""
        return f"(char *)table[{self.number[slot]}] + {(element - self.first[slot]) * slot.type.dtype.itemsize}{step}"

    def _moved(self, place: Moving) -> str:
        """The address of a body's buffer at ``step``."""
        if place.other is not None:
            ours, others = self._pointer(place.slot, 0), self._pointer(place.other, 0)
            return f"(STEPS - step - {place.ahead}) % 2 ? {others} : {ours}"
        bytes = place.stride * place.slot.type.dtype.itemsize
        return self._pointer(place.slot, place.first, f" + step * {bytes}" if bytes else "")
