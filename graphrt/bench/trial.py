"""One pattern in one process: its variants compiled, checked against the reference, and timed in turns.

``python -m graphrt.bench.trial`` reads a ``Spec`` as JSON and prints what it found as JSON.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from graphrt.bench.least import least_bytes
from graphrt.bench.measure import samples
from graphrt.compiler import compile as compile_graph
from graphrt.ir import Graph
from graphrt.runtime.machine import expected, machine
from graphrt.runtime.program import Program
from graphrt.schedule.cost import launch_cost
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.target import GPUS, names_architecture

AGAIN = "fused again"  # measured beside fused, to see what chance does
COPYING, PRODUCT = "copying", "product"  # measured in the same turns, to see what the machine does meanwhile
SIDE = 512  # rows and columns of that product
TOLERANCE = 5e-3  # of a result's norm: float32 sums in another order, and now and then the other side of a kink


@dataclass(frozen=True)
class Spec:
    """A process's work: ``variants`` are values of compile's ``fusion``, by label; without ``rounds`` nothing is timed.

    Turns end after ``rounds``, or after the pair of them in which ``seconds`` are over.
    """

    pattern: str
    size: str
    backward: bool
    target: str
    variants: Mapping[str, str]
    peers: Sequence[str] = ()
    rounds: int = 9
    calls: int = 3
    check: bool = True
    seconds: float = 600.0


@dataclass
class Found:
    """The findings on one variant; ``seconds`` of single calls, ``same`` the variant whose plan it has.

    ``apart`` says of each launch but the first why no other has it.
    """

    launches: int = 0
    bytes: int = 0
    flops: int = 0
    arena: int = 0
    compile_seconds: float = 0.0
    same: str = ""
    registers: int = 0
    predicted: float = 0.0
    error: float = 0.0
    seconds: list[float] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)


def trial(spec: Spec) -> dict[str, Any]:
    """``least``, the bytes that the pattern cannot but move, and what was found of each variant and peer; ``kernels`` by peer.

    ``failed`` says why, by name, of peers that raise an error, or have no such pattern: they have no other findings.
    ``seen`` are the rates, by name, that the machine reached in the same turns (``_limits``). Raises AssertionError for a
    variant whose results are not the reference's.
    """
    from graphrt.bench.patterns import PATTERNS, graph  # which import torch
    from graphrt.bench.peers import kernels, peer

    pattern = PATTERNS[spec.pattern]
    built, builder = graph(pattern, spec.size, spec.backward)
    feeds = builder.feeds(np.random.default_rng(0))
    variants, programs, plans = dict[str, Found](), dict[str, Program](), dict[str, str]()
    for label, fusion in spec.variants.items():
        start = time.perf_counter()
        program = compile_graph(built, target=spec.target, fusion=fusion)
        variants[label] = found = _plan(program, time.perf_counter() - start)
        digest = hashlib.sha256(program.plan_text().encode()).hexdigest()
        found.same = "" if label == AGAIN or plans.setdefault(digest, label) == label else plans[digest]
        if not found.same:
            programs[label] = program
            if names_architecture(spec.target):
                _ahead(program, found)
    runs = not names_architecture(spec.target)
    if runs and spec.check:
        _check(built, feeds, programs, variants)
    calls, failed = dict[str, Callable[[], Any] | None](), dict[str, str]()
    if runs:
        calls |= {label: _call(program, feeds) for label, program in programs.items()}
        device = _device(next(iter(programs.values())))
        makes = {name: functools.partial(peer, pattern, builder, feeds, spec.backward, name, device) for name in spec.peers}
        calls |= {name: _tried(name, functools.partial(_warmed, make), failed) for name, make in makes.items()}
        failed |= {name: "has no such pattern" for name in spec.peers if calls[name] is None and name not in failed}
        calls |= _limits(variants["fused"].bytes, spec.target)
    compiled = calls.get("torch.compile") if spec.check else None
    counted = _tried("torch.compile", functools.partial(kernels, compiled), failed) if compiled is not None else None
    launched = {"torch.compile": counted} if counted is not None else {}
    times = samples(calls, spec.rounds, spec.calls, 0.005, spec.seconds) if calls and spec.rounds else {}
    peers = {name: times.get(name, []) for name in spec.peers if calls.get(name) is not None}
    for label, found in variants.items():
        found.seconds = times.get(found.same or label, [])
    return {
        "least": least_bytes(built),
        "variants": {n: asdict(f) for n, f in variants.items()},
        "peers": peers,
        "kernels": launched,
        "failed": failed,
        "seen": _seen(variants["fused"].bytes, times),
    }


def _warmed(make: Callable[[], Callable[[], Any] | None]) -> Callable[[], Any] | None:
    """The call of a peer that ``make`` makes, called once."""
    call = make()
    if call is not None:
        call()
    return call


def _tried(name: str, make: Callable[[], Any], failed: dict[str, str]) -> Any:
    """The result of ``make``, which asks the peer ``name``; None if it raises an error, and why in ``failed``."""
    try:
        return make()
    except Exception as error:  # whatever a library, or its compiler, raises
        failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
        return None


def _plan(program: Program, seconds: float) -> Found:
    costs = [launch_cost(kernels) for kernels in program.kernel_ir]
    arena = program.plan.size if program.plan else 0
    moved, flops = sum(c.bytes for c in costs), sum(c.flops for c in costs)
    apart, device = [str(d) for d in program.explain().apart()], program.device()
    predicted = sum(expected(c, device)[0] for c in costs) if device is not None else 0.0
    return Found(program.launches, moved, flops, arena, seconds, predicted=predicted, apart=apart)


def _ahead(program: Program, found: Found) -> None:
    """The findings on a program for a GPU that is not here."""
    from graphrt.runtime.machine import find_data_sheet
    from graphrt.runtime.roofline import predict

    found.registers = max((r.registers for r in program.kernels()), default=0)
    found.predicted = predict(program, find_data_sheet(program.target), 1, compiled=True).seconds


def _check(built: Graph, feeds: Mapping[str, Any], programs: Mapping[str, Program], variants: Mapping[str, Found]) -> None:
    exact = evaluate(built, {**built.initial, **feeds})
    for label, program in programs.items():
        found: dict[str, Any] = program(dict(feeds))
        found |= {f"update {name}": program.state[name] for name in built.updates}
        for name, v in [*built.outputs.items(), *((f"update {name}", v) for name, v in built.updates.items())]:
            got, want = np.asarray(found[name], np.float64), np.asarray(exact[v], np.float64)
            error = float(np.linalg.norm(got - want)) / max(float(np.linalg.norm(want)), 1e-6)
            variants[label].error = max(variants[label].error, error)
            assert error <= TOLERANCE, f"{label}: {name} is off by {error:.1e} of its norm"


def _call(program: Program, feeds: Mapping[str, Any]) -> Callable[[], Any]:
    given = {name: array for name, array in feeds.items() if name in program.inputs}
    if _device(program) == "cuda":
        import torch

        tensors = {name: torch.as_tensor(array, device="cuda") for name, array in given.items()}

        def on_device() -> None:
            program(tensors)
            torch.cuda.synchronize()

        return on_device
    return lambda: program(given)


def _device(program: Program) -> str:
    """The device of torch that ``program`` runs on."""
    return "cuda" if program.target.partition(":")[0] in GPUS else "cpu"


def _limits(moved: int, target: str) -> dict[str, Callable[[], Any]]:
    """Programs that do nothing but move ``moved`` bytes, half of them read, and nothing but multiply, on ``target``.

    What is as large as the pattern lies in the same caches.
    """
    copy, product, size = Graph(), Graph(), max(moved // 8, 1)
    copy.update(copy.parameter("y", shape=(size,), trainable=False), copy.input("x", (size,)))
    product.output("c", product.input("a", (SIDE, SIDE)) @ product.input("b", (SIDE, SIDE)))
    square = np.ones((SIDE, SIDE), np.float32)
    return {
        COPYING: _call(compile_graph(copy, target=target), {"x": np.ones(size, np.float32)}),
        PRODUCT: _call(compile_graph(product, target=target), {"a": square, "b": square}),
    }


def _seen(moved: int, times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The rates of the fastest calls of ``_limits``, as ``seen`` has them; empty where nothing was timed."""
    if not times:
        return {}
    copying, product = (min(times[name]) for name in (COPYING, PRODUCT))
    return {"gbs": moved / copying / 1e9, "gflops": 2 * SIDE**3 / product / 1e9}


def seen() -> dict[str, float]:
    """The rates that this machine was seen to reach: GB/s of copying, GFLOP/s of a float32 product."""
    found = machine()
    return {"gbs": 1e3 * found.memory, "gflops": 1e3 * found.float32}


def main() -> None:
    """Runs the spec on standard input; ``{}`` measures the machine."""
    given = json.load(sys.stdin)
    print(json.dumps(trial(Spec(**given)) if given else seen()))


if __name__ == "__main__":
    main()
