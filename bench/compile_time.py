"""How long is it to the first result? Building, compiling and running one training step, each in a fresh process.

python -m bench.compile_time [--work LeNet-5] [--compile] [--save]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import Annotated

import typer

from bench.measure import report

STEP = """
import sys, time
from bench.peers import WORK, graphrt_step, torch_step
work = WORK[sys.argv[1]]
x, y = work.data()
start = time.perf_counter()
step = graphrt_step(work.ours(), x, y) if sys.argv[2] == "graphrt" else torch_step(work.theirs(), x, y, "compile")
step()
print("seconds", time.perf_counter() - start)
"""


def first_step(work: str, candidate: str, cache: str) -> float:
    """Seconds from the model to the first step's loss, imports left out, with ``cache`` for compiled code."""
    env = {**os.environ, "GRAPHRT_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
    run = subprocess.run([sys.executable, "-c", STEP, work, candidate], env=env, capture_output=True, text=True, check=True)
    return float(run.stdout.split("seconds")[1])


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; LeNet-5, ResNet-20, ResNet-50 when left out")] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too")] = False,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/compile_time.jsonl")] = False,
) -> None:
    """Prints seconds to the first step with an empty cache (cold) and with a full one (warm)."""
    rows = []
    for name in work or ["LeNet-5", "ResNet-20", "ResNet-50"]:
        for candidate in ["graphrt"] + (["torch.compile"] if compiled else []):
            with tempfile.TemporaryDirectory() as cache:
                cold, warm = (first_step(name, candidate, cache) for _ in range(2))
            rows.append({"work": name, "candidate": candidate, "cold s": cold, "warm s": warm})
    report("seconds to the first training step", rows, "compile_time" if save else None)


if __name__ == "__main__":
    typer.run(main)
