"""A watch over runs in which a device waits for other processes.

On a GPU collectives are kernels of a captured graph: where a process is lost those of the others wait on the device, and no
timeout of torch.distributed and no exception reaches whoever waits for it. So a thread of the host looks whether runs end.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.mesh import Mesh
from graphrt.runtime.processes import Processes, processes

_PAUSES = 100  # looks within the limit


def _leave(error: TargetError) -> None:
    """Says why, and ends this process, as NCCL's own watch does: the thread that waits for the device cannot be told."""
    print(f"graphrt: {error}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


class Watch:
    """Runs under way that the processes ``joined`` carry out together, the first begun first.

    Where none of them ends for ``limit`` seconds, ``leave`` is called with an error that names the processes that are silent.
    """

    def __init__(self, joined: Processes, limit: float, leave: Callable[[TargetError], None] = _leave) -> None:
        self._joined, self._limit, self._leave = joined, limit, leave
        self._runs: deque[tuple[float, Callable[[], bool]]] = deque()
        self._since = 0.0  # when the last run that was seen to be over was
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def begun(self, over: Callable[[], bool]) -> None:
        """Takes note of a run that was just begun; ``over`` says, on another thread, whether it has ended."""
        self._runs.append((time.monotonic(), over))
        self._some.set()
        if self._thread is None or not self._thread.is_alive():  # also where the process was forked
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def stalled(self, now: float) -> bool:
        """Whether, at ``now`` of the monotonic clock, the first run that is not over has been the first for too long."""
        while self._runs and self._runs[0][1]():
            self._runs.popleft()
            self._since = now
        return bool(self._runs) and now - max(self._since, self._runs[0][0]) > self._limit

    def _watch(self) -> None:
        while True:
            self._some.wait()
            self._some.clear()
            while self._runs:
                time.sleep(min(self._limit / _PAUSES, 1.0))
                if self.stalled(time.monotonic()):
                    late = TimeoutError(f"a run on the device has not ended for {self._limit:g} seconds")
                    return self._leave(self._joined.lost(late))


@functools.cache
def watch(mesh: Mesh) -> Watch | None:
    """The watch over runs of the processes of ``mesh``; None of one process alone. Raises TargetError."""
    return None if mesh.size == 1 else Watch(processes(mesh), Flags.read().timeout)
