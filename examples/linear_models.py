"""Linear regression beside its closed form, the bias trick, a perceptron on points that a line parts, and "is this a 5?"."""

from __future__ import annotations

import numpy as np

import graphrt as grt
from graphrt import data, models, nn, optim
from graphrt import ops as F
from graphrt.data import Dataset
from graphrt.train import Trainer


def regression(seed: int) -> dict[str, float]:
    """The largest distance of the weights from those of the normal equations."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((200, 3)).astype(np.float32)
    y = (x @ [[2.0], [-1.0], [0.5]] + 3.0 + 0.1 * rng.standard_normal((200, 1))).astype(np.float32)
    net = models.logistic(3, 1)
    Trainer(net, nn.MSELoss(), optim.SGD(0.1)).fit(Dataset(x, y), 100, 200, progress=False)  # all examples at once
    solved = np.linalg.lstsq(np.hstack([x, np.ones((200, 1))]), y, rcond=None)[0].ravel()  # the bias trick
    found = np.append(*(p.array.ravel() for p in net.parameters()))
    return {"distance from the closed form": float(np.abs(found - solved).max())}


def bias_trick(seed: int) -> dict[str, float]:
    """The distance of a layer from one without a bias that reads one number more, which is always 1."""
    layer, g = nn.Linear(3, 2), grt.Graph()
    x = g.input("x", (5, 3))
    weight, bias = (p.value(g) for p in layer.parameters())
    wider = F.concat([weight, F.unsqueeze(bias, 1)], 1)
    apart = layer(x) - F.concat([x, F.ones(g, (5, 1))], 1) @ wider.transpose(0, 1)
    found = grt.compile(F.amax(F.abs(apart)))(x=np.random.default_rng(seed).standard_normal((5, 3)).astype(np.float32))
    return {"the bias trick is away from a bias": float(found)}


def perceptron(seed: int) -> dict[str, float]:
    """Rosenblatt's rule, the gradient of max(0, -y * score), until a line parts the classes."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    side = x @ [0.6, -0.8] + 0.1
    x, y = x[np.abs(side) > 0.05], np.sign(side[np.abs(side) > 0.05])[:, None].astype(np.float32)
    net = models.logistic(2, 1)
    trainer = Trainer(net, lambda score, y: F.mean(F.relu(0.01 - y * score)), optim.SGD(1.0))
    trainer.fit(Dataset(x, y), 60, 16, progress=False)
    return {"points on the wrong side": float((np.sign(trainer.predict(x)) != y).sum())}


def is_it_a_five(seed: int) -> dict[str, float]:
    """The share of scikit-learn's digits of which one linear layer and a sigmoid say rightly whether they are a 5."""
    train, test = (Dataset(part.x, (part.y == 5)[:, None].astype(np.float32)) for part in data.load_digits(seed))
    trainer = Trainer(models.logistic(64, 1), nn.BCEWithLogitsLoss(), optim.Adam(0.02), seed=seed)
    trainer.fit(train, 15, 64, progress=False)
    return {"right about 5": float(((trainer.predict(test.x) > 0) == (test.y > 0.5)).mean())}


def main(seed: int = 0) -> dict[str, float]:
    nn.manual_seed(seed)
    return {**regression(seed), **bias_trick(seed), **perceptron(seed), **is_it_a_five(seed)}


if __name__ == "__main__":
    print(main())
