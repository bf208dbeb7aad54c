"""to_torch: a program as a torch module, differentiable in its inputs and parameters.

The forward pass of a differentiable call also returns what the backward pass needs; this is a second program, made from the
gradients of the first one's graph. Views and constants are computed again rather than kept. Tensors go in and out without
copies, and the module's parameters are the memory of the program's State, so optimizers of torch train the program.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from graphrt.autodiff import grad
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind
from graphrt.passes.rewrite import rewrite
from graphrt.passes.stages import Fusion
from graphrt.runtime.arrays import from_numpy
from graphrt.runtime.program import Program


def to_torch(program: Program) -> torch.nn.Module:
    """``program`` as a torch module that is called as the program is, with tensors.

    Gradients flow to every float input and trainable parameter. The parameters have their names in the program's state and
    lie in its memory; state that is not trained becomes buffers. Raises ArgumentError for what is no compiled Program.
    """
    if not isinstance(program, Program):
        raise ArgumentError(f"to_torch takes a Program of graphrt.compile, got {type(program).__name__}")
    if program.batch is not None:
        raise ArgumentError("to_torch takes a program of one batch; compile it without batch=up_to(...)")
    return ProgramModule(program)


class ProgramModule(torch.nn.Module):
    """A graphrt program among modules of torch; see ``to_torch``."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        self._pairs: dict[frozenset[str], _Pair] = {}
        self._trained: dict[str, torch.nn.Parameter] = {}
        for node in program.built.nodes:
            if node.op.name != "parameter" or node.name not in program.state:
                continue
            *path, last = node.name.split(".")
            home: torch.nn.Module = self
            for part in path:
                if part not in home._modules:
                    home.add_module(part, torch.nn.Module())
                home = getattr(home, part)
            tensor = program.state.tensor(node.name)
            if node.attrs["trainable"] and tensor.is_floating_point():
                self._trained[node.name] = tensor if isinstance(tensor, torch.nn.Parameter) else torch.nn.Parameter(tensor)
                home.register_parameter(last, self._trained[node.name])
            else:
                home.register_buffer(last, tensor)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program; differentiably where a gradient may be asked for."""
        inputs = self._program._named(args, kwargs)
        tensors = {n: v for n, v in {**inputs, **self._trained}.items() if isinstance(v, torch.Tensor)}
        wanted = frozenset(n for n, t in tensors.items() if t.requires_grad and torch.is_grad_enabled())
        if not wanted:
            return self._program(*args, **kwargs)
        if wanted not in self._pairs:
            self._pairs[wanted] = _pair(self._program, wanted)
        results = _Run.apply(self._pairs[wanted], inputs, list(tensors), *tensors.values())
        return self._program._given(dict(zip(self._program.outputs, results, strict=True)), inputs)

    def extra_repr(self) -> str:
        """Target, inputs and outputs."""
        return self._program._about()


@dataclass(frozen=True)
class _Pair:
    """The forward program, whose results after the user's are ``kept``, and the one that makes gradients of these."""

    forward: Program
    backward: Program
    kept: Sequence[str]
    differentiable: Sequence[str]  # the outputs that have gradients
    written: Collection[str]  # the inputs that the model writes into once the forward program has run


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pair: _Pair, inputs: Mapping[str, Any], names: Sequence[str], *tensors: torch.Tensor) -> Any:
        found = pair.forward(_detached(inputs))
        results = {n: v for n, v in found.items() if n not in pair.kept}
        ctx.pair, ctx.names, ctx.outputs = pair, names, list(results)
        ctx.numbers = {n: v for n, v in inputs.items() if n not in names}
        ctx.saved = [n for n in names if n not in pair.written or n in pair.backward.inputs]
        given = dict(zip(names, tensors, strict=True))
        before = (given[n].clone() if n in pair.written else given[n] for n in ctx.saved)
        ctx.save_for_backward(*before, *(found[n] for n in pair.kept))
        ctx.mark_non_differentiable(*(v for n, v in results.items() if n not in pair.differentiable))
        return tuple(results.values())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
        pair: _Pair = ctx.pair
        given = dict(zip([*ctx.saved, *pair.kept], ctx.saved_tensors, strict=True))  # raises if one was written to
        given |= {_cotangent(n): dy for n, dy in zip(ctx.outputs, cotangents, strict=True)} | ctx.numbers
        found = pair.backward(_detached({n: given[n] for n in pair.backward.inputs}))
        found = {n: from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in found.items()}  # gradients of nothing given
        return None, None, None, *(found.get(n) for n in ctx.names)


def _detached(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """``inputs`` as a program takes them: numbers may be among the tensors."""
    return {n: v.detach() if isinstance(v, torch.Tensor) else v for n, v in inputs.items()}


def _cotangent(output: str) -> str:
    return f"gradient of {output}"


def _pair(program: Program, wanted: frozenset[str]) -> _Pair:
    """The programs of a differentiable call that gives gradients of the inputs and parameters ``wanted``."""
    base = program.built
    joint, forward = rewrite(base, lambda node: None), rewrite(base, lambda node: None)
    twin = dict(zip(joint.values(), forward.values(), strict=True))
    known = set(joint.nodes)
    total = joint.constant(0.0)
    outputs = {n: v for n, v in joint.outputs.items() if v.dtype.is_float}
    for name, v in outputs.items():
        total = total + (v * joint.input(_cotangent(name), v.shape, v.dtype)).sum()
    wrt = {n: joint.sources[n].outputs[0] for n in wanted}
    gradients = dict(zip(wrt, grad(total, list(wrt.values())), strict=True))
    updated = set(base.updates)
    backward, kept = _cut(joint, gradients, known, updated)
    for name, v in kept.items():
        forward.output(name, twin[v])
    forward.signature = None
    recipe, state = program.recipe, program.state
    run = recipe.again(forward, recipe.fusion, state)
    back = recipe.again(backward, Fusion(recipe.fusion.stages), state)  # which has not all nodes that are kept apart
    return _Pair(run, back, list(kept), list(outputs), base.signature.written if base.signature else ())


def _cut(joint: Graph, gradients: Mapping[str, Value], known: set[Node], updated: set[str]) -> tuple[Graph, dict[str, Value]]:
    """The graph of ``gradients`` alone, and the values among ``known`` nodes that it takes as inputs, by name.

    Buffers are read where they are, unless the forward pass has updated them; views and constants are computed again.
    """
    again = (Kind.VIEW, Kind.GENERATED)
    copied: set[Node] = set()
    kept: dict[str, Value] = {}
    waiting = list(gradients.values())
    while waiting:
        v = waiting.pop()
        source = v.node.op.kind is Kind.SOURCE and v.node.name not in updated
        if v.node not in known or v.node.op.kind in again or source:
            if v.node not in copied:
                copied.add(v.node)
                waiting += v.node.inputs
        else:
            kept[f"kept {v.name}"] = v
    new, table = Graph(), dict[Value, Value]()
    new.initial = joint.initial
    for name, v in kept.items():
        table[v] = new.input(name, v.shape, v.dtype)
    for node in joint.nodes:
        if node in copied:
            with new.at(node.origin):
                copy = new.append(node.op, [table[v] for v in node.inputs], node.attrs, node.name)
            table.update(zip(node.outputs, copy.outputs, strict=True))
    for name, v in gradients.items():
        new.output(name, table[v])
    return new, kept
