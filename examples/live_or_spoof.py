"""Alive or a picture on a screen? A trunk that was trained before, frozen, and a new head with dropout and augmentation.

A live scene is a drawn shape; on a screen its lines show. What the trunk has learnt before is to tell lines that lie from lines
that stand and from none, on scenes and lines of another kind.
"""

from __future__ import annotations

import numpy as np

from graphrt import data, models, nn, optim
from graphrt.data import Dataset
from graphrt.nn import augment
from graphrt.train import Trainer


def before(count: int, seed: int) -> Dataset:
    """Scenes without lines (0), with lying (1) and with standing ones (2), three pixels apart: x [N, 3, 32, 32], y [N]."""
    x, y = data.shapes(count, size=32, seed=seed).x.copy(), np.arange(count) % 3
    x[y == 1, :, ::3] *= 0.5
    x[y == 2, :, :, ::3] *= 0.5
    return Dataset(x, y)


def scenes(count: int, seed: int) -> Dataset:
    """Live scenes (1), and those of which every other line is darker (0): x [N, 3, 32, 32], y [N, 1]."""
    x, y = data.shapes(count, size=32, seed=seed).x.copy(), np.arange(count)[:, None] % 2
    x[y[:, 0] == 0, :, ::2] *= 0.7
    return Dataset(x, y.astype(np.float32))


def main(count: int = 400, epochs: int = 5, seed: int = 0) -> dict[str, float]:
    nn.manual_seed(seed)
    trunk = models.conv_trunk()
    first = Trainer(models.spoof_classifier(trunk, num_classes=3, dropout=0.2), nn.CrossEntropyLoss(), optim.Adam(5e-3))
    first.fit(before(count, 3 * seed), epochs, 50, progress=False)

    net = models.spoof_classifier(trunk)
    held = {name: p.array.copy() for name, p in net.trunk.named_parameters()}
    train, test = scenes(count, 3 * seed + 1), scenes(200, 3 * seed + 2)
    changes = [augment.RandomHorizontalFlip(), augment.ColorJitter(0.2, 0.2), augment.GaussianNoise(0.0, 0.02)]
    trainer = Trainer(net, nn.BCEWithLogitsLoss(), optim.Adam(1e-2), augment=changes, seed=seed)

    def right() -> float:
        return float(((trainer.predict(test.x) > 0) == (test.y > 0.5)).mean())

    net.trunk.requires_grad_(False).eval()
    trainer.fit(train, epochs, 50, progress=False)
    found = {"frozen trunk": right()}
    found["what the trunk moved"] = max(float(np.abs(p.array - held[name]).max()) for name, p in net.trunk.named_parameters())
    net.trunk.requires_grad_().train()  # and all of it, the head with the moments that it has
    trainer.fit(train, 2 * epochs, 50, progress=False)
    return {**found, "tuned": right()}


if __name__ == "__main__":
    print(main())
