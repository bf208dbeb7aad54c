"""What ``test_device_collectives.py`` runs in processes of their own.

python device_ranks.py plan RANK             the launches of two programs on the null driver, as one of torch's fake processes
python device_ranks.py run FOLDER            two processes, which run collectives in Triton's interpreter and as the reference
python device_ranks.py train FOLDER TARGET   two processes, of which each trains; of target cuda each on a GPU of its own
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import ranks
from forking import forked

import graphrt as grt
from graphrt import Graph, Mesh
from graphrt import ops as F

SIZE, ROWS, STEPS = 2, 4, 3


def step(mesh: Mesh | None, rows: int = ROWS) -> Graph:
    """A training step of three layers, of which each process has ``rows`` examples."""
    graph, rng = Graph(mesh), np.random.default_rng(0)
    h = graph.input("x", (rows, 16), varying="dp" if mesh else ())
    for i in range(3):
        h = F.tanh(F.linear(h, graph.parameter(f"w{i}", (rng.standard_normal((16, 16)) / 4).astype(np.float32))))
    loss = F.mean(h * h)
    graph.output("loss", F.all_reduce(loss, "dp", "mean") if mesh else loss)
    parameters = graph.parameters()
    for p, g in zip(parameters, grt.grad(graph.outputs["loss"], parameters), strict=True):
        graph.update(p, p - g * 0.1)
    return graph


def examples(number: int) -> np.ndarray:
    """All examples of a step."""
    return np.random.default_rng(number).standard_normal((ROWS * SIZE, 16)).astype(np.float32)


def plan(rank: int) -> dict[str, Any]:
    """The image of each program, what the null driver was asked to do in its first runs, and of one loaded from a folder."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from graphrt.targets.triton.null import driver

    dist.init_process_group("fake", rank=rank, world_size=SIZE, store=FakeStore())
    null, found = driver("cuda:sm_90"), dict[str, Any]()
    for name, size in (("apart", 0), ("together", 1 << 20)):
        program = grt.compile(step(Mesh(dp=SIZE)), target="null", bucket_bytes=size)
        found[name] = {"image": described(program)} | {"log": [], "again": []}
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / "saved")
            if rank == 0:  # which writes it
                assert described(grt.load(Path(folder) / "saved", target="null")) == found[name]["image"]
        for turn in ("log", "again"):
            with null.recorded() as log:
                program(x=examples(0)[:ROWS])
            found[name][turn] = [[event.kind, event.name] for event in log]
    return found


def described(program: Any) -> dict[str, Any]:
    """The launches of a program: where each has its buffers, and which are collectives on which parts of them."""
    image = program._binary.image
    places = [[[b.space, b.name, b.offset, b.type.nbytes] for b in launch.buffers] for launch in image.launches]
    calls = {}
    for number in image.until:
        call, buffers = image.kernels[image.launches[number].kernel], image.launches[number].buffers
        sides = {"sources": call.sources, "results": call.results}
        size = {side: [int(np.prod(v.shape)) * buffers[v.buffer].type.dtype.itemsize for v in vs] for side, vs in sides.items()}
        start = {
            side: [buffers[v.buffer].offset + v.offset * buffers[v.buffer].type.dtype.itemsize for v in vs]
            for side, vs in sides.items()
        }
        calls[str(number)] = {"op": call.op, "until": image.until[number], "start": start, "size": size}
    return {"places": places, "calls": calls, "size": image.size}


def run(folder: Path, rank: int) -> None:
    """Every collective on operands of every kind, twice, in the interpreter and as the reference."""
    mesh, found = Mesh(dp=SIZE), ranks.Found(rank, SIZE)
    for build in (ranks.everything, ranks.places):
        results = dict[str, list[dict[str, np.ndarray]]]()
        for target in ("interpret", "reference"):
            graph, worlds = build(mesh)
            program = grt.compile(graph, target=target)
            results[target] = []
            for _ in range(2):
                given = dict(program(found.own(mesh, graph, worlds)))
                results[target].append({name: np.array(a, np.float64) for name, a in {**given, **program.state}.items()})
        for ours, theirs in zip(*results.values(), strict=True):
            assert ours.keys() == theirs.keys()
            for name, array in ours.items():
                rtol = 1e-2 if "bfloat16" in name else 1e-6
                np.testing.assert_allclose(array, theirs[name], rtol=rtol, atol=rtol, err_msg=name)
    train(folder, rank, "interpret")


def train(folder: Path, rank: int, target: str) -> None:
    """Trains on parts of batches; what is left equals one process's, with sums in one message and in three."""
    alone = grt.compile(step(None, ROWS * SIZE), target="reference")
    programs = [grt.compile(step(Mesh(dp=SIZE)), target=target, bucket_bytes=size) for size in (0, 1 << 20)]
    for number in range(STEPS):
        expected = alone(x=examples(number))["loss"]
        for program in programs:
            loss = program(x=examples(number)[ROWS * rank : ROWS * (rank + 1)])["loss"]
            np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for program in programs:
        for name, array in alone.state.items():
            np.testing.assert_allclose(program.state[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    if target == "cuda":
        assert programs[0]._binary._replay is not None  # one graph, with the collectives in it


def main(what: str, folder: str, *more: str) -> int:
    """Prints the plan, or runs ``what`` in as many processes as the mesh has; 1 if one of them fails."""
    if what == "plan":
        print(json.dumps(plan(int(folder))))
        return 0
    call = {"run": run, "train": train}[what]
    return forked(SIZE, lambda rank: call(Path(folder), rank, *more))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
