"""The graph: printing and parsing, verification, origins, transactions, and errors that say what, where and what fits."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import networkx as nx
import numpy as np
import pytest

import graphrt as grt
from graphrt import errors, models, nn, transaction
from graphrt import ops as F
from graphrt.op import REGISTRY

HOSTILE = ['quote"name', "new\nline", "unicodé ☃", '"); system("x', "class", "a b", "*/ #define x", "%0", "output y = %1"]


def network(name: str = "w") -> grt.Graph:
    g = grt.Graph()
    x, w = g.input("x", (2, 3, 8, 8)), g.parameter(name, np.full((4, 3, 3, 3), 0.1, np.float32))
    h = F.dropout(F.max_pool2d(F.relu(F.conv2d(x, w, padding=1)), 2), 0.25)
    loss = g.output("loss", F.mean(h * h))
    g.update(w, w - grt.grad(loss, [w])[0] * 0.1)
    return g


def test_print_parses_back() -> None:
    g = network()
    again = grt.Graph.parse(str(g))
    assert str(again) == str(g)
    again.verify()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_print_parse_compile_and_run(name: str) -> None:
    g = grt.Graph()
    x = g.input(name, (3,))
    w = g.parameter(name + "'", np.ones(3, np.float32))
    g.output(name, x * w)
    g.update(w, w + x)
    assert str(grt.Graph.parse(str(g))) == str(g)
    program = grt.compile(g, target="cpu")
    assert program({name: np.arange(3, dtype=np.float32)})[name].tolist() == [0.0, 1.0, 2.0]
    assert program.state[name + "'"].tolist() == [1.0, 2.0, 3.0]


def test_parse_says_which_line_is_wrong() -> None:
    with pytest.raises(errors.GraphError, match="line 2"):
        grt.Graph.parse("%0 x : f32[2] = input(shape=(2,), dtype='float32')   # a.py:1 fwd\nnonsense\n")
    with pytest.raises(errors.GraphError, match=r"inference says f32\[2\]"):
        grt.Graph.parse("%0 x : f32[3] = input(shape=(2,), dtype='float32')   # a.py:1 fwd\n")


def test_nodes_know_the_users_line() -> None:
    g = grt.Graph()
    x = g.input("x", (2,))
    y = F.relu(x)
    assert y.node.origin.file == __file__ and y.node.origin.phase == "fwd"
    assert "test_ir.py:" in str(g)
    (dx,) = grt.grad(F.sum(y), [x])
    assert dx.node.origin.phase == "bwd" and dx.node.origin.source == "relu_0"


def test_lines_are_those_of_whoever_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """In transactions of the user's, in what calls the user back, and under commands, which have none."""

    def line() -> int:
        return sys._getframe(1).f_lineno

    class Own(nn.Module):
        def forward(self, input: grt.Value) -> grt.Value:
            self.line, y = line(), F.relu(input)
            return y

    g = grt.Graph()
    with g.transaction():
        before, x = line(), g.input("x", (2, 3))
        after, y = line(), F.softmax(x)
    assert [v.node.origin.line for v in (x, y)] == [before, after]
    assert {node.origin.line for node in g.nodes[1:]} == {after}
    own = Own()
    outside, z = line(), nn.Sequential(nn.Linear(3, 3), own)(x)
    assert (z.node.origin.line, z.node.inputs[0].node.origin.line) == (own.line, outside)
    assert {node.origin.file for node in g.nodes} == {__file__}
    real = transaction._room.__wrapped__
    monkeypatch.setattr(transaction, "_room", lambda file: "commands" if file == __file__ else real(file))
    network = models.lenet5()(grt.Graph().input("x", (2, 1, 32, 32)))
    assert all(node.origin.file != __file__ and real(node.origin.file) != "user" for node in network.graph.nodes)


def test_to_networkx_is_the_dag() -> None:
    g = network()
    dag = g.to_networkx()
    assert nx.is_directed_acyclic_graph(dag) and set(dag.nodes) == set(g.nodes)
    assert dag.number_of_edges() == sum(len(n.inputs) for n in g.nodes)


def test_a_failing_composite_leaves_nothing_behind() -> None:
    g = grt.Graph()
    x, target = g.input("x", (4, 10)), g.input("t", (5,), "int64")
    before = str(g)
    with pytest.raises(errors.ShapeError):
        F.cross_entropy(x, target)
    with pytest.raises(errors.ShapeError):
        F.batch_norm(x, g.sources["x"].outputs[0], None, training=True)
    assert str(g) == before


def wrong_calls() -> dict[str, tuple[type[Exception], list[str], Callable[[grt.Graph, grt.Value, grt.Value], object]]]:
    other = grt.Graph().input("elsewhere", (2, 3))
    return {
        "shapes": (errors.ShapeError, ["add at", "[2, 3]", "[4, 5]"], lambda g, x, y: x + y),
        "matmul": (errors.ShapeError, ["matmul", "[2, 3]", "[4, 5]"], lambda g, x, y: x @ y),
        "dtype": (errors.DTypeError, ["bool", "cast"], lambda g, x, y: F.sum(x > 0.0).graph.append(F_NEG, [x > 0.0])),
        "argument": (
            errors.ArgumentError,
            ["stride", "0"],
            lambda g, x, y: F.max_pool2d(F.reshape(x, (1, 1, 2, 3)), 2, stride=0),
        ),
        "conv": (
            errors.ShapeError,
            ["filter", "does not fit"],
            lambda g, x, y: F.conv2d(F.reshape(x, (1, 1, 2, 3)), F.reshape(y, (1, 1, 4, 5))),
        ),
        "other graph": (errors.GraphError, ["another Graph", "elsewhere"], lambda g, x, y: x + other),
        "name": (errors.GraphError, ["'x' is already"], lambda g, x, y: g.input("x")),
        "loss": (errors.ShapeError, ["must be a scalar", "mean or sum"], lambda g, x, y: grt.grad(x, [x])),
        "wrt name": (errors.GraphError, ["wrt must be Values", "'x'"], lambda g, x, y: grt.grad(F.sum(x), ["x"])),
        "wrt": (errors.GraphError, ["wrt must be Values", "elsewhere"], lambda g, x, y: grt.grad(F.sum(x), [other])),
        "update": (errors.GraphError, ["only parameters"], lambda g, x, y: g.update(x, x)),
        "update shape": (errors.ShapeError, ["its update"], lambda g, x, y: g.update(g.parameter("p", shape=(3,)), x)),
        "output": (errors.GraphError, ["already"], lambda g, x, y: [g.output("o", x), g.output("o", y)]),
        "reshape": (errors.ShapeError, ["6 elements"], lambda g, x, y: F.reshape(x, (4, 2))),
        "dim": (errors.ArgumentError, ["out of range"], lambda g, x, y: F.sum(x, 2)),
        "truth": (errors.GraphError, ["no truth value"], lambda g, x, y: bool(x > 0.0)),
        "number": (errors.GraphError, ["is no number while the graph is built"], lambda g, x, y: float(F.sum(x))),
        "of numpy": (errors.GraphError, ["numpy.exp takes arrays", "graphrt.ops.exp takes it"], lambda g, x, y: np.exp(x)),
        "numpy's abs": (errors.GraphError, ["graphrt.ops.abs takes it"], lambda g, x, y: np.abs(x)),
        "numpy's own": (errors.GraphError, ["graphrt.ops has functions of values"], lambda g, x, y: np.spacing(x)),
        "into an array": (errors.GraphError, ["numpy.add takes arrays"], lambda g, x, y: np.add(x, 1, out=np.zeros((2, 3)))),
        "unknown dtype": (TypeError, ["is no dtype"], lambda g, x, y: F.cast(x, "float13")),
        "no outputs": (errors.GraphError, ["no outputs"], lambda g, x, y: grt.compile(grt.Graph())),
        "target": (errors.TargetError, ["target must be"], lambda g, x, y: grt.compile(x, target="tpu")),
        "variant": (errors.TargetError, ["reference:float64"], lambda g, x, y: grt.compile(x, target="reference:float16")),
    }


F_NEG = REGISTRY["neg"]


@pytest.mark.parametrize("case", wrong_calls())
def test_errors_say_what_was_wrong(case: str) -> None:
    kind, words, call = wrong_calls()[case]
    g = grt.Graph()
    x, y = g.input("x", (2, 3)), g.input("y", (4, 5))
    with pytest.raises(kind) as caught:
        call(g, x, y)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {caught.value}"


def test_arrays_meet_values_in_operators() -> None:
    """On either side, as arrays or NumPy's own numbers."""
    operators = ("+", "-", "*", "/", "**", "<", "<=", ">", ">=")
    array, given = np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[2.0, 2.0, 2.0]], np.float32)
    g = grt.Graph()
    v = g.input("v", (1, 3))
    for i, operator in enumerate(operators):
        for j, left in enumerate((array, np.float32(3.0), np.float64(3.0))):
            g.output(f"{i} {j}", eval(f"left {operator} v", {"left": left, "v": v}))
    found = grt.compile(g, target="reference")(v=given)
    for i, operator in enumerate(operators):
        for j, left in enumerate((array, np.float32(3.0), np.float64(3.0))):
            expected = np.broadcast_to(eval(f"left {operator} v", {"left": left, "v": given}), (1, 3))
            np.testing.assert_array_equal(found[f"{i} {j}"], expected)
            assert found[f"{i} {j}"].dtype == (bool if "<" in operator or ">" in operator else np.float32)
    assert v not in [array] and (array == v) is False and (array != v) is True


def test_errors_name_the_line_and_the_operands() -> None:
    g = grt.Graph()
    x, y = g.input("x", (2, 3)), g.input("y", (4, 5))
    with pytest.raises(errors.ShapeError) as caught:
        F.linear(x, y)
    assert f"linear at {__file__}:" in str(caught.value)
    assert "operand x" in str(caught.value) and "f32[4,5]" in str(caught.value)


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_bad_input_never_reaches_a_kernel(target: str) -> None:
    g = grt.Graph()
    x, n = g.input("x", (2, 3)), g.input("n", (), "int64")
    program = grt.compile({"y": x * F.cast(n, "float32")}, target=target)
    good = np.ones((2, 3), np.float32)
    for words, inputs in (
        (["missing input 'n'", "test_ir.py:"], {"x": good}),
        (["no input 'z'", "x : f32[2,3]"], {"x": good, "n": 1, "z": 2}),
        (["shape [3, 2]", "f32[2,3]"], {"x": good.T, "n": 1}),
        (["float64", "convert"], {"x": good.astype(np.float64), "n": 1}),
        (["1.5 does not fit"], {"x": good, "n": 1.5}),
    ):
        with pytest.raises(errors.InputError) as caught:
            program(inputs)
        for word in words:
            assert word in str(caught.value), f"{word!r} is not in {caught.value}"
    with pytest.raises(errors.InputError, match="by name"):
        program(good, 1)


def test_hostile_origins_print_and_parse() -> None:
    """Names and files of the user reach the comment behind a node; they may hold anything but must stay one line."""
    for name in HOSTILE:
        g = grt.Graph()
        x = g.input(name)
        g.output("dx", grt.grad(x, [x])[0])
        assert str(grt.Graph.parse(str(g))) == str(g), name
    g = grt.Graph()
    scope = {"x": g.input("x", (3,)), "F": F}
    exec(compile("y = F.relu(x)", "a\n*/ #error b\n.py", "exec"), scope)
    g.output("y", scope["y"])
    assert str(grt.Graph.parse(str(g))) == str(g)
    assert grt.compile(g, target="cpu")(x=np.ones(3, np.float32))["y"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 300, -1, 2**70], ids=str)
def test_numbers_that_no_integer_input_holds(value: float) -> None:
    g = grt.Graph()
    g.output("y", F.cast(g.input("n", (), "uint8"), "float32"))
    with pytest.raises(errors.InputError, match=r"'n' is u8\[\]"):
        grt.compile(g, target="cpu")(n=value)


@pytest.mark.parametrize("kind", ["bfloat16", "sparse", "meta"])
def test_torch_tensors_that_numpy_cannot_hold(kind: str) -> None:
    import torch

    g = grt.Graph()
    g.output("y", g.input("x", (3,)) * 2.0)
    tensors = {
        "bfloat16": torch.ones(3, dtype=torch.bfloat16),
        "sparse": torch.ones(3).to_sparse(),
        "meta": torch.ones(3, device="meta"),
    }
    program = grt.compile(g, target="cpu", state=grt.State())
    with pytest.raises(errors.InputError, match=r"'x' is f32\[3\]"):
        program(x=tensors[kind])
    with pytest.raises(errors.ArgumentError, match=r"parameter 'w': Tensor is no array that NumPy can read"):
        g.parameter("w", tensors[kind])
    with pytest.raises(errors.ArgumentError, match=r"a constant: Tensor is no array"):
        g.constant(tensors[kind])
    assert list(g.sources) == ["x"]


def test_whatever_memory_an_array_has() -> None:
    """Unaligned, read-only, backwards, of a step, broadcast, requiring a gradient: as input, as parameter, as state."""
    import torch

    base = np.arange(12, dtype=np.float32).reshape(4, 3)
    unaligned = np.frombuffer(bytearray(49), np.float32, 12, 1).reshape(4, 3)
    unaligned[:] = base
    fixed = base.copy()
    fixed.setflags(write=False)
    arrays = {
        "unaligned": unaligned,
        "read-only": fixed,
        "backwards": base[::-1, ::-1].copy()[::-1, ::-1],
        "of a step": np.repeat(base, 2, 1)[:, ::2],
        "columns": np.asfortranarray(base),
        "broadcast": np.broadcast_to(np.float32(3), (4, 3)),
        "gradient": torch.from_numpy(base.copy()).requires_grad_(),
        "other order": torch.from_numpy(base.T.copy()).T,
    }
    g = grt.Graph()
    x = g.input("x", (4, 3))
    for i, array in enumerate(arrays.values()):
        w = g.parameter(f"w{i}", array)
        g.output(f"y{i}", w * 2.0 + x)
        g.update(w, w + 1.0)
    program = grt.compile(g, target="cpu")
    for name, array in arrays.items():
        plain = np.asarray(array.detach() if isinstance(array, torch.Tensor) else array).copy()
        for i in range(len(arrays)):
            program.state.set(f"w{i}", array)
        outputs = program(x=array)
        for i in range(len(arrays)):
            np.testing.assert_array_equal(outputs[f"y{i}"], 3 * plain, name)
            np.testing.assert_array_equal(program.state[f"w{i}"], plain + 1, name)
        np.testing.assert_array_equal(plain, array.detach() if isinstance(array, torch.Tensor) else array)  # nobody wrote to it


@pytest.mark.parametrize("dtype", [">f4", ">i8", "complex64", "O", "U3"])
def test_dtypes_of_no_parameter(dtype: str) -> None:
    g = grt.Graph()
    message = "bytes in the other order" if dtype[0] == ">" else "no complex" if dtype[0] == "c" else "no dtype of graphrt"
    with pytest.raises(errors.DTypeError, match=message):
        g.parameter("w", np.ones(3).astype(dtype))


@pytest.mark.parametrize("text", ["4.bias", "f4,i4", "(2,)f4", "(((", "float33", "\0"])
def test_texts_that_name_no_dtype(text: str) -> None:
    """NumPy reads some as formats of several fields, and raises errors of its own for others."""
    with pytest.raises(errors.DTypeError, match="no dtype of graphrt; it has bool, uint8"):
        grt.Graph().input("x", (3,), text)


def test_an_error_takes_back_what_was_said_since() -> None:
    """Names of results, updates and starting values, as they were before each transaction, in one that goes on or not."""
    g = grt.Graph()
    p = g.parameter("p", np.ones(3, "f"))
    F.manual_seed(g, 7)
    g.output("before", p * 2.0)
    first = g.advance(p, p + 1.0)

    def tables() -> list[dict[str, object]]:
        return [dict(t) for t in (g.sources, g.outputs, g.updates, g.orders, {n: a.tolist() for n, a in g.initial.items()})]

    text, before = str(g), tables()
    with pytest.raises(ZeroDivisionError), g.transaction():
        with contextlib.suppress(errors.ShapeError), g.transaction():
            F.manual_seed(g, 9)
            g.output("lost", g.parameter("q", np.zeros(2, "f")) * 1.0, order=(0,))
            F.matmul(p, F.zeros(g, (2, 2)))
        assert tables() == before
        g.advance(p, first * 3.0)
        g.output("after", p)
        raise ZeroDivisionError
    assert str(g) == text and tables() == before
    with g.transaction():
        latest = g.advance(p, first * 3.0)
    assert g.updates["p"] is latest and not g._before
