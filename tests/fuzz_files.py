"""Damaged files: graphs as text, ONNX models, checkpoints and saved programs, mutated at random, and read.

``python -m tests.fuzz_files --inputs 100000 --seed 0`` reads so many. Each is read, or refused by an error of graphrt's own,
within 10 seconds and 2 GB; what was read can be printed and read again. A process of its own reads them in turn, so that one
that crashes or hangs is found by its number: the seed and the number draw the same input again.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).parent))

import graphs
import numpy as np
import typer

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.errors import GraphrtError
from graphrt.targets.saved import read_explain

SECONDS, BYTES = 10.0, 2 << 30  # that one input may take
NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**63, -(2**63), 10**30)


@dataclass(frozen=True)
class Kind:
    """Whole files of one kind, and what reads one that may be damaged, given a folder to write it to."""

    files: Sequence[bytes]
    read: Callable[[bytes, Path], None]


def _loop() -> grt.Graph:
    g = grt.Graph()
    w, x = g.parameter("w", shape=(3, 3)), g.input("x", (5, 2, 3))
    last, every = F.scan(lambda h, x: (h := F.tanh(F.matmul(h, w) + x), h), g.input("h", (2, 3)), x)
    g.output("last", last)
    g.output("every", every)
    return g


def _classifier() -> nn.Module:
    nn.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))


def _trainer() -> grt.Trainer:
    trainer = grt.Trainer(_classifier(), nn.CrossEntropyLoss(), optim.Adam(1e-3), target="reference")
    trainer.step(np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, np.int64))
    return trainer


def kinds(folder: Path) -> dict[str, Kind]:
    """Every kind of file, made in ``folder``; the entry ``program/NAME`` damages one file of a saved program."""
    texts = [str(g) for g in (graphs.lenet_step(4), graphs.residual_block(), graphs.one_kernel_each(), _loop())]

    def read_graph(content: bytes, place: Path) -> None:
        again = str(graph := grt.Graph.parse(content.decode("utf-8", "replace")))
        assert str(grt.Graph.parse(again)) == again, graph

    def read_onnx(content: bytes, place: Path) -> None:
        (place / "model.onnx").write_bytes(content)
        grt.from_onnx(place / "model.onnx", shapes={"batch": 2})

    trainer = _trainer()
    trainer.save(folder / "checkpoint.safetensors")

    def read_checkpoint(content: bytes, place: Path) -> None:
        (place / "checkpoint.safetensors").write_bytes(content)
        trainer.load(place / "checkpoint.safetensors")

    example = np.zeros((2, 1, 8, 8), np.float32)
    found = {
        "graph": Kind([text.encode() for text in texts], read_graph),
        "onnx": Kind([grt.to_onnx(_classifier(), example_inputs=example).SerializeToString()], read_onnx),
        "checkpoint": Kind([(folder / "checkpoint.safetensors").read_bytes()], read_checkpoint),
    }
    saved = folder / "program.grt"
    graph = grt.Graph()
    graph.output("y", F.softmax(F.matmul(graph.input("x", (4, 3)), graph.parameter("w", np.ones((3, 5), "f"))), 1))
    grt.compile(graph, target="cpu").save(saved)
    for path in sorted(saved.iterdir()):
        found[f"program/{path.name.partition('-')[0]}"] = Kind([path.read_bytes()], _program(saved, path.name))
    return found


def _program(saved: Path, name: str) -> Callable[[bytes, Path], None]:
    def read(content: bytes, place: Path) -> None:
        copy = place / saved.name
        if not copy.exists():
            shutil.copytree(saved, copy)
        whole = (saved / name).read_bytes()
        (copy / name).unlink()  # what is loaded already stays as it is
        (copy / name).write_bytes(content)
        try:
            program = grt.load(copy)
            if name.startswith("explain"):
                read_explain(copy)  # which alone reads it
            assert content == whole or name.startswith("manifest"), "was altered and is loaded"
            np.testing.assert_allclose(program(x=np.zeros((4, 3), "f"))["y"], 0.2, rtol=1e-6)
        finally:
            (copy / name).unlink()
            (copy / name).write_bytes(whole)

    return read


# --- damage -------------------------------------------------------------------------------------------------------


def damaged(content: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """``content`` after one to four mutations; parts of ``others`` may come into it."""
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
        mutation(made, others, rng)
    return bytes(made)


def _span(made: bytes, rng: np.random.Generator) -> slice:
    start = int(rng.integers(len(made) + 1))
    return slice(start, start + int(2 ** rng.uniform(0, 9)))


def _flip(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    if made:
        made[rng.integers(len(made))] ^= 1 << int(rng.integers(8))


def _overwrite(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    made[_span(made, rng)] = rng.bytes(int(2 ** rng.uniform(0, 6)))


def _delete(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    del made[_span(made, rng)]


def _truncate(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    del made[int(rng.integers(len(made) + 1)) :]


def _copy(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    source = others[rng.integers(len(others))] if rng.random() < 0.5 else made
    part, at = source[_span(source, rng)], int(rng.integers(len(made) + 1))
    made[at:at] = part


def _word(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    """A binary number becomes another one."""
    number, size = NUMBERS[rng.integers(len(NUMBERS))], int(rng.choice([1, 2, 4, 8]))
    at = int(rng.integers(len(made) + 1))
    made[at : at + size] = struct.pack("<Q", number % 2**64)[:size]


def _digits(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    """A number that is written out becomes another one."""
    found = [*re.finditer(rb"-?\d+", made)]
    if found:
        start, end = found[rng.integers(len(found))].span()
        made[start:end] = str(NUMBERS[rng.integers(len(NUMBERS))]).encode()


def _swap(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    """Two words change places."""
    found = [*re.finditer(rb"[\w.]+", made)]
    if len(found) > 1:
        (a, b), (c, d) = sorted(found[i].span() for i in rng.choice(len(found), 2, replace=False))
        made[a:d] = made[c:d] + made[b:c] + made[a:b]


def _line(made: bytearray, others: Sequence[bytes], rng: np.random.Generator) -> None:
    """A line is left out, or said twice elsewhere."""
    lines = bytes(made).splitlines(keepends=True)
    if lines:
        line = lines.pop(int(rng.integers(len(lines))))
        if rng.random() < 0.5:
            lines[(at := int(rng.integers(len(lines) + 1))) : at] = [line, line]
        made[:] = b"".join(lines)


MUTATIONS = (_flip, _overwrite, _delete, _truncate, _copy, _word, _digits, _digits, _swap, _line)


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """An input that was not read as it should be."""

    kind: str
    number: int
    what: str


def drawn(found: dict[str, Kind], seed: int, number: int) -> tuple[str, bytes]:
    """The kind and the content of input ``number``."""
    rng = np.random.default_rng([seed, number])
    name = [*found][number % len(found)]
    files = found[name].files
    return name, damaged(files[rng.integers(len(files))], files, rng)


def read(found: dict[str, Kind], seed: int, number: int, place: Path) -> str:
    """What is wrong with how input ``number`` is read, or nothing; "read" where it is taken for whole."""
    name, content = drawn(found, seed, number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name].read(content, place)
        return "read"
    except (GraphrtError, OSError):
        return ""
    except BaseException as error:  # whatever it is, it is none of graphrt's
        return f"{type(error).__name__}: {error}"[:400]


def fuzz(found: dict[str, Kind], seed: int, numbers: Sequence[int], counts: Counter[str]) -> Iterator[Fault]:
    """The faults among the inputs of ``numbers``, which a process reads; ``counts`` of each kind what was taken for whole."""
    at, step = 0, 8
    with tempfile.TemporaryDirectory() as folder, mmap.mmap(-1, step) as shared:
        place = Path(folder)
        while at < len(numbers):
            results = place / "results"
            results.write_text("")
            shared[:] = struct.pack("<q", at)
            child = os.fork()
            if not child:
                _child(found, seed, numbers, at, shared, results, place)
            status, stuck = _watch(child, shared)
            for line in results.read_text().splitlines():
                name, number, what = json.loads(line)
                if what == "read":
                    counts[name] += 1
                else:
                    yield Fault(name, number, what)
            (at,) = struct.unpack("<q", shared[:])
            if at < len(numbers):  # it ended before its time
                name, _ = drawn(found, seed, numbers[at])
                yield Fault(name, numbers[at], f"takes over {SECONDS:.0f} s" if stuck else f"ends the process: {status}")
                at += 1


def _child(
    found: dict[str, Kind], seed: int, numbers: Sequence[int], at: int, shared: mmap.mmap, results: Path, place: Path
) -> None:
    """Reads inputs from number ``at`` on, and ends the process."""
    os.environ.setdefault("GRAPHRT_FOLD", "0.05")
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE if Path("/proc/self/statm").exists() else 0
        if used:
            resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        with results.open("a", buffering=1) as file:
            while at < len(numbers):
                shared[:] = struct.pack("<q", at)
                if what := read(found, seed, numbers[at], place):
                    file.write(json.dumps([drawn(found, seed, numbers[at])[0], numbers[at], what]) + "\n")
                at += 1
        shared[:] = struct.pack("<q", at)
    finally:
        os._exit(0)


def _watch(child: int, shared: mmap.mmap) -> tuple[str, bool]:
    """How ``child`` ended, and whether it was stopped because one input took too long."""
    last, since, stuck = shared[:], time.monotonic(), False
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return (f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"status {status}"), stuck
        if shared[:] != last:
            last, since = shared[:], time.monotonic()
        elif time.monotonic() - since > SECONDS and not stuck:
            os.kill(child, signal.SIGKILL)
            stuck = True
        time.sleep(0.01)


def main(
    inputs: Annotated[int, typer.Option(min=1, help="how many files are damaged and read")] = 100_000,
    seed: Annotated[int, typer.Option(help="what they are drawn by")] = 0,
    kind: Annotated[str, typer.Option(help="only these, such as onnx")] = "",
) -> None:
    """Reads damaged files; exit status 1 when one was not refused as it should be."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: k for name, k in kinds(Path(folder)).items() if name.startswith(kind)}
        counts, faults = Counter[str](), 0
        for fault in fuzz(found, seed, range(inputs), counts):
            faults += 1
            print(f"seed {seed}, {fault.kind}, number {fault.number}: {fault.what}", flush=True)
        whole = ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()))
        print(f"{inputs} files, {faults} faults; taken for whole: {whole or 'none'}")
        raise SystemExit(int(faults > 0))


if __name__ == "__main__":
    typer.run(main)
