"""Recurrent layers and cells against torch: outputs, last states, and the gradient of every input and parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from modules import Case, compare_layers
from test_functional import TARGET, data

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.ops.body import Loop, contracted
from graphrt.schedule.kernel_ir import LoopKernel

pytestmark = [pytest.mark.interpret] if INTERPRETED else []


def layer(kind: str, arrays: list[np.ndarray], *args: Any, call: Callable[..., Any] | None = None, **kwargs: Any) -> Case:
    torch.manual_seed(0)
    ours, theirs = getattr(nn, kind)(*args, **kwargs), getattr(torch.nn, kind)(*args, **kwargs)
    return ours, theirs, call or (lambda m, *a: m(*a)), arrays


def pair(m: Any, x: Any, h: Any, c: Any) -> Any:
    """An LSTM takes its two states together."""
    return m(x, (h, c))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_networks(kind: str) -> None:
    x, states = data(3, 2, 4), [data(1, 2, 5, seed=i) for i in range(1 + (kind == "LSTM"))]
    call = pair if kind == "LSTM" else None
    deep = [data(4, 2, 5, seed=i) for i in range(1 + (kind == "LSTM"))]
    cases: dict[str, Case] = {
        "states": layer(kind, [x, *states], 4, 5, call=call),
        "no bias": layer(kind, [x], 4, 5, bias=False),
        "deep": layer(kind, [data(2, 3, 4), *deep], 4, 5, 2, bidirectional=True, batch_first=True, call=call),
    }
    if INTERPRETED:
        cases = {"deep": cases["deep"]}
    compare_layers(cases, TARGET, 400)


@pytest.mark.skipif(INTERPRETED, reason="the same kernels as test_networks")
def test_network_forms() -> None:
    x = data(3, 2, 4)
    cases: dict[str, Case] = {
        "relu": layer("RNN", [x], 4, 5, 2, "relu"),
        "unbatched": layer("GRU", [x[:, 0], data(2, 5)], 4, 5, bidirectional=True),
        "unbatched states": layer("LSTM", [x[:, 0], data(1, 5), data(1, 5, seed=3)], 4, 5, batch_first=True, call=pair),
        "one step of one": layer("LSTM", [x[:1, :1]], 4, 1),
        "projected": layer("LSTM", [x, data(4, 2, 3), data(4, 2, 5)], 4, 5, 2, bidirectional=True, proj_size=3, call=pair),
    }
    compare_layers(cases, TARGET, 400)


def test_cells() -> None:
    x, h, c = data(3, 4), data(3, 5), data(3, 5, seed=1)
    cases: dict[str, Case] = {
        "tanh": layer("RNNCell", [x, h], 4, 5),
        "relu": layer("RNNCell", [x], 4, 5, False, "relu"),
        "lstm": layer("LSTMCell", [x, h, c], 4, 5, call=pair),
        "lstm of one": layer("LSTMCell", [x[0]], 4, 5),
        "gru": layer("GRUCell", [x, h], 4, 5),
        "gru of one": layer("GRUCell", [x[0], h[0]], 4, 5, bias=False),
    }
    compare_layers(cases, TARGET, 100)


def test_bilinear_and_unflatten() -> None:
    cases: dict[str, Case] = {
        "bilinear": layer("Bilinear", [data(2, 3, 4), data(2, 3, 5)], 4, 5, 6),
        "no bias": layer("Bilinear", [data(3, 4), data(3, 5)], 4, 5, 1, bias=False),
        "unflatten": layer("Unflatten", [data(2, 6)], 1, (3, -1), call=lambda m, x: m(x) * 1.0),
    }
    compare_layers(cases, TARGET, 20)


def test_dropout_between_layers() -> None:
    """Only between layers, and only in training."""

    def run(training: bool, layers: int) -> np.ndarray:
        nn.manual_seed(0)
        network = nn.GRU(3, 4, layers, dropout=1.0).train(training)
        return grt.compile(network(grt.Graph().input("x", (2, 1, 3)))[0], target=TARGET)(x=data(2, 1, 3))

    np.testing.assert_array_equal(run(True, 1), run(False, 1))
    assert (run(True, 2) != run(False, 2)).any()


def test_the_input_is_projected_once() -> None:
    """One matmul for the input of all steps, then in each step one, and at most one kernel for its gates."""
    for kind, launches in (("RNN", 1), ("LSTM", 2), ("GRU", 2)):
        network, steps = getattr(nn, kind)(6, 8), 9
        graph = grt.Graph()
        y = network(graph.input("x", (steps, 2, 6)), None)[0]
        matmuls = [n for n in graph.nodes if n.op.name == "matmul"]
        assert len(matmuls) == 1 and matmuls[0].types[0].shape == (steps * 2, network.gates * 8)
        (loop,) = [n for n in graph.nodes if n.op.name == "loop"]
        assert sum(n.op.name == "matmul" for n in Loop.of(loop).body.nodes) == 1
        assert contracted(loop) == 2 * steps * 2 * network.gates * 8 * 8
        program = grt.compile(y, target=TARGET)
        bodies = [k.body for kernels in program.kernel_ir for k in kernels if isinstance(k, LoopKernel)]
        if TARGET == "cpu":
            assert program.launches <= 5 and len(bodies[0].kernels) <= launches
        else:
            assert program.launches <= 3 + launches * steps, program.plan_text()


def test_starting_values() -> None:
    nn.manual_seed(0)
    for module in (nn.LSTM(3, 16, 2), nn.GRUCell(3, 16)):
        for name, p in module.named_parameters():
            assert np.abs(p.array).max() <= 0.25 and p.array.std() > 0.08, name


def _rnn(g: grt.Graph, shape: tuple[int, ...] = (3, 2, 4), hx: Any = None, **kwargs: Any) -> Any:
    return nn.RNN(4, 5, **kwargs)(g.input("x", shape), hx)


def _gru_cell(g: grt.Graph, **shapes: tuple[int, ...]) -> Any:
    wanted: dict[str, tuple[int, ...]] = {
        "x": (2, 4),
        "h": (2, 5),
        "w_ih": (15, 4),
        "w_hh": (15, 5),
        "b_ih": (15,),
        "b_hh": (15,),
    }
    return F.gru_cell(*(g.input(n, s) for n, s in (wanted | shapes).items()))


def _lstm(g: grt.Graph, count: int = 4, **kwargs: Any) -> Any:
    h, shapes = g.input("h", (1, 2, 5)), [(20, 4), (20, 5), (20,), (20,), (20,), (20,)]
    arguments = dict(has_biases=True, num_layers=1, dropout=0.0, train=True, bidirectional=False, batch_first=False)
    params = [g.input(f"p{i}", s) for i, s in enumerate(shapes[:count])]
    return F.lstm(g.input("x", (3, 2, 4)), kwargs.pop("hx", (h, h)), params, **{**arguments, **kwargs})


BAD: list[tuple[str, Callable[[grt.Graph], Any]]] = [
    ("rnn width", lambda g: _rnn(g, (3, 2, 5))),
    ("rnn rank", lambda g: _rnn(g, (4,))),
    ("rnn no steps", lambda g: _rnn(g, (0, 2, 4))),
    ("rnn state", lambda g: _rnn(g, hx=g.input("h", (1, 3, 5)))),
    ("rnn two states", lambda g: _rnn(g, hx=(g.input("h", (1, 2, 5)), g.input("c", (1, 2, 5))))),
    ("rnn nonlinearity", lambda g: _rnn(g, nonlinearity="sine")),
    ("rnn dropout", lambda g: _rnn(g, dropout=2.0)),
    ("rnn layers", lambda g: _rnn(g, num_layers=0)),
    ("lstm hidden", lambda g: nn.LSTM(4, 0)),
    ("lstm projection", lambda g: nn.LSTM(4, 5, proj_size=5)),
    ("lstm state", lambda g: nn.LSTM(4, 5)(g.input("x", (3, 2, 4)), g.input("h", (1, 2, 5)))),
    ("lstm number", lambda g: nn.LSTM(4, 5)(g.input("x", (3, 2, 4)), (1.0, 2.0))),
    ("gru input", lambda g: nn.GRU(4.0, 5)),
    ("gru width", lambda g: nn.GRU(4, 5)(g.input("x", (3, 2, 3)))),
    ("gru unbatched state", lambda g: nn.GRU(4, 5)(g.input("x", (3, 4)), g.input("h", (1, 1, 5)))),
    ("lstm params", lambda g: _lstm(g, 1)),
    ("lstm six params", lambda g: _lstm(g, 6)),
    ("lstm biases", lambda g: _lstm(g, has_biases=False)),
    ("lstm one state", lambda g: _lstm(g, hx=(g.input("one", (1, 2, 5)),))),
    ("lstm state sizes", lambda g: _lstm(g, hx=(g.input("one", (1, 2, 5)), g.input("two", (1, 2, 6))))),
    ("lstm many layers", lambda g: _lstm(g, num_layers=2)),
    ("lstm layers", lambda g: _lstm(g, num_layers=1.5)),
    ("lstm directions", lambda g: _lstm(g, bidirectional=True)),
    ("gru_cell weight", lambda g: _gru_cell(g, w_ih=(10, 4))),
    ("gru_cell recurrent weight", lambda g: _gru_cell(g, w_hh=(15, 4))),
    ("gru_cell bias", lambda g: _gru_cell(g, b_hh=(5,))),
    ("gru_cell batch", lambda g: _gru_cell(g, h=(3, 5))),
    ("gru_cell rank", lambda g: _gru_cell(g, x=(1, 2, 4))),
    ("rnn_tanh_cell one bias", lambda g: F.rnn_tanh_cell(*(g.input("x", (4, 4)),) * 4, g.input("b", (4,)))),
    ("rnn_tanh_cell number", lambda g: F.rnn_tanh_cell(g.input("x", (4, 4)), 1.0, 2.0, 3.0)),
    ("rnn_relu_cell integers", lambda g: F.rnn_relu_cell(*[g.input("x", (4, 4), "int32")] * 4)),
    ("lstm_cell state", lambda g: F.lstm_cell(*[g.input("x", (4, 4))] * 4)),
    ("LSTMCell width", lambda g: nn.LSTMCell(4, 5)(g.input("x", (2, 3)))),
    ("RNNCell nonlinearity", lambda g: nn.RNNCell(4, 5, nonlinearity="abs")),
    ("GRUCell state", lambda g: nn.GRUCell(4, 5)(g.input("x", (2, 4)), g.input("h", (2, 4)))),
    ("Bilinear sizes", lambda g: nn.Bilinear(4, 0, 5)),
    ("Bilinear input", lambda g: nn.Bilinear(4, 5, 6)(g.input("x", (2, 4)), g.input("y", (2, 4)))),
    ("Bilinear batch", lambda g: nn.Bilinear(4, 5, 6)(g.input("x", (2, 4)), g.input("y", (3, 5)))),
    ("Unflatten sizes", lambda g: nn.Unflatten(1, 6)),
    ("Unflatten dim", lambda g: nn.Unflatten("a", (2, 3))),
    ("Unflatten product", lambda g: nn.Unflatten(0, (2, 2))(g.input("x", (6,)))),
]
