"""What passes and the scheduler decided, kept with its reason: ``program.explain()`` prints it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """What became of one edge: ``node`` into ``group`` (by its anchor's name), and the bytes that saves."""

    node: str
    group: str
    fused: bool
    reason: str
    saved: int
