"""Trains LeNet-5 through ``Trainer`` on a mesh, under the policies, with checkpoints; what rank 0 has as JSON.

torchrun --nproc-per-node 2 tests/distributed_training.py FOLDER kill | endless

Without torchrun it forks one process, then two.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
from forking import forked

import graphrt as grt
from graphrt import models, nn, optim
from graphrt.op import Kind
from graphrt.train import Callback, ModelCheckpoint, Trainer

EPOCHS, BATCH = 2, 16


def processes() -> int:
    """How many this is one of."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def examples(count: int = 41) -> tuple[np.ndarray, np.ndarray]:
    """Pictures, of which batches of 16 leave a rest, unless they are 48, and labels of which two do not count."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, count)
    y[[3, 20]] = -100
    return rng.standard_normal((count, 1, 32, 32)).astype(np.float32), y


def trainer_of(policy: str) -> Trainer:
    """A trainer of LeNet-5 on a mesh of all processes."""
    nn.manual_seed(0)
    net, optimizer = models.get("lenet5").build(), optim.AdamW(lr=2e-3, clip_grad_norm=1.0)
    measured, mesh = ["accuracy", "confusion_matrix"], grt.Mesh(**{"tp" if policy == "tensor" else "dp": processes()})
    target = "reference" if policy == "zero2" else "cpu"  # on which the command line trains with it, in a proof
    return Trainer(net, nn.CrossEntropyLoss(), optimizer, None, measured, target, mesh=mesh, policy=policy)


def added_up(steps: int) -> dict[str, object]:
    """Trains a small network whose updates are of 32 examples, in so many ``steps``, of gradients that are added up."""
    nn.manual_seed(0)
    net, optimizer = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), optim.Adam(lr=1e-3, accumulation_steps=steps)
    trainer = Trainer(net, nn.CrossEntropyLoss(), optimizer, None, ["confusion_matrix"], "cpu", mesh=grt.Mesh(dp=processes()))
    trainer.fit(examples(), 2, 32 // steps, progress=False, drop_last=True)
    programs = {key[0]: program for key, program in trainer._programs.items()}
    exchanged = {kind: [n.name for n in p.graph.nodes if n.op.kind is Kind.COLLECTIVE] for kind, p in programs.items()}
    state = {name: float(np.abs(trainer.state.whole(name)).sum()) for name in sorted(trainer.state)}
    matrix = trainer.history.columns()["confusion_matrix"][-1]
    return {"loss": trainer.history.loss, "state": state, "exchanged": exchanged, "counted": int(np.sum(matrix))}


def endless(folder: Path) -> None:
    """Trains until Ctrl-C, and says when it began and where each process stopped."""
    nn.manual_seed(0)
    net, optimizer = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)), optim.Adam(lr=1e-3)
    trainer = Trainer(net, nn.CrossEntropyLoss(), optimizer, target="cpu", mesh=grt.Mesh(dp=processes()), policy="fsdp")
    try:
        trainer.fit(examples(), 10**6, 16, callbacks=[Say(), ModelCheckpoint(folder / "endless", None)], progress=False)
    except KeyboardInterrupt:
        print(f"stopped at {trainer.steps} with {float(np.abs(net.state_dict()['1.weight']).sum())!r}", flush=True)
        raise


class Say(Callback):
    """Says that the training goes on."""

    def on_step_end(self, trainer: Trainer, row: object) -> None:
        if trainer.steps == 3 and trainer.first:
            print("going", flush=True)


class Kill(Callback):
    """Ends the last process in the second epoch, unless torchrun has started it again."""

    def on_step_end(self, trainer: Trainer, row: object) -> None:
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if trainer.steps == 4 and not again and trainer.processes is not None and trainer.processes.rank == processes() - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, fault: str = "") -> None:
    """Trains with each policy; alone, where nothing is shared, with two, and with one of them where there is a fault.

    The first meets batches that leave a rest, the others even ones.
    """
    if fault == "endless":
        endless(folder)
    folder = folder / str(processes())
    folder.mkdir(exist_ok=True)
    found = {}
    for policy in (
        ["all_reduce"] if fault else ["all_reduce", "zero1", "zero2", "fsdp", "tensor"][: 2 if processes() == 1 else None]
    ):
        trainer, data = trainer_of(policy), examples(41 if policy == "all_reduce" else 48)
        keep = ModelCheckpoint(folder / policy)
        callbacks = [keep, *([Kill()] if fault == "kill" else [])]
        trainer.fit(data, EPOCHS, BATCH, data, callbacks, progress=False, resume=bool(fault))
        if policy in ("all_reduce", "fsdp", "tensor"):  # of which each lays parameters out in its own way
            pictures = examples()[0][:4]
            predicted = trainer.predict(pictures)
            program = trainer.program("predict", pictures)
            program.save(folder / f"{policy}.grt")
            served = grt.load(folder / f"{policy}.grt")({"x": pictures})["out"]
            assert np.array_equal(served, predicted) and served.any()
        state = {name: trainer.state.whole(name) for name in trainer.state}
        if trainer.first:
            found[policy] = {
                "loss": trainer.history.loss,
                "val_loss": trainer.history.val_loss,
                "accuracy": trainer.history.val_accuracy,
                "steps": trainer.steps,
                "kept": sum(trainer.state[name].nbytes for name in trainer.state),
                "norms": {name: float(np.abs(a.astype(np.float64)).sum()) for name, a in state.items()},
            }
    if not fault:
        found |= {f"in {steps}": added_up(steps) for steps in (1, 2)}
    if trainer.first:
        (folder / f"{fault or 'found'}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    where, options = Path(sys.argv[1]), sys.argv[2:]
    if "RANK" not in os.environ:
        sys.exit(max(forked(size, lambda rank: main(where, *options)) for size in (1, 2)))
    main(where, *options)
