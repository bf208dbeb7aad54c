"""Embeddings and bags of them beside torch, forward and backward."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as T
from conftest import INTERPRETED, examples
from hypothesis import given, settings
from test_functional import Call, compare, data

import graphrt as grt
from graphrt import errors, nn, optim
from graphrt import ops as F

pytestmark = [pytest.mark.interpret] if INTERPRETED else []
OFFSETS = np.array([0, 0, 3, 7, 7])


def rows(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, shape)


def test_embedding_bag() -> None:
    table, flat, square = data(9, 4), rows(11), rows(3, 5, seed=1)
    calls: dict[str, Call] = {}
    for mode in ("sum", "mean", "max"):
        for padding in (None, 2):
            options: dict[str, Any] = {"mode": mode, "padding_idx": padding}
            calls[f"square {mode} {padding}"] = (
                lambda i, w, o=options: F.embedding_bag(i, w, **o),
                lambda i, w, o=options: T.embedding_bag(i, w, **o),
                [square, table],
            )
            calls[f"offsets {mode} {padding}"] = (
                lambda i, w, s, o=options: F.embedding_bag(i, w, s, **o),
                lambda i, w, s, o=options: T.embedding_bag(i, w, s, **o),
                [flat, table, OFFSETS],
            )
    calls["weighted"] = (
        lambda i, w, s, p: F.embedding_bag(i, w, s, mode="sum", per_sample_weights=p, padding_idx=3),
        lambda i, w, s, p: T.embedding_bag(i, w, s, mode="sum", per_sample_weights=p, padding_idx=3),
        [flat, table, OFFSETS, data(11)],
    )
    calls["with an end"] = (
        lambda i, w, s: F.embedding_bag(i, w, s, include_last_offset=True),
        lambda i, w, s: T.embedding_bag(i, w, s, include_last_offset=True),
        [flat, table, np.array([0, 4, 4, 11])],
    )
    calls["by frequency"] = (
        lambda i, w: F.embedding(i, w, scale_grad_by_freq=True),
        lambda i, w: T.embedding(i, w, scale_grad_by_freq=True),
        [square, table],
    )
    calls["bags by frequency"] = (  # torch's own bags divide by the frequency of another row on CPUs
        lambda i, w: F.embedding_bag(i, w, scale_grad_by_freq=True, mode="sum"),
        lambda i, w: T.embedding(i, w, scale_grad_by_freq=True).sum(1),
        [square, table],
    )
    compare(calls, 16)


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6), mode=st.sampled_from(["sum", "mean", "max"]))
@settings(max_examples=examples(8, 3))
def test_bags_of_any_size(sizes: list[int], mode: str) -> None:
    starts = np.cumsum([0, *sizes[:-1]])
    calls: dict[str, Call] = {
        "drawn": (
            lambda i, w, s: F.embedding_bag(i, w, s, mode=mode),
            lambda i, w, s: T.embedding_bag(i, w, s, mode=mode),
            [rows(sum(sizes), seed=len(sizes)), data(9, 3), starts],
        )
    }
    compare(calls, 16)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_rows_longer_than_max_norm_are_read_shortened(p: float) -> None:
    """torch scales the table itself, and gives it the gradient of the scaled rows."""
    table, index = data(9, 4) * 2, rows(3, 2)
    graph = grt.Graph()
    w, i, dy = graph.input("w", table.shape), graph.input("i", index.shape, "int64"), graph.input("dy", (3, 2, 4))
    y = F.embedding(i, w, max_norm=1.5, norm_type=p)
    graph.output("y", y)
    graph.output("dw", grt.grad(y, [w], dy)[0])
    graph.output("table", F.embedding_renorm(w, i, 1.5, p))
    dys = data(3, 2, 4, seed=3)
    found = grt.compile(graph, target="interpret" if INTERPRETED else "cpu")(w=table, i=index, dy=dys)
    theirs = torch.from_numpy(table.copy()).requires_grad_()
    expected = T.embedding(torch.from_numpy(index), theirs, max_norm=1.5, norm_type=p)
    expected.backward(torch.from_numpy(dys))
    assert theirs.grad is not None
    np.testing.assert_allclose(found["y"], expected.detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["dw"], theirs.grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["table"], theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", ["reference", "target"])
def test_integers_that_name_no_row(place: str, target: str) -> None:
    """Negative or too large: NaN, and no gradient, where torch raises; integers are 0. Bags of them are NaN too."""
    table, index = data(9, 4), np.array([[0, -1], [9, 8], [-9, 3], [2**40, -(2**40)]])
    outside = (index < 0) | (index > 8)
    graph = grt.Graph()
    w, i, dy = graph.input("w", table.shape), graph.input("i", index.shape, "int64"), graph.input("dy", (4, 2, 4))
    graph.output("y", y := F.embedding(i, w))
    graph.output("dw", grt.grad(y, [w], dy)[0])
    graph.output("half", F.embedding(i, F.cast(w, "bfloat16")))
    graph.output("whole", F.embedding(i, F.cast(w * 100.0, "int32")))
    graph.output("bag", F.embedding_bag(i, w, mode="sum"))
    program = grt.compile(graph, target=place if place == "reference" else target)
    found = program(w=table, i=index, dy=np.ones((4, 2, 4), np.float32))
    inside = np.where(outside, 0, index)
    np.testing.assert_array_equal(found["y"], np.where(outside[..., None], np.nan, table[inside]))
    np.testing.assert_array_equal(np.isnan(found["half"].astype(np.float32)), np.broadcast_to(outside[..., None], (4, 2, 4)))
    np.testing.assert_array_equal(found["whole"], np.where(outside[..., None], 0, (table * 100).astype(np.int32)[inside]))
    np.testing.assert_array_equal(np.isnan(found["bag"]), np.broadcast_to(outside.any(1)[:, None], (4, 4)))
    np.testing.assert_array_equal(found["dw"][:, 0], [1, 0, 0, 1, 0, 0, 0, 0, 1])


LAYERS: dict[str, Any] = {  # of graphrt.nn, or of torch.nn
    "plain": lambda m: m.Embedding(9, 4),
    "padding": lambda m: m.Embedding(9, 4, padding_idx=-7),
    "short": lambda m: m.Embedding(9, 4, max_norm=1.0),
    "frequent": lambda m: m.Embedding(9, 4, padding_idx=2, max_norm=1.5, norm_type=1.0, scale_grad_by_freq=True),
    "bag": lambda m: m.EmbeddingBag(9, 4),
    "bag max": lambda m: m.EmbeddingBag(9, 4, mode="max", padding_idx=2),
    "bag sum": lambda m: m.EmbeddingBag(9, 4, max_norm=1.0, mode="sum", include_last_offset=True),
}
SQUARE, AGAIN, ENDS = rows(3, 5), rows(2, 2, seed=1), np.array([0, 2, 2, 6])


def forward(layers: dict[str, Any], square: Any, again: Any, flat: Any, ends: Any, weights: Any) -> Any:
    """A sum over what the layers read, all but the last of them twice."""
    *first, last = layers.values()
    found = last(flat, ends, per_sample_weights=weights)
    total = (found.tanh() * found).sum()
    for layer in first:
        for part in (layer(square), layer(again)):
            total = total + (part.tanh() * part).sum()
    return total


class Tables(nn.Module):
    def __init__(self) -> None:
        self.layers = {name.replace(" ", "_"): make(nn) for name, make in LAYERS.items()}

    def forward(self, *given: Any) -> Any:
        return forward(self.layers, *given)


class TorchTables(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict({name.replace(" ", "_"): make(torch.nn) for name, make in LAYERS.items()})

    def forward(self, *given: Any) -> Any:
        return forward(dict(self.layers.items()), *given)


@pytest.mark.parametrize("door", ["native", "from_torch"])
def test_layers_train_as_torchs(door: str, target: str) -> None:
    """Every option, momentum and decay: rows that were scaled down are stepped from where they are then."""
    torch.manual_seed(0)
    theirs = TorchTables()
    start, feeds = copy.deepcopy(theirs), [SQUARE, AGAIN, rows(6, seed=2), ENDS, data(6)]
    names = ["square", "again", "flat", "ends", "weights"]
    if door == "native":
        net, graph = Tables(), grt.Graph()
        net.load_state_dict(start.state_dict())
        loss = net(*(graph.input(n, a.shape, a.dtype) for n, a in zip(names, feeds, strict=True)))
        graph.output("out", loss)
    else:
        graph = grt.from_torch(start, tuple(map(torch.from_numpy, feeds)), train=True)
        loss = graph.outputs["out"]
        names = list(graph.signature.names)
    params = graph.parameters()
    optim.SGD(0.05, momentum=0.9, weight_decay=0.01).apply(params, grt.grad(loss, params), graph.input("lr"))
    program = grt.compile(graph, target=target)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        expected = theirs(*map(torch.from_numpy, feeds))
        expected.backward()
        optimizer.step()
        found = program({**dict(zip(names, feeds, strict=True)), "lr": 0.05})
        assert float(found["out"] if isinstance(found, dict) else found) == pytest.approx(expected.item(), rel=1e-4)
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(program.state[name], tensor, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.skipif(INTERPRETED, reason="no kernel of its own")
def test_layers_outside_training() -> None:
    table = data(5, 3)
    layer = nn.Embedding.from_pretrained(torch.from_numpy(table), max_norm=0.5)
    assert not layer.weight.trainable and nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="max").weight.trainable
    program = grt.compile(layer.eval(), (np.array([1, 3]),), target="reference")
    np.testing.assert_allclose(np.linalg.norm(program(np.array([1, 3])), axis=1), 0.5, rtol=1e-5)
    assert np.array_equal(layer.weight.array, table)
    assert not nn.Embedding(5, 3, padding_idx=-2).weight.array[3].any()
    for make, message in (
        (lambda: nn.Embedding(5, 3, sparse=True), "no sparse gradients; leave sparse out"),
        (lambda: nn.EmbeddingBag(5, 3, sparse=True), "no sparse gradients; leave sparse out"),
        (lambda: nn.Embedding(5, 3, padding_idx=5), "padding_idx 5 is out of range"),
        (lambda: nn.Embedding(0, 3), "num_embeddings must be an int >= 1"),
        (lambda: nn.Embedding.from_pretrained(table[0]), r"embeddings must be \[V, D\]"),
    ):
        with pytest.raises(errors.GraphrtError, match=message):
            make()


def _i(g: grt.Graph) -> grt.Value:
    return g.input("i", (3, 2), "int64")


def _w(g: grt.Graph) -> grt.Value:
    return g.input("w", (9, 4))


def _s(g: grt.Graph) -> grt.Value:
    return g.input("s", (5,), "int64")


WRONG: list[tuple[str, Any, str]] = [
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), _w(g), _s(g)), "without offsets"),
    ("embedding_bag", lambda g: F.embedding_bag(_s(g), _w(g)), "without offsets"),
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), _w(g), mode="median"), "mode must be"),
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), _w(g), per_sample_weights=g.input("p", (3, 2))), "mode 'sum' only"),
    ("embedding_bag", lambda g: F.embedding_bag(g.input("f", (3, 2)), _w(g)), "must hold integers"),
    ("embedding_bag", lambda g: F.embedding_bag(_i(g), g.input("v", (5,))), r"weight must be \[V, D\]"),
    ("embedding_bag", lambda g: F.embedding_bag(_s(g), _w(g), _i(g)), r"offsets must be \[B\]"),
    ("embedding_renorm", lambda g: F.embedding_renorm(g.input("v", (5,)), _i(g), 1.0), r"weight must be \[V, D\]"),
    ("embedding_renorm", lambda g: F.embedding_renorm(_w(g), g.input("f", (3,)), 1.0), "indices must hold integers"),
    ("embedding_renorm", lambda g: F.embedding_renorm(_w(g), _i(g), "a"), "max_norm must be a float"),
]
BAD = [(name, call) for name, call, _ in WRONG]


@pytest.mark.parametrize(("name", "call", "message"), WRONG)
def test_what_is_refused(name: str, call: Any, message: str) -> None:
    with pytest.raises(errors.GraphrtError, match=message):
        call(grt.Graph())
