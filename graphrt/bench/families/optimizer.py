"""Updates of many parameters at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam
from torch.optim.adamw import adamw as torch_adamw
from torch.optim.sgd import sgd as torch_sgd

from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value
from graphrt.optim import SGD, Adam, AdamW

FEW, MANY = 4, 50  # tensors
TENSORS = {"n": (3, 512, 4096), "m": (7, 384, 1024)}


def _tensors(b: Builder, count: int) -> tuple[list[Value], list[Value]]:
    """Weights and biases in turn, and their gradients."""
    shapes = [("n", "m") if i % 2 == 0 else ("n",) for i in range(count)]
    parameters = [b.parameter(f"p{i}", *shape) for i, shape in enumerate(shapes)]
    return parameters, [b.input(f"g{i}", *shape) for i, shape in enumerate(shapes)]


def _adam(b: Builder) -> None:
    b.step(Adam(1e-3), *_tensors(b, FEW))


def _adamw_clipped(b: Builder) -> None:
    b.step(AdamW(1e-3, clip_grad_norm=1.0), *_tensors(b, FEW))


def _sgd_50_tensors(b: Builder) -> None:
    b.step(SGD(1e-2, momentum=0.9, weight_decay=1e-4), *_tensors(b, MANY))


def _torch_step(
    step: Any, parameters: list[Tensor], gradients: list[Tensor], state: list[Tensor], decay: float
) -> list[Tensor]:
    """A first step of Adam or AdamW on all tensors at once; ``state`` is graphrt's: three counters, two moments of each."""
    first, second = state[3::2], state[4::2]
    steps = [torch.zeros(()) for _ in parameters]
    options: dict[str, Any] = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "maximize": False}
    options["capturable"] = torch.compiler.is_compiling()  # else torch.compile would read the counters' numbers
    step(parameters, gradients, first, second, [], steps, foreach=True, lr=1e-3, weight_decay=decay, **options)
    return parameters


def _split(tensors: tuple[Tensor, ...], count: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    return [*tensors[:count]], [*tensors[count : 2 * count]], [*tensors[2 * count :]]


def _torch_adam(_: Sizes, *tensors: Tensor) -> list[Tensor]:
    return _torch_step(torch_adam, *_split(tensors, FEW), decay=0.0)


def _torch_adamw_clipped(_: Sizes, *tensors: Tensor) -> list[Tensor]:
    parameters, gradients, state = _split(tensors, FEW)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    clipped = torch._foreach_mul(gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))
    return _torch_step(torch_adamw, parameters, [*clipped], state, decay=1e-2)


def _torch_sgd_50_tensors(_: Sizes, *tensors: Tensor) -> list[Tensor]:
    parameters, gradients, state = _split(tensors, MANY)
    options: dict[str, Any] = {
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "lr": 1e-2,
        "dampening": 0.0,
        "nesterov": False,
        "maximize": False,
    }
    torch_sgd(parameters, gradients, [*state], foreach=True, **options)
    return parameters


PATTERNS = (
    Pattern(
        "adam",
        "optimizer",
        "Adam on two weights and two biases: one launch, each tensor read and written once",
        _adam,
        TENSORS,
        _torch_adam,
        backward=False,
    ),
    Pattern(
        "adamw_clipped",
        "optimizer",
        "gradients clipped by the norm of all, AdamW: the norm's sums, then one launch for the updates",
        _adamw_clipped,
        TENSORS,
        _torch_adamw_clipped,
        backward=False,
    ),
    Pattern(
        "sgd_50_tensors",
        "optimizer",
        "SGD with momentum on 50 tensors: one launch or few, not 50",
        _sgd_50_tensors,
        {"n": (3, 64, 1024), "m": (7, 128, 1024)},
        _torch_sgd_50_tensors,
        backward=False,
    ),
)
