"""The processes of a mesh, joined by torch.distributed, which owns groups, rendezvous, transport and timeouts.

All run one program: what they are about to compile is compared, one of those on a machine compiles it and the others find it in
the cache, and one that is gone, or does not answer in time, is named.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib import metadata
from typing import Any

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.mesh import Mesh

_PATIENCE = 3.0  # seconds in which processes that saw a fault say so


class Processes:
    """The processes of ``mesh``, of which this is number ``rank``."""

    def __init__(self, mesh: Mesh) -> None:
        """Joins them. Raises TargetError where their number is another."""
        self.mesh, self.rank = mesh, 0
        if mesh.size == 1:
            return
        import torch.distributed as dist

        if not dist.is_initialized():
            if "RANK" not in os.environ:
                raise TargetError(
                    f"{mesh!r} is {mesh.size} processes, and this is one: start them with "
                    f"torchrun --nproc-per-node {mesh.size} FILE.py, or call torch.distributed.init_process_group first"
                )
            limit = timedelta(seconds=Flags.read().timeout)
            store, rank, size = next(dist.rendezvous("env://", timeout=limit))
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # torchrun's store outlives those it starts again
            store = dist.PrefixStore(f"graphrt/attempt/{attempt}", store)
            dist.init_process_group(_backends(), store=store, rank=rank, world_size=size, timeout=limit)
            atexit.register(self._leave)
        if dist.get_world_size() != mesh.size:
            raise TargetError(f"{mesh!r} is {mesh.size} processes; torch.distributed has {dist.get_world_size()}")
        self.dist, self.rank = dist, dist.get_rank()
        self._grid: Any = dist.init_device_mesh("cpu", tuple(mesh.axes.values()), mesh_dim_names=tuple(mesh.axes))

    def _leave(self) -> None:
        """Ends torch.distributed, whose threads must not outlive what they use, once all are done."""
        processes.cache_clear()
        self._grid = None
        gc.collect()
        if getattr(sys, "last_value", None) is None:  # else an exception ends this one, and the others need not wait for it
            with contextlib.suppress(Exception):  # another may be gone
                self.dist.monitored_barrier(timeout=timedelta(seconds=_PATIENCE))
        self.dist.destroy_process_group()

    @property
    def coordinates(self) -> Mapping[str, int]:
        """The coordinates of this process: its place along each axis."""
        return self.mesh.coordinates(self.rank)

    def group(self, axis: str) -> Any:
        """torch.distributed's group of the processes along ``axis`` that this one is of."""
        return self._grid.get_group(axis)

    def all(self, mine: Any) -> list[Any]:
        """Each process's own ``mine``, a picklable object, by rank. Raises TargetError."""
        if self.mesh.size == 1:
            return [mine]
        if self.dist.get_backend() == "fake":  # a plan is looked at, and nobody is there
            return [mine] * self.mesh.size
        found: list[Any] = [None] * self.mesh.size
        try:
            self.dist.all_gather_object(found, mine)
        except RuntimeError as error:
            raise self.lost(error) from error
        return found

    def lost(self, error: BaseException) -> TargetError:
        """An error that names the processes that are gone or do not answer, after ``error`` of torch.distributed."""
        silent = list[int]()
        with contextlib.suppress(Exception):  # the store may be gone too, with the process that had it
            store = self.dist.distributed_c10d._get_default_store()
            store.set(f"graphrt/heard/{self.rank}", "1")
            time.sleep(_PATIENCE)
            silent = [r for r in range(self.mesh.size) if not store.check([f"graphrt/heard/{r}"])]
        who = f"process {', '.join(map(str, silent))} of {self.mesh!r} is" if silent else "a process is"
        return TargetError(f"{who} gone, or did not answer in time (GRAPHRT_TIMEOUT): {str(error).splitlines()[0]}")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The block is run by one process of each machine first, then by the others, which find in a cache what it has made.

        Raises TargetError in all of them where it fails in one.
        """
        if self.mesh.size == 1:
            yield
            return
        first, fault = os.environ.get("LOCAL_RANK", str(self.rank)) == "0", None
        if not first:
            self._unless(self.all(None))
        try:
            yield
        except Exception as error:
            fault = error
        found = self.all(None if fault is None else f"{type(fault).__name__}: {fault}")
        if fault is not None:
            raise fault
        self._unless(found)
        if first:
            self._unless(self.all(None))

    @staticmethod
    def _unless(faults: list[Any]) -> None:
        for rank, fault in enumerate(faults):
            if fault is not None:
                raise TargetError(f"process {rank} could not go on: {fault}")

    def agree(self, text: str) -> None:
        """Raises TargetError, with the first line that differs, where another process has another ``text`` of what it runs, or
        other versions."""
        text = f"{versions()}\n{text}"
        digests = self.all(hashlib.sha256(text.encode()).hexdigest())
        if len(set(digests)) == 1:
            return
        texts = self.all(text)
        for rank, other in enumerate(texts):
            if other != texts[0]:
                ours, theirs = texts[0].splitlines(), other.splitlines()
                pairs = zip(ours + [""] * len(theirs), theirs + [""] * len(ours), strict=False)
                a, b = next(pair for pair in pairs if pair[0] != pair[1])
                raise TargetError(
                    f"all processes must run one program; that of process {rank} differs from that of process 0 first in "
                    f"{b or 'nothing'!r}, where process 0 has {a or 'nothing'!r}"
                )


@functools.cache
def versions() -> str:
    """The versions of what processes must have alike."""
    found = list[str]()
    for name in ("graphrt", "numpy", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def _backends() -> str:
    """torch.distributed's backends: gloo for the CPU, NCCL for GPUs, of which each process of a machine takes one."""
    import torch

    if not torch.cuda.is_available() or not torch.distributed.is_nccl_available():
        return "gloo"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return "cpu:gloo,cuda:nccl"


@functools.cache
def processes(mesh: Mesh) -> Processes:
    """The processes of ``mesh``, joined once. Raises TargetError."""
    return Processes(mesh)
