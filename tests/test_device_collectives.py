"""Collectives of GPU programs: where they are forked and joined, on what memory, in all processes alike; what they compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import INTERPRETED
from forking import meeting

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")
HERE = Path(__file__).parent
LIMIT = 240  # seconds, of which they take a tenth
compiled = pytest.mark.skipif(INTERPRETED, reason="compiles kernels, so it cannot run under TRITON_INTERPRET=1")


def said(*arguments: str, **flags: str) -> str:
    """What ``device_ranks.py`` prints."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **flags}
    command = [sys.executable, str(HERE / "device_ranks.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def plans() -> list[dict[str, Any]]:
    """The plan of each process."""
    return [json.loads(said("plan", str(rank))) for rank in range(2)]


@compiled
def test_all_processes_capture_the_same(plans: list[dict[str, Any]]) -> None:
    """Launches, buffers and the order of events, in a first run and a second; a saved program has them too."""
    assert plans[0] == plans[1]


@compiled
@pytest.mark.parametrize("name, messages", [("apart", 4), ("together", 2)])
def test_collectives_are_forked_and_joined(plans: list[dict[str, Any]], name: str, messages: int) -> None:
    """Each begins behind an event of the program's stream, on its own; that stream waits for it before what reads it."""
    plan = plans[0][name]
    calls, log = plan["image"]["calls"], [tuple(event) for event in plan["log"]]
    assert len(calls) == messages and {call["op"] for call in calls.values()} == {"all_reduce"}
    first = next(i for i, (kind, _) in enumerate(log) if kind in ("launch", "collective"))
    log = log[first - 2 if log[first][0] == "collective" else first :]
    last = max(i for i, (kind, _) in enumerate(log) if kind in ("launch", "collective"))
    expected = list[str]()
    for number in range(len(plan["image"]["places"])):
        expected += ["wait "] * sum(call["until"] == number for call in calls.values())
        forked = str(number) in calls
        expected += ["event ", "wait fork", "collective", "event fork"] if forked else ["launch"]
    expected += ["wait "] * sum(call["until"] == len(plan["image"]["places"]) for call in calls.values())
    found = [f"{kind} {stream}" if kind in ("event", "wait") else kind for kind, stream in log[: last + 1]]
    assert found == expected[: last + 1]
    beside = [call["until"] - int(number) - 1 for number, call in calls.items()]
    assert sum(n > 0 for n in beside) >= messages - 1, beside
    assert [kind for kind, _ in plan["again"] if kind in ("launch", "collective", "capture", "replay")] == ["replay"]


@compiled
@pytest.mark.parametrize("name", ["apart", "together"])
def test_nobody_touches_what_is_under_way(plans: list[dict[str, Any]], name: str) -> None:
    """Launches beside a collective work on other memory than its results; what is sent together lies side by side."""
    image = plans[0][name]["image"]
    for number, call in image["calls"].items():
        spans = list(zip(call["start"]["results"], call["size"]["results"], strict=True))
        for launch in image["places"][int(number) + 1 : call["until"]]:
            for space, buffer, offset, size in launch:
                if space != "state":
                    assert all(offset + size <= start or start + n <= offset for start, n in spans), (number, buffer)
        assert call["start"] == {"sources": call["start"]["results"], "results": call["start"]["results"]}  # in place
        starts = sorted(call["start"]["results"])
        assert starts == [*range(starts[0], starts[0] + 1024 * len(starts), 1024)]


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRETED, reason="runs Triton's interpreter, in the other lane")
def test_what_they_compute(tmp_path: Path) -> None:
    """Two processes, in the interpreter over gloo: all collectives as the reference has them, training as one process does."""
    said("run", str(tmp_path), TRITON_INTERPRET="1", **meeting(2))


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED or torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs, and NCCL between them")
def test_two_gpus_train_as_one_process_does(tmp_path: Path) -> None:
    """With the sums of gradients inside each process's one graph."""
    said("train", str(tmp_path), "cuda", **meeting(2))
