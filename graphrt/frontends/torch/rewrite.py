"""Functions of torch written in another way for as long as a model is traced: those that look at their tensors' numbers while
they run, and those that torch takes apart, entry or not, into what has other gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch._decomp import decompositions
from torch.overrides import TorchFunctionMode


def _gaussian_nll_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    var: torch.Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> torch.Tensor:
    """torch's own formula, where a graph cannot raise: a negative variance gives NaN."""
    variance = var if isinstance(var, torch.Tensor) else torch.full_like(input, var)
    if variance.shape == input.shape[:-1]:
        variance = variance.unsqueeze(-1)
    different = [n for n, m in zip(variance.shape, input.shape, strict=False) if n != m]
    if variance.ndim != input.ndim or different not in ([], [1]):
        raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    held = torch.where(variance < 0, math.nan, torch.clamp(variance, min=eps))
    held = variance + (held - variance).detach()  # the bound has no part in the gradient
    loss = 0.5 * (torch.log(held) + (input - target) ** 2 / held)
    if full:
        loss = loss + 0.5 * math.log(2 * math.pi)
    return loss.mean() if reduction == "mean" else loss.sum() if reduction == "sum" else loss


def _narrow(input: torch.Tensor, dim: int, start: Any, length: int) -> torch.Tensor:
    """``narrow`` whose start may be a tensor."""
    if not isinstance(start, torch.Tensor):
        return torch.narrow(input, dim, start, length)
    first = torch.where(start < 0, start + input.shape[dim], start)
    return torch.index_select(input, dim, first + torch.arange(length, device=input.device))


def _softshrink(input: torch.Tensor, lambd: float = 0.5) -> torch.Tensor:
    """With a gradient at NaN, as in eager mode."""
    if lambd < 0:
        raise ValueError(f"lambda must be greater or equal to 0, but found to be {lambd}")
    moved = torch.where(input < 0, input + lambd, input - lambd)
    return torch.where((input >= -lambd) & (input <= lambd), 0.0, moved)


_REWRITTEN: Mapping[Callable[..., Any], Callable[..., Any]] = {
    torch.nn.functional.gaussian_nll_loss: _gaussian_nll_loss,
    torch.nn.functional.softshrink: _softshrink,
    torch.ops.aten.softshrink.default: _softshrink,
    torch.narrow: _narrow,
    torch.Tensor.narrow: _narrow,
}


class Rewritten(TorchFunctionMode):
    """While it is entered, calls of these functions are others."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _REWRITTEN.get(func, func)(*args, **(kwargs or {}))


@contextmanager
def states_of_lstm() -> Iterator[None]:
    """While it is entered, the last states of an LSTM have their shapes: torch 2.11 squeezes the batch."""
    layer = decompositions.one_layer_lstm

    def one_layer_lstm(*args: Any, **kwargs: Any) -> Any:
        out, states = layer(*args, **kwargs)
        return out, tuple(s.reshape(out.shape[1], s.shape[-1]) for s in states)

    decompositions.one_layer_lstm = one_layer_lstm
    try:
        yield
    finally:
        decompositions.one_layer_lstm = layer
