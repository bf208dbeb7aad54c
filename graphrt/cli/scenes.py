"""Networks that find or outline shapes in drawn scenes, by the recipes of train.tasks: what commands do with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import typer

from graphrt.cli.datasets import resized
from graphrt.cli.examples import examples
from graphrt.cli.options import show
from graphrt.errors import ArgumentError, InputError
from graphrt.train import tasks

if TYPE_CHECKING:
    from graphrt.data import Dataset
    from graphrt.train import SamplePictures, Trainer

DATA = "scenes"
NAMES = (DATA, "shapes")  # scenes are of shapes, so for a network that finds some both say the same
HELD = 200  # pictures that a network is judged by
LEAST = 0.2  # score from which on a detection is told of


def task_of(model: str, data: str | None) -> tasks.Task | None:
    """The task of a network called ``model`` if ``data`` is scenes, or is shapes or not said and there is such a task.

    Raises ArgumentError for a network without a task on scenes, and for one that only has that with other data.
    """
    from graphrt.models import MODELS

    if data == DATA:
        return tasks.get(model)
    if model in tasks.TASKS and data in (None, *NAMES):
        return tasks.TASKS[model]
    if model in tasks.TASKS and model not in MODELS:
        raise ArgumentError(f"{model} is trained on {DATA}, got --data {data}")
    return None


def prepared(model: str, task: tasks.Task, limit: int, settings: Mapping[str, Any]) -> tuple[Trainer, Dataset, Dataset]:
    """A trainer of the network called ``model``, of the Trainer's ``settings``, and its examples of training and validation."""
    from graphrt.data import SHAPES
    from graphrt.inspection.subject import prepare

    prepare(settings["target"])
    trainer = task.trainer(**settings)
    trainer.notes = {"task": model, "data": DATA, "classes": SHAPES}
    held = task.examples_of(task.held_out(trainer.seed, HELD))
    return trainer, task.training(trainer.seed, limit or task.examples), held


def drawing(task: tasks.Task, folder: Path, every: int) -> SamplePictures:
    """A callback that draws what is true and what was found in held-out pictures to ``folder`` each ``every`` epochs."""
    from graphrt.train import SamplePictures

    return SamplePictures(folder, lambda trainer: task.show(trainer, task.held_out(trainer.seed, 6)), every)


def loaded(path: Path, name: str, target: str) -> tuple[tasks.Task, Trainer]:
    """The task called ``name``, and a trainer of its network with the weights of the checkpoint at ``path``."""
    from graphrt import load_weights
    from graphrt.train import read_metadata

    task = tasks.get(name)
    trainer = task.trainer(read_metadata(path).get("seed", 0), target)
    load_weights(trainer.net, path)
    return task, trainer


def measured(task: tasks.Task, trainer: Trainer) -> dict[str, float]:
    """The figures of a network by pictures that it was not trained on, the one that counts first."""
    figures = task.figures(trainer, task.held_out(trainer.seed, HELD))
    return {task.figure: figures[task.figure], **figures}


def predict(task: tasks.Task, trainer: Trainer, files: Sequence[Path], out: Path | None, as_json: bool) -> None:
    """Prints what is found in pictures or arrays, and draws it to ``out``. Raises ArgumentError, InputError."""
    from graphrt.data import SHAPES
    from graphrt.train import pictures

    if task.kind in ("translation", "denoising"):
        raise ArgumentError("predict tells what a network finds in pictures; of one that makes pictures, training leaves some")
    given = list(examples(files, (3, task.size, task.size), 3))
    if out is not None and len(given) != 1:
        raise ArgumentError(f"--out is the picture of one example, and there are {len(given)}")
    rows = []
    for label, picture in given:
        if picture.shape[:1] != (3,):
            raise InputError(f"{label} is {list(picture.shape)}; the network takes pictures of three colours, [3, H, W]")
        x = picture[None]
        found = _found(task, trainer, x)
        if task.kind == "segmentation":
            shares = np.bincount(found.reshape(-1), minlength=len(SHAPES) + 1)[1:] / found.size
            told: dict[str, Any] = {name: round(float(share), 4) for name, share in zip(SHAPES, shares, strict=True)}
            rows.append((label, *(f"{name} {100 * share:.2f} %" for name, share in told.items())))
            drawn = pictures.grid([pictures.plain(x), pictures.painted(x, found)], scale=_scale(x))
        else:
            told = {"found": [_told(found, int(k), SHAPES) for k in np.flatnonzero(found["score"][0] >= LEAST)]}
            rows += [
                (label, f"{one['class']} {one['score']:.4f}", " ".join(f"{side:.1f}" for side in one["box"]))
                for one in told["found"]
            ] or [(label, f"nothing with a score of {LEAST} or more", "")]
            drawn = pictures.boxed(x, found, SHAPES, _scale(x), LEAST)[0]
        if as_json:
            typer.echo(json.dumps({"example": label, **told}))
        if out is not None:
            pictures.save_picture(drawn, out)
    if not as_json:
        show(rows)


def _told(found: Mapping[str, np.ndarray], k: int, names: Sequence[str]) -> dict[str, Any]:
    """Detection ``k`` of the first picture as JSON values; of a mask how many pixels it has."""
    one: dict[str, Any] = {"class": names[int(found["class"][0, k])], "score": round(float(found["score"][0, k]), 4)}
    one["box"] = [round(float(side), 2) for side in found["box"][0, k]]
    return {**one, "pixels": int(found["mask"][0, k].sum())} if "mask" in found else one


def _found(task: tasks.Task, trainer: Trainer, x: np.ndarray) -> Any:
    """The findings in pictures ``x`` [N, 3, H, W] in [0, 1] of any size, in their pixels: classes, or detections in slots."""
    height, width = x.shape[2:]
    found = task.predict(trainer, resized(x, (task.size, task.size)) - tasks.GROUND)
    rows, columns = (np.arange(n) * task.size // n for n in (height, width))
    if task.kind == "segmentation":
        return found[:, rows][:, :, columns]
    scale = np.array([width, height, width, height], np.float32) / task.size
    found = {**found, "box": found["box"] * scale}
    return {**found, "mask": found["mask"][:, :, rows][..., columns] >= 0.5} if task.masks else found


def _scale(x: np.ndarray) -> int:
    return max(1, 256 // max(x.shape[2:]))
