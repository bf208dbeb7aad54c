"""Checkpoints of a process that is killed while it writes them: each that is there loads, and is whole."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED

from graphrt import nn, optim
from graphrt.train import ModelCheckpoint, Trainer

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(INTERPRETED, reason="files are written alike on every target"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that can fork"),
]
MOMENTS, LONGEST = 200, 0.1  # seconds, in which a few checkpoints are written
WIDTH = 64


def trainer() -> Trainer:
    """One whose weights all hold the number of its epochs, after a step."""
    net = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1))
    made = Trainer(net, nn.MSELoss(), optim.Adam(0.0), target="reference")
    made.step(np.zeros((1, WIDTH), np.float32), np.zeros((1, 1), np.float32))
    return made


def write(made: Trainer, kept: ModelCheckpoint) -> None:
    """Goes on from the latest checkpoint and writes others until it is killed, as ``fit`` does."""
    if (path := kept.latest()) is not None:
        made.load(path)
    while True:
        for name in made.net.state_dict():
            made.state.set(name, np.full_like(made.state[name], made.epoch + 1))
        row = {"loss": 1.0 / (made.epoch + 1), "lr": 0.0, "examples_per_second": 1.0, "seconds": 1.0}
        made.finish_epoch(row)
        kept.on_epoch_end(made, row)


def test_whatever_is_killed_leaves_checkpoints_that_load(tmp_path: Path) -> None:
    draw, made, reader = np.random.default_rng(0), trainer(), trainer()
    kept, cut, newest = ModelCheckpoint(tmp_path, monitor="loss"), 0, 0
    halves: set[Path] = set()
    for moment in draw.uniform(0.0, LONGEST, MOMENTS):
        child = os.fork()
        if not child:
            try:
                write(made, kept)
            finally:
                os._exit(1)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "the writer ended by itself"
        halves, before = {*tmp_path.glob(".*")}, halves
        assert len(halves) <= 1, "what an earlier one left is gone at the first save"
        cut += bool(halves - before)
        for path in tmp_path.glob("*.safetensors"):
            reader.load(path)
            newest = max(newest, reader.epoch)
            for name, array in reader.net.state_dict().items():
                assert (array == reader.epoch).all(), f"{name} in {path.name} is not of epoch {reader.epoch}"
            assert len(reader.history.loss) == reader.epoch
    kept.on_train_begin(reader)
    assert not [*tmp_path.glob(".*")]
    assert cut > MOMENTS // 10 and newest > 1, f"{cut} of the kills were in the middle of a checkpoint, of {newest} epochs"
