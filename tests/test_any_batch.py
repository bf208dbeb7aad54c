"""Programs for any batch up to the largest: each batch gives what a graph of that batch does, whatever spare rows hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given
from hypothesis import strategies as st

import graphrt as grt
from graphrt import errors, models, nn, optim
from graphrt import ops as F
from graphrt.op import Kind
from graphrt.passes.batch_rows import Verdict
from graphrt.passes.open_batch import MASK, ROWS, open_batch, verdicts
from graphrt.passes.pipeline import run_passes
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import parse

MOST = 5


def weights(g: grt.Graph, name: str, *shape: int) -> grt.Value:
    rng = np.random.default_rng(sum(map(ord, name)))
    return g.parameter(name, (rng.standard_normal(shape) * 0.4).astype(np.float32))


def stepped(g: grt.Graph, loss: grt.Value) -> grt.Graph:
    """``g`` with a step of descent, whose gradients are outputs."""
    g.output("loss", loss)
    parameters = g.parameters()
    for p, d in zip(parameters, grt.grad(loss, parameters), strict=True):
        g.update(p, p - 0.1 * d)
        g.output(f"gradient of {p.node.name}", d)
    return g


def convolutional(n: int) -> grt.Graph:
    """Batch norm in training, with running statistics, pooling, dropout and labels, some of which are ignored."""
    g = grt.Graph()
    x, y = g.input("x", (n, 2, 5, 5)), g.input("y", (n,), "int64")
    mean = g.parameter("mean", np.zeros(3, np.float32), trainable=False)
    var = g.parameter("var", np.ones(3, np.float32), trainable=False)
    h = F.batch_norm(F.conv2d(x, weights(g, "w", 3, 2, 2, 2), weights(g, "b", 3)), mean, var, training=True)
    h = F.dropout(F.flatten(F.max_pool2d(F.relu(h), 2), 1), 0.3)
    z = g.output("z", F.linear(h, weights(g, "v", 4, 12), weights(g, "c", 4)))
    g.output("accuracy", F.mean(F.cast(F.eq(F.argmax(z, 1), y), "float32")))
    return stepped(g, F.cross_entropy(z, y, label_smoothing=0.1) + F.cross_entropy(z, y, weight=weights(g, "s", 4) + 2.0) * 0.5)


def sequences(n: int) -> grt.Graph:
    """Tokens are embedded, joined with the batch, attend to each other, and are classified, all in one dimension."""
    g = grt.Graph()
    x, y = g.input("x", (n, 3), "int64"), g.input("y", (n, 3), "int64")
    h = F.layer_norm(F.embedding(x, weights(g, "table", 4, 6)), (6,))
    q, k, v = (F.permute(F.reshape(F.linear(h, weights(g, p, 6, 6)), (n, 3, 2, 3)), (0, 2, 1, 3)) for p in "qkv")
    h = h + F.reshape(F.permute(F.scaled_dot_product_attention(q, k, v), (0, 2, 1, 3)), (n, 3, 6))
    z = F.linear(F.reshape(h, (n * 3, 6)), weights(g, "o", 4, 6), weights(g, "c", 4))
    g.output("rows", z)
    return stepped(g, F.cross_entropy(z, F.reshape(y, (n * 3,))))


def statistics(n: int) -> grt.Graph:
    """Everything that folds a batch, which does not lie in front everywhere."""
    g = grt.Graph()
    x, y = g.input("x", (n, 2, 3)), g.input("y", (n,), "int64")
    h = F.tanh(x * weights(g, "w", 2, 3))
    side = F.reshape(F.permute(h, (1, 0, 2)), (2 * n, 3))  # examples alternate
    for name, value in (("max", F.amax(h, 0)), ("min", F.amin(side, 0)), ("first", F.argmax(h, 0)), ("product", F.prod(h, 0))):
        g.output(name, value)
    g.output("var", F.var(h, (0, 2)))
    g.output("own", F.std(h, 2) + F.cast(F.reshape(y, (n, 1)), "float32"))
    g.output("counts", F.bincount(F.clamp(y, -1, 3), minlength=4))
    g.output("gram", F.matmul(F.permute(F.reshape(h, (n, 6)), (1, 0)), F.reshape(h, (n, 6))))
    g.output("head", h[0])
    distance = F.kl_div(F.log_softmax(h, 2), F.softmax(x, 2), "batchmean")
    return stepped(g, F.mean(side * side) + F.sum(F.amax(h, 0)) * 0.1 + F.std(h) + distance + F.logsumexp(h, (0, 1, 2)))


def recurrent(n: int) -> grt.Graph:
    """A loop over time, whose last states are classified."""
    g = grt.Graph()
    x, y = g.input("x", (4, n, 3)), g.input("y", (n,), "int64")
    w, u = weights(g, "w", 3, 4), weights(g, "u", 4, 4)

    def step(h: grt.Value, x: grt.Value) -> tuple[grt.Value, grt.Value]:
        h = F.tanh(F.matmul(x, w) + F.matmul(h, u))
        return h, h * h

    last, squares = F.scan(step, F.zeros(g, (n, 4)), x)
    g.output("squares", squares)
    return stepped(g, F.cross_entropy(last, y) + F.mean(squares))


CASES: dict[Callable[[int], grt.Graph], dict[str, int]] = {
    convolutional: {"x": 0, "y": 0},
    sequences: {"x": 0, "y": 0},
    statistics: {"x": 0, "y": 0},
    recurrent: {"x": 1, "y": 0},
}


def drawn(graph: grt.Graph, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    types = {name: node.types[0] for name, node in graph.sources.items() if node.op.name == "input"}
    return {
        name: rng.standard_normal(t.shape).astype(np.float32) if t.dtype.is_float else rng.integers(0, 4, t.shape)
        for name, t in types.items()
    }


def poisoned(feeds: dict[str, np.ndarray], dims: dict[str, int], rows: int, poison: float) -> dict[str, Any]:
    """``feeds`` with whatever is worst in the rows past the count, and the count."""
    found: dict[str, Any] = {ROWS: rows}
    for name, array in feeds.items():
        worst = np.array(poison if array.dtype.kind == "f" else -(2**62)).astype(array.dtype)
        shape = [MOST if d == dims[name] else size for d, size in enumerate(array.shape)]
        found[name] = np.full(shape, worst, array.dtype)
        found[name][(*[slice(None)] * dims[name], slice(rows))] = array
    return found


def as_of_that_batch(build: Callable[[int], grt.Graph], program: grt.Program, rows: int, seed: int, poison: float) -> None:
    """Compares a run of ``program``, for any batch, with the reference of the graph of ``rows``, in float64."""
    graph = build(rows)
    feeds, before = drawn(graph, seed), {name: program.state[name].copy() for name in program.state}
    expected = evaluate(graph, {**before, **feeds})
    given_rows = poisoned(feeds, CASES[build], rows, poison) if poison else feeds
    outputs = program(given_rows)
    for name, v in graph.outputs.items():
        assert outputs[name].shape == v.shape
        assert_close(outputs[name], expected[v], 512, f"{name} of {rows}")
    for name, v in graph.updates.items():
        assert_close(program.state[name], expected[v], 512, f"update of {name} of {rows}")


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_each_batch_gives_what_its_own_graph_does_on_the_reference(build: Callable[[int], grt.Graph]) -> None:
    program = grt.compile(build(MOST), target="reference", batch=grt.up_to(MOST, CASES[build]))
    for rows in range(program.batch.least, MOST + 1):
        for poison in (0.0, np.nan, np.inf, 3e38):
            as_of_that_batch(build, program, rows, rows, poison)


@pytest.mark.parametrize("build", CASES, ids=lambda build: build.__name__)
def test_each_batch_gives_what_its_own_graph_does(build: Callable[[int], grt.Graph], target: str) -> None:
    program = grt.compile(build(MOST), target=target, batch=grt.up_to(MOST, CASES[build]))
    for rows in range(program.batch.least, MOST + 1):
        for poison in (0.0, np.nan):
            as_of_that_batch(build, program, rows, 10 + rows, poison)


@given(rows=st.lists(st.integers(1, 9), min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_batches_in_any_order(rows: list[int], seed: int) -> None:
    g = grt.Graph()
    x = g.input("x", (9, 3))
    y = g.output("y", F.softmax(x, 1))
    g.output("mean", F.mean(y * x))
    program = grt.compile(g, target="reference", batch=grt.up_to(9))
    rng = np.random.default_rng(seed)
    for n in rows:
        given_x = rng.standard_normal((n, 3)).astype(np.float32)
        e = np.exp(given_x - given_x.max(1, keepdims=True, initial=-np.inf).astype(np.float64))
        share = e / e.sum(1, keepdims=True)
        found = program(x=given_x)
        assert_close(found["y"], share, 3)
        assert_close(found["mean"], (share * given_x).mean(), 27)


# --- refusals -----------------------------------------------------------------------------------------------------------


def halves(x: grt.Value) -> grt.Value:
    return F.mean(F.reshape(x, (2, 4, 3)), 1)


REFUSED: dict[str, tuple[Callable[[grt.Value], grt.Value], str]] = {
    "a reshape that takes it apart": (
        halves,
        r"reshape from \[8, 3\] to \[2, 4, 3\] takes the batch of 8 apart.*keep the batch",
    ),
    "a slice": (lambda x: x[:4], r"slice from \[8, 3\] to \[4, 3\] takes the batch of 8 apart"),
    "another example": (lambda x: x[1] + x, r"slice .* takes the batch of 8 apart"),
    "a flip": (lambda x: F.flip(x, [0]), "flip .* no slice, concat or flip of it"),
    "a concatenation": (lambda x: F.concat([x, x], 0), "concat .* or joins several"),
    "a sort": (lambda x: F.sort(x, 0)[0], r"sort works along the batch, dimension 0 of \[8, 3\].*depends on the others"),
    "a cumulative sum": (lambda x: F.cumsum(x, 0), "scan works along the batch.*work along another dimension"),
    "each beside each": (lambda x: F.matmul(x, F.permute(x, (1, 0))), r"matmul sets each example beside every other one"),
    "others": (lambda x: x[:, :1] + F.permute(F.concat([x, x, x[:, :2]], 1), (1, 0)), "add meets different examples"),
    "a mean by hand": (lambda x: F.sum(x) / x.shape[0], "meets the number 8, which looks like the largest batch.*take F.mean"),
    "a mean of all by hand": (lambda x: F.sum(x) * (1 / 24), "meets the number 0.0416667, which looks like the largest batch"),
    "a count of ones": (lambda x: F.sum(x) / F.sum(F.ones_like(x)), "reduce folds a constant over 8 places"),
    "positions in it": (lambda x: F.gather(x, 0, F.cast(x, "int64")), "gather works along the batch"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_needs_another_graph_for_another_batch_is_refused(what: str) -> None:
    make, reason = REFUSED[what]
    g = grt.Graph()
    g.output("y", make(g.input("x", (8, 3))))
    with pytest.raises(errors.GraphError, match=f"(?s)any batch up to 8 of this graph: .*{Path(__file__).name}:.*{reason}"):
        grt.compile(g, target="reference", batch=grt.up_to(8))
    refusals = [v for v in verdicts(g, grt.up_to(8)) if not v.takes]
    assert refusals and all(isinstance(v, Verdict) and v.change for v in refusals)
    grt.compile(g, target="reference")  # which takes its own batch


def test_outputs_whose_examples_alternate_and_state_of_a_batch_are_refused() -> None:
    g = grt.Graph()
    g.output("y", F.reshape(F.permute(g.input("x", (8, 3)), (1, 0)), (24,)))
    with pytest.raises(errors.GraphError, match=r"output 'y'.*alternate along dimension 0 of \[24\]"):
        grt.compile(g, target="reference", batch=grt.up_to(8))
    g = grt.Graph()
    h = g.parameter("h", np.zeros((8, 3), np.float32))
    g.update(h, h + g.input("x", (8, 3)))
    with pytest.raises(errors.GraphError, match="parameter 'h' becomes .* a row for each example; make it an output"):
        grt.compile(g, target="reference", batch=grt.up_to(8))


def test_wrong_calls_say_what_would_be_right() -> None:
    for most in (0, -1, 2.0, True):
        with pytest.raises(errors.ArgumentError, match="largest batch, an int of 1 or more"):
            grt.up_to(most)
    g = grt.Graph()
    x, y = g.input("x", (4, 3)), g.input("y", (4,))
    g.output("z", F.batch_norm(x, None, None, training=True) + F.reshape(y, (4, 1)))
    with pytest.raises(errors.ArgumentError, match=r"no input's first dimension is 5: x \[4, 3\], y \[4\]"):
        grt.compile(g, target="reference", batch=grt.up_to(5))
    with pytest.raises(errors.ArgumentError, match="dimension 1 of input 'x' is not 4"):
        grt.compile(g, target="reference", batch=grt.up_to(4, {"x": 1}))
    program = grt.compile(g, target="reference", batch=grt.up_to(4))
    ok = {n: np.ones((2, 3)[: 2 if n == "x" else 1], np.float32) for n in "xy"}
    with pytest.raises(errors.InputError, match="inputs have one batch, got 2 in 'x', 3 in 'y'"):
        program(x=ok["x"], y=np.ones(3, np.float32))
    with pytest.raises(errors.InputError, match=r"batches of 1 to 4, got 5; compile it with batch=up_to\(5\)"):
        program(x=np.ones((5, 3), np.float32), y=np.ones(5, np.float32))
    with pytest.raises(errors.InputError, match="batches of 1 to 4, got 0"):
        program(x=np.ones((0, 3), np.float32), y=np.ones(0, np.float32))
    with pytest.raises(errors.InputError, match=r"'x' is .*got shape \[2, 4\] of a batch of 2"):
        program(x=np.ones((2, 4), np.float32), y=ok["y"])
    with pytest.raises(errors.InputError, match="missing input 'y'"):
        program(x=ok["x"])


def test_a_norm_with_running_statistics_needs_two_values() -> None:
    g = grt.Graph()
    mean, var = (g.parameter(name, np.ones(3, np.float32), trainable=False) for name in ("mean", "var"))
    g.output("y", F.batch_norm(g.input("x", (4, 3)), mean, var, training=True))
    program = grt.compile(g, target="reference", batch=grt.up_to(4))
    with pytest.raises(
        errors.InputError, match="batches of 2 to 4, got 1: in training, a norm over the batch needs two values"
    ):
        program(x=np.ones((1, 3), np.float32))
    assert program(x=np.ones((2, 3), np.float32))["y"].shape == (2, 3)


def test_a_largest_batch_of_one() -> None:
    g = grt.Graph()
    y = g.output("y", F.relu(g.input("x", (1, 3))))
    g.output("sum", F.sum(y) / 1.0)
    program = grt.compile(g, target="reference", batch=grt.up_to(1))
    assert program(x=np.ones((1, 3), np.float32))["sum"] == 3.0
    with pytest.raises(errors.InputError, match="batches of 1 to 1, got 2"):
        program(x=np.ones((2, 3), np.float32))


# --- in use -------------------------------------------------------------------------------------------------------------


def test_verdicts_are_decisions() -> None:
    program = grt.compile(sequences(MOST), target="reference", batch=grt.up_to(MOST))
    text = program.explain().full()
    assert "takes any batch: each example is computed from itself" in text
    assert "takes any batch: it folds the batch, of which rows past the count are" in text
    program = grt.compile(convolutional(MOST), target="reference", batch=grt.up_to(MOST))
    assert f"is made of a count of {MOST * 16}, 16 for each row" in program.explain().full()


def test_a_saved_program_takes_any_batch(tmp_path: Path) -> None:
    g = grt.Graph()
    y = g.output("y", F.relu(g.input("x", (6, 4))))
    g.output("mean", F.mean(y))
    program = grt.compile(g, target="cpu", batch=grt.up_to(6))
    program.save(tmp_path / "p")
    loaded = grt.load(tmp_path / "p")
    assert loaded.batch == program.batch
    for rows in (1, 4, 6):
        x = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)
        for name, value in loaded(x=x).items():
            np.testing.assert_array_equal(value, program(x=x)[name])
        assert loaded(x=x)["y"].shape == (rows, 4)


def test_prefetched_batches_of_several_sizes() -> None:
    g = grt.Graph()
    y = g.output("y", g.input("x", (6, 4)) * g.input("s"))
    g.output("sum", F.sum(y))
    program = grt.compile(g, target="cpu", batch=grt.up_to(6))
    first, second = (np.full((n, 4), n, np.float32) for n in (2, 5))
    program.prefetch(x=first)
    program.prefetch(x=second)
    for x in (first, second):
        found = program(s=2.0)
        np.testing.assert_array_equal(found["y"], 2 * x)
        assert found["sum"] == 2 * x.sum()


def test_modules_and_torch_models_take_any_batch() -> None:
    torch = pytest.importorskip("torch")
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
    program, whole = grt.compile(net, (x,), target="cpu", batch=grt.up_to(8)), grt.compile(net, (x,), target="cpu")(x)
    for rows in (1, 3, 8):
        assert_close(program(x[:rows]), whole[:rows], 4)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    given_x = torch.from_numpy(x)
    program = grt.compile(model, (given_x,), target="cpu", batch=grt.up_to(8))
    for rows in (1, 3, 8):
        with torch.no_grad():
            assert_close(program(given_x[:rows]), model(given_x[:rows]).numpy(), 4)
    with pytest.raises(errors.ArgumentError, match="to_torch takes a program of one batch"):
        grt.to_torch(program)


class Everything(dict):  # type: ignore[type-arg]
    """Contains whatever it is asked for."""

    def __contains__(self, key: object) -> bool:
        return True


def test_a_trainer_has_one_program_for_all_batches_of_what_is_not_normalised_over_them() -> None:
    trainer = grt.Trainer(nn.Linear(3, 4), F.cross_entropy, optim.SGD(0.05), target="reference")
    for rows in (6, 1, 4, 6, 2):
        trainer.step(np.ones((rows, 3), np.float32), np.zeros(rows, np.int64))
    trainer.step(np.ones((7, 3), np.float32), np.zeros(7, np.int64))
    assert [p.batch.most for p in trainer._programs.values()] == [6, 7]
    assert "takes any batch up to 6, made because: the first" in trainer.summary()
    assert "takes any batch up to 7, made because: dimension 0 of x is 7, and was 6" in trainer.summary()


@pytest.mark.parametrize("target_name", ["reference", "cpu"])
def test_a_trainer_of_a_normalised_net_has_two_programs(target_name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((11, 3)).astype(np.float32), rng.integers(0, 4, 11)

    def trained(batches: list[slice], shared: bool, on: str) -> tuple[grt.Trainer, list[float]]:
        net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))
        ramp = {
            n: 0.1 + np.arange(a.size).reshape(a.shape) % 7 / 9 for n, a in net.state_dict().items() if a.dtype == np.float32
        }
        net.load_state_dict({n: a.astype(np.float32) for n, a in ramp.items()}, strict=False)
        trainer = grt.Trainer(net, F.cross_entropy, optim.SGD(0.05, momentum=0.9), target=on)
        if not shared:
            trainer._closed = Everything()
        losses = [float(trainer.step(x[part], y[part])["loss"]) for part in batches]
        trainer.sync()
        return trainer, losses

    parts = [slice(0, 4), slice(4, 8), slice(8, 11), slice(0, 2), slice(2, 6)]
    (one, losses), (several, expected) = trained(parts, True, target_name), trained(parts, False, "reference")
    assert len(one._programs) == 2 and len(several._programs) == 3  # the first is of four alone, as its statistics pay
    np.testing.assert_allclose(losses, expected, 1e-5)
    for name, array in several.net.state_dict().items():
        np.testing.assert_allclose(one.net.state_dict()[name], array, 1e-3, 1e-5)
    assert "takes any batch up to 4, made because: dimension 0 of x is 3, and was 4" in one.summary()
    assert "made because: dimension 0 of x is 3, and was 4" in several.summary()
    np.testing.assert_allclose(one.predict(x, batch_size=4), several.predict(x, batch_size=4), 1e-3, 1e-4)
    assert [key[0] for key in one._programs] == ["train", "train", "predict"]


def test_a_trainer_of_what_depends_on_the_batch_has_a_program_for_each() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 3)).astype(np.float32)

    def contrastive(z: grt.Value, y: grt.Value) -> grt.Value:
        return F.cross_entropy(F.matmul(z, F.permute(z, (1, 0))), y)

    trainer = grt.Trainer(nn.Linear(3, 3), contrastive, optim.SGD(0.1), target="reference", metrics=())
    for rows in (6, 4):
        trainer.step(x[:rows], np.arange(rows))
    assert len(trainer._programs) == 2
    assert "dimension 0 of x is 4, and was 6 (no program takes any batch up to 6" in trainer.summary()
    assert "sets each example beside every other one" in trainer.summary()


def test_a_trainer_keeps_a_bounded_number_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphrt.train.programs.MOST_PROGRAMS", 3)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    trainer = grt.Trainer(net, F.cross_entropy, optim.SGD(0.1), target="reference")
    for side in (5, 6, 7, 8, 9):
        trainer.step(np.ones((2, 1, side, side), np.float32), np.zeros(2, np.int64))
        assert len(trainer._programs) <= 3
    assert "dimension 2 of x is 9, and was 8" in trainer.summary()
    assert "dimension 2 of x is 6" not in trainer.summary()


def test_a_network_of_the_library_trains_on_any_batch() -> None:
    net = models.lenet5()
    trainer = grt.Trainer(net, F.cross_entropy, optim.SGD(0.05), target="reference")
    graph = trainer.training_graph(((4, 1, 32, 32), "float32"), ((4,), "int64"))
    assert not [v for v in verdicts(graph, grt.up_to(4)) if not v.takes]


def test_an_onnx_model_with_an_open_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3), nn.Softmax(1))
    x = np.random.default_rng(0).standard_normal((6, 1, 5, 5)).astype(np.float32)
    grt.to_onnx(net, tmp_path / "net.onnx", (x,))
    graph = grt.from_onnx(str(tmp_path / "net.onnx"), shapes={"batch": 6})
    (name,) = (name for name, node in graph.sources.items() if node.op.name == "input")
    program = grt.compile(graph, target="reference", batch=grt.up_to(6))
    expected = np.asarray(grt.compile(net, (x,), target="reference")(x))
    for rows in (1, 4, 6):
        (found,) = program({name: x[:rows]}).values()
        assert_close(found, expected[:rows], 64)


def test_the_page_on_batches() -> None:
    text = (Path(__file__).parent.parent / "docs" / "use" / "batches.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 4
    exec("\n".join(block for block in blocks if "model.onnx" not in block), {})


class Attending(nn.Module):
    """Self-attention over tokens, whose rows are joined with the batch by the linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attend, self.out = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: grt.Value) -> grt.Value:
        h = self.norm(x)
        return F.softmax(self.out(x + self.attend(h, h, h)[0]), 2)


class Reading(nn.Module):
    """An LSTM, which is a loop, and a layer behind its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: grt.Value) -> grt.Value:
        return self.out(self.read(x)[0][:, -1])


INFERENCE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "winograd": (
        lambda: nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)),
        (8, 9, 9),
    ),
    "pointwise": (lambda: nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (8, 7, 5)),
    "narrow": (lambda: nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten()), (1, 12, 13)),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, groups=16), nn.ReLU(), nn.ConvTranspose2d(16, 3, 3)),
        (16, 9, 9),
    ),
    "dense": (lambda: nn.Sequential(nn.Linear(30, 70), nn.GELU(), nn.LayerNorm(70), nn.Linear(70, 9), nn.Softmax(1)), (30,)),
    "attention": (Attending, (5, 8)),
    "loop": (Reading, (40, 6)),
    "head": (lambda: nn.Sequential(nn.Linear(30, 16), nn.ReLU(), nn.Linear(16, 2)), (30,)),
}


@pytest.mark.parametrize("name", INFERENCE)
def test_a_program_without_gradients_stops_at_the_last_row(name: str) -> None:
    make, shape = INFERENCE[name]
    net, most = make(), 37
    x = np.random.default_rng(0).standard_normal((most, *shape)).astype(np.float32)
    program = grt.compile(net, (x,), target="cpu", batch=grt.up_to(most))
    expected = np.asarray(grt.compile(net, (x,), target="reference:float64")(x))
    limited = [line for line in program.source().splitlines() if re.search(r", 1, [01]\}, /\* launch", line)]
    assert len(limited) >= (program.launches // 2 if name != "loop" else 1)  # which steps through time, in front of the batch
    for rows in (most, 1, 2, 5, 19, 36):  # of a run before there is NaN behind the count (GRAPHRT_POISON)
        assert_close(program(x[:rows]), expected[:rows], 256, f"{name} of {rows}")


def test_only_rows_of_one_product_are_those_of_the_batch() -> None:
    """A product of few rows is not of all, however many there may be; one of two examples is two products."""
    x, graphs = np.random.default_rng(0).standard_normal((2, 20, 30)).astype(np.float32), [grt.Graph(), grt.Graph()]
    v = graphs[0].input("x", x.shape)
    graphs[0].output("y", v @ F.transpose(v, 1, 2))
    graphs[1].output("y", F.relu(F.linear(graphs[1].input("x", (2, 600)), weights(graphs[1], "w", 9, 600))))
    for graph, feed, rows in zip(graphs, (x, x.reshape(2, -1)), ([], ["#define ROWS_M 1"]), strict=True):
        program, whole = (grt.compile(graph, target=t, **o) for t, o in (("cpu", {"batch": grt.up_to(2)}), ("reference", {})))
        assert set(re.findall("#define ROWS_M 1", program.source())) == {*rows}
        for n in (2, 1):
            assert_close(program(x=feed[:n])["y"], whole(x=feed)["y"][:n], 600)


def test_an_input_that_is_called_as_the_count_is_an_input() -> None:
    graph = grt.Graph()
    graph.output("y", graph.input(ROWS, (), "int64") * 2)
    assert grt.compile(graph, target="cpu")({ROWS: 7})["y"] == 14


@pytest.mark.parametrize("build", CASES)
def test_masks_keep_their_names_through_all_passes(build: Callable[[int], grt.Graph]) -> None:
    """They are the comparisons of places with the count of rows, and of nothing that is not alike in all runs of a count."""
    opened, *_ = open_batch(build(MOST), grt.up_to(MOST, CASES[build]))
    final = run_passes(opened, parse("cpu").passes(), {})[0][-1][1]
    alike, counted = set[grt.Value](), set[grt.Value]()
    for node in final.nodes:
        if node.name == ROWS or (node.op.kind not in (Kind.SOURCE, Kind.RANDOM) and alike.issuperset(node.inputs)):
            alike.update(node.outputs)
            if node.name == ROWS or not counted.isdisjoint(node.inputs):
                counted.update(node.outputs)
    compared = {v.name for v in counted if v.dtype.is_bool and v.node.inputs[0] not in counted}
    assert compared and compared == {n.name for n in final.nodes if n.name.startswith(MASK)}


@pytest.mark.parametrize("name", INFERENCE)
def test_what_folds_the_batch_sees_no_row_that_is_not_computed(name: str) -> None:
    """Losses and metrics behind heads: where a kernel stores what a sum reads, its rows past the count are neutral."""
    make, shape = INFERENCE[name]
    net, most = make(), 37
    rng = np.random.default_rng(1)
    x = rng.standard_normal((most, *shape)).astype(np.float32)

    def measured(n: int, several: bool) -> grt.Graph:
        g = grt.Graph()
        with nn.module.in_mode(net, False):
            z = net(g.input("x", (n, *shape)))
        share = F.sigmoid(z)
        distance = F.abs(share - g.input("y", (n, *z.shape[1:])))
        g.output("huber", F.mean(F.where(distance < 0.3, distance * distance * 5.0, distance - 0.05)))
        if several:
            g.output("mean", F.mean(distance))
            g.output("worst", F.amax(F.sum(F.square(distance), tuple(range(1, len(z.shape))))))
            g.output("by column", F.mean(F.exp(share), 0))
            g.output("first", share[0])
        return g

    y = rng.random((most, *measured(most, False).sources["y"].types[0].shape[1:])).astype(np.float32)
    for several in (False, True):
        program = grt.compile(measured(most, several), target="cpu", batch=grt.up_to(most))
        for rows in (most, 1, 2, 19, 36):
            graph = measured(rows, several)
            expected = evaluate(graph, {**graph.initial, "x": x[:rows], "y": y[:rows]})
            found = program(x=x[:rows], y=y[:rows])
            for output, value in graph.outputs.items():
                assert_close(found[output], expected[value], 512, f"{output} of {rows}, {name}")
