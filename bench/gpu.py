"""Does graphrt keep its word on a GPU? Correctness first, then speed beside torch, one call, within a budget of minutes.

python -m bench.gpu [--minutes 9] [--out DIR] [--tune 1] [--only "ResNet-50 train b256"]
python -m bench.gpu --dry-run     everything but the GPU: graphrt on the null target, torch on the CPU, no figures

Ten steps, ordered by importance; more networks and shapes run where --only names them. Each step runs in a process of its own
for its share of what is left of the budget, so that one that fails or hangs takes nothing else along. Its rows are appended to
DIR/gpu.jsonl as they come, with device, versions and date: what was measured until a run was stopped is there. Of two rows
about the same the later counts. Logs and tuning records are put beside them. Candidates take turns (bench.measure), figures
are medians. At most 40 lines are printed, the most important last.

A dry run shows that this benchmark itself works from its first step to its last, with an empty cache too. Every step runs:
every network is built, compiled for sm_90 and stepped once on both sides, at a batch of two, where a CPU can keep up. So its
kernels are not those of the real batches, which a kit brings. Of the convolutions it takes two of each kind, and it tunes the
smallest network. Nothing else is shortened, and a step may take all the time that is left; one that fails, or for which none
was left, makes the exit status 1. With --kit graphrt's programs are those of the real run.

With --kit nothing is compiled but by the step "correctness": a kernel that the kit lacks is an error that names it.

Only the standard library is imported here: what the machine lacks is said before a step begins.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.gpu_parts import Row, Settings

STARTUP = 5.0  # seconds that a step needs to begin at all
LINES = 40  # that are printed at most
NEEDED = ("ml_dtypes", "networkx", "numpy", "rich", "safetensors", "torch", "triton", "typer")  # what graphrt imports
WANTED = ("pytest", "xdist", "hypothesis", "mpmath", "onnx", "onnxruntime")  # what tests do
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Step:
    """A step by name, the seconds of nine minutes that it should get, and where its function is found.

    ``function`` of the module bench.``module`` is the part or, with ``arguments``, makes it. ``tune`` is the least
    GRAPHRT_TUNE of it. One that is not ``planned`` runs where it is asked for; one that ``compiles`` has kernels of its own,
    which no kit holds.
    """

    name: str
    seconds: float
    module: str
    function: str
    arguments: tuple[Any, ...] | None = None
    keywords: tuple[tuple[str, Any], ...] = ()
    tune: int = 0
    planned: bool = True
    compiles: bool = False

    def part(self) -> Any:
        """The part. Raises ImportError."""
        found = getattr(importlib.import_module(f"bench.{self.module}"), self.function)
        return found if self.arguments is None else found(*self.arguments, **dict(self.keywords))


def _training(
    name: str, seconds: float, network: str, batch: int, goals: dict[str, Any], planned: bool = True, **more: Any
) -> Step:
    return Step(name, seconds, "gpu_training", "compared", (network, batch, goals), tuple(more.items()), planned=planned)


_BIG, _SMALL = ("ResNet-50", 256), {"modes": {"eager": 3.0, "reduce-overhead": 1.5}, "ms": 0.040}
STEPS = [
    Step("machine", 15, "gpu_checks", "machine"),
    Step("results", 30, "gpu_checks", "kinds"),
    Step("correctness", 60, "gpu_checks", "suite", compiles=True),
    Step("ResNet-50 train b256", 60, "gpu_training", "looked_into", (*_BIG, {"images": 7900})),
    Step("small networks", 20, "gpu_training", "alone"),
    _training(
        "ResNet-50 beside eager", 40, *_BIG, {}, at="ResNet-50 beside eager", peers=("torch eager", "graphrt library=always")
    ),
    Step("convolutions", 60, "gpu_kernels", "all_convolutions"),
    Step("memory-bound groups", 20, "gpu_kernels", "bandwidth"),
    Step("tuning", 150, "gpu_training", "tuned", _BIG, tune=1),
    _training(
        "ResNet-50 beside torch.compile",
        85,
        *_BIG,
        {"modes": {"max-autotune": 1.25}},
        at="ResNet-50 beside torch.compile",
        peers=("torch default", "torch max-autotune"),
    ),
    Step("loss curves", 20, "gpu_training", "curves", planned=False),
    _training("LeNet-5 train b64", 30, "LeNet-5", 64, _SMALL, False, half=False),
    _training("MLP train b64", 20, "MLP 784-128-10", 64, _SMALL, False, half=False, at="MLP train b64"),
    _training("ResNet-50 train b32", 50, "ResNet-50", 32, {"modes": {"best": 1.3}}, False),
    *(
        Step(f"convolutions, {kind}", 25, "gpu_kernels", "convolutions", (kind,), planned=False)
        for kind in ("forward", "dgrad", "wgrad", "forward + BN + ReLU")
    ),
    Step("peak memory", 15, "gpu_training", "peak", planned=False),
    _training("VGG-16 train b256", 35, "VGG-16", 256, {"modes": {"best": 1.05}}, False),
    _training("AlexNet train b128", 30, "AlexNet", 128, {"modes": {"best": 1.5}}, False),
    _training("ResNet-152 train b256", 60, "ResNet-152", 256, {"modes": {"best": 1.25}}, False),
    Step("convolutions, descriptors", 25, "gpu_kernels", "descriptors", planned=False),
]


# --- a step, in a process of its own --------------------------------------------------------------------------------


def child(name: str, dry: bool, seconds: float, tune: int, out: str) -> None:
    """Runs a step and appends its rows as they come. What a dry run computes is no figure and is left out here.

    A dry run that may not compile has a kit, and is full.
    """
    (step,) = [s for s in STEPS if s.name == name]
    settings = Settings(dry, seconds, tune, Path(out), full=dry and os.environ.get("GRAPHRT_COMPILE") == "0")
    part = step.part()
    from bench.measure import environment

    about = {**environment(), "tune": tune, "dry": dry}
    for row in part(settings):
        if dry:
            note = row.note if row.figure is None and row.note else "dry run"
            row = Row(row.part, row.what, note=note, detail=row.detail)
        append(row, settings.out, {"step": name, "met": row.met, **about})


def append(row: Row, out: Path, about: dict[str, Any]) -> None:
    """Adds a row to the file in ``out``, in one piece and at once."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "gpu.jsonl").open("a") as file:
        file.write(json.dumps({**row.described(), **about}) + "\n")


def die_with_parent() -> None:
    """Ends this process, and all that it started, when standard input does, which the parent holds open."""

    def wait() -> None:
        while os.read(0, 1 << 16):
            continue
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def measured(step: Step, dry: bool, seconds: float, tune: int, out: Path) -> list[Row]:
    """The rows of a step that has so many seconds; of two about the same the later. Failures are rows too."""
    file = out / "gpu.jsonl"
    before = file.stat().st_size if file.exists() else 0
    tune = max(tune, step.tune)
    given = f"{step.name!r}, {dry!r}, {seconds!r}, {tune!r}, {str(out)!r}"
    code = f"from bench.gpu import child, die_with_parent; die_with_parent(); child({given})"
    env = {**os.environ, "GRAPHRT_TUNE": str(tune), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    env.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    if step.compiles:
        env.pop("GRAPHRT_COMPILE", None)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=_ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        failure = ""
        try:
            if status := process.wait(seconds):  # SIGKILL: the system had no memory left
                failure = "failed" if status > 0 else f"stopped by {signal.Signals(-status).name}"
        except subprocess.TimeoutExpired:
            failure = "stopped: its time was over"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the step and what it started or left running, a session of their own
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        errors.seek(0)
        if failure == "failed":
            failure = "failed: " + next((t for t in reversed(errors.read().splitlines()) if t.strip()), "no message")[:200]
    found = rows_of(file, before)
    if failure:
        row = Row(step.name, "the rest" if found else "all", note=failure)
        append(row, out, {"step": step.name, "met": None, "tune": tune, "dry": dry})
        found.append(row)
    return found


def rows_of(file: Path, start: int = 0) -> list[Row]:
    """The rows of a file behind its first ``start`` bytes; of two about the same the later. A last line may be torn."""
    found: dict[tuple[str, str], Row] = {}
    names = Row.__dataclass_fields__.keys()
    for line in file.read_bytes()[start:].splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = Row(**{k: v for k, v in json.loads(line).items() if k in names})
            found[row.part, row.what] = row
    return [*found.values()]


Measure = Callable[[Step, bool, float, int, Path], list[Row]]


def everything(
    steps: Sequence[Step],
    minutes: float,
    dry: bool,
    tune: int,
    out: Path,
    show: Callable[[str], object],
    measure: Measure = measured,
) -> list[Row]:
    """The rows of ``steps``, each within its share of what is left of ``minutes`` in its turn; if ``dry`` with all of it."""
    end, rows = time.monotonic() + 60 * minutes, []
    for i, step in enumerate(steps):
        left = end - time.monotonic()
        seconds = left * (1.0 if dry else step.seconds / sum(s.seconds for s in steps[i:]))
        if seconds < STARTUP:
            rows.append(Row(step.name, "all", note="not run: no time was left"))
            append(rows[-1], out, {"step": step.name, "met": None, "tune": tune, "dry": dry})
            continue
        start = time.monotonic()
        found = measure(step, dry, seconds, tune, out)
        rows += found
        failed = sum(row.failed for row in found)
        show(
            f"{step.name}: {len(found)} rows in {time.monotonic() - start:.0f} of {seconds:.0f} s"
            + (f", {failed} of them failures" if failed else "")
        )
    return rows


# --- the report -----------------------------------------------------------------------------------------------------


def summary(rows: Sequence[Row], lines: int) -> list[str]:
    """At most so many lines, the most important last: rows without a goal, with one, then failures; later steps first."""
    shown = [row for row in rows if row.failed or not row.detail]

    def rank(row: Row) -> int:
        return 3 if row.failed or (row.met is False and row.unit == "failures") else 2 if row.goal is not None else 1

    ordered = sorted(reversed(shown), key=rank)
    kept = ordered[-lines:] if len(ordered) <= lines else ordered[-(lines - 1) :]
    left = len(ordered) - len(kept)
    return [*([f"{left} more rows are in the file"] if left else []), *map(line, kept)]


def line(row: Row) -> str:
    """A row in words; '-' is no figure."""
    figure = "-" if row.figure is None else f"{row.figure:.4g} {row.unit}".strip()
    ratio = "" if row.ratio is None else f" {row.ratio:.3g}x"
    goal = "" if row.goal is None else f", goal {'<=' if row.at_most else '>='} {row.goal:g}"
    verdict = {True: " met", False: " MISSED", None: ""}[row.met]
    return f"{row.part} | {row.what}: {figure}{ratio}{goal}{verdict}{f' ({row.note})' if row.note else ''}"[:240]


def missing(names: Sequence[str]) -> list[str]:
    """The modules that are not installed."""
    return [name for name in names if find_spec(name) is None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what there is time for, keeps each row as it comes, and prints the most important ones. 1 is no success."""
    parser = argparse.ArgumentParser("bench.gpu", description="correctness and speed on a GPU, beside torch")
    parser.add_argument("--minutes", type=float, default=9, help="the budget of the whole run")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="the folder of gpu.jsonl, logs and tuning records")
    parser.add_argument("--only", action="append", help="steps to run; the ten when left out")
    parser.add_argument("--tune", type=int, choices=(0, 1, 2), default=0, help="GRAPHRT_TUNE of graphrt's side, not timed")
    parser.add_argument("--kit", type=Path, help="an archive of make gpu-kit: its kernels are not compiled again")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU and without figures, at a batch of two")
    given = parser.parse_args(arguments)
    names = [step.name for step in STEPS]
    for name in given.only or []:
        if name not in names:
            parser.error(f"no step {name!r}; there is {', '.join(names)}")
    if lacking := missing(NEEDED):
        print(f"bench.gpu: not installed here, and needed: {', '.join(lacking)}", file=sys.stderr)
        return 1
    if lacking := missing(WANTED):
        print(f"not installed here, so tests that want it cannot run: {', '.join(lacking)}", flush=True)
    if not given.dry_run and not _gpu():
        print("bench.gpu: there is no GPU that torch can use; --dry-run runs everything but the GPU", file=sys.stderr)
        return 1
    if given.kit is not None:
        from bench.gpu_kit import unpacked

        text, complete = unpacked(given.kit)
        print(text, flush=True)
        if complete:
            os.environ["GRAPHRT_COMPILE"] = "0"  # what a kit lacks is said, and takes no time to compile
        elif given.dry_run:
            return 1
    chosen = [step for step in STEPS if (step.name in given.only if given.only else step.planned)]
    shown = 2  # and the last line

    def show(text: str) -> None:
        nonlocal shown
        shown += 1
        print(text, flush=True)

    out = given.out.resolve()
    rows = everything(chosen, given.minutes, given.dry_run, given.tune, out, show)
    title = "dry run: no figures" if given.dry_run else "figures"
    print("\n".join([f"{title}, all rows in {out / 'gpu.jsonl'}", *summary(rows, LINES - shown)]), flush=True)
    return 1 if given.dry_run and any(row.failed for row in rows) else 0


def _gpu() -> bool:
    """Whether torch finds a GPU, asked in another process: this one keeps no memory there."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
