"""Centre and radius of a circle, by a network with a quadratic loss: trained to less than a pixel."""

from __future__ import annotations

import numpy as np

from graphrt import data, models, nn, optim
from graphrt.train import Trainer


def main(count: int = 1500, epochs: int = 8, seed: int = 0) -> dict[str, float]:
    nn.manual_seed(seed)
    train, test = data.circles(count, seed=2 * seed), data.circles(300, seed=2 * seed + 1)
    trainer = Trainer(models.circle_regressor(), nn.MSELoss(), optim.Adam(2e-3), optim.Cosine(), seed=seed)
    trainer.fit(train, epochs, 50, progress=False)
    away = np.abs(trainer.predict(test.x) - test.y).mean(0)
    return dict(zip(("column", "row", "radius"), map(float, away), strict=True))


if __name__ == "__main__":
    print(main())
