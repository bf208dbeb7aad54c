"""Work on several threads of Python, or on as many as the system starts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``function`` of each of ``items``, in their order, found by this thread and, where they can be started, one a core.

    Raises what ``function`` raised first; no other item is begun then.
    """
    todo, lock = iter(range(len(items))), threading.Lock()
    found, raised = dict[int, R](), list[BaseException]()

    def work() -> None:
        while True:
            with lock:
                number = None if raised else next(todo, None)
            if number is None:
                return
            try:
                found[number] = function(items[number])
            except BaseException as error:
                raised.append(error)

    others = list[threading.Thread]()
    try:
        while len(others) < min(os.cpu_count() or 1, len(items)) - 1:
            thread = threading.Thread(target=work)
            thread.start()
            others.append(thread)
    except RuntimeError:
        pass  # there are no more threads to be had
    work()
    for thread in others:
        thread.join()
    if raised:
        raise raised[0]
    return [found[number] for number in range(len(items))]
