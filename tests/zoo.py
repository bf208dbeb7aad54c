"""A small network of each kind, made of the blocks of the large ones, and training steps of it.

``python tests/zoo.py`` steps each on the cpu target beside the reference, for sanitizers, which Python has to start under.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np

import graphrt as grt
from graphrt import nn, optim
from graphrt.models import (
    convnext,
    densenet,
    efficientnet,
    mobilenet,
    mobilenet_v3,
    resnet,
    shufflenet,
    squeezenet,
    text,
    vit,
)
from graphrt.models.googlenet import Inception


def _image(*layers: nn.Module) -> nn.Sequential:
    """A network of images (4, 3, 16, 16): a stem of 8 channels, ``layers`` and a classifier of the 16 that they leave."""
    stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 1, 1)]
    return nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


IMAGES, WORDS = ((4, 3, 16, 16), "float32"), ((3, 6), "int64")
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], str]]] = {
    "resnet18": (lambda: _image(resnet.BasicBlock(8, 16, 2), resnet.BasicBlock(16, 16)), IMAGES),
    "resnet20": (lambda: _image(resnet.BasicBlock(8, 16, 2, padded=True)), IMAGES),
    "resnet50": (lambda: _image(resnet.Bottleneck(8, 4, 2), resnet.Bottleneck(16, 4)), IMAGES),
    "resnext50": (lambda: _image(resnet.Bottleneck(8, 4, 2, groups=4)), IMAGES),
    "mobilenet_v2": (lambda: _image(mobilenet.InvertedResidual(8, 16, 2, 2), mobilenet.InvertedResidual(16, 16, 1, 2)), IMAGES),
    "mobilenet_v3": (lambda: _image(mobilenet_v3.InvertedResidual(8, (5, 24, 16, True, True, 2), 1e-3)), IMAGES),
    "efficientnet": (lambda: _image(efficientnet.MBConv(8, 16, 2, 3, 2, 0.1)), IMAGES),
    "densenet": (lambda: _image(densenet.DenseBlock(8, 2, 4), nn.AvgPool2d(2)), IMAGES),
    "googlenet": (lambda: _image(Inception(8, 4, 3, 5, 2, 3, 4)), IMAGES),
    "shufflenet": (lambda: _image(shufflenet.InvertedResidual(8, 16, 2), shufflenet.InvertedResidual(16, 16, 1)), IMAGES),
    "squeezenet": (lambda: _image(squeezenet.Fire(8, 3, 8)), IMAGES),
    "convnext": (lambda: _image(nn.Conv2d(8, 16, 2, 2), convnext.CNBlock(16, 0.1)), IMAGES),
    "vgg": (lambda: _image(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout()), IMAGES),
    "alexnet": (lambda: _image(nn.Conv2d(8, 16, 5, 2, 2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2)), IMAGES),
    "mixer": (lambda: vit.Mixer(16, 8, 12, 1, 5), IMAGES),
    "vit": (lambda: vit.VisionTransformer(16, 8, 12, 1, 2, 5, 0.1), IMAGES),
    "gpt": (lambda: text.GPT(11, 6, 12, 1, 2, 0.1), WORDS),
    "char_lstm": (lambda: text.CharLSTM(11, 7, 9, 2, 0.1), WORDS),
}


def steps(name: str, targets: Sequence[str], dtype: str = "float32", count: int = 2) -> list[list[float]]:
    """The losses of ``count`` steps on each target, from the same parameters."""
    (build, (shape, kind)), rng = ZOO[name], np.random.default_rng(0)
    words = kind == "int64"
    x = rng.integers(0, 11, shape) if words else rng.standard_normal(shape).astype(np.float32)
    y = rng.integers(0, 11, shape) if words else rng.integers(0, 5, shape[:1])
    trainer = grt.Trainer(
        build(), nn.CrossEntropyLoss(), optim.AdamW(1e-3), metrics=(), autocast=None if dtype == "float32" else dtype
    )
    graph = trainer.training_graph((shape, kind), (y.shape, "int64"))
    programs = [grt.compile(graph, target=target) for target in targets]
    return [[float(program(x=x, y=y, lr=1e-3)["loss"]) for _ in range(count)] for program in programs]


if __name__ == "__main__":
    for name in sys.argv[1:] or ZOO:
        found, exact = steps(name, ("cpu", "reference"))
        np.testing.assert_allclose(found, exact, rtol=1e-3, err_msg=name)
        print(name, *found, flush=True)
