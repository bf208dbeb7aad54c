"""LeNet-5 on drawn digits, trained by several processes that share each batch.

python examples/distributed.py                                               one process
torchrun --nproc-per-node 2 examples/distributed.py                          two, with the same losses
torchrun --nproc-per-node 2 examples/distributed.py fsdp                     each keeps half of everything
"""

from __future__ import annotations

import os
import sys

import numpy as np

import graphrt as grt
from graphrt import models, nn, optim


def main(policy: str = "all_reduce") -> list[float]:
    """Trains for three epochs, and prints the loss of each and what a process keeps. Returns the losses."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 512)
    x = (rng.standard_normal((10, 1, 32, 32))[y] + 2.0 * rng.standard_normal((512, 1, 32, 32))).astype(np.float32)
    nn.manual_seed(0)
    mesh = grt.Mesh(dp=int(os.environ.get("WORLD_SIZE", 1)))
    net, optimizer = models.get("lenet5").build(), optim.AdamW(lr=2e-3)
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optimizer, target="cpu", mesh=mesh, policy=policy)
    history = trainer.fit((x, y), epochs=3, batch_size=64, progress=False)
    if trainer.first:
        kept = sum(trainer.state[name].nbytes for name in trainer.state)
        losses = ", ".join(f"{loss:.4f}" for loss in history.loss)
        print(f"{mesh.size} processes, {policy}: losses {losses}; each keeps {kept:,} bytes")
    return history.loss


if __name__ == "__main__":
    main(*sys.argv[1:])
