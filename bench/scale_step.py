"""The time of a training step on many GPUs, from its kernels' times and those of collectives.

Compute and the network are one resource each. A bucket of gradients is sent when its last gradient is there and the network is
free; the step ends when the last bucket and the update are done. Whatever synchronises inside the step (statistics of a group's
batch norm, products that are split over GPUs) stands in the way of what follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.collectives import Topology, best
from bench.scale_kernels import Kernels

POLICIES = ("all_reduce", "zero1", "zero2", "fsdp")


@dataclass(frozen=True)
class Exchange:
    """``count`` all_reduces of ``size`` bytes between ``ranks`` neighbours, on each of which the step waits."""

    count: int
    ranks: int
    size: float


@dataclass(frozen=True)
class Setting:
    """How a step is run on ``ranks`` of ``topology``.

    Gradients are sent in ``itemsize`` bytes an element, in buckets of ``bucket`` bytes (0: each alone), beside the backward
    pass or, without ``overlap``, behind it, ``delay`` seconds after they could be. ``jitter`` is the standard deviation of a
    rank's time over its mean; ``feed`` are images a second that the host hands to one GPU, and ``brought`` the seconds that
    the GPU's memory is busy with the next batch.
    Raises ValueError for a policy that is none.
    """

    ranks: int
    topology: Topology
    policy: str = "all_reduce"
    bucket: float = 25e6
    itemsize: int = 2
    overlap: bool = True
    delay: float = 0.0
    jitter: float = 0.0
    feed: float = math.inf
    brought: float = 0.0
    exchanges: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"no policy {self.policy!r}; there is {', '.join(POLICIES)}")


@dataclass(frozen=True)
class Step:
    """Seconds of a step and of its parts: kernels, what is seen of gradients' collectives, exchanges, waiting for the slowest.

    ``network`` are the seconds that collectives of gradients and parameters take altogether, hidden or not, by ``algorithm``.
    """

    seconds: float
    kernels: float
    exposed: float
    exchanged: float
    waiting: float
    network: float
    algorithm: str


def buckets(gradients: Sequence[tuple[float, float]], limit: float) -> list[tuple[float, float]]:
    """(seconds when it is full, bytes) of each bucket of ``gradients`` (ready, bytes), in the order in which they are ready.

    A bucket is full when ``limit`` bytes are in it.
    """
    found: list[tuple[float, float]] = []
    ready, size = 0.0, 0.0
    for at, more in gradients:
        ready, size = max(ready, at), size + more
        if size >= limit:
            found.append((ready, size))
            ready, size = 0.0, 0.0
    return [*found, (ready, size)] if size else found


def finish(waiting: Sequence[tuple[float, float]], cost: Callable[[float], float]) -> float:
    """Seconds when the last of ``waiting`` (ready, bytes) is through a network that takes one at a time, in that order."""
    free = 0.0
    for ready, size in waiting:
        free = max(free, ready) + cost(size)
    return free


def predict(kernels: Kernels, setting: Setting) -> Step:
    """The step of ``kernels`` as ``setting`` says."""
    ranks, topology = setting.ranks, setting.topology

    def cost(kind: str) -> Callable[[float], float]:
        return lambda size: best(kind, topology, ranks, size)[0] + (setting.delay if ranks > 1 else 0.0)

    backward = kernels.forward + kernels.backward
    sizes = [(at if setting.overlap else backward, setting.itemsize * n) for at, n in kernels.gradients]
    sent = buckets(sizes, setting.bucket)
    sharded = setting.policy != "all_reduce"
    send = cost("reduce_scatter" if sharded else "all_reduce")
    gather = cost("all_gather")
    network = sum(send(size) for _, size in sent)
    update = kernels.update / (ranks if sharded else 1)
    if setting.policy == "fsdp":
        reduced = _fully_sharded(kernels, sent, send, gather, setting.overlap)
        network += 2 * sum(gather(size) for _, size in sent)
        end = reduced + update
    else:
        end = max(backward, finish(sent, send)) + update
        if sharded:  # the new parameters, for the next step
            gathered = sum(gather(size) for _, size in sent)
            network, end = network + gathered, end + gathered
    exchanged = sum(e.count * best("all_reduce", topology, e.ranks, e.size)[0] for e in setting.exchanges)
    alone = backward + update
    waiting = setting.jitter * (alone + exchanged) * math.sqrt(2 * math.log(ranks))
    total = end + exchanged + waiting + setting.brought
    fed = kernels.batch / setting.feed
    largest = max((size for _, size in sent), default=0.0)
    way = best("reduce_scatter" if sharded else "all_reduce", topology, ranks, largest)[1] if ranks > 1 else "none"
    return Step(max(total, fed), alone, end - alone, exchanged, waiting + max(fed - total, 0.0), network, way)


def _fully_sharded(
    kernels: Kernels,
    sent: Sequence[tuple[float, float]],
    send: Callable[[float], float],
    gather: Callable[[float], float],
    overlap: bool,
) -> float:
    """Seconds when the last gradient is scattered, where each bucket's parameters are gathered before they are read.

    The next bucket is gathered while one is computed, and no sooner; gathering goes before scattering. Forward passes are in
    proportion to backward ones.
    """
    if not overlap:
        return kernels.forward + kernels.backward + sum(2 * gather(size) + send(size) for _, size in sent)
    done = kernels.forward + kernels.backward
    ends = [*(min(max(ready, kernels.forward), done) for ready, _ in sent[:-1]), done]
    spans = [end - start for start, end in zip([kernels.forward, *ends], ends, strict=False)]
    share = kernels.forward / kernels.backward if kernels.backward else 0.0
    work = [share * span for span in reversed(spans)] + spans
    sizes = [size for _, size in reversed(sent)] + [size for _, size in sent]
    compute, network = 0.0, gather(sizes[0])  # when each is free
    there = network  # when the parameters of the next kernels are
    for i, (span, size) in enumerate(zip(work, sizes, strict=True)):
        start = max(compute, there)
        compute = start + span
        if i + 1 < len(sizes):
            network = there = max(network, start) + gather(sizes[i + 1])
        if i >= len(spans):
            network = max(network, compute) + send(size)
    return max(compute, network)


def memory(parameters: int, ranks: int, policy: str, itemsize: int = 2, state: int = 8) -> float:
    """Bytes of each rank for parameters and gradients of ``itemsize`` bytes, and ``state`` bytes of master weights and moments.

    After ZeRO (Rajbhandari and others, 2020): zero1 shares out the state, zero2 the gradients too, fsdp the parameters too.
    """
    shared = POLICIES.index(policy)
    parts = (state, itemsize, itemsize)
    return sum(parameters * size / (ranks if i < shared else 1) for i, size in enumerate(parts))
