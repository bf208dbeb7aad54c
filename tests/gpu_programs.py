"""What the tests of the GPU runtime share: a small program, its inputs, and the devices it runs on."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED, target_parameters

import graphrt as grt
from graphrt import ops as F
from graphrt.targets.triton.null import Event, NullDriver
from graphrt.targets.triton.null import driver as null_driver

NULL: NullDriver = null_driver("cuda:sm_90")
DEVICES = target_parameters() if INTERPRETED else ["null", *target_parameters()[1:]]  # every target that a driver runs
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="compiles kernels, so it cannot run under TRITON_INTERPRET=1")


def step(train: bool = True, batch: int = 8) -> grt.Graph:
    """A training step of a small network, or its forward pass: three like layers, so that kernels repeat."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    h = g.input("x", (batch, 16))
    for i in range(3):
        h = F.relu(F.linear(h, g.parameter(f"w{i}", rng.standard_normal((16, 16)).astype(np.float32))))
    g.output("scores", h)
    if train:
        loss = g.output("loss", F.cross_entropy(h, g.input("y", (batch,), "int64")))
        parameters, lr = g.parameters(), g.input("lr")
        for p, d in zip(parameters, grt.grad(loss, parameters), strict=True):
            g.update(p, p - d * lr)
    return g


def feeds(seed: int = 0, batch: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, 16)).astype(np.float32), "y": rng.integers(0, 16, batch), "lr": 0.1}


def slots(program: grt.Program) -> dict[str, Any]:
    return program._binary._slots._slots


def launches(program: grt.Program) -> list[Any]:
    return program._binary.image.launches


def kinds(log: list[Event]) -> collections.Counter[str]:
    return collections.Counter(event.kind for event in log)
