"""Templates with each kind of closure where nothing divides: 1, 3 and 20 channels, maps of 1, 7 and 9, batches of 1 and 3.

Forward and backward, in float32 and float16, under Triton's interpreter against the float64 reference. A family adds one case
to a graph; all sizes make one program, since launches are what takes the time. A family also says which closures it is there
for, and these are looked for in the program: a fusion that is lost is a failure here too.

Numbers are quarters, so that products and short sums are exact in halves too, and no ReLU falls on the other side of 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from conftest import INTERPRETED, tolerance

import graphrt as grt
from graphrt import ops as F
from graphrt.ir import Node
from graphrt.op import Kind
from graphrt.ops.base import apply
from graphrt.runtime.program import Program
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.emit.tiling import DESCRIBED
from graphrt.targets.triton.target import InterpretTarget
from graphrt.types import HALVES, as_dtype

if not INTERPRETED:
    pytest.skip("needs TRITON_INTERPRET=1, set before Triton is imported", allow_module_level=True)

pytestmark = pytest.mark.interpret

BATCHES, CHANNELS, MAPS = (1, 3), (1, 3, 20), (1, 7, 9)
# Every pair of channels, map and batch.
SIZES = [(BATCHES[(i + j) % 2], c, size) for i, c in enumerate(CHANNELS) for j, size in enumerate(MAPS)]
SEGMENTS = [(n, c, 16) for n in BATCHES for c in CHANNELS]  # pixels that have segments of 64, which tiles can sum
DTYPES = ("float32", "float16")


@dataclass
class Case:
    """One size in the graph of all sizes: makes inputs with their numbers, and names results."""

    graph: grt.Graph
    feeds: dict[str, np.ndarray]
    dtype: str
    n: int
    c: int
    size: int
    rng: np.random.Generator
    label: str = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.label = f"n{self.n}c{self.c}s{self.size}"

    @property
    def maps(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.size, self.size

    def quarters(self, *shape: int, limit: int = 6) -> np.ndarray:
        return self.rng.integers(-limit, limit + 1, shape) / 4

    def name(self) -> str:
        self.count += 1
        return f"{self.label}.{self.count}"

    def input(self, *shape: int, dtype: str = "", values: np.ndarray | None = None) -> grt.Value:
        name, kind = self.name(), dtype or self.dtype
        self.feeds[name] = (self.quarters(*shape) if values is None else values).astype(as_dtype(kind).numpy)
        return self.graph.input(name, shape, kind)

    def weight(self, *shape: int, values: np.ndarray | None = None) -> grt.Value:
        """A parameter: what it holds is small, so that sums over channels stay so."""
        data = self.quarters(*shape, limit=2) if values is None else values
        return self.graph.parameter(self.name(), np.asarray(data).astype(as_dtype(self.dtype).numpy))

    def result(self, name: str, y: grt.Value, wrt: Sequence[grt.Value] = ()) -> None:
        """``y`` as an output, and its gradients in some direction."""
        self.graph.output(f"{self.label}.{name}", y)
        if wrt:
            dy = self.input(*y.shape, dtype=y.dtype.name)
            for i, d in enumerate(grt.grad(y, list(wrt), dy)):
                self.graph.output(f"{self.label}.{name}.d{i}", d)

    def learn(self, loss: grt.Value, wrt: Sequence[grt.Value]) -> None:
        """One step of SGD with momentum on ``wrt``."""
        with self.graph.phase("opt"):
            for p, d in zip(wrt, grt.grad(loss, list(wrt)), strict=True):
                v = self.graph.parameter(f"{p.name}.momentum", shape=p.shape, dtype=p.dtype.name, trainable=False)
                moved = v * 0.5 + d
                self.graph.update(v, moved)
                self.graph.update(p, p - moved * 0.25)


# --- which closures a program has -----------------------------------------------------------------------------------


def closures(program: Program) -> set[str]:
    """``template: kind`` for everything that the groups of ``program`` do besides their anchors' own work."""
    assert program.schedule is not None
    found, updates = set(), set(program.graph.updates.values())
    for launch in program.schedule.launches:
        for group in launch.groups:
            name = group.anchor.op.name if group.anchor is not None else "pointwise"
            fused = [n for n in group.nodes if n is not group.anchor]
            kinds = {
                "": True,
                "computed on load": group.inlined,
                "computed behind": any(n.op.kind is Kind.ELEMENTWISE for n in fused),
                "random numbers": any(n.op.kind is Kind.RANDOM for n in fused),
                "sums of segments": group.segments and group.kind == "template",
                "sums of columns": group.segments and group.kind == "reduction",
                "updates": updates & {*group.outputs},
                "several results": group.outputs[1:],
                "halves of weights": any(v.dtype in HALVES for v in updates & {*group.outputs}),
                "beside another kernel": group.kind == "template" and launch.groups[1:],
            }
            found |= {f"{name}: {kind}" for kind, there in kinds.items() if there}
    return found


# --- the families ---------------------------------------------------------------------------------------------------


def convolution(case: Case) -> None:
    """Bias, residual and ReLU behind, an affine and a ReLU before; backward the mask behind and before."""
    x, w, b = case.input(*case.maps), case.weight(6, case.c, 3, 3), case.weight(6)
    case.result("plain", F.conv2d(x, w, padding=1), (x, w))
    scale, shift = case.weight(case.c, 1, 1), case.weight(case.c, 1, 1)
    y = F.conv2d(F.relu(x * scale + shift), w, b, padding=1)
    residual = case.input(*y.shape)
    case.result("fused", F.relu(y + residual), (x, w, b, residual))


def other_convolutions(case: Case) -> None:
    """Strided, dilated, grouped, of few channels a group, and 1x1: two of these in float32, and two others in float16."""
    x, c = case.input(*case.maps), case.c
    groups = {"strided": 1, "dilated": 1, "depthwise": c, "grouped": 2 if c % 2 == 0 else 1, "pointwise": 1}
    first = SIZES.index((case.n, c, case.size)) + 2 * DTYPES.index(case.dtype)
    for i, (name, g) in enumerate([*groups.items()] * 4):
        if not first <= i < first + 2:
            continue
        r = 1 if name == "pointwise" else 3
        w, b = case.weight(2 * c if g == c else 6, c // g, r, r), case.weight(2 * c if g == c else 6)
        stride, dilation = 2 if name in ("strided", "pointwise") else 1, 2 if name == "dilated" else 1
        h = F.relu(x - 0.25 * i)  # each its own, or it would be stored for all
        y = F.conv2d(h, w, b, stride=stride, padding=r // 2 * dilation, dilation=dilation, groups=g)
        case.result(name, F.relu(y), (x, w, b))


def products(case: Case) -> None:
    """Rows, columns and depths of odd sizes; a transposed operand, batches, a computed operand, a fused result."""
    x, w, b = case.input(case.n * case.size, case.c), case.weight(case.size + 2, case.c), case.weight(case.size + 2)
    case.result("linear", F.relu(F.linear(F.relu(x + 0.25), w, b)), (x, w, b))
    left, right = case.input(case.n, case.size, case.c), case.input(case.n, case.c, 3)
    case.result("batched", F.relu(F.matmul(left, right) - 0.5), (left, right))


def split(case: Case) -> None:
    """Products and filters' gradients in parts, which the update behind adds up; the policy of the test makes the parts."""
    x, w, v = case.input(*case.maps), case.weight(4, case.c, 3, 3), case.weight(3, 6)
    h = F.conv2d(x, w, padding=1)
    y = F.linear(case.input(5, 6), v)
    case.learn(F.sum(F.cast(h, "float32")) * 0.25 + F.sum(F.cast(F.relu(y), "float32")), (w, v))


def pooling(case: Case) -> None:
    """With what comes before on load, and behind; gradients through both, and the gradient's own gradient."""
    x, residual = case.input(*case.maps), case.input(*case.maps)
    r, pad = (3, 1) if case.size > 1 else (1, 0)
    case.result("max", F.max_pool2d(F.relu(x + residual), r, 2, pad) * 0.5, (x, residual))
    case.result("mean", F.relu(F.avg_pool2d(F.relu(x), r, 2, pad) - 0.3), (x,))
    dy = case.input(*F.max_pool2d(x, r, 2, pad).shape)
    (dx,) = grt.grad(F.max_pool2d(x, r, 2, pad), [x], dy)
    case.result("second", F.relu(dx), (dy,))


def attending(case: Case) -> None:
    """Two heads, whose scores get a bias that learns; the operands come from something, and something follows."""
    shape = case.n, 2, case.size, case.c
    q, k, v, bias = *(case.input(*shape) for _ in range(3)), case.input(case.size, case.size)
    y = F.scaled_dot_product_attention(q * 0.5, F.relu(k), F.relu(v), bias)
    case.result("attention", y * 0.5, (q, k, v, bias))


def pairs(case: Case) -> None:
    """Two products of one matrix that meet behind them."""
    x, gate, up = case.input(case.n * case.size, case.c), case.weight(case.c, 6), case.weight(case.c, 6)
    case.result("gated", F.silu(F.matmul(F.relu(x), gate)) * F.matmul(F.relu(x), up))


def lines(case: Case) -> None:
    """Scans, sorts and scatters along the first, a middle and the last dimension.

    Gradients are scatters, with a program for each index before their dimension; so they are asked for where there are few.
    """
    x = case.input(*case.maps)
    case.result("sums", F.cumsum(F.relu(x), 1) * 0.5, (x,))
    case.result("largest", F.cummax(x, 0)[0] + 0.25, (x,))
    case.result("sorted", F.sort(x * 0.5, dim=1)[0] + 0.25, (x,))
    case.result("order", F.sort(x, dim=3, descending=True)[1])
    where = case.input(case.size, dtype="int64", values=case.rng.integers(0, case.c, case.size))
    base, source = case.input(case.n, case.c, case.size), case.input(case.n, case.size, case.size)
    case.result("scattered", F.relu(F.index_add(base, 1, where, source * 0.5)), (base, source))
    case.result("selected", F.index_select(base, 1, where) * 0.5, (base,))


def recurrences(case: Case) -> None:
    """What decays by a share of its own at each step."""
    share, x = case.input(*case.maps), case.input(*case.maps)
    case.result("decaying", apply("recurrence", F.relu(share) * 0.25, F.relu(x), dim=1) + 0.25, (share, x))


def suppression(case: Case) -> None:
    """Non-maximum suppression of as many boxes as a map has pixels in a row, and channels."""
    count = case.size + case.c - 1
    low = case.rng.integers(0, 8, (count, 2))
    corners = np.concatenate([low, low + case.rng.integers(4, 9, (count, 2))], 1)
    boxes = case.input(count, 4, dtype="float32", values=corners)
    scores = case.input(count, dtype="float32", values=case.rng.permutation(count) / 4)
    case.result("kept", F.nms(boxes, scores, 0.35))


def decomposed(case: Case) -> None:
    """Singular values, and the product of all three, whose signs do not matter, of what is computed on load; a solution."""
    x = case.input(case.n, case.size, case.c)
    u, s, vh = F.svd(F.relu(x + 0.25), full_matrices=False)
    case.result("values", F.svdvals(x * 0.5))
    case.result("product", F.matmul(u * F.unsqueeze(s, -2), vh) + x)
    square = case.input(
        case.n, case.size, case.size, values=case.quarters(case.n, case.size, case.size) + 9 * np.eye(case.size)
    )
    case.result("solution", F.relu(F.solve(square * 0.5, F.relu(x))), (square, x))


def rows(case: Case) -> None:
    """Row reductions: softmax and the norms, the loss with its gradient, sums and extremes along each dimension."""
    x = case.input(*case.maps)
    case.result("softmax", F.softmax(x * 0.5, 1), (x,))
    gamma, beta = case.weight(case.c), case.weight(case.c)
    case.result("layer_norm", F.layer_norm(F.permute(x, (0, 2, 3, 1)), case.c, gamma, beta) * 0.5, (gamma, beta))
    case.result("rms_norm", F.rms_norm(x + 4.0, case.size), (x,))
    case.result("sums", F.sum(F.relu(x), (0, 2, 3)) * 0.25, (x,))
    case.result("columns", F.mean(x, 0) + 0.5, (x,))
    case.result("extremes", F.amax(x, 3) - F.amin(x, 3))
    case.result("place", F.argmax(x, 1))
    classes = case.input(case.n * case.size, dtype="int64", values=case.rng.integers(0, case.c, case.n * case.size))
    logits = case.input(case.n * case.size, case.c)
    case.result("loss", F.cross_entropy(logits, classes), (logits,))


def columns(case: Case) -> None:
    """Sums of rows, and of columns beside them."""
    rows, gamma, beta = case.input(case.n * case.size**2, case.c), case.weight(case.c), case.weight(case.c)
    case.result("layer_norm", F.layer_norm(rows, case.c, gamma, beta), (rows, gamma, beta))


def dropped(case: Case) -> None:
    """Dropout behind a convolution and a product; one mask forward and backward, where there are both."""
    x, w, v = case.input(*case.maps), case.weight(4, case.c, 3, 3), case.weight(5, case.c)
    alone = F.conv2d(case.input(*case.maps), case.weight(4, case.c, 3, 3), padding=1)
    case.result("conv only", F.dropout(F.relu(alone), 0.25))
    case.result("conv", F.dropout(F.relu(F.conv2d(x, w, padding=1)), 0.25), (x, w))
    h = case.input(case.n * case.size, case.c)
    case.result("linear", F.dropout(F.linear(F.dropout(h, 0.5), v), 0.25), (h, v))
    alone = F.linear(case.input(case.size, case.c), case.weight(7, case.c))
    case.result("linear only", F.dropout(alone, 0.5))
    case.result("alone", F.dropout(x, 0.5) + x, (x,))


def training(case: Case) -> None:
    """A residual block with batch norms, a head and a loss, and the optimizer's step; halves by autocast.

    The first ReLU's operand lies on a grid (a sum of quarters, normalised) and the last one's is far from 0.
    """
    if case.n == case.size == 1:
        return  # a batch norm of one element
    c, half, case = case.c, case.dtype == "float16", replace(case, dtype="float32")
    far = case.rng.choice([-6.0, 6.0], case.maps) + case.quarters(*case.maps)
    x, labels = case.input(*case.maps, values=far), case.rng.integers(0, 4, case.n)
    trained = [case.weight(c, c, 3, 3), case.weight(c, c, 1, 1), case.weight(4, c)]

    def norm(h: grt.Value) -> grt.Value:
        gamma, beta = case.weight(c, values=case.quarters(c, limit=2) + 1.25), case.weight(c)
        mean, var = (
            case.graph.parameter(f"{gamma.name}.{n}", np.full(c, v, np.float32), trainable=False)
            for n, v in (("mean", 0.0), ("var", 1.0))
        )
        trained.extend((gamma, beta))
        return F.batch_norm(h, mean, var, gamma, beta, training=True)

    with case.graph.autocast("float16", enabled=half):
        h = F.relu(norm(F.conv2d(x, trained[0], padding=1)))
        h = F.relu(norm(F.conv2d(h, trained[1])) + x)
        y = F.linear(F.mean(h, (2, 3)), trained[2])
        loss = F.cross_entropy(y, case.input(case.n, dtype="int64", values=labels))
    case.graph.output(f"{case.label}.loss", loss)
    case.learn(loss, trained)


# --- the tests ------------------------------------------------------------------------------------------------------

_CONVOLUTIONS = ("conv", "conv_dgrad", "conv_wgrad")
ON_LOAD, BEHIND, BESIDE = "computed on load", "computed behind", "beside another kernel"


@dataclass(frozen=True)
class Family:
    """``there``: the closures that its program has, by template. ``exact``: results are, but for the last rounding."""

    build: Callable[[Case], None]
    there: dict[str, set[str]]
    exact: bool = False
    sizes: Sequence[tuple[int, int, int]] = tuple(SIZES)


FAMILIES = {
    "convolution": Family(
        convolution,
        {"conv": {ON_LOAD, BEHIND}, "conv_dgrad": {ON_LOAD, BEHIND}, "conv_wgrad": {ON_LOAD, BESIDE}},
        exact=True,
    ),
    "other_convolutions": Family(other_convolutions, dict.fromkeys(_CONVOLUTIONS, {ON_LOAD}), exact=True),
    "products": Family(products, {"matmul": {ON_LOAD, BEHIND, BESIDE}}, exact=True),
    "split": Family(split, {"conv_wgrad": {""}, "matmul": {""}, "reduce": {"updates", BEHIND}}, exact=True),
    "pooling": Family(
        pooling,
        {
            **dict.fromkeys(("max_pool", "sum_pool", "max_pool_grad", "sum_pool_grad"), {ON_LOAD, BEHIND}),
            "max_pool_gather": {ON_LOAD},
        },
    ),
    "attending": Family(
        attending,
        {
            "attention": {ON_LOAD, BEHIND, "several results"},
            **dict.fromkeys(("attention_dq", "attention_dkv"), {ON_LOAD, BEHIND}),
            "attention_dscores": {ON_LOAD},
        },
    ),
    "pairs": Family(pairs, {"matmul_pair": {ON_LOAD, BEHIND}}),
    "lines": Family(lines, dict.fromkeys(("scan", "sort", "scatter"), {ON_LOAD, BEHIND}), exact=True),
    "recurrences": Family(recurrences, {"recurrence": {ON_LOAD, BEHIND}}),
    "suppression": Family(suppression, {"nms": {ON_LOAD}}, exact=True, sizes=[(1, 1, 1), (1, 3, 7), (1, 20, 9)]),
    "decomposed": Family(decomposed, {"svd": {ON_LOAD}, "lu": {ON_LOAD}}, sizes=[(1, 1, 1), (1, 3, 7)]),
    "rows": Family(rows, {"reduce": {ON_LOAD, BEHIND, "several results"}}),
    "dropped": Family(
        dropped,
        {
            "conv": {BEHIND, "random numbers"},
            "matmul": {BEHIND, "random numbers"},
            **dict.fromkeys(_CONVOLUTIONS[1:], {ON_LOAD}),
        },
    ),
    "training": Family(training, {"conv_wgrad": {"updates", BESIDE}, "matmul": {"updates", BESIDE}, "reduce": {"updates"}}),
    "columns": Family(columns, {"reduce": {"sums of columns"}}, sizes=[(3, 20, 24)]),
    "segments": Family(training, dict.fromkeys(("conv", "conv_dgrad"), {"sums of segments"}), sizes=SEGMENTS),
}
HALVES_TOO = {"training": {"conv": {ON_LOAD}, "conv_wgrad": {ON_LOAD, "halves of weights"}}}


def _parts(node: Node) -> int:
    """Three parts of a depth, or two of each image."""
    if node.op.template == "matmul":
        return 3 if node.inputs[0].shape[-1] % 3 == 0 else 0
    return 2 * node.inputs[0].shape[0] if node.op.template == "conv_wgrad" and node.inputs[0].shape[2] > 1 else 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_odd_sizes(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, graph, feeds, rng = FAMILIES[name], grt.Graph(), dict[str, np.ndarray](), np.random.default_rng(0)
    for n, c, size in family.sizes:
        family.build(Case(graph, feeds, dtype, n, c, size, rng))
    if family.build is split:
        passes = InterpretTarget.passes
        monkeypatch.setattr(InterpretTarget, "passes", lambda target: replace(passes(target), splits=_parts))
    program = grt.compile(graph, target="interpret")
    extra = HALVES_TOO.get(name, {}) if dtype == "float16" else {}
    wanted = {f"{op}: {kind}" for there in (family.there, extra) for op, kinds in there.items() for kind in kinds}
    assert not wanted - closures(program)
    outputs, expected = program(dict(feeds)), evaluate(graph, {**graph.initial, **feeds})
    results = [(k, outputs[k], v) for k, v in graph.outputs.items()] + [
        (k, program.state[k], v) for k, v in graph.updates.items()
    ]
    for what, actual, value in results:
        want = np.asarray(expected[value])
        assert actual.dtype == value.dtype.numpy
        if family.exact:
            np.testing.assert_array_equal(actual, want.astype(actual.dtype), err_msg=what)
        else:
            rtol = tolerance(as_dtype(dtype).numpy)
            scale = max(float(np.abs(want).max(initial=0)), 1.0)
            np.testing.assert_allclose(actual.astype(np.float64), want, rtol=rtol, atol=rtol * scale, err_msg=what)


def test_each_template_is_in_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """So ``make kernels-checked`` watches them all; those that read through descriptors are in ``test_tma.py``."""
    sources = [file.read_text() for file in (find_kernels() / "triton").glob("*.py")]
    kernels = {name for text in sources for name in re.findall(r"^@triton\.jit\(repr=.*\ndef (\w+)", text, re.M)}
    found, rng = set[str](), np.random.default_rng(0)
    for family in FAMILIES.values():
        graph = grt.Graph()
        for size in family.sizes[-3:]:
            family.build(Case(graph, {}, "float32", *size, rng))
        codes = grt.compile(graph, target="interpret")._executable._compilation.codes
        found |= {choice.form.name for code in codes for choice in code.choices}
    assert len(kernels) > 20 and kernels - found <= {*DESCRIBED}
