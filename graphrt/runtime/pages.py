"""Memory straight from the system, in huge pages where it has them, which goes back when nobody holds it."""

from __future__ import annotations

import mmap

import numpy as np

from graphrt.errors import OutOfMemoryError

HUGE = 2 << 20  # bytes of a huge page
REMEDY = "compile it for a smaller batch, or with a memory_limit"


def pages(size: int, use: str) -> np.ndarray:
    """``size`` bytes that are zero, for the ``use`` that an error names; huge pages need few address translations.

    The memory is private: shared memory, what mmap gives unasked, is in small pages, and a forked child would write to its
    parent's. Raises OutOfMemoryError.
    """
    huge = size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    try:
        memory, start = mmap.mmap(-1, size + HUGE * huge, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), 0
    except OSError as error:
        raise OutOfMemoryError(f"no memory for the {size:,} bytes {use} ({error}); {REMEDY}") from None
    if huge:
        memory.madvise(mmap.MADV_HUGEPAGE)
        start = -np.frombuffer(memory, np.uint8).ctypes.data % HUGE
    return np.frombuffer(memory, np.uint8, size, start)
