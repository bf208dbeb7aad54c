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

import graphrt as grt
from graphrt import ops as F

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles kernels, so it cannot run under TRITON_INTERPRET=1", allow_module_level=True)

triton = pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton.aot import ARCHITECTURES  # noqa: E402

pytestmark = pytest.mark.aot
GOLDEN = Path(__file__).parent / "golden"
SLACK = 1.1  # other versions of Triton may take a tenth more registers before it counts as worse


def lenet_step(batch: int = 64) -> grt.Graph:
    """The training step of LeNet-5 with SGD and momentum, at the level of the graph."""
    g = grt.Graph()
    x, target = g.input("x", (batch, 1, 32, 32)), g.input("target", (batch,), "int64")

    def weight(name: str, *shape: int) -> grt.Value:
        return g.parameter(name, np.zeros(shape, np.float32))

    h = F.max_pool2d(F.relu(F.conv2d(x, weight("conv1.weight", 6, 1, 5, 5), weight("conv1.bias", 6))), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, weight("conv2.weight", 16, 6, 5, 5), weight("conv2.bias", 16))), 2)
    h = F.flatten(h, 1)
    for i, (a, b) in enumerate(((400, 120), (120, 84), (84, 10)), 1):
        h = F.linear(h, weight(f"fc{i}.weight", b, a), weight(f"fc{i}.bias", b))
        h = F.relu(h) if i < 3 else h
    loss = g.output("loss", F.cross_entropy(h, target))
    parameters = g.parameters()
    gradients = grt.grad(loss, parameters)
    with g.phase("opt"):
        lr = g.input("lr")
        for p, d in zip(parameters, gradients, strict=True):
            momentum = g.parameter(f"{p.name}.momentum", shape=p.shape, trainable=False)
            velocity = momentum * 0.9 + d
            g.update(momentum, velocity)
            g.update(p, p - velocity * lr)
    return g


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


def test_program_for_an_absent_gpu_says_so() -> None:
    program = grt.compile(lenet_step(), target="cuda:sm_90")
    with pytest.raises(grt.errors.TargetError, match="cannot run on this machine"):
        program(x=np.zeros((64, 1, 32, 32), np.float32), target=np.zeros(64, np.int64), lr=0.1)
    assert "@triton.jit" in program.source(0)


def test_architecture_is_checked() -> None:
    with pytest.raises(grt.errors.TargetError, match="cuda:sm_80"):
        grt.compile(lenet_step(), target="cuda:90")
