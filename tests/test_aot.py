"""Every kernel of LeNet-5's training step compiled for GPUs that are not here, and what the compiler made of it.

The figures are golden: ``GRAPHRT_ACCEPT=1 pytest tests/test_aot.py`` accepts new ones after a look at what changed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import lenet_step

import graphrt as grt
from graphrt import ops as F

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, so it cannot run under TRITON_INTERPRET=1", allow_module_level=True)

triton = pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton.aot import ARCHITECTURES  # noqa: E402

pytestmark = pytest.mark.aot
GOLDEN = Path(__file__).parent / "golden"
SLACK = 1.1  # other versions of Triton may take a tenth more registers before it counts as worse


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_lenet_kernels(target: str) -> None:
    program = grt.compile(lenet_step(), target=target)
    assert program.launches <= 24
    reports = program.kernels()
    assert len(reports) == program.launches
    assert not [r for r in reports if r.spills], "no kernel may spill registers"
    found: list[dict[str, Any]] = [
        {"name": r.name, "registers": r.registers, "shared": r.shared, "instructions": dict(r.instructions)} for r in reports
    ]
    path = GOLDEN / f"lenet5_kernels_{target.replace(':', '_')}.json"
    if os.environ.get("GRAPHRT_ACCEPT") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text("[\n" + ",\n".join("  " + json.dumps(row) for row in found) + "\n]\n")
    golden = json.loads(path.read_text())
    assert [r["name"] for r in found] == [r["name"] for r in golden], "the launches changed; look, then accept"
    for new, old in zip(found, golden, strict=True):
        assert new["registers"] <= SLACK * old["registers"] + 2, f"{new['name']} takes more registers than {old}"
        assert new["shared"] <= SLACK * old["shared"], f"{new['name']} takes more shared memory than {old}"


def index_and_scan_ops() -> grt.Graph:
    """Every template that walks one dimension, in two dtypes, with arithmetic around it."""
    g = grt.Graph()
    for dtype in ("float32", "bfloat16"):
        x, table = g.input(f"x.{dtype}", (64, 1000), dtype), g.input(f"table.{dtype}", (5000, 256), dtype)
        token = g.input(f"token.{dtype}", (8, 32), "int64")
        rows = F.embedding(token, table)
        results = [F.cumsum(F.relu(x), 1), F.logcumsumexp(x, 1), F.cumprod(x, 0), F.cummax(x, 1)[0], F.topk(x, 10)[0]]
        results += [rows, grt.grad(F.sum(rows * rows), [table])[0], F.erfinv(F.tanh(x)) + F.atan2(x, F.expm1(x))]
        for i, y in enumerate(results):
            g.output(f"{dtype}.{i}", y)
    g.output("kept", F.nms(g.input("boxes", (300, 4)), g.input("scores", (300,)), 0.5))
    return g


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_scans_sorts_gathers_and_scatters(target: str) -> None:
    """Nothing spills, and addresses that the data decides do not keep the rest from moving 16 bytes at a time."""
    reports = grt.compile(index_and_scan_ops(), target=target).kernels()
    assert {r.name.split("__")[0] for r in reports} >= {"scan", "sort", "scatter", "nms"}
    assert not [r for r in reports if r.spills]
    if target.startswith("cuda"):
        wide = [r for r in reports if any("128" in name for name in r.instructions)]
        assert len(wide) >= len(reports) // 2


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_halves_reach_the_tensor_cores(target: str) -> None:
    """Also behind a prologue, whose scale and shift for each channel must not take a tile of shared memory in each stage."""
    g = grt.Graph()
    x = g.input("x", (32, 64, 28, 28), "bfloat16", order=(0, 2, 3, 1))
    scale, shift = g.input("scale", (64, 1, 1)), g.input("shift", (64, 1, 1))
    w = g.parameter("w", shape=(64, 64, 3, 3), dtype="bfloat16")
    a = F.cast(F.relu(F.cast(x, "float32") * scale + shift), "bfloat16")
    g.output("y", F.conv2d(a, w, padding=1))
    g.output("dw", grt.grad(F.sum(F.cast(F.relu(F.conv2d(a, w, padding=1)), "float32")), [w])[0])
    reports = [r for r in grt.compile(g, target=target).kernels() if r.name.startswith("conv")]
    core = {"cuda:sm_80": "HMMA", "cuda:sm_90": "HGMMA", "hip:gfx942": "v_mfma"}[target]
    assert len(reports) == 2
    for r in reports:
        assert any(name.startswith(core) for name in r.instructions), r
        assert not r.spills and r.shared <= 100 << 10, r


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_columns_are_not_held_in_registers(target: str) -> None:
    """The batch norm of ResNet-50's last maps: 12,544 elements of each of 512 channels that lie side by side."""
    g = grt.Graph()
    x = g.input("x", (256, 7, 7, 512))
    y = F.relu((x - F.mean(x, (0, 1, 2), keepdim=True)) * F.rsqrt(F.var(x, (0, 1, 2), keepdim=True) + 1e-5))
    g.output("y", y)
    for r in grt.compile(g, target=target).kernels():
        assert not r.spills and not r.narrow, r


def test_program_for_an_absent_gpu_says_so() -> None:
    program = grt.compile(lenet_step(), target="cuda:sm_90")
    with pytest.raises(grt.errors.TargetError, match="cannot run on this machine"):
        program(x=np.zeros((64, 1, 32, 32), np.float32), target=np.zeros(64, np.int64), lr=0.1)
    assert "@triton.jit" in program.source(0)


def test_architecture_is_checked() -> None:
    with pytest.raises(grt.errors.TargetError, match="cuda:sm_80"):
        grt.compile(lenet_step(), target="cuda:90")
