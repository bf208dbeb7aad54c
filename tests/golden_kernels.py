"""Golden files of kernels: what the compiler made of each distinct kernel of a training step, for GPUs that are not here.

A file has one line a field. A change that makes a figure worse, or that changes which kernels there are, fails until it is
accepted, after a look at the difference that the failure shows: ``GRAPHRT_ACCEPT=1 make kernels``, or pytest on one test. Some
things are never accepted: spilled registers, a product of halves without tensor cores.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import triton
from accept import ACCEPT, difference

import graphrt as grt
from graphrt import models, nn, optim
from graphrt.targets.triton.emit.tiling import SHARE
from graphrt.targets.triton.report import KernelReport
from graphrt.targets.triton.target import fuses_products, multiprocessors

GOLDEN = Path(__file__).parent / "golden"
SLACK = 1.1  # a tenth more registers, shared memory or bytes is not yet worse
BATCH = {"mlp": 64, "lenet5": 64, "resnet20": 64, "resnet50": 256, "vgg16": 256, "alexnet": 128}
HALVES = ("bfloat16", "float16")
COMPILED = ("registers", "shared", "warps", "narrow")  # what differs between versions of Triton
# What cannot move 16 bytes at a time, though a row has a multiple of 16 bytes: LeNet-5's filter over a map of one channel,
# whose taps lie apart, and the gradients of flattened maps, which lie channels-last (AlexNet's in two parts).
NARROW = {
    ("conv 64x6x28x28 of 6x1x5x5", "loads"),
    ("matmul 64x400 of 120x400", "stores"),
    ("reduce 2x128x9216 cast where mul le", "stores"),
}


def training_step(model: str, dtype: str, target: str, batch: int = 0) -> grt.Program:
    """The training step of ``model`` with SGD and momentum, in mixed precision for a half ``dtype``."""
    autocast = dtype if dtype in HALVES else None
    one = models.get(model)
    trainer = grt.Trainer(
        one.build(), nn.CrossEntropyLoss(), optim.SGD(0.1, momentum=0.9), metrics=(), target=target, autocast=autocast
    )
    n = batch or BATCH[model]
    return grt.compile(trainer.training_graph(((n, *one.input_shape), "float32"), ((n,), "int64")), target=target)


def faults(r: KernelReport, target: str) -> Iterator[str]:
    """What no kernel may have."""
    if r.spills:
        yield f"{r.title}: spills {r.spills} bytes a thread of {r.registers} registers"
    if r.tile is None and r.bytes > SHARE * r.programs and r.programs < multiprocessors(target.split(":")[1]):
        yield f"{r.title}: {r.programs} programs for {r.bytes} bytes, on {target}"
    narrow = [what for what in r.narrow if not any(r.title.startswith(title) and what == known for title, known in NARROW)]
    if narrow:
        yield f"{r.title}: {' and '.join(narrow)} are narrow: {dict(r.instructions)}"
    if r.operands in HALVES and r.tile is not None:
        wanted = "HGMMA" if target == "cuda:sm_90" and r.tile[0] >= 64 else "HMMA"
        wanted = "v_mfma" if target.startswith("hip") else wanted
        if wanted not in r.instructions:
            yield f"{r.title}: tile {r.tile} of {r.operands} has no {wanted}, but {dict(r.instructions)}"


def _row(r: KernelReport) -> dict[str, Any]:
    """A report as a line of a golden file; what is empty is left out."""
    table = {n: value for n, value in vars(r).items() if n != "work" and (value or n in ("registers", "shared"))}
    return {**table, "instructions": dict(r.instructions)}


def _text(table: Mapping[str, Any]) -> str:
    """A golden file's text: JSON with a line a field."""

    def lines(row: Mapping[str, Any]) -> str:
        return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in row.items()) + "\n}"

    return f'{{"totals": {lines(table["totals"])},\n"kernels": [' + ",\n".join(map(lines, table["kernels"])) + "]}\n"


def _numbered(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows by title; of several kernels with one title the second is called ``#2``."""
    seen: Counter[str] = Counter()
    found = {}
    for row in rows:
        seen[row["title"]] += 1
        found[row["title"] + (f" #{seen[row['title']]}" if seen[row["title"]] > 1 else "")] = row
    return found


def _worse(title: str, new: dict[str, Any], old: dict[str, Any]) -> Iterator[str]:
    if new["launches"] > old["launches"]:
        yield f"{title}: {new['launches']} launches, were {old['launches']}"
    for figure, extra in (("registers", 2), ("shared", 0), ("bytes", 0)):
        if new[figure] > SLACK * old[figure] + extra:
            yield f"{title}: {figure} {new[figure]}, were {old[figure]}"
    if SLACK * new.get("warps", 0) < old.get("warps", 0):
        yield f"{title}: {new.get('warps', 0)} warps on a multiprocessor, were {old['warps']}"
    for what in set(new.get("narrow", ())) - set(old.get("narrow", ())):
        yield f"{title}: {what} are no longer 16 bytes wide: {new['instructions']}, were {old['instructions']}"


def _as_compiled(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """``new`` with the figures that the compiler decides taken from ``old``."""
    return {k: v for k, v in new.items() if k not in COMPILED} | {k: v for k, v in old.items() if k in COMPILED}


def check(name: str, program: grt.Program, reports: list[KernelReport]) -> None:
    """Compares with the golden file of ``name``, or writes it when GRAPHRT_ACCEPT is 1.

    Registers, shared memory, warps and widths depend on the compiler, so those of another version of Triton than the file
    names are not compared: launches and bytes are. A version that cannot take the norms of halves as fused multiply-adds has
    another plan of networks with norms, and a file of its own for it.
    """
    path = GOLDEN / f"{name}.json"
    if not fuses_products() and (other := GOLDEN / f"{name}_rounded.json").exists():
        path = other
    found = [_row(r) for r in reports]
    totals = {
        "triton": triton.__version__,
        "launches": program.launches,
        "kernels": len(found),
        "bytes": sum(r.bytes * r.launches for r in reports),
        "arena": program.plan.size if program.plan else 0,
    }
    text = _text({"totals": totals, "kernels": found})
    if ACCEPT:
        path.write_text(text)
    accepted = path.read_text() if path.exists() else _text({"totals": {**totals, "triton": ""}, "kernels": []})
    golden = json.loads(accepted)
    same = golden["totals"]["triton"] == triton.__version__
    new, old = _numbered(found), _numbered(golden["kernels"])
    problems = [f"new kernel {t}" for t in new.keys() - old.keys()] + [f"no more {t}" for t in old.keys() - new.keys()]
    for title in new.keys() & old.keys():
        row = new[title] if same else _as_compiled(new[title], old[title])
        problems += _worse(title, row, old[title])
    for figure in ("launches", "kernels", "bytes", "arena"):
        if totals[figure] > golden["totals"][figure] * (1.0 if figure in ("launches", "kernels") else 1.01):
            problems.append(f"{figure} {totals[figure]}, were {golden['totals'][figure]}")
    if problems:
        pytest.fail("\n".join([*sorted(problems), "", difference(path, accepted, text)]), pytrace=False)
