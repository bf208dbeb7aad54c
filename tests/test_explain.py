"""``program.explain()``: a summary that can be read, and answers to questions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED, check
from graphs import inception_step, lenet_step
from typer.testing import CliRunner

import graphrt as grt
from graphrt import models, nn, optim
from graphrt import ops as F
from graphrt.bench.patterns import PATTERNS, graph
from graphrt.cli import app
from graphrt.compiler import lower_graph
from graphrt.errors import ArgumentError
from graphrt.passes.decision import Decision
from graphrt.passes.stages import STAGES
from graphrt.runtime.explanation import Explanation
from graphrt.targets.target import parse

TARGETS = ["cpu", pytest.param("cuda:sm_90", marks=pytest.mark.skipif(INTERPRETED, reason="plans are made in another lane"))]


@pytest.fixture(scope="module")
def lenet() -> Explanation:
    return grt.compile(lenet_step(), target="cpu").explain()


def test_a_large_training_step_is_told_in_sixty_lines() -> None:
    trainer = grt.Trainer(models.resnet50(), nn.CrossEntropyLoss(), optim.SGD(0.1, momentum=0.9), target="cuda:sm_90")
    graph = trainer.training_graph(((2, 3, 64, 64), "float32"), ((2,), "int64"))
    found = Explanation(lower_graph(graph, parse("cuda:sm_90"), {}))
    lines, text = str(found).splitlines(), str(found)
    assert len(lines) <= 60 and lines[0].endswith("bytes saved") and len(found.full().splitlines()) > 1000
    assert all(f"  {name}" in text for name in ("layer1", "layer4", "fc", "epilogue", "inline", "rows"))
    assert "which waits for ..." in text and "layout: " in text and "in_place: " in text


def test_every_decision_has_its_stage(lenet: Explanation) -> None:
    fusions = {d.stage for d in lenet.decisions if d.fuses}
    assert {"epilogue", "rowops", "rows"} <= fusions <= STAGES.keys() and all(d.reason for d in lenet.decisions)
    assert {d.stage for d in lenet.decisions} <= {*STAGES, "layout", "template", "alias"}


def test_what_waits_names_the_blocker() -> None:
    """Batch norm behind a convolution waits for the mean, which is made of all that the convolution stores."""
    g = grt.Graph()
    x, w = g.input("x", (4, 3, 8, 8)), g.parameter("w", shape=(16, 3, 3, 3))
    y = F.conv2d(x, w)
    g.output("y", y - F.mean(y, (0, 2, 3), keepdim=True))
    (found,) = grt.compile(g, target="cpu").explain().why("sub_0", "conv_0")
    assert not found.taken and found.reason.endswith("which waits for conv_0")
    assert "computed here it would wait for reduce_0" in found.change and str(found).endswith(f"it would be if {found.change}")


@pytest.mark.parametrize("target", TARGETS)
def test_every_refusal_says_what_would_have_to_change(target: str) -> None:
    refused = [d for name in PATTERNS for d in _refused(graph(PATTERNS[name], "small", PATTERNS[name].backward)[0], target)]
    for build in (lenet_step, lambda: inception_step(4, 8, 6, 1)):
        refused += _refused(build(), target)
    assert len({d.stage for d in refused}) > 5 and len(refused) > 500
    assert [str(d) for d in refused if not d.change] == []


def _refused(g: grt.Graph, target: str) -> list[Decision]:
    return [d for d in lower_graph(g, parse(target), {}).decisions if not d.taken]


@pytest.mark.parametrize("made", [F.gelu, lambda x: F.dropout(x, 0.5)], ids=["gelu", "dropout"])
def test_what_is_dear_is_not_computed_in_every_pass(made: Callable[[grt.Value], grt.Value], rng: np.random.Generator) -> None:
    """Norms of long columns pass over them three times; of rows, and of what is small, the norm computes it itself."""

    def norm(shape: tuple[int, int], dim: int) -> grt.Graph:
        g = grt.Graph()
        y = made(g.input("x", shape))
        centred = y - F.mean(y, dim, keepdim=True)
        g.output("y", centred * F.rsqrt(F.mean(centred * centred, dim, keepdim=True) + 1e-5))
        return g

    def stored(g: grt.Graph) -> list[Decision]:
        return [d for d in Explanation(lower_graph(g, parse("cpu"), {})).refused() if "passes over rows" in d.reason]

    columns = norm((520, 256), 0)
    (found,) = stored(columns)
    assert found.reason.startswith("computed in 3 passes over rows") and found.change and found.other == "reduce_0"
    assert not any(stored(norm(shape, dim)) for shape, dim in (((256, 512), 1), ((16, 32), 0), ((200, 512), 0)))
    check(columns, {"x": rng.standard_normal((520, 256)).astype(np.float32)}, "cpu", 520)


def test_tiny_kernels_share_a_launch() -> None:
    """Both of an optimizer's corrections; the updates wait for them, which is said."""
    g = grt.Graph()
    optim.Adam(1e-3).apply([g.parameter("w", shape=(64, 32))], [g.input("dw", (64, 32))], g.constant(1e-3, "float32"))
    lowering = lower_graph(g, parse("cpu"), {})
    assert len(lowering.kernels) == 2 and len(lowering.kernels[0]) == 2
    (apart,) = Explanation(lowering).apart()
    assert apart.reason == "has more elements" and apart.change == "it had as many as mul_0"


def test_segments_that_are_summed_apart_say_what_they_are() -> None:
    """The kernel of a matrix's row sums adds up its columns, segment by segment."""
    g = grt.Graph()
    x = g.input("x", (1024, 64))
    g.output("rows", F.sum(x, 1))
    g.output("columns", F.sum(x, 0))
    lowering = lower_graph(g, parse("cpu"), {})
    (apart,) = Explanation(lowering).apart()
    assert apart.reason == "reduces other axes" and sum(c.read for c in lowering.costs) < 1.1 * x.type.nbytes


def test_aliases_are_decided_with_a_reason() -> None:
    g = grt.Graph()
    g.output("y", F.cumsum(F.exp(g.input("x", (64, 32))) * 2.0, 1) + 1.0)
    program = grt.compile(g, target="cpu", fusion="in_place")
    found = [d for d in program.explain().decisions if d.stage == "alias"]
    assert {(d.node, d.other) for d in found if d.taken} == {(a.name, b.name) for a, b in program.plan.alias.items()}  # type: ignore[union-attr]
    assert any(d.taken for d in found) and all(d.change for d in found if not d.taken)
    without = grt.compile(g, target="cpu", fusion="none").explain().decisions
    assert {d.reason for d in without if d.stage == "alias"} == {"the stage in_place is off"}


def test_what_a_product_loads_stays_until_it_is_over(target: str, rng: np.random.Generator) -> None:
    """The sum behind a product reads at its own element what the product reads again and again."""
    g = grt.Graph()
    x, w = g.input("x", (96, 96)), g.parameter("w", 0.1 * rng.standard_normal((96, 96)).astype("f"))
    hidden = F.relu(x @ w)
    y = hidden @ w + hidden
    g.output("z", F.tanh(y) @ w)
    check(g, {"x": rng.standard_normal((96, 96)).astype("f")}, target, 96)
    (found,) = (d for d in grt.compile(g, target=target).decisions if d.stage == "alias" and d.other == hidden.name)
    assert not found.taken and found.reason == "its kernel reads the old one on load, again and again"


@pytest.mark.skipif(INTERPRETED, reason="compiled code is read in the lane that compiles")
def test_a_tile_has_its_reason_and_the_next_best() -> None:
    pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")
    g = grt.Graph()
    g.output("y", g.input("x", (512, 512), "bfloat16") @ g.input("w", (512, 512), "bfloat16"))
    explanation = grt.compile(g, target="cuda:sm_90").explain()
    taken, *others = [d for d in explanation.decisions if d.stage == "template"]
    assert taken.taken and re.search(r"^[\d.]+ us predicted for \d+ programs of \d+ steps; the next tile, .* us$", taken.reason)
    assert taken.other.startswith("matmul") and "BM" in taken.other and "num_warps" in taken.other
    forms = [d.other.split()[0] for d in (taken, *others)]
    assert len(forms) == 4 and {*forms} == {"matmul", "matmul_tma", "matmul_specialized", "matmul_gluon"}
    assert explanation.why("matmul_0", others[0].other.split()[0]) == others[:1]
    assert "predicted" in others[0].reason and "measured" in others[0].change
    assert str(taken) in explanation.group("g0") and taken in explanation.decisions


def test_what_the_page_shows_is_said(lenet: Explanation) -> None:
    """docs/fusion.md has lines of these programs."""
    g = grt.Graph()
    g.output("y", F.relu(F.conv2d(g.input("x", (2, 3, 8, 8)), g.parameter("w", shape=(4, 3, 3, 3)))))
    apart = grt.compile(g, target="cpu", forbid=[("conv_0", "relu_0")]).explain()
    block = grt.compile(graph(PATTERNS["conv_bn_relu_train"], "small", True)[0], target="cpu").explain()
    said = {str(d) for e in (lenet, apart, block) for d in e.decisions}
    page = (Path(__file__).parent.parent / "docs" / "fusion.md").read_text()
    shown = re.findall(r"^\w+ (?:into \w+: not fused|is computed by|lies over) .*$|^\w+ into \w+: not fused: .*$", page, re.M)
    assert len(shown) == 5 and set(shown) <= said


def test_why(lenet: Explanation) -> None:
    (found,) = lenet.why("relu_0", "conv_0")
    assert found == lenet.why("conv_0", "relu_0")[0] and found.taken and found.stage == "epilogue"
    (found,) = lenet.why("max_pool_0", "conv_0")
    assert not found.taken and "kernel of its own" in found.reason
    assert lenet.why("conv_0", "channels-last")[0].stage == "layout"
    assert "by way of others" in lenet.why("add_0", "relu_0")[0].reason
    assert "neither reads" in lenet.why("conv_0", "matmul_2")[0].reason


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("relu_99", r"did you mean relu_\d"),  # the number is another one
        ("ReLU", r"did you mean relu_0"),  # as a layer is called
        ("conv2d", r"did you mean conv_0 or conv_1\?"),
        ("conv2", r"did you mean conv_1"),  # a module
        ("matmull_0", r"did you mean matmul_0"),  # misspelt
        ("xyz", r"nodes are named after their ops, as conv_0 is"),
    ],
)
def test_a_name_that_is_none_has_those_that_were_meant(lenet: Explanation, written: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=f"'{written}' is no node of this program; {told}"):
        lenet.why(written, "conv_0")


def test_refused_are_those_that_were_not_done(lenet: Explanation) -> None:
    assert set(lenet.refused()) == {d for d in lenet.decisions if not d.taken}


def test_a_group_says_where_it_comes_from(lenet: Explanation) -> None:
    text = lenet.group("g0")
    assert text.startswith("g0 conv[add_0, relu_0]") and "graphs.py:" in text
    assert "relu_0 into conv_0: fused" in text and "max_pool_0 into conv_0: not fused" in text
    with pytest.raises(ArgumentError, match="g0 to g"):
        lenet.group("g999")


def test_plain_data(lenet: Explanation) -> None:
    data = json.loads(json.dumps(lenet.to_json()))
    assert len(data["decisions"]) == len(lenet.decisions) and data["launches"][0]["title"] == "g0 conv[add_0, relu_0]"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--why", "relu_0", "conv_0"], "relu_0 into conv_0: fused"),
        (["--group", "g0"], "g0 conv[add_0, relu_0]"),
        (["--group", "g0", "--json"], '"lines": [\n  "g0 conv[add_0, relu_0]'),
        (["--module", "3", "--json"], '"lines": [\n  "3: '),
        (["--full"], "launches"),
        ([], "saved, by stage"),
    ],
)
def test_the_command(words: list[str], expected: str) -> None:
    done = CliRunner().invoke(app, ["explain", "lenet5", "--batch", "4", "--target", "cpu", *words])
    assert done.exit_code == 0 and expected in done.output
