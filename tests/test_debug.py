"""The debug target: what it says of an access outside a buffer, and of the first NaN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphrt as grt
from graphrt import compiler, errors, optim
from graphrt import ops as F
from graphrt.schedule.kernel_ir import PointwiseKernel


def step() -> grt.Graph:
    """A training step with a convolution, a pool, a product and a loss."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    x, y = g.input("x", (6, 3, 9, 9)), g.input("y", (6,), "int64")
    w = g.parameter("w", rng.standard_normal((5, 3, 3, 3)).astype("f"))
    v = g.parameter("v", rng.standard_normal((80, 4)).astype("f"))
    h = F.max_pool2d(F.relu(F.conv2d(x, w, padding=1)), 2)
    loss = g.output("loss", F.cross_entropy(F.flatten(h, 1) @ v, y))
    optim.Adam(0.01).apply([w, v], grt.grad(loss, [w, v]), g.constant(0.01))
    return g


def feeds(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((6, 3, 9, 9)).astype("f"), "y": rng.integers(0, 4, 6)}


def test_it_computes_what_the_cpu_does() -> None:
    debug, fused = (grt.compile(step(), target=target) for target in ("debug", "cpu"))
    assert debug.launches > 2 * fused.launches
    for seed in range(3):
        np.testing.assert_allclose(debug(**feeds(seed))["loss"], fused(**feeds(seed))["loss"], rtol=1e-5)
    for name in ("w", "v"):
        np.testing.assert_allclose(debug.state[name], fused.state[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by", [-3, 5])
def test_an_access_outside_a_buffer_is_found(by: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that stores ``by`` elements beside its place does no harm, and is named."""
    real = compiler.lower

    def wrong(*args: Any) -> Any:
        kernel = real(*args)
        if not isinstance(kernel, PointwiseKernel):
            return kernel
        first, *others = kernel.block.insts
        assert first.op == "load"
        slot, offset, guards = first.args
        moved = replace(first, args=(slot, offset * 2 + by, guards))
        return replace(kernel, block=replace(kernel.block, insts=[moved, *others]))

    monkeypatch.setattr(compiler, "lower", wrong)
    g = grt.Graph()
    g.output("y", F.exp(g.input("x", (7,))))
    with pytest.raises(errors.TargetError, match=r"test_debug.py:\d+.*of exp reaches for element -?\d+ of x, which has 7"):
        grt.compile(g, target="debug")(x=np.ones(7, "f"))


def test_the_first_nan_is_named() -> None:
    g = grt.Graph()
    x = g.input("x", (4,))
    g.output("y", F.sum(F.sqrt(F.log(x)) * 2.0))
    program = grt.compile(g, target="debug")
    with pytest.warns(UserWarning, match=r"test_debug.py:\d+.*sqrt\(...\) has the first NaN") as found:
        assert np.isnan(program(x=np.float32([1, 2, 0.5, 3]))["y"])
    assert len(found) == 1


def test_it_is_not_saved(tmp_path: Any) -> None:
    g = grt.Graph()
    g.output("y", F.exp(g.input("x", (4,))))
    with pytest.raises(errors.TargetError, match="this one is of debug"):
        grt.compile(g, target="debug").save(tmp_path)
