"""The networks of ``graphrt.models`` as a user of torch writes them, and one training step of each.

Parameter counts are compared with graphrt's when a pair is made, so that both sides compute the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as T
import typer
from torch import nn

import graphrt
from graphrt import models


class Shortcut(nn.Module):
    """Every ``stride``-th pixel, zeros for new channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.more, self.stride = outputs - inputs, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return T.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block of ``kernels``, the last convolution of ``outputs`` channels."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int, kernels: tuple[int, ...], padded: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = inputs
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            size = outputs if last else width
            layers += [conv(channels, size, kernel, stride if i == kernels.index(3) else 1), nn.BatchNorm2d(size)]
            layers += [] if last else [nn.ReLU()]
            channels = size
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
            self.shortcut = Shortcut(inputs, outputs, stride) if padded else projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return T.relu(self.body(x) + self.shortcut(x))


def residual(depths: tuple[int, ...], widths: tuple[int, ...], expansion: int, classes: int, padded: bool = False) -> nn.Module:
    """A residual network: stem, stages, mean over pixels, linear."""
    small = padded
    stem: list[nn.Module] = [conv(3, widths[0], 3) if small else conv(3, 64, 7, 2), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    layers = stem + ([] if small else [nn.MaxPool2d(3, 2, 1)])
    channels = widths[0]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        for i in range(depth):
            stride = 2 if stage and i == 0 else 1
            kernels = (3, 3) if expansion == 1 else (1, 3, 1)
            layers.append(Block(channels, width, width * expansion, stride, kernels, padded))
            channels = width * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def vgg_features(sizes: Sequence[int], batch_norm: bool) -> list[nn.Module]:
    """3x3 convolutions of so many channels; 0 is a pool."""
    layers: list[nn.Module] = []
    channels = 3
    for size in sizes:
        if not size:
            layers.append(nn.MaxPool2d(2))
            continue
        norm = [nn.BatchNorm2d(size)] if batch_norm else []
        layers += [nn.Conv2d(channels, size, 3, padding=1), *norm, nn.ReLU()]
        channels = size
    return layers


def vgg11_cifar() -> nn.Module:
    features = vgg_features((64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0), True)
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(512, 10))


def vgg16(dropout: float = 0.5) -> nn.Module:
    sizes = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
    return nn.Sequential(
        *(*vgg_features(sizes, False), nn.AdaptiveAvgPool2d(7), nn.Flatten()),
        *(nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout)),
        nn.Linear(4096, 1000),
    )


def alexnet(dropout: float = 0.5) -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(6), nn.Flatten()),
        *(nn.Dropout(dropout), nn.Linear(256 * 36, 4096), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)),
    )


def lenet5() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


@dataclass(frozen=True)
class Work:
    """A network on both sides, the batch and image that it is measured with, and its number of classes."""

    ours: Callable[[], graphrt.nn.Module]
    theirs: Callable[[], nn.Module]
    batch: int
    image: tuple[int, ...]
    classes: int = 10

    def data(self, batch: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        n = batch or self.batch
        return rng.standard_normal((n, *self.image)).astype(np.float32), rng.integers(0, self.classes, n)

    def pair(self) -> tuple[graphrt.nn.Module, nn.Module]:
        """Both networks, which must have as many parameters."""
        ours, theirs = self.ours(), self.theirs()
        counts = graphrt.nn.count_parameters(ours), sum(p.numel() for p in theirs.parameters())
        assert counts[0] == counts[1], f"different networks: {counts[0]} and {counts[1]} parameters"
        return ours, theirs


WORK = {
    "MLP 784-128-10": Work(models.mlp, mlp, 64, (784,)),
    "LeNet-5": Work(models.lenet5, lenet5, 64, (1, 32, 32)),
    "ResNet-20": Work(models.resnet20, lambda: residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True), 64, (3, 32, 32)),
    "VGG-11": Work(models.vgg11_cifar, vgg11_cifar, 32, (3, 32, 32)),
    "ResNet-18": Work(
        lambda: models.resnet18(200), lambda: residual((2, 2, 2, 2), (64, 128, 256, 512), 1, 200), 32, (3, 64, 64), 200
    ),
    "ResNet-50": Work(models.resnet50, lambda: residual((3, 4, 6, 3), (64, 128, 256, 512), 4, 1000), 8, (3, 224, 224), 1000),
}


def chosen(names: Sequence[str]) -> Sequence[str]:
    """``names`` of ``WORK``. Raises BadParameter for one that is not there."""
    for name in names:
        if name not in WORK:
            raise typer.BadParameter(f"no network {name!r}; there is {', '.join(WORK)}", param_hint="--work")
    return names


JAX_WORK = ("MLP 784-128-10", "LeNet-5", "ResNet-20")  # the networks of bench.jax_peers


def torch_model(theirs: nn.Module, x: np.ndarray, mode: str) -> tuple[Any, torch.Tensor]:
    """The module as ``mode`` runs it (eager, channels_last or compile), and its input on the device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, data = theirs.to(device), torch.from_numpy(x).to(device)
    if mode == "channels_last":
        model, data = model.to(memory_format=torch.channels_last), data.to(memory_format=torch.channels_last)
    if mode == "compile":
        model.compile()  # in place: a network that is wrapped would be no longer of its class
    return model, data


def updated(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor]) -> Callable[[], float]:
    """One step of torch: the gradients of ``loss()``, the update; the loss is read, as graphrt's is."""

    def step() -> float:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        optimizer.step()
        return found.item()

    return step


def torch_step(theirs: nn.Module, x: np.ndarray, y: np.ndarray, mode: str) -> Callable[[], Any]:
    """One step of torch with cross-entropy and SGD with momentum."""
    model, data = torch_model(theirs, x, mode)
    target = torch.from_numpy(y).to(data.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return updated(optimizer, lambda: T.cross_entropy(model(data), target))


def graphrt_step(net: graphrt.nn.Module, x: np.ndarray, y: np.ndarray) -> Callable[[], Any]:
    """One step of graphrt through the Trainer; the loss and the accuracy are read."""
    optimizer = graphrt.optim.SGD(lr=0.01, momentum=0.9)
    trainer = graphrt.Trainer(net, loss=graphrt.nn.CrossEntropyLoss(), optimizer=optimizer)
    return lambda: trainer.step(x, y)


def jax_step(work: str, x: np.ndarray, y: np.ndarray) -> Callable[[], Any] | None:
    """One step of JAX for a network of ``JAX_WORK``; None where JAX is missing."""
    if find_spec("jax") is None:
        return None
    from bench.jax_peers import training_step

    return training_step(work, x, y, graphrt.nn.count_parameters(WORK[work].ours()))
