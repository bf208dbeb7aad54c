"""Locks that a fork waits for: the child finds them free, and what they guard whole."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

_locks: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()  # each with its level
_held: list[Any] = []
PROGRAM, STATE, TARGET = range(3)  # levels: who holds one takes none of a lower level


def make_lock(level: int) -> Any:
    """A new ``threading.RLock`` of ``level`` that no other thread holds while the process forks.

    It is one that its thread may take again, so that a fork in a signal handler does not wait for what it interrupted.
    """
    lock = threading.RLock()
    _locks[lock] = level
    return lock


def _take() -> None:
    for lock, _ in sorted(_locks.items(), key=lambda item: item[1]):
        lock.acquire()
        _held.append(lock)


def _release() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take, after_in_parent=_release, after_in_child=_release)
