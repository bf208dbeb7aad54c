"""Tasks on drawn pictures: a network by name, with its data, its loss, how it is trained, and how its results are judged.

    task = tasks.get("yolo")
    trainer = task.train(seed=0)
    task.figures(trainer, task.held_out(seed=0))  # {"map_50": ...}

Each learns in a minute or two on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphrt import data, models, nn, optim
from graphrt.compiler import compile as compile_graph
from graphrt.data import SHAPES, Dataset
from graphrt.errors import ArgumentError
from graphrt.models.anchors import Detector
from graphrt.models.fpn import FPN, Pyramid, SmallMaps
from graphrt.train.average_precision import MeanAveragePrecision
from graphrt.train.pictures import boxed, grid, painted, plain
from graphrt.train.trainer import Trainer

__all__ = ["TASKS", "Task", "get"]

GROUND = 0.3  # about the mean of the pixels, which networks see without it


@dataclass(frozen=True)
class Task:
    """A network, ``build()``, and how it is trained on ``examples`` pictures of ``size``, whose ``kind`` decides the targets.

    ``figure`` names the one of its figures that is to reach ``goal``. ``loss()`` makes the loss, and ``metrics`` are those of
    Trainer, or a method of the loss that gives them. ``batch_size``, ``epochs`` and ``lr`` of Adam, up and down in one cycle,
    are the recipe.
    """

    build: Callable[[], nn.Module]
    kind: str  # "segmentation", "detection", or "proposals" of a detector in two stages
    loss: Callable[[], Any]
    size: int
    figure: str
    goal: float
    examples: int = 2000
    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.003

    def pictures(self, count: int, seed: int) -> Dataset:
        """``count`` scenes that ``seed`` draws, with the targets of this kind of network."""
        drawn = data.scenes(count, self.size, seed=seed)
        names = ("present", "class", "box")
        return Dataset(drawn.x - GROUND, drawn.y["label"] if self.kind == "segmentation" else {n: drawn.y[n] for n in names})

    def held_out(self, seed: int, count: int = 200) -> Dataset:
        """Pictures that no training with ``seed`` has."""
        return self.pictures(count, 2 * seed + 1)

    def trainer(self, seed: int = 0, target: str = "auto") -> Trainer:
        """A trainer of a new network, whose weights ``seed`` draws."""
        nn.init.manual_seed(seed)
        loss = self.loss()
        metrics = loss.metrics() if hasattr(loss, "metrics") else ["accuracy", "mean_iou"]
        return Trainer(self.build(), loss, optim.Adam(self.lr), optim.OneCycle(), metrics, target, seed)

    def train(
        self, seed: int = 0, target: str = "auto", share: float = 1.0, progress: bool = True, callbacks: Iterable[Any] = ()
    ) -> Trainer:
        """Trains a new network on pictures that ``seed`` draws, a ``share`` of them for as many epochs. Returns its trainer."""
        trainer = self.trainer(seed, target)
        examples = self.pictures(max(int(self.examples * share), self.batch_size), 2 * seed)
        if self.kind == "proposals":  # the network chooses its samples by the truths
            examples = Dataset({"input": examples.x, **examples.y}, examples.y["class"])
        trainer.fit(examples, self.epochs, self.batch_size, callbacks=callbacks, progress=progress, drop_last=True)
        return trainer

    def predict(self, trainer: Trainer, x: np.ndarray) -> Any:
        """The findings of the network in pictures ``x`` [N, 3, size, size]: classes [N, size, size], or detections in slots."""
        if self.kind == "segmentation":
            return np.argmax(trainer.predict(x), 1)
        trainer.sync()
        program = compile_graph(Detector(trainer.net, score_threshold=0.02), (x[:1].repeat(len(x), 0),), target=trainer.target)
        return program(x)

    def figures(self, trainer: Trainer, held_out: Dataset) -> dict[str, float]:
        """How good the network is on pictures that it was not trained on."""
        if self.kind == "segmentation":
            found = trainer.evaluate(held_out)
            return {"mean_iou": float(found["mean_iou"]), "pixel_accuracy": float(found["accuracy"])}
        precision = MeanAveragePrecision(len(SHAPES))
        precision.add(self.predict(trainer, held_out.x), held_out.y)
        return {name: value for name, value in precision.result().items() if value >= 0}

    def show(self, trainer: Trainer, held_out: Dataset, count: int = 6) -> np.ndarray:
        """A picture uint8 [H, W, 3] of the first ``count`` of ``held_out``: what is true, and below it what was found."""
        some = held_out.take(count)
        images = np.asarray(some.x) + GROUND
        found = self.predict(trainer, some.x)
        if self.kind == "segmentation":
            return grid([plain(images), painted(images, some.y), painted(images, found)], scale=3)
        return grid([boxed(images, some.y, SHAPES), boxed(images, found, SHAPES)])


def _yolo() -> nn.Module:
    layers = ((16, 3, 1), None, (32, 3, 1), None, (64, 3, 1), None, (96, 3, 1), (64, 1, 1))
    return models.YOLO(3, 7, 2, 56, layers, 256, 0.2, batch_norm=True)


def _ssd() -> nn.Module:
    ratios, scales = ((2,), (2,)), (0.2, 0.38, 0.6)
    return models.SSD(SmallMaps((16, 32, 64, 96), 2), (64, 96), 3, ratios, scales)


def _retinanet() -> nn.Module:
    backbone = Pyramid(SmallMaps((16, 32, 64), 2), FPN((32, 64), 48))
    return models.RetinaNet(backbone, 48, 3, [[10.0, 14.0], [20.0, 28.0]], depth=1)


def _faster_rcnn() -> nn.Module:
    backbone = Pyramid(SmallMaps((16, 32, 64), 2), FPN((32, 64), 48))
    sizes = [[10.0, 14.0], [20.0, 28.0]]
    return models.FasterRCNN(backbone, 48, 3, sizes, (1.0,), (64, 16), (64, 16), (1, 64))


def _segmentation(build: Callable[[], nn.Module], **recipe: Any) -> Task:
    return Task(build, "segmentation", nn.CrossEntropyLoss, 48, "mean_iou", 0.90, **recipe)


_SMALL: dict[str, Any] = {"head": 128, "head_kernel": 3, "batch_norm": True, "dropout": 0.0}
TASKS: dict[str, Task] = {
    "fcn": _segmentation(lambda: models.FCN(4, 2, ((24,), (32, 32), (48, 48), (64,)), **_SMALL), lr=0.005),
    "unet": _segmentation(lambda: models.UNet(3, 4, 12, 3, padded=True, batch_norm=True), examples=1000, epochs=8, lr=0.008),
    "yolo": Task(_yolo, "detection", lambda: models.YOLOLoss(2, 56), 56, "map_50", 0.60, 4000, 10, lr=0.002),
    "ssd": Task(_ssd, "detection", models.SSDLoss, 64, "map_50", 0.70, epochs=6),
    "faster_rcnn": Task(_faster_rcnn, "proposals", models.SumOfLosses, 64, "map_50", 0.75, epochs=6),
    "retinanet": Task(_retinanet, "detection", models.RetinaNetLoss, 64, "map_50", 0.70),
}


def get(name: str) -> Task:
    """The task called ``name``. Raises ArgumentError with the names there are."""
    if name not in TASKS:
        raise ArgumentError(f"no task {name!r}; there is {', '.join(TASKS)}")
    return TASKS[name]
