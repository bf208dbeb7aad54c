"""LeNet-5 trains alike on the Triton kernels and the reference: three steps, every loss and every parameter."""

from __future__ import annotations

import numpy as np
from graphs import lenet_step

import graphrt as grt


def test_three_steps_agree_with_the_reference(target: str) -> None:
    batch = 8
    rng = np.random.default_rng(0)
    shapes = {n: v.types[0].shape for n, v in lenet_step(batch).sources.items() if n not in ("x", "target", "lr")}
    start = {n: rng.standard_normal(s).astype(np.float32) / max(np.prod(s[1:]), 4) ** 0.5 for n, s in shapes.items()}
    programs = [grt.compile(lenet_step(batch), target=t) for t in (target, "reference")]
    for program in programs:
        for name, array in start.items():
            program.state.set(name, array if "momentum" not in name else np.zeros_like(array))
    for step in range(3):
        x = rng.standard_normal((batch, 1, 32, 32)).astype(np.float32)
        y = rng.integers(0, 10, batch)
        ours, theirs = (float(p(x=x, target=y, lr=0.05)["loss"]) for p in programs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, err_msg=f"step {step}")
    for name in start:
        np.testing.assert_allclose(programs[0].state[name], programs[1].state[name], atol=1e-4, err_msg=name)
