"""The time that gloo's collectives take between two processes of this machine, for the alpha-beta model of ``bench.scale``."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = tuple(4096 << i for i in range(0, 13, 2))  # bytes: 4 KB to 16 MB
TIMES = 15
TRAINED = "lenet5"


def _median(call: Callable[[], object], barrier: Callable[[], object], times: int = TIMES) -> float:
    """Median seconds of ``call``, which every process begins together."""
    found = []
    for _ in range(times + 2):
        barrier()
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return float(np.median(found[2:]))


def _process(rank: int, ranks: int, port: int, results: Any) -> None:
    """Measures as process ``rank``; the first one puts what it found into ``results``."""
    import torch
    import torch.distributed as dist

    os.environ["GRAPHRT_THREADS"] = "1"  # a core for each process
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    found: dict[str, Any] = {"ranks": ranks, "all_reduce": []}
    for size in SIZES:
        buffer = torch.ones(size // 4)
        found["all_reduce"].append((size, _median(lambda b=buffer: dist.all_reduce(b), dist.barrier)))  # type: ignore[misc]
    step, batch, parameters = _step(rank)
    gradients = torch.ones(parameters)

    def both() -> None:
        step()
        dist.all_reduce(gradients)

    found |= {"network": TRAINED, "batch": batch, "parameters": parameters}
    found["step"] = _median(step, dist.barrier)
    found["parallel step"] = _median(both, dist.barrier)
    if rank == 0:
        results.put(found)
    dist.barrier()
    dist.destroy_process_group()


def _step(rank: int, batch: int = 64) -> tuple[Callable[[], object], int, int]:
    """A training step of a small network on one thread, its batch, and the number of its parameters."""
    from graphrt.compiler import compile as compile_graph
    from graphrt.inspection.data import random_inputs
    from graphrt.inspection.subject import find

    subject = find(TRAINED, "cpu", batch, True, "float32", {})
    program = compile_graph(subject.outputs, **subject.arguments)
    inputs = random_inputs(program.built, np.random.default_rng(rank))
    return lambda: program(**inputs), batch, sum(p.type.size for p in program.graph.parameters())


def fit(points: list[tuple[int, float]]) -> tuple[float, float]:
    """(alpha, bandwidth) of two ranks' all_reduce, 2 alpha + size / bandwidth, from the least size and the largest."""
    (small, least), (large, most) = points[0], points[-1]
    bandwidth = (large - small) / max(most - least, 1e-12)
    return max(least - small / bandwidth, 0.0) / 2, bandwidth


def measure(ranks: int = 2) -> dict[str, Any]:
    """The times that ``ranks`` processes find, with alpha and bandwidth. Raises RuntimeError where a process fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_process, args=(rank, ranks, port, results)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        if process.exitcode != 0:
            for other in processes:
                other.kill()
            raise RuntimeError(f"a process of gloo ended with {process.exitcode}")
    found: dict[str, Any] = results.get(timeout=10)
    alpha, bandwidth = fit(found["all_reduce"])
    return {**found, "alpha": alpha, "bandwidth": bandwidth}
