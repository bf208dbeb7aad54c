"""Functions that move data, and tensors from nothing, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import TARGET, Call, compare, data, same

import graphrt as grt
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


# Triton loads a scalar through no block pointer, so not under a block of guards (a scalar padded or joined).
SCALARS: tuple[Any, ...] = () if INTERPRETED else (((), ()),)


def parts(name: str, arrays: list[np.ndarray], *args: Any, **kwargs: Any) -> dict[str, Call]:
    """One call for each result of a function that gives several."""
    theirs = getattr(torch, name)
    count = len(theirs(*map(torch.from_numpy, arrays), *args, **kwargs))
    return {
        f"{name} {args} {kwargs} {i}": (
            lambda *a, i=i: F.FUNCTIONS[name](*a, *args, **kwargs)[i] * 1.0,
            lambda *a, i=i: theirs(*a, *args, **kwargs)[i] * 1.0,
            arrays,
        )
        for i in range(count)
    }


def test_parts() -> None:
    x, empty = data(5, 6), data(2, 0)
    calls = dict[str, Call]()
    for dim in (0, -1):
        calls |= parts("split", [x], 4, dim) | parts("split", [x], [1, 0, 4 + (dim == -1)], dim) | parts("chunk", [x], 4, dim)
        calls |= parts("tensor_split", [x], 4, dim) | parts("tensor_split", [x], (1, 4, 3, -1, 9), dim)
        calls |= parts("unbind", [x], dim)
    calls |= {f"empty {n}": c for n, c in parts("chunk", [empty], 3, 1).items()}
    calls["split of nothing"] = (lambda a: F.split(a, 0, 1)[0] * 1.0, lambda a: torch.split(a, 0, 1)[0] * 1.0, [empty])
    calls["narrow"] = (lambda a: F.narrow(a, 1, -3, 2) * 1.0, lambda a: torch.narrow(a, 1, -3, 2) * 1.0, [x])
    calls["select"] = (lambda a: F.select(a, -1, -2) * 1.0, lambda a: torch.select(a, -1, -2) * 1.0, [x])
    compare(calls if not INTERPRETED else dict(list(calls.items())[::6]))


def test_shapes() -> None:
    x = data(2, 6, 3)
    calls: dict[str, Call] = {
        "unflatten": same("unflatten", [x], dim=1, sizes=(2, -1, 1)),
        "movedim": same("movedim", [x], source=(0, 1), destination=(-1, 0)),
        "moveaxis": same("moveaxis", [x], source=2, destination=0),
        "swapaxes": (_swapaxes, _swapaxes, [x]),
        "expand_as": (lambda a, b: F.expand_as(a, b) * b, lambda a, b: a.expand_as(b) * b, [data(6, 1), x]),
        "broadcast_to": (lambda a: F.broadcast_to(a, (2, -1, 4)) * 1.0, lambda a: a.broadcast_to(2, -1, 4) * 1.0, [data(3, 1)]),
        "repeat": (lambda a: a.repeat(2, 1, 3, 2) * 1.0, lambda a: a.repeat(2, 1, 3, 2) * 1.0, [x]),
        "repeat none": (lambda a: a.repeat((1, 0, 2)) * 1.0, lambda a: a.repeat((1, 0, 2)) * 1.0, [x]),
        "tile": same("tile", [x], dims=(2, 2)),
        "interleave": same("repeat_interleave", [x], repeats=3, dim=1),
        "interleave flat": same("repeat_interleave", [x], repeats=2),
        "cat": (lambda a, b: F.cat([a, b], -1), lambda a, b: torch.cat([a, b], -1), [x, data(2, 6, 1)]),
        "cat promotes": (lambda a, b: F.cat([a, b]), lambda a, b: torch.cat([a, b]), [data(2), np.arange(3)]),
    }
    calls |= parts("broadcast_tensors", [data(3, 1), data(4)])
    for name in ("hstack", "vstack", "dstack"):
        for shapes in (((3,), (3,)), ((3, 2), (3, 2)), *SCALARS):
            arrays = [data(*s, seed=i) for i, s in enumerate(shapes)]
            calls[f"{name} {shapes}"] = (
                lambda *a, f=F.FUNCTIONS[name]: f(a) * 1.0,
                lambda *a, n=name: getattr(torch, n)(a) * 1.0,
                arrays,
            )
    for indexing in ("ij", "xy"):
        calls |= parts("meshgrid", [data(2), data(3, seed=1), data(seed=2)], indexing=indexing)
    compare(calls)


def _swapaxes(x: Any) -> Any:
    return x.swapaxes(0, 2).swapdims(-1, 1) * 1.0


@st.composite
def matrices(draw: Any) -> tuple[np.ndarray, int, tuple[int, int]]:
    rank = draw(st.integers(2, 3))
    shape = [draw(st.integers(0, 5)) for _ in range(rank)]
    plane = draw(st.permutations(range(-rank, 0)))[:2]
    return data(*shape), draw(st.integers(-4, 4)), (plane[0], plane[1])


@given(st.lists(matrices(), min_size=1, max_size=4), st.integers(-5, 5))
@settings(max_examples=examples(10, 3))
def test_matrices(cases: list[tuple[np.ndarray, int, tuple[int, int]]], turns: int) -> None:
    calls = dict[str, Call]()
    for i, (x, k, (a, b)) in enumerate(cases):
        inside = min(max(k, -x.shape[a]), x.shape[b])  # torch refuses a diagonal that begins outside
        calls[f"{i} diagonal {x.shape} {inside} {a} {b}"] = (
            lambda x, k=inside, a=a, b=b: F.diagonal(x, k, a, b) * 1.0,
            lambda x, k=inside, a=a, b=b: torch.diagonal(x, k, a, b) * 1.0,
            [x],
        )
        calls[f"{i} diag_embed {x.shape} {k} {a} {b}"] = (
            lambda x, k=k, a=a, b=b: F.diag_embed(x, k, a, b) * 1.0,
            lambda x, k=k, a=a, b=b: torch.diag_embed(x, k, a, b) * 1.0,
            [x],
        )
        calls[f"{i} tril {x.shape} {k}"] = same("tril", [x], diagonal=k)
        calls[f"{i} triu {x.shape} {k}"] = same("triu", [x], diagonal=k)
        calls[f"{i} rot90 {x.shape} {turns} {a} {b}"] = (
            lambda x, a=a, b=b: F.rot90(x, turns, (a, b)) * 1.0,
            lambda x, a=a, b=b: torch.rot90(x, turns, (a, b)) * 1.0,
            [x],
        )
        calls[f"{i} roll {x.shape} {k} {a} {b}"] = same("roll", [x], shifts=(k, -1), dims=(a, b))
        calls[f"{i} roll flat {x.shape} {k}"] = same("roll", [x], shifts=k)
    compare(calls, 8)


def test_diagonals_and_flips() -> None:
    x, v = data(4, 6), data(3)
    calls: dict[str, Call] = {
        n: (lambda a, f=f: f(a) * 1.0, lambda a, n=n: getattr(torch, n)(a) * 1.0, [x])
        for n, f in {
            "fliplr": F.fliplr,
            "flipud": F.flipud,
            "trace": F.trace,
            "diag": F.diag,
        }.items()
    }
    calls["diag of a vector"] = same("diag", [v], diagonal=-2)
    calls["diag of a matrix"] = (lambda a: F.diag(a, 2) * 1.0, lambda a: torch.diag(a, 2) * 1.0, [x])
    calls["trace of integers"] = same("trace", [np.arange(12).reshape(3, 4)])
    calls["tril of bool"] = same("tril", [np.ones((3, 4), bool)], diagonal=1)
    calls["triu of integers"] = same("triu", [np.arange(12, dtype=np.int32).reshape(3, 4)])
    calls["diag of bool"] = same("diag", [np.ones(3, bool)])
    if INTERPRETED:
        del calls["trace"]  # its gradient pads a scalar
    compare(calls, 8)


def test_creation() -> None:
    graph, expected = grt.Graph(), dict[str, torch.Tensor]()

    def both(name: str, *args: Any, **kwargs: Any) -> None:
        dtype = kwargs.pop("dtype", None)
        key = f"{name} {args} {dtype}"
        graph.output(key, getattr(F, name)(graph, *args, **kwargs, **({"dtype": dtype} if dtype else {})))
        expected[key] = getattr(torch, name)(*args, **kwargs, **({"dtype": getattr(torch, dtype)} if dtype else {}))

    for dtype in (None, "float64", "float16", "int32"):
        both("arange", 7, dtype=dtype)
        both("arange", 2, 11, 3, dtype=dtype)
        both("arange", 5, -6, -2, dtype=dtype)
        both("linspace", -1.5, 3.0, 7, dtype=dtype)
        both("full", (2, 3), 3, dtype=dtype)
        both("eye", 3, 4, dtype=dtype)
        both("zeros", (2, 0), dtype=dtype)
        both("ones", (2,), dtype=dtype)
    both("arange", 0.5, 2.0, 0.25)
    both("arange", 3, 3)
    both("linspace", 2.0, 5.0, 1)
    both("full", (), True)
    both("full", (2,), 1.5)
    x = graph.input("x", (3, 2), "float16")
    t = torch.zeros(3, 2, dtype=torch.float16)
    for name, args in (("zeros_like", ()), ("ones_like", ()), ("full_like", (2.5,))):
        for dtype in (None, "int64"):
            kwargs = {"dtype": dtype} if dtype else {}
            graph.output(f"{name} {dtype}", getattr(F, name)(x, *args, **kwargs))
            expected[f"{name} {dtype}"] = getattr(torch, name)(t, *args, **({"dtype": torch.int64} if dtype else {}))
    outputs = grt.compile(graph, target=TARGET)(x=t.numpy())
    for key, theirs in expected.items():
        assert str(outputs[key].dtype) == str(theirs.dtype).removeprefix("torch."), key
        np.testing.assert_allclose(outputs[key], theirs.numpy(), rtol=1e-6, atol=1e-6, err_msg=key)


def test_a_diagonal_is_no_copy() -> None:
    """Views fold into their readers: a diagonal of a roll of a repetition, scaled, is one kernel."""
    graph = grt.Graph()
    x = graph.input("x", (8, 8))
    graph.output("y", F.diagonal(F.roll(F.repeat(x, 2, 3), 5, 1), 2) * 2.0)
    assert grt.compile(graph, target=TARGET).launches == 1


def _x(graph: grt.Graph) -> grt.Value:
    return graph.input("x", (4, 6))


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = [
    ("narrow beyond", lambda g: F.narrow(_x(g), 0, 3, 2)),
    ("narrow negative", lambda g: F.narrow(_x(g), 0, 0, -1)),
    ("narrow dim", lambda g: F.narrow(_x(g), 2, 0, 1)),
    ("select beyond", lambda g: F.select(_x(g), 0, 4)),
    ("select slice", lambda g: F.select(_x(g), 0, slice(1))),
    ("select dim", lambda g: F.select(_x(g), "a", 0)),
    ("unbind dim", lambda g: F.unbind(_x(g), 2)),
    ("unbind bool", lambda g: F.unbind(_x(g), True)),
    ("unbind scalar", lambda g: F.unbind(g.input("s"))),
    ("split zero", lambda g: F.split(_x(g), 0)),
    ("split sum", lambda g: F.split(_x(g), [1, 2])),
    ("split negative", lambda g: F.split(_x(g), [5, -1])),
    ("split float", lambda g: F.split(_x(g), 1.5)),
    ("chunk zero", lambda g: F.chunk(_x(g), 0)),
    ("chunk float", lambda g: F.chunk(_x(g), 2.0)),
    ("chunk dim", lambda g: F.chunk(_x(g), 2, 5)),
    ("tensor_split zero", lambda g: F.tensor_split(_x(g), 0)),
    ("tensor_split string", lambda g: F.tensor_split(_x(g), "2")),
    ("tensor_split dim", lambda g: F.tensor_split(_x(g), 2, -3)),
    ("unflatten product", lambda g: F.unflatten(_x(g), 1, (2, 2))),
    ("unflatten two", lambda g: F.unflatten(_x(g), 1, (-1, -1))),
    ("unflatten nothing", lambda g: F.unflatten(_x(g), 1, ())),
    ("unflatten int", lambda g: F.unflatten(_x(g), 1, 6)),
    ("movedim twice", lambda g: F.movedim(_x(g), (0, 0), (0, 1))),
    ("movedim lengths", lambda g: F.movedim(_x(g), (0, 1), 0)),
    ("movedim range", lambda g: F.movedim(_x(g), 2, 0)),
    ("expand_as number", lambda g: F.expand_as(_x(g), 3)),
    ("expand_as shape", lambda g: F.expand_as(_x(g), g.input("y", (4, 5)))),
    ("expand_as rank", lambda g: F.expand_as(_x(g), g.input("y", (6,)))),
    ("broadcast_to size", lambda g: F.broadcast_to(_x(g), (4, 7))),
    ("broadcast_to negative", lambda g: F.broadcast_to(_x(g), (-2, 4, 6))),
    ("broadcast_to int", lambda g: F.broadcast_to(_x(g), 6)),
    ("broadcast_to new -1", lambda g: F.broadcast_to(_x(g), (-1, 4, 6))),
    ("broadcast_tensors", lambda g: F.broadcast_tensors(_x(g), g.input("y", (5,)))),
    ("broadcast_tensors number", lambda g: F.broadcast_tensors(_x(g), 1.0)),
    ("repeat too few", lambda g: F.repeat(_x(g), 2)),
    ("repeat negative", lambda g: F.repeat(_x(g), 2, -1)),
    ("repeat float", lambda g: F.repeat(_x(g), (2.0, 1))),
    ("tile negative", lambda g: F.tile(_x(g), (-1,))),
    ("tile int", lambda g: F.tile(_x(g), 2)),
    ("tile value", lambda g: F.tile(_x(g), (_x, 1))),
    ("interleave negative", lambda g: F.repeat_interleave(_x(g), -1)),
    ("interleave list", lambda g: F.repeat_interleave(_x(g), [1, 2])),
    ("interleave dim", lambda g: F.repeat_interleave(_x(g), 2, 2)),
    ("roll lengths", lambda g: F.roll(_x(g), (1, 2), 0)),
    ("roll flat", lambda g: F.roll(_x(g), (1, 2))),
    ("roll float", lambda g: F.roll(_x(g), 1.5, 0)),
    ("roll dim", lambda g: F.roll(_x(g), 1, 3)),
    ("rot90 one", lambda g: F.rot90(_x(g), 1, (0,))),
    ("rot90 same", lambda g: F.rot90(_x(g), 1, (0, -2))),
    ("rot90 k", lambda g: F.rot90(_x(g), 0.5)),
    ("fliplr vector", lambda g: F.fliplr(g.input("v", (3,)))),
    ("flipud scalar", lambda g: F.flipud(g.input("s"))),
    ("flip twice", lambda g: F.flip(_x(g), (0, -2))),
    ("cat nothing", lambda g: F.cat([])),
    ("cat numbers", lambda g: F.cat([_x(g), 1.0])),
    ("cat ranks", lambda g: F.cat([_x(g), g.input("v", (6,))])),
    ("cat shapes", lambda g: F.cat([_x(g), g.input("y", (4, 5))])),
    ("stack shapes", lambda g: F.stack([_x(g), g.input("y", (4, 5))])),
    ("stack dim", lambda g: F.stack([_x(g)], 3)),
    ("stack value", lambda g: F.stack(_x(g))),
    ("hstack nothing", lambda g: F.hstack([])),
    ("hstack rows", lambda g: F.hstack([_x(g), g.input("y", (5, 6))])),
    ("vstack columns", lambda g: F.vstack([_x(g), g.input("y", (4, 5))])),
    ("vstack value", lambda g: F.vstack(_x(g))),
    ("dstack shapes", lambda g: F.dstack([_x(g), g.input("y", (4, 5))])),
    ("dstack number", lambda g: F.dstack([_x(g), 1])),
    ("meshgrid indexing", lambda g: F.meshgrid(g.input("v", (3,)), indexing="yx")),
    ("meshgrid matrix", lambda g: F.meshgrid(_x(g))),
    ("meshgrid number", lambda g: F.meshgrid(g.input("v", (3,)), 2)),
    ("tril vector", lambda g: F.tril(g.input("v", (3,)))),
    ("tril float", lambda g: F.tril(_x(g), 0.5)),
    ("triu vector", lambda g: F.triu(g.input("v", (3,)))),
    ("triu none", lambda g: F.triu(_x(g), None)),
    ("diagonal same", lambda g: F.diagonal(_x(g), 0, 0, -2)),
    ("diagonal vector", lambda g: F.diagonal(g.input("v", (3,)))),
    ("diagonal float", lambda g: F.diagonal(_x(g), 1.0)),
    ("diag_embed same", lambda g: F.diag_embed(_x(g), 0, 1, 1)),
    ("diag_embed scalar", lambda g: F.diag_embed(g.input("s"))),
    ("diag_embed float", lambda g: F.diag_embed(_x(g), 0.5)),
    ("diag rank", lambda g: F.diag(g.input("y", (2, 2, 2)))),
    ("diag float", lambda g: F.diag(_x(g), 0.5)),
    ("trace vector", lambda g: F.trace(g.input("v", (3,)))),
    ("trace batch", lambda g: F.trace(g.input("y", (2, 2, 2)))),
    ("arange step", lambda g: F.arange(g, 0, 5, 0)),
    ("arange sign", lambda g: F.arange(g, 5, 0)),
    ("arange string", lambda g: F.arange(g, "5")),
    ("arange infinite", lambda g: F.arange(g, float("inf"))),
    ("arange graph", lambda g: F.arange(5)),  # type: ignore[call-arg]
    ("linspace steps", lambda g: F.linspace(g, 0, 1, -1)),
    ("linspace float", lambda g: F.linspace(g, 0, 1, 2.0)),
    ("linspace bound", lambda g: F.linspace(g, None, 1, 2)),
    ("full negative", lambda g: F.full(g, (-1,), 0)),
    ("full value", lambda g: F.full(g, (2,), "0")),
    ("full dtype", lambda g: F.full(g, (2,), 0, "float7")),
    ("zeros float", lambda g: F.zeros(g, (2.0,))),
    ("ones string", lambda g: F.ones(g, "ab")),
    ("eye negative", lambda g: F.eye(g, -1)),
    ("eye float", lambda g: F.eye(g, 2, 2.0)),
    ("eye dtype", lambda g: F.eye(g, 2, dtype="real")),
    ("full_like value", lambda g: F.full_like(_x(g), "a")),
    ("zeros_like dtype", lambda g: F.zeros_like(_x(g), "a")),
    ("ones_like dtype", lambda g: F.ones_like(_x(g), 3)),
    ("reshape float", lambda g: F.reshape(_x(g), (4.0, 6))),
    ("permute int", lambda g: F.permute(_x(g), 1)),
]
