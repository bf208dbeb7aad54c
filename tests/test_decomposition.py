"""Decompositions of matrices: what defines them, for matrices of every kind; their gradients beside torch's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED, examples, tolerance
from hypothesis import given, settings
from test_functional import Call, compare, data
from torch_cases import close, normal

import graphrt as grt
from graphrt import errors
from graphrt import ops as F
from graphrt.targets.reference.evaluate import evaluate

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
TARGET = "interpret" if INTERPRETED else "cpu"
Array = np.ndarray
Tensor = torch.Tensor


def swapped(a: Array) -> Array:
    return a.swapaxes(-2, -1)


# --- singular values ------------------------------------------------------------------------------------------------------


def _rank(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Of a lower rank than it could have."""
    *batch, m, n = shape
    k = min(m, n) // 2
    return rng.standard_normal((*batch, m, k)) @ rng.standard_normal((*batch, k, n))


def _graded(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape) * 10.0 ** -np.arange(0, 4 * shape[-1], 4)


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "of lower rank": _rank,
    "graded": _graded,
    "zero": lambda rng, shape: np.zeros(shape),
    "ones": lambda rng, shape: np.ones(shape),
    "of equal values": lambda rng, shape: np.broadcast_to(np.eye(*shape[-2:])[::-1] * 3.0, shape),
    "small integers": lambda rng, shape: rng.integers(-1, 2, shape),
    "huge": lambda rng, shape: rng.standard_normal(shape) * 1e37,
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-33,
}


def check_svd(a: Array, full: bool, target: str, what: str = "") -> None:
    """The product is ``a``, the vectors are orthonormal, the values are NumPy's in order; the signs are those documented."""
    graph = grt.Graph()
    for name, v in zip("usv", F.svd(graph.input("a", a.shape, a.dtype), full), strict=True):
        graph.output(name, v)
    program = grt.compile(graph, target=target)
    found = program(a=a)
    assert all(found[name].dtype == a.dtype for name in "usv")
    u, s, vh = (found[name].astype(np.float64) for name in "usv")
    *batch, m, n = a.shape
    k = min(m, n)
    assert u.shape == (*batch, m, m if full else k) and s.shape == (*batch, k) and vh.shape == (*batch, n if full else k, n)
    largest = s.max(initial=0.0)
    error = tolerance(a.dtype, max(m, n))
    exact = np.linalg.svd(a.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(s, exact, rtol=0, atol=error * max(float(largest), 1e-300), err_msg=what)
    assert (np.diff(s) <= 0).all() and (s >= 0).all(), what
    product = (u[..., :k] * s[..., None, :]) @ vh[..., :k, :]
    np.testing.assert_allclose(product, a, rtol=0, atol=error * max(float(largest), 1e-300), err_msg=what)
    for q in (u, swapped(vh)):
        product = swapped(q) @ q
        np.testing.assert_allclose(product, np.broadcast_to(np.eye(q.shape[-1]), product.shape), atol=error, err_msg=what)
    right = vh[..., :k, :] if m >= n else swapped(u[..., :k])
    lead = np.argmax(np.abs(right) >= 0.9 * np.abs(right).max(-1, keepdims=True), -1, keepdims=True)
    assert (np.take_along_axis(right, lead, -1) > 0).all(), what
    again = found if INTERPRETED else program(a=a)
    assert all(np.array_equal(found[name], again[name]) for name in "usv")


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(sorted(KINDS)),
    shape=st.tuples(st.integers(1, 6 if INTERPRETED else 40), st.integers(1, 6 if INTERPRETED else 40)),
    batch=st.sampled_from([(), (3,), (2, 2)]),
    dtype=st.sampled_from(["float32", "float64"]),
    full=st.booleans(),
)
@settings(max_examples=examples(16, 4))
def test_svd_of_any_matrix(
    seed: int, kind: str, shape: tuple[int, int], batch: tuple[int, ...], dtype: str, full: bool
) -> None:
    """Of every size and kind, thin and full: tall, wide, a row, a column."""
    a = KINDS[kind](np.random.default_rng(seed), (1,) * INTERPRETED + (batch[1:] if INTERPRETED else batch) + shape)
    check_svd(np.ascontiguousarray(a.astype(dtype)), full, TARGET, f"{kind} {a.shape}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_svd_of_each_kind(dtype: str, target: str) -> None:
    """Each kind, in a batch with a matrix of another: its own sweeps, null space and scale."""
    rng = np.random.default_rng(0)
    shape = (4, 3) if INTERPRETED else (6, 5)
    check_svd(np.stack([f(rng, shape) / (1e33 if k == "huge" else 1.0) for k, f in KINDS.items()]).astype(dtype), True, target)


def test_svd_of_large_matrices(target: str) -> None:
    """More rows and columns than a block of a program has; interpreted, one block is all of it."""
    rng = np.random.default_rng(1)
    check_svd(rng.standard_normal((8, 7) if INTERPRETED else (150, 130)).astype(np.float32), False, target)


def test_svd_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of small blocks goes over rows, columns and pairs as a large one does."""
    if not INTERPRETED:
        pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported")
    from graphrt.kernels.triton import config  # type: ignore[import-not-found]

    whole = config.line_config

    def small(name: str, sizes: Any, interpret: bool = False) -> Any:
        blocks, grid = whole(name, sizes, interpret)
        return ({**blocks, "BK": 4, "BN": 1}, grid) if name == "svd" else (blocks, grid)

    monkeypatch.setattr(config, "line_config", small)
    rng = np.random.default_rng(2)
    check_svd(_rank(rng, (5, 4)).astype(np.float32), False, "interpret")


def test_svd_of_what_is_not_finite(target: str) -> None:
    """All of a matrix with an infinity or NaN is NaN, and its neighbours in the batch are not."""
    a = data(4, 3, 2)
    a[0, 1, 1], a[2, 0, 0] = np.nan, -np.inf
    graph = grt.Graph()
    x = graph.input("a", a.shape)
    for name, v in zip("usv", F.svd(x), strict=True):
        graph.output(name, v)
    graph.output("nuclear", F.matrix_norm(x, "nuc"))
    for found in grt.compile(graph, target=target)(a=a).values():
        assert np.isnan(found[[0, 2]]).all() and np.isfinite(found[[1, 3]]).all()


def test_svd_between_other_ops(target: str) -> None:
    """An operand that is computed, a half, a view; what follows, on all three; a matrix with nothing in it."""
    graph, a = grt.Graph(), data(2, 4, 6)
    x = graph.input("a", a.shape)
    half = F.svdvals(F.cast(x, "float16"))
    assert half.dtype.name == "float16"
    u, s, vh = F.svd(F.relu(F.permute(x, (0, 2, 1)) * 2.0) + 1.0, full_matrices=False)
    graph.output("half", half)
    graph.output("product", F.tanh(F.matmul(u * F.unsqueeze(s, -2), vh)))
    graph.output("squares", u * u + 1.0)
    graph.output("turned", F.transpose(vh * vh, -2, -1))
    graph.output("nothing", F.svdvals(x[:, :0]))
    graph.output("full", F.svd(x[:, :, :0])[0])
    found, expected = grt.compile(graph, target=target)(a=a), evaluate(graph, {"a": a})
    for name, v in graph.outputs.items():
        rtol = tolerance(v.dtype.numpy, 8)
        np.testing.assert_allclose(found[name], expected[v], rtol, rtol, err_msg=name)
    np.testing.assert_allclose(found["product"], np.tanh(np.maximum(swapped(a) * 2, 0) + 1), 1e-5, 1e-5)
    np.testing.assert_allclose(found["full"], np.broadcast_to(np.eye(4), (2, 4, 4)))


@pytest.mark.skipif(INTERPRETED, reason="gradients are graph code, the same on every target")
def test_gradients_of_singular_values_and_vectors() -> None:
    """Of functions that do not depend on the signs of vectors, for tall, square and wide matrices, thin and full."""
    calls: dict[str, Call] = {}
    functions: dict[str, tuple[Callable[..., Any], bool]] = {
        "u": (lambda u, s, vh: u * u, False),
        "v": (lambda u, s, vh: vh * vh, False),
        "values": (lambda u, s, vh: s * s[..., :1], False),
        "values in full": (lambda u, s, vh: s * s[..., :1], True),
        "vectors in full": (lambda u, s, vh: u[..., :2] * u[..., :2] * s[..., :1, None], True),
        "product": (lambda u, s, vh: (u[..., :, :, None] * vh[..., None, :, :] * s[..., None, :, None])[..., 0, :], False),
    }
    for shape in ((2, 4, 3), (3, 3), (2, 5)):
        for name, (f, full) in functions.items():
            calls[f"{name} {shape}"] = (
                lambda x, f=f, full=full: f(*F.svd(x, full)),
                lambda x, f=f, full=full: f(*torch.linalg.svd(x, full_matrices=full)),
                [data(*shape)],
            )
    compare(calls, 30)


def test_matrix_norms() -> None:
    """Every order beside torch, in other dimensions too, with gradients."""
    x = data(2, 3, 2)
    calls: dict[str, Call] = {}
    for order in ("fro", "nuc", 1, -1, 2, -2, float("inf"), -float("inf")):
        for dim, keep in (((-2, -1), False), ((2, 0), True)):
            calls[f"{order} {dim}"] = (
                lambda x, o=order, d=dim, k=keep: F.matrix_norm(x, o, d, k),
                lambda x, o=order, d=dim, k=keep: torch.linalg.matrix_norm(x, o, d, k),
                [x],
            )
    for p in (None, 2, -2):
        calls[f"cond {p}"] = (lambda x, p=p: F.cond(x, p)), (lambda x, p=p: torch.linalg.cond(x, p)), [x]
    lower = np.stack([_rank(np.random.default_rng(3), (6, 4)).astype(np.float32), data(6, 4)])
    for name, limits in (("default", {}), ("atol", {"atol": 1.0}), ("both", {"atol": 0.1, "rtol": 0.5})):
        calls[f"rank {name}"] = (
            lambda x, k=limits: F.matrix_rank(x, **k),
            lambda x, k=limits: torch.linalg.matrix_rank(x.float(), **k),
            [lower],
        )
    compare(calls, 30)


def test_gradients_where_values_meet() -> None:
    """The nuclear norm's is U V^T also of equal values and of zeros; that of a function of the vectors is finite."""
    graph = grt.Graph()
    x = graph.input("x", (3, 4, 3), "float64")
    u, s, vh = F.svd(x, full_matrices=False)
    graph.output("product", F.matmul(u, vh))
    graph.output("nuclear", grt.grad(F.sum(F.matrix_norm(x, "nuc")), [x])[0])
    graph.output("vectors", grt.grad(F.sum(u * u * 0.3) + F.sum(F.matmul(u, vh)), [x])[0])
    a = np.stack([np.eye(4, 3), np.zeros((4, 3)), np.ones((4, 3))])
    found = grt.compile(graph, target=TARGET)(x=a)
    np.testing.assert_allclose(found["nuclear"], found["product"], atol=1e-12)
    assert np.isfinite(found["vectors"]).all()


def test_gradient_of_values_alone_has_no_products_of_vectors() -> None:
    """What was not used costs nothing: one product, U diag(dS) V^T, for each matrix."""
    graph = grt.Graph()
    x = graph.input("x", (5, 3))
    graph.output("dx", grt.grad(F.matrix_norm(x, "nuc") + F.sum(F.svdvals(x)), [x])[0])
    program = grt.compile(graph, target="cpu")
    assert sum(n.op.name == "svd" for n in program.graph.nodes) == 1
    assert sum(n.op.name == "matmul" for n in program.graph.nodes) <= 2


ERRORS: list[tuple[type[errors.GraphrtError], str, Callable[[grt.Graph], Any]]] = [
    (errors.DTypeError, "must be floating point", lambda g: F.svd(g.input("x", (3, 3), "int32"))),
    (errors.ShapeError, r"needs \[..., M, N\]", lambda g: F.svdvals(g.input("x", (3,)))),
    (errors.ArgumentError, "ord must be", lambda g: F.matrix_norm(g.input("x", (3, 3)), 3)),
    (errors.ArgumentError, "two different dimensions", lambda g: F.matrix_norm(g.input("x", (3, 3)), "nuc", (1, -1))),
    (errors.ArgumentError, "p must be", lambda g: F.cond(g.input("x", (3, 3)), 7)),
    (errors.ShapeError, "with elements", lambda g: F.cond(g.input("x", (3, 0)))),
]


@pytest.mark.parametrize(("error", "message", "build"), ERRORS, ids=[message for _, message, _ in ERRORS])
def test_errors(error: type[Exception], message: str, build: Callable[[grt.Graph], Any]) -> None:
    with pytest.raises(error, match=message):
        build(grt.Graph())


# --- through torch -----------------------------------------------------------------------------------------------------------

TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": lambda x: torch.linalg.svd(x, full_matrices=False)[0] ** 2,
    "full": lambda x: torch.linalg.svd(x)[2][..., :2, :] ** 2,
    "torch.svd": lambda x: torch.svd(x)[1],
    "values": lambda x: torch.linalg.svdvals(x),
    "nuclear": lambda x: torch.linalg.norm(x[0], "nuc"),
    "nuclear of torch.norm": lambda x: torch.norm(x, p="nuc", dim=(1, 2)),
    "nuclear_norm": lambda x: torch.ops.aten.nuclear_norm(x[0]),
    "spectral": lambda x: torch.linalg.matrix_norm(x, 2, dim=(0, 2), keepdim=True),
    "smallest": lambda x: torch.linalg.matrix_norm(x.mT, -2),
    "cond": lambda x: torch.linalg.cond(x),
    "rank": lambda x: torch.linalg.matrix_rank(x).float() * x.sum(),
}


def together(x: Tensor) -> list[Tensor]:
    return [f(x) for f in TORCH.values()]


@pytest.mark.skipif(INTERPRETED, reason="what is seen of a model does not depend on the target")
@pytest.mark.parametrize("door", ["from_torch", "torch.compile"])
def test_torch_models(door: str) -> None:
    """Forward and backward by either way are eager torch's, with no part in eager mode."""
    if door == "torch.compile":
        torch._dynamo.reset()
    x = normal(2, 5, 3)
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = together(other)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*to eager mode.*")
        if door == "torch.compile":
            found = torch.compile(together, backend="graphrt", fullgraph=True)(mine)
        else:
            found = grt.to_torch(grt.compile(grt.from_torch(together, x), target="reference"))(mine)
        for name, a, b in zip(TORCH, found, expected, strict=True):
            close(a, b, 1e-5, name)
            weights = torch.linspace(0.5, 1.5, b.numel()).view(b.shape)
            ours, theirs = (torch.autograd.grad(y, v, weights, retain_graph=True)[0] for y, v in ((a, mine), (b, other)))
            close(ours, theirs, 1e-4, name)
