"""How long is a training step of U-Net, DeepLab, pix2pix and a diffusion network? graphrt beside torch, same machine, same run.

python -m bench.images [--work pix2pix] [--rounds 20] [--save] [--compile]
"""

from __future__ import annotations

from typing import Annotated

import typer

from bench.image_peers import WORK
from bench.measure import compared, interleave, report


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks to measure; all when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="steps in a turn")] = 3,
    batch: Annotated[int, typer.Option(min=0, help="0: the network's own")] = 0,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too")] = False,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/images.jsonl")] = False,
) -> None:
    """Prints the median milliseconds of a training step of each network, with Adam, and the ratio to graphrt's."""
    rows = []
    for name in work or list(WORK):
        if name not in WORK:
            raise typer.BadParameter(f"no network {name!r}; there is {', '.join(WORK)}", param_hint="--work")
        many = batch or WORK[name].batch
        steps = WORK[name].steps(["eager", "channels_last", *(["compile"] if compiled else [])], many)
        rows += compared({"work": name, "batch": many}, interleave(steps, rounds, calls))
    report("training step, float32, Adam (ratio: candidate / graphrt)", rows, "images" if save else None)


if __name__ == "__main__":
    typer.run(main)
