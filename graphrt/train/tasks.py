"""Tasks on drawn pictures: a network by name, with its data, its loss, how it is trained, and how its results are judged.

    task = tasks.get("yolo")
    trainer = task.train(seed=0)
    task.figures(trainer, task.held_out(seed=0))  # {"map_50": ...}

Each learns in a minute or two on two cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from graphrt import data, models, nn, optim
from graphrt.data import SHAPES, Dataset
from graphrt.errors import ArgumentError, unknown
from graphrt.ir import Value
from graphrt.models.anchors import Detector
from graphrt.models.fpn import FPN, Pyramid, SmallMaps
from graphrt.train.average_precision import MeanAveragePrecision
from graphrt.train.pictures import boxed, grid, painted, plain
from graphrt.train.trainer import Trainer

__all__ = ["TASKS", "Task", "get"]

SURE = 0.5  # score from which on a detection is an answer
GROUND = 0.3  # about the mean of the pixels, which networks see without it
_FINDERS: WeakKeyDictionary[Trainer, nn.ByShape] = WeakKeyDictionary()  # of detectors: a program for each number of pictures


@dataclass(frozen=True)
class Task:
    """A network, ``build()``, and how it is trained on ``examples`` pictures of ``size``, whose ``kind`` decides the targets.

    ``figure`` names the one of its figures that is to reach ``goal``. ``loss()`` makes the loss, or a step function, and
    ``metrics`` are those of Trainer, or a method of the loss that gives them. ``batch_size``, ``epochs`` and ``lr`` of Adam, up
    and down in one cycle, are the recipe. A detector of "regions" takes the truths in training, and gives its losses itself;
    ``given`` says what else it takes: "mask"s of the truths, or "proposals" in so many ``slots``, in training and when it is
    used.
    """

    build: Callable[[], nn.Module]
    kind: str  # "segmentation", "detection" by one network, "regions", "translation", or "denoising"
    loss: Callable[[], Any]
    size: int
    figure: str
    goal: float
    examples: int = 2000
    epochs: int = 10
    batch_size: int = 32
    lr: float = 0.003
    given: tuple[str, ...] = ()
    slots: int = 16

    def pictures(self, count: int, seed: int) -> Dataset:
        """``count`` scenes that ``seed`` draws, with the targets of this kind of network."""
        drawn = data.scenes(count, self.size, seed=seed)
        if self.kind == "segmentation":
            return Dataset(drawn.x - GROUND, drawn.y["label"])
        names = ("present", "class", "box", *(["mask"] if self.masks else []))
        return Dataset(drawn.x - GROUND, {n: drawn.y[n] for n in names})

    @property
    def masks(self) -> bool:
        """Whether it is a detector that finds masks."""
        return "mask" in self.given

    def taken(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The inputs that a detector takes of pictures ``x``, by name."""
        proposals = {"proposals": data.selective_search(x + GROUND, self.slots)} if "proposals" in self.given else {}
        return {"input": x, **proposals}

    def held_out(self, seed: int, count: int = 200) -> Dataset:
        """Pictures that no training with ``seed`` has."""
        return self.pictures(count, 2 * seed + 1)

    def trainer(self, seed: int = 0, target: str = "auto", **settings: Any) -> Trainer:
        """A trainer of a new network, whose weights ``seed`` draws; ``settings`` of Trainer other than the recipe's."""
        nn.init.manual_seed(seed)
        loss = self.loss()
        metrics = loss.metrics() if hasattr(loss, "metrics") else ["accuracy", "mean_iou"]
        recipe = {"optimizer": optim.Adam(self.lr), "schedule": optim.OneCycle(), **settings}
        return Trainer(self.build(), loss, metrics=metrics, target=target, seed=seed, **recipe)

    def train(
        self, seed: int = 0, target: str = "auto", share: float = 1.0, progress: bool = True, callbacks: Iterable[Any] = ()
    ) -> Trainer:
        """Trains a new network on pictures that ``seed`` draws, a ``share`` of them for as many epochs. Returns its trainer."""
        trainer = self.trainer(seed, target)
        examples = self.training(seed, max(int(self.examples * share), self.batch_size))
        trainer.fit(examples, self.epochs, self.batch_size, callbacks=callbacks, progress=progress, drop_last=True)
        return trainer

    def training(self, seed: int, count: int) -> Dataset:
        """``count`` examples that training with ``seed`` has."""
        return self.examples_of(self.pictures(count, 2 * seed))

    def examples_of(self, pictures: Dataset) -> Dataset:
        """``pictures`` as the network is trained on them: a network of regions chooses its samples by the truths."""
        if self.kind != "regions":
            return pictures
        return Dataset({**self.taken(pictures.x), **pictures.y}, pictures.y["class"])

    def predict(self, trainer: Trainer, x: np.ndarray) -> Any:
        """The findings of the network in pictures ``x`` [N, 3, size, size]: classes [N, size, size], or detections in slots."""
        if self.kind == "segmentation":
            return np.argmax(trainer.predict(x), 1)
        trainer.sync()
        if trainer not in _FINDERS:
            found = Detector(trainer.net, score_threshold=0.02)
            _FINDERS[trainer] = nn.ByShape(found, target=trainer.target, progress=False)
        return _FINDERS[trainer](**self.taken(x))

    def figures(self, trainer: Trainer, held_out: Dataset) -> dict[str, float]:
        """How good the network is on pictures that it was not trained on."""
        if self.kind == "segmentation":
            found = trainer.evaluate(held_out)
            return {"mean_iou": float(found["mean_iou"]), "pixel_accuracy": float(found["accuracy"])}
        found = self.predict(trainer, held_out.x)
        values = _precision(found, held_out.y, "box")
        if self.masks:
            found = {**found, "mask": np.asarray(found["mask"]) >= 0.5}
            values |= {f"mask_{name}": value for name, value in _precision(found, held_out.y, "mask").items()}
            values["mask_iou"] = mask_iou(found, held_out.y)
        return values

    def show(self, trainer: Trainer, held_out: Dataset, count: int = 6) -> np.ndarray:
        """A picture uint8 [H, W, 3] of the first ``count`` of ``held_out``: what is true, and below it what was found."""
        some = held_out.take(count)
        images = np.asarray(some.x) + GROUND
        found = self.predict(trainer, some.x)
        if self.kind == "segmentation":
            return grid([plain(images), painted(images, some.y), painted(images, found)], scale=max(1, 144 // self.size))
        shown = {**found, "mask": found["mask"] >= 0.5} if self.masks else found
        return grid([boxed(images, some.y, SHAPES), boxed(images, shown, SHAPES)])


def _precision(found: Mapping[str, Any], truth: Mapping[str, Any], overlap: str) -> dict[str, float]:
    precision = MeanAveragePrecision(len(SHAPES), overlap)
    precision.add(found, truth)
    return {name: value for name, value in precision.result().items() if value >= 0}


def mask_iou(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> float:
    """The mean intersection over union of the masks of truths and of the detections that find them, 0 where none does.

    Both have ``class`` [N, K] and ``mask`` bool [N, K, H, W]. Of the detections of a truth's class with a ``score`` of at least
    SURE the one of the best mask finds it.
    """
    values = []
    for n, k in np.argwhere(np.asarray(truth["class"]) >= 0):
        own = np.asarray(truth["mask"][n, k], bool)
        rivals = found["mask"][n][(found["class"][n] == truth["class"][n, k]) & (found["score"][n] >= SURE)]
        both, either = (rivals & own).sum((1, 2)), (rivals | own).sum((1, 2))
        values.append(float((both / np.maximum(either, 1)).max(initial=0.0)))
    return float(np.mean(values)) if values else 0.0


@dataclass(frozen=True)
class Outlined(Task):
    """Segmentation of pictures of one large shape each, of which a network with a coarse stride can follow the outline."""

    def pictures(self, count: int, seed: int) -> Dataset:
        drawn = data.shapes(count, self.size, seed=seed)
        return Dataset(drawn.x - GROUND, drawn.y["mask"] * (drawn.y["class"] + 1)[:, None, None])


@dataclass(frozen=True)
class Translation(Task):
    """pix2pix from outlines to the pictures that they are of; ``l1_gain`` says how many times nearer it is than untrained."""

    def pictures(self, count: int, seed: int) -> Dataset:
        drawn = data.edges(count, self.size, seed=seed, by_class=True)
        return Dataset(drawn.x, drawn.y * 2.0 - 1.0)

    def trainer(self, seed: int = 0, target: str = "auto", **settings: Any) -> Trainer:
        nn.init.manual_seed(seed)
        each = settings.pop("optimizer", optim.Adam(self.lr, (0.5, 0.999)))
        parts = dict.fromkeys(("generator", "discriminator"), each)
        return Trainer(self.build(), None, parts, target=target, seed=seed, step=self.loss(), **settings)

    def predict(self, trainer: Trainer, x: np.ndarray) -> np.ndarray:
        return trainer.predict(x)

    def figures(self, trainer: Trainer, held_out: Dataset) -> dict[str, float]:
        untrained = self.trainer(trainer.seed, trainer.target)
        before, after = (float(np.abs(t.predict(held_out.x) - held_out.y).mean()) for t in (untrained, trainer))
        return {"l1": after, "l1_untrained": before, "l1_gain": before / after}

    def show(self, trainer: Trainer, held_out: Dataset, count: int = 6) -> np.ndarray:
        """Outlines, below them what was drawn of them, and what they are of."""
        some = held_out.take(count)
        drawn = self.predict(trainer, some.x)
        return grid([plain(np.asarray(some.x)), *(plain(p / 2 + 0.5) for p in (drawn, np.asarray(some.y)))], scale=2)


@dataclass(frozen=True)
class Denoising(Task):
    """Diffusion on the digits; ``noise_found`` is the share of the noise, of variance 1, that the network finds in others.

    ``sure`` is the share of what it draws that a LeNet-5 takes for one digit with a probability of at least 0.9.
    """

    def pictures(self, count: int, seed: int) -> Dataset:
        train, held = data.load_mnist(seed // 2, normalize=False)
        whole = held if seed % 2 else train
        some = whole.take(min(count, len(whole)))
        x = np.asarray(some.x).reshape(len(some), 1, self.size, 32 // self.size, self.size, 32 // self.size).mean((3, 5))
        return Dataset(x * 2.0 - 1.0, some.y)

    def trainer(self, seed: int = 0, target: str = "auto", **settings: Any) -> Trainer:
        nn.init.manual_seed(seed)
        recipe = {"optimizer": optim.Adam(self.lr, ema_decay=0.995), "schedule": optim.warmup(optim.Cosine(), 0.05), **settings}
        return Trainer(self.build(), self.loss(), metrics=(), target=target, seed=seed, **recipe)

    def predict(self, trainer: Trainer, x: np.ndarray) -> np.ndarray:
        """As many pictures as ``x``, which says nothing else, has."""
        trainer.sync(means=True)
        assert isinstance(trainer.net, models.Diffusion)
        return models.ddpm_sample(trainer.net, (len(x), 1, self.size, self.size), trainer.seed, trainer.target)

    def figures(self, trainer: Trainer, held_out: Dataset) -> dict[str, float]:
        judge = self.judge(trainer)
        shares = {}
        for name, x in {"drawn": self.predict(trainer, held_out.x[:100]), "held_out": held_out.x}.items():
            p = judge.predict(self.enlarged(x))
            p = np.exp(p - p.max(1, keepdims=True))
            shares[name] = p / p.sum(1, keepdims=True)
        drawn = shares["drawn"].mean(0)
        return {
            "noise_found": 1.0 - float(trainer.evaluate(held_out)["loss"]),
            "sure": float((shares["drawn"].max(1) >= 0.9).mean()),
            "sure_held_out": float((shares["held_out"].max(1) >= 0.9).mean()),
            "least_digit": float(drawn.min() * 10),
        }

    def enlarged(self, x: np.ndarray) -> np.ndarray:
        """Digits as LeNet-5 takes them, 32 pixels wide."""
        return x.repeat(32 // self.size, 2).repeat(32 // self.size, 3)

    def judge(self, trainer: Trainer) -> Trainer:
        """A LeNet-5 that was trained on the digits."""
        nn.init.manual_seed(trainer.seed)
        digits = self.pictures(4000, 2 * trainer.seed)
        judge = Trainer(models.lenet5(), nn.CrossEntropyLoss(), optim.Adam(0.003), optim.OneCycle(), target=trainer.target)
        judge.fit(Dataset(self.enlarged(np.asarray(digits.x)), digits.y), 6, 50, progress=False, drop_last=True)
        return judge

    def show(self, trainer: Trainer, held_out: Dataset, count: int = 40) -> np.ndarray:
        """Pictures that were drawn, in rows of ten."""
        drawn = plain(self.predict(trainer, np.asarray(held_out.take(count).x)) / 2 + 0.5)
        return grid([drawn[i : i + 10] for i in range(0, len(drawn), 10)], scale=3)


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


def _mask_rcnn() -> nn.Module:
    backbone = Pyramid(SmallMaps((16, 32, 64), 2), FPN((32, 64), 48))
    sizes = [[10.0, 14.0], [20.0, 28.0]]
    return models.MaskRCNN(backbone, 48, 3, sizes, (1.0,), (64, 16), (64, 16), (1, 64), depth=2)


def _fast_rcnn() -> nn.Module:
    backbone = nn.Sequential(SmallMaps((16, 32), 1), _Only(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU())
    return models.FastRCNN(backbone, 48, 3, 4, 7, 64, 16, 0.0)


class _Only(nn.Module):
    """The only map of a trunk of one."""

    def forward(self, input: Sequence[Value]) -> Value:
        return input[0]


def _rcnn() -> nn.Module:
    trunk = nn.Sequential(SmallMaps((16, 32, 64), 1), _Only())
    head = nn.Sequential(nn.Linear(64 * 9, 64), nn.ReLU())
    return models.RCNN(trunk, 64 * 9, head, 64, 3, 24, 2, 16)


def _segmentation(build: Callable[[], nn.Module], **recipe: Any) -> Task:
    return Task(build, "segmentation", nn.CrossEntropyLoss, 48, "mean_iou", 0.90, **recipe)


def _coarse(stride: int, epochs: int) -> Task:
    """FCN-32s, 16s or 8s, narrow, of pictures in which a shape is 100 to 230 pixels wide."""
    stages = ((8,), (16,), (32,), (48, 48), (64, 64))
    return Outlined(
        lambda: models.FCN(4, stride, stages, **_SMALL),
        *("segmentation", nn.CrossEntropyLoss, 256, "mean_iou", 0.90),
        examples=500,
        epochs=epochs,
        batch_size=16,
        lr=0.005,
    )


def _deeplab() -> nn.Module:
    return models.SegmentationNet(SmallMaps((24, 48), 1), models.deeplab_head(48, 4, 48, (2, 4, 6), 0.0))


def _pix2pix() -> nn.Module:
    return models.pix2pix(1, 3, 16, 6, 2)


def _ddpm() -> nn.Module:
    return models.ddpm(1, 24, (1, 2, 2), 1, (2,), 0.0, 400)


def _regions(build: Callable[[], nn.Module], losses: Sequence[str], goal: float, **recipe: Any) -> Task:
    return Task(build, "regions", lambda: models.SumOfLosses(losses), 64, "map_50", goal, **recipe)


_PROPOSING = ("objectness", "rpn_box")
_SMALL: dict[str, Any] = {"head": 128, "head_kernel": 3, "batch_norm": True, "dropout": 0.0}
TASKS: dict[str, Task] = {
    "fcn": _segmentation(lambda: models.FCN(4, 2, ((24,), (32, 32), (48, 48), (64,)), **_SMALL), lr=0.005),
    "fcn32s": _coarse(32, 12),
    "fcn16s": _coarse(16, 8),
    "fcn8s": _coarse(8, 8),
    "unet": _segmentation(lambda: models.UNet(3, 4, 12, 3, padded=True, batch_norm=True), examples=1000, epochs=8, lr=0.008),
    "yolo": Task(_yolo, "detection", lambda: models.YOLOLoss(2, 56), 56, "map_50", 0.60, 4000, 10, lr=0.002),
    "ssd": Task(_ssd, "detection", models.SSDLoss, 64, "map_50", 0.70, epochs=6),
    "retinanet": Task(_retinanet, "detection", models.RetinaNetLoss, 64, "map_50", 0.70),
    "deeplab": _segmentation(_deeplab, lr=0.005),
    "pix2pix": Translation(_pix2pix, "translation", lambda: models.pix2pix_step, 64, "l1_gain", 2.0, 1000, 10, 16, 4e-4),
    "diffusion": Denoising(_ddpm, "denoising", lambda: models.diffusion_loss, 16, "noise_found", 0.95, 4000, 30, 64, 2e-3),
    "rcnn": _regions(_rcnn, ("class", "box"), 0.60, epochs=4, given=("proposals",)),
    "fast_rcnn": _regions(_fast_rcnn, ("class", "box"), 0.70, epochs=4, given=("proposals",)),
    "faster_rcnn": _regions(_faster_rcnn, (*_PROPOSING, "class", "box"), 0.75, epochs=6),
    "mask_rcnn": _regions(_mask_rcnn, (*_PROPOSING, "class", "box", "mask"), 0.75, epochs=6, given=("mask",)),
}


def get(name: str) -> Task:
    """The task called ``name``. Raises ArgumentError with the names there are."""
    if name not in TASKS:
        raise ArgumentError(unknown("task", name, TASKS))
    return TASKS[name]
