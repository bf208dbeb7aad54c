"""Equal kernels exist once: what makes launches equal, and that results do not change."""

from __future__ import annotations

import os

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import ops as F

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton.sharing import LaunchCode, distinct, share


def chain(depth: int) -> grt.Graph:
    """``depth`` linear layers of one shape."""
    g = grt.Graph()
    h = g.input("x", (16, 32))
    for i in range(depth):
        h = F.relu(F.linear(h, g.parameter(f"w{i}", np.eye(32, dtype=np.float32) * (i + 1))))
    g.output("y", h)
    return g


def code(name: str, **changes: object) -> LaunchCode:
    text = [f"def {name}_store(acc, ARGS):", "    return acc"]
    fields = {"module": "matmul", "kernel": "matmul", "display": "matmul", "slots": [], "options": {"num_warps": 4}, "grid": 1}
    return LaunchCode(**{**fields, "constants": {"EPILOGUE": f"@{name}_store", "M": 16}, "text": text, **changes})


def test_names_of_groups_do_not_matter_and_everything_else_does() -> None:
    others = [
        code("g2", constants={"EPILOGUE": "@g2_store", "M": 17}),
        code("g3", options={"num_warps": 8}),
        code("g4", text=["def g4_store(acc, ARGS):", "    return acc + 1"]),
        code("g5", display="matmul__add"),
    ]
    shared = share([code("g0"), code("g1"), *others])
    assert [c.same_as for c in shared] == [None, 0, None, None, None, None]
    assert shared[1].constants["EPILOGUE"] == "@g0_store"
    assert distinct(shared) == {0: [0, 1], 2: [2], 3: [3], 4: [4], 5: [5]}
    assert distinct(share([code("g0", grid=0), code("g1")])) == {0: [1]}


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="asks for the code of a target that compiles")
def test_source_has_each_kernel_once() -> None:
    program = grt.compile(chain(5), target="cuda:sm_90")
    assert program.launches == 5
    assert program.source().count("_store(") == 1 and program.source().count("# runs the kernel of g0") == 4
    assert "g0_store(" in program.source(3) and program.source(3).startswith("# g3 ")


@pytest.mark.interpret
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1 before Triton is imported")
def test_shared_kernels_compute_the_same() -> None:
    x = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    check(chain(5), {"x": x}, "interpret", 32)
