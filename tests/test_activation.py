"""Activations and small functions beside torch, at the edges too; dropout and random numbers by their statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED
from test_functional import TARGET, Call, compare, data, same

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.errors import GraphrtError
from graphrt.targets.reference.evaluate import evaluate

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
SMOOTH = np.concatenate([data(40), np.array([30.0, -30.0, 88.0, -88.0, 1e-4, -1e-4], np.float32)])
PLAIN: dict[str, dict[str, Any]] = {
    "relu6": {}, "hardtanh": {"min_val": -0.5, "max_val": 2.0}, "leaky_relu": {"negative_slope": 0.1}, "rrelu": {},
    "hardshrink": {"lambd": 0.4}, "softshrink": {"lambd": 0.4}, "hardsigmoid": {}, "hardswish": {}, "elu": {"alpha": 0.7},
    "selu": {}, "celu": {"alpha": 1.5}, "softplus": {"beta": 2.0}, "logsigmoid": {}, "softsign": {}, "tanhshrink": {},
    "silu": {}, "mish": {}, "gelu": {}, "threshold": {"threshold": 0.1, "value": -2.0}, "softmin": {"dim": 0},
}  # fmt: skip


def test_activations_equal_torch() -> None:
    calls = {n: same(n, [SMOOTH[:-4] if n == "tanhshrink" else SMOOTH], **k) for n, k in PLAIN.items()}
    calls["prelu"] = same("prelu", [data(3, 4, 5), data(4)])
    calls["prelu of one"] = same("prelu", [data(3, 4, 5), data(1)])
    calls["glu"] = same("glu", [data(3, 6, 2)], dim=1)
    calls["nothing"] = same("softmax", [data(3, 0)], dim=1)
    compare(calls)


@pytest.mark.parametrize("name", [n for n in PLAIN if n not in ("softmin", "tanhshrink")])
def test_each_activation_is_one_kernel(name: str) -> None:
    graph = grt.Graph()
    graph.output("y", getattr(F, name)(graph.input("x", (64, 33)), **PLAIN[name]))
    assert grt.compile(graph, target=TARGET).launches == 1


def test_activations_at_the_edges() -> None:
    """Zeros, infinities and NaN give what torch gives."""
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 90.0, -90.0], np.float32)
    graph = grt.Graph()
    v = graph.input("x", x.shape)
    names = [
        n for n in PLAIN if n not in ("softmin", "tanhshrink", "gelu", "mish", "silu", "softsign", "hardswish", "logsigmoid")
    ]
    for n in names:
        graph.output(n, getattr(F, n)(v, **PLAIN[n]))
    outputs = grt.compile(graph, target=TARGET)(x=x)
    for n in names:
        expected = getattr(T, n)(torch.from_numpy(x).double(), **PLAIN[n]).numpy()
        np.testing.assert_allclose(outputs[n], expected, rtol=1e-5, atol=1e-7, err_msg=n)


def test_small_functions() -> None:
    x, y, z = data(20), data(20, seed=1), np.abs(data(20, seed=2)) + 0.1
    mask = data(20) > 0
    torch_only: dict[str, Call] = {
        "masked_fill": (F.masked_fill, lambda x, m: x.masked_fill(m, 2.5), [x, mask]),
        "isclose": (lambda a, b: F.isclose(a, b, equal_nan=True), lambda a, b: torch.isclose(a, b, equal_nan=True), [x, x]),
        "trunc": (lambda a, b: F.divide(a, b, "trunc"), lambda a, b: torch.div(a, b, rounding_mode="trunc"), [x, z]),
        "floor": (lambda a, b: F.divide(a, b, "floor"), lambda a, b: torch.div(a, b, rounding_mode="floor"), [x, z]),
        "fmod": (F.fmod, torch.fmod, [x, z]),
        "clamp by tensors": (F.clamp, torch.clamp, [x, y - 1.0, y + 1.0]),
        "heaviside": (lambda a, b: F.heaviside(a, b), lambda a, b: torch.heaviside(a, b).detach(), [x * 0, y]),
    }
    torch_only["masked_fill"] = (lambda x, m: F.masked_fill(x, m, 2.5), *torch_only["masked_fill"][1:])
    calls = {
        **torch_only,
        "lerp": same("lerp", [x, y], weight=0.3),
        "addcmul": same("addcmul", [x, y, z], value=0.5),
        "addcdiv": same("addcdiv", [x, y, z], value=0.5),
        "clamp": same("clamp", [x], min=-0.5, max=0.7),
        "clamp min": same("clamp", [x], min=0.0),
        "copysign": same("copysign", [x, y]),
        **{
            n: same(n, [x])
            for n in ("square", "sinc", "deg2rad", "rad2deg", "frac", "nan_to_num", "erfc", "sinh", "cosh", "asinh")
        },
        **{n: same(n, [x]) for n in ("tan", "atan", "expm1", "exp2", "isnan", "isinf", "isfinite", "ceil", "trunc", "round")},
        **{n: same(n, [x * 0.3]) for n in ("asin", "acos", "atanh", "erfinv")},
        **{n: same(n, [z]) for n in ("reciprocal", "log2", "log10", "log1p", "rsqrt")},
        "acosh": same("acosh", [z + 1.0]),
        **{n: same(n, [x, y]) for n in ("hypot", "logaddexp", "atan2")},
        "xlogy": same("xlogy", [x, z]),
        "remainder": same("remainder", [x, z]),
    }
    compare(calls, 4)


def test_functions_of_special_values() -> None:
    x = np.array([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, 3.5, 2.5, -2.5], np.float32)
    y = np.roll(x, 2)
    graph = grt.Graph()
    a, b = graph.input("a", x.shape), graph.input("b", y.shape)
    calls = {"logaddexp": (a, b), "hypot": (a, b), "atan2": (a, b), "copysign": (a, b), "round": (a,), "nan_to_num": (a,)}
    calls |= {"isnan": (a,), "isinf": (a,), "isfinite": (a,), "expm1": (a,), "erfinv": (a,), "trunc": (a,)}
    for n, args in calls.items():
        graph.output(n, getattr(F, n)(*args))
    outputs = grt.compile(graph, target=TARGET)(a=x, b=y)
    for n, args in calls.items():
        expected = getattr(torch, n)(*(torch.from_numpy(v) for v in (x, y)[: len(args)])).numpy()
        np.testing.assert_allclose(outputs[n], expected, rtol=2e-6, err_msg=n)


def test_dropout_family() -> None:
    graph = grt.Graph()
    x = graph.input("x", (20, 30, 4, 5))
    graph.output("element", F.dropout(x, 0.3))
    graph.output("channel", F.dropout2d(x, 0.3))
    graph.output("alpha", F.alpha_dropout(x, 0.3, training=True))
    graph.output("off", F.dropout3d(x, 0.3, training=False))
    (dx,) = grt.grad(F.sum(F.dropout(x, 0.5)), [x])
    graph.output("dx", dx)
    ones = np.ones((20, 30, 4, 5), np.float32)
    program = grt.compile(graph, target=TARGET)
    y = program(x=ones)
    assert abs((y["element"] > 0).mean() - 0.7) < 0.02 and np.allclose(y["element"].max(), 1 / 0.7)
    per_channel = y["channel"].reshape(600, 20)
    assert (per_channel.min(1) == per_channel.max(1)).all() and abs((per_channel[:, 0] > 0).mean() - 0.7) < 0.08
    assert sorted(np.unique(y["dx"])) == [0.0, 2.0] and (y["off"] == 1).all()
    expected = evaluate(graph, {**graph.initial, "x": ones})
    for name, v in graph.outputs.items():
        np.testing.assert_allclose(y[name], expected[v], rtol=1e-6, err_msg=name)
    noise = np.random.default_rng(0).standard_normal(ones.shape).astype(np.float32)
    z = program(x=noise)["alpha"]
    assert abs(z.mean()) < 0.1 and abs(z.std() - 1) < 0.1, "alpha dropout keeps mean and variance"


def test_random_numbers() -> None:
    from scipy import stats

    graph = grt.Graph()
    n = 4000 if INTERPRETED else 100_000
    draws = {
        "uniform": F.uniform(graph, (n,)),
        "normal": F.normal(graph, (n,), 1.0, 2.0),
        "exponential": F.exponential(graph, (n,), 3.0),
        "randint": F.randint(graph, -2, 5, (n,)),
        "bernoulli": F.bernoulli(F.uniform(graph, (n,)) * 0.0 + 0.25),
        "again": F.normal(graph, (n,)),
        "soft": F.sum(F.gumbel_softmax(F.reshape(F.normal(graph, (60,)), (20, 3)), 0.5, hard=True), 1),
    }
    for name, v in draws.items():
        graph.output(name, v)
    F.manual_seed(graph, 7)
    program = grt.compile(graph, target=TARGET)
    first, second = program(), program()
    laws = {"uniform": "uniform", "normal": stats.norm(1, 2).cdf, "exponential": stats.expon(scale=1 / 3).cdf, "again": "norm"}
    for name, law in laws.items():
        assert stats.kstest(first[name], law).pvalue > 0.001, name
        assert (first[name] != second[name]).any(), "every run draws anew"
    assert set(first["randint"]) == set(range(-2, 5)) and abs(first["bernoulli"].mean() - 0.25) < 0.03
    assert abs(np.corrcoef(first["normal"], first["again"])[0, 1]) < 0.06, "two calls draw different numbers"
    np.testing.assert_allclose(first["soft"], np.ones(20), rtol=1e-5)
    expected = evaluate(graph, graph.initial)
    np.testing.assert_allclose(first["normal"], expected[draws["normal"]], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(first["randint"], expected[draws["randint"]])


def test_layers_equal_functions() -> None:
    pairs: dict[str, tuple[nn.Module, torch.nn.Module]] = {
        n: (getattr(nn, n)(*a), getattr(torch.nn, n)(*a))
        for n, a in {
            "ReLU6": (), "PReLU": (4,), "SELU": (), "CELU": (1.3,), "Hardtanh": (), "Hardswish": (), "Hardsigmoid": (),
            "Hardshrink": (), "Softshrink": (), "Softsign": (), "Tanhshrink": (), "Threshold": (0.1, 2.0), "LogSigmoid": (),
            "Mish": (), "GLU": (1,), "Softmin": (1,), "Softmax2d": (), "RReLU": (),
        }.items()
    }  # fmt: skip
    graph, x = grt.Graph(), data(2, 4, 3, 3)
    v = graph.input("x", x.shape)
    for n, (ours, _) in pairs.items():
        ours.eval()
        graph.output(n, ours(v))
    outputs = grt.compile(graph, target=TARGET)(x=x)
    for n, (_, theirs) in pairs.items():
        np.testing.assert_allclose(outputs[n], theirs.eval()(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-6, err_msg=n)


def _x(g: grt.Graph) -> grt.Value:
    return g.input("x", (3, 4))


def _bad(name: str, *calls: Any) -> list[tuple[str, Any]]:
    return [(name, lambda g, c=c: getattr(F, name)(*c(g))) for c in calls]


_ONE = ("step relu6 hardsigmoid hardswish selu logsigmoid softsign tanhshrink silu mish square reciprocal isnan isinf isfinite "
        "nan_to_num sinc deg2rad rad2deg frac erfc sinh cosh tan asin acos asinh acosh atanh log10 bernoulli uniform_like "
        "normal_like").split()  # fmt: skip
_TWO = "fmod logaddexp hypot copysign xlogy heaviside logical_xor isclose divide".split()
BAD: list[tuple[str, Any]] = [
    *[b for n in _ONE for b in _bad(n, lambda g: (2.0,), lambda g: (_x(g), "a", 1, 2, 3), lambda g: (None,))],
    *[b for n in _TWO for b in _bad(n, lambda g: (_x(g), g.input("y", (5,))), lambda g: (_x(g), "a"), lambda g: (_x(g),))],
    *_bad("threshold", lambda g: (_x(g),), lambda g: (_x(g), "a", 1.0), lambda g: (1.0, 2.0, 3.0)),
    *_bad("hardtanh", lambda g: (_x(g), 2.0, 1.0), lambda g: (_x(g), None), lambda g: ([1.0],)),
    *_bad("leaky_relu", lambda g: (_x(g), "a"), lambda g: (_x(g), _x(g)), lambda g: (1.0,)),
    *_bad("prelu", lambda g: (_x(g), g.input("w", (3,))), lambda g: (_x(g), 0.1), lambda g: (_x(g), g.input("w", (2, 2)))),
    *_bad("rrelu", lambda g: (_x(g), 0.5, 0.1), lambda g: (_x(g), "a"), lambda g: (1.0,)),
    *_bad("hardshrink", lambda g: (_x(g), "a"), lambda g: (_x(g), None), lambda g: (1.0,)),
    *_bad("softshrink", lambda g: (_x(g), -1.0), lambda g: (_x(g), "a"), lambda g: (1.0,)),
    *_bad("elu", lambda g: (_x(g), "a"), lambda g: (_x(g), None), lambda g: (1.0,)),
    *_bad("celu", lambda g: (_x(g), 0.0), lambda g: (_x(g), "a"), lambda g: (1.0,)),
    *_bad("softplus", lambda g: (_x(g), 0.0), lambda g: (_x(g), "a"), lambda g: (1.0,)),
    *_bad("gelu", lambda g: (_x(g), "erf"), lambda g: (_x(g), 1), lambda g: (1.0,)),
    *_bad("glu", lambda g: (_x(g), 0), lambda g: (_x(g), 5), lambda g: (_x(g), "a")),
    *[b for n in ("softmax", "log_softmax", "softmin") for b in _bad(
        n, lambda g: (_x(g), 2), lambda g: (g.input("i", (3,), "int64"),), lambda g: (_x(g), "a"))],
    *_bad("gumbel_softmax", lambda g: (_x(g), 0.0), lambda g: (_x(g), 1.0, False, 4), lambda g: (g.input("i", (3,), "int64"),)),
    *_bad("masked_fill", lambda g: (_x(g), _x(g), 1.0), lambda g: (_x(g), None, 1.0), lambda g: (_x(g), _x(g) > 0, "a")),
    *_bad("lerp", lambda g: (_x(g), _x(g), "a"), lambda g: (_x(g), g.input("e", (5,)), 0.5), lambda g: (_x(g), None, 1.0)),
    *[b for n in ("addcmul", "addcdiv") for b in _bad(
        n, lambda g: (_x(g), _x(g)), lambda g: (_x(g), _x(g), g.input("e", (5,))), lambda g: (_x(g), _x(g), 2.0))],
    *[b for n in ("clamp", "clip") for b in _bad(
        n, lambda g: (_x(g),), lambda g: (_x(g), "a"), lambda g: (_x(g), g.input("e", (5,))))],
    *[b for n in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout") for b in _bad(
        n, lambda g: (_x(g), 1.5, True), lambda g: (_x(g), -0.1, True), lambda g: (g.input("i", (3, 3), "int64"), 0.5, True))],
    *[b for n in ("dropout1d", "dropout2d", "dropout3d") for b in _bad(
        n, lambda g: (g.input("v", (3,)),), lambda g: (_x(g), "a"), lambda g: (g.input("v", (1, 2, 3, 4, 5, 6)),))],
]  # fmt: skip


@pytest.mark.parametrize("call", [
    lambda g: F.uniform(g, (-1,)), lambda g: F.uniform(g, 3), lambda g: F.uniform(g, (2**20, 2**20)),
    lambda g: F.uniform(None, (3,)),
    lambda g: F.normal(g, (3,), 0.0, -1.0), lambda g: F.normal(g, (3,), "a"), lambda g: F.normal(g, 3),
    lambda g: F.randint(g, 3, 3, (2,)), lambda g: F.randint(g, 0, 2**30, (2,)), lambda g: F.randint(g, 0.5, 3, (2,)),
    lambda g: F.exponential(g, (3,), 0.0), lambda g: F.exponential(g, (3,), "a"), lambda g: F.exponential(g, (2.5,)),
])  # fmt: skip
def test_bad_draws_are_refused(call: Any) -> None:
    with pytest.raises(GraphrtError):
        call(grt.Graph())
