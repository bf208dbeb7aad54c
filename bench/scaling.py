"""How does a training step scale with the batch and with threads? Milliseconds per image, beside torch channels_last.

python -m bench.scaling [--work ResNet-20] [--batch 64] [--threads 1] [--rounds 10] [--save]

The number of threads is fixed when a process starts, and threads that wait spin for a while, which takes a core from another
candidate: each batch, number of threads and candidate has a process of its own. Turns before or after which there were fewer
cores than threads (``bench.measure.cores``) say nothing of scaling and are left out; ``turns`` counts those that are not.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Annotated, Any

import typer

from bench.measure import Timing, compared, cores, elsewhere, interleave, report, spread
from bench.peers import WORK, chosen, graphrt_step, torch_step

ENOUGH = 0.85  # cores to a thread
TRIES = 4  # turns at most, for each that is asked for


def steps(work: str, batch: int, threads: int, rounds: int, calls: int, candidate: str) -> tuple[tuple[float, ...], int]:
    """The timing of a step of ``candidate`` as a tuple, and from how many turns; in a process of as many ``threads``.

    All turns count where none had its cores.
    """
    import torch

    torch.set_num_threads(threads)
    x, y = WORK[work].data(batch)
    ours, theirs = WORK[work].pair()
    step = graphrt_step(ours, x, y) if candidate == "graphrt" else torch_step(theirs, x, y, "channels_last")
    turns, kept = [], []
    before = cores(threads)
    while len(kept) < rounds and len(turns) < TRIES * rounds:
        timing = interleave({candidate: step}, 1, calls)[candidate]
        assert timing is not None
        turns.append(timing.median / 1e3)
        after = cores(threads)
        if min(before, after) >= ENOUGH * threads:
            kept.append(turns[-1])
        before = after
    return astuple(spread(kept or turns)), len(kept)


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
                timings, turns = {}, {}
                for candidate in ("graphrt", "torch channels_last"):
                    found = elsewhere("bench.scaling", "steps", name, size, count, rounds, calls, candidate, **env)
                    timings[candidate], turns[candidate] = Timing(*found[0]), found[1]
                for row in compared({"work": name, "batch": size, "threads": count}, timings):
                    base = first.setdefault(row["candidate"], row["ms"])
                    row["turns"] = turns[row["candidate"]]
                    rows.append({**row, "ms per image": row["ms"] / size, "speed-up": base / row["ms"]})
    report("training step, float32 (ratio: candidate / graphrt)", rows, "scaling" if save else None)


if __name__ == "__main__":
    typer.run(main)
