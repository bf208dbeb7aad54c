"""Attention against torch: masks, causality, grouped heads, the layers, and what it costs in launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, assert_close, check, examples
from hypothesis import given, settings
from modules import Case, compare_layers
from test_functional import TARGET, Call, compare, data, same

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.schedule.cost import launch_cost

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def attend(arrays: list[np.ndarray], **kwargs: Any) -> Call:
    return same("scaled_dot_product_attention", arrays, **kwargs)


def mask(*shape: int) -> np.ndarray:
    """True in two thirds of the places, with one row of False."""
    found = np.random.default_rng(0).random(shape) < 0.67
    found[..., 1, :] = False
    return found


def test_attention() -> None:
    q, k, v = data(2, 3, 4, 8), data(2, 3, 5, 8, seed=1), data(2, 3, 5, 6, seed=2)
    seen = mask(4, 5)
    added = np.where(seen, data(4, 5), -np.inf).astype(np.float32)
    calls = {
        "plain": attend([q, k, v]),
        "matrices": attend([q[0, 0], k[0, 0], v[0, 0]]),
        "scale": attend([q, k, v], scale=0.25),
        "causal": attend([q, k, v], is_causal=True),
        "causal long": attend([k, q, data(2, 3, 4, 6)], is_causal=True),
        "bool mask": attend([q, k, v, seen]),
        "bool mask of batches": attend([q, k, v, mask(2, 1, 4, 5)]),
        "keys mask": attend([q, k, v, mask(2, 1, 2, 5)[:, :, :1]]),
        "float mask": attend([q, k, v, data(3, 4, 5)]),
        "infinite mask": (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, q.graph.constant(added)),
            lambda q, k, v: T.scaled_dot_product_attention(q, k, v, torch.from_numpy(added).double()),
            [q, k, v],
        ),
        "broadcast": attend([q, k[:1, :1], v[:1, :1]]),
        "grouped": attend([data(2, 6, 4, 8), k, v], enable_gqa=True),
        "grouped causal": attend([data(2, 6, 4, 8), k, v], enable_gqa=True, is_causal=True),
        "grouped mask": attend([data(2, 6, 4, 8), k, v, mask(6, 4, 5)], enable_gqa=True),
        "one key": attend([q, k[..., :1, :], v[..., :1, :]]),
    }
    compare(calls if not INTERPRETED else dict(list(calls.items())[3:6]), 60)


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=examples(6, 1))
def test_attention_of_any_shape(batch: int, heads: int, length: int, keys: int, width: int, causal: bool) -> None:
    arrays = [data(batch, heads, n, width, seed=i) for i, n in enumerate((length, keys, keys))]
    compare({"any": attend(arrays, is_causal=causal)}, 60)


def test_attention_is_one_launch() -> None:
    """It masks, normalises and drops, and stores no score; dropout also counts its runs."""
    forms: list[dict[str, Any]] = [{}, {"is_causal": True}, {"attn_mask": True}, {"is_causal": True, "dropout_p": 0.5}]
    for kwargs in forms:
        graph = grt.Graph()
        q, k, v = (graph.input(n, (2, 3, 8, 16)) for n in "qkv")
        if kwargs.get("attn_mask"):
            kwargs = {"attn_mask": graph.input("mask", (8, 8), "bool")}
        graph.output("y", F.scaled_dot_product_attention(q, k, v, **kwargs))
        program = grt.compile(graph, target=TARGET)
        assert program.launches == 1 + ("dropout_p" in kwargs), program.plan_text()
        moved = sum(launch_cost(kernels).bytes for kernels in program.kernel_ir)
        assert moved <= 4 * q.type.nbytes + 64 + 64, program.plan_text()  # a mask, or a counter that is read and written


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_attention_keeps_its_dtype(dtype: str) -> None:
    graph = grt.Graph()
    q, mask = graph.input("q", (2, 4, 8), dtype), graph.input("mask", (4, 4))
    assert F.scaled_dot_product_attention(q, q, q, mask, 0.1).dtype.name == dtype
    assert F.scaled_dot_product_attention(q, q, q, is_causal=True).dtype.name == dtype
    w = graph.input("w", (24, 8), dtype)
    assert F.gru_cell(q[0], q[1], w, w).dtype.name == dtype


def test_attention_in_autocast_takes_halves() -> None:
    graph = grt.Graph()
    q, k = graph.input("q", (2, 4, 8)), graph.input("k", (2, 5, 8), "bfloat16")
    with graph.autocast("bfloat16"):
        y = F.scaled_dot_product_attention(q, k, k)
    assert y.dtype.name == "bfloat16" and [v.dtype.name for v in y.node.inputs] == ["bfloat16"] * 3 + ["float32"] * 2


def test_attention_dropout() -> None:
    """Weights are dropped and the rest scaled: with values of 1 a row's sum is not 1 any more, but is on average."""
    graph = grt.Graph()
    q = graph.input("q", (16, 40, 8))
    graph.output("y", F.scaled_dot_product_attention(q, q, F.ones_like(q), dropout_p=0.5))
    found = grt.compile(graph, target=TARGET)(q=np.zeros((16, 40, 8), np.float32))["y"]
    assert found.std() > 0.05 and abs(found.mean() - 1) < 0.05


def test_empty_attention() -> None:
    graph = grt.Graph()
    q, k = graph.input("q", (2, 3, 4)), graph.input("k", (2, 0, 4))
    graph.output("y", F.scaled_dot_product_attention(q, k, k))
    outputs = grt.compile(graph, target=TARGET)(q=data(2, 3, 4), k=data(2, 0, 4))
    np.testing.assert_array_equal(outputs["y"], np.zeros((2, 3, 4)))


def multihead(arrays: list[np.ndarray], call: Callable[..., Any], **kwargs: Any) -> Case:
    torch.manual_seed(0)
    return nn.MultiheadAttention(8, 2, **kwargs), torch.nn.MultiheadAttention(8, 2, **kwargs), call, arrays


def test_multihead_attention() -> None:
    x, y = data(3, 4, 8), data(5, 4, 8, seed=1)
    padding = np.zeros((4, 5), bool)
    padding[1, 3:] = padding[2, 0] = True
    each = np.random.default_rng(0).random((8, 3, 5)) < 0.3
    cases: dict[str, Case] = {
        "self": multihead([x], lambda m, x: m(x, x, x)),
        "no bias": multihead([x, y], lambda m, x, y: m(x, y, y, need_weights=False), bias=False),
        "batch first": multihead([x, data(3, 6, 8)], lambda m, x, y: m(x, y, y), batch_first=True),
        "unbatched": multihead([x[:, 0], y[:, 0]], lambda m, x, y: m(x, y, y)),
        "heads": multihead([x, y], lambda m, x, y: m(x, y, y, average_attn_weights=False)),
        "padding": multihead([x, y, padding], lambda m, x, y, p: m(x, y, y, p)),
        "mask": multihead([x, y, each[0]], lambda m, x, y, a: m(x, y, y, attn_mask=a, is_causal=True)),
        "mask of heads": multihead([x, y, each], lambda m, x, y, a: m(x, y, y, attn_mask=a)),
        "added": multihead([x, y, data(3, 5)], lambda m, x, y, a: m(x, y, y, None, False, a)),
        "both": multihead([x, y, padding, data(3, 5)], lambda m, x, y, p, a: m(x, y, y, p, attn_mask=a)),
        "appended": multihead(
            [x, y, padding, each], lambda m, x, y, p, a: m(x, y, y, p, attn_mask=a), add_bias_kv=True, add_zero_attn=True
        ),
        "appended, batch first": multihead(
            [x, data(3, 6, 8), data(4, 6)], lambda m, x, y, a: m(x, y, y, None, False, a), add_bias_kv=True, batch_first=True
        ),
        "widths": multihead([x, data(5, 4, 6), data(5, 4, 7)], lambda m, *a: m(*a), kdim=6, vdim=7),
    }
    if INTERPRETED:
        cases = {n: cases[n] for n in ("self", "both")}
    compare_layers(cases, TARGET, 200)


def test_a_query_that_sees_no_key() -> None:
    """NaN with the weights and 0 without, before the output projection's bias, as in torch."""
    graph, layer = grt.Graph(), nn.MultiheadAttention(4, 2, batch_first=True).eval()
    x, padding = graph.input("x", (2, 3, 4)), graph.input("padding", (2, 3), "bool")
    graph.output("with", layer(x, x, x, padding)[0])
    graph.output("without", layer(x, x, x, padding, need_weights=False)[0])
    outputs = grt.compile(graph, target=TARGET)(x=data(2, 3, 4), padding=np.array([[True] * 3, [False, False, True]]))
    assert np.isnan(outputs["with"][0]).all() and np.isfinite(outputs["with"][1]).all()
    np.testing.assert_array_equal(outputs["without"][0], np.zeros((3, 4)))


def transformer(
    kind: str, arrays: list[np.ndarray], call: Callable[..., Any] = lambda m, *a: m(*a), layers: int = 0, **kwargs: Any
) -> Case:
    """A layer, or so many of them behind one another, with a norm in the end; an "Encoder" or a "Decoder"."""
    torch.manual_seed(0)
    arguments = {"dim_feedforward": 12, "dropout": 0.0, **kwargs}
    pair = [getattr(side, f"Transformer{kind}Layer")(8, 2, **arguments) for side in (nn, torch.nn)]
    if layers:
        pair = [
            getattr(s, f"Transformer{kind}")(one, layers, norm=s.LayerNorm(8))
            for s, one in zip((nn, torch.nn), pair, strict=True)
        ]
    return pair[0], pair[1], call, arrays


def test_transformer_layers() -> None:
    x, y = data(3, 4, 8), data(5, 4, 8, seed=1)
    causal, few = np.triu(np.ones((3, 3), bool), 1), np.random.default_rng(0).random((4, 5)) < 0.3
    cases: dict[str, Case] = {
        "post": transformer("Encoder", [x]),
        "pre": transformer("Encoder", [x, causal], norm_first=True, activation="gelu"),
        "no bias": transformer("Encoder", [x, causal[:1].repeat(4, 0)], lambda m, x, p: m(x, None, p), bias=False),
        "decoder": transformer("Decoder", [x, y, causal, few], lambda m, x, y, c, p: m(x, y, c, memory_key_padding_mask=p)),
        "decoder, pre": transformer("Decoder", [x, data(3, 6, 8)], norm_first=True, batch_first=True, activation="gelu"),
        "encoders": transformer("Encoder", [x, causal], layers=2),
        "decoders": transformer("Decoder", [x, y, causal], layers=2, bias=False),
    }
    if INTERPRETED:
        cases = {"pre": cases["pre"]}
    compare_layers(cases, TARGET, 400)


def test_layers_of_a_stack_start_alike_and_are_their_own() -> None:
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12), 2).layers
    first, second = (layer.linear1.weight for layer in layers)
    assert first is not second and not np.shares_memory(first.array, second.array)
    np.testing.assert_array_equal(first.array, second.array)


def _qkv(
    g: grt.Graph, q: tuple[int, ...] = (2, 4, 8), k: tuple[int, ...] = (2, 5, 8)
) -> tuple[grt.Value, grt.Value, grt.Value]:
    return g.input("q", q), g.input("k", k), g.input("v", k)


def _mha(g: grt.Graph, **kwargs: Any) -> Any:
    x = g.input("x", (3, 2, 8))
    return nn.MultiheadAttention(8, 2)(x, x, x, **kwargs)


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = [
    ("attention rank", lambda g: F.scaled_dot_product_attention(*_qkv(g, (8,), (8,)))),
    ("attention width", lambda g: F.scaled_dot_product_attention(*_qkv(g, (2, 4, 7)))),
    ("attention keys", lambda g: F.scaled_dot_product_attention(*_qkv(g)[:2], g.input("w", (2, 6, 8)))),
    ("attention batch", lambda g: F.scaled_dot_product_attention(*_qkv(g, (3, 4, 8)))),
    ("attention dtype", lambda g: F.scaled_dot_product_attention(*[g.input("i", (2, 3), "int32")] * 3)),
    ("attention dtypes", lambda g: F.scaled_dot_product_attention(*_qkv(g)[:2], g.input("w", (2, 5, 8), "float64"))),
    ("attention number", lambda g: F.scaled_dot_product_attention(*_qkv(g)[:2], 1.0)),
    ("attention mask shape", lambda g: F.scaled_dot_product_attention(*_qkv(g), g.input("m", (5, 4), "bool"))),
    ("attention mask rank", lambda g: F.scaled_dot_product_attention(*_qkv(g), g.input("m", (3, 2, 4, 5), "bool"))),
    ("attention mask dtype", lambda g: F.scaled_dot_product_attention(*_qkv(g), g.input("m", (4, 5), "int32"))),
    ("attention mask and causal", lambda g: F.scaled_dot_product_attention(*_qkv(g), g.input("m", (4, 5)), is_causal=True)),
    ("attention dropout", lambda g: F.scaled_dot_product_attention(*_qkv(g), dropout_p=1.5)),
    ("attention causal", lambda g: F.scaled_dot_product_attention(*_qkv(g), is_causal="yes")),
    ("attention scale", lambda g: F.scaled_dot_product_attention(*_qkv(g), scale="1")),
    ("attention groups", lambda g: F.scaled_dot_product_attention(*_qkv(g, (3, 4, 8)), enable_gqa=True)),
    ("attention groups rank", lambda g: F.scaled_dot_product_attention(*_qkv(g, (4, 8), (5, 8)), enable_gqa=True)),
    ("multihead heads", lambda g: nn.MultiheadAttention(8, 3)),
    ("multihead width", lambda g: nn.MultiheadAttention(0, 1)),
    ("multihead dropout", lambda g: nn.MultiheadAttention(8, 2, dropout=-1.0)),
    ("multihead kdim", lambda g: nn.MultiheadAttention(8, 2, kdim=2.5)),
    ("multihead input", lambda g: nn.MultiheadAttention(8, 2)(*_qkv(g, (3, 2, 7)))),
    ("multihead rank", lambda g: nn.MultiheadAttention(8, 2)(*_qkv(g, (3, 2, 2, 8), (3, 2, 2, 8)))),
    ("multihead batch", lambda g: nn.MultiheadAttention(8, 2)(*_qkv(g, (3, 2, 8), (3, 1, 8)))),
    ("multihead mask", lambda g: _mha(g, attn_mask=g.input("m", (3, 2), "bool"))),
    ("multihead padding", lambda g: _mha(g, key_padding_mask=g.input("m", (3, 3), "bool"))),
    ("multihead causal", lambda g: _mha(g, is_causal=True)),
    ("encoder activation", lambda g: nn.TransformerEncoderLayer(8, 2, activation="sine")),
    ("encoder heads", lambda g: nn.TransformerEncoderLayer(8, 3)),
    ("decoder activation", lambda g: nn.TransformerDecoderLayer(8, 2, activation="sine")),
    ("decoder memory", lambda g: nn.TransformerDecoderLayer(8, 2, 4)(g.input("x", (3, 2, 8)), g.input("m", (3, 2, 6)))),
    ("encoders of none", lambda g: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 4), 0)),
    ("encoder input", lambda g: nn.TransformerEncoderLayer(8, 2, 4)(g.input("x", (3, 2, 6)))),
]


FORMS: dict[str, dict[str, Any]] = {
    "plain": {"shape": (2, 37, 20), "keys": 301, "size": 70},
    "causal": {"shape": (1, 150, 20), "keys": 150, "size": 20, "is_causal": True},
    "grouped": {"shape": (4, 70, 8), "keys": 70, "size": 8, "groups": 2, "is_causal": True},
    "biased": {"shape": (2, 3, 130, 8), "keys": 65, "size": 3, "bias": (3, 130, 65)},
    "long rows": {"shape": (1, 70, 300), "keys": 90, "size": 140},
    "dropped": {"shape": (2, 100, 8), "keys": 140, "size": 8, "dropout_p": 0.25},
}


def attended(graph: grt.Graph, name: str, rng: np.random.Generator) -> tuple[dict[str, grt.Value], dict[str, np.ndarray], Any]:
    """Attention of a form with gradients: ``(results, feeds, what torch makes of them)``, all under names that begin with
    the form's. torch drops nothing."""
    form = dict(FORMS[name])
    *heads, rows, width = form.pop("shape")
    keys, size, groups, bias = form.pop("keys"), form.pop("size"), form.pop("groups", 1), form.pop("bias", None)
    few = (heads[0] // groups, *heads[1:])
    shapes = {"query": (*heads, rows, width), "key": (*few, keys, width), "value": (*few, keys, size)}
    shapes |= {"bias": bias} if bias else {}
    operands = {n: graph.input(f"{name} {n}", shape) for n, shape in shapes.items()}
    feeds = {v.name: rng.standard_normal(v.shape).astype(np.float32) for v in operands.values()}
    feeds[f"{name} query"] *= 10  # large scores
    options = {**form, "enable_gqa": groups > 1}
    y = F.scaled_dot_product_attention(*operands.values(), **options)
    dy = graph.input(f"{name} dy", y.shape)
    feeds[dy.name] = rng.standard_normal(y.shape).astype(np.float32)
    gradients = grt.grad(y, list(operands.values()), dy)
    found = {f"{name} y": y, **{f"{name} d {n}": d for n, d in zip(operands, gradients, strict=True)}}
    ts = [torch.from_numpy(feeds[v.name].astype(np.float64)).requires_grad_() for v in operands.values()]
    z = T.scaled_dot_product_attention(*ts, **{**options, "dropout_p": 0.0})
    of_torch = torch.autograd.grad(z, ts, torch.from_numpy(feeds[dy.name].astype(np.float64)))
    return found, feeds, dict(zip(found, (t.detach().numpy() for t in (z, *of_torch)), strict=True))


def test_heads_lie_as_they_are_read() -> None:
    """A result whose heads are joined again lies as the product behind them reads it, and its own gradients too."""
    graph, shape = grt.Graph(), (2, 20, 3, 16)
    q, k, v = (F.transpose(graph.input(n, shape), 1, 2) for n in "qkv")
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    w = graph.input("w", (48, 48))
    y = graph.output("y", F.reshape(F.transpose(heads, 1, 2), (2, 20, 48)) @ w)
    for name, d in zip("qkvw", grt.grad(F.sum(y * y), [*(graph.sources[n].outputs[0] for n in "qkv"), w]), strict=True):
        graph.output(f"d{name}", d)
    program = grt.compile(graph, target=TARGET)
    (node,) = (n for n in program.graph.nodes if n.op.name == "attention")
    assert node.types[0].order == (0, 2, 1, 3)
    assert any(d.stage == "layout" and d.node == node.outputs[0].name and d.taken for d in program.decisions)
    check(graph, {n.name: data(*n.types[0].shape, seed=i) for i, n in enumerate(graph.sources.values())}, TARGET, 1000)


@pytest.mark.parametrize("name", FORMS)
def test_blocks_of_attention(name: str, rng: np.random.Generator) -> None:
    """Sizes that no block divides, large scores, and gradients, beside the reference and torch: no score is stored, and there
    are two launches behind the first, two more for a learned bias and its sum over the batch, one to count draws."""
    graph = grt.Graph()
    results, feeds, expected = attended(graph, name, rng)
    for n, v in results.items():
        graph.output(n, v)
    length = 100 * FORMS[name]["keys"]  # scores are 100 times as large as usual
    found = check(graph, feeds, TARGET, length)
    for n in expected if name != "dropped" else ():
        assert_close(found[n], expected[n], length, n)
    program = grt.compile(graph, target=TARGET)
    more = {"dropped": 1, "biased": 2, "plain": 1, "long rows": 1}  # the shorter of the keys' and values' gradients is copied
    assert program.launches == 3 + more.get(name, 0), program.plan_text()
    plan = program.memory()
    assert plan is not None
    scores = FORMS[name]["shape"][-2] * FORMS[name].get("groups", 1), FORMS[name]["keys"]
    if name != "biased":  # whose gradient is one for each score, to be summed over the batch
        assert all(slot.type.shape[-2:] != scores for slot in plan.offset), plan


def test_gradients_of_gradients_of_attention(rng: np.random.Generator) -> None:
    """Of every operand, from the gradients of every operand, beside torch."""
    graph, shapes = grt.Graph(), [(2, 6, 3), (2, 5, 3), (2, 5, 3), (2, 6, 5)]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    operands = [graph.input(n, shape) for n, shape in zip("qkvb", shapes, strict=True)]
    ts = [torch.from_numpy(a.astype(np.float64)).requires_grad_() for a in arrays]
    first = grt.grad(F.sum(F.scaled_dot_product_attention(*operands) ** 3), operands)
    second = grt.grad(F.sum(sum(F.sum(d**2) for d in first)), operands)
    for n, d in zip("qkvb", second, strict=True):
        graph.output(n, d)
    of_torch = torch.autograd.grad((T.scaled_dot_product_attention(*ts) ** 3).sum(), ts, create_graph=True)
    expected = torch.autograd.grad(sum((d**2).sum() for d in of_torch), ts)
    found = grt.compile(graph, target="reference:float64")(dict(zip("qkvb", arrays, strict=True)))
    for n, d in zip("qkvb", expected, strict=True):
        np.testing.assert_allclose(found[n], d.numpy(), 1e-5, 1e-6)


def test_attention_in_halves_keeps_scores_in_float32(rng: np.random.Generator) -> None:
    """Within three roundings of the halves that it is given."""
    graph = grt.Graph()
    query, key, value = (graph.input(n, (2, 40, 16), "bfloat16") for n in ("query", "key", "value"))
    graph.output("y", F.scaled_dot_product_attention(query, key, value))
    feeds = {n: rng.standard_normal((2, 40, 16)).astype(ml_dtypes.bfloat16) for n in ("query", "key", "value")}
    found = grt.compile(graph, target=TARGET)(feeds)["y"].astype(np.float64)
    q, k, v = (torch.from_numpy(feeds[n].astype(np.float64)) for n in ("query", "key", "value"))
    exact = T.scaled_dot_product_attention(q, k, v).numpy()
    assert np.abs(found - exact).max() <= 3 * 2.0**-9 * np.abs(exact).max()
