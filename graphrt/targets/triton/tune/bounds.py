"""The least time that a static model says a kernel takes, kept beside it in the cache.

To read machine code takes longer than to time what it is of. So a bound is found where time is cheap (``ahead``), and a tuner
asks only for what is kept.
"""

from __future__ import annotations

import contextlib

from graphrt.config import Flags
from graphrt.files import cache, whole

FOLDER = "triton/bounds"


def bound(key: str) -> float | None:
    """Seconds that the kernel called ``key`` takes at least; None where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        return float((Flags.read().cache / FOLDER / key).read_text())
    return None


def keep(key: str, seconds: float) -> None:
    """Notes that the kernel called ``key`` takes so long at least. Raises OSError."""
    with whole(cache(FOLDER) / key) as file:
        file.write_text(f"{seconds:.9g}")
