"""How long does a user wait for the first training step? Cold and warm cache, each time in a process of its own.

python -m bench.compile_time [--work LeNet-5] [--rounds 3] [--save] [--compile]

Seconds from a network with its parameters to the first loss; starting Python and importing are left out. Cold begins with
an empty cache folder (GRAPHRT_CACHE, TORCHINDUCTOR_CACHE_DIR), warm is the next process with the same folder. "Less a step" is
what compiling added: without the time of the second step.
"""

from __future__ import annotations

import tempfile
import time
from typing import Annotated

import typer

from bench.measure import compared, elsewhere, report, spread
from bench.peers import WORK, chosen, graphrt_step, torch_step

CACHE = {"graphrt": "GRAPHRT_CACHE", "torch compile": "TORCHINDUCTOR_CACHE_DIR"}


def first_steps(work: str, candidate: str) -> list[float]:
    """Seconds until the first loss of ``candidate`` is there, and of the second step; called in a fresh process."""
    one = WORK[work]
    x, y = one.data()
    ours, theirs = one.pair()
    start = time.perf_counter()
    step = graphrt_step(ours, x, y) if candidate == "graphrt" else torch_step(theirs, x, y, "compile")
    step()
    first = time.perf_counter()
    step()
    return [first - start, time.perf_counter() - first]


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; LeNet-5, ResNet-20, ResNet-50 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="cold and warm starts of each candidate")] = 3,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too")] = False,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/compile_time.jsonl")] = False,
) -> None:
    """Prints the median milliseconds to the first result, and the ratio to graphrt's cold start."""
    rows = []
    for name in chosen(work or ["LeNet-5", "ResNet-20", "ResNet-50"]):
        candidates = ["graphrt", *(["torch compile"] if compiled else [])]
        names = [f"{c}, {state}{less}" for c in candidates for state in ("cold", "warm") for less in ("", ", less a step")]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(rounds):
            for candidate in candidates:
                with tempfile.TemporaryDirectory() as folder:
                    for state in ("cold", "warm"):
                        first, second = elsewhere(
                            "bench.compile_time", "first_steps", name, candidate, **{CACHE[candidate]: folder}
                        )
                        seconds[f"{candidate}, {state}"].append(first)
                        seconds[f"{candidate}, {state}, less a step"].append(first - second)
        rows += compared({"work": name, "batch": WORK[name].batch}, {c: spread(s) for c, s in seconds.items()})
    report("from graph to the first training step (ratio: candidate / graphrt, cold)", rows, "compile_time" if save else None)


if __name__ == "__main__":
    typer.run(main)
