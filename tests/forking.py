"""Processes of a mesh without torchrun, of which each would take seconds to import torch."""

from __future__ import annotations

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
    """What ``size`` processes that are not torchrun's find in their environment to meet each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
