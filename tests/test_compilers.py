"""Compilers give the same bits: GCC of any version at any level of optimization; clang but for sums that ``omp simd`` orders.

``make compilers`` installs the others and runs this; what is not installed is skipped by its name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED
from test_ops import OPS, append, converted
from zoo import steps

import graphrt as grt
from graphrt.types import DTYPES, float16, float32

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(INTERPRETED, reason="Triton compiles nothing here"),
]
RUN = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); import test_compilers as t; print(json.dumps(t.digests(sys.argv[2:])))"
)
NETWORKS = ("resnet20", "mobilenet_v2", "gpt", "char_lstm")
OTHERS = ("gcc-11", "gcc-13", "gcc-14", "clang", "clang-16", "clang-19")
SUMS = "a row's sum, in the order of the compiler"


def digests(without: Sequence[str]) -> dict[str, str]:
    """A hash of what each op makes of its samples in the other dtypes, and of losses; ``SUMS`` where compilers order a sum."""
    found = {name: hashlib.sha256(np.array(steps(name, ["cpu"])).tobytes()).hexdigest() for name in NETWORKS}
    for op in OPS:
        graph, feeds = grt.Graph(), dict[str, np.ndarray]()
        samples = op.samples(np.random.default_rng(0))
        for d in (d for d in DTYPES.values() if d.name not in without):
            for i, sample in enumerate(samples if d is float32 else samples[:1]):
                if (call := converted(op, sample, d)) is not None:
                    for k, v in enumerate(append(graph, op, call, f"{d}.s{i}.", feeds).outputs):
                        graph.output(f"{d}.s{i}.out{k}", v)
        if any(v.dtype.name in without for node in graph.nodes for v in node.outputs):
            continue  # a cast to it
        program = grt.compile(graph, target="cpu")
        total = hashlib.sha256()
        for name, array in program(feeds).items():
            numbers = np.asarray(array)
            if graph.outputs[name].dtype.is_float:
                numbers = numbers.astype(np.float64)
                numbers[np.isnan(numbers)] = np.nan  # whatever its sign and payload
            total.update(numbers.tobytes())
        found[op.name] = SUMS if "reduction(+" in program.source() or "reduction(*" in program.source() else total.hexdigest()
        found[f"{op.name} in all"] = total.hexdigest()
    return found


@functools.cache
def made(compiler: str, flags: str, *without: str) -> dict[str, str]:
    """The digests of a process that compiles so."""
    env = {**os.environ, "GRAPHRT_CFLAGS": flags, **({"CC": compiler} if compiler else {})}
    run = [sys.executable, "-c", RUN, str(Path(__file__).parent), *without]
    done = subprocess.run(run, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def different(one: dict[str, str], other: dict[str, str], summed: bool = True) -> list[str]:
    """The names of what is not the same; with ``summed`` also of what has sums that a compiler orders."""
    assert one.keys() == other.keys() and sum(v == SUMS for v in one.values()) < len(one) // 10
    left_out = NETWORKS if not summed else ()
    return [n for n in one if one[n] != other[n] and n not in left_out and (summed or not n.endswith(" in all"))]


def test_levels_give_the_same_bits() -> None:
    for level in ("-O1", "-O2"):
        assert different(made("", "-O3"), made("", level)) == [], level


@pytest.mark.parametrize("compiler", OTHERS)
def test_compilers_give_the_same_bits(compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler}: apt-get install {compiler}")
    half = subprocess.run([compiler, "-xc", "-fsyntax-only", "-"], input="_Float16 x;", capture_output=True, text=True)
    without = () if half.returncode == 0 else (float16.name,)  # GCC 11 has none on x86
    assert different(made("", "-O3", *without), made(compiler, "-O3", *without), summed="clang" not in compiler) == []
