"""The arrays that a cpu program hands out: large ones lie in memory that earlier results had, once nobody holds those.

The system fills new memory with zeros, page by page, which takes as long as many a kernel that then writes there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import numpy as np

from graphrt.runtime.pages import pages
from graphrt.runtime.state import dense, over
from graphrt.types import TensorType

LARGE = 1 << 18  # bytes of an array from which on an allocator gives memory back to the system
MOST = 256 << 20  # bytes that a program keeps at most
SETS = 2  # that are kept: ``y = program(x)`` holds the last results while the next are computed

_probe = [np.empty(0)]
_ALONE = sys.getrefcount(_probe[0])  # what counts for an array that a list holds and nobody else
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()  # elsewhere references are not counted at one place


class Results:
    """Results of ``types``. An array that is handed out is a view: whoever holds it, or a view of it, holds its memory.

    NumPy lets each view hold the first array of that memory, whatever it is a view of; so those are kept here.
    """

    def __init__(self, types: Mapping[str, TensorType], poison: bool) -> None:
        self._types, self._poison = dict(types), poison
        large = [name for name, type in self._types.items() if type.nbytes >= LARGE]
        fits = SETS * sum(self._types[name].nbytes for name in large) <= MOST
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in large if fits and _COUNTS}

    def take(self) -> dict[str, np.ndarray]:
        """Arrays for the results of a run, of any content."""
        return {name: self._used_again(name) if name in self._kept else dense(type) for name, type in self._types.items()}

    def _used_again(self, name: str) -> np.ndarray:
        kept = self._kept[name]
        free = [i for i in range(len(kept)) if sys.getrefcount(kept[i]) == _ALONE]
        if not free:  # memory of an allocator would hold back what is freed below it
            kept[:] = [*kept[1 - SETS :], pages(self._types[name].nbytes, "of a result")]
        memory = kept[free[0] if free else -1]
        if self._poison:
            memory[...] = 0xFF  # every float in it is NaN
        return over(memory, self._types[name])
