"""Layers beside torch's with the same weights: results, and gradients of every input and parameter, in one program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from conftest import assert_close

import graphrt as grt
from graphrt import nn

# Ours, torch's, how to call either (on the layer and its inputs; a tensor or a tuple of them comes back), the inputs.
Case = tuple[nn.Module, torch.nn.Module, Callable[..., Any], list[np.ndarray]]


class _Bundle(nn.Module):
    """The layers of one program, so that each has parameter names of its own."""

    def __init__(self, cases: dict[str, Case]) -> None:
        self.layers = {name: ours for name, (ours, _, _, _) in cases.items()}
        self.cases = cases

    def forward(self, inputs: list[list[grt.Value]]) -> list[Any]:
        return [call(ours, *xs) for (ours, _, call, _), xs in zip(self.cases.values(), inputs, strict=True)]


def compare_layers(cases: dict[str, Case], target: str, length: int = 1) -> grt.Program:
    """Compares every case with float64 torch; layers must have the same parameter names. Returns the program."""
    graph, feeds, expected = grt.Graph(), dict[str, Any](), dict[str, np.ndarray]()
    inputs = []
    for name, (ours, theirs, _, arrays) in cases.items():
        ours.load_state_dict(theirs.state_dict())
        feeds |= {f"{name}.{i}": a for i, a in enumerate(arrays)}
        inputs.append([graph.input(f"{name}.{i}", a.shape, a.dtype) for i, a in enumerate(arrays)])
    for (name, (ours, theirs, call, arrays)), xs, results in zip(cases.items(), inputs, _Bundle(cases)(inputs), strict=True):
        theirs.double()
        tensors = [torch.from_numpy(a.astype(np.float64) if a.dtype.kind == "f" else a) for a in arrays]
        pairs = [(x, t.requires_grad_()) for x, t in zip(xs, tensors, strict=True) if t.is_floating_point()]
        pairs += [(p.value(graph), dict(theirs.named_parameters())[n]) for n, p in ours.named_parameters()]
        loss, total = graph.constant(0.0), torch.zeros((), dtype=torch.float64)
        for i, (y, t) in enumerate(zip(_flat(results), _flat(call(theirs, *tensors)), strict=True)):
            assert y.shape == tuple(t.shape), f"{name} {i}: {y.shape} is not {tuple(t.shape)}"
            graph.output(f"{name}.y{i}", y)
            expected[f"{name}.y{i}"] = t.detach().numpy()
            weights = np.random.default_rng(i).standard_normal(y.shape).astype(np.float32)
            loss = loss + (y * graph.constant(weights)).sum()
            total = total + (t * torch.from_numpy(weights.astype(np.float64))).sum()
        total.backward()
        for (_, t), g in zip(pairs, grt.grad(loss, [v for v, _ in pairs]), strict=True):
            key = f"{name}.grad{len(expected)}"
            graph.output(key, g)
            expected[key] = np.zeros(t.shape) if t.grad is None else t.grad.numpy()
    program = grt.compile(graph, target=target)
    outputs = program(feeds)
    for key, value in expected.items():
        assert_close(outputs[key], value, length, key)
    return program


def _flat(results: Any) -> list[Any]:
    """Tensors of nested tuples in order, without None."""
    if isinstance(results, list | tuple):
        return [v for r in results for v in _flat(r)]
    return [] if results is None else [results]
