"""The processes of a mesh, joined by torch.distributed: what collectives are carried out by.

Each starts beside the launches that follow, and is waited for before the first that needs it. torch.distributed owns groups,
rendezvous, transport and timeouts; here tensors are handed to it where they lie.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphrt.errors import TargetError
from graphrt.mesh import Mesh

OPS = {"sum": "SUM", "max": "MAX", "min": "MIN"}
_GAP = 256  # bytes between tensors that the memory plan laid side by side, at most


@dataclass
class Started:
    """A collective under way: what torch.distributed waits for, and what is done then."""

    works: list[Any] = field(default_factory=list)
    finish: Callable[[], None] = lambda: None
    held: Any = None  # memory that must live until then

    def wait(self) -> None:
        """Returns when the results are there. Raises TargetError when another process is gone."""
        try:
            for work in self.works:
                work.wait()
        except RuntimeError as error:
            raise TargetError(f"a collective failed, since another process is gone or does not answer: {error}") from error
        self.finish()


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
            dist.init_process_group("gloo")
        if dist.get_world_size() != mesh.size:
            raise TargetError(f"{mesh!r} is {mesh.size} processes; torch.distributed has {dist.get_world_size()}")
        self._dist, self.rank = dist, dist.get_rank()
        self._grid = dist.init_device_mesh("cpu", tuple(mesh.axes.values()), mesh_dim_names=tuple(mesh.axes))

    @property
    def coordinates(self) -> Mapping[str, int]:
        """Where this process stands along each axis."""
        return self.mesh.coordinates(self.rank)

    def start(self, op: str, attrs: Mapping[str, Any], sources: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> Started:
        """Begins the collective ``op``; each array is a view of memory that is read, or written, until it is over."""
        if op == "axis_index":
            results[0][...] = self.coordinates[attrs["axis"]]
            return Started()
        if not any(r.size for r in results):
            return Started()
        group, size = self._grid.get_group(attrs["axis"]), attrs["size"]
        if op == "all_reduce":
            return self._all_reduce(attrs["op"], group, sources, results)
        if op == "broadcast_from":
            _copy(results, sources)
            flat = _tensor(_flat(results[0]))
            return Started([self._dist.broadcast(flat, group=group, group_src=attrs["source"], async_op=True)])
        if op == "ppermute":
            return self._ppermute(group, attrs["perm"], sources[0], results[0])
        if op == "all_gather":
            return self._all_gather(group, size, attrs["dim"], sources, results)
        if op == "reduce_scatter":
            return self._reduce_scatter(group, size, attrs["dim"], sources, results)
        assert op == "all_to_all"
        return self._all_to_all(group, size, attrs["split_dim"], attrs["concat_dim"], sources[0], results[0])

    def _all_reduce(self, op: str, group: Any, sources: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> Started:
        """In place where results lie over their sources, in one piece where they lie side by side."""
        _copy(results, sources)
        how = getattr(self._dist.ReduceOp, OPS[op])
        pieces = _runs(results)
        works = [self._dist.all_reduce(_tensor(piece), how, group=group, async_op=True) for piece in pieces]
        return Started(works, held=pieces)

    def _all_gather(
        self, group: Any, size: int, dim: int, sources: Sequence[np.ndarray], results: Sequence[np.ndarray]
    ) -> Started:
        sent = np.concatenate([np.ascontiguousarray(s).reshape(-1) for s in sources])
        came = np.empty((size, sent.size), sent.dtype)
        work = self._dist.all_gather_into_tensor(_tensor(came), _tensor(sent), group=group, async_op=True)

        def finish() -> None:
            start = 0
            for source, result in zip(sources, results, strict=True):
                parts = came[:, start : start + source.size].reshape(size, *source.shape)
                np.concatenate(list(parts), dim, out=result)
                start += source.size

        return Started([work], finish, (sent, came))

    def _reduce_scatter(
        self, group: Any, size: int, dim: int, sources: Sequence[np.ndarray], results: Sequence[np.ndarray]
    ) -> Started:
        parts = [np.stack(np.split(s, size, dim)).reshape(size, -1) for s in sources]
        sent = np.concatenate(parts, 1)
        came = np.empty(sent.shape[1], sent.dtype)
        work = self._dist.reduce_scatter_tensor(_tensor(came), _tensor(sent), group=group, async_op=True)

        def finish() -> None:
            start = 0
            for result in results:
                result[...] = came[start : start + result.size].reshape(result.shape)
                start += result.size

        return Started([work], finish, (sent, came))

    def _all_to_all(
        self, group: Any, size: int, split_dim: int, concat_dim: int, source: np.ndarray, result: np.ndarray
    ) -> Started:
        sent = np.stack(np.split(source, size, split_dim))
        came = np.empty_like(sent)
        work = self._dist.all_to_all_single(_tensor(came), _tensor(sent), group=group, async_op=True)
        return Started([work], lambda: np.concatenate(list(came), concat_dim, out=result) and None, (sent, came))

    def _ppermute(self, group: Any, perm: Sequence[tuple[int, int]], source: np.ndarray, result: np.ndarray) -> Started:
        me = self._dist.get_group_rank(group, self.rank)
        sent, came = np.ascontiguousarray(source), np.zeros(result.shape, result.dtype)
        works = []
        for sender, receiver in perm:
            if sender == receiver == me:
                came[...] = sent
            elif sender == me:
                works.append(self._dist.isend(_tensor(sent), group=group, group_dst=receiver))
            elif receiver == me:
                works.append(self._dist.irecv(_tensor(came), group=group, group_src=sender))

        def finish() -> None:
            result[...] = came

        return Started(works, finish, sent)

    def agree(self, what: str, text: str) -> None:
        """Raises TargetError, with the first line that differs, where another process has another ``text`` of ``what``."""
        if self.mesh.size == 1:
            return
        texts: list[Any] = [None] * self.mesh.size
        self._dist.all_gather_object(texts, text)
        for rank, other in enumerate(texts):
            if other != texts[0]:
                ours, theirs = texts[0].splitlines(), other.splitlines()
                pairs = zip(ours + [""] * len(theirs), theirs + [""] * len(ours), strict=False)
                number, (a, b) = next((i, pair) for i, pair in enumerate(pairs, 1) if pair[0] != pair[1])
                raise TargetError(
                    f"the processes must run one program, and {what} of process {rank} is another than that of process 0, "
                    f"first in line {number}: {b or 'nothing'!r}, where process 0 has {a or 'nothing'!r}"
                )


@functools.cache
def processes(mesh: Mesh) -> Processes:
    """The processes of ``mesh``, joined once. Raises TargetError."""
    return Processes(mesh)


def _tensor(array: np.ndarray) -> Any:
    """A tensor on the memory of ``array``, which is contiguous."""
    import torch

    if array.dtype.kind == "V" or array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _flat(array: np.ndarray) -> np.ndarray:
    """The memory of a dense ``array``, in whatever order its dimensions lie there."""
    order = sorted(range(array.ndim), key=lambda d: (-array.strides[d], d))
    return array.transpose(order).reshape(-1)


def _copy(results: Sequence[np.ndarray], sources: Sequence[np.ndarray]) -> None:
    for result, source in zip(results, sources, strict=True):
        if result.__array_interface__["data"] != source.__array_interface__["data"]:
            result[...] = source


def _runs(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``arrays`` as flat ones, those that lie side by side as one, the gaps between included."""
    spans = sorted((a.__array_interface__["data"][0], a.nbytes, i) for i, a in enumerate(arrays) if a.size)
    found: list[np.ndarray] = []
    run: list[tuple[int, int, int]] = []

    def close() -> None:
        if len(run) == 1:
            found.append(_flat(arrays[run[0][2]]))
        elif run:
            first, dtype = arrays[run[0][2]], arrays[run[0][2]].dtype
            length = (run[-1][0] + run[-1][1] - run[0][0]) // dtype.itemsize
            found.append(np.lib.stride_tricks.as_strided(_flat(first), (length,), (dtype.itemsize,)))
        run.clear()

    for span in spans:
        if run and not (0 <= span[0] - (run[-1][0] + run[-1][1]) < _GAP and arrays[span[2]].dtype == arrays[run[0][2]].dtype):
            close()
        run.append(span)
    close()
    return found


def nbytes(op: str, attrs: Mapping[str, Any], sizes: Sequence[int]) -> int:
    """The bytes that each process must send, at least, for operands of ``sizes`` bytes (Chan et al., 2007; ring)."""
    size, total = attrs["size"], sum(sizes)
    if op == "all_reduce":
        return math.ceil(2 * total * (size - 1) / size)
    if op == "all_gather":
        return total * (size - 1)
    if op in ("reduce_scatter", "all_to_all"):
        return math.ceil(total * (size - 1) / size)
    return total if op in ("ppermute", "broadcast_from") else 0
