"""The graph fuzzer: random programs, fused, with a part of fusion, and by the float64 reference; what differs is cut down.

``python -m tests.fuzz --minutes 20 --seed 0 --target cpu`` runs until the time is over or a fault is found. A program holds
several disjoint DAGs, because a compile costs more than running them; a fault is looked for in its DAG alone, then nodes
are replaced by inputs and outputs dropped while it stays. What is left is printed; its graph belongs into ``FOUND`` of
``tests/test_fusion.py``, which every run of the tests tries again. At the end there is a table of what was fused with what, at
which stage, and how often.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("GRAPHRT_CHECK", "1")
os.environ.setdefault("GRAPHRT_POISON", "1")
os.environ.setdefault("GRAPHRT_KNOWN", "0")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import typer
from strategies import KINDS, Builder, Numbers, apart, draw, epsilon

import graphrt as grt
from graphrt import Value
from graphrt.op import Kind
from graphrt.passes.rewrite import rewrite
from graphrt.passes.stages import STAGES
from graphrt.targets.cpu.build import pool

CUT = True  # whether a program with a fault is cut down, which takes longer than finding it
SAFETY = 2.0  # a result may differ by so many times what noise of several roundings at each node made of it
Feeds = dict[str, np.ndarray]
fused: Counter[tuple[str, str, str]] = Counter()  # (kind of producer, kind of consumer, stage) of what was fused


@dataclass
class Fault:
    """A result that is wrong, or an error that should not have come: where, and by how much."""

    what: str
    seed: int = 0
    graph: grt.Graph | None = None
    feeds: Feeds = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {n: a for n, a in self.feeds.items() if a.size <= 12}
        return f"seed {self.seed}: {self.what}\n{self.graph or ''}" + "".join(f"{n} = {a!r}\n" for n, a in shown.items())


def switch(seed: int) -> str:
    """The value of compile's ``fusion`` beside which the program of ``seed`` is held: none, all but some stages, or some."""
    rng = np.random.default_rng(seed)
    some = [str(s) for s in rng.permutation(list(STAGES))[: rng.integers(1, 6)]]
    return ["none", ",".join(f"-{s}" for s in some), ",".join(some)][seed % 3]


def run(graph: grt.Graph, feeds: Feeds, target: str, fusion: str) -> dict[str, np.ndarray]:
    """Outputs by name and new parameters as ``update NAME``."""
    program = grt.compile(graph, target=target, fusion=fusion)
    outputs = program({n: a for n, a in feeds.items() if n in program.inputs})
    if program.schedule is not None and fusion == "all":
        kinds = {n.name: n.op.kind.name.lower() for n in program.graph.nodes}
        place = {name: i for i, name in enumerate(kinds)}
        for d in program.decisions:
            if d.taken and d.fuses and d.node in kinds and d.other in kinds:
                first, second = sorted((d.node, d.other), key=place.__getitem__)
                fused[kinds[first], kinds[second], d.stage] += 1
    return {**outputs, **{f"update {n}": np.array(program.state[n]) for n in graph.updates}}


def results(graph: grt.Graph) -> dict[str, Value]:
    return {**graph.outputs, **{f"update {n}": v for n, v in graph.updates.items()}}


def tolerances(numbers: Numbers, v: Value) -> np.ndarray:
    """What each element of ``v`` may differ by from the exact one: nothing, where that is infinite or NaN."""
    if not v.dtype.is_float:
        return np.zeros(v.shape)
    size = np.abs(numbers.exact(v))
    return np.where(np.isfinite(size), SAFETY * (numbers.spread(v) + epsilon(v.dtype) * size) + 1e-37, 0.0)


def differences(graph: grt.Graph, feeds: Feeds, numbers: Numbers, target: str, beside: str = "") -> dict[str, str]:
    """What is wrong with ``graph`` on ``target``, by the name of the result; an error is the result "compile".

    It is compiled as usual, and with the switch of fusion ``beside`` if that is given.
    """
    found: dict[str, str] = {}
    try:
        usual = run(graph, feeds, target, "all")
        other = run(graph, feeds, target, beside) if beside else {}
    except Exception as error:  # whatever it is, a graph that was built must compile and run
        return {"compile": f"{type(error).__name__}: {str(error)[-2000:]}"}
    for name, v in results(graph).items():
        exact, allowed = numbers.exact(v), tolerances(numbers, v)
        pairs = {"fused": (usual[name], exact, allowed)}
        if beside:
            pairs[f"with fusion {beside}"] = other[name], exact, allowed
            both = f"fused against fusion {beside}"
            pairs[both] = usual[name], _wide(other[name], v), 2 * allowed  # each may err by that much
        for what, (got, wanted, most) in pairs.items():
            if got.shape != v.shape or got.dtype != v.dtype.numpy:
                found[name] = f"{what} {name} is {got.dtype}{list(got.shape)}, not {v.type}"
            elif not (error := apart(_wide(got, v), wanted) <= most).all():
                at = np.unravel_index(int(np.argmin(error)), error.shape)
                found[name] = f"{what} {name}{list(map(int, at))} is {got[at]!r}, not {wanted[at]!r} (within {most[at]:.3g})"
    return found


def _wide(array: np.ndarray, v: Value) -> np.ndarray:
    return array.astype(np.float64 if v.dtype.is_float else np.int64 if v.dtype.is_bool else object)


# --- cutting down ----------------------------------------------------------------------------------------------------


def restricted(graph: grt.Graph, keep: Callable[[str], bool]) -> grt.Graph:
    """A copy of ``graph`` with the results whose names ``keep`` holds for, and no more nodes than they need."""
    names = {name for name in results(graph) if keep(name)}
    new = rewrite(graph, lambda node: None)
    new.outputs = {n: v for n, v in new.outputs.items() if n in names}
    new.updates = {n: v for n, v in new.updates.items() if f"update {n}" in names}
    return _pruned(new)


def _pruned(graph: grt.Graph) -> grt.Graph:
    live = {v.node for v in graph.results()} | {graph.sources[n] for n in graph.updates}
    for node in reversed(graph.nodes):
        if node in live:
            live.update(v.node for v in node.inputs)
    new = rewrite(graph, lambda node: None, live)
    new.initial = {n: a for n, a in new.initial.items() if n in new.sources}
    return new


def _ending_at(graph: grt.Graph, number: int) -> grt.Graph:
    """``graph`` with node ``number`` as its only output."""
    new = rewrite(graph, lambda node: None)
    new.outputs, new.updates = {f"y{i}": v for i, v in enumerate(new.nodes[number].outputs)}, {}
    return _pruned(new)


def _cut(graph: grt.Graph, feeds: Feeds, number: int) -> tuple[grt.Graph, Feeds]:
    """``graph`` with node ``number`` replaced by inputs that hold what it computed."""
    old = graph.nodes[number]
    numbers = Numbers(graph, feeds)
    numbers.extend()
    more = {f"cut.{old.name}.{i}": numbers.exact(v).astype(v.dtype.numpy) for i, v in enumerate(old.outputs)}

    def rule(node: grt.Node) -> Any:
        if node.name != old.name:
            return None
        return [node.graph.input(n, a.shape, a.dtype) for n, a in more.items()]

    return _pruned(rewrite(graph, rule)), {**feeds, **more}


def shrink(graph: grt.Graph, feeds: Feeds, fails: Callable[[grt.Graph, Feeds], bool]) -> tuple[grt.Graph, Feeds]:
    """A graph that still ``fails``, from which no result and no node can be taken."""

    def candidates() -> Iterator[tuple[grt.Graph, Feeds]]:
        names = list(results(graph))
        if len(names) > 1:
            for name in names:
                yield restricted(graph, lambda n, one=name: n == one), feeds
            for name in names:
                yield restricted(graph, lambda n, one=name: n != one), feeds
        computed = [i for i, n in enumerate(graph.nodes) if n.op.kind is not Kind.SOURCE]
        for i in computed[:-1]:
            yield _ending_at(graph, i), feeds
        for i in reversed(computed[:-1]):
            yield _cut(graph, feeds, i)

    progress = True
    while progress:
        progress = False
        size = _size(graph)
        for smaller, more in candidates():
            if smaller.results() and _size(smaller) < size and fails(smaller, more):
                graph, feeds, progress = smaller, more, True
                break
    return graph, {n: a for n, a in {**graph.initial, **feeds}.items() if n in graph.sources}


def _size(graph: grt.Graph) -> tuple[int, int]:
    return sum(n.op.kind is not Kind.SOURCE for n in graph.nodes), len(graph.nodes) + len(results(graph))


# --- fuzzing ---------------------------------------------------------------------------------------------------------


def fuzz(
    seed: int,
    target: str,
    dags: int = 10,
    largest: int = 400,
    beside: str = "",
    kind: type[Builder] = Builder,
) -> tuple[Fault | None, int]:
    """Draws the program of ``seed`` and checks it: the first fault, cut down, and how many nodes the program has.

    ``beside`` is a switch of fusion.
    """
    builder = draw(seed, dags, largest, kind)
    graph, feeds, numbers = builder.graph, builder.feeds, builder.numbers
    found = differences(graph, feeds, numbers, target, beside)
    if not found:
        escaped = Fault(f"not a GraphrtError: {builder.escaped[0]}", seed) if builder.escaped else None
        return escaped, len(graph.nodes)
    what = next(iter(found.values()))
    if not CUT:
        return Fault(what, seed, graph), len(graph.nodes)
    print(f"seed {seed}: {what}; cutting it down", file=sys.stderr, flush=True)  # which may take minutes
    kind = what.split(":")[0] if "compile" in found else ""

    def fails(graph: grt.Graph, feeds: Feeds) -> bool:
        numbers = Numbers(graph, feeds)
        numbers.extend()
        if not all(map(numbers.tame, graph.results())):
            return False
        found = differences(graph, feeds, numbers, target, beside)
        return found.get("compile", "").startswith(kind) if kind else bool(found) and "compile" not in found

    for i in range(dags):
        alone = restricted(graph, lambda n, i=i: f"d{i}." in n)
        if alone.results() and fails(alone, feeds):
            graph = alone
            break
    graph, feeds = shrink(graph, feeds, fails)
    numbers = Numbers(graph, feeds)
    numbers.extend()
    found = differences(graph, feeds, numbers, target, beside)
    return Fault(next(iter(found.values()), what), seed, graph, feeds), len(graph.nodes)


def table() -> str:
    """What was fused with what: a line for each pair of kinds, with the stages at which that happened."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for (first, second, stage), count in sorted(fused.items()):
        pairs.setdefault((first, second), []).append(f"{stage} {count}")
    return "\n".join(f"{first:>14} {second:14} {', '.join(stages)}" for (first, second), stages in pairs.items())


def main(
    minutes: Annotated[float, typer.Option(help="how long")] = 1.0,
    graphs: Annotated[int, typer.Option(help="how many, instead of how long")] = 0,
    seed: Annotated[int, typer.Option(help="of the first program; the next has the next")] = 0,
    target: Annotated[str, typer.Option(help="cpu, interpret, reference or cuda")] = "cpu",
    dags: Annotated[int, typer.Option(min=1, help="DAGs in a program")] = 10,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}; by turns when left out")] = "",
    keep_going: Annotated[bool, typer.Option(help="look for more faults after the first")] = False,
) -> None:
    """Fuzzes TARGET with random graphs; exit status 1 when a fault was found."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    faulthandler.enable()
    start, faults, drawn, nodes = time.monotonic(), 0, 0, 0
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns) as bar:
        task = bar.add_task("", total=graphs or 60 * minutes)
        while (done := drawn if graphs else time.monotonic() - start) < (graphs or 60 * minutes):
            bar.update(task, completed=done, description=f"seed {seed}  {drawn} graphs  {nodes} nodes  {faults} faults")
            largest = 48 if target == "interpret" else 400
            if target == "cpu":
                pool().grt_set_threads(1 + seed % 5)
            builder = KINDS[kind] if kind else list(KINDS.values())[seed % len(KINDS)]
            fault, size = fuzz(seed, target, dags, largest, switch(seed) if target != "reference" else "", builder)
            drawn, nodes, seed = drawn + dags, nodes + size, seed + 1
            if fault is not None:
                faults += 1
                bar.console.print(str(fault), markup=False, highlight=False, soft_wrap=True)
                if not keep_going:
                    break
    print(f"{table()}\n{drawn} graphs, {nodes} nodes, {faults} faults on {target}; the next seed is {seed}")
    raise SystemExit(int(faults > 0))


if __name__ == "__main__":
    if "interpret" in sys.argv:
        os.environ["TRITON_INTERPRET"] = "1"
    typer.run(main)
