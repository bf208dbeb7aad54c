"""Two networks against one another, in one program: a DCGAN on digits. python examples/adversarial.py 12 takes a minute.

Left in digits.png are pictures that the generator drew.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from graphrt import data, models, nn, optim
from graphrt.data import Dataset
from graphrt.train import Trainer


def main(epochs: int = 1, count: int = 1000, width: int = 16, seed: int = 0) -> dict[str, object]:
    nn.manual_seed(seed)
    train, _ = data.load_mnist(seed)
    x = train.x[:count]
    x = 2 * (x - x.min()) / (x.max() - x.min()) - 1
    optimizers = {"discriminator": optim.Adam(2e-4, (0.5, 0.999)), "generator": optim.Adam(1e-3, (0.5, 0.999))}
    trainer = Trainer(models.dcgan(width=width), step=models.dcgan_step, optimizer=optimizers, seed=seed)
    history = trainer.fit(Dataset(x, np.zeros(len(x), np.int64)), epochs, 50, progress=False)
    codes = np.random.default_rng(seed).standard_normal((64, 64)).astype(np.float32)
    return {"loss": history.loss, "generator_loss": history.others["generator_loss"], "drawn": trainer.predict(codes)}


def save(drawn: np.ndarray, path: Path) -> None:
    """Writes pictures [64, 1, 32, 32] as eight rows of eight."""
    import PIL.Image

    sheet = drawn.reshape(8, 8, 32, 32).transpose(0, 2, 1, 3).reshape(256, 256)
    PIL.Image.fromarray(((sheet + 1) * 127.5).astype(np.uint8)).save(path)


if __name__ == "__main__":
    found = main(int(sys.argv[1]) if len(sys.argv) > 1 else 1, 4000 if len(sys.argv) > 1 else 1000)
    save(found["drawn"], Path("digits.png"))  # type: ignore[arg-type]
    print(found["loss"])
