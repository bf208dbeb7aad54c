"""Ctrl-C while a program runs launch by launch: heard between two launches, and never within one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PATIENCE = 1.0  # seconds that a run which is writing state goes on after a Ctrl-C, to come to its end


def interruptible() -> bool:
    """Whether a Ctrl-C would call a handler in this thread."""
    return threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT))


def launches(count: int, unwritten: int, tear: Callable[[], None]) -> Iterator[int]:
    """The numbers of a program's launches, each to be run before the next is asked for; the first ``unwritten`` write no state.

    What the handler of Ctrl-C raises ends them: at once where no state is written yet, else behind the last, so that the state
    is whole. Where that takes longer than PATIENCE, or Ctrl-C comes again, they end there. ``tear`` is called where this, or
    any other exception, ends them between the first that writes and the last.
    """
    asked: BaseException | None = None
    begun, late = -1, 0.0
    try:
        with _held_back() as (noted, hear):
            for number in range(count):
                begun = number
                yield number
                while noted:
                    try:
                        hear()
                    except BaseException as again:
                        late, asked = 0.0 if asked else time.monotonic() + PATIENCE, asked or again
                if asked and number + 1 < count and (number < unwritten or time.monotonic() > late):
                    raise asked
            begun = -1
    finally:
        if begun >= unwritten:
            tear()
    if asked:
        raise asked


@contextmanager
def _held_back() -> Iterator[tuple[list[Any], Callable[[], None]]]:
    """In the block Ctrl-C is only noted. Gives the notes, and what calls the handler of before for each, as the end does."""
    noted: list[tuple[int, FrameType | None]] = []
    before: Any = signal.getsignal(signal.SIGINT)

    def hear() -> None:
        while noted:
            before(*noted.pop(0))

    if not interruptible():
        yield noted, hear
        return
    signal.signal(signal.SIGINT, lambda number, frame: noted.append((number, frame)))
    try:
        yield noted, hear
    finally:
        signal.signal(signal.SIGINT, before)
    hear()
