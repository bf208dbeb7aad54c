"""Gradients where torch defines them itself: at 0, between equal numbers, at infinities and NaN, in rows that are masked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as T

import graphrt as grt
import graphrt.frontends.torch
import graphrt.ops as F

pytestmark = pytest.mark.filterwarnings("error:graphrt leaves")  # nothing runs in eager mode

inf, nan = math.inf, math.nan
SPECIAL = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 6.0, inf, -inf, nan])
FINITE = SPECIAL[:8]
PAIRS = torch.cartesian_prod(torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0]), torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5])).T
ROWS = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0], [1, 2, 2, 0], [0, -0.0, 1, -1], [1, 0, 0, 2], [-3, 4, 4, -3]])
BROKEN = torch.tensor([[nan, 1, 2, 3], [nan, nan, 1, inf], [1, nan, inf, 1], [1, inf, 0, 2], [-inf, 4, 4, -3], [2, 2, 2, 2]])
BETWEEN = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, -1.0, inf])] * 3).T
ACTIVATIONS = (T.relu, T.leaky_relu, T.softshrink, T.hardshrink, T.elu, T.celu, T.selu, T.hardsigmoid, T.hardtanh, T.softplus)
P, Y = torch.tensor([[0.0, 1, 0.5, 1e-10, 0, 1, 0.2, 0, 1], [0, 1, 1, 0, 1, 0, 0.3, 0.5, 0.5]])
HEADS = torch.sin(torch.arange(36.0)).view(3, 1, 3, 4)
SEEN = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
FAR = torch.tensor([[0.0, inf, -inf, 3, -3, 0.5, 1, nan, 0], [1.0, 0, 0, 0, 0, 0, 0, 0, inf]])

CASES: dict[str, tuple[Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = {
    "clamp": (lambda x: x.clamp(-1, 1), (SPECIAL,)),
    "clamp_min": (lambda x: x.clamp(min=0.5), (SPECIAL,)),
    "clamp_max": (lambda x: x.clamp(max=0.5), (SPECIAL,)),
    "clamp, bounds swapped": (lambda x: x.clamp(2, -1), (SPECIAL,)),
    "clamp, NaN below": (lambda x: x.clamp(nan, 1), (SPECIAL,)),
    "clamp, NaN above": (lambda x: x.clamp(-1, nan), (SPECIAL,)),
    "clamp, tensors": (lambda x, b: torch.clamp(x, b - 1, b + 1), (SPECIAL, SPECIAL.flip(0).nan_to_num(nan, 9, -9))),
    "clamp, tensors that meet": (torch.clamp, tuple(BETWEEN)),
    "relu6": (T.relu6, (SPECIAL,)),
    "acosh": (torch.acosh, (SPECIAL,)),
    "maximum": (torch.maximum, (SPECIAL, SPECIAL.roll(4))),
    "minimum": (torch.minimum, (SPECIAL, SPECIAL.roll(4))),
    "max": (lambda x: x.max(), (BROKEN,)),
    "min, of equal numbers": (lambda x: x.min(), (ROWS,)),
    "median": (lambda x: x.median(), (ROWS,)),
    "median, NaN": (lambda x: x.median(), (BROKEN,)),
    "median of rows": (lambda x: x.median(1)[0], (BROKEN,)),
    "prelu": (lambda x, w: T.prelu(x[None, :], w), (SPECIAL[:10], torch.ones(10) / 4)),
    "atan2": (torch.atan2, tuple(PAIRS)),
    "fmax": (torch.fmax, (SPECIAL, SPECIAL.roll(4))),
    "fmin": (torch.fmin, (SPECIAL, SPECIAL.roll(4))),
    "std": (lambda x: x.std(1), (ROWS,)),
    "std_mean": (lambda x: sum(torch.std_mean(x, 1)), (ROWS,)),
    "binary_cross_entropy": (lambda p: T.binary_cross_entropy(p, Y, reduction="none"), (P,)),
    "binary_cross_entropy, weighted mean": (lambda p: T.binary_cross_entropy(p, Y, 1 + Y), (P,)),
    "smooth_l1_loss": (lambda a, b: T.smooth_l1_loss(a, b, reduction="none"), tuple(FAR)),
    "huber_loss": (lambda a, b: T.huber_loss(a, b, reduction="none", delta=2.0), tuple(FAR)),
    "attention, a row sees nothing": (lambda q, k, v: T.scaled_dot_product_attention(q, k, v, SEEN), tuple(HEADS)),
    "softmax, a row of -inf": (lambda x: torch.ops.aten._safe_softmax(x.masked_fill(x < 3, -inf), 1), (ROWS,)),
}
CASES |= {f.__name__: (f, (SPECIAL,)) for f in ACTIVATIONS}
CASES |= {f"norm {p}, NaN": (lambda x, p=p: torch.linalg.vector_norm(x, p, dim=1), (BROKEN,)) for p in (1, 2, inf, -inf)}
CASES |= {
    f"norm {p}": (lambda x, p=p: torch.linalg.vector_norm(x, p, dim=1), (ROWS,))
    for p in (0.5, 1, 1.5, 2, 3, -1, -0.5, inf, -inf)
}
CASES |= {
    f"correction {c}": (
        lambda x, c=c: torch.stack([*torch.var_mean(x, 1, correction=c), torch.std(x, 1, correction=c)]),
        (ROWS,),
    )
    for c in (0, 0.5, 1, 1.3, 3.7)
}
CASES["correction, infinity"] = (lambda x: torch.stack([x.var(1), x.std(1)]), (BROKEN,))
COUNTS = (4, 4.5, 6)  # corrections that leave nothing to divide by


def together(*args: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Every case, in one graph."""
    rest = iter(args)
    return tuple(f(*(next(rest) for _ in inputs)) for f, inputs in CASES.values())


def gradients(f: Callable[..., Any]) -> dict[str, Any]:
    """Values and gradients of each case, those of results from 0.5 up."""
    leaves = [x.clone().requires_grad_() for _, inputs in CASES.values() for x in inputs]
    results = f(*leaves)
    cotangents = [torch.linspace(0.5, 1.5, y.numel()).view(y.shape) for y in results]
    found = iter(torch.autograd.grad(results, leaves, cotangents))
    return {name: (y.detach(), *(next(found) for _ in x)) for (name, (_, x)), y in zip(CASES.items(), results, strict=True)}


@pytest.mark.parametrize("door", ["from_torch on cpu", "from_torch on the reference", "torch.compile"])
def test_gradients_at_special_points_are_those_of_torch(door: str) -> None:
    if door == "torch.compile":
        torch._dynamo.reset()
        ours: Any = torch.compile(together, backend="graphrt", fullgraph=True, options={"target": "reference"})
    else:
        inputs = tuple(x for _, inputs in CASES.values() for x in inputs)
        ours = grt.to_torch(grt.compile(grt.from_torch(together, inputs), target=door.split()[-1]))
    expected = gradients(together)
    for name, found in gradients(ours).items():
        for i, (a, b) in enumerate(zip(found, expected[name], strict=True)):
            what = f"{name}: {'gradient' if i else 'value'}"
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda m, what=what: f"{what}\n{m}")


@pytest.mark.parametrize("correction", COUNTS)
def test_a_variance_over_fewer_numbers_than_the_correction_is_infinite(correction: float) -> None:
    def f(x: torch.Tensor) -> Any:
        return *torch.var_mean(x, 1, correction=correction), torch.std(x, 1, correction=correction)

    for a, b in zip(grt.compile(f, (ROWS,), target="reference")(ROWS), f(ROWS), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_native_functions_have_these_gradients(target: str) -> None:
    """The same of functions of graphrt.ops, on every target."""
    g = grt.Graph()
    calls: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[torch.Tensor, ...]]] = {
        "std": (lambda x: F.std(x, 1), lambda x: x.std(1), (ROWS,)),
        "var": (lambda x: F.var(x, 1, 1.5), lambda x: x.var(1, correction=1.5), (ROWS,)),
        "atan2": (F.atan2, torch.atan2, tuple(PAIRS)),
        "clamp": (lambda x: F.clamp(x, -1.0, 1.0), lambda x: x.clamp(-1, 1), (SPECIAL,)),
        "norm": (lambda x: F.norm(x, 0.5, 1), lambda x: torch.linalg.vector_norm(x, 0.5, dim=1), (ROWS,)),
        "bce": (
            lambda p: F.binary_cross_entropy(p, F.where(p > 0.4, 0.0, 1.0), reduction="none"),
            lambda p: T.binary_cross_entropy(p, torch.where(p > 0.4, 0.0, 1.0), reduction="none"),
            (torch.cat([P, 1 - P]),),
        ),
        "clamp by tensors": (F.clamp, torch.clamp, tuple(BETWEEN)),
        "maximum": (F.maximum, torch.maximum, (SPECIAL, SPECIAL.roll(4))),
        "max": (F.max, torch.max, (BROKEN,)),
        "min": (F.min, torch.min, (ROWS,)),
        "norm inf": (lambda x: F.norm(x, inf, 1), lambda x: torch.linalg.vector_norm(x, inf, dim=1), (BROKEN,)),
        "median": (F.median, torch.median, (ROWS,)),
        "median, NaN": (F.median, torch.median, (BROKEN,)),
        "median of rows": (lambda x: F.median(x, 1)[0], lambda x: x.median(1)[0], (BROKEN,)),
        "acosh": (F.acosh, torch.acosh, (SPECIAL,)),
        **{f.__name__: (getattr(F, f.__name__), f, (SPECIAL,)) for f in ACTIVATIONS},
        "hardswish": (F.hardswish, T.hardswish, (torch.cat([SPECIAL[:9], SPECIAL[10:]]),)),
    }
    feeds, expected = {}, {}
    for name, (ours, theirs, inputs) in calls.items():
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = theirs(*leaves)
        expected[name] = [y, *torch.autograd.grad(y.sum(), leaves)]
        values = [g.input(f"{name}{i}", tuple(x.shape)) for i, x in enumerate(inputs)]
        feeds |= {v.node.name: x.numpy() for v, x in zip(values, inputs, strict=True)}
        z = ours(*values)
        for i, v in enumerate([z, *grt.grad(F.sum(z), values)]):
            g.output(f"{name} {i}", v)
    found = grt.compile(g, target=target)(feeds)
    for name, results in expected.items():
        for i, right in enumerate(results):
            np.testing.assert_allclose(found[f"{name} {i}"], right.detach(), rtol=1e-4, atol=1e-5, err_msg=f"{name} {i}")


def test_second_gradients_of_products_at_zeros(target: str) -> None:
    """Of whole, scattered and running products, which are polynomials: differences of their gradients are exact."""
    rows = np.array([[1, 2, 3, 4], [0, 2, 3, 4], [0, 5, 0, 4], [3, 0, 0, 0], [0, 0, 0, 0]], np.float64)
    functions: dict[str, Callable[[grt.Value], grt.Value]] = {
        "prod": lambda x: F.prod(x, 1),
        "scatter_reduce": lambda x: F.scatter_reduce(F.ones_like(x), 1, F.zeros_like(x, "int64"), x, "prod")[:, 0],
        "cumprod": lambda x: F.cumprod(x, 1),
    }
    g, exact = grt.Graph(), grt.Graph()
    weights = np.linspace(0.5, 1.5, 4)
    for graph, dtype in ((g, "float32"), (exact, "float64")):
        for name, f in functions.items():
            x = graph.input(name, rows.shape, dtype)
            y = f(x)
            (first,) = grt.grad(F.sum(y * y + y), [x])
            graph.output(name, grt.grad(F.sum(first * weights), [x])[0])
            graph.output(f"slope of {name}", F.sum(first * weights, 1))
    found = grt.compile(g, target=target)({name: rows.astype(np.float32) for name in functions})
    slopes = grt.compile(exact, target="reference:float64")
    for k in range(4):
        up, down = (slopes({name: rows + s * 1e-4 * np.eye(4)[k] for name in functions}) for s in (1, -1))
        for name in functions:
            numeric = (up[f"slope of {name}"] - down[f"slope of {name}"]) / 2e-4
            np.testing.assert_allclose(found[name][:, k], numeric, rtol=1e-5, atol=1e-5, err_msg=name)
