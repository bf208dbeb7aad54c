"""Systems of linear equations: LU factors, solutions, inverses and determinants, beside NumPy and torch."""

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

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
TARGET = "interpret" if INTERPRETED else "cpu"
Array = np.ndarray
Tensor = torch.Tensor
MOST = 5 if INTERPRETED else 30


def check_system(a: Array, b: Array, target: str) -> None:
    """Residuals are small beside the sizes of matrix and solution; factors multiply to the matrix with its rows exchanged."""
    graph = grt.Graph()
    x, y = graph.input("a", a.shape, a.dtype), graph.input("b", b.shape, b.dtype)
    factors, pivots = F.lu_factor(x)
    sign, log = F.slogdet(x)
    wanted = {"x": F.solve(x, y), "inverse": F.inv(x), "factors": factors, "pivots": pivots}
    for name, v in {**wanted, "det": F.det(x), "sign": sign, "log": log}.items():
        graph.output(name, v)
    found = grt.compile(graph, target=target)(a=a, b=b)
    assert found["pivots"].dtype == np.int32 and all(v.dtype == a.dtype for k, v in found.items() if k != "pivots")
    found = {k: v.astype(np.float64) for k, v in found.items()}
    n, error = a.shape[-1], tolerance(a.dtype, a.shape[-1])
    exact = a.astype(np.float64)
    eye, size = np.eye(n), max(1.0, float(np.abs(a).max()))
    for name, right in (("x", b.astype(np.float64)), ("inverse", eye)):
        bound = error * size * max(1.0, float(np.abs(found[name]).max(initial=0.0)))
        np.testing.assert_allclose(exact @ found[name], np.broadcast_to(right, found[name].shape), rtol=0, atol=bound)
    lower, upper = np.tril(found["factors"], -1) + eye, np.triu(found["factors"])
    assert (np.abs(lower) <= 1.0 + error).all()
    for at in np.ndindex(a.shape[:-2]):
        exchanged = exact[at].copy()
        for i, p in enumerate(found["pivots"][at].astype(int) - 1):
            exchanged[[i, p]] = exchanged[[p, i]]
        np.testing.assert_allclose(lower[at] @ upper[at], exchanged, rtol=0, atol=error * size)
    well = np.linalg.cond(exact) * error < 0.1  # the determinant of others has no digits
    sign, log = np.linalg.slogdet(exact)
    np.testing.assert_allclose(found["sign"][well], sign[well])
    worst = np.linalg.cond(exact)[well] * error
    assert (np.abs(found["log"][well] - log[well]) <= worst + error * np.abs(log[well])).all()
    fits = found["log"] < 80  # of float32 numbers
    size_of_det = np.exp(found["log"][fits])
    assert (np.abs((found["det"] * found["sign"])[fits] - size_of_det) <= 16 * error * size_of_det).all()


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, MOST),
    r=st.integers(1, 4),
    batch=st.sampled_from([(), (3,), (2, 2)]),
    dtype=st.sampled_from(["float32", "float64"]),
    permuted=st.booleans(),
)
@settings(max_examples=examples(12, 3))
def test_systems_of_any_size(seed: int, n: int, r: int, batch: tuple[int, ...], dtype: str, permuted: bool) -> None:
    """Random matrices, and permutations of the axes with little beside, where every pivot is elsewhere."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((*(batch[1:] if INTERPRETED else batch), n, n))
    a = np.eye(n)[rng.permutation(n)] + 0.01 * a if permuted else a
    check_system(a.astype(dtype), rng.standard_normal((*a.shape[:-1], r)).astype(dtype), TARGET)


def test_systems_in_blocks(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows and columns than a block of a program has."""
    if INTERPRETED:
        from graphrt.kernels.triton import config  # type: ignore[import-not-found]

        whole = config.line_config

        def small(name: str, sizes: Any, interpret: bool = False) -> Any:
            blocks, grid = whole(name, sizes, interpret)
            return ({**blocks, "BK": 2, "BN": 4} if name == "lu" else blocks), grid

        monkeypatch.setattr(config, "line_config", small)
    rng, n = np.random.default_rng(3), 5 if INTERPRETED else 130
    check_system(*(rng.standard_normal((n, k)).astype(np.float32) for k in (n, 2)), target=target)


def test_singular_and_special_matrices(target: str) -> None:
    """A determinant of 0 is exact; nothing hangs at NaN; a matrix of nothing has the determinant 1."""
    graph = grt.Graph()
    x, none = graph.input("x", (4, 3, 3)), graph.input("none", (2, 0, 0))
    graph.output("det", F.det(x))
    graph.output("sign", F.slogdet(x)[0])
    graph.output("log", F.slogdet(x)[1])
    graph.output("inverse", F.inv(x))
    graph.output("of nothing", F.det(none))
    graph.output("half", F.inv(F.cast(x, "float16")))
    a = np.stack([np.zeros((3, 3)), np.diag([1.0, 0.0, 2.0]), np.full((3, 3), np.nan), np.diag([2.0, -4.0, 1.0])])
    found = grt.compile(graph, target=target)(x=a.astype(np.float32), none=np.zeros((2, 0, 0), np.float32))
    assert found["det"].tolist()[:2] == [0.0, 0.0] and np.isnan(found["det"][2]) and found["det"][3] == -8.0
    assert found["sign"].tolist()[:2] == [0.0, 0.0] and found["log"].tolist()[:2] == [-np.inf, -np.inf]
    assert not np.isfinite(found["inverse"][:3]).all((1, 2)).any()
    np.testing.assert_array_equal(found["inverse"][3], np.diag([0.5, -0.25, 1.0]))
    assert found["half"].dtype == np.float16 and found["of nothing"].tolist() == [1.0, 1.0]


@pytest.mark.skipif(INTERPRETED, reason="gradients are graph code, the same on every target")
def test_gradients() -> None:
    """Beside torch's, with right-hand sides of every form."""
    a, calls = data(2, 4, 4) + 2 * np.eye(4, dtype=np.float32), dict[str, Call]()
    calls["inverse"] = F.inv, torch.linalg.inv, [a]
    calls["determinant"] = F.det, torch.linalg.det, [a]
    calls["log"] = (lambda x: F.slogdet(x)[1]), (lambda x: torch.linalg.slogdet(x)[1]), [a]
    calls["factors"] = (lambda x: F.lu_factor(x)[0]), (lambda x: torch.linalg.lu_factor(x)[0]), [a]
    for name, b, left in (
        ("matrices", data(2, 4, 3), True),
        ("one matrix", data(4, 3), True),
        ("vector", data(4), True),
        ("vectors", data(2, 4), True),
        ("right", data(2, 3, 4), False),
    ):
        calls[name] = (
            lambda x, y, left=left: F.solve(x, y, left),
            lambda x, y, left=left: torch.linalg.solve(x, y, left=left),
            [a, b],
        )
    compare(calls, 30)


ERRORS: list[tuple[type[errors.GraphrtError], str, Callable[[grt.Graph], Any]]] = [
    (errors.ShapeError, "needs square matrices", lambda g: F.inv(g.input("x", (3, 2)))),
    (errors.DTypeError, "must be floating point", lambda g: F.det(g.input("x", (3, 3), "int64"))),
    (errors.DTypeError, "of one type", lambda g: F.solve(g.input("x", (3, 3)), g.input("y", (3, 1), "float64"))),
    (errors.ShapeError, r"B \[..., N, K\], got", lambda g: F.solve(g.input("x", (3, 3)), g.input("y", (2, 1)))),
    (errors.ShapeError, "are rows", lambda g: F.solve(g.input("x", (3, 3)), g.input("y", (3,)), left=False)),
]


@pytest.mark.parametrize(("error", "message", "build"), ERRORS, ids=[message for _, message, _ in ERRORS])
def test_errors(error: type[Exception], message: str, build: Callable[[grt.Graph], Any]) -> None:
    with pytest.raises(error, match=message):
        build(grt.Graph())


# --- through torch -----------------------------------------------------------------------------------------------------------


def functions(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """x [2, 4, 4], y [2, 4, 3]. Torch's own gradients of the first few keep no factors of its own."""
    linalg = torch.linalg
    return {
        "inv": linalg.inv(x),
        "inverse": torch.inverse(x),
        "power": linalg.matrix_power(x, -2),
        "tensorinv": linalg.tensorinv(x[0], ind=1),
        "triangular": linalg.solve_triangular(x, y, upper=True),
        "unit": linalg.solve_triangular(x, y.mT, upper=False, left=False, unitriangular=True),
        "info": linalg.inv_ex(x)[1] + x.sum() * 0.0,
    }


def kept(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    linalg = torch.linalg
    return {
        "solve": linalg.solve(x, y),
        "vectors": linalg.solve(x, y[..., 0]),
        "right": linalg.solve(x, y.mT, left=False),
        "det": torch.det(x),
        "slogdet": linalg.slogdet(x)[0] * linalg.slogdet(x)[1],
        "logdet": torch.logdet(x @ x.mT),
        "factors": linalg.lu_factor(x)[0],
        "pivots": linalg.lu_factor(x)[1] + x.sum() * 0.0,
    }


@pytest.mark.skipif(INTERPRETED, reason="what is seen of a model does not depend on the target")
@pytest.mark.parametrize("door", ["from_torch", "torch.compile", "torch.compile without gradients"])
def test_torch_models(door: str) -> None:
    """Forward and backward are eager torch's, with no part in eager mode."""
    torch._dynamo.reset()
    x, y = normal(2, 4, 4) + 3 * torch.eye(4), normal(2, 4, 3)

    def f(x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return functions(x, y) if door == "torch.compile" else {**functions(x, y), **kept(x, y)}

    gradients = "without" not in door
    mine, other = ([t.clone().requires_grad_(gradients) for t in (x, y)] for _ in range(2))
    expected = f(*other)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*to eager mode.*")
        if door == "from_torch":
            found = grt.to_torch(grt.compile(grt.from_torch(f, (x, y)), target="reference"))(*mine)
        else:
            found = torch.compile(f, backend="graphrt", fullgraph=True)(*mine)
        for name, b in expected.items():
            close(found[name], b, 1e-4, name)
        if gradients:
            for results in (found, expected):
                sum((v * v).sum() for v in results.values()).backward()
            for a, b in zip(mine, other, strict=True):
                close(a.grad, b.grad, 1e-4, door)


@pytest.mark.skipif(INTERPRETED, reason="what is seen of a model does not depend on the target")
def test_factors_that_torch_keeps_for_itself_stay_with_it() -> None:
    """They are of the matrix or of its transpose, as that lies in memory: what has them runs in eager mode, and is right."""
    torch._dynamo.reset()
    x, y = (normal(2, 4, 4) + 3 * torch.eye(4)).requires_grad_(), normal(2, 4, 3)
    with pytest.warns(UserWarning, match="(?s)eager mode.*kept by torch for a gradient"):
        warnings.filterwarnings("always", "graphrt leaves")
        z = torch.compile(lambda x: torch.linalg.solve(x, y), backend="graphrt")(x)
        (ours,) = torch.autograd.grad(z.square().sum(), x)
    (theirs,) = torch.autograd.grad(torch.linalg.solve(x, y).square().sum(), x)
    close(ours, theirs, 1e-4, "solve")
