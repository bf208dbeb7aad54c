"""A small classifier and its training, for tests of running programs; a process starts faster with it than with the tests."""

from __future__ import annotations

import hashlib

import numpy as np

import graphrt as grt
from graphrt import ops as F


def classifier(train: bool) -> grt.Graph:
    g = grt.Graph()
    rng = np.random.default_rng(0)
    x = g.input("x", (16, 1, 12, 12))
    w = g.parameter("w", rng.standard_normal((20, 1, 3, 3)).astype(np.float32))
    h = F.flatten(F.max_pool2d(F.relu(F.conv2d(x, w)), 2), 1)
    h = F.linear(h, g.parameter("v", rng.standard_normal((10, h.shape[1])).astype(np.float32) * 0.05))
    g.output("logits", h)
    if train:
        target = g.input("target", (16,), "int64")
        loss = g.output("loss", F.cross_entropy(h, target))
        parameters = g.parameters()
        for p, d in zip(parameters, grt.grad(loss, parameters), strict=True):
            g.update(p, p - d * 0.1)
    return g


def batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((16, 1, 12, 12)).astype(np.float32), "target": rng.integers(0, 10, 16)}


def digest(steps: int = 3) -> str:
    program = grt.compile(classifier(True), target="cpu")
    for i in range(steps):
        program(batch(i))
    return hashlib.sha256(b"".join(np.ascontiguousarray(program.state[n]).tobytes() for n in sorted(program.state))).hexdigest()
