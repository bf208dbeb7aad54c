"""Bad input never gets past the call that is given it: one clear GraphrtError, and nothing left on the graph.

Every public function has at least three wrong calls, here or in the list ``BAD`` of its family's test module, whose entries
are (name of the function and perhaps more words, callable taking a Graph). A second test replaces every argument of every
function by things of every other kind.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import graphrt as grt
from graphrt import ops as F
from graphrt.errors import GraphrtError
from graphrt.ops import FUNCTIONS

Values = Any  # what ``values`` returns: named Values of one graph
Wrong = Callable[[Values], Any]


def values(g: grt.Graph) -> Values:
    """One Value of each rank and dtype that the table needs."""
    elsewhere = grt.Graph().input("elsewhere", (2, 3))
    shapes = {
        "x": (2, 3),
        "y": (4, 5),
        "s": (),
        "v": (3,),
        "o": (1, 3),
        "w": (4, 3),
        "e": (2, 0),
        "m": (2, 3, 6, 6),
        "k": (4, 3, 3, 3),
    }
    floats = {name: g.input(name, shape) for name, shape in shapes.items()}
    others = {
        "i": g.input("i", (2, 3), "int64"),
        "t": g.input("t", (2,), "int64"),
        "d": g.input("d", (4, 3, 3, 3), "float64"),
        "b": g.input("b", (2, 3), "bool"),
    }
    return SimpleNamespace(**floats, **others, z=elsewhere)


def unary(f: Callable[..., Any]) -> list[Wrong]:
    return [lambda v: f([v.x]), lambda v: f(v.x, 1), lambda v: f(None), lambda v: f("x"), lambda v: f(other=v.x)]


def binary(f: Callable[..., Any]) -> list[Wrong]:
    mates = [lambda v: "a", lambda v: v.y, lambda v: None, lambda v: [1.0], lambda v: v.z, lambda v: 1j]
    return [lambda v, mate=mate: f(v.x, mate(v)) for mate in mates]


def reducing(f: Callable[..., Any]) -> list[Wrong]:
    wrong = [2, -3, (0, 0), "0", 1.0, True, (0, None), [[0]]]
    return [*(lambda v, d=d: f(v.x, d) for d in wrong), lambda v: f(v.x, 0, keepdim=2), lambda v: f([v.x], 0)]


def along(f: Callable[..., Any]) -> list[Wrong]:
    return [lambda v, d=d: f(v.x, dim=d) for d in (2, -3, "0", 1.0, (0,), True)]


def reduced(f: Callable[..., Any]) -> list[Wrong]:
    shapes: list[Wrong] = [lambda v: f(v.x, v.y), lambda v: f(v.x, None), lambda v: f(v.x, 1.0)]
    return [*shapes, lambda v: f(v.x, v.x, reduction="avg"), lambda v: f(v.x, v.x, reduction=None)]


def pooling(f: Callable[..., Any]) -> list[Wrong]:
    wrong: list[dict[str, Any]] = [{"stride": 0}, {"padding": 2}, {"padding": -1}, {"stride": (1,)}, {"stride": 1.0}]
    sizes = [0, -1, (2, 2, 2), "2", None, 2.0, 50, (2, 0)]
    calls: list[Wrong] = [lambda v, k=k: f(v.m, k) for k in sizes]
    return [*calls, *(lambda v, a=a: f(v.m, 2, **a) for a in wrong), lambda v: f(v.x, 2), lambda v: f(v.i, 2)]


def ordering(f: Callable[..., Any]) -> list[Wrong]:
    return [lambda v, k=k: f(v.x, k) for k in (0 if f is F.kthvalue else -1, 4, "1", 1.0, None)] + [lambda v: f(v.x, 1, 2)]


BY_FAMILY: dict[str, tuple[Callable[[Any], list[Wrong]], tuple[str, ...]]] = {
    "reductions": (reducing, ("sum", "prod", "mean", "amax", "amin", "any", "all", "var", "std", "logsumexp")),
    "along one dimension": (
        along,
        (
            *("argmax", "argmin", "softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"),
            *("sort", "argsort", "median"),
        ),
    ),
    "losses": (reduced, ("mse_loss", "l1_loss", "hinge_loss", "binary_cross_entropy_with_logits")),
    "pooling": (pooling, ("max_pool2d", "avg_pool2d", "sum_pool2d")),
    "ordering": (ordering, ("topk", "kthvalue")),
}

TABLE: dict[str, list[Wrong]] = {
    "unsqueeze": [lambda v, d=d: F.unsqueeze(v.x, d) for d in (3, -4, "0", None, (0,))],
    "squeeze": [lambda v, d=d: F.squeeze(v.x, d) for d in (2, -3, "0", 1.0, (0, 0))],
    "reshape": [
        lambda v, s=s: F.reshape(v.x, s) for s in ((4, 2), (-1, -1), (-1, 4), (-2, -3), "ab", 6, None, (2.0, 3), (-6,))
    ],
    "expand": [lambda v, s=s: F.expand(v.x, s) for s in ((3,), (2, 4), "23", 6, None, (2, 3.0), (-1, 2, 3))],
    "flatten": [
        lambda v: F.flatten(v.x, 1, 0),
        lambda v: F.flatten(v.x, 2),
        lambda v: F.flatten(v.x, "a"),
        lambda v: F.flatten(3),
    ],
    "permute": [lambda v, d=d: F.permute(v.x, d) for d in ((0,), (0, 0), (0, 2), "01", None, 1, (0, 1.0))],
    "transpose": [
        lambda v: F.transpose(v.x, 0, 2),
        lambda v: F.transpose(v.x, 0),  # type: ignore[call-arg]
        lambda v: F.transpose(v.x, 0, None),
    ],
    "movedim": [lambda v: F.movedim(v.x, 0, 2), lambda v: F.movedim(v.x, 5, 0), lambda v: F.movedim(v.x, (0,), "1")],
    "getitem": [
        *(lambda v, k=k: v.x[k] for k in (2, (0, 3), (0, 0, 0), "a", 1.0, (..., ...), [0, None])),
        lambda v: v.x[::"a"],
        lambda v: v.x[::0],
    ],
    "pad": [lambda v, p=p: F.pad(v.x, p) for p in ((1,), (1, 1) * 3, (-2, -2), "ab", 1, None, (0.5, 1))]
    + [lambda v, m=m: F.pad(v.x, (3, 3), m) for m in ("reflect", "wrap", None)]
    + [lambda v: F.pad(v.x, (1, 1), value="0"), lambda v: F.pad(v.e, (1, 1), "replicate")],
    "flip": [lambda v, d=d: F.flip(v.x, d) for d in (2, (0, 0), "0", 1.0, (0, None))],
    "concat": [lambda v, c=c: F.concat(c(v)) for c in (lambda v: [], lambda v: v.x, lambda v: [v.x, 1.0], lambda v: [v.x, v.y])]
    + [lambda v: F.concat([v.x, v.x], 2), lambda v: F.concat([v.x, v.z])],
    "stack": [
        lambda v: F.stack([]),
        lambda v: F.stack([v.x, v.y]),
        lambda v: F.stack([v.x, v.x], 3),
        lambda v: F.stack([v.x, None]),
    ],
    "matmul": [lambda v: F.matmul(v.x, v.y), lambda v: F.matmul(v.x, v.s), lambda v: v.x @ 2.0, lambda v: F.matmul(v.i, v.i)],
    "linear": [
        lambda v: F.linear(v.x, v.y),
        lambda v: F.linear(v.x, v.w, v.v),
        lambda v: F.linear(v.x, v.v),
        lambda v: F.linear(v.x, 1),
    ],
    "straight_through": [
        lambda v: F.straight_through(v.x, v.y),
        lambda v: F.straight_through(v.x, v.d),
        lambda v: F.straight_through(v.i, v.i),
    ],
    "where": [
        lambda v: F.where(v.x, v.x, v.x),
        lambda v: F.where(v.b, v.x, v.y),
        lambda v: F.where(v.b, "a", 1),
        lambda v: F.where(True, 1, 2),
    ],
    "cast": [lambda v, d=d: F.cast(v.x, d) for d in ("float13", None, 32, "complex64", object)],
    "leaky_relu": [lambda v, a=a: F.leaky_relu(v.x, a) for a in ("1", None, [0.1])] + [lambda v: F.leaky_relu(0.5)],
    "elu": [lambda v, a=a: F.elu(v.x, a) for a in ("1", None, [1.0])],
    "softplus": [lambda v, a=a: F.softplus(v.x, a) for a in ("1", None, [1.0])],
    "gelu": [lambda v, a=a: F.gelu(v.x, a) for a in ("erf", None, True)],
    "dropout": [lambda v, p=p: F.dropout(v.x, p) for p in (-0.1, 1.1, "0", None, float("nan"))],
    "conv2d": [
        lambda v: F.conv2d(v.x, v.k),
        lambda v: F.conv2d(v.m, v.w),
        lambda v: F.conv2d(v.m, v.k, v.v),
        lambda v: F.conv2d(v.m, v.d),
        *(
            lambda v, a=a: F.conv2d(v.m, v.k, **a)
            for a in (
                *({"stride": s} for s in (0, -1, (1,), "1", 1.5, None)),
                *({"padding": p} for p in (-1, (1,), "full", 1.5, ((0, 1),), None)),
                *({"dilation": d} for d in (0, 3, "1")),
                *({"groups": n} for n in (0, 2, 1.0, None)),
                {"padding": "same", "stride": 2},
            )
        ),
    ],
    "global_avg_pool2d": [
        lambda v: F.global_avg_pool2d(v.x),
        lambda v: F.global_avg_pool2d(v.i),
        lambda v: F.global_avg_pool2d([v.m]),
    ],
    "batch_norm": [
        lambda v: F.batch_norm(v.s, None, None, training=True),
        lambda v: F.batch_norm(v.x, None, None),
        lambda v: F.batch_norm(v.x, v.t, v.v),
        lambda v: F.batch_norm(v.x, v.v, v.v, v.w),
        lambda v: F.batch_norm(v.o, None, None, training=True),
        lambda v: F.batch_norm(v.x, v.v, v.v, eps="small"),
    ],
    "layer_norm": [lambda v, n=n: F.layer_norm(v.x, n) for n in (2, (), (3, 2), "3", None, 3.0)]
    + [lambda v: F.layer_norm(v.x, 3, v.t)],
    "nll_loss": [
        lambda v: F.nll_loss(v.x, v.x),
        lambda v: F.nll_loss(v.y, v.t),
        lambda v: F.nll_loss(v.x, v.t, ignore_index="0"),
    ],
    "cross_entropy": [
        lambda v: F.cross_entropy(v.y, v.t),
        lambda v: F.cross_entropy(v.x, v.y),
        lambda v: F.cross_entropy(v.s, v.t),
        lambda v: F.cross_entropy(v.x, v.b),
        lambda v: F.cross_entropy(v.x, v.t, label_smoothing=2.0),
        lambda v: F.cross_entropy(v.x, v.t, reduction="avg"),
    ],
    "one_hot": [lambda v, n=n: F.one_hot(v.i, n) for n in (0, -1, "3", 2.0)] + [lambda v: F.one_hot(v.x, 3)],
    "embedding": [lambda v: F.embedding(v.x, v.w), lambda v: F.embedding(v.i, v.v), lambda v: F.embedding(v.i, v.w, "0")],
    "take": [lambda v: F.take(v.x, v.x), lambda v: F.take(v.x, 0), lambda v: F.take(v.x, None)],
    "take_along_dim": [
        lambda v: F.take_along_dim(v.x, v.x, 0),
        lambda v: F.take_along_dim(v.x, v.i, 2),
        lambda v: F.take_along_dim(v.x, 0),
    ],
}

for name in ("gather", "index_select"):
    f = FUNCTIONS[name]
    TABLE[name] = [
        lambda v, f=f: f(v.x, 0, v.x),
        lambda v, f=f: f(v.x, 2, v.i),
        lambda v, f=f: f(v.x, "0", v.i),
        lambda v, f=f: f(v.x, 0, [0]),
    ]
for name, more in (("scatter", ()), ("scatter_add", ()), ("scatter_reduce", ("sum",)), ("index_add", ())):
    f = FUNCTIONS[name]
    calls = [("0", "i", "x"), (2, "i", "x"), (0, "x", "x"), (0, "i", "v"), (0, "b", "x")]
    TABLE[name] = [lambda v, f=f, d=d, i=i, s=s, m=more: f(v.x, d, getattr(v, i), getattr(v, s), *m) for d, i, s in calls]
TABLE["scatter_reduce"] += [lambda v, r=r: F.scatter_reduce(v.x, 0, v.i, v.x, r) for r in ("sub", None, 1)]


BY_SIGNATURE = """swapaxes swapdims moveaxis scaled_dot_product_attention conv_transpose1d conv_transpose2d conv_transpose3d
local_conv2d full_like zeros_like ones_like broadcast_tensors repeat_interleave hstack vstack dstack tril triu diag lp_pool1d
lp_pool2d lp_pool3d channel_pool rnn_tanh_cell rnn_relu_cell lstm_cell rnn_tanh rnn_relu
svd matrix_norm cond matrix_rank solve""".split()
ANY_SHAPES = ("expand_as", "kron")  # wrong calls are in the BAD lists: these take operands that others refuse


def signature(f: Any) -> list[Wrong]:
    """Calls that no signature allows, for functions whose own wrong calls are tested under their family's name."""
    return [
        lambda v: f(v.x, no_such_argument=1),
        lambda v: f("x", v.x),
        lambda v: f(None, v.x),
    ]


def rows() -> dict[str, list[Wrong]]:
    """Wrong calls by function: the table's, and those that its signature or family has."""
    found: dict[str, list[Wrong]] = {name: list(calls) for name, calls in TABLE.items()}
    for family, names in BY_FAMILY.values():
        for name in names:
            found.setdefault(name, []).extend(family(FUNCTIONS[name]))
    for name in BY_SIGNATURE:
        found.setdefault(name, []).extend(signature(FUNCTIONS[name]))
    for name, f in FUNCTIONS.items():
        plain = tuple(inspect.signature(f).parameters)
        if name not in found and name not in ANY_SHAPES and plain in (("input",), ("input", "other")):
            found[name] = (unary if len(plain) == 1 else binary)(f)
    return found


ROWS = rows()
MODULES = sorted(
    p.stem
    for p in Path(__file__).parent.glob("test_*.py")
    if p.stem != Path(__file__).stem and re.search(r"^BAD\b", p.read_text(), re.M)
)
BAD = [(f"{m.removeprefix('test_')}-{name}", call) for m in MODULES for name, call in importlib.import_module(m).BAD]


@pytest.mark.parametrize("name", ROWS)
def test_wrong_calls_raise_one_clear_error(name: str) -> None:
    for i, call in enumerate(ROWS[name]):
        graph = grt.Graph()
        v = values(graph)
        before = str(graph)
        with pytest.raises(GraphrtError) as caught:
            call(v)
        assert len(str(caught.value)) > 20, f"{name} {i}: {caught.value}"
        assert str(graph) == before, f"{name} {i} left something on the graph"


@pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in BAD])
def test_wrong_calls_of_each_family_are_refused(call: Callable[[grt.Graph], Any]) -> None:
    graph = grt.Graph()
    with pytest.raises(GraphrtError):
        call(graph)
    assert all(n.op.kind.value == "source" for n in graph.nodes), "an error leaves nothing half-built"


def test_every_public_function_has_wrong_calls() -> None:
    counts = Counter({name: len(calls) for name, calls in ROWS.items()})
    counts.update(m[0] for name, _ in BAD if (m := re.match(r"\w+", name.partition("-")[2])))
    few = {name: counts[name] for name in FUNCTIONS if counts[name] < 3}
    assert not few, f"fewer than three wrong calls: {few}; add rows above or to the BAD list of the function's test module"


GARBAGE: list[Any] = ["a", b"x", None, 1.5, -3, 10**9, 10**30, [], [1.5], [None], (1, 2, 3, 4, 5, 6), object(), {"a": 1}, True]
GARBAGE += [float("nan"), float("inf"), np.array(["a"]), np.array([1, 2]), np.float32(2), 1j, len, {1, 2}, slice(None)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_garbage_for_each_argument_is_refused_or_serves(name: str) -> None:
    """Whatever is given, a call returns or raises a GraphrtError; a graph that a call returned on is well formed."""
    f = FUNCTIONS[name]
    parameters = inspect.signature(f).parameters
    for shape, dtype in (((2, 3), "float32"), ((2, 3, 6, 6), "float32"), ((), "float32"), ((2, 3), "int32"), ((4,), "bool")):
        usual: dict[str, Any] = {
            "dim": 0,
            "dim0": 0,
            "dim1": 0,
            "source": 0,
            "destination": 0,
            "dims": tuple(range(len(shape))),
        }
        usual |= {"shape": shape, "kernel_size": 2, "dtype": "float32", "key": 0, "pad": (0, 0), "normalized_shape": shape[-1:]}
        usual |= {"running_mean": None, "running_var": None, "k": 1, "num_classes": 3, "reduce": "sum"}
        for wrong in parameters:
            for thing in GARBAGE:
                graph = grt.Graph()
                x, i = graph.input("x", shape, dtype), graph.input("i", shape, "int64")
                arguments: dict[str, Any] = {}
                for p in parameters.values():
                    if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
                        continue
                    if p.name == wrong:
                        arguments[p.name] = thing
                    elif p.default is p.empty:
                        fallback = [x, x] if "Sequence[Value]" in str(p.annotation) else i if p.name.startswith("ind") else x
                        arguments[p.name] = usual.get(p.name, fallback)
                try:
                    f(**arguments)
                except GraphrtError:
                    continue
                except Exception as error:
                    pytest.fail(f"{name}({arguments}) raised {type(error).__name__}: {error}")
                graph.verify()


HOSTILE = [
    'quote"name',
    "it's",
    "new\nline",
    "car\rriage",
    "tab\t",
    "unicodé ☃",
    "back\\slash",
    '"); system("touch pwned',
    "*/ x /*",
]
HOSTILE += [
    "// x",
    "# x",
    '"""',
    "'''",
    "??/",
    "\\",
    "{0}",
    "%s %0",
    "class",
    "int",
    "lambda",
    "None",
    "tl",
    "buf",
    "main",
    "__init__",
]
HOSTILE += [
    "a b",
    "../../x",
    "x" * 5000,
    "output y = %1",
    "update p = %0",
    "   # fwd",
    "$(touch pwned)",
    "`touch pwned`",
    "\u2028",
]


@pytest.mark.parametrize("name", ["", None, 3, "\ud800", "nul\0", ["x"], b"x"])
def test_what_is_no_name_is_refused(name: Any) -> None:
    graph = grt.Graph()
    x = graph.input("x")
    for call in (graph.input, graph.parameter, lambda n: graph.output(n, x)):
        with pytest.raises(GraphrtError, match="name"):
            call(name)


def test_hostile_names_are_only_names(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs, parameters, outputs and updates under every one of them, through several kernels, printed and parsed."""
    monkeypatch.chdir(tmp_path)
    graph, feeds = grt.Graph(), dict[str, Any]()
    for name in HOSTILE:
        x = graph.input(name, (2, 3))
        w = graph.parameter(name + ".w", np.ones((3, 2), np.float32))
        y = F.relu(x @ w)
        graph.output(name, y)
        graph.output(name + ".max", F.amax(x, 1))
        graph.update(w, w + F.sum(y) * 0.5)
        feeds[name] = np.ones((2, 3), np.float32)
    assert str(grt.Graph.parse(str(graph))) == str(graph)
    program = grt.compile(graph, target=target)
    outputs = program(feeds)
    for name in HOSTILE:
        assert outputs[name].tolist() == [[3.0, 3.0], [3.0, 3.0]] and outputs[name + ".max"].tolist() == [1.0, 1.0]
        assert (program.state[name + ".w"] == 7.0).all()
    assert program.source() and program.plan_text() and program.explain()
    assert not list(tmp_path.iterdir()), "a name was run as a command"
