"""The least time that a static model says a kernel takes, kept beside it in the cache.

To read machine code takes longer than to time what it is of. So a bound is found where time is cheap (``ahead``), and a tuner
asks only for what is kept.
"""

from __future__ import annotations

import contextlib

from graphrt.config import Flags
from graphrt.files import cache, whole

FOLDER = "triton/bounds"


def bound(key: str) -> tuple[float, str] | None:
    """Seconds that the kernel called ``key`` takes at least, and the limit that says so; None where that is not known."""
    with contextlib.suppress(OSError, ValueError):
        seconds, limit = (Flags.read().cache / FOLDER / key).read_text().split()
        return float(seconds), limit
    return None


def keep(key: str, seconds: float, limit: str) -> None:
    """Notes that the kernel called ``key`` takes so long at least, because of ``limit``. Raises OSError."""
    with whole(cache(FOLDER) / key) as file:
        file.write_text(f"{seconds:.9g} {limit}")
