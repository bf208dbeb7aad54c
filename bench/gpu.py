"""Does graphrt keep its word on a GPU? Correctness first, then speed beside torch, one call, within a budget of minutes.

python -m bench.gpu [--minutes 8] [--tune 1] [--only "ResNet-50 train b256"] [--no-save]
python -m bench.gpu --dry-run     everything but the GPU: graphrt on the null target, torch on the CPU, no figures

A dry run shows that this benchmark itself works from its first part to its last, with an empty cache too. Every part runs:
every network is built, compiled for sm_90 and stepped once on both sides, at a batch of two, where a CPU can keep up. So its
kernels are not those of the real batches, which make kernels compiles. Of the convolutions it takes two of each kind. Nothing
else is shortened, and a part may take all the time that is left; one that fails, or for which none was left, makes the exit
status 1. It takes three minutes of processor time, and nine more, on all cores, for kernels that are not in the cache.

Parts are ordered by importance. Each runs in a process of its own for its share of what is left of the budget, so that one
that fails or hangs takes nothing else along; what was measured until then counts, and what did not fit is reported as not
run. Candidates take turns (bench.measure), figures are medians. Rows are appended to bench/results/gpu.jsonl with device,
versions, date and settings.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from bench.gpu_kernels import bandwidth, convolutions, descriptors
from bench.gpu_parts import Part, Row, Settings
from bench.gpu_training import Goals, curves, peak, training
from bench.measure import RESULTS, environment

STARTUP = 5.0  # seconds that a part needs to begin at all
_ROOT = Path(__file__).parent.parent
_MARK = "bench.gpu row "


def suite(settings: Settings) -> Iterator[Row]:
    """The tests marked gpu; in a dry run they are collected."""
    part, name = "correctness", "tests marked gpu"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(_ROOT / "tests")]
    if settings.dry:
        command += ["--collect-only"]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=max(settings.left() - 1, 1))
    except subprocess.TimeoutExpired:
        yield Row(part, name, note="not run to the end: the time was over")
        return
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1]
    if settings.dry:
        yield Row(part, name, note="collected only" if done.returncode == 0 else f"cannot be collected: {last}")
        return
    failed = sum(int(n) for n in re.findall(r"(\d+) (?:failed|error)", last)) + (done.returncode not in (0, 1))
    yield Row(part, name, float(failed), "failures", None, 0.0, True, last)


@dataclass(frozen=True)
class Share:
    """A part, its name on the command line, and how many of 480 seconds it should get."""

    name: str
    run: Part
    seconds: float


SMALL = Goals({"eager": 3.0, "reduce-overhead": 1.5}, ms=0.040)
PARTS = [
    Share("correctness", suite, 60),
    Share("loss curves", curves, 20),
    Share("ResNet-50 train b256", training("ResNet-50", 256, Goals({"max-autotune": 1.25}, images=7900)), 110),
    Share("LeNet-5 train b64", training("LeNet-5", 64, SMALL, half=False), 30),
    Share("MLP train b64", training("MLP 784-128-10", 64, SMALL, half=False, at="MLP train b64"), 20),
    Share("ResNet-50 train b32", training("ResNet-50", 32, Goals({"best": 1.3})), 50),
    *(Share(f"convolutions, {k}", convolutions(k), 25) for k in ("forward", "dgrad", "wgrad", "forward + BN + ReLU")),
    Share("memory-bound groups", bandwidth, 15),
    Share("peak memory", peak, 15),
    Share("VGG-16 train b256", training("VGG-16", 256, Goals({"best": 1.05})), 35),
    Share("AlexNet train b128", training("AlexNet", 128, Goals({"best": 1.5})), 30),
    Share("ResNet-152 train b256", training("ResNet-152", 256, Goals({"best": 1.25})), 60),
    Share("convolutions, descriptors", descriptors, 25),
]


# --- a part, in a process of its own --------------------------------------------------------------------------------


def child(name: str, dry: bool, seconds: float, tune: int) -> None:
    """Runs a part and prints its rows as they come. What a dry run computes is no figure and is left out here."""
    (share,) = [s for s in PARTS if s.name == name]
    for row in share.run(Settings(dry, seconds, tune)):
        about = row.described()
        if dry:
            about |= {"figure": None, "ratio": None, "note": row.note if row.figure is None and row.note else "dry run"}
        print(_MARK + json.dumps(about), flush=True)


def measured(share: Share, dry: bool, seconds: float, tune: int) -> list[Row]:
    """The rows of a part that has so many seconds; of two about the same the later. Failures are rows too."""
    code = f"from bench.gpu import child; child({share.name!r}, {dry!r}, {seconds!r}, {tune!r})"
    env = {**os.environ, "GRAPHRT_TUNE": str(tune), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=_ROOT, env=env, stdout=out, stderr=errors, start_new_session=True
        )
        failure = ""
        try:
            if process.wait(seconds):
                failure = "failed"
        except subprocess.TimeoutExpired:
            failure = "stopped: its time was over"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the part and what it started, a session of their own
                process.wait()
        out.seek(0)
        errors.seek(0)
        found = {}
        for line in out.read().splitlines():
            if line.startswith(_MARK):
                row = Row(**json.loads(line.removeprefix(_MARK)))
                found[row.part, row.what] = row
        if failure == "failed":
            failure = "failed: " + next((t for t in reversed(errors.read().splitlines()) if t.strip()), "no message")[:200]
    return [*found.values(), *([Row(share.name, "the rest" if found else "all", note=failure)] if failure else [])]


def everything(
    parts: Sequence[Share],
    minutes: float,
    dry: bool,
    tune: int,
    show: Callable[[str], object],
    measure: Callable[[Share, bool, float, int], list[Row]] = measured,
) -> list[Row]:
    """The rows of ``parts``, each within its share of what is left of ``minutes`` in its turn; if ``dry`` with all of it."""
    end, rows = time.monotonic() + 60 * minutes, []
    for i, share in enumerate(parts):
        left = end - time.monotonic()
        seconds = left * (1.0 if dry else share.seconds / sum(s.seconds for s in parts[i:]))
        if seconds < STARTUP:
            rows.append(Row(share.name, "all", note="not run: no time was left"))
            continue
        show(f"{share.name}: up to {seconds:.0f} s")
        rows += measure(share, dry, seconds, tune)
    return rows


# --- the report -----------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row], dry: bool) -> Table:
    """All rows but single shapes; '-' is no figure."""
    found = Table(
        "part", "what", "figure", "ratio", "goal", "", "note", title="bench.gpu, dry run: no figures" if dry else "bench.gpu"
    )
    for row in rows:
        if re.match(r"\d+x\d+x", row.what) and row.figure is not None:
            continue  # in the file
        figure = "-" if row.figure is None else f"{row.figure:.4g} {row.unit}".strip()
        ratio = "-" if row.ratio is None else f"{row.ratio:.3g}x"
        goal = "" if row.goal is None else f"{'<=' if row.at_most else '>='} {row.goal:g}"
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}[row.met]
        found.add_row(row.part, row.what, figure, ratio, goal, verdict, row.note)
    return found


def save(rows: Sequence[Row], settings: dict[str, Any], folder: Path = RESULTS) -> int:
    """Appends the rows with a figure to gpu.jsonl, and returns how many these are."""
    kept = [row for row in rows if row.figure is not None or row.ratio is not None]
    if kept:
        about = {**environment(), **settings}
        folder.mkdir(exist_ok=True)
        with (folder / "gpu.jsonl").open("a") as file:
            file.write("".join(json.dumps({**row.described(), "met": row.met, **about}) + "\n" for row in kept))
    return len(kept)


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="the budget of the whole run")] = 8,
    only: Annotated[list[str] | None, typer.Option(help="parts to run; all when left out")] = None,
    tune: Annotated[int, typer.Option(min=0, max=2, help="GRAPHRT_TUNE of graphrt's side; tuning is not timed")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="without a GPU and without figures: every part once, at a batch of two")
    ] = False,
    keep: Annotated[bool, typer.Option("--save/--no-save", help="append the rows to bench/results/gpu.jsonl")] = True,
) -> None:
    """Measures what there is time for, prints it beside its goals, and keeps it."""
    names = [share.name for share in PARTS]
    for name in only or []:
        if name not in names:
            raise typer.BadParameter(f"no part {name!r}; there is {', '.join(names)}", param_hint="--only")
    if not dry_run and not torch.cuda.is_available():
        typer.echo("bench.gpu: there is no GPU that torch can use; --dry-run runs everything but the GPU", err=True)
        raise typer.Exit(1)
    console = Console()
    if not console.is_terminal:
        console = Console(width=180)
    chosen = [share for share in PARTS if not only or share.name in only]
    rows = everything(chosen, minutes, dry_run, tune, lambda text: console.print(text, highlight=False))
    console.print(table(rows, dry_run))
    console.print(", ".join(f"{k} {v}" for k, v in environment().items()))
    if dry_run:
        failed = [row for row in rows if row.note.startswith(("failed", "cannot", "stopped", "not run"))]
        raise typer.Exit(1 if failed else 0)
    if keep:
        settings = {"minutes": minutes, "tune": tune, "gpus": torch.cuda.device_count()}
        console.print(f"{save(rows, settings)} rows added to {RESULTS / 'gpu.jsonl'}")


if __name__ == "__main__":
    typer.run(main)
