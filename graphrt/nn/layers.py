"""Containers and linear layers, with torch's names, arguments and defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, GraphrtError
from graphrt.ir import Value
from graphrt.nn.init import uniform_, weights
from graphrt.nn.module import Module, Parameter, optional
from graphrt.ops.base import integer, integers, tensor


class Sequential(Module):
    """Modules one after the other, each called with the result of the one before it.

    ``modules`` are Modules, named by position, or one dict of them, named by its keys: ``Sequential({"conv": Conv2d(3, 8,
    3)})`` has the parameter ``conv.weight``. ``net[0]``, ``len(net)`` and iteration are those of a list. Raises ArgumentError.
    """

    def __init__(self, *modules: Module | Mapping[str, Module]) -> None:
        table: dict[str, Any] = {str(i): m for i, m in enumerate(modules)}
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            table = dict(modules[0])
        for name, module in table.items():
            if not isinstance(module, Module):
                raise ArgumentError(f"Sequential takes Modules; number {name} is {type(module).__name__}")
        self._table: dict[str, Module] = table

    def _members(self) -> Iterator[tuple[str, Any]]:
        return iter(self._table.items())

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._table.values())

    def __getitem__(self, index: int) -> Module:
        return list(self._table.values())[index]

    def forward(self, input: Value) -> Value:
        before = ""
        for name, module in self._table.items():
            try:
                input = module(input)
            except GraphrtError as error:
                if not before or not isinstance(input, tuple | list | dict):
                    raise
                raise ArgumentError(_several(before, f"{name} ({type(module).__name__})", input, error)) from None
            before = f"{name} ({type(module).__name__})"
        return input


def _several(before: str, after: str, given: Any, error: GraphrtError) -> str:
    """The message where a layer of a Sequential fails that was given several results of the layer ``before`` it."""
    many, first = ", ".join(map(repr, given)) if isinstance(given, dict) else len(given), next(iter(given), 0)
    return (
        f"in a Sequential layer {after} is called with what layer {before} returns, "
        f"a {type(given).__name__} of {many}: {error}\n"
        f"A Module of your own passes on one of them: after(before(x)[{first if isinstance(given, dict) else 0!r}])"
    )


class Identity(Module):
    """Its input. It takes no arguments, and stands where a layer is left out."""

    def forward(self, input: Value) -> Value:
        return input


class Flatten(Module):
    """Dimensions ``start_dim`` to ``end_dim`` joined into one: [N, C, H, W] -> [N, C * H * W] by default."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Value) -> Value:
        return F.flatten(input, self.start_dim, self.end_dim)


class Unflatten(Module):
    """Dimension ``dim`` as several of sizes ``unflattened_size``, one of which may be -1; the inverse of ``Flatten``."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        self.dim, self.unflattened_size = integer(dim, "dim"), tuple(integers(unflattened_size, "unflattened_size", -1))

    def forward(self, input: Value) -> Value:
        return F.unflatten(input, self.dim, self.unflattened_size)


class Linear(Module):
    """``input @ weight.T + bias``: [..., in_features] -> [..., out_features].

    ``weight`` [out_features, in_features] and ``bias`` [out_features] start uniform within ``1 / sqrt(in_features)`` of 0, as
    torch's. Where the weight is cut along ``in_features`` (``parallel.py``), what all processes make of theirs is summed.
    Raises ArgumentError; when called, ShapeError and DTypeError.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        if in_features < 1 or out_features < 1:
            raise ArgumentError(f"Linear needs positive sizes, got {in_features} and {out_features}")
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.bias = weights((out_features, in_features), bias)

    def forward(self, input: Value) -> Value:
        x = tensor(input)
        weight, bias = self.weight.value(x.graph), optional(self.bias, x)
        axis, dim = self.weight.sharded or ("", 0)
        if dim == 0 or axis not in weight.type.varying:
            return F.linear(x, weight, bias)
        y = F.all_reduce(F.linear(x, weight), axis)
        return y if bias is None else y + bias


class Bilinear(Module):
    """``input1 @ weight[o] @ input2 + bias[o]`` for each of ``out_features`` outputs o.

    [..., in1_features] and [..., in2_features] give [..., out_features]; ``weight`` is [out_features, in1_features,
    in2_features]. Raises ArgumentError; when called, ShapeError.
    """

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True) -> None:
        sizes = (out_features, in1_features, in2_features)
        if min(sizes) < 1:
            raise ArgumentError(f"Bilinear needs positive sizes, got {in1_features}, {in2_features} and {out_features}")
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        bound = 1 / math.sqrt(in1_features)
        self.weight = uniform_(Parameter(np.empty(sizes, np.float32)), -bound, bound)
        self.bias = uniform_(Parameter(np.empty(out_features, np.float32)), -bound, bound) if bias else None

    def forward(self, input1: Value, input2: Value) -> Value:
        return F.bilinear(input1, input2, self.weight.value(input1.graph), optional(self.bias, input1))
