"""from_torch beside torch: modules of torch.nn, whole networks, the calling convention, shared parameters, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch_cases import FAMILIES, Bundle, close, objective, tensors
from torch_models import MODELS

import graphrt as grt

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def leaves(tree: Any) -> Any:
    """``tree`` with float tensors copied, and asked for gradients, unless they are targets that torch gives none."""
    if isinstance(tree, list | tuple):
        return type(tree)(leaves(t) for t in tree)
    return tree.clone().requires_grad_() if isinstance(tree, torch.Tensor) and tree.is_floating_point() else tree


def compare(module: nn.Module, args: tuple[Any, ...], target: str, train: bool) -> None:
    """Results, gradients of inputs and parameters, and buffers after one call, ours and torch's."""
    theirs = copy.deepcopy(module).train(train)
    mine, other = leaves(args), leaves(args)
    ours = grt.to_torch(grt.compile(grt.from_torch(module, args, train=train), target=target))
    got, expected = ours(*mine), theirs(*other)
    names = [f"result {i}" for i in range(len(tensors(expected)))]
    for name, a, b in zip(names, tensors(got), tensors(expected), strict=True):
        close(a, b, 1e-4, name)
    objective(expected).backward()
    objective(got).backward()
    for i, (a, b) in enumerate(zip(tensors(list(mine)), tensors(list(other)), strict=True)):
        if b.requires_grad:
            close(_grad(a), _grad(b), 1e-3, f"gradient of input {i}")
    for name, p in theirs.named_parameters():
        close(_grad(module.get_parameter(name)), _grad(p), 1e-3, f"gradient of {name}")
    for name, buffer in theirs.named_buffers():
        close(module.get_buffer(name), buffer, 1e-4, f"buffer {name}")


def _grad(t: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(t) if t.grad is None else t.grad


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("family", FAMILIES)
def test_modules_of_torch_nn(family: str, train: bool) -> None:
    torch.manual_seed(0)
    cases = FAMILIES[family]
    compare(Bundle(cases), ([inputs for _, inputs in cases],), "reference", train)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_networks(name: str, train: bool, target: str) -> None:
    torch.manual_seed(0)
    compare(MODELS[name](), (torch.randn(2, 3, 32, 32),), target, train)
