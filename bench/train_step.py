"""How long is a training step? graphrt beside torch eager (NCHW, channels_last) and torch.compile, same machine, same run.

python -m bench.train_step [--rounds 40] [--save] [--no-compile]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn as torch_nn

from bench.measure import interleave, report
from graphrt import Trainer, models, nn, optim

BATCH = 64


def _mlp() -> torch_nn.Module:
    return torch_nn.Sequential(torch_nn.Flatten(), torch_nn.Linear(784, 128), torch_nn.ReLU(), torch_nn.Linear(128, 10))


def _lenet() -> torch_nn.Module:
    layer = torch_nn
    return layer.Sequential(
        *(layer.Conv2d(1, 6, 5), layer.ReLU(), layer.MaxPool2d(2)),
        *(layer.Conv2d(6, 16, 5), layer.ReLU(), layer.MaxPool2d(2), layer.Flatten()),
        *(layer.Linear(400, 120), layer.ReLU(), layer.Linear(120, 84), layer.ReLU(), layer.Linear(84, 10)),
    )


WORK: dict[str, tuple[Callable[[], Any], Callable[[], torch_nn.Module], tuple[int, ...]]] = {
    "MLP 784-128-10": (models.mlp, _mlp, (BATCH, 784)),
    "LeNet-5": (models.lenet5, _lenet, (BATCH, 1, 32, 32)),
}


def torch_step(model: torch_nn.Module, x: np.ndarray, y: np.ndarray, mode: str) -> Callable[[], Any]:
    """One step of torch: forward, backward, SGD with momentum; the loss is read, as graphrt's is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, data, target = model.to(device), torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    if mode == "channels_last":
        model, data = model.to(memory_format=torch.channels_last), data.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    run = torch.compile(model) if mode == "compile" else model

    def step() -> float:
        optimizer.zero_grad()
        loss = torch_nn.functional.cross_entropy(run(data), target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def graphrt_step(net: Any, x: np.ndarray, y: np.ndarray) -> tuple[Callable[[], Any], Trainer]:
    """One step of graphrt through the Trainer."""
    trainer = Trainer(net, loss=nn.CrossEntropyLoss(), optimizer=optim.SGD(lr=0.05, momentum=0.9))
    return lambda: trainer.step(x, y), trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="turns of each candidate")
    parser.add_argument("--save", action="store_true", help="append the rows to bench/results/train_step.jsonl")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    for name, (ours, theirs, shape) in WORK.items():
        x, y = rng.standard_normal(shape).astype(np.float32), rng.integers(0, 10, BATCH)
        modes = ["eager"] + (["channels_last"] if len(shape) == 4 else []) + ([] if arguments.no_compile else ["compile"])
        step, _ = graphrt_step(ours(), x, y)
        candidates = {"graphrt": step, **{f"torch {m}": torch_step(theirs(), x, y, m) for m in modes}}
        timings = interleave(candidates, arguments.rounds)
        base = timings["graphrt"].median
        for candidate, t in timings.items():
            ratio = t.median / base
            rows.append(
                {
                    "work": name,
                    "batch": BATCH,
                    "candidate": candidate,
                    "ms": t.median,
                    "p10": t.low,
                    "p90": t.high,
                    "ratio": ratio,
                }
            )
    report("training step, float32 (ratio: candidate / graphrt)", rows, "train_step" if arguments.save else None)


if __name__ == "__main__":
    main()
