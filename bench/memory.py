"""How much memory does a training step need? The peak of the process above what it held before the network was built.

python -m bench.memory [--work ResNet-50] [--steps 3] [--save]

Each candidate has a process of its own. The peak is the kernel's (VmHWM, Linux): parameters, optimizer, activations
and whatever the framework keeps besides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bench.measure import elsewhere, report
from bench.peers import WORK, chosen, graphrt_step, torch_step

CANDIDATES = ("graphrt", "torch eager", "torch channels_last")


def peak(work: str, candidate: str, steps: int) -> float:
    """MB that training adds to this process at the worst moment; called in a fresh one."""
    one = WORK[work]
    x, y = one.data()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    ours, theirs = one.ours(), one.theirs
    mode = candidate.removeprefix("torch ")
    step = graphrt_step(ours, x, y) if candidate == "graphrt" else torch_step(theirs(), x, y, mode)
    for _ in range(steps):
        step()
    return (_status("VmHWM") - before) / 1024


def _status(what: str) -> int:
    """A figure of /proc/self/status, in KB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1])


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; ResNet-20, ResNet-18 and ResNet-50 when left out")] = None,
    steps: Annotated[int, typer.Option(min=1, help="training steps of each candidate")] = 3,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/memory.jsonl")] = False,
) -> None:
    """Prints the peak of each candidate and its ratio to graphrt's."""
    rows: list[dict[str, Any]] = []
    for name in chosen(work or ["ResNet-20", "ResNet-18", "ResNet-50"]):
        found = {candidate: elsewhere("bench.memory", "peak", name, candidate, steps) for candidate in CANDIDATES}
        about = {"work": name, "batch": WORK[name].batch}
        rows += [about | {"candidate": c, "MB": mb, "ratio": mb / found["graphrt"]} for c, mb in found.items()]
    report("peak memory of training, float32 (ratio: candidate / graphrt)", rows, "memory" if save else None)


if __name__ == "__main__":
    typer.run(main)
