"""Two hidden layers part rings, an exclusive or, and two spirals in the plane."""

from __future__ import annotations

from graphrt import data, models, nn, optim
from graphrt.data import Dataset
from graphrt.train import Trainer


def right(train: Dataset, test: Dataset, hidden: tuple[int, ...], epochs: int) -> float:
    """The share of ``test`` whose class is found."""
    trainer = Trainer(models.playground(2, hidden, 2), nn.CrossEntropyLoss(), optim.Adam(0.02), optim.Cosine())
    trainer.fit(train, epochs, 50, progress=False)
    return float((trainer.predict(test.x).argmax(1) == test.y).mean())


def main(seed: int = 0) -> dict[str, float]:
    nn.manual_seed(seed)
    sets = {"rings": (data.rings, (4, 2), 40), "xor": (data.xor, (4, 2), 60), "spirals": (data.spirals, (32, 32), 40)}
    return {
        name: right(draw(1000, seed=2 * seed), draw(500, seed=2 * seed + 1), hidden, epochs)
        for name, (draw, hidden, epochs) in sets.items()
    }


if __name__ == "__main__":
    print(main())
