"""bench.gpu without a GPU: the budget, the goals, what is kept and printed; its steps on the null target and the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import INTERPRETED

sys.path.insert(0, str(Path(__file__).parent.parent))
import graphrt as grt
from bench import gpu, gpu_checks, gpu_kit
from bench.gpu_kernels import CHOICES, GOALS, bandwidth, convolutions, descriptors
from bench.gpu_parts import Row, Settings
from bench.gpu_training import BY_LIBRARY, NETWORKS, Goals, apart, curve, looked_into, pair, rows, training
from bench.measure import RESULTS, Timing
from graphrt import models
from graphrt.targets.reference.evaluate import evaluate

pytestmark = pytest.mark.skipif(INTERPRETED, reason="compiles kernels, so it cannot run under TRITON_INTERPRET=1")
pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

ROOT = Path(__file__).parent.parent


def nothing(settings: Settings) -> Iterator[Row]:
    yield Row("a", "b", 1.5, "ms", 2.0, 1.0)


def step(name: str, seconds: float = 10, function: str = "nothing") -> gpu.Step:
    return gpu.Step(name, seconds, "gpu_parts", function)


def test_steps_share_what_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that ends early leaves its time to the others; when none is left, that is said, and kept."""
    now = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    given: list[float] = []

    def measure(share: gpu.Step, dry: bool, seconds: float, tune: int, out: Path) -> list[Row]:
        given.append(seconds)
        now[0] += 10 if share.name == "first" else seconds
        return [Row(share.name, "x", 1.0)]

    steps = [step(name, seconds) for name, seconds in (("first", 60), ("second", 20), ("third", 20))]
    found = gpu.everything(steps, 100 / 60, False, 0, tmp_path, lambda text: None, measure)
    assert given == pytest.approx([60, 45, 45]) and [r.part for r in found] == ["first", "second", "third"]
    found = gpu.everything(steps, 4 / 60, False, 0, tmp_path, lambda text: None, measure)
    assert [r.note for r in found] == ["not run: no time was left"] * 3 and len(given) == 3
    assert gpu.rows_of(tmp_path / "gpu.jsonl") == found
    found = gpu.everything(steps, 100 / 60, True, 0, tmp_path, lambda text: None, measure)
    assert given[3:] == pytest.approx([100, 90]), "a dry run has no shares"
    assert found[-1].note == "not run: no time was left"


def test_every_goal_of_the_list_has_a_step() -> None:
    names = [share.name for share in gpu.STEPS]
    planned = [share for share in gpu.STEPS if share.planned]
    assert len(set(names)) == len(names) and len(planned) == 10 and sum(share.seconds for share in planned) == 9 * 60
    for network, batch in (("ResNet-50", 256), ("ResNet-50", 32), ("VGG-16", 256), ("AlexNet", 128), ("ResNet-152", 256)):
        assert f"{network} train b{batch}" in names
    assert {f"convolutions, {kind}" for kind in GOALS} <= {*names}
    assert all(net.model in models.MODELS for net in NETWORKS.values())
    assert all(callable(share.part()) for share in gpu.STEPS)


def test_both_sides_are_one_network() -> None:
    for name in ("LeNet-5", "ResNet-20", "MLP 784-128-10", "AlexNet"):
        ours, theirs = pair(name)
        assert len([*ours.named_parameters()]) == len([*theirs.parameters()])


def test_goals() -> None:
    assert Row("p", "w", 5.0, "ms", 1.3, 1.25).met and Row("p", "w", 5.0, "ms", 1.2, 1.25).met is False
    assert Row("p", "w", 0.05, "ms", goal=0.04, at_most=True).met is False and Row("p", "w", 9000.0, goal=7900).met
    assert Row("p", "w", 5.0).met is None and Row("p", "w", goal=1.0, note="not run").met is None
    given = (("graphrt", 20.0), ("torch eager", 40.0), ("torch default", 30.0), (BY_LIBRARY, 25.0))
    timings = {n: Timing(ms, ms, ms) for n, ms in given}
    found = {r.what: r for r in rows("p", 256, timings, Goals({"best": 1.3, "eager": 3.0}, images=7900))}
    assert found["graphrt throughput"].figure == 12800 and found["graphrt throughput"].met
    assert found["torch eager"].ratio == 2 and not found["torch eager"].met
    assert found[BY_LIBRARY].ratio == 1.25 and found[BY_LIBRARY].goal is None
    assert found["best of torch"].ratio == 1.5 and found["best of torch"].met


def test_rows_are_kept_as_they_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without figures in a dry run; of two about the same the later counts, and a line that was cut off does not."""
    monkeypatch.setattr(gpu.Step, "part", lambda self: nothing)
    monkeypatch.setattr(gpu, "STEPS", [step("n")])
    gpu.child("n", True, 10.0, 0, str(tmp_path))
    (dry,) = gpu.rows_of(tmp_path / "gpu.jsonl")
    gpu.child("n", False, 10.0, 0, str(tmp_path))
    (wet,) = gpu.rows_of(tmp_path / "gpu.jsonl")
    assert (dry.figure, dry.ratio, dry.note) == (None, None, "dry run") and (wet.figure, wet.ratio, wet.note) == (1.5, 2.0, "")
    lines = (tmp_path / "gpu.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["dry"] and not second["dry"] and second["met"] and {"device", "torch", "date", "step"} <= second.keys()
    with (tmp_path / "gpu.jsonl").open("a") as file:
        file.write(lines[1][:40])
    assert gpu.rows_of(tmp_path / "gpu.jsonl") == [wet]
    assert gpu.rows_of(tmp_path / "gpu.jsonl", len(lines[0]) + 1) == [wet] and not gpu.rows_of(tmp_path / "none")


def test_a_step_that_fails_or_hangs_or_dies_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing that it started goes on."""
    (failed,) = gpu.measured(step("no such step"), True, 60.0, 0, tmp_path)
    assert failed.note.startswith("failed: ValueError") and failed.failed
    stopped = gpu.measured(step("loss curves"), True, 0.5, 0, tmp_path)
    assert stopped[-1].note == "stopped: its time was over"
    assert gpu.rows_of(tmp_path / "gpu.jsonl") == [failed, stopped[-1]]
    monkeypatch.setattr(gpu, "_ROOT", tmp_path)  # where this is in place of it
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").touch()
    (tmp_path / "bench" / "gpu.py").write_text("import os\ndef die_with_parent(): os.kill(os.getpid(), 9)\nchild = None\n")
    (killed,) = gpu.measured(step("results"), True, 60.0, 0, tmp_path)
    assert killed.note == "stopped by SIGKILL" and killed.failed


def test_the_most_important_lines_are_the_last() -> None:
    rows = [
        Row("machine", "copy", 5.0),
        Row("correctness", "tests", 2.0, "failures", None, 0.0, True),
        Row("first", "goal", 1.0, goal=2.0),
        *(Row("second", f"plain {i}", 1.0) for i in range(60)),
        *(Row("second", f"{i}", 1.0, detail=True) for i in range(60)),
        Row("second", "goal", 3.0, goal=2.0),
        Row("third", "all", note="failed: ValueError"),
    ]
    found = gpu.summary(rows, 20)
    assert len(found) == 20 and found[0] == "46 more rows are in the file"
    assert [text.split(":")[0] for text in found[-4:]] == [
        "second | goal",
        "first | goal",
        "third | all",
        "correctness | tests",
    ]
    assert found[-1] == "correctness | tests: 2 failures, goal <= 0 MISSED" and "met" in found[-4]
    assert gpu.summary(rows[:3], 20)[0] == "machine | copy: 5" and len(gpu.summary(rows[:3], 20)) == 3


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "NEEDED", ("json", "no_such_module"))
    assert gpu.main(["--dry-run", "--out", str(tmp_path)]) == 1
    assert "needed: no_such_module" in capsys.readouterr().err and not [*tmp_path.iterdir()]
    with pytest.raises(SystemExit):
        gpu.main(["--only", "nothing"])
    assert "no step 'nothing'; there is machine, results" in capsys.readouterr().err
    lean = "import sys; import bench.gpu; print({'torch', 'numpy', 'rich', 'typer', 'graphrt'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", lean], cwd=ROOT, capture_output=True, text=True).stdout == "set()\n"


LOG = """
[gw0] [ 10%] PASSED tests/test_a.py::test_one[cuda]
[gw1] [ 20%] FAILED tests/test_a.py::test_two[x y]
tests/test_b.py::test_three PASSED  [ 30%]
worker 'gw1' crashed while running 'tests/test_b.py::test_four'
[gw1] [ 40%] FAILED tests/test_b.py::test_four
=== short test summary info ===
FAILED tests/test_a.py::test_two[x y] - AssertionError: 1 != 2
=== 2 failed, 2 passed in 3.00s ===
"""


def test_files_of_the_suite_have_tests_for_a_gpu() -> None:
    for name in gpu_checks.FILES:
        text = (ROOT / "tests" / f"test_{name}.py").read_text()
        assert "target" in text or "DEVICES" in text or "mark.gpu" in text, name


def test_verdicts_of_the_suite() -> None:
    *failures, total = gpu_checks.verdicts("c", "tests", LOG, False)
    assert [row.what for row in failures] == ["test_b.py::test_four", "test_a.py::test_two[x y]"]
    assert [row.note for row in failures] == [
        "failed: it ended its process, or took too long",
        "failed: AssertionError: 1 != 2",
    ]
    assert total.figure == 2 and total.met is False and total.note == "2 passed"
    *_, rest, total = gpu_checks.verdicts("c", "tests", LOG[: LOG.index("worker")], True)
    assert rest.note.startswith("stopped: 2 passed until then") and rest.failed and total.figure == 1
    (clean,) = gpu_checks.verdicts("c", "tests", "tests/a.py::t PASSED", False)
    assert clean.met


def test_a_test_that_hangs_ends_its_process(tmp_path: Path) -> None:
    (tmp_path / "test_hang.py").write_text("import time\ndef test_quick(): pass\ndef test_hang(): time.sleep(600)\n")
    code = (
        "import pytest, bench.gpu_limit as limit; limit.SECONDS = 1.0;"
        f"pytest.main(['-v', '-p', 'no:cacheprovider', {str(tmp_path)!r}], plugins=[limit])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "test_quick PASSED" in done.stdout and "Timeout (0:00:01)!" in done.stderr
    assert 'test_hang.py", line 3 in test_hang' in done.stderr


def test_results_beside_the_reference() -> None:
    """What the kinds are is run by the target of this machine; a wrong element is seen."""
    for name, (make, allowed, _) in gpu_checks.KINDS.items():
        graph, feeds = make()
        found, expected = grt.compile(graph, target="cpu")(feeds), evaluate(graph, {**graph.initial, **feeds})
        assert all(gpu_checks.error(found[n], expected[v]) <= allowed for n, v in graph.outputs.items()), name
    assert gpu_checks.error([1.0, 2.5], [1.0, 2.0]) == 0.25 and gpu_checks.error([float("nan")], [1.0]) == float("inf")


def test_losses_are_torchs() -> None:
    """The comparison itself, where there is something to compare."""
    curves = curve("LeNet-5", 6, 8, "cpu", "cpu")
    assert apart(curves) < 1e-3 and len(curves[0]) == 6 and curves[0][0] != curves[0][-1]
    assert apart(([1.0, 2.0], [2.0, 2.0])) == 0.5


def test_parts_run_dry() -> None:
    """Those that compile little; all of them are one of the proofs."""
    parts = [training("MLP 784-128-10", 64, Goals({"eager": 3.0}), half=False), convolutions("wgrad"), descriptors]
    for part in parts:
        found = {row.what: row for row in part(Settings(True, 600.0))}
        assert len(found) >= 2 and not any(row.failed for row in found.values())
    assert [*found] and all("beside pointers" in row.note for row in found.values())


def test_both_ways_are_what_their_rows_say() -> None:
    """At the real sizes: which way is chosen, and which is not."""
    settings = Settings(False, 0.0, ahead="cuda:sm_90")
    for choice in CHOICES.values():
        found = choice.programs(settings)
        assert [*found] == [choice.chosen, choice.other]
    stored, on_load = CHOICES["3x3 behind norm and ReLU"].programs(settings).values()
    assert (stored.launches, on_load.launches) == (2, 1)
    tiles = [p.explain().decisions for p in CHOICES["product of 4096"].programs(settings).values()]
    large, small = ([d.other for d in found if d.stage == "template" and d.taken] for found in tiles)
    assert ["BM 128 BN 256" in text for text in (*large, *small)] == [True, False] and "BM 128 BN 128" in small[0]


def test_launches_beside_their_predictions_run_dry() -> None:
    found = [*looked_into("LeNet-5", 64, {"images": 1.0})(Settings(True, 600.0))]
    details = [row for row in found if row.detail]
    assert len(details) > 10 and all(row.what.startswith("launch g") and "bound by" in row.note for row in details)
    assert found[-1].what == f"all {len(details)} launches" and not any(row.failed for row in found[1:])


@pytest.mark.proof
def test_a_kit_leaves_nothing_to_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its kernels are found by the steps in an empty cache; those of other sources are left where they are."""
    kit, empty = tmp_path / "kit.tar", tmp_path / "empty"
    count = gpu_kit.pack(kit, Settings(True, 0.0, ahead="cuda:sm_90"), show=False)
    assert count > 20
    monkeypatch.setenv("GRAPHRT_CACHE", str(empty))
    with monkeypatch.context() as other:
        other.setattr(gpu_kit, "identity", lambda: "3.6.0 and others")
        text, complete = gpu_kit.unpacked(kit)
        assert "compiled again" in text and not complete and not (empty / "triton").exists()
    assert gpu_kit.unpacked(kit) == (f"kit.tar: {count} kernels for cuda:sm_90 need not be compiled", True)
    monkeypatch.setenv("GRAPHRT_COMPILE", "0")
    for part in (bandwidth, gpu_checks.kinds, convolutions("wgrad")):
        assert not [row for row in part(Settings(True, 60.0)) if row.failed]


@pytest.mark.proof
def test_the_ten_steps_run_dry(tmp_path: Path) -> None:
    """One command, from nothing to its last line: every step, no figure, at most 40 lines."""
    before = sorted(RESULTS.iterdir())
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--minutes", "60", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rows} == {share.name for share in gpu.STEPS if share.planned}
    assert all(row["figure"] is row["ratio"] is None for row in rows) and sorted(RESULTS.iterdir()) == before
    assert len(done.stdout.splitlines()) <= gpu.LINES and "dry run: no figures" in done.stdout


def test_the_command(tmp_path: Path) -> None:
    """What runs is kept, and one that did not end is a failure."""
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--out", str(tmp_path), "--only", "machine"]
    done = subprocess.run([*command, "--minutes", "5"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "dry run: no figures" in done.stdout and "machine | copy: - (dry run)" in done.stdout
    assert all(row.figure is None for row in gpu.rows_of(tmp_path / "gpu.jsonl"))
    late = [*command[:-1], "ResNet-152 train b256", "--minutes", "0.1"]
    done = subprocess.run(late, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "its time was over" in done.stdout
