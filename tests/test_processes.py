"""Collectives between real processes, two and four on this machine over gloo: as all ranks walked in one, and as one process.

Starting torch takes seconds, so for each number of processes it is started once, and forked; they run all that is in
``ranks.py``, four of them outside proofs a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
from conftest import INTERPRETED, tolerance

import graphrt as grt
from graphrt import Mesh
from graphrt.op import Kind
from graphrt.reference import fit, walk_ranks

pytestmark = pytest.mark.skipif(INTERPRETED, reason="processes run the cpu target, in the other lane")
HERE = Path(__file__).parent
LIMIT = 300  # seconds, of which they need a tenth


class Run:
    """What ``size`` processes found, of the ``whole`` or of a part: ``arrays`` and ``facts`` by rank."""

    def __init__(self, size: int, folder: Path, whole: bool = True) -> None:
        self.size, self.folder, self.scope = size, folder, ranks.scope(size, whole)
        flags = {"GRAPHRT_THREADS": "1", "GRAPHRT_KNOWN": "1", "GRAPHRT_POISON": "0", "GRAPHRT_CACHE": str(folder / "cache")}
        flags |= {"GRAPHRT_CFLAGS": os.environ.get("GRAPHRT_CFLAGS") or "-Og", "OMP_NUM_THREADS": "1"}
        flags["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        (folder / "cache").mkdir()
        command = [sys.executable, str(HERE / "ranks.py"), str(folder), str(size), "whole" if whole else "part"]
        with subprocess.Popen(command, env={**os.environ, **flags}, start_new_session=True) as process:
            try:
                code = process.wait(LIMIT)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        logs = "\n".join(f"{path.name}:\n{path.read_text()[-3000:]}" for path in sorted(folder.glob("*.log")))
        assert code == 0, logs
        self.arrays = [dict(np.load(folder / f"{rank}.npz")) for rank in range(size)]
        self.facts: list[dict[str, Any]] = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]

    def of(self, name: str, rank: int = 0) -> dict[str, np.ndarray]:
        """The arrays below ``name``, without those further below."""
        found = {k.removeprefix(f"{name}/"): a for k, a in self.arrays[rank].items() if k.startswith(f"{name}/")}
        return {k: a for k, a in found.items() if not k.startswith("state/")}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.proof)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(request.param, tmp_path_factory.mktemp("processes"))


BUILDS = (ranks.everything, ranks.places)


@pytest.mark.parametrize("build", BUILDS)
def test_what_is_exchanged_is_what_the_reference_walks(run: Run, build: Any) -> None:
    """On cpu and, between processes as well, on the reference target; twice, since the second run finds other memory."""
    exchanges_what_is_walked(run, build)


def exchanges_what_is_walked(run: Run, build: Any) -> None:
    for mesh in run.scope.meshes:
        graph, worlds = build(mesh, run.scope.dtypes)
        state = [dict(graph.initial) for _ in range(run.size)]
        for turn in range(2):
            tables = []
            for rank in range(run.size):
                at = tuple(mesh.coordinates(rank).values())
                feeds = state[rank] | {name: world[at] for name, world in worlds.items()}
                tables.append({n.outputs[0]: fit(feeds[n.name], n.outputs[0], "float32") for n in graph.sources.values()})
            walk_ranks([n for n in graph.nodes if n.op.kind is not Kind.SOURCE], mesh, tables, "float32")
            for rank, target in ((r, t) for r in range(run.size) for t in run.scope.targets):
                name = f"{build.__name__}/{mesh}/{target}/{turn}"
                found, kept = run.of(name, rank), run.of(f"{name}/state", rank)
                assert found.keys() == graph.outputs.keys() and kept.keys() >= graph.updates.keys()
                both = {**graph.outputs, **{f"update of {n}": v for n, v in graph.updates.items()}}
                actual = found | {f"update of {n}": kept[n] for n in graph.updates}
                for key, v in both.items():
                    expected = tables[rank][v].astype(np.float64)
                    rtol = tolerance(v.dtype.numpy, run.size)
                    message = f"{key} of process {rank} in {name}"
                    np.testing.assert_allclose(actual[key].astype(np.float64), expected, rtol, 8 * rtol, err_msg=message)
                    if key in graph.outputs:
                        assert run.facts[rank][f"{name}/{key} is"] == v.dtype.name, message
            for rank in range(run.size):
                state[rank] |= {n: tables[rank][v] for n, v in graph.updates.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, np.ndarray]]:
    """Losses, norms and the state of one process that has the whole batch, by dtype."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        program = grt.compile(ranks.lenet(None, ranks.ROWS, dtype), target="cpu")
        results = [program(batch) for batch in ranks.batches()]
        found[dtype] = {k: np.stack([r[k] for r in results]) for k in ("loss", "norm")} | dict(program.state)
    return found


def test_training_is_that_of_one_process(run: Run, alone: dict[str, dict[str, np.ndarray]]) -> None:
    """Five steps: losses to 1e-5, state as far as roundings go; in all processes the same bits."""
    trains_as_one(run, alone, ("first", "float32", 1e-5), ("bfloat16", "bfloat16", 2e-2), ("sent in halves", "float32", 1e-2))


def trains_as_one(run: Run, alone: dict[str, dict[str, np.ndarray]], *kinds: tuple[str, str, float]) -> None:
    for name, dtype, rtol in kinds:
        found = run.of(name) | run.of(f"{name}/state")
        for key, expected in alone[dtype].items():
            scale = float(np.abs(expected).max())
            atol = 0 if key in ("loss", "norm") else rtol * scale
            np.testing.assert_allclose(found[key], expected, rtol * (10 if key == "norm" else 1), atol, err_msg=f"{name} {key}")
        for rank in range(1, run.size):
            other = run.of(name, rank) | run.of(f"{name}/state", rank)
            assert all(np.array_equal(found[key], other[key]) for key in alone[dtype]), f"{name} of process {rank}"


BUCKETED = [f"buckets of {size}" for size in ranks.BUCKETS]


@pytest.mark.parametrize("name", ["again", "poisoned", "loaded", *BUCKETED])
def test_training_is_the_same_bit_for_bit(run: Run, name: str) -> None:
    """From run to run, with NaN in the arena before each, saved and loaded; and whatever is sent in one piece, of two alone."""
    trains_the_same(run, name)


def trains_the_same(run: Run, name: str) -> None:
    for rank in range(run.size):
        for part in ("", "/state"):
            first, found = run.of(f"first{part}", rank), run.of(f"{name}{part}", rank)
            assert first.keys() == found.keys()
            for key, array in first.items():
                if name.startswith("buckets") and run.size > 2:  # gloo adds up a ring's chunks in another order
                    np.testing.assert_allclose(found[key], array, 2e-5, 2e-6, err_msg=f"{key} of process {rank}")
                else:
                    assert np.array_equal(found[key], array), f"{key} of process {rank}"


def test_buckets_hold_what_they_may(run: Run) -> None:
    has_buckets(run)


def has_buckets(run: Run) -> None:
    for rank in range(run.size):
        facts = run.facts[rank]
        alone, small, all_in_one = (facts[f"messages of {size}"] for size in ranks.BUCKETS)
        assert all(len(m) == 1 for m in alone) and len(alone) == 9, "eight gradients and the loss"
        assert len(all_in_one) == 2 and sorted(sum(all_in_one, [])) == sorted(sum(alone, []))
        assert all(len(m) == 1 or sum(m) <= 1 << 10 for m in small) and len(all_in_one) < len(small) <= len(alone)
        assert "is sent with" in facts["explained"]
        filters = [types for types in facts["orders of 0"] if types[0].startswith("f32[16,8,5,5]")]
        assert len(filters) == 1 and len({t.partition("@")[0] for t in filters[0]}) == 1, "a gradient keeps its layout"


def test_one_process_compiles_and_the_others_find_it(run: Run) -> None:
    for rank in range(run.size):
        assert run.facts[rank]["built first"] == run.facts[rank]["built in all"] == (1 if rank == 0 else 0)


def test_programs_of_several_processes_can_be_looked_into(run: Run) -> None:
    for rank in range(run.size):
        facts = run.facts[rank]
        assert facts["check"] == "None" and facts["elapsed"] > 0
        assert any("all_reduce" in title for title in facts["profile"])
        trace = json.loads((run.folder / f"program{rank}.trace.json").read_text())
        assert any("all_reduce" in str(event.get("name")) for event in trace["traceEvents"])


def test_gradients_travel_beside_the_backward_pass(run: Run) -> None:
    """The trace has when each message began, when it was waited for and when it was there, beside the launches."""
    for rank in range(run.size):
        phases = run.facts[rank]["phases"]
        events = json.loads((run.folder / f"small{rank}.trace.json").read_text())["traceEvents"]
        tracks = {event["args"]["name"]: event["tid"] for event in events if event["ph"] == "M"}
        launches = [event for event in events if event["ph"] == "X" and event["tid"] == tracks["launches"]]
        begun = {event["id"]: event["ts"] for event in events if event["ph"] == "b"}
        over = {event["id"]: event["ts"] for event in events if event["ph"] == "e"}
        assert len(launches) == len(phases) and begun.keys() == over.keys()
        assert begun.keys() == {number for number, phase in enumerate(phases) if not phase}
        last = max(number for number, phase in enumerate(phases) if "bwd" in phase)
        early = [number for number in begun if number < last]
        assert early and all(begun[number] <= launches[last]["ts"] for number in early)
        assert any(over[number] >= launches[number + 1]["ts"] + launches[number + 1]["dur"] for number in early)
        awaited = [event for event in events if event["ph"] == "X" and event["tid"] == tracks["waiting"]]
        assert len(awaited) == len(begun) and all(event["dur"] >= 0 for event in awaited)


def test_processes_must_run_one_program(run: Run) -> None:
    for rank in range(run.size):
        told = run.facts[rank]["another graph"]
        assert f"that of process {run.size - 1} differs from that of process 0 first in" in told and "value=2.0" in told
        assert f"is {run.size + 1} processes; torch.distributed has {run.size}" in run.facts[rank]["another mesh"]
        told = run.facts[rank]["another version"]
        assert f"that of process {run.size - 1} differs from that of process 0 first in 'graphrt 0.0', where" in told
        assert "seed 1', where process 0 has 'train with" in run.facts[rank]["another seed"]


def test_four_processes_in_seconds(tmp_path: Path, alone: dict[str, dict[str, np.ndarray]]) -> None:
    """A part of all that: collectives along both axes of a mesh, losses to 1e-5, the same bits again, buckets of each size."""
    run = Run(4, tmp_path, whole=False)
    for build in BUILDS:
        exchanges_what_is_walked(run, build)
    trains_as_one(run, alone, ("first", "float32", 1e-5))
    for name in ("again", *BUCKETED):
        trains_the_same(run, name)
    has_buckets(run)


def test_the_cases_are_many() -> None:
    """Every collective is exchanged in ``ranks.py``."""
    built = [build(mesh)[0] for mesh in (Mesh(dp=2), Mesh(dp=2, tp=2)) for build in (ranks.everything, ranks.places)]
    used = {n.op.name for graph in built for n in graph.nodes if n.op.kind is Kind.COLLECTIVE}
    assert used == {op.name for op in grt.op.REGISTRY.values() if op.kind is Kind.COLLECTIVE}
