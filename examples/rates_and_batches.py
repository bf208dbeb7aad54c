"""Learning rates from too low to too high, small and large batches, and dropout and decay against overfitting, on digits.

Returns the history of each run by study and name; draws their curves, a picture a study, into a folder if one is named.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from graphrt import Trainer, data, nn, optim, visualize
from graphrt.train import History


def run(
    rate: float = 0.1, batch: int = 32, epochs: int = 10, dropout: float = 0.0, decay: float = 0.0, limit: int = 0
) -> History:
    train, test = data.load_digits()
    nn.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 10))
    trainer = Trainer(net, nn.CrossEntropyLoss(), optim.SGD(rate, weight_decay=decay), check_nan=False)
    return trainer.fit(train.take(limit) if limit else train, epochs, batch, test, progress=False)


STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "rates": {f"{rate:g}": {"rate": rate} for rate in (0.001, 0.1, 20.0)},
    "batches": {str(size): {"batch": size} for size in (8, 64, 512)},
    "regularisation": {
        "none": {"limit": 100, "epochs": 40},
        "dropout 0.5": {"limit": 100, "epochs": 40, "dropout": 0.5},
        "decay 0.03": {"limit": 100, "epochs": 40, "decay": 0.03},
    },
}


def main(folder: str = "") -> dict[str, dict[str, History]]:
    found = {study: {name: run(**how) for name, how in runs.items()} for study, runs in STUDIES.items()}
    if folder:
        for study, runs in found.items():
            visualize.curves(runs, Path(folder) / f"{study}.png")
    return found


if __name__ == "__main__":
    for study, runs in main(*sys.argv[1:2]).items():
        for name, history in runs.items():
            print(f"{study:<15} {name:<12} loss {history.loss[-1]:.4f}  test accuracy {history.val_accuracy[-1]:.4f}")
