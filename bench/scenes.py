"""How long is a training step of a detector? graphrt beside the same network and loss in torch, same machine, same run.

python -m bench.scenes [--work ssd] [--rounds 20] [--save]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

from bench.measure import compared, interleave, report
from bench.peers import updated
from bench.scene_peers import PEERS
from graphrt import nn, optim
from graphrt.data import Dataset
from graphrt.train import Trainer, tasks

RATE = 1e-4  # every step sees the same batch: none may diverge


def ours(name: str, batch: int) -> tuple[Trainer, Dataset]:
    """A trainer with plain SGD of the task called ``name``, and a batch."""
    task = tasks.get(name)
    return task.trainer(optimizer=optim.SGD(RATE, momentum=0.9), schedule=None), task.training(0, batch)


def theirs(name: str, net: nn.Module, batch: Dataset) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """The same network in torch with the weights of ``net``, and the same batch: pictures, and what else there is."""
    peer = PEERS[name]()
    parameters = list(net.parameters())
    mine = list(peer.parameters())
    shapes = [[tuple(p.shape) for p in side] for side in (parameters, mine)]
    assert shapes[0] == shapes[1], f"different networks: {shapes}"
    with torch.no_grad():
        for to, p in zip(mine, parameters, strict=True):
            to.copy_(torch.from_numpy(p.array))
    given = {**(batch.x if isinstance(batch.x, dict) else {"input": batch.x, **batch.y})}
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in given.items()}
    return peer, tensors.pop("input"), tensors


def steps(name: str, batch: int) -> dict[str, Callable[[], Any]]:
    """A training step of graphrt, and of torch in eager mode: forward, backward, SGD with momentum; the losses are read."""
    trainer, data = ours(name, batch)
    peer, x, given = theirs(name, trainer.net, data)
    optimizer = torch.optim.SGD(peer.parameters(), lr=RATE, momentum=0.9)
    return {"graphrt": lambda: trainer.step(data.x, data.y), "torch eager": updated(optimizer, lambda: peer.loss(x, given))}


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks to measure; all when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="steps in a turn")] = 3,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/scenes.jsonl")] = False,
) -> None:
    """Prints the median milliseconds of a training step of each detector, and the ratio to graphrt's."""
    table = []
    for name in work or list(PEERS):
        if name not in PEERS:
            raise typer.BadParameter(f"no network {name!r}; there is {', '.join(PEERS)}", param_hint="--work")
        table += compared({"work": name, "batch": batch}, interleave(steps(name, batch), rounds, calls))
    report("training step of detectors, float32 (ratio: candidate / graphrt)", table, "scenes" if save else None)


if __name__ == "__main__":
    typer.run(main)
