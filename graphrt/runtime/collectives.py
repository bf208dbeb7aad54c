"""Collectives carried out by torch.distributed, on tensors where they lie: of the CPU by gloo, of a GPU by NCCL.

Each starts beside the launches that follow, and is waited for before the first that needs it. What several tensors send is one
message: they lie side by side already (``schedule.memory``), or are copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphrt.runtime.processes import Processes
from graphrt.schedule.memory import ALIGNMENT

OPS = {"sum": "SUM", "max": "MAX", "min": "MIN"}
Tensors = Sequence[Any]  # of torch, each on memory that is read, or written, until the collective is over


@dataclass
class Started:
    """A collective under way: what torch.distributed waits for, and what is done then."""

    joined: Processes
    works: list[Any] = field(default_factory=list)
    finish: Callable[[], None] = lambda: None
    held: Any = None  # memory that must live until then

    def wait(self) -> None:
        """Returns when the results are there; of a GPU, when its current stream waits for them. Raises TargetError when
        another process is gone."""
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

    def start(self, op: str, attrs: Mapping[str, Any], sources: Tensors, results: Tensors) -> Started:
        """Begins the collective ``op`` on torch's tensors."""
        if op == "axis_index":
            results[0].fill_(self.joined.coordinates[attrs["axis"]])
            return Started(self.joined)
        if not any(r.numel() for r in results):
            return Started(self.joined)
        group, size = self.joined.group(attrs["axis"]), attrs["size"]
        if op == "all_reduce":
            return self._all_reduce(attrs["op"], group, sources, results)
        if op == "broadcast_from":
            _copy(results, sources)
            (piece,) = side_by_side(results)
            work = self.joined.dist.broadcast(piece, group=group, group_src=attrs["source"], async_op=True)
            return Started(self.joined, [work], held=piece)
        if op == "ppermute":
            return self._ppermute(group, size, attrs["perm"], sources[0], results[0])
        if op == "all_gather":
            return self._all_gather(group, size, attrs["dim"], sources, results)
        if op == "reduce_scatter":
            return self._reduce_scatter(group, size, attrs["dim"], sources, results)
        assert op == "all_to_all"
        return self._all_to_all(group, size, attrs["split_dim"], attrs["concat_dim"], sources[0], results[0])

    def _all_reduce(self, op: str, group: Any, sources: Tensors, results: Tensors) -> Started:
        """In place where results lie over their sources, in one piece where they lie side by side."""
        _copy(results, sources)
        how, pieces = getattr(self.joined.dist.ReduceOp, OPS[op]), side_by_side(results)
        works = [self.joined.dist.all_reduce(piece, how, group=group, async_op=True) for piece in pieces]
        return Started(self.joined, works, held=pieces)

    def _call(self, *names: str) -> Any:
        """torch.distributed's function of the first of ``names`` that this version has."""
        return next(found for name in names if (found := getattr(self.joined.dist, name, None)) is not None)

    def _all_gather(self, group: Any, size: int, dim: int, sources: Tensors, results: Tensors) -> Started:
        import torch

        sent = torch.cat([s.reshape(-1) for s in sources])
        came = sent.new_empty((size, sent.numel()))
        gather = self._call("all_gather_single", "all_gather_into_tensor")
        work = gather(came.reshape(-1), sent, group=group, async_op=True)

        def finish() -> None:
            start = 0
            for source, result in zip(sources, results, strict=True):
                parts = came[:, start : start + source.numel()].reshape(size, *source.shape)
                result.copy_(torch.cat(list(parts), dim))
                start += source.numel()

        return Started(self.joined, [work], finish, (sent, came))

    def _reduce_scatter(self, group: Any, size: int, dim: int, sources: Tensors, results: Tensors) -> Started:
        import torch

        sent = torch.cat([torch.stack(s.tensor_split(size, dim)).reshape(size, -1) for s in sources], 1)
        came = sent.new_empty(sent.shape[1])
        scatter = self._call("reduce_scatter_single", "reduce_scatter_tensor")
        work = scatter(came, sent.reshape(-1), group=group, async_op=True)

        def finish() -> None:
            start = 0
            for result in results:
                result.copy_(came[start : start + result.numel()].reshape(result.shape))
                start += result.numel()

        return Started(self.joined, [work], finish, (sent, came))

    def _all_to_all(self, group: Any, size: int, split_dim: int, concat_dim: int, source: Any, result: Any) -> Started:
        import torch

        sent = torch.stack(source.tensor_split(size, split_dim))
        came = torch.empty_like(sent)
        work = self.joined.dist.all_to_all_single(came, sent, group=group, async_op=True)

        def finish() -> None:
            result.copy_(torch.cat(list(came), concat_dim))

        return Started(self.joined, [work], finish, (sent, came))

    def _ppermute(self, group: Any, size: int, perm: Sequence[tuple[int, int]], source: Any, result: Any) -> Started:
        """One call of all processes, those too that neither send nor receive: so a captured graph has it in each of them."""
        me = self.joined.dist.get_group_rank(group, self.joined.rank)
        sends = [source.numel() * ((me, other) in perm) for other in range(size)]
        takes = [source.numel() * ((other, me) in perm) for other in range(size)]
        sent, came = source.reshape(-1)[: sum(sends)].contiguous(), source.new_empty(sum(takes))
        work = self.joined.dist.all_to_all_single(came, sent, takes, sends, group=group, async_op=True)

        def finish() -> None:
            if came.numel():
                result.copy_(came.reshape(result.shape))
            else:
                result.zero_()

        return Started(self.joined, [work], finish, (sent, came))


def side_by_side(tensors: Tensors) -> list[Any]:
    """The memory of dense ``tensors``, as one where they lie one behind the other as the memory plan lays what is sent at once,
    the gaps between included."""
    found = list[tuple[Any, int]]()  # the first tensor of a piece, and the elements of that
    for tensor in (t for t in tensors if t.numel()):
        first, length = found[-1] if found else (tensor, 0)
        gap = tensor.storage_offset() - first.storage_offset() - length
        same = first.dtype == tensor.dtype and first.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        if found and same and 0 <= gap * tensor.element_size() < ALIGNMENT:
            found[-1] = first, length + gap + tensor.numel()
        else:
            found.append((tensor, tensor.numel()))
    return [first.as_strided((length,), (1,)) for first, length in found]


def _copy(results: Tensors, sources: Tensors) -> None:
    for result, source in zip(results, sources, strict=True):
        if result.data_ptr() != source.data_ptr():
            result.copy_(source)
