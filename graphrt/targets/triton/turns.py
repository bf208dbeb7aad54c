"""Turns: programs that wait for each other, run one at a time, each in a thread, until it gives its turn away or ends."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Turns:
    """``count`` programs that run one at a time; ``begun`` is told the number of each whose turn it is."""

    def __init__(self, count: int, begun: Callable[[int], object]) -> None:
        self._begun = begun
        self._may = [threading.Semaphore(0) for _ in range(count)]
        self._left = list(range(count))
        self._failure: BaseException | None = None
        self._turn = 0

    def give(self) -> None:
        """Lets the next program run, and returns when this one's turn has come again; it ends where another has failed."""
        own = self._turn
        self._next(own)
        self._may[own].acquire()
        self._take(own)

    def run(self, program: Callable[[int], object]) -> None:
        """Runs ``program`` of each number. Raises what the first that failed did."""
        threads = [threading.Thread(target=self._one, args=(program, i), daemon=True) for i in list(self._left)]
        for thread in threads:
            thread.start()
        self._may[0].release()
        for thread in threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _one(self, program: Callable[[int], object], number: int) -> None:
        self._may[number].acquire()
        try:
            self._take(number)
            program(number)
        except BaseException as error:  # of the interpreter anything
            self._failure = self._failure or error
        self._next(number, over=True)

    def _take(self, number: int) -> None:
        if self._failure is not None:
            raise self._failure
        self._turn = number
        self._begun(number)

    def _next(self, number: int, over: bool = False) -> None:
        """Hands the turn of program ``number``, which may be ``over``, to the next that is not."""
        place = self._left.index(number)
        after = self._left[(place + 1) % len(self._left)]
        if over:
            self._left.remove(number)
        if self._left:
            self._may[after].release()
