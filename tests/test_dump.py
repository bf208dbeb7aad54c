"""GRAPHRT_DUMP: what is written, and that its scripts run the kernels that the program has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED
from graphs import inception_step, lenet_step

import graphrt as grt
from graphrt import ops as F
from graphrt.compiler import lower_graph
from graphrt.inspection.data import random_inputs
from graphrt.inspection.kernel import main
from graphrt.runtime.dump import kernel_graph, to_come
from graphrt.targets.target import Settings, parse

TARGETS = ["cpu", pytest.param("cuda:sm_90", marks=pytest.mark.skipif(INTERPRETED, reason="plans for a GPU are made apart"))]


def net() -> grt.Graph:
    g = grt.Graph()
    h = F.relu(F.conv2d(g.input("x", (2, 3, 8, 8)), g.parameter('a "name"', shape=(4, 3, 3, 3))))
    g.output("y", F.softmax(F.mean(h, (2, 3))))
    return g


def written(monkeypatch: pytest.MonkeyPatch, folder: Path, target: str) -> tuple[grt.Program, Path]:
    monkeypatch.setenv("GRAPHRT_DUMP", str(folder))
    program = grt.compile(net(), target=target)
    (path,) = folder.iterdir()
    return program, path


def test_every_stage_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str) -> None:
    program, path = written(monkeypatch, tmp_path / "dump", target)
    names = {p.name for p in path.iterdir()}
    assert {"decisions.txt", "groups.txt", "kernel_ir.txt", "memory.txt", "pass_00_build.txt"} <= names
    last = max(n for n in names if n.startswith("pass_"))
    assert str(grt.Graph.parse((path / last).read_text())) == str(program.graph), "the IR is read as it was written"
    assert (path / "groups.txt").read_text() == program.plan_text()
    kernels = (path / "kernel_ir.txt").read_text()
    assert re.search(r"template conv\(N=2, .*\n  load X \(n, c, h, w\)", kernels) and "maximum(" in kernels
    assert re.search(r"v\d+ = max of v\d+", kernels) and "output y[" in kernels
    assert (path / ("source.c" if target == "cpu" else "source.py")).read_text() == program.source()
    assert sum(n.startswith("repro_") for n in names) == program.launches
    grt.compile(net(), target=target)
    assert len(list((tmp_path / "dump").iterdir())) == 2, "a folder for each compilation"


def test_a_script_runs_checks_and_times_its_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str) -> None:
    program, path = written(monkeypatch, tmp_path / "dump", target)
    monkeypatch.delenv("GRAPHRT_DUMP")
    done = subprocess.run([sys.executable, path / "repro_g0.py", "--runs", "2"], capture_output=True, text=True)
    assert done.returncode == 0 and "agrees with the reference" in done.stdout, done.stdout + done.stderr
    assert re.search(r"100.0% +[\d.]+ +[\d.]+ .*g0 conv\[relu_0\]", done.stdout), done.stdout


def test_a_script_says_what_cannot_be_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(monkeypatch, tmp_path / "dump", "cpu")
    for words, message in ((["--target", "tpu"], "target must be auto"), (["--target", "reference"], "no launches to check")):
        monkeypatch.setattr(sys, "argv", ["repro_g0.py", *words])
        with pytest.raises(SystemExit) as stop:
            main(str(net()), "cpu", "all")
        assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.skipif(INTERPRETED, reason="Triton is imported as an interpreter")
def test_a_script_takes_another_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, path = written(monkeypatch, tmp_path / "dump", "cpu")
    words = [sys.executable, path / "repro_g0.py", "--target", "cuda:sm_90"]
    done = subprocess.run(words, capture_output=True, text=True, env={})
    assert done.returncode == 0 and "registers" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_alone_is_that_kernel(target: str) -> None:
    """Each launch of training steps becomes one launch again, of the same operations."""
    for g in (lenet_step(4), inception_step(batch=4, size=8, blocks=1)):
        lowering = lower_graph(g, parse(target), {})
        assert lowering.schedule is not None
        for number, launch in enumerate(lowering.schedule.launches):
            alone = kernel_graph(lowering, number)
            again = grt.Graph.parse(str(alone))
            found = lower_graph(again, parse(target, Settings(fusion=to_come(lowering).named)), {}).schedule
            assert found is not None and len(found.launches) == 1, f"{launch}\nbecomes\n{found.launches}"
            assert [len(x.groups) for x in found.launches] == [len(launch.groups)]


def test_random_inputs_have_finite_results(rng: np.random.Generator) -> None:
    g = grt.Graph()
    x, i = g.input("x", (64,)), g.input("i", (8,), "int64")
    g.output("y", F.log(x) * F.sqrt(x))
    g.output("z", F.embedding(i, g.input("table", (4, 2))))
    found = random_inputs(g, rng)
    assert found["x"].min() >= 0.5 and {*found["i"]} <= {0, 1, 2, 3} and found["x"].dtype == np.float32


def test_the_reference_target_has_its_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, path = written(monkeypatch, tmp_path / "dump", "reference")
    assert {p.name[:5] for p in path.iterdir()} == {"pass_", "decis"}
