"""How long is a training step? graphrt beside torch (eager, channels_last, compile) and JAX, same machine, same run.

python -m bench.train_step [--work LeNet-5] [--rounds 20] [--save] [--no-compile]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from bench.measure import compared, interleave, report
from bench.peers import JAX_WORK, WORK, chosen, graphrt_step, jax_step, torch_step


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks to measure; all when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="steps in a turn")] = 3,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too")] = True,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/train_step.jsonl")] = False,
) -> None:
    """Prints the median milliseconds of a training step of each network, and the ratio to graphrt's."""
    rows = []
    for name in chosen(work or list(WORK)):
        one = WORK[name]
        x, y = one.data()
        modes = ["eager"] + (["channels_last"] if x.ndim == 4 else []) + (["compile"] if compiled else [])
        candidates: dict[str, Callable[[], Any] | None] = {"graphrt": graphrt_step(one.pair()[0], x, y)}
        candidates |= {f"torch {m}": torch_step(one.theirs(), x, y, m) for m in modes}
        candidates |= {"jax": jax_step(name, x, y)} if name in JAX_WORK else {}
        rows += compared({"work": name, "batch": one.batch}, interleave(candidates, rounds, calls))
    report("training step, float32 (ratio: candidate / graphrt)", rows, "train_step" if save else None)


if __name__ == "__main__":
    typer.run(main)
