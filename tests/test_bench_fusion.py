"""``graphrt bench fusion``: its statistics on numbers that are known, and the command from its first option to its last."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import graphrt as grt
import graphrt.ops as F
from graphrt.bench import report
from graphrt.bench.builder import Builder
from graphrt.bench.fusion import NOISY, Row, _commit, compare, kept_apart, longer, read, rows, run, save, variants
from graphrt.bench.least import least_bytes
from graphrt.bench.measure import samples
from graphrt.bench.patterns import PATTERNS, graph
from graphrt.bench.peers import count, missing, peer
from graphrt.bench.statistics import holm, ratio, welch
from graphrt.bench.trial import AGAIN, Spec, trial
from graphrt.cli import app
from graphrt.compiler import lower_graph
from graphrt.errors import ArgumentError
from graphrt.passes.stages import STAGES
from graphrt.runtime.explanation import Explanation
from graphrt.schedule.cost import launch_cost
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import Settings, parse

NOISE = 0.01  # by which medians of processes differ, in the runs that are made up here
LATE, BY = 0.05, 0.05  # the share of processes that are later yet, and about how much: a neighbour was at work


def made_up(rng: np.random.Generator, name: str, slower: float = 1.0, processes: int = 5, late: float = 0.0) -> Row:
    medians = np.exp(NOISE * rng.standard_normal(processes)) * slower
    medians *= np.exp((rng.random(processes) < late) * BY * abs(rng.standard_normal(processes)))
    return Row(name, "conv", "small", False, "cpu", "fused", 1, 100, 50, medians=medians.tolist())


@pytest.mark.parametrize("processes, late", [(5, 0.0), (5, LATE), (13, LATE)])
def test_reruns_without_a_change_raise_no_alarm(rng: np.random.Generator, processes: int, late: float) -> None:
    """At most 1 of 1,000 rows."""
    alarms = 0
    for _ in range(10):
        old, new = ([made_up(rng, f"p{i}", 1.0, processes, late) for i in range(100)] for _ in range(2))
        alarms += len(compare(old, new).slower)
    assert alarms <= 1


@pytest.mark.parametrize("processes, late", [(6, 0.0), (15, LATE)])
def test_what_is_slower_by_a_twentieth_is_found(rng: np.random.Generator, processes: int, late: float) -> None:
    """In at least 95 of 100 runs, each of 20 rows."""
    found = 0
    for _ in range(100):
        old = [made_up(rng, f"p{i}", 1.0, processes, late) for i in range(20)]
        new = [made_up(rng, f"p{i}", 1.05 if i == 7 else 1.0, processes, late) for i in range(20)]
        found += [line.split()[0] for line in compare(old, new).slower] == ["p7"]
    assert found >= 95


def test_the_run_of_the_docs_beside_itself_raises_no_alarm() -> None:
    """Real processes: fused, and fused again in the same turns; what is twice as slow is found everywhere."""
    found = read(Path(__file__).parent.parent / "bench" / "results" / "fusion.jsonl")
    fused, again = ([r for r in found if r.variant == variant] for variant in ("fused", AGAIN))

    def slower(by: float) -> list[str]:
        new = [replace(r, variant="fused", medians=[by * ms for ms in r.medians]) for r in again]
        return compare([*fused, *again], new).slower

    assert slower(1.0) == [] and len(slower(2.0)) == len(fused) > 10


def test_stages_lead_from_unfused_to_fused(rng: np.random.Generator) -> None:
    """In whatever order rows were saved: a run with stages may follow one without."""
    saved = [replace(made_up(rng, "p"), variant=v, logs=[0.1, 0.2]) for v in ("fused", "unfused", "+ chain", "+ rows")]
    name, figure = report.figures(saved, {"gbs": 30.0, "gflops": 100.0})[-1]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert name == "ablation p" and labels == ["unfused (1)", "+ chain (1)", "+ rows (1)", "fused (1)"]


def test_welch_is_uniform_where_nothing_differs(rng: np.random.Generator) -> None:
    chances = [welch(rng.standard_normal(5).tolist(), (3 * rng.standard_normal(7)).tolist()) for _ in range(2000)]
    for level in (0.01, 0.1, 0.5, 0.9):
        assert abs(np.mean([p <= level for p in chances]) - level) < 0.05
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1.0 and welch([1.0, 1.0], [2.0, 2.0]) == 0.0 and welch([1.0], [2.0]) == 1.0
    np.testing.assert_allclose(welch([1, 2, 3, 4], [3, 5, 7, 9]), 0.066459, rtol=1e-4)  # t = -2.4249, 4.41 degrees


def test_holm_rejects_in_turn() -> None:
    chances = {"a": 0.01, "b": 0.02, "c": 0.04, "d": 0.5}
    assert holm(chances, 0.05) == {"a"}
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}, 0.05) == {"a", "b", "c"}


def test_intervals_hold_the_ratio(rng: np.random.Generator) -> None:
    held = 0
    for _ in range(200):
        found = ratio((np.log(2) + 0.1 * rng.standard_normal(10)).tolist())
        held += found.low <= 2 <= found.high
    assert held >= 170 and str(ratio([0.0])) == "1.00 [1.00, 1.00]"


def test_a_run_is_read_as_it_was_written(tmp_path: Path, rng: np.random.Generator) -> None:
    found = [made_up(rng, "a"), made_up(rng, "b")]
    save(tmp_path / "run.jsonl", found, {"device": "a machine"})
    assert read(tmp_path / "run.jsonl") == found
    line = json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0])
    assert line["environment"] == {"device": "a machine"} and len(line["medians"]) == 5
    (tmp_path / "old.jsonl").write_text(json.dumps({**line, "schema": 0}))
    with pytest.raises(ArgumentError, match="another schema"):
        read(tmp_path / "old.jsonl")


def test_a_run_names_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -dirty where a file was changed since; an installed package is in no checkout."""
    module, git = (
        tmp_path / "graphrt" / "bench" / "fusion.py",
        ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"],
    )
    module.parent.mkdir(parents=True)
    module.write_text("")
    monkeypatch.setattr("graphrt.bench.fusion.__file__", str(module))
    assert _commit() == {}
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    commit = _commit()["commit"]
    assert len(commit) >= 7 and sha.startswith(commit)
    module.write_text("changed")
    assert _commit() == {"commit": f"{commit}-dirty"}


def test_status_says_worse_or_noisy(rng: np.random.Generator) -> None:
    row, more = made_up(rng, "a"), made_up(rng, "a")
    assert compare([row], [more]).status == 0
    more.launches = 2
    assert compare([row], [more]).status == 2 and "launches 2, were 1" in compare([row], [more]).larger[0]
    more.launches = 1
    noisy = made_up(rng, "a")
    noisy.variant, noisy.logs = AGAIN, [np.log(1 + 2 * NOISY)] * 5
    assert compare([row], [more, noisy]).status == 3
    assert compare([row], [made_up(rng, "a", 1.5)]).status == 2


def test_stages_are_added_in_turn_or_left_out() -> None:
    assert list(variants("")) == ["unfused", "fused", AGAIN]
    steps = [v for name, v in variants("cumulative").items() if name.startswith("+")]
    assert [len(v.split(",")) for v in steps] == list(range(1, len(STAGES)))
    assert [v for name, v in variants("leave-one-out").items() if name.startswith("- ")] == [f"-{s}" for s in STAGES]
    with pytest.raises(ArgumentError, match="cumulative or leave-one-out"):
        variants("both")


def _command(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench", "fusion", *words])
    return done.exit_code, done.output if done.exception is None else f"{done.output}{done.exception}"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--filter", "nothing*"], "no pattern is called like 'nothing.'"),
        (["--size", "huge"], "small or large"),
        (["--peers", "caffe"], "torch, torch.compile and jax"),
        (["--ablate", "both"], "cumulative or leave-one-out"),
        (["--targets", "cpu,bogus"], "target must be auto, cuda, hip, cpu, .*; got 'bogus'"),
        (["--targets", "cuda:sm_x"], "looks like cuda:sm_80"),
        (
            ["--targets", "cpu,cuda:sm_999"],
            "no GPU 'cuda:sm_999'; programs are compiled for cuda:sm_75, .*cuda:sm_90, .*hip:gfx942",
        ),
        (["--targets", "hip:gfx000"], "there is no GPU 'hip:gfx000'"),
        (["--targets", "reference"], "no kernels whose work could be measured"),
        (["--targets", "null"], "no kernels whose work could be measured"),
        (["--md", "nowhere/a.md"], "--md nowhere/a.md cannot be written: there is no folder nowhere"),
        (["--html", "nowhere/a.html"], "--html nowhere/a.html cannot be written"),
        (["--save", "nowhere/a.jsonl"], "--save nowhere/a.jsonl cannot be written"),
        (["--html", "."], "--html . cannot be written: Is a directory"),
        (["--png", __file__], "cannot be written: Not a directory"),
        (["--read", "nothing.jsonl"], "nothing.jsonl cannot be read: No such file"),
        (["--read", __file__], "was not written by --save: line 1 is no row"),
        (["--compare", __file__], "was not written by --save: line 1 is no row"),
    ],
)
def test_what_the_command_refuses(monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    """Before anything is measured."""
    monkeypatch.setattr("graphrt.bench.fusion.about", lambda: pytest.fail("it began to measure"))
    status, output = _command(*words)
    assert status != 0 and re.search(message, output), output


def test_peers_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and not silently: those of a GPU that is not here, JAX where it is missing, and who has no such pattern."""
    assert missing(["torch", "jax"], "cuda:sm_90").keys() == {"torch", "jax"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing(["torch", "jax"], "cpu") == {"jax": "needs the package jax: pip install jax"}
    monkeypatch.undo()
    begun = list[Any]()
    monkeypatch.setattr("graphrt.bench.fusion.run", lambda specs, *_: begun.extend(specs) or iter([[]] * len(specs)))
    monkeypatch.setattr("graphrt.bench.fusion.about", lambda: {"gbs": 1.0, "gflops": 1.0})
    words = ["--filter", "softmax,adam", "--targets", "cpu,cuda:sm_90", "--peers", "torch"]
    status, output = _command(*words)
    assert status == 0 and output.count("cuda:sm_90: left out torch: programs for cuda:sm_90 do not run here") == 1
    assert [(s.target, s.peers) for s in begun] == [("cpu", ["torch"]), ("cuda:sm_90", [])] * 2
    monkeypatch.setattr("graphrt.bench.peers.peer", lambda *_: None)
    outcome = trial(Spec("softmax", "tiny", False, "cpu", {"fused": "all"}, ["torch"], rounds=0))
    assert outcome["failed"] == {"torch": "has no such pattern"}


def test_a_peer_computes_on_the_device_of_the_programs(rng: np.random.Generator) -> None:
    built, builder = graph(PATTERNS["softmax"], "tiny")
    step = peer(PATTERNS["softmax"], builder, builder.feeds(rng), False, "torch", "meta")
    assert step is not None and step().device.type == "meta" and step().shape == built.outputs["y0"].shape


def test_the_command_lists_patterns() -> None:
    status, output = _command("--list", "--filter", "conv*")
    assert status == 0 and "conv_bias_relu" in output and "softmax" not in output


def _conv_relu_pool(g: grt.Graph) -> int:
    """x, w and bias are read; the activation is stored and read by the pool; y is stored."""
    x, w, bias = g.input("x", (2, 3, 8, 8)), g.parameter("w", shape=(5, 3, 1, 1)), g.parameter("bias", shape=(5,))
    g.output("y", F.max_pool2d(F.relu(F.conv2d(x, w, bias)), 2))
    return 4 * (2 * 3 * 64 + 15 + 5 + 2 * (2 * 5 * 64) + 2 * 5 * 16)


def _two_layers_of_one(g: grt.Graph) -> int:
    """x is read once: the products do not wait for each other."""
    x, a, b = g.input("x", (4, 6)), g.parameter("a", shape=(5, 6)), g.parameter("b", shape=(5, 6))
    g.output("y", F.silu(F.linear(x, a)) * F.linear(x, b))
    return 4 * (24 + 60 + 20)


def _gradient_of_relu(g: grt.Graph) -> int:
    """All are operands of two products that are no siblings: x, w, dy, and a mask of bytes, which is stored; y, dx, dw too."""
    x, w = g.input("x", (4, 6)), g.parameter("w", shape=(6, 6))
    y, dy = F.relu(F.matmul(x, w)), g.input("dy", (4, 6))
    for name, v in zip(("y", "dx", "dw"), (y, *grt.grad(y, [x, w], dy)), strict=True):
        g.output(name, v)
    return 4 * (2 * 24 + 2 * 36 + 2 * 24 + 24 + 24 + 36) + 3 * 24


def _sums_behind_a_convolution(g: grt.Graph) -> int:
    """A tile has no 1,152 pixels of a channel: the convolution is stored, and read when their sum is known."""
    x, w = g.input("x", (2, 3, 24, 24)), g.parameter("w", shape=(5, 3, 1, 1))
    y = F.conv2d(x, w)
    g.output("y", y - F.sum(y, (0, 2, 3), keepdim=True))
    return 4 * (2 * 3 * 576 + 15 + 3 * 2 * 5 * 576)


def _scale_by_a_layer(g: grt.Graph) -> int:
    """x is read twice: by what the product waits for, and by what stands behind the product."""
    x, w = g.input("x", (4, 6, 8)), g.parameter("w", shape=(6, 6))
    g.output("y", x * F.reshape(F.matmul(F.mean(x, 2), w), (4, 6, 1)))
    return 4 * (2 * 192 + 2 * 24 + 36 + 192)


def _long_rows(g: grt.Graph) -> int:
    """A kernel does not hold a row of 20,000 elements: x is read again when the sum is known, and stored. Of 2,000 it does."""
    x, short = g.input("x", (2, 20000)), g.input("short", (2, 2000))
    for name, v in (("y", x), ("z", short)):
        g.output(name, v - F.sum(v, 1, keepdim=True))
    return 4 * (3 * 40000 + 2 * 2 + 2 * 4000)


BUILT = [_conv_relu_pool, _two_layers_of_one, _gradient_of_relu, _sums_behind_a_convolution, _scale_by_a_layer, _long_rows]


@pytest.mark.parametrize("build", BUILT)
def test_the_least_bytes_are_those_of_primitives(build: Callable[[grt.Graph], int]) -> None:
    """As counted by hand, and no plan moves less."""
    g = grt.Graph()
    expected = build(g)
    assert least_bytes(g) == expected
    for fusion in ("all", "none"):
        assert sum(launch_cost(k).bytes for k in grt.compile(g, target="cpu", fusion=fusion).kernel_ir) >= expected


def test_the_command_measures_saves_and_compares(tmp_path: Path) -> None:
    words = [
        "--filter",
        "conv_bias_relu",
        "--processes",
        "2",
        "--rounds",
        "2",
        "--peers",
        "torch",
        "--save",
        str(tmp_path / "a.jsonl"),
    ]
    status, output = _command(
        *words, "--md", str(tmp_path / "a.md"), "--html", str(tmp_path / "a.html"), "--png", str(tmp_path / "a")
    )
    assert status == 0, output
    found = read(tmp_path / "a.jsonl")
    by = {row.variant: row for row in found}
    assert {"unfused", "fused", AGAIN, "torch"} <= by.keys() and all(len(r.medians) == 2 for r in found)
    assert by["fused"].launches < by["unfused"].launches and by["fused"].bytes < by["unfused"].bytes
    assert by["fused"].bytes >= by["fused"].least and by["fused"].predicted_ms > 0
    page = (tmp_path / "a.html").read_text()
    assert "conv_bias_relu" in page and "://" not in page and "<script" not in page
    assert "| conv_bias_relu, cpu | fused | 1 |" in (tmp_path / "a.md").read_text()
    assert {p.name for p in (tmp_path / "a").glob("*.png")} >= {"speed-up.png", "bytes.png", "roofline.png"}
    again = ["--read", str(tmp_path / "a.jsonl"), "--md", str(tmp_path / "b.md"), "--png", str(tmp_path / "b")]
    status, output = _command("--filter", "conv_b*,softmax", *again)
    assert status == 0 and "![speed-up](b/speed-up.png)" in (tmp_path / "b.md").read_text()
    a, b = ((tmp_path / name).read_text().replace("(a/", "(b/") for name in ("a.md", "b.md"))
    assert a == b
    assert all(len(r.seen) == 2 and min(s["gbs"] for s in r.seen) > 0 for r in found if r.bytes)
    status, output = _command(*words[:2], *again[:2], "--compare", str(tmp_path / "a.jsonl"))
    assert status in (0, 3) and f"{len(found)} rows compared" in output, "a run is no slower than itself, but may be noisy"


def test_a_gpu_that_is_not_here_has_launches_bytes_and_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphrt.bench.fusion.variants", lambda ablate: {"fused": "all"})
    words = ["--filter", "softmax", "--processes", "1", "--targets", "cuda:sm_90", "--save", str(tmp_path / "a.jsonl")]
    status, output = _command(*words)
    assert status == 0, output
    row = next(r for r in read(tmp_path / "a.jsonl") if r.variant == "fused")
    assert row.launches == 1 and row.registers > 0 and row.predicted_ms > 0 and not row.medians


WRITTEN = """
def call(self, args):
        buf0 = empty_strided_cpu((4, 3), (3, 1), torch.float32)
        cpp_fused_0(primals_1, buf0)
        # Topologically Sorted Source Nodes: [conv2d], Original ATen: [aten.convolution]
        buf1 = extern_kernels.convolution(buf0, primals_2, stride=(1, 1), bias=None)
        assert_size_stride(buf1, (4, 32, 6, 6), (1152, 1, 192, 32), 'torch.ops.aten.convolution.default')
        triton_poi_fused_relu_1.run(buf1, 4608, stream=stream0)
        buf2 = torch.ops.aten.convolution_backward.default(buf1, primals_1, primals_2, [0], (1, 1), 1, [True, True, False])
        buf3 = buf2[0]
        return (buf3, )

        cpp_fused_of_what_is_no_part_of_it(buf0)
"""


def test_the_kernels_of_torch_compile_are_lines_of_what_it_writes() -> None:
    assert count(WRITTEN) == 5 and count(WRITTEN.replace("[True, True, False]", "[False, True, False]")) == 4


@pytest.mark.proof
@pytest.mark.parametrize(
    "name, backward, kernels", [("softmax", False, 1), ("linear_bias_gelu", False, 2), ("rms_norm", True, 2)]
)
def test_launches_stand_beside_those_of_torch_compile(name: str, backward: bool, kernels: int) -> None:
    """An elementwise chain or a softmax is one loop nest; a product is a library's, what follows it another."""
    spec = Spec(name, "tiny", backward, "cpu", {"fused": "all"}, ["torch.compile"], rounds=0)
    found = {r.variant: r for r in rows(spec, "", [trial(spec)])}
    assert found["torch.compile"].launches == kernels and 0 < found["fused"].launches <= kernels
    assert not found["torch.compile"].medians and len(found["fused"].apart) == found["fused"].launches - 1


def test_more_launches_than_theirs_are_explained() -> None:
    """Each line of ``apart`` is a refusal, or what is stored between the two."""
    g, _ = graph(PATTERNS["conv_bn_relu_train"], "tiny", backward=True)
    program = grt.compile(g, target="cpu")
    apart = program.explain().apart()
    assert len(apart) == program.launches - 1 and not any(d.taken for d in apart)
    assert str(apart[0]).startswith("reduce_0 into conv_0: not fused: is a reduction: a kernel of its own; it would be if")
    about = ("p", "conv", "small", True, "cpu")
    ours = Row(*about, "fused", 3, apart=["b into a: not fused: so", "c into b: not fused: so"])
    for others in ([], [Row(*about, "torch.compile")], [Row(*about, "torch.compile", 3)]):
        assert longer([ours, *others]) == []
    text = "p + backward, cpu: 3 launches, 2 of torch.compile: b into a: not fused: so | c into b: not fused: so"
    assert longer([ours, Row(*about, "torch.compile", 2)]) == [text]
    machine = {"gbs": 1.0, "gflops": 1.0}
    listed = "**p + backward, cpu, 3 launches**\n\n- b into a: not fused: so\n- c into b: not fused: so\n"
    assert listed in report.markdown([ours], machine)
    assert "<h3>p + backward, cpu, 3 launches</h3><ul><li>b into a: not fused: so</li>" in report.page([ours], machine)


def test_shares_are_of_what_was_seen_in_the_same_turns() -> None:
    """A process that the machine slowed down has the share of one that it did not; rows without that know the run's alone."""
    row = Row("p", "conv", "small", False, "cpu", "fused", 1, 10**6, 10**6, medians=[1.0, 2.0], samples=[[1.0], [2.0]])
    machine = {"gbs": 4.0, "gflops": 1.0}
    assert "0.7 (12-25%)" in report.cells(row, machine)
    row.seen = [{"gbs": 2.0, "gflops": 1.0}, {"gbs": 1.0, "gflops": 1.0}]
    assert "0.7 (50%)" in report.cells(row, machine)


def test_the_summary_has_a_line_for_each_pattern() -> None:
    about = ("p", "conv", "small", False, "cpu")
    fused = Row(*about, "fused", 2, 150, 100, medians=[1.0], logs=[0.0])
    others = [
        Row(*about, "unfused", 5, 300, 100, medians=[3.0], logs=[float(np.log(3))]),
        Row(*about, "torch.compile", 4, 0, 100, medians=[2.0], logs=[float(np.log(2))]),
    ]
    (line,) = report.summary([others[0], fused, others[1]])
    times = ["3.00 [3.00, 3.00]", "", "2.00 [2.00, 2.00]", ""]
    assert line == ["p, cpu", "5", "2", "4", "3.00", "1.50", "1.000", *times] and len(line) == len(report.SUMMARY)


def test_the_docs_say_why_a_block_is_two_kernels() -> None:
    """docs/fusion.md has what the command counts of these patterns, and what keeps them apart, as a run says it."""
    found = []
    for name in ("conv_relu_max_pool", "conv_bn_relu_train"):
        built = graph(PATTERNS[name], "small")[0]
        for variant, fusion in (("unfused", "none"), ("fused", "all")):
            lowering = lower_graph(built, parse("cpu", Settings(fusion=fusion)), {})
            row = Row(name, "conv", "small", False, "cpu", variant, len(lowering.kernels), least=least_bytes(built))
            row.bytes, row.apart = sum(c.bytes for c in lowering.costs), [str(d) for d in Explanation(lowering).apart()]
            found.append(row)
    counted = [" ".join(report.cells(row, {})[:5]) for row in found]
    said = [line for name, why in kept_apart(found) for line in (name, *(f"  {reason}" for reason in why))]
    docs = (Path(__file__).parent.parent / "docs" / "fusion.md").read_text()
    assert "```\n" + "\n".join([*counted, "", *said]) + "\n```" in docs


def test_patterns_in_jax_have_the_reference_s_results() -> None:
    pytest.importorskip("jax", reason="needs the package jax: pip install jax")
    from graphrt.bench import jax_patterns

    assert jax_patterns.PATTERNS.keys() <= PATTERNS.keys() and len(jax_patterns.PATTERNS) > 30
    for name in jax_patterns.PATTERNS:
        pattern = PATTERNS[name]
        built, builder = graph(pattern, "tiny", pattern.backward)
        feeds = builder.feeds(np.random.default_rng(0))
        exact = evaluate(built, {**built.initial, **feeds})
        step = peer(pattern, builder, feeds, pattern.backward, "jax")
        assert step is not None
        results, gradients = step() if pattern.backward else (step(), ())
        found = [*(results if isinstance(results, tuple) else [results]), *gradients]
        assert len(found) == len(built.outputs)
        for got, (output, v) in zip(found, built.outputs.items(), strict=True):
            np.testing.assert_allclose(got, exact[v], rtol=2e-4, atol=2e-5, err_msg=f"{name}: {output}")
    assert peer(PATTERNS["adam"], *_fed("adam"), False, "jax") is None


def _fed(name: str) -> tuple[Builder, dict[str, np.ndarray]]:
    builder = graph(PATTERNS[name], "tiny")[1]
    return builder, builder.feeds(np.random.default_rng(0))


def test_an_interrupt_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    def interrupted(*_: object) -> Iterator[list[Row]]:
        yield [made_up(rng, "conv_bias_relu")]
        raise KeyboardInterrupt

    monkeypatch.setattr("graphrt.bench.fusion.run", interrupted)
    monkeypatch.setattr("graphrt.bench.fusion.about", lambda: {"gbs": 1.0, "gflops": 1.0})
    words = ["--filter", "conv_b*", "--save", str(tmp_path / "a.jsonl"), "--md", str(tmp_path / "a.md")]
    status, output = _command(*words)
    assert status == 0 and "stopped: 1 of 6 were measured" in output
    assert [r.pattern for r in read(tmp_path / "a.jsonl")] == ["conv_bias_relu"]
    assert "conv_bias_relu" in (tmp_path / "a.md").read_text()


def test_time_that_is_over_keeps_what_is_done_and_names_what_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    clock = iter([0.0, 1.0, 61.0])
    monkeypatch.setattr("graphrt.bench.command.monotonic", lambda: next(clock))
    monkeypatch.setattr("graphrt.bench.fusion.run", lambda *_: iter([[made_up(rng, "conv_bias_relu")]]))
    monkeypatch.setattr("graphrt.bench.fusion.about", lambda: {"gbs": 1.0, "gflops": 1.0})
    words = ["--filter", "conv_bias_relu,softmax,adam", "--minutes", "1", "--md", str(tmp_path / "a.md")]
    status, output = _command(*words)
    assert status == 0 and "out of time, not measured: softmax, cpu, adam, cpu" in " ".join(output.split())
    assert f"1 of {len(PATTERNS)} patterns." in (tmp_path / "a.md").read_text()


def test_a_peer_that_fails_takes_no_rows_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Callable[[], object]:
        raise ValueError("no such thing\nat all")

    monkeypatch.setattr("graphrt.bench.peers.peer", fails)
    spec = Spec("softmax", "tiny", False, "cpu", {"unfused": "none", "fused": "all"}, ["torch"], rounds=1, calls=1)
    outcome = trial(spec)
    assert outcome["failed"] == {"torch": "ValueError: no such thing"}
    assert {r.variant for r in rows(spec, "", [outcome]) if r.medians} == {"unfused", "fused"}


@pytest.mark.parametrize("number", [0, 2], ids=["first", "last"])
def test_a_peer_that_ends_its_process_is_left_out(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Whichever process it is, the other peers and all that is ours are kept; what fails without peers is ours."""
    spec = Spec("softmax", "tiny", False, "cpu", {"unfused": "none", "fused": "all"}, ["torch", "jax"], rounds=1, calls=1)
    found = json.dumps(trial(replace(spec, peers=["torch"])))
    begun: list[list[str]] = []

    def process(given: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        begun.append(list(given["peers"]))
        crashes = broken or ("jax" in given["peers"] and len(begun) > number)
        return subprocess.CompletedProcess([], -11 if crashes else 0, f"noise\n{found}\n", "")

    monkeypatch.setattr("graphrt.bench.fusion._process", process)
    lost: list[str] = []
    broken = False
    (outcome,) = run([spec], {"softmax": ""}, 3, lost.append)
    assert [r.variant for r in outcome if isinstance(r, Row) and len(r.medians) == 3] == ["unfused", "fused", "torch"]
    assert len(lost) == 1 and "left out jax" in lost[0] and "signal 11" in lost[0]
    assert begun == [["torch", "jax"]] * (number + 1) + [["torch"]] * (3 - number)
    broken = True
    (outcome,) = run([spec], {"softmax": ""}, 3, lost.append)
    assert isinstance(outcome, str) and "signal 11" in outcome


def test_turns_end_in_pairs_when_their_time_is_over() -> None:
    """Each order of the candidates is taken as often as the other, and at least once."""
    called: list[str] = []
    found = samples({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, 40, 1, 0.0, 0.0)
    assert called == ["a", "b", "b", "a"] and all(len(times) == 2 for times in found.values())


@pytest.mark.parametrize("slower, noisy, status", [(1.0, False, 0), (1.5, False, 2), (1.5, True, 3)])
def test_the_command_exits_as_the_comparison_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, slower: float, noisy: bool, status: int
) -> None:
    save(tmp_path / "a.jsonl", [made_up(rng, "softmax")], {"gbs": 1.0, "gflops": 1.0})
    again = made_up(rng, "softmax")
    again.variant, again.logs = AGAIN, [np.log(1 + 2 * NOISY) if noisy else 0.0] * 5
    monkeypatch.setattr("graphrt.bench.fusion.run", lambda *_: iter([[made_up(rng, "softmax", slower), again]]))
    monkeypatch.setattr("graphrt.bench.fusion.about", lambda: {"gbs": 1.0, "gflops": 1.0})
    compared = ["--filter", "softmax", "--compare", str(tmp_path / "a.jsonl")]
    assert _command(*compared)[0] == status
    monkeypatch.setattr("graphrt.bench.fusion.run", lambda *_: iter([[made_up(rng, "layer_norm")]]))
    other, output = _command(*compared)
    assert other == 3 and "no row was measured before" in output, "what was never measured says nothing"
    monkeypatch.setattr("graphrt.bench.fusion.run", lambda *_: iter(["softmax, cpu: signal 11"]))
    assert _command(*compared)[0] == 3, "a pattern that fails is no success"
