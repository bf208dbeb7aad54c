"""Sequences of tensors, which exist at import only: lists whose length and positions are known."""

from __future__ import annotations

import numpy as np

import graphrt.ops as F
from graphrt.frontends.onnx.table import Call, Items, Tensor, ints, lift, operator
from graphrt.ir import Value


@operator("SequenceConstruct")
def sequence_construct(*inputs: Tensor) -> Items:
    return Items(inputs)


@operator("SequenceEmpty")
def sequence_empty(*, dtype: int = 1) -> Items:
    return Items()


@operator("SequenceAt", folds=False)
def sequence_at(sequence: Items, position: np.ndarray) -> Tensor:
    return sequence[int(position.item())]


@operator("SequenceInsert", folds=False)
def sequence_insert(sequence: Items, tensor: Tensor, position: np.ndarray | None = None) -> Items:
    """At the end where no position is given."""
    at = len(sequence) if position is None else int(position.item())
    return Items([*sequence[:at], tensor, *sequence[at:]])


@operator("SequenceErase", folds=False)
def sequence_erase(sequence: Items, position: np.ndarray | None = None) -> Items:
    """The last one where no position is given."""
    at = range(len(sequence))[-1 if position is None else int(position.item())]
    return Items([*sequence[:at], *sequence[at + 1 :]])


@operator("SequenceLength", folds=False)
def sequence_length(sequence: Items) -> np.ndarray:
    return np.asarray(len(sequence), np.int64)


@operator("SplitToSequence")
def split_to_sequence(x: Value, split: np.ndarray | None = None, *, axis: int = 0, keepdims: int = 1) -> Items:
    """In parts of the sizes given, or of one size; without any, in slices that may drop the axis."""
    if split is not None:
        return Items(F.split(x, ints(split) if split.ndim else int(split.item()), axis))
    return Items(F.split(x, 1, axis) if keepdims else F.unbind(x, axis))


@operator("ConcatFromSequence", folds=False)
def concat_from_sequence(sequence: Items, *, axis: int, new_axis: int = 0, call: Call) -> Value:
    return (F.stack if new_axis else F.concat)([lift(call.graph, x) for x in sequence], axis)
