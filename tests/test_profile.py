"""``program.profile``: a table of launches, and a trace of one run by the runtime's own clocks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import ops as F
from graphrt.runtime.machine import DataSheet, expected, machine
from graphrt.runtime.profile import LaunchProfile, Profile, Span
from graphrt.schedule.cost import Cost


def net() -> grt.Graph:
    """A convolution, a product, and two sums side by side."""
    g = grt.Graph()
    h = F.relu(F.conv2d(g.input("x", (8, 16, 24, 24)), g.parameter("w", shape=(16, 16, 3, 3)), padding=1))
    y = F.flatten(h, 1) @ g.parameter("v", shape=(16 * 24 * 24, 32))
    g.output("p", F.sum(y, 0))
    g.output("q", F.sum(y, 1))
    return g


def test_the_table(target: str, rng: np.random.Generator) -> None:
    program = grt.compile(net(), target=target)
    found = program.profile({"x": rng.standard_normal((8, 16, 24, 24)).astype(np.float32)}, runs=3)
    lines = str(found).splitlines()
    assert len(found) == program.launches == len(lines) - 2 and found.seconds == sum(p.seconds for p in found)
    assert all(0 < p.low <= p.seconds <= p.high and p.gbs > 0 for p in found), lines
    assert re.split(r" +", lines[0].strip()) == [*"us p10 p90 share GB/s GFLOP/s predicted bound launch".split()]
    times = [float(line.split()[0]) for line in lines[1:-1]]
    assert times == sorted(times, reverse=True) and f"us in {len(found)} launches" in lines[-1]
    known = target != "interpret"
    assert all((p.predicted is not None) == known == bool(p.bound) for p in found)
    assert json.loads(json.dumps(found.to_json()))[0]["name"] == found[0].name == "g0 conv[relu_0]"


def test_the_trace(target: str, rng: np.random.Generator, tmp_path: Path) -> None:
    program = grt.compile(net(), target=target)
    found = program.profile({"x": rng.standard_normal((8, 16, 24, 24)).astype(np.float32)}, runs=1)
    found.trace(tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    launches = [e for e in events if e["ph"] == "X" and e["tid"] == 0]
    assert [e["name"] for e in launches][:2] == ["g0 conv[relu_0]", "g1 matmul[]"] and len(launches) == program.launches
    assert all(e["name"].count("reduce") == 2 for e in launches[2:]), "both sums are named"
    ends = [e["ts"] + e["dur"] for e in launches]
    assert all(e["ts"] >= end - 1e-3 for e, end in zip(launches[1:], ends, strict=False)), "one behind the other"
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    assert tracks[0] == "launches" and (len(tracks) > 1) == (target == "cpu")
    for e in events:  # a thread is at work on a launch while that runs
        if e["ph"] == "X" and e["tid"]:
            assert any(
                x["name"] == e["name"] and x["ts"] <= e["ts"] and e["ts"] + e["dur"] <= x["ts"] + x["dur"] + 1 for x in launches
            )


@pytest.mark.skipif(INTERPRETED, reason="about the cpu's threads")
def test_every_thread_has_a_track(tmp_path: Path) -> None:
    """With two threads both are at work on the convolution; what a run records is its own."""
    code = (
        "import sys, numpy as np; sys.path[:0] = %r\nimport graphrt as grt\nfrom test_profile import net\n"
        "program, x = grt.compile(net(), target='cpu'), np.ones((8, 16, 24, 24), np.float32)\n"
        "for _ in range(500):\n"
        "    spans = program.profile(x=x, runs=1).spans\n"
        "    assert all(len({s.thread for s in of}) == len(of) or of[0].thread is None for of in spans)\n"
        "    if {s.thread for s in spans[0]} == {None, 0, 1}:\n        break\n"
        "else:\n    raise SystemExit('the second thread was never at work')\n"
    ) % [str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "GRAPHRT_THREADS": "2"}, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(INTERPRETED, reason="about the cpu's threads")
def test_a_launch_with_little_work_stays_on_the_thread_that_calls() -> None:
    graph = grt.Graph()
    x = graph.input("x", (6, 50))
    for i in range(4):
        graph.output(f"y{i}", F.sum(x * (i + 1.5), 0))
    program, given = grt.compile(graph, target="cpu"), np.ones((6, 50), np.float32)
    assert program.launches == 1
    threads = {s.thread for _ in range(100) for of in program.profile(x=given, runs=1).spans for s in of}
    assert threads == {None, 0}


def test_the_roofline_of_this_machine() -> None:
    found = machine()
    assert found is machine() and found.measured and 0 < found.memory < 10 and 0 < found.float64 < 2 * found.float32 < 200
    device = DataSheet("x", "cpu", 0.1, 1.0, 1.0, 1.0, 0.5, measured=True)
    assert expected(Cost(10**9, 0, 0, 0), device) == (pytest.approx(0.01), "memory")
    assert expected(Cost(8, 8, 10**12, 0), device) == (pytest.approx(1.0), "compute")
    assert expected(Cost(8, 8, 0, 8), device)[1] == "launch"


def test_what_has_no_work_is_no_division_by_zero() -> None:
    found = Profile([LaunchProfile("g0 pointwise[]", 0.0, 0, 0)], [[Span(None, 0, 0)]])
    assert found[0].gbs == found[0].gflops == 0.0 and "g0 pointwise[]" in str(found) and found[:1] == [found[0]]
