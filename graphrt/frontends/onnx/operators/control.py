"""Control flow that is settled at import: a branch by a known condition, loops unrolled by a known count."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import Call, Ints, Items, Tensor, lift, operator

_LONGEST = 10_000  # steps that a loop may be unrolled to


@operator("If", folds=False)
def if_(cond: np.ndarray, *, then_branch: Any, else_branch: Any, call: Call) -> list[Tensor | Items]:
    return call.run(then_branch if bool(cond.item()) else else_branch)


def _stacked(rows: Sequence[Any], axis: int, call: Call) -> Tensor:
    if any(isinstance(r, Items) for r in rows):
        raise ConversionError("it collects sequences; only tensors can be stacked")
    known = [r for r in rows if isinstance(r, np.ndarray)]
    return np.stack(known, axis) if len(known) == len(rows) else F.stack([lift(call.graph, r) for r in rows], axis)


@operator("Loop", folds=False)
def loop(
    max_trip_count: np.ndarray | None = None, cond: np.ndarray | None = None, *state: Tensor | Items, body: Any, call: Call
) -> list[Tensor | Items]:
    """Unrolled: the count, and the condition after each step, must be known."""
    count = None if max_trip_count is None else max(int(max_trip_count.item()), 0)
    go, states = cond is None or bool(cond.item()), list(state)
    scans: list[list[Tensor | Items]] = [[] for _ in body.output[1 + len(states) :]]
    for i in itertools.count():
        if not go or i == count:
            break
        if i >= _LONGEST:
            raise ConversionError(f"it runs more than {_LONGEST} times, too many to unroll")
        proceed, *results = call.run(body, [np.asarray(i, np.int64), np.asarray(go), *states])
        if not isinstance(proceed, np.ndarray):
            raise ConversionError("its condition depends on what the program is given, so it cannot be unrolled")
        go, states = bool(proceed.item()), results[: len(states)]
        for rows, row in zip(scans, results[len(states) :], strict=True):
            rows.append(row)
    if any(not rows for rows in scans):
        raise ConversionError("it never runs, so what it collects has no known shape")
    return [*states, *(_stacked(rows, 0, call) for rows in scans)]


@operator("Scan", folds=False)
def scan(
    *inputs: Tensor,
    body: Any,
    num_scan_inputs: int,
    scan_input_axes: Ints = (),
    scan_input_directions: Ints = (),
    scan_output_axes: Ints = (),
    scan_output_directions: Ints = (),
    call: Call,
) -> list[Tensor | Items]:
    """Unrolled over the length of the scanned inputs."""
    scanned = inputs[-num_scan_inputs:]
    states: list[Tensor | Items] = list(inputs[:-num_scan_inputs])
    axes = list(scan_input_axes) or [0] * num_scan_inputs
    length = scanned[0].shape[axes[0]]
    backward = list(scan_input_directions) or [0] * num_scan_inputs
    collected: list[list[Tensor | Items]] = [[] for _ in body.output[len(states) :]]
    for i in range(length):
        rows = [
            F.select(lift(call.graph, x), axis, length - 1 - i if back else i)
            for x, axis, back in zip(scanned, axes, backward, strict=True)
        ]
        results = call.run(body, [*states, *rows])
        states = results[: len(states)]
        for found, row in zip(collected, results[len(states) :], strict=True):
            found.append(row)
    out_axes = list(scan_output_axes) or [0] * len(collected)
    reverse = list(scan_output_directions) or [0] * len(collected)
    rows_of = [found[::-1] if back else found for found, back in zip(collected, reverse, strict=True)]
    return [*states, *(_stacked(rows, axis, call) for rows, axis in zip(rows_of, out_axes, strict=True))]
