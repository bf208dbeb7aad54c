"""Is the machine what it should be, and are results right? The steps of bench.gpu that come before all measuring."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import graphrt
import graphrt.ops as F
from bench.gpu_parts import Row, Settings, clocked, switched, theirs
from graphrt import Graph, models, nn, optim
from graphrt.targets.reference.evaluate import evaluate

SHOWN = 5  # failures that are rows of their own
WORKERS = 8
# The files whose tests ask most of kernels: to import all of them takes a third of the step's minute.
FILES = (
    "gpu_runtime",
    "ops",
    "gates",
    "extremum",
    "scalar",
    "rounding",
    "segments",
    "long_sums",
    "combinations",
    "half_copies",
)
FILES += ("library", "tuning", "pooling", "rows", "optim")
_ROOT = Path(__file__).parent.parent


def machine(settings: Settings) -> Iterator[Row]:
    """Driver, versions and commit; what the memory moves in a copy, and cuBLAS computes: the ceilings of all that follows."""
    part = "machine"
    yield Row(
        part, "driver", note=_said("nvidia-smi", "--query-gpu=name,driver_version,power.limit,clocks.max.sm", "--format=csv")
    )
    yield Row(part, "commit", note=_said("git", "log", "-1", "--format=%h %cs"))
    moved, n = (1 << 16, 64) if settings.dry else (1 << 30, 4096)
    source = torch.ones(moved // 8, device=settings.device)
    target = torch.zeros_like(source)
    a, b = (torch.randn(n, n, device=settings.device, dtype=torch.bfloat16) for _ in range(2))
    clocks = {"copy": lambda: target.copy_(source), "cuBLAS": lambda: a @ b}
    ms = {name: t.median for name, t in clocked({k: theirs(c, settings) for k, c in clocks.items()}, settings).items()}
    yield Row(part, "copy", moved / ms["copy"] / 1e6 if ms["copy"] else 0.0, "GB/s")
    yield Row(part, "cuBLAS 4096 bfloat16", 2 * n**3 / ms["cuBLAS"] / 1e9 if ms["cuBLAS"] else 0.0, "TFLOP/s")


def _said(*command: str) -> str:
    """The last line that a command prints, or that it is not there."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or [f"{command[0]} says nothing"])[-1]


# --- a few kernels of each kind beside the reference --------------------------------------------------------------------


def lenet() -> tuple[Graph, dict[str, Any]]:
    """A step of LeNet-5: templates, closures, updates in place."""
    trainer = graphrt.Trainer(models.get("lenet5").build(), nn.CrossEntropyLoss(), optim.SGD(lr=0.1, momentum=0.9), metrics=())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 1, 32, 32)).astype(np.float32), rng.integers(0, 10, 8)
    return trainer.training_graph((x.shape, "float32"), (y.shape, "int64")), {"x": x, "y": y, "lr": 0.1}


def block() -> tuple[Graph, dict[str, Any]]:
    """Convolution, batch norm and ReLU, forward and backward: sums of tiles' runs, and what finishes them."""
    net = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 4)
    )
    trainer = graphrt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.1), metrics=())
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 16, 8, 8)).astype(np.float32), rng.integers(0, 4, 16)
    return trainer.training_graph((x.shape, "float32"), (y.shape, "int64")), {"x": x, "y": y, "lr": 0.1}


def descriptor() -> tuple[Graph, dict[str, Any]]:
    """A convolution that reads through tensor descriptors."""
    rng = np.random.default_rng(0)
    g, feeds = Graph(), {"x": rng.standard_normal((4, 64, 14, 14)).astype(np.float32)}
    w = g.parameter("w", (rng.standard_normal((64, 64, 3, 3)) / 24).astype(np.float32))
    x = g.input("x", feeds["x"].shape, order=(0, 2, 3, 1))
    halves = (F.cast(v, "bfloat16") for v in (x, w))
    g.output("y", F.cast(F.conv2d(*halves, padding=1), "float32"))
    return g, feeds


def divided() -> tuple[Graph, dict[str, Any]]:
    """Quotients whose floor jumps where they are rounded the wrong way."""
    a, b = (v.reshape(-1).astype(np.float32) for v in np.meshgrid(np.arange(-300, 300), np.arange(1, 100)))
    g = Graph()
    x, y = g.input("x", a.shape), g.input("y", b.shape)
    g.output("quotient", F.floor_divide(x, y))
    g.output("remainder", F.remainder(x, y))
    return g, {"x": a, "y": b}


class Kind(NamedTuple):
    """A graph with its inputs, the relative error that is allowed, and a flag of graphrt's to compile it with."""

    make: Callable[[], tuple[Graph, dict[str, Any]]]
    allowed: float
    flag: str = ""


KINDS = {
    "LeNet-5 step": Kind(lenet, 1e-4),
    "LeNet-5 step, dependent launches": Kind(lenet, 1e-4, "GRAPHRT_PDL"),
    "LeNet-5 step, joined launches": Kind(lenet, 1e-4, "GRAPHRT_PERSISTENT"),
    "batch norm block": Kind(block, 1e-3),
    "convolution by descriptors": Kind(descriptor, 2e-2, "GRAPHRT_TMA"),
    "floor_divide and remainder": Kind(divided, 0.0),
}


def kinds(settings: Settings) -> Iterator[Row]:
    """Each kind's largest relative error beside the reference, of an eager run and of two replayed ones, state included."""
    part = "results"
    for name, (make, allowed, flag) in KINDS.items():
        graph, feeds = make()
        with switched(flag):
            program = graphrt.compile(graph, target=settings.target)
        state, worst = dict(graph.initial), 0.0
        for _ in range(1 if settings.dry else 3):
            found = program(feeds)
            if settings.dry:
                continue
            expected = evaluate(graph, {**state, **feeds})
            state |= {n: expected[v] for n, v in graph.updates.items()}
            pairs = [(found[n], expected[v]) for n, v in graph.outputs.items()]
            pairs += [(program.state[n], state[n]) for n in graph.updates]
            worst = max([worst, *(error(a, b) for a, b in pairs)])
        yield Row(part, f"{name}: largest relative error", worst, goal=allowed, at_most=True)
    yield checked(settings)


def error(found: Any, expected: Any) -> float:
    """The largest difference relative to the largest element; infinite where it is no number."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    scale = max(float(np.abs(b).max(initial=0.0)), 1e-30)
    worst = float(np.abs(a - b).max(initial=0.0)) / scale
    return worst if np.isfinite(worst) else float("inf")


def checked(settings: Settings) -> Row:
    """The same programs under compute-sanitizer, where it is installed: accesses outside of what was allocated."""
    part, what, tool = "results", "compute-sanitizer memcheck", shutil.which("compute-sanitizer")
    if settings.dry or tool is None:
        return Row(part, what, note="no GPU to check" if settings.dry else "compute-sanitizer is not installed")
    code = "from bench.gpu_checks import kinds_once; kinds_once()"
    command = [tool, "--tool", "memcheck", "--error-exitcode", "3", sys.executable, "-c", code]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=max(settings.left() - 1, 1))
    except subprocess.TimeoutExpired:
        return Row(part, what, note="not run to the end: the time was over")
    summary = re.findall(r"ERROR SUMMARY: (\d+) error", done.stdout)
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "memcheck.log").write_text(done.stdout + done.stderr)
    if not summary:
        return Row(part, what, note=f"failed: it says no summary; {settings.out / 'memcheck.log'}")
    return Row(part, what, float(summary[-1]), "errors", None, 0.0, True, "in memcheck.log")


def kinds_once() -> None:
    """Each kind once, on the GPU; what runs under compute-sanitizer."""
    target = Settings(False, 0.0).target
    for make, _, flag in KINDS.values():
        graph, feeds = make()
        with switched(flag):
            graphrt.compile(graph, target=target)(feeds)
    torch.cuda.synchronize()


# --- the tests marked gpu -----------------------------------------------------------------------------------------------


def suite(settings: Settings) -> Iterator[Row]:
    """The tests of FILES marked gpu, in 8 processes where pytest-xdist is there; in a dry run collected. tests.log has it all.

    A test that takes longer than bench.gpu_limit allows ends its process, which counts as its failure; the others go on.
    """
    part, name, log = "correctness", "tests marked gpu", settings.out / "tests.log"
    if find_spec("pytest") is None:
        yield Row(part, name, note="not run: pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short"]
    command += [str(_ROOT / "tests" / f"test_{name}.py") for name in FILES]
    parallel = find_spec("xdist") is not None and not settings.dry
    command += ["--collect-only", "-q"] if settings.dry else ["-v", "-rfE", "-p", "bench.gpu_limit"]
    command += ["-n", str(WORKERS)] if parallel else []
    settings.out.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=_ROOT, stdout=file, stderr=subprocess.STDOUT)
        try:
            over = process.wait(max(settings.left() - 2, 1)) not in (0, 1)
        except subprocess.TimeoutExpired:
            process.kill()  # its workers end when they find it gone
            process.wait()
            over = True
    text = log.read_text()
    if settings.dry:
        lines = [
            *(t for t in text.splitlines() if t.startswith(("ERROR ", "E  "))),
            *text.strip().splitlines()[-1:],
            "no output",
        ]
        yield Row(part, name, note=f"cannot be collected: {lines[0]}" if over else "collected only")
        return
    yield from verdicts(part, name, text, over)


def verdicts(part: str, name: str, text: str, over: bool) -> Iterator[Row]:
    """The rows for a log of pytest -v: the first failures, then their number; ``over`` when it did not run to its end."""
    state = dict[str, str]()
    for line in text.splitlines():
        for test, verdict in (*re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR)", line), *_swapped(line)):
            state[test] = verdict
    crashed = re.findall(r"worker '\w+' crashed while running '([^']+)'", text)
    reasons = dict(re.findall(r"^(?:FAILED|ERROR) (\S+::.*?) - (.*)$", text, re.MULTILINE))
    failed = list(dict.fromkeys([*crashed, *(test for test, verdict in state.items() if verdict != "PASSED")]))
    for test in failed[:SHOWN]:
        why = "it ended its process, or took too long" if test in crashed else reasons.get(test, "see tests.log")
        yield Row(part, test.removeprefix("tests/"), note=f"failed: {why}"[:160])
    passed = sum(verdict == "PASSED" for test, verdict in state.items() if test not in crashed)
    last = (text.strip().splitlines() or ["no output"])[-1]
    if over:
        yield Row(part, "the rest of the tests", note=f"stopped: {passed} passed until then; {last}"[:160])
    yield Row(part, name, float(len(failed)), "failures", None, 0.0, True, f"{passed} passed")


def _swapped(line: str) -> list[tuple[str, str]]:
    """A line of pytest-xdist on a test: [gw0] [ 12%] PASSED tests/test_a.py::test_b."""
    return [(test, verdict) for verdict, test in re.findall(r"^\[gw\d+\].*? (PASSED|FAILED|ERROR) (\S+::.+?)\s*$", line)]
