"""On a GPU: which operands of contractions are computed on load, which are stored, and what shares a contraction's launch."""

from __future__ import annotations

import os

import pytest

import graphrt as grt
from graphrt import ops as F
from graphrt.runtime.machine import find_data_sheet
from graphrt.runtime.roofline import predict

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("plans for a GPU are made in the lane that compiles", allow_module_level=True)

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton import target as triton_target

LAST = (0, 2, 3, 1)


def layer(batch: int, channels: int, size: int, filters: int, kernel: int) -> grt.Graph:
    """A convolution of what a norm and a ReLU make of a map."""
    g = grt.Graph()
    x = g.input("x", (batch, channels, size, size), "bfloat16", order=LAST)
    scale, shift = g.input("scale", (channels, 1, 1)), g.input("shift", (channels, 1, 1))
    w = g.parameter("w", shape=(filters, channels, kernel, kernel), dtype="bfloat16")
    a = F.cast(F.relu(F.cast(x, "float32") * scale + shift), "bfloat16")
    g.output("y", F.permute(F.conv2d(a, w, padding=kernel // 2), LAST))
    return g


@pytest.mark.parametrize(
    ("sizes", "launches"),
    [
        ((256, 256, 14, 256, 3), 2),  # nine taps and two tiles of channels
        ((256, 64, 56, 64, 3), 2),
        ((256, 256, 56, 64, 1), 1),  # each element is loaded once
        ((2, 64, 8, 64, 3), 1),  # a launch takes longer
    ],
)
def test_what_is_loaded_often_is_stored_once(sizes: tuple[int, ...], launches: int) -> None:
    program = grt.compile(layer(*sizes), target="cuda:sm_90")
    assert program.launches == launches
    said = [d.reason for d in program.decisions if "storing it once takes" in d.reason]
    assert bool(said) == (launches == 2)


def test_what_is_stored_is_faster_by_the_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The times that decide, and the instructions of both ways, agree on which is faster."""
    seconds = {}
    for way in ("stored", "on load"):
        if way == "on load":
            monkeypatch.setattr(triton_target, "on_load", lambda options: None)
        program = grt.compile(layer(256, 256, 14, 256, 3), target="cuda:sm_90")
        estimate = predict(program, find_data_sheet("cuda:sm_90"), 256, compiled=True)
        seconds[way, len(estimate.launches)] = estimate.seconds
    assert seconds["stored", 2] < 0.8 * seconds["on load", 1]


@pytest.mark.parametrize(("rows", "beside"), [(256, True), (1 << 16, False)])
def test_what_moves_much_has_a_launch_of_its_own(rows: int, beside: bool) -> None:
    """Beside a contraction its programs would have the contraction's registers."""
    g = grt.Graph()
    x, w, z = g.input("x", (512, 512), "bfloat16"), g.input("w", (512, 512), "bfloat16"), g.input("z", (rows, 512))
    g.output("y", x @ w)
    g.output("s", F.sum(z * z, 1))
    program = grt.compile(g, target="cuda:sm_90")
    assert program.launches == (1 if beside else 2)
    (pair,) = (d for d in program.decisions if d.stage == "pairs")
    assert pair.taken == beside and ("neither waits" if beside else "moves 134479872 bytes") in pair.reason
