"""Networks that find and outline drawn shapes, trained from nothing: segmentation and detection, held-out figures, pictures.

``python examples/scenes.py yolo ssd --seeds 3 --out runs/scenes`` trains those; without names it is U-Net.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from graphrt.train import pictures, tasks


def main(
    names: Sequence[str] = ("unet",),
    seeds: int = 3,
    share: float = 1.0,
    target: str = "auto",
    out: str | None = None,
    progress: bool = False,
) -> dict[str, list[float]]:
    """The figure of each task for each seed; ``share`` of the examples are trained on, ``out`` is a folder for pictures."""
    found: dict[str, list[float]] = {}
    for name in names:
        task = tasks.get(name)
        found[name] = []
        for seed in range(seeds):
            trainer = task.train(seed, target, share, progress)
            held = task.held_out(seed)
            figures = task.figures(trainer, held)
            found[name].append(figures[task.figure])
            print(f"{name}, seed {seed}:", ", ".join(f"{what} {value:.3f}" for what, value in figures.items()), flush=True)
            if out is not None:
                pictures.save_picture(task.show(trainer, held), Path(out) / f"{name}_{seed}.png")
        print(f"{name}: {task.figure} {np.mean(found[name]):.3f}, the mean of {seeds}; the goal is {task.goal:.2f}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["unet"], help=", ".join(tasks.TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the examples")
    parser.add_argument("--target", default="auto")
    parser.add_argument("--out", help="a folder for pictures")
    given = parser.parse_args()
    main(given.names, given.seeds, given.share, given.target, given.out, progress=True)
