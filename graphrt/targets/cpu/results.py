"""The arrays that a cpu program hands out: large ones lie in memory that earlier results had, once nobody holds those.

The system fills new memory with zeros, page by page, which takes as long as many a kernel that then writes there.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping

import numpy as np

from graphrt.errors import OutOfMemoryError
from graphrt.runtime.state import dense, over
from graphrt.types import TensorType

LARGE = 1 << 18  # bytes of an array from which on an allocator gives memory back to the system
MOST = 256 << 20  # bytes that a program keeps at most
SETS = 2  # that are kept: ``y = program(x)`` holds the last results while the next are computed

HUGE = 2 << 20  # bytes of a huge page
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
        for i in range(len(kept)):
            if sys.getrefcount(kept[i]) == _ALONE:
                break
        else:
            kept.append(_memory(self._types[name].nbytes))
            i = len(kept) - 1
            if i == SETS:
                del kept[0]
                i -= 1
        if self._poison:
            kept[i][...] = 0xFF  # every float in it is NaN
        return over(kept[i], self._types[name])


def _memory(size: int) -> np.ndarray:
    """Fresh memory of ``size`` bytes, which goes back to the system when nobody holds it. Raises OutOfMemoryError.

    What an allocator has, and a program keeps, would hold back all that is freed below it.
    """
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise OutOfMemoryError(f"no memory for a result of {size:,} bytes ({error}); drop earlier ones") from None
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
