"""The worth of fusion, pattern by pattern: every stage added in turn, or left out alone, beside the least bytes and peers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from graphrt.bench.measure import environment
from graphrt.bench.statistics import LEAST, LEVEL, holm, ratio, welch
from graphrt.bench.trial import AGAIN, Spec
from graphrt.errors import ArgumentError
from graphrt.passes.stages import STAGES
from graphrt.targets.target import names_architecture

SCHEMA = 2
NOISY = 0.15  # two measurements of the same thing that differ by more say nothing about anything else


@dataclass
class Row:
    """One variant of one pattern, or a peer, whose ``launches`` are known of torch.compile alone.

    ``medians`` are milliseconds, one of each process; ``logs`` those of fused over it. ``seen`` are the rates that the machine
    reached in the turns of each process, as ``about`` has them of the run. ``apart`` are the reasons for launches.
    """

    pattern: str
    family: str
    size: str
    backward: bool
    target: str
    variant: str
    launches: int = 0
    bytes: int = 0
    least: int = 0
    flops: int = 0
    arena: int = 0
    compile_seconds: float = 0.0
    registers: int = 0
    predicted_ms: float = 0.0
    error: float = 0.0
    medians: list[float] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)
    logs: list[float] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    seen: list[dict[str, float]] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The text that tells this row from the others of a run."""
        return f"{self.pattern} {self.size} {'forward + backward' if self.backward else 'forward'} {self.target} {self.variant}"

    @property
    def name(self) -> str:
        """The pattern, with or without its gradients, and the target."""
        return f"{self.pattern}{' + backward' if self.backward else ''}, {self.target}"

    @property
    def ms(self) -> float:
        """The median of the processes' medians, in milliseconds; 0 where nothing was timed."""
        return float(np.median(self.medians)) if self.medians else 0.0


def variants(ablate: str) -> dict[str, str]:
    """The variants to compile, by label: unfused and fused; with ``ablate`` cumulative or leave-one-out the stages between."""
    found = {"unfused": "none"}
    names = list(STAGES)
    if ablate == "cumulative":
        found |= {f"+ {name}": ",".join(names[: i + 1]) for i, name in enumerate(names[:-1])}
    elif ablate == "leave-one-out":
        found |= {f"- {name}": f"-{name}" for name in names}
    elif ablate:
        raise ArgumentError(f"ablate is cumulative or leave-one-out, got {ablate!r}")
    return {**found, "fused": "all", AGAIN: "all"}


def run(
    specs: Sequence[Spec], family: Mapping[str, str], processes: int, lost: Callable[[str], None] = print
) -> Iterator[list[Row] | str]:
    """The rows of each spec as soon as its ``processes`` are done, or what went wrong.

    A peer that fails is left out, and ``lost`` told of it.
    """
    for spec in specs:
        outcomes = _outcomes(spec, processes if not names_architecture(spec.target) else 1, lost)
        yield outcomes if isinstance(outcomes, str) else rows(spec, family[spec.pattern], outcomes)


def _outcomes(spec: Spec, processes: int, lost: Callable[[str], None]) -> list[dict[str, Any]] | str:
    """The findings of each of so many ``processes``, or the last words of one that failed without peers too.

    One that fails beside peers may have been taken down by one of them: it is tried again without the last of these.
    """
    outcomes: list[dict[str, Any]] = []
    for number in range(processes):
        spec = replace(spec, check=spec.check and number == 0)
        done = _process(asdict(spec))
        while done.returncode and spec.peers:
            lost(f"{spec.pattern}, {spec.target}: left out {spec.peers[-1]}, with which the process ended: {_last_words(done)}")
            spec = replace(spec, peers=spec.peers[:-1])
            done = _process(asdict(spec))
        if done.returncode:
            return f"{spec.pattern}, {spec.target}: {_last_words(done)}"
        outcomes.append(json.loads(done.stdout.splitlines()[-1]))
        failed = outcomes[-1]["failed"]
        for name, why in failed.items():
            lost(f"{spec.pattern}, {spec.target}: left out {name}: {why}")
        spec = replace(spec, peers=[name for name in spec.peers if name not in failed])
    return outcomes


def _process(given: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    """A process of ``graphrt.bench.trial`` that was ``given`` a spec, when it is over."""
    command = [sys.executable, "-m", "graphrt.bench.trial"]
    interpret = {"TRITON_INTERPRET": "1"} if given.get("target") == "interpret" else {}
    return subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, env={**os.environ, **interpret})


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a process wrote to standard error; of one that a signal ended, which."""
    if done.returncode < 0:
        return f"signal {-done.returncode} ({signal.strsignal(-done.returncode)})"
    return (done.stderr.strip().splitlines() or ["no message"])[-1]


def rows(spec: Spec, family: str, outcomes: Sequence[Mapping[str, Any]]) -> list[Row]:
    """A row for each variant that has a plan of its own, and for each peer; the same plan twice is measured once."""
    first, found = outcomes[0], list[Row]()
    fused = [float(np.median(o["variants"]["fused"]["seconds"] or [0.0])) for o in outcomes]
    about = (spec.pattern, family, spec.size, spec.backward, spec.target)
    for label, of in first["variants"].items():
        if of["same"] and label != "fused":
            continue
        row = Row(*about, label, least=first["least"])
        for name in ("launches", "bytes", "flops", "arena", "compile_seconds", "registers", "error", "apart"):
            setattr(row, name, of[name])
        row.predicted_ms, row.seen = 1e3 * of["predicted"], [o["seen"] for o in outcomes if o["seen"]]
        _timed(row, [o["variants"][label]["seconds"] for o in outcomes], fused)
        found.append(row)
    for label in (name for name in first["peers"] if all(name in o["peers"] for o in outcomes)):
        row = Row(*about, label, first["kernels"].get(label, 0), least=first["least"])
        _timed(row, [o["peers"][label] for o in outcomes], fused)
        found.append(row)
    return found


def _timed(row: Row, seconds: Sequence[Sequence[float]], fused: Sequence[float]) -> None:
    for of, base in zip(seconds, fused, strict=True):
        if of:
            row.samples.append([1e3 * s for s in of])
            row.medians.append(1e3 * float(np.median(of)))
            row.logs.append(float(np.log(np.median(of) / base)))


def save(path: Path, found: Sequence[Row], about: Mapping[str, Any]) -> None:
    """Appends a line for each row, with the schema's number and the environment."""
    with path.open("a") as file:
        for row in found:
            file.write(json.dumps({"schema": SCHEMA, **asdict(row), "environment": dict(about)}) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a file that ``save`` wrote. Raises ArgumentError for another schema or another file, or none."""
    found = []
    for about in _saved(path):
        if about.pop("schema") != SCHEMA:
            raise ArgumentError(f"{path} has rows of another schema than {SCHEMA}: measure it again")
        about.pop("environment")
        found.append(Row(**about))
    return found


def _saved(path: Path) -> list[dict[str, Any]]:
    """The lines of a file that ``save`` wrote. Raises ArgumentError for another file, or none."""
    found = []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ArgumentError(f"{path} cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            about = json.loads(line)
            assert {"schema", "environment"} <= about.keys()
        except (ValueError, AttributeError, AssertionError):
            raise ArgumentError(f"{path} was not written by --save: line {number} is no row") from None
        found.append(about)
    if not found:
        raise ArgumentError(f"{path} has no rows")
    return found


def kept_apart(found: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """The reasons for each fused pattern that is more than one launch, behind how many it is, and torch.compile's kernels."""
    peers = _kernels(found)
    fused = [(r, peers.get(r.name, 0)) for r in found if r.variant == "fused" and r.apart]
    beside = {r.name: f", {kernels} of torch.compile" if kernels else "" for r, kernels in fused}
    return [(f"{r.name}, {r.launches} launches{beside[r.name]}", r.apart) for r, _ in fused]


def longer(found: Sequence[Row]) -> list[str]:
    """A line for each pattern with more launches than torch.compile has kernels: how many, and what keeps them apart."""
    peers = _kernels(found)
    fused = [(r, peers.get(r.name, 0)) for r in found if r.variant == "fused"]
    return [
        f"{r.name}: {r.launches} launches, {kernels} of torch.compile: {' | '.join(r.apart)}"
        for r, kernels in fused
        if 0 < kernels < r.launches
    ]


def _kernels(found: Sequence[Row]) -> dict[str, int]:
    """The kernels of torch.compile, by the row's name."""
    return {r.name: r.launches for r in found if r.variant == "torch.compile" and r.launches}


def environment_of(path: Path) -> dict[str, Any]:
    """The environment of the last run of a file that ``save`` wrote, and what its machine was seen to do.

    Raises ArgumentError for another file, or none.
    """
    return dict(_saved(path)[-1]["environment"])


@dataclass(frozen=True)
class Comparison:
    """The rows that are worse than before, and whether the machine was quiet enough to say so; ``noise`` is what chance did."""

    slower: list[str]
    larger: list[str]
    noise: float
    rows: int

    @property
    def status(self) -> int:
        """0 for no regression, 2 for one, 3 where the machine was too noisy to say."""
        return 2 if self.larger else 3 if self.noise > NOISY else 2 if self.slower else 0


def compare(old: Sequence[Row], new: Sequence[Row]) -> Comparison:
    """Launches and bytes are compared exactly; times by Welch's test over processes, for all rows together."""
    before = {row.key: row for row in old}
    common = [(before[row.key], row) for row in new if row.key in before]
    larger = [
        f"{b.key}: {what} {getattr(b, what)}, were {getattr(a, what)}"
        for a, b in common
        for what in ("launches", "bytes")
        if getattr(b, what) > getattr(a, what)
    ]
    noise = floor([*old, *new])
    timed = [(a, b) for a, b in common if a.medians and b.medians]
    chances = {b.key: welch(np.log(a.medians).tolist(), np.log(b.medians).tolist()) for a, b in timed}
    changed = holm(chances, LEVEL)
    effect = {b.key: float(np.mean(np.log(b.medians)) - np.mean(np.log(a.medians))) for a, b in timed}
    slower = [
        f"{b.key}: {b.ms:.4f} ms, were {a.ms:.4f} ({np.exp(effect[b.key]):.3f} times)"
        for a, b in timed
        if b.key in changed and effect[b.key] > np.log1p(max(LEAST, noise))
    ]
    return Comparison(slower, larger, noise, len(common))


def floor(found: Sequence[Row]) -> float:
    """The 95th percentile of the difference between two measurements of one program: fused, and fused again."""
    logs = [abs(ratio(row.logs).value - 1) for row in found if row.variant == AGAIN and row.logs]
    return float(np.percentile(logs, 95)) if logs else 0.0


def about() -> dict[str, Any]:
    """The environment of a run, and what the machine was seen to do, measured in a process of its own."""
    done = _process({})
    done.check_returncode()
    return {**environment(), **_commit(), **json.loads(done.stdout.splitlines()[-1])}


def _commit() -> dict[str, str]:
    """The commit of this package's sources, with -dirty where they were changed since; nothing where there is no checkout."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists() or which("git") is None:
        return {}
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True)
    return {"commit": done.stdout.strip()} if not done.returncode else {}
