"""Properties of activations, norms and losses: any shape and argument gives torch's values and gradients."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import Call, compare, same

from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
CALLS = 8  # calls in one program: a compile costs more than running them
SLOPES: dict[str, tuple[str, ...]] = {  # activations and their positive arguments
    "relu": (), "relu6": (), "leaky_relu": ("negative_slope",), "hardshrink": ("lambd",), "softshrink": ("lambd",),
    "hardsigmoid": (), "hardswish": (), "elu": ("alpha",), "selu": (), "celu": ("alpha",), "softplus": ("beta",), "sigmoid": (),
    "logsigmoid": (), "softsign": (), "tanhshrink": (), "silu": (), "mish": (), "gelu": (), "tanh": (), "rrelu": (),
}  # fmt: skip


def numbers(draw: st.DrawFn, shape: tuple[int, ...], scale: float = 2.0) -> np.ndarray:
    """Normal numbers; never on an activation's kink but at 0."""
    drawn = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape) * scale
    return np.asarray(drawn, np.float32)


def sizes(draw: st.DrawFn, low: int, high: int, least: int = 1) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(least, 5), min_size=low, max_size=high)))


@st.composite
def activations(draw: st.DrawFn) -> Call:
    name = draw(st.sampled_from([*SLOPES, "softmax", "log_softmax", "softmin", "glu"]))
    if name in SLOPES:
        arguments = {a: draw(st.floats(0.125, 2.0, width=16)) for a in SLOPES[name]}
        return same(name, [numbers(draw, sizes(draw, 0, 4, 0))], **arguments)
    shape = sizes(draw, 1, 4)
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    if name == "glu":
        shape = tuple(2 * n if d == dim % len(shape) else n for d, n in enumerate(shape))
    return same(name, [numbers(draw, shape)], dim=dim)


@st.composite
def norms(draw: st.DrawFn) -> Call:
    name = draw(st.sampled_from(["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm", "local_response_norm"]))
    groups, tail = draw(st.integers(1, 3)), sizes(draw, 1, 2)
    shape = (draw(st.integers(2, 4)), groups * draw(st.integers(1, 3)), *tail[:-1], tail[-1] + 1)
    x, c = numbers(draw, shape), shape[1]
    if name == "local_response_norm":
        size, alpha, beta = draw(st.integers(1, 5)), draw(st.floats(0.1, 1.0)), draw(st.floats(0.5, 1.0))
        return same(name, [x], size=size, alpha=alpha, beta=beta)
    eps = draw(st.sampled_from([1e-5, 1e-3]))
    if name in ("layer_norm", "rms_norm"):
        normal = shape[-draw(st.integers(1, len(shape) - 1)) :]
        w, b = numbers(draw, normal), numbers(draw, normal)
        if name == "rms_norm":
            return (lambda x, w: F.rms_norm(x, normal, w, eps)), (lambda x, w: T.rms_norm(x, normal, w, eps)), [x, w]
        return (
            lambda x, w, b: F.layer_norm(x, normal, w, b, eps),
            lambda x, w, b: T.layer_norm(x, normal, w, b, eps),
            [x, w, b],
        )
    affine = [numbers(draw, (c,)), numbers(draw, (c,))] if draw(st.booleans()) else []
    if name == "group_norm":
        ours, theirs = (
            lambda x, w=None, b=None, f=f: f(x, groups, w, b, eps) for f in (F.group_norm, T.group_norm)
        )  # fmt: skip
        return ours, theirs, [x, *affine]
    options: dict[str, Any] = {"training": True} if name == "batch_norm" else {}
    ours, theirs = (
        lambda x, w=None, b=None, f=f: f(x, None, None, weight=w, bias=b, eps=eps, **options)
        for f in (getattr(F, name), getattr(T, name))
    )
    return ours, theirs, [x, *affine]


@st.composite
def losses(draw: st.DrawFn) -> Call:
    options: dict[str, Any] = {"reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    name = draw(st.sampled_from(["cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "bits", "kl_div"]))
    if name == "cross_entropy":
        shape = (draw(st.integers(2, 5)), draw(st.integers(2, 5)), *sizes(draw, 0, 2))
        classes = numbers(draw, (shape[0], *shape[2:]), 100.0).astype(np.int64) % shape[1]
        if draw(st.booleans()) and (classes != 0).any():
            options["ignore_index"] = 0
        options["label_smoothing"] = draw(st.sampled_from([0.0, 0.3]))
        weight = np.abs(numbers(draw, (shape[1],))) + 0.1 if draw(st.booleans()) else None
        return (
            lambda x, t: F.cross_entropy(x, t, None if weight is None else x.graph.constant(weight), **options),
            lambda x, t: T.cross_entropy(x, t, None if weight is None else torch.from_numpy(weight).double(), **options),
            [numbers(draw, shape), classes],
        )
    shape = sizes(draw, 1, 3)
    x, y = numbers(draw, shape), numbers(draw, shape)
    if name == "bits":
        name, y = "binary_cross_entropy_with_logits", (y > 0).astype(np.float32)
    if name == "kl_div":
        options["log_target"] = True
    if name in ("smooth_l1_loss", "huber_loss"):
        options["beta" if name == "smooth_l1_loss" else "delta"] = draw(st.floats(0.25, 2.0, width=16))
    return same(name, [x, y], **options)


@given(st.lists(st.one_of(activations(), norms(), losses()), min_size=CALLS, max_size=CALLS))
@settings(max_examples=examples(14, 2))
def test_values_and_gradients_equal_torch(calls: list[Call]) -> None:
    compare({f"call {i}": call for i, call in enumerate(calls)}, 200)
