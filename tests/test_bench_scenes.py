"""bench.scenes and bench.images at a small size; the detectors in torch have the same loss as ours of the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED

from bench import images, scenes
from bench.image_peers import WORK
from bench.scene_peers import PEERS
from bench.scenes import ours, theirs
from graphrt import nn

pytestmark = [pytest.mark.proof, pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted")]


@pytest.mark.parametrize("name", [*PEERS, *WORK])
def test_a_bench_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures, one turn: a row for each candidate, with a time."""
    bench = scenes if name in PEERS else images
    rows: list[dict[str, object]] = []
    monkeypatch.setattr(bench, "report", lambda title, table, save_as: rows.extend(table))
    bench.main([name], rounds=1, calls=1, batch=2)
    rivals = ["torch eager"] if name in PEERS else ["torch eager", "torch channels_last"]
    assert [row["candidate"] for row in rows] == ["graphrt", *rivals]
    assert all(row["work"] == name and row["batch"] == 2 and row["ms"] > 0 and row["ratio"] > 0 for row in rows)


@pytest.mark.parametrize("name", WORK)
def test_a_peer_is_compiled_by_torch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each network of a step goes through torch.compile, forward passes alike; no compiler is waited for."""
    made = []

    def compiled(function: Any, *args: Any, **options: Any) -> Any:
        made.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    step = WORK[name].steps(["compile"], 2)["torch compile"]
    assert np.isfinite(step())
    assert len(made) == (2 if name == "pix2pix" else 1)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_the_same_loss(name: str) -> None:
    """That of a detector of regions is of random samples, so it is means that are compared."""
    trainer, batch = ours(name, 8)
    for module in trainer.net.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    peer, x, given = theirs(name, trainer.net, batch)
    for module in peer.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    random = name.endswith("rcnn")
    found = [trainer.step(batch.x, batch.y, lr=0.0)["loss"] for _ in range(40 if random else 1)]
    with torch.no_grad():
        expected = [peer.loss(x, given).item() for _ in range(40 if random else 1)]
    if not random:
        assert found == pytest.approx(expected, rel=1e-4)
        return
    error = np.sqrt((np.var(found) + np.var(expected)) / 40)
    assert abs(np.mean(found) - np.mean(expected)) < 4 * error + 1e-4
