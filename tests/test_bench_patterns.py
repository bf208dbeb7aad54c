"""The patterns of ``graphrt bench fusion``: names, sizes, and numbers beside the reference's and torch's."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import check

from graphrt.bench import builder, families
from graphrt.bench.patterns import FAMILIES, PATTERNS, Builder, Pattern, graph
from graphrt.errors import ArgumentError
from graphrt.targets.reference.evaluate import evaluate

WITH_PEER = [name for name, pattern in PATTERNS.items() if pattern.peer is not None]


def directions(pattern: Pattern) -> list[bool]:
    """Forward, and with the backward pass where there is one."""
    return [False, True] if pattern.backward else [False]


def test_names_are_unique_and_sizes_are_positive() -> None:
    assert len(PATTERNS) == sum(len(getattr(families, family).PATTERNS) for family in FAMILIES) >= 52
    assert [family for family in FAMILIES if family not in {p.family for p in PATTERNS.values()}] == []
    for name, pattern in PATTERNS.items():
        assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name) and "\n" not in pattern.about and pattern.family in FAMILIES
        assert pattern in getattr(families, pattern.family).PATTERNS
        assert all(0 < tiny <= large and 0 < small <= large for tiny, small, large in pattern.sizes.values()), name
        assert pattern.small == pattern.at("small") != pattern.at("large") == pattern.large


@pytest.mark.at_O3
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_computes_what_the_reference_does(name: str, target: str, rng: np.random.Generator) -> None:
    for backward in directions(PATTERNS[name]):
        g, b = graph(PATTERNS[name], "tiny", backward)
        check(g, b.feeds(rng), target, length=2 * 9 * 9)  # a sum over a batch of feature maps


@pytest.mark.parametrize("name", WITH_PEER)
def test_the_peer_computes_the_same(name: str, rng: np.random.Generator) -> None:
    """Results, gradients and what becomes of the state, in float64; of a pattern that draws numbers only the shapes."""
    pattern = PATTERNS[name]
    assert pattern.peer is not None
    g, b = graph(pattern, "tiny", pattern.backward)
    feeds = b.feeds(rng)
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in {**g.initial, **feeds}.items()}
    expected = evaluate(g, wide)
    operands = {k: torch.from_numpy(wide[k].copy()) for k in b.operands(feeds)}
    for k in b.wrt:
        operands[k].requires_grad_(pattern.backward)
    found = pattern.peer(b.sizes, *operands.values())
    ys = found if isinstance(found, tuple | list) else [found]
    wanted = [g.outputs[k] for k in g.outputs if k.startswith("y")] or [g.updates[k] for k in b.wrt if k in g.updates]
    assert [tuple(y.shape) for y in ys] == [v.shape for v in wanted]
    if b.random:
        return
    for y, v in zip(ys, wanted, strict=True):
        close(y, expected[v])
    if pattern.backward:
        dys = [torch.from_numpy(wide[f"dy{i}"]) if f"dy{i}" in wide else torch.ones_like(y) for i, y in enumerate(ys)]
        for k, d in zip(b.wrt, torch.autograd.grad(ys, [operands[k] for k in b.wrt], dys), strict=True):
            close(d, expected[g.outputs[f"d {k}"]])
    for k, v in g.updates.items():
        if k in operands and v.ndim:  # counters are graphrt's own
            close(operands[k], expected[v])


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    """Relative to the largest element, by one rounding to float32, which the reference's constants have."""
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=2.0**-23 * np.abs(expected).max())


def test_every_size_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads, groups and channels divide as they should; zeros stand for the parameters, which are large."""
    monkeypatch.setattr(builder._Draw, "__call__", lambda self, rng: np.zeros(self.shape, self.dtype.numpy))
    for name, pattern in PATTERNS.items():
        for size in ("small", "large"):
            g, _ = graph(pattern, size, pattern.backward)
            g.verify()
            assert bool(g.outputs) == (pattern.family != "optimizer"), name
            assert {k for k in g.outputs if k.startswith("d ")} != set() or not pattern.backward, name


def test_a_builder_draws_what_was_asked_for(rng: np.random.Generator) -> None:
    b = Builder({"n": 1000})
    b.input("x", "n", 3)
    b.input("normal", "n", kind="normal", differentiable=False)
    b.input("number", "n", dtype="int64", high=7)
    b.input("keep", "n", dtype="bool")
    b.parameter("w", 5, "n")
    b.parameter("table", "n", dtype="int8", low=-3, high=4, trainable=False)
    feeds = b.feeds(rng)
    assert list(b.operands(feeds)) == ["x", "normal", "number", "keep", "w", "table"] and list(b.wrt) == ["x", "w"]
    assert feeds["x"].shape == (1000, 3) and -1 <= feeds["x"].min() < -0.9 and 0.9 < feeds["x"].max() < 1
    assert abs(feeds["normal"].std() - 1) < 0.1 and set(feeds["number"]) == {*range(7)} and feeds["keep"].dtype == np.bool_
    assert 0.9 < np.abs(b.graph.initial["w"]).max() * 1000**0.5 <= 1 and set(b.graph.initial["table"]) == {*range(-3, 4)}
    assert not np.shares_memory(b.operands(feeds)["w"], b.graph.initial["w"])
    assert Builder({}).parameter("w", 3).shape == (3,) and not b.random


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ArgumentError, match="softmax_argmax has no backward pass"):
        graph(PATTERNS["softmax_argmax"], "tiny", backward=True)
    with pytest.raises(ArgumentError, match="a size is tiny, small, large, got 'huge'"):
        graph(PATTERNS["softmax"], "huge")
    with pytest.raises(ArgumentError, match="x: kind is uniform or normal, got 'cauchy'"):
        Builder({}).input("x", kind="cauchy")
    with pytest.raises(ArgumentError, match=r"x is drawn from \[low, high\), got \[-1.0, -2\)"):
        Builder({}).input("x", high=-2)
