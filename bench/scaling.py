"""How does a training step scale with the batch and with threads? Milliseconds per image, beside torch channels_last.

python -m bench.scaling [--work ResNet-20] [--batch 64] [--threads 1] [--rounds 10] [--save]

The number of threads is fixed when a process starts, so each batch and number of threads has a process of its own, in which
both candidates take turns.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Annotated, Any

import typer

from bench.measure import Timing, compared, elsewhere, interleave, report
from bench.peers import WORK, chosen, graphrt_step, torch_step


def steps(work: str, batch: int, threads: int, rounds: int, calls: int) -> dict[str, tuple[float, ...]]:
    """Timings of a step of both, as tuples; called in a process whose environment sets the same ``threads``."""
    import torch

    torch.set_num_threads(threads)
    x, y = WORK[work].data(batch)
    ours, theirs = WORK[work].pair()
    candidates = {"graphrt": graphrt_step(ours, x, y), "torch channels_last": torch_step(theirs, x, y, "channels_last")}
    return {name: astuple(t) for name, t in interleave(candidates, rounds, calls).items() if t is not None}


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; LeNet-5 and ResNet-20 when left out")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="batch sizes; 16 to 512 when left out")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="numbers of threads; 1 and 2 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 10,
    calls: Annotated[int, typer.Option(min=1, help="steps in a turn")] = 3,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/scaling.jsonl")] = False,
) -> None:
    """Prints median milliseconds of a step and per image, and the speed-up over the first number of threads."""
    rows: list[dict[str, Any]] = []
    for name in chosen(work or ["LeNet-5", "ResNet-20"]):
        for size in batch or [16, 32, 64, 128, 256, 512]:
            first: dict[str, float] = {}
            for count in threads or [1, 2]:
                env = {"GRAPHRT_THREADS": str(count), "OMP_NUM_THREADS": str(count)}
                found = elsewhere("bench.scaling", "steps", name, size, count, rounds, calls, **env)
                about = {"work": name, "batch": size, "threads": count}
                for row in compared(about, {c: Timing(*t) for c, t in found.items()}):
                    base = first.setdefault(row["candidate"], row["ms"])
                    rows.append({**row, "ms per image": row["ms"] / size, "speed-up": base / row["ms"]})
    report("training step, float32 (ratio: candidate / graphrt)", rows, "scaling" if save else None)


if __name__ == "__main__":
    typer.run(main)
