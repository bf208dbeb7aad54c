"""What every test shares: the targets of this process, tolerances, and an arena filled with NaN before each run.

Triton decides when it is imported whether kernels are compiled or interpreted, so a process has either cpu (and cuda) or
interpret; ``make test`` runs both.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ.setdefault("GRAPHRT_CHECK", "1")
os.environ.setdefault("GRAPHRT_POISON", "1")
os.environ.setdefault("GRAPHRT_KNOWN", "0")  # every test compiles
os.environ.setdefault("GRAPHRT_CFLAGS", "-Og")  # a third of what the C compiler takes at -O3, as make proofs has it

import hypothesis
import ml_dtypes
import numpy as np
import pytest

import graphrt as grt
from graphrt.config import Flags
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.triton.compile import build
from graphrt.types import as_dtype

hypothesis.settings.register_profile("graphrt", deadline=None, derandomize=True, max_examples=25, print_blob=False)
hypothesis.settings.load_profile("graphrt")

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def examples(proofs: int, interpreted: int = 1) -> int:
    """The examples that Hypothesis draws where each is compiled: ``proofs`` in make proofs, in make test half as many, or
    ``interpreted``."""
    return interpreted if INTERPRETED else proofs if os.environ["GRAPHRT_CFLAGS"] == "-O3" else max(proofs // 2, 1)


def _hasten_interpreter() -> None:
    """Lets Triton's interpreter look for the functions that it replaces once, and not at each call of a function.

    A package has all of its functions replaced or none. The interpreter also makes a table of dtypes at each look into it.
    """
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    names: dict[Any, list[str]] = {}

    def patch(package: Any, builder: Any, scope: Any) -> None:
        if package not in names:
            names[package] = [name for name in dir(package) if is_builtin(getattr(package, name, None))]
        if not names[package] or not is_builtin(getattr(package, names[package][0])):
            return
        for name in names[package]:
            if is_builtin(member := getattr(package, name)):
                interpreter._patch_attr(package, name, member, builder, scope)

    interpreter._patch_builtin = patch
    find, found = interpreter._get_np_dtype, dict[str, np.dtype]()

    def dtype(kind: Any) -> np.dtype:
        name = str(kind.scalar)
        if name not in found:
            found[name] = find(kind)
        return found[name]

    interpreter._get_np_dtype = dtype


if INTERPRETED:
    _hasten_interpreter()


def pytest_collection_finish() -> None:
    """What was made until now stays until the end: collections of garbage need not look at it again and again.

    By default they come after each 700 new objects, which takes a quarter of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def target_parameters() -> list[Any]:
    """The targets a test runs on: interpret in its own process, else cpu, and cuda where there is a GPU."""
    if INTERPRETED:
        return [pytest.param("interpret", marks=pytest.mark.interpret)]
    no_gpu = pytest.mark.skipif(not _gpu(), reason="needs a CUDA GPU, and this machine has none")
    return ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, no_gpu])]


@pytest.fixture(params=target_parameters())
def target(request: pytest.FixtureRequest) -> str:
    """Each target of this process in turn."""
    return request.param


@pytest.fixture(autouse=True, scope="session")
def compile_here() -> Iterator[None]:
    """Under xdist, which keeps every core busy, nothing is compiled side by side.

    A helper takes a second to start, and each of several units of C has to read the headers.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "PYTEST_XDIST_WORKER" in os.environ:
            patch.setattr(build, "cores", lambda: 1)
            patch.setattr("graphrt.targets.cpu.target.units", lambda kernels: 1)
        yield


@pytest.fixture
def optimized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs are compiled as users have them, at -O3."""
    monkeypatch.setenv("GRAPHRT_CFLAGS", "")


def tolerance(dtype: np.dtype, length: int = 1) -> float:
    """Relative error allowed for results of ``dtype`` that sum ``length`` terms: a few roundings, growing as the root."""
    return 16 * float(ml_dtypes.finfo(dtype).eps) * max(length, 1) ** 0.5 if as_dtype(dtype).is_float else 0.0


def assert_close(actual: Any, expected: Any, length: int = 1, *what: object) -> None:
    """Compares with the float64 ``expected``, relative to its largest finite element; NaN and infinities must agree.

    ``what`` is printed, a line each, only where they differ: the text of a graph takes longer than a comparison.
    """
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    finite = expected[np.isfinite(expected)]
    rtol = tolerance(actual.dtype, length)
    scale = float(np.abs(finite).max()) if finite.size else 1.0
    try:
        np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=rtol, atol=rtol * max(scale, 1.0))
    except AssertionError as error:
        raise AssertionError("\n".join(map(str, (*what, error)))) from None


def check(graph: grt.Graph, feeds: Mapping[str, Any], target: str, length: int = 1) -> dict[str, np.ndarray]:
    """Runs ``graph`` on ``target``, compares every output and update with the float64 reference, returns the outputs."""
    program = grt.compile(graph, target=target)
    outputs = program(dict(feeds))
    expected = evaluate(graph, {**graph.initial, **feeds})
    for name, v in graph.outputs.items():
        assert outputs[name].dtype == v.dtype.numpy
        assert_close(outputs[name], expected[v], length, f"output {name}", graph)
    for name, v in graph.updates.items():
        assert_close(program.state[name], expected[v], length, f"update {name}", graph)
    return outputs


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(autouse=INTERPRETED and Flags.read().guard)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """With GRAPHRT_GUARD=1 kernels that a test launches itself are watched as those of programs are."""
    from triton.runtime.interpreter import InterpretedFunction

    from graphrt.targets.triton import guard

    def run(function: Any, *args: Any, grid: tuple[int, ...], warmup: bool, **constants: Any) -> None:
        guard.launch(function, grid, args, constants)

    monkeypatch.setattr(InterpretedFunction, "run", run)


Build = Callable[..., grt.Value]
