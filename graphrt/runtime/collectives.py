"""Collectives carried out by torch.distributed, on tensors where they lie.

Each starts beside the launches that follow, and is waited for before the first that needs it. What several tensors send is one
message: they lie side by side already (``schedule.memory``), or are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphrt.runtime.processes import Processes

OPS = {"sum": "SUM", "max": "MAX", "min": "MIN"}


@dataclass
class Started:
    """A collective under way: what torch.distributed waits for, and what is done then."""

    joined: Processes
    works: list[Any] = field(default_factory=list)
    finish: Callable[[], None] = lambda: None
    held: Any = None  # memory that must live until then

    def wait(self) -> None:
        """Returns when the results are there. Raises TargetError when another process is gone."""
        try:
            for work in self.works:
                work.wait()
        except RuntimeError as error:
            raise self.joined.lost(error) from error
        self.finish()


class Collectives:
    """The collectives of the processes ``joined``."""

    def __init__(self, joined: Processes) -> None:
        self.joined = joined

    def start(
        self,
        op: str,
        attrs: Mapping[str, Any],
        sources: Sequence[np.ndarray],
        results: Sequence[np.ndarray],
        runs: Sequence[Sequence[int]] = (),
    ) -> Started:
        """Begins the collective ``op``; each array is a view of memory that is read, or written, until it is over.

        ``runs`` has the numbers of results that lie side by side, and in all processes alike; others are sent one by one.
        """
        if op == "axis_index":
            results[0][...] = self.joined.coordinates[attrs["axis"]]
            return Started(self.joined)
        if not any(r.size for r in results):
            return Started(self.joined)
        group, size = self.joined.group(attrs["axis"]), attrs["size"]
        if op == "all_reduce":
            return self._all_reduce(attrs["op"], group, sources, results, runs or [[i] for i in range(len(results))])
        if op == "broadcast_from":
            _copy(results, sources)
            flat, source = _tensor(_flat(results[0])), attrs["source"]
            return Started(self.joined, [self.joined.dist.broadcast(flat, group=group, group_src=source, async_op=True)])
        if op == "ppermute":
            return self._ppermute(group, attrs["perm"], sources[0], results[0])
        if op == "all_gather":
            return self._all_gather(group, size, attrs["dim"], sources, results)
        if op == "reduce_scatter":
            return self._reduce_scatter(group, size, attrs["dim"], sources, results)
        assert op == "all_to_all"
        return self._all_to_all(group, size, attrs["split_dim"], attrs["concat_dim"], sources[0], results[0])

    def _all_reduce(
        self,
        op: str,
        group: Any,
        sources: Sequence[np.ndarray],
        results: Sequence[np.ndarray],
        runs: Sequence[Sequence[int]],
    ) -> Started:
        """In place where results lie over their sources, in one piece where they lie side by side."""
        _copy(results, sources)
        how = getattr(self.joined.dist.ReduceOp, OPS[op])
        pieces = [_piece([results[i] for i in run]) for run in runs]
        works = [self.joined.dist.all_reduce(_tensor(piece), how, group=group, async_op=True) for piece in pieces]
        return Started(self.joined, works, held=pieces)

    def _call(self, *names: str) -> Any:
        """torch.distributed's function of the first of ``names`` that this version has."""
        return next(found for name in names if (found := getattr(self.joined.dist, name, None)) is not None)

    def _all_gather(
        self, group: Any, size: int, dim: int, sources: Sequence[np.ndarray], results: Sequence[np.ndarray]
    ) -> Started:
        sent = np.concatenate([np.ascontiguousarray(s).reshape(-1) for s in sources])
        came = np.empty((size, sent.size), sent.dtype)
        gather = self._call("all_gather_single", "all_gather_into_tensor")
        work = gather(_tensor(came.reshape(-1)), _tensor(sent), group=group, async_op=True)

        def finish() -> None:
            start = 0
            for source, result in zip(sources, results, strict=True):
                parts = came[:, start : start + source.size].reshape(size, *source.shape)
                np.concatenate(list(parts), dim, out=result)
                start += source.size

        return Started(self.joined, [work], finish, (sent, came))

    def _reduce_scatter(
        self, group: Any, size: int, dim: int, sources: Sequence[np.ndarray], results: Sequence[np.ndarray]
    ) -> Started:
        parts = [np.stack(np.split(s, size, dim)).reshape(size, -1) for s in sources]
        sent = np.concatenate(parts, 1)
        came = np.empty(sent.shape[1], sent.dtype)
        scatter = self._call("reduce_scatter_single", "reduce_scatter_tensor")
        work = scatter(_tensor(came), _tensor(sent.reshape(-1)), group=group, async_op=True)

        def finish() -> None:
            start = 0
            for result in results:
                result[...] = came[start : start + result.size].reshape(result.shape)
                start += result.size

        return Started(self.joined, [work], finish, (sent, came))

    def _all_to_all(
        self, group: Any, size: int, split_dim: int, concat_dim: int, source: np.ndarray, result: np.ndarray
    ) -> Started:
        sent = np.stack(np.split(source, size, split_dim))
        came = np.empty_like(sent)
        work = self.joined.dist.all_to_all_single(_tensor(came), _tensor(sent), group=group, async_op=True)

        def finish() -> None:
            np.concatenate(list(came), concat_dim, out=result)

        return Started(self.joined, [work], finish, (sent, came))

    def _ppermute(self, group: Any, perm: Sequence[tuple[int, int]], source: np.ndarray, result: np.ndarray) -> Started:
        me = self.joined.dist.get_group_rank(group, self.joined.rank)
        sent, came = np.ascontiguousarray(source), np.zeros(result.shape, result.dtype)
        works = []
        for sender, receiver in perm:
            if sender == receiver == me:
                came[...] = sent
            elif sender == me:
                works.append(self.joined.dist.isend(_tensor(sent), group=group, group_dst=receiver))
            elif receiver == me:
                works.append(self.joined.dist.irecv(_tensor(came), group=group, group_src=sender))

        def finish() -> None:
            result[...] = came

        return Started(self.joined, works, finish, sent)


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


def _piece(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """``arrays``, which lie one behind the other, as one, the gaps between included."""
    if len(arrays) == 1:
        return _flat(arrays[0])
    first, last = (a.__array_interface__["data"][0] for a in (arrays[0], arrays[-1]))
    itemsize = arrays[0].itemsize
    length = (last + arrays[-1].nbytes - first) // itemsize
    return np.lib.stride_tricks.as_strided(_flat(arrays[0]), (length,), (itemsize,))
