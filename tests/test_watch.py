"""A run on a device that waits for a process that is gone: it is noticed, the process is named, and nobody waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import INTERPRETED
from forking import meeting

from graphrt.errors import TargetError
from graphrt.runtime.watch import Watch

HERE = Path(__file__).parent


class Joined:
    """Processes of which one is silent."""

    def lost(self, error: BaseException) -> TargetError:
        return TargetError(f"process 1 is gone: {error}")


class Run:
    """A run that is over when it is said to be."""

    over = False

    def __call__(self) -> bool:
        return self.over


def watched(count: int, limit: float = 10.0) -> tuple[Watch, list[Run], float]:
    """A watch over so many runs, without its thread, and when the last began."""
    watch, runs = Watch(Joined(), limit, leave=lambda error: None), [Run() for _ in range(count)]  # type: ignore[arg-type]
    for run in runs:
        watch._runs.append((100.0, run))
    return watch, runs, 100.0


def test_a_run_that_ends_in_time_is_forgotten() -> None:
    watch, (run,), start = watched(1)
    assert not watch.stalled(start + 9)
    run.over = True
    assert not watch.stalled(start + 11) and not watch._runs


def test_a_run_that_does_not_end_is_noticed() -> None:
    watch, _, start = watched(1)
    assert not watch.stalled(start + 10) and watch.stalled(start + 10.1)


def test_a_host_far_ahead_of_the_device_is_not_a_stall() -> None:
    """Runs that were begun together end one after the other: each has its time from when the one in front was over."""
    watch, runs, start = watched(3)
    for number, run in enumerate(runs):
        run.over = True
        assert not watch.stalled(start + 9 * (number + 1))
    watch, runs, start = watched(2)
    runs[0].over = True
    assert not watch.stalled(start + 9) and not watch.stalled(start + 18) and watch.stalled(start + 20)


def test_what_is_called_then() -> None:
    """Once, on the watch's own thread, with the error that names the process."""
    found = list[TargetError]()
    watch = Watch(Joined(), 0.05, leave=found.append)  # type: ignore[arg-type]
    watch.begun(lambda: False)
    assert watch._thread is not None
    watch._thread.join()
    assert [str(e) for e in found] == ["process 1 is gone: a run on the device has not ended for 0.05 seconds"]


SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np
import graphrt as grt
from graphrt import ops as F
from graphrt.runtime.watch import watch
from graphrt.targets.triton.null import NullStream

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
g = grt.Graph(grt.Mesh(dp=2))
g.output("y", F.all_reduce(g.input("x", (4,), varying="dp"), "dp"))
program = grt.compile(g, target="null")
for _ in range(2):  # one by one, and as a graph
    program(x=np.ones(4, np.float32))
(folder / str(rank)).touch()
if rank == 1:
    while not (folder / "0").exists():
        time.sleep(0.02)
    os._exit(0)  # between two steps
watch(g.mesh)._limit = 1.0
NullStream.query = lambda self: False  # as a GPU's event behind a collective that waits
program(x=np.ones(4, np.float32))
time.sleep(600)  # as a host that waits for the device
"""


@pytest.mark.proof
@pytest.mark.skipif(INTERPRETED, reason="compiles for a GPU, so it cannot run under TRITON_INTERPRET=1")
def test_a_process_that_is_lost_behind_a_captured_graph_is_named(tmp_path: Path) -> None:
    """On the null driver, whose events never happen then."""
    pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    flags = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", **meeting(2)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env={**os.environ, **flags, "RANK": rank}, **pipes)
        for rank in "01"
    ]
    try:
        told = [process.communicate(timeout=120)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert both[0].returncode == 1, told
    assert "process 1 of Mesh(dp=2) is gone, or did not answer in time (GRAPHRT_TIMEOUT): a run on the device" in told[0]
