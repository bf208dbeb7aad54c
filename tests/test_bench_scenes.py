"""The detectors in torch that bench.scenes compares with: of the same weights they have the same loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import INTERPRETED

from bench.scene_peers import PEERS
from bench.scenes import ours, theirs
from graphrt import nn

pytestmark = [pytest.mark.proof, pytest.mark.skipif(INTERPRETED, reason="whole networks take too long interpreted")]


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
