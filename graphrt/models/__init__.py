"""Models by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphrt.errors import ArgumentError
from graphrt.models.lenet import lenet5
from graphrt.models.mlp import mlp
from graphrt.nn import Module


@dataclass(frozen=True)
class Model:
    """How to build a network, and the shape of one image it takes."""

    build: Callable[[], Module]
    input_shape: tuple[int, ...]


MODELS: dict[str, Model] = {"lenet5": Model(lenet5, (1, 32, 32)), "mlp": Model(mlp, (1, 28, 28))}


def get(name: str) -> Model:
    """The model called ``name``. Raises ArgumentError with the names there are."""
    if name not in MODELS:
        raise ArgumentError(f"no model {name!r}; there is {', '.join(MODELS)}")
    return MODELS[name]


__all__ = ["MODELS", "Model", "get", "lenet5", "mlp"]
