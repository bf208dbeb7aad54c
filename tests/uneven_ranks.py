"""Trains small networks on batches that so many processes cannot cut evenly.

``python uneven_ranks.py FOLDER CASE...`` forks one process, then three; what the first finds is written as 1.json and 3.json.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from forking import forked

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.errors import ArgumentError
from graphrt.train import Trainer

EXAMPLES, BATCH = 26, 7  # three batches of 7 and one of 5


def linear(outputs: int) -> nn.Module:
    """A network of two layers."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs))


def normed(outputs: int) -> nn.Module:
    """A network that mixes the examples of a batch."""
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, outputs))


def squared(output: Any, target: Any) -> Any:
    """A mean over the examples that does not say that it is one."""
    return F.mean(F.sum((output - target) ** 2, 1))


def summed(output: Any, target: Any) -> Any:
    """A sum over the examples that does not say that it is one."""
    return 0.05 * F.sum((output - target) ** 2)


def of_pairs(output: Any, target: Any) -> Any:
    """A loss of a batch that is neither the mean nor the sum of those of its parts."""
    return F.mean((output @ F.permute(target, (1, 0))) ** 2)


Case = tuple[Callable[[int], nn.Module], Any, Any, dict[str, Any]]
CASES: dict[str, Case] = {  # network, loss, metrics, options of the optimizer
    "classes": (linear, nn.CrossEntropyLoss(), ["accuracy", "confusion_matrix"], {}),
    "weighted": (linear, nn.CrossEntropyLoss(), ["accuracy"], {}),
    "mean": (linear, squared, {"mae": "mae", "spread": summed}, {}),
    "sum": (linear, summed, ["mse"], {}),
    "several": (linear, (nn.MSELoss(), (summed, 0.5)), ["mae"], {}),
    "accumulated": (linear, nn.CrossEntropyLoss(), ["accuracy", "confusion_matrix"], {"accumulation_steps": 2}),
    "accumulated mean": (linear, squared, ["mae"], {"accumulation_steps": 3, "clip_grad_norm": 0.5}),
    "normed": (normed, nn.CrossEntropyLoss(), ["accuracy"], {}),
    "sharded": (linear, nn.CrossEntropyLoss(), ["accuracy", "confusion_matrix"], {}),
}


class Twice(nn.Module):
    """A network's output twice, as a tuple."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def forward(self, x: Any) -> Any:
        found = self.net(x)
        return found, found * 2.0


def trained(name: str, mesh: grt.Mesh) -> dict[str, Any]:
    """What is left of two epochs of case ``name``."""
    policy = "fsdp" if name == "sharded" else "all_reduce"
    make, loss, metrics, options = CASES[name]
    rng = np.random.default_rng(0)
    x, classes = rng.standard_normal((EXAMPLES, 6)).astype(np.float32), rng.integers(0, 4, EXAMPLES)
    classes[[2, 11]] = -100
    y: Any = classes if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((EXAMPLES, 4)).astype(np.float32)
    nn.manual_seed(0)
    net = make(4)
    net = Twice(net) if isinstance(loss, tuple) else net
    target = "cpu" if name in ("accumulated", "sharded") else "reference"  # which compiles nothing
    trainer = Trainer(net, loss, optim.Adam(lr=0.02, **options), None, metrics, target, mesh=mesh, policy=policy)
    data: Any = (x, y)
    if name == "weighted":
        w = rng.uniform(0.5, 2.0, EXAMPLES).astype(np.float32)
        classes[classes < 0] = 1
        data = [(x[i : i + BATCH], classes[i : i + BATCH], w[i : i + BATCH]) for i in range(0, EXAMPLES, BATCH)]
    trainer.fit(data, 2, None if name == "weighted" else BATCH, (x, y), progress=False)
    columns: Mapping[str, Any] = trainer.history.columns()
    kept = {key: np.asarray(values, float).tolist() for key, values in columns.items() if "second" not in key}
    state = {key: np.asarray(trainer.state.whole(key), float).tolist() for key in sorted(trainer.state)}
    return {"history": kept, "state": state, "uncut": {str(size): why for size, why in trainer.given_whole.items()}}


def refused(mesh: grt.Mesh) -> str:
    """What is said of a loss of which nothing says how those of the processes make that of all."""
    trainer = Trainer(linear(4), of_pairs, optim.SGD(lr=0.1), metrics=(), target="cpu", mesh=mesh)
    try:
        trainer.step(np.ones((6, 6), np.float32), np.ones((6, 4), np.float32))
    except ArgumentError as error:
        return str(error)
    return ""


def run(folder: Path, rank: int, size: int, names: list[str]) -> None:
    """The cases called ``names`` in this process."""
    if size > 1:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    mesh = grt.Mesh(dp=size)
    found: dict[str, Any] = {name: trained(name, mesh) for name in names}
    found["refused"] = refused(mesh) if size > 1 else ""
    if rank == 0:
        (folder / f"{size}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    calls = {size: functools.partial(run, Path(sys.argv[1]), size=size, names=sys.argv[2:]) for size in (1, 3)}
    sys.exit(max(forked(size, call) for size, call in calls.items()))
