"""Graphs of a program's launches that read a call's tensors where they lie, and leave small results in memory of their own.

The first graph reads the slots of the inputs and writes those of the outputs: it costs a copy for each. A call whose tensors
lie where those of one of the last calls did gets a graph over these addresses, once. Results go to one of a few regions in
turn, where nobody has the last ones any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from graphrt.runtime.arrays import flat, view
from graphrt.targets.triton.driver import Driver, Launch
from graphrt.targets.triton.image import Buffer, Image, aligned
from graphrt.types import TensorType, is_dense

MOST = 8  # graphs beside the first: each holds the arguments of all launches
RECENT = 4  # calls in which tensors are looked for again
ALIGNED = 16  # bytes, as compiled kernels assume
TOGETHER = 64 << 10  # bytes of outputs up to which one copy takes them all, or a region of their own

Bind = Callable[[Mapping[Buffer, Any]], Sequence[Launch]]
Signature = tuple[tuple[str, int], ...]  # the inputs that are read in place, and their addresses


class Graphs:
    """The graphs of ``image`` beside the one over its slots. ``bind`` binds its launches to given tensors."""

    def __init__(self, driver: Driver, image: Image, outputs: Outputs, bind: Bind) -> None:
        self._driver, self._outputs, self._bind = driver, outputs, bind
        every = {b for launch in image.launches for b in launch.buffers if b.space in ("input", "output")}
        self._results = [b for b in every if b.space == "output"]
        inputs = [b for b in every if b.space == "input"]
        names = [b.name for b in inputs]
        self._inputs = {b.name: b for b in inputs if names.count(b.name) == 1 and b.type.nbytes}
        self._found: dict[tuple[Signature, int | None], Callable[[], None]] = {}
        self._recent: deque[Signature] = deque(maxlen=RECENT)
        self._written: list[tuple[int, int]] = []
        self._looked: dict[str, tuple[Any, bool]] = {}  # the last tensor of each input, and whether it fits

    def attach(self, written: Sequence[Any]) -> None:
        """Forgets the graphs; launches write into the tensors ``written`` from now on."""
        self._found.clear()
        self._looked.clear()
        self._written = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in written]

    def in_place(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The ``values`` that can be read where they lie: as their slots do, and apart from what launches write."""
        return {n: v for n, v in values.items() if n in self._inputs and self._driver.owns(v) and self._fits(n, v)}

    def _fits(self, name: str, value: Any) -> bool:
        seen = value.data_ptr(), value.stride(), value.is_neg()
        known = self._looked.get(name)
        if known is None or known[0] != seen:
            type, (start, strides, negated) = self._inputs[name].type, seen
            dense = is_dense(type.shape, strides, type.order or range(type.ndim))
            apart = all(start + type.nbytes <= low or high <= start for low, high in self._written)
            known = self._looked[name] = seen, dense and apart and start % ALIGNED == 0 and not negated
        return known[1]

    def find(self, held: Mapping[str, Any], region: int | None) -> tuple[Callable[[], None] | None, Mapping[str, Any]]:
        """The graph that reads ``held``, or nothing, in place and writes to a region of results, and what it reads so.

        None is for the first graph. One is made where the tensors of one of the last calls lay there too.
        """
        signature = tuple((name, tensor.data_ptr()) for name, tensor in held.items())
        again = signature in self._recent
        if not again:
            self._recent.append(signature)
        if held and (replay := self._graph(signature, held, region, again)) is not None:
            return replay, held
        return (None if region is None else self._graph((), {}, region, True)), {}

    def _graph(
        self, signature: Signature, held: Mapping[str, Any], region: int | None, again: bool
    ) -> Callable[[], None] | None:
        replay = self._found.get((signature, region))
        if replay is None and not (again and len(self._found) < MOST):
            return None
        for tensor in held.values():
            self._driver.borrow(tensor)
        if replay is None:
            given = {self._inputs[name]: _flat(tensor, self._inputs[name].type) for name, tensor in held.items()}
            if region is not None:
                given |= {b: self._outputs.place(b, region) for b in self._results}
            replay = self._found[signature, region] = self._driver.capture(self._bind(given))
        return replay


def _flat(tensor: Any, type: TensorType) -> Any:
    """A dense tensor as one dimension in memory order."""
    return tensor.as_strided((tensor.numel(),), (1,))


class Outputs:
    """The outputs of a program, which lie side by side in ``memory``; small ones are copied together.

    ``buffers`` are those that launches write, ``types`` all of them: one of no elements may have no buffer. Small ones also
    have regions of their own: what is in one is given away without a copy, and written again when nobody has it any more.
    """

    REGIONS = 2  # the results of a call live on while the next one runs

    def __init__(self, driver: Driver, memory: Any, buffers: Mapping[str, Buffer], types: Mapping[str, TensorType]) -> None:
        self._driver = driver
        self._start = start = min((b.offset for b in buffers.values()), default=0)
        end = max((b.offset + aligned(b.type.nbytes) for b in buffers.values()), default=0)
        offsets = {name: buffers[name].offset if name in buffers else start for name in types}
        small = end - start <= TOGETHER
        self._region = memory[start:end] if len(types) > 1 and small else None
        self._apart = {name: view(memory, offsets[name], type) for name, type in types.items()}
        self._within = {
            name: (t.dtype, t.shape, t.stride(), (offsets[name] - start) // t.element_size()) for name, t in self._apart.items()
        }
        self._regions = [driver.allocate(end - start) for _ in range(self.REGIONS if small and end > start else 0)]
        self._owners = [_owners(region) for region in self._regions]

    def copy(self, copy: Callable[[Any], Any]) -> dict[str, Any]:
        """The outputs by name, in memory that ``copy`` made: one copy where they are small together, else one each."""
        if self._region is None:
            return {name: copy(t) for name, t in self._apart.items()}
        return self._views(copy(self._region))  # new memory, so it begins where its storage does

    def free(self) -> int | None:
        """The number of a region whose results nobody has any more; None where there is none."""
        found = (i for i, (r, alone) in enumerate(zip(self._regions, self._owners, strict=True)) if _owners(r) == alone)
        return next(found, None)

    def given(self, region: int) -> dict[str, Any]:
        """The outputs by name, which lie in a region."""
        return self._views(self._regions[region])

    def place(self, buffer: Buffer, region: int) -> Any:
        """The place of ``buffer`` in a region."""
        return flat(self._regions[region], buffer.offset - self._start, buffer.type)

    def regions(self) -> Iterator[Any]:
        """The memory of the regions."""
        return iter(self._regions)

    def _views(self, region: Any) -> dict[str, Any]:
        base = region.storage_offset()
        return {
            name: region.view(dtype).as_strided(shape, strides, base // dtype.itemsize + at)
            for name, (dtype, shape, strides, at) in self._within.items()
        }


def _owners(memory: Any) -> int:
    """How many tensors share the storage of ``memory``, as torch's own graphs ask."""
    import torch

    return int(torch._C._storage_Use_Count(memory.untyped_storage()._cdata))
