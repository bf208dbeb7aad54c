"""Golden plans: how a few small models are cut into kernels.

``GRAPHRT_ACCEPT=1 pytest tests/test_plans.py`` accepts new ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from graphs import conv_bn_relu, inception_step, lenet_step, mlp_step, one_kernel_each, residual_block

import graphrt as grt

GOLDEN = Path(__file__).parent / "golden"


MODELS: dict[str, Callable[[], grt.Graph]] = {
    "lenet5_step": lenet_step,
    "mlp_step": mlp_step,
    "conv_bn_relu": conv_bn_relu,
    "residual_block": residual_block,
    "inception_step": lambda: inception_step(blocks=1, autocast="bfloat16"),
    "one_kernel_each": one_kernel_each,
}


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize("name", MODELS)
def test_plan(name: str, target: str) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1" and target != "cpu":
        pytest.fail("plans for a GPU are made in the lane that compiles; run without TRITON_INTERPRET")
    program = grt.compile(MODELS[name](), target=target)
    path = GOLDEN / f"{name}_{target.replace(':', '_')}.txt"
    if os.environ.get("GRAPHRT_ACCEPT") == "1":
        path.write_text(program.plan_text())
    assert program.plan_text() == path.read_text(), "the plan changed; look at the difference, then accept it"


def test_lenet_step_is_one_program_of_at_most_24_launches() -> None:
    program = grt.compile(lenet_step(), target="cuda:sm_90")
    assert program.launches <= 24
    assert program.schedule is not None
    launches = program.schedule.launches
    updating = [x for x in launches if any(n.origin.phase == "opt" for g in x.groups if g.kind != "template" for n in g.nodes)]
    assert len(updating) <= 1, "updates run behind the contraction they take, the others in one launch"
    stored = {
        name for x in launches for g in x.groups for v in g.outputs for name, u in program.graph.updates.items() if u is v
    }
    assert stored == set(program.graph.updates), "no update is copied"
