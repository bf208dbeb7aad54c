"""bench.gpu without a GPU: the budget, the goals, what is kept; its parts on the null target and the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import INTERPRETED

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench import gpu
from bench.gpu_kernels import GOALS, bandwidth, convolutions, descriptors
from bench.gpu_parts import Row, Settings
from bench.gpu_training import BY_LIBRARY, NETWORKS, Goals, apart, curve, pair, rows, training
from bench.measure import RESULTS, Timing
from graphrt import models

pytestmark = pytest.mark.skipif(INTERPRETED, reason="compiles kernels, so it cannot run under TRITON_INTERPRET=1")
pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

ROOT = Path(__file__).parent.parent


def nothing(settings: Settings) -> Iterator[Row]:
    yield Row("a", "b", 1.5, "ms", 2.0, 1.0)


def test_parts_share_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that ends early leaves its time to the others; when none is left, that is said."""
    now = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    given: list[float] = []

    def measure(share: gpu.Share, dry: bool, seconds: float, tune: int) -> list[Row]:
        given.append(seconds)
        now[0] += 10 if share.name == "first" else seconds
        return [Row(share.name, "x", 1.0)]

    parts = [gpu.Share(name, nothing, seconds) for name, seconds in (("first", 60), ("second", 20), ("third", 20))]
    found = gpu.everything(parts, 100 / 60, False, 0, lambda text: None, measure)
    assert given == pytest.approx([60, 45, 45]) and [r.part for r in found] == ["first", "second", "third"]
    found = gpu.everything(parts, 4 / 60, False, 0, lambda text: None, measure)
    assert [r.note for r in found] == ["not run: no time was left"] * 3 and len(given) == 3
    found = gpu.everything(parts, 100 / 60, True, 0, lambda text: None, measure)
    assert given[3:] == pytest.approx([100, 90]), "a dry run has no shares"
    assert found[-1].note == "not run: no time was left"


def test_every_goal_of_the_list_has_a_part() -> None:
    names = [share.name for share in gpu.PARTS]
    assert len(set(names)) == len(names) and names[0] == "correctness"
    for network, batch in (("ResNet-50", 256), ("ResNet-50", 32), ("VGG-16", 256), ("AlexNet", 128), ("ResNet-152", 256)):
        assert f"{network} train b{batch}" in names
    assert {f"convolutions, {kind}" for kind in GOALS} <= {*names}
    assert all(net.model in models.MODELS for net in NETWORKS.values())


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


def test_a_dry_run_has_no_figures(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "PARTS", [gpu.Share("n", nothing, 10)])
    gpu.child("n", True, 10.0, 0)
    gpu.child("n", False, 10.0, 0)
    dry, wet = (Row(**json.loads(line.removeprefix(gpu._MARK))) for line in capsys.readouterr().out.splitlines())
    assert (dry.figure, dry.ratio, dry.note) == (None, None, "dry run") and (wet.figure, wet.ratio, wet.note) == (1.5, 2.0, "")


def test_only_what_was_measured_is_kept(tmp_path: Path) -> None:
    found = [Row("p", "measured", 5.0, "ms", 1.3, 1.25), Row("p", "missing", note="not run")]
    assert gpu.save(found[1:], {}, tmp_path) == 0 and not [*tmp_path.iterdir()]
    assert gpu.save(found, {"minutes": 8}, tmp_path) == 1
    (row,) = map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())
    assert row["what"] == "measured" and row["met"] and row["minutes"] == 8 and {"device", "torch", "date"} <= row.keys()


def test_a_part_that_fails_or_hangs_is_a_row() -> None:
    (failed,) = gpu.measured(gpu.Share("no such part", nothing, 10), True, 60.0, 0)
    assert failed.note.startswith("failed: ValueError")
    stopped = gpu.measured(gpu.Share("loss curves", nothing, 10), True, 0.5, 0)
    assert stopped[-1].note == "stopped: its time was over"


def test_losses_are_torchs() -> None:
    """The comparison itself, where there is something to compare."""
    curves = curve("LeNet-5", 6, 8, "cpu", "cpu")
    assert apart(curves) < 1e-3 and len(curves[0]) == 6 and curves[0][0] != curves[0][-1]
    assert apart(([1.0, 2.0], [2.0, 2.0])) == 0.5


@pytest.mark.parametrize(
    "part",
    [training("MLP 784-128-10", 64, gpu.SMALL, half=False), bandwidth, *map(convolutions, ("wgrad", "forward + BN + ReLU"))],
    ids=["training", "bandwidth", "wgrad", "forward + BN + ReLU"],
)
def test_parts_run_dry(part: gpu.Part) -> None:
    found = {row.what: row for row in part(Settings(True, 600.0))}
    assert len(found) >= 3 and not any("failed" in row.note or "time was over" in row.note for row in found.values())
    assert any(row.goal is not None for row in found.values()) or any("not complete" in row.note for row in found.values())


def test_descriptors_run_dry() -> None:
    """Beside the same convolution by pointers."""
    found = [*descriptors(Settings(True, 600.0))]
    assert [row.what.split()[0] for row in found] == ["forward", "dgrad"]
    assert all(row.figure is not None and "beside pointers" in row.note for row in found)


def test_the_command() -> None:
    before = sorted(RESULTS.iterdir())
    command = [sys.executable, "-m", "bench.gpu", "--dry-run", "--minutes", "5", "--only", "memory-bound groups"]
    done = subprocess.run([*command, "--only", "MLP train b64"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dry run: no figures" in done.stdout and "MLP train b64" in done.stdout and "memory-bound groups" in done.stdout
    figures = [line.split("│")[3].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert figures and {*figures} == {"-"} and sorted(RESULTS.iterdir()) == before
    late = subprocess.run([*command[:-3], "0.1", "--only", "ResNet-152 train b256"], cwd=ROOT, capture_output=True, text=True)
    assert late.returncode == 1 and "its time was over" in late.stdout, "a part that did not end shows nothing"
    wrong = subprocess.run([*command[:-1], "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and "no part 'nothing'" in wrong.stderr
