"""What ``test_processes.py`` runs in each process of a mesh: ``python ranks.py FOLDER SIZE [part]`` forks SIZE of them.

Graphs are built here for both sides; what a process found is written as RANK.npz (arrays) and RANK.json (everything else).
With ``part`` it is what takes seconds: one mesh, dtype and target, and training with buckets of each size.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forking import forked

import graphrt as grt
from graphrt import Graph, Mesh, Value, nn, optim
from graphrt import ops as F
from graphrt.op import Kind
from graphrt.runtime import processes

STEPS, ROWS = 5, 16  # of training; rows of the whole batch
MESHES = {2: [Mesh(dp=2)], 4: [Mesh(dp=2, tp=2), Mesh(dp=4)]}  # by the number of processes
DTYPES, TARGETS = ("float32", "bfloat16", "int64", "float64"), ("cpu", "reference")
BUCKETS = (0, 1 << 10, 1 << 30)  # bytes
Worlds = dict[str, np.ndarray]  # inputs of all processes: the dimensions of the mesh, then those of each one's array


def numbers(mesh: Mesh, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Eighths, of which few sums are rounded, another for each process."""
    return np.random.default_rng(seed).integers(-24, 24, (*mesh.axes.values(), *shape)) / 8


@dataclass(frozen=True)
class Scope:
    """How much is exchanged: on which meshes and targets, in which dtypes."""

    meshes: Sequence[Mesh]
    targets: Sequence[str] = TARGETS
    dtypes: Sequence[str] = DTYPES


def scope(size: int, whole: bool) -> Scope:
    return Scope(MESHES[size]) if whole else Scope(MESHES[size][:1], TARGETS[:1], DTYPES[:1])


def everything(mesh: Mesh, dtypes: Sequence[str] = DTYPES) -> tuple[Graph, Worlds]:
    """Every collective along every axis in several dtypes, on operands of every kind."""
    graph, worlds = Graph(mesh=mesh), Worlds()
    for axis, size in mesh.axes.items():
        for seed, dtype in enumerate(dtypes):

            def given(what: str, *shape: int, axis: str = axis, dtype: str = dtype, seed: int = seed) -> Value:
                name = f"{axis}.{dtype}.{what}"
                worlds[name] = numbers(mesh, shape, seed + len(worlds)) * (8 if dtype == "int64" else 1)
                return graph.input(name, shape, dtype, varying=list(mesh.axes))

            def told(what: str, y: Value, axis: str = axis, dtype: str = dtype) -> None:
                graph.output(f"{axis}.{dtype}.{what}", y)

            x, y = given("x", 2 * size, 3, size), given("y", 5, 7)
            for op in ("sum", "max", "min", *(["mean"] if dtype != "int64" else [])):
                told(op, F.all_reduce(x, axis, op))
            told("gather", F.all_gather(y, axis, 1))
            told("gather same", F.all_gather(y, axis, 0, varying=False) + 1)
            told("scatter", F.reduce_scatter(x, axis, 2))
            told("to all", F.all_to_all(x, axis, 0, 1))
            told("to all back", F.all_to_all(x, axis, 2, 2))
            told("ring", F.ppermute(y, axis, [(i, (i + 1) % size) for i in range(size)]))
            told("one sends", F.ppermute(y, axis, [(size - 1, 0)]))
            told("from the last", F.broadcast_from(y, axis, size - 1))
            told("own part", F.shard(x, axis, 2))
            told("computed", F.all_reduce(F.relu(y * 2 - 1), axis) * 3)
        told("index", F.axis_index(graph, axis))
    return graph, worlds


def places(mesh: Mesh, _: Sequence[str] = ()) -> tuple[Graph, Worlds]:
    """Operands and results of an ``all_reduce`` that lie anywhere: views, state, results of two names, returned and updated."""
    graph, worlds, axis = Graph(mesh=mesh), {"x": numbers(mesh, (4, 6), 1)}, next(iter(mesh.axes))
    x = graph.input("x", (4, 6), varying=list(mesh.axes))
    p = graph.parameter("p", np.arange(24, dtype=np.float32).reshape(4, 6), varying=list(mesh.axes))
    q = graph.parameter("q", np.ones((4, 6), np.float32), varying=[a for a in mesh.axes if a != axis])

    def told(name: str, y: Value) -> Value:
        return graph.output(name, y)

    total = told("of an input", F.all_reduce(x, axis))
    told("the same again", total)
    told("of a transposed one", F.all_reduce(F.permute(x, (1, 0)), axis))
    told("of a slice", F.all_reduce(x[1:3, 2:], axis))
    told("of a row", F.all_reduce(x[2], axis) + 1)
    told("of a broadcast one", F.all_reduce(F.expand(x[:, :1], (4, 6)), axis))
    told("of a parameter", F.all_reduce(p, axis))
    told("of a constant", F.all_reduce(F.pvary(graph.constant(np.arange(5, dtype=np.float32)), axis), axis))
    told("of a number", F.all_reduce(F.pvary(graph.constant(2.0), axis), axis))
    told("of indices", F.all_reduce(F.pvary(F.arange(graph, 4), axis), axis))
    y = F.exp(x * 0.125)
    told("its operand too", y)
    told("of what is returned", F.all_reduce(y, axis))
    told("of a sum", F.all_reduce(F.sum(x, 1), axis))
    told("of a sum of it", F.all_reduce(F.sum(F.all_reduce(x * y, axis) * x, 0), axis))
    told("seen otherwise", F.permute(F.all_reduce(x * 3, axis), (1, 0)))
    told("nothing", F.all_reduce(x[:, :0], axis))
    told("gathered and seen", F.permute(F.all_gather(x * 2, axis, 1), (1, 0)))
    graph.update(q, told("returned and kept", F.all_reduce(x * 0.5 + q, axis)))
    graph.update(p, F.ppermute(p, axis, [(0, 1), (1, 0)]) + 1)
    return graph, worlds


def lenet(mesh: Mesh | None, rows: int, dtype: str = "float32") -> Graph:
    """A training step with momentum of a network of LeNet's size; its images, ``rows`` in each process, lie channels-last."""
    graph, rng = Graph(mesh), np.random.default_rng(0)
    varying = [] if mesh is None else list(mesh.axes)
    x = graph.input("x", (rows, 3, 16, 16), varying=varying)
    target = graph.input("target", (rows,), "int64", varying=varying)

    def weight(name: str, *shape: int) -> Value:
        return graph.parameter(name, (rng.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32))

    with graph.autocast(enabled=dtype == "bfloat16"):
        h = F.avg_pool2d(F.tanh(F.conv2d(x, weight("k1", 8, 3, 5, 5), weight("b1", 8), padding=2)), 2)
        h = F.avg_pool2d(F.tanh(F.conv2d(h, weight("k2", 16, 8, 5, 5), weight("b2", 16))), 2)
        h = F.tanh(F.linear(F.flatten(h, 1), weight("w1", 84, 64), weight("c1", 84)))
        loss = F.cross_entropy(F.linear(h, weight("w2", 10, 84), weight("c2", 10)), target)
    for axis in varying:
        loss = F.all_reduce(loss, axis, "mean")
    graph.output("loss", loss)
    parameters = graph.parameters()
    gradients = grt.grad(loss, parameters)
    graph.output("norm", F.sqrt(sum((F.sum(g * g) for g in gradients), start=graph.constant(0.0))))
    with graph.phase("opt"):
        for p, g in zip(parameters, gradients, strict=True):
            momentum = graph.parameter(f"{p.name}.momentum", shape=p.shape, trainable=False)
            velocity = momentum * 0.9 + g
            graph.update(momentum, velocity)
            graph.update(p, p - velocity * 0.05)
    return graph


def batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [
        {"x": rng.standard_normal((ROWS, 3, 16, 16)).astype(np.float32), "target": rng.integers(0, 10, ROWS)}
        for _ in range(STEPS)
    ]


class Found:
    """What this process has to say: ``arrays`` and ``facts``."""

    def __init__(self, rank: int, size: int, whole: bool = True) -> None:
        self.rank, self.size, self.scope = rank, size, scope(size, whole)
        self.arrays, self.facts = dict[str, np.ndarray](), dict[str, Any]()

    def add(self, name: str, arrays: Mapping[str, Any]) -> None:
        for key, array in arrays.items():
            array = np.array(array)  # state goes on
            self.facts[f"{name}/{key} is"] = array.dtype.name
            self.arrays[f"{name}/{key}"] = array.astype(np.float32) if array.dtype.name == "bfloat16" else array

    def write(self, folder: Path) -> None:
        np.savez(folder / f"{self.rank}.npz", **self.arrays)
        (folder / f"{self.rank}.json").write_text(json.dumps(self.facts))

    def own(self, mesh: Mesh, graph: Graph, worlds: Worlds) -> dict[str, np.ndarray]:
        """This process's inputs, in their dtypes."""
        at = tuple(mesh.coordinates(self.rank).values())
        return {name: world[at].astype(graph.sources[name].types[0].dtype.numpy) for name, world in worlds.items()}

    def part(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = ROWS // self.size
        return {name: array[rows * self.rank : rows * (self.rank + 1)] for name, array in batch.items()}

    def trained(self, name: str, program: Any) -> None:
        """Losses and norms of STEPS steps of ``program`` on its part of the batches, and the state behind them."""
        results = [program(self.part(batch)) for batch in batches()]
        self.add(name, {k: np.stack([r[k] for r in results]) for k in ("loss", "norm")})
        self.add(f"{name}/state", dict(program.state))


def collectives(found: Found) -> None:
    for mesh in found.scope.meshes:
        for build in (everything, places):
            for target in found.scope.targets:
                graph, worlds = build(mesh, found.scope.dtypes)
                program = grt.compile(graph, target=target)
                for turn in range(2):
                    name = f"{build.__name__}/{mesh}/{target}/{turn}"
                    found.add(name, program(found.own(mesh, graph, worlds)))
                    found.add(f"{name}/state", dict(program.state))


def training(found: Found) -> None:
    """One program, another compilation of it, and buckets of each size."""
    import graphrt.targets.cpu.target as cpu

    built, build = list[str](), cpu.build
    cpu.build = lambda *args, **kwargs: (built.append("object"), build(*args, **kwargs))[1]
    mesh = Mesh(dp=found.size)
    graph = lenet(mesh, ROWS // found.size)
    program = grt.compile(graph, target="cpu")
    found.facts["built first"] = len(built)
    again = grt.compile(lenet(mesh, ROWS // found.size), target="cpu")
    found.facts["built in all"] = len(built)
    found.trained("first", program)
    found.trained("again", again)
    for size in BUCKETS:
        bucketed = grt.compile(lenet(mesh, ROWS // found.size), target="cpu", bucket_bytes=size)
        found.trained(f"buckets of {size}", bucketed)
        sums = [n for n in bucketed.graph.nodes if n.op.name == "all_reduce"]
        found.facts[f"messages of {size}"] = [[v.type.nbytes for v in n.inputs] for n in sums]
        found.facts[f"orders of {size}"] = [[str(v.type) for v in (*n.inputs, *n.outputs)] for n in sums]
    found.facts["explained"] = str(bucketed.explain().full())


def training_otherwise(found: Found) -> None:
    """What may not change its results: NaN in the arena, halves, a folder."""
    mesh = Mesh(dp=found.size)
    os.environ["GRAPHRT_POISON"] = "1"
    found.trained("poisoned", grt.compile(lenet(mesh, ROWS // found.size), target="cpu"))
    os.environ["GRAPHRT_POISON"] = "0"
    half = grt.compile(lenet(mesh, ROWS // found.size, "bfloat16"), target="cpu")
    found.trained("bfloat16", half)
    found.trained("sent in halves", grt.compile(lenet(mesh, ROWS // found.size), target="cpu", reduce_dtype="bfloat16"))
    _looked_into(found, lenet(mesh, ROWS // found.size))


def _looked_into(found: Found, graph: Graph) -> None:
    """Programs are profiled, timed, checked, traced, saved and loaded, all processes together."""
    program = grt.compile(graph, target="cpu")
    inputs = found.part(batches()[0])
    found.facts["check"] = str(program.check(inputs))
    profile = program.profile(inputs, runs=1)
    found.facts["profile"] = [launch.name for launch in profile.launches]
    found.facts["elapsed"] = program.elapsed(inputs, runs=1)
    folder = Path(sys.argv[1]) / "program"
    profile.trace(folder.parent / f"program{found.rank}.trace.json")
    small = grt.compile(graph, target="cpu", bucket_bytes=1 << 10)
    found.facts["phases"] = [
        sorted({n.origin.phase for group in launch.groups for n in group.nodes if n.op.kind is not Kind.COLLECTIVE})
        for launch in small.schedule.launches
    ]
    small.profile(inputs, runs=1).trace(folder.parent / f"small{found.rank}.trace.json")
    fresh = grt.compile(graph, target="cpu")
    fresh.save(folder)
    found.trained("loaded", grt.load(folder))


def refused(found: Found) -> None:
    """What all processes are told where one is about to run something else."""
    mesh = Mesh(dp=found.size)
    graph = Graph(mesh=mesh)
    x = graph.input("x", (2,), varying="dp")
    graph.output("y", F.all_reduce(x * (2.0 if found.rank == found.size - 1 else 3.0), "dp"))
    last = found.rank == found.size - 1

    def another_version() -> None:
        with pytest.MonkeyPatch.context() as patch:
            if last:
                patch.setattr(processes, "versions", lambda: "graphrt 0.0")
            grt.compile(lenet(mesh, 2), target="reference")

    def another_seed() -> None:
        trainer = grt.Trainer(nn.Linear(4, 2), nn.MSELoss(), optim.SGD(), target="reference", mesh=mesh, seed=int(last))
        trainer.step(np.ones((4, 4), np.float32), np.ones((4, 2), np.float32))

    for name, call in {
        "another graph": lambda: grt.compile(graph, target="cpu"),
        "another mesh": lambda: grt.compile(lenet(Mesh(dp=found.size + 1), 2), target="cpu"),
        "another version": another_version,
        "another seed": another_seed,
    }.items():
        try:
            call()
        except grt.errors.TargetError as error:
            found.facts[name] = str(error)


CHECKS: list[Callable[[Found], None]] = [collectives, training, training_otherwise, refused]


def run(folder: Path, rank: int, size: int, whole: bool) -> None:
    """Runs every check, or unless ``whole`` the first two, and writes what was found, and a log."""
    import torch.distributed as dist

    log = os.open(folder / f"{rank}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=size)
    found = Found(rank, size, whole)
    for check in CHECKS if whole else CHECKS[:2]:
        check(found)
    found.write(folder)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    where, number, all_of_it = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] != ["part"]
    sys.exit(forked(number, lambda rank: run(where, rank, number, all_of_it)))
