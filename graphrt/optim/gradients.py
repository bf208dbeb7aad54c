"""Gradients before an update: their norm, bounds on it and on each element, and what each process has of them."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.op import Kind
from graphrt.ops.base import apply
from graphrt.ops.collective import everywhere


def total_norm(grads: Sequence[Value], norm_type: float = 2.0) -> Value:
    """The norm of all ``grads`` as one vector, a float32 scalar; ``norm_type`` inf is the largest absolute value.

    Of gradients of sharded parameters all parts count.
    As torch.nn.utils.get_total_norm. Raises ArgumentError for no gradient and a ``norm_type`` that is not above 0.
    """
    if not grads or not norm_type > 0.0:
        raise ArgumentError(f"a norm needs at least one gradient and a norm_type above 0, got {len(grads)} and {norm_type}")
    sizes = [F.abs(F.cast(g, "float32")) for g in grads]
    if math.isinf(norm_type):
        return functools.reduce(F.maximum, (everywhere(F.amax(size), "max") for size in sizes))
    powers = (F.sum(size * size if norm_type == 2.0 else size**norm_type) for size in sizes)
    total = functools.reduce(operator.add, (everywhere(power, "sum") for power in powers))
    return F.sqrt(total) if norm_type == 2.0 else total ** (1.0 / norm_type)


def clip_grad_norm(grads: Sequence[Value], max_norm: float, norm_type: float = 2.0) -> tuple[list[Value], Value]:
    """``grads`` scaled down together so that their norm is at most ``max_norm``, and the norm before.

    As torch.nn.utils.clip_grad_norm_ (Pascanu et al., ICML 2013); ``norm_type`` as of ``total_norm``. Raises ArgumentError.
    """
    if not max_norm >= 0.0:
        raise ArgumentError(f"max_norm must be at least 0, got {max_norm}")
    norm = total_norm(grads, norm_type)
    factor = F.minimum(max_norm / (norm + 1e-6), 1.0)
    return [g * F.cast(factor, g.dtype) for g in grads], norm


def clip_grad_value(grads: Sequence[Value], clip_value: float) -> list[Value]:
    """``grads`` with each element in [-clip_value, clip_value], as torch.nn.utils.clip_grad_value_.

    Raises ArgumentError for a negative ``clip_value``.
    """
    if not clip_value >= 0.0:
        raise ArgumentError(f"clip_value must be at least 0, got {clip_value}")
    return [F.clamp(g, -clip_value, clip_value) for g in grads]


def own_part(grad: Value, axis: str) -> Value:
    """``grad`` before it was summed over the processes along ``axis``: what this one has of it."""
    assert grad.graph.mesh is not None
    share = 1.0 / grad.graph.mesh.axes[axis]

    def unsummed(v: Value) -> Value | None:
        """The summand, if there is a sum that need not be taken."""
        node = v.node
        if node.op.name == "all_reduce" and node.attrs["op"] == "sum" and len(node.inputs) == 1:
            if node.attrs["axis"] == axis:
                return node.inputs[0]
        elif node.op.name not in ("add", "neg", "cast") and not (node.op.kind is Kind.VIEW and len(node.inputs) == 1):
            return None
        found = [unsummed(x) for x in node.inputs]
        if all(x is None for x in found):
            return None
        parts = [x * share if part is None else part for x, part in zip(node.inputs, found, strict=True)]
        return apply(node.op.name, *parts, **node.attrs)

    found = unsummed(grad)
    return grad * share if found is None else found


def of_all(part: Value, axis: str, of: str) -> Value:
    """The sum of what processes along ``axis`` have of the gradient of the parameter ``of``, or of another number ("")."""
    with part.graph.phase("bwd", of):
        return F.all_reduce(F.pvary(part, axis), axis)
