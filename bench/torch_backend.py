"""torch.compile with graphrt as its backend, beside inductor and eager mode: how fast is a step, and how long until the first?

python -m bench.torch_backend [--work LeNet-5] [--rounds 20] [--starts 1] [--save] [--no-compile]

A step is what a user of torch writes: forward, loss.backward(), optimizer.step() with SGD and momentum. The first step is
timed in a process of its own with empty caches, imports left out.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer

from bench.measure import compared, elsewhere, interleave, report, spread
from bench.peers import WORK, chosen, torch_step

BACKENDS = {"graphrt": "graphrt", "inductor": "inductor", "eager": ""}
CACHES = ("GRAPHRT_CACHE", "TORCHINDUCTOR_CACHE_DIR")


def make_step(work: str, backend: str) -> Callable[[], Any]:
    """A training step of ``work`` compiled by ``backend`` (empty: not compiled); nothing has run yet."""
    import graphrt.frontends.torch  # noqa: F401 - registers the backend where the package is not installed

    model = WORK[work].theirs()
    return torch_step(torch.compile(model, backend=backend) if backend else model, *WORK[work].data(), "eager")


def first_step(work: str, backend: str) -> float:
    """Seconds until the first loss; called in a fresh process."""
    step = make_step(work, backend)
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; LeNet-5 and ResNet-20 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="steps in a turn")] = 3,
    starts: Annotated[int, typer.Option(min=0, help="cold starts of each candidate; 0 leaves them out")] = 1,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="inductor too")] = True,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/torch_backend.jsonl")] = False,
) -> None:
    """Prints the median milliseconds of a step and of the first one, and the ratios to graphrt's."""
    backends = {n: b for n, b in BACKENDS.items() if compiled or n != "inductor"}
    steps, cold = [], []
    for name in chosen(work or ["LeNet-5", "ResNet-20"]):
        about = {"work": name, "batch": WORK[name].batch}
        candidates: dict[str, Callable[[], Any] | None] = {n: make_step(name, b) for n, b in backends.items()}
        steps += compared({**about, "what": "step"}, interleave(candidates, rounds, calls))
        seconds: dict[str, list[float]] = {n: [] for n in backends}
        for _ in range(starts):
            for n, b in backends.items():
                with tempfile.TemporaryDirectory() as folder:
                    caches = dict.fromkeys(CACHES, folder)
                    seconds[n].append(elsewhere("bench.torch_backend", "first_step", name, b, **caches))
        if starts:
            cold += compared({**about, "what": "first step"}, {n: spread(s) for n, s in seconds.items()})
    report("torch.compile by backend, float32 (ratio: candidate / graphrt)", steps + cold, "torch_backend" if save else None)


if __name__ == "__main__":
    typer.run(main)
