"""Processes of a mesh without torchrun, of which each would take seconds to import torch."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable


def forked(size: int, run: Callable[[int], object]) -> int:
    """Forks ``size`` processes that ``run`` with their rank, and exit; 1 if one of them fails."""
    import torch.distributed  # noqa: F401 - once, and not in each

    started = []
    for rank in range(size):
        if (process := os.fork()) == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            run(rank)
            sys.exit(0)
        started.append(process)
    return max(int(os.waitpid(process, 0)[1] != 0) for process in started)


def meeting(size: int) -> dict[str, str]:
    """What ``size`` processes that are not torchrun's find in their environment to meet each other.

    The port is below those that the system gives away by itself, of which another process might have it by then.
    """
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("localhost", port))
            return {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    raise OSError("no port is free")
