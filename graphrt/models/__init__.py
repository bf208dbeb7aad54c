"""Models by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphrt.errors import ArgumentError
from graphrt.models.alexnet import alexnet
from graphrt.models.googlenet import googlenet
from graphrt.models.lenet import lenet5
from graphrt.models.mlp import mlp
from graphrt.models.mobilenet import mobilenet_v2
from graphrt.models.resnet import resnet18, resnet20, resnet34, resnet50, resnet101, resnet152
from graphrt.models.vgg import vgg11, vgg11_cifar, vgg16, vgg16_bn
from graphrt.nn import Module


@dataclass(frozen=True)
class Model:
    """How to build a network, ``build()``, and ``input_shape``, the shape of one image it takes, without the batch."""

    build: Callable[[], Module]
    input_shape: tuple[int, ...]


_IMAGENET = (3, 224, 224)
MODELS: dict[str, Model] = {
    "alexnet": Model(alexnet, _IMAGENET),
    "googlenet": Model(googlenet, _IMAGENET),
    "lenet5": Model(lenet5, (1, 32, 32)),
    "mlp": Model(mlp, (1, 28, 28)),
    "mobilenet_v2": Model(mobilenet_v2, _IMAGENET),
    "resnet18": Model(resnet18, _IMAGENET),
    "resnet20": Model(resnet20, (3, 32, 32)),
    "resnet34": Model(resnet34, _IMAGENET),
    "resnet50": Model(resnet50, _IMAGENET),
    "resnet101": Model(resnet101, _IMAGENET),
    "resnet152": Model(resnet152, _IMAGENET),
    "vgg11": Model(vgg11, _IMAGENET),
    "vgg11_cifar": Model(vgg11_cifar, (3, 32, 32)),
    "vgg16": Model(vgg16, _IMAGENET),
    "vgg16_bn": Model(vgg16_bn, _IMAGENET),
}


def get(name: str) -> Model:
    """The model called ``name``. Raises ArgumentError with the names there are."""
    if name not in MODELS:
        raise ArgumentError(f"no model {name!r}; there is {', '.join(MODELS)}")
    return MODELS[name]


__all__ = [
    "MODELS",
    "Model",
    "alexnet",
    "get",
    "googlenet",
    "lenet5",
    "mlp",
    "mobilenet_v2",
    "resnet18",
    "resnet20",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_cifar",
    "vgg16",
    "vgg16_bn",
]
