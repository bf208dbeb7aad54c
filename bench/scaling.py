"""Does time follow the work? Milliseconds per image over batch sizes, and one thread against two.

python -m bench.scaling [--work LeNet-5] [--batch 16 ...] [--save]
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from bench.measure import report

STEP = """
import sys
from bench.measure import interleave
from bench.peers import WORK, graphrt_step
work, batch = WORK[sys.argv[1]], int(sys.argv[2])
step = graphrt_step(work.ours(), *work.data(batch))
step()
print("ms", interleave({"step": step}, 5, 4)["step"].median)
"""


def milliseconds(work: str, batch: int, threads: int) -> float:
    env = {**os.environ, "GRAPHRT_THREADS": str(threads)}
    run = subprocess.run([sys.executable, "-c", STEP, work, str(batch)], env=env, capture_output=True, text=True, check=True)
    return float(run.stdout.split("ms")[1])


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; LeNet-5 and ResNet-20 when left out")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="batch sizes; 16 to 512 when left out")] = None,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/scaling.jsonl")] = False,
) -> None:
    """Prints milliseconds of a training step by batch size, per image, and how much faster two threads are."""
    rows = []
    for name in work or ["LeNet-5", "ResNet-20"]:
        for size in batch or [16, 32, 64, 128, 256, 512]:
            one, two = milliseconds(name, size, 1), milliseconds(name, size, 2)
            rows.append(
                {
                    "work": name,
                    "batch": size,
                    "1 thread ms": one,
                    "2 threads ms": two,
                    "ms per image": two / size,
                    "speedup": one / two,
                }
            )
    report("training step of graphrt, float32", rows, "scaling" if save else None)


if __name__ == "__main__":
    typer.run(main)
