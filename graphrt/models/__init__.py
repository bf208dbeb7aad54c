"""Models by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphrt.errors import ArgumentError
from graphrt.models.lenet import lenet5
from graphrt.models.mlp import mlp
from graphrt.models.resnet import resnet18, resnet20, resnet50
from graphrt.models.vgg import vgg11, vgg11_cifar
from graphrt.nn import Module


@dataclass(frozen=True)
class Model:
    """How to build a network, and the shape of one image it takes."""

    build: Callable[[], Module]
    input_shape: tuple[int, ...]


MODELS: dict[str, Model] = {
    "lenet5": Model(lenet5, (1, 32, 32)),
    "mlp": Model(mlp, (1, 28, 28)),
    "resnet18": Model(resnet18, (3, 224, 224)),
    "resnet20": Model(resnet20, (3, 32, 32)),
    "resnet50": Model(resnet50, (3, 224, 224)),
    "vgg11": Model(vgg11, (3, 224, 224)),
    "vgg11_cifar": Model(vgg11_cifar, (3, 32, 32)),
}


def get(name: str) -> Model:
    """The model called ``name``. Raises ArgumentError with the names there are."""
    if name not in MODELS:
        raise ArgumentError(f"no model {name!r}; there is {', '.join(MODELS)}")
    return MODELS[name]


__all__ = ["MODELS", "Model", "get", "lenet5", "mlp", "resnet18", "resnet20", "resnet50", "vgg11", "vgg11_cifar"]
