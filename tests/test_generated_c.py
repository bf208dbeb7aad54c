"""Generated C: launches that compute the same share a kernel, and what the C compiler makes of a kernel does something."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import check

import graphrt as grt
from graphrt import nn
from graphrt import ops as F
from graphrt.errors import TargetError
from graphrt.targets.cpu.build import build, compiler, headers, options
from graphrt.targets.cpu.elf import empty, functions

elf = pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF object, which this system does not make")


def test_the_compiler_in_a_wheel_is_the_last_that_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    found = {"clang": "/usr/bin/clang"}
    monkeypatch.setattr("shutil.which", found.get)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "ziglang" or None)
    assert compiler.__wrapped__() == ["clang"]
    found.clear()
    assert compiler.__wrapped__() == [sys.executable, "-m", "ziglang", "cc"]


@pytest.mark.parametrize(("size", "alone"), [(8, 1), (512, 0)])
def test_small_launches_stay_on_one_thread_and_large_ones_do_not(size: int, alone: int) -> None:
    """Copies of views among them, which are no nodes of a launch."""
    graph = grt.Graph()
    x = graph.input("x", (size, size))
    graph.output("turned", F.transpose(x, 0, 1))
    graph.output("y", F.matmul(x, x))
    lines = re.findall(r"^.*, ([01])\}, /\* launch .*$", grt.compile(graph, target="cpu").source(), re.M)
    assert lines == [str(alone)] * 2


def test_loads_come_before_conditions() -> None:
    """GCC moves a load behind a condition into a branch, where it cannot load a vector of halves."""
    graph = grt.Graph()
    x, y = (graph.input(n, (64, 100), "bfloat16") for n in "xy")
    graph.output("z", F.where(F.gt(F.relu(x * 2.0), 0.5), y + 1.0, x))
    closures = re.findall(r"((?:^ +const .*\n)+)", grt.compile(graph, target="cpu").source(), re.M)
    lines = max((text.splitlines() for text in closures), key=len)
    loads = [" = buf." in line for line in lines]
    assert sum(loads) == 2 and loads == sorted(loads, reverse=True)


def recurrence(kind: str, steps: int) -> grt.Graph:
    """The last state of a recurrent network, whose gates are sigmoids and tanhs of slices."""
    nn.manual_seed(0)
    graph = grt.Graph()
    network = getattr(nn, kind)(32, 40)
    graph.output("h", network(graph.input("x", (steps, 4, 32)))[0][-1])
    return graph


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_steps_of_a_recurrence(kind: str, target: str, rng: np.random.Generator) -> None:
    check(recurrence(kind, 6), {"x": rng.standard_normal((6, 4, 32)).astype("f")}, target, length=40)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_equal_launches_share_a_kernel(kind: str) -> None:
    """A cell that is called 12 times has as many kernels as one that is called 6 times."""

    def called(steps: int) -> grt.Graph:
        graph, cell = grt.Graph(), getattr(nn, f"{kind}Cell")(32, 40)
        x, state = graph.input("x", (steps, 4, 32)), None
        for t in range(steps):
            state = cell(x[t], state)
        graph.output("h", state[0] if isinstance(state, tuple) else state)
        return graph

    programs = [grt.compile(called(steps), target="cpu") for steps in (6, 12)]
    few, many = (p.source().count("_open(void **table)") for p in programs)
    assert many == few < programs[0].launches < programs[1].launches
    assert programs[1].source(8) in programs[1].source()


@pytest.mark.parametrize("count", [2, 5, 99])
def test_a_program_in_several_units(count: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels lie in any of them; there are no more of them than kernels."""
    monkeypatch.setattr("graphrt.targets.cpu.target.units", lambda kernels: count)
    g = grt.Graph()
    x = g.input("x", (6, 7))
    for i in range(6):
        x = F.softmax(x * (i + 1.5), i % 2)
        g.output(f"y{i}", x)
    program = grt.compile(g, target="cpu")
    assert 5 < program.launches < 99
    check(g, {"x": rng.standard_normal((6, 7)).astype("f")}, "cpu", length=7)


def test_a_kernel_without_elements_is_not_printed(rng: np.random.Generator) -> None:
    g = grt.Graph()
    x, y = g.input("x", (0, 3)), g.input("y", (3, 4))
    g.output("product", F.matmul(x, y))
    g.output("sum", F.tanh(x) + 1.0)
    g.output("columns", F.sum(x, 0))
    z = g.input("z", (4, 8, 0))
    g.output("scaled", z * F.prod(z, (1, 2), keepdim=True))
    outputs = check(
        g, {"x": np.zeros((0, 3), "f"), "z": np.zeros((4, 8, 0), "f"), "y": rng.standard_normal((3, 4)).astype("f")}, "cpu"
    )
    np.testing.assert_array_equal(outputs["columns"], np.zeros(3))
    assert grt.compile(g, target="cpu").source().count("_open(void **table)") == 1


@elf
def test_a_function_that_does_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path))
    text = "void g0_task(long task, void **table) {} void g1_task(long task, void **table) { *(long *)*table = task; }"
    with pytest.raises(TargetError, match="bare return of g0_task"):
        build([text], "test", ["g0", "g1"])
    path = build([text], "test", ["g1"])
    assert empty(path, ("g",)) == ["g0_task"]
    assert {"g0_task", "g1_task"} <= {name for name, _ in functions(path)}


def test_what_is_no_object_has_no_functions(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Mach-O")
    assert not list(functions(tmp_path / "text"))


def main_loops(assembly: str) -> Iterator[list[str]]:
    """The bodies of the innermost loops of x86 code that have a tile of products to add."""
    lines, label, inner = assembly.splitlines(), dict[str, int](), -1
    for number, line in enumerate(lines):
        if found := re.match(r"(\.L\w+):", line):
            label[found[1]] = number
        elif (found := re.match(r"\tj\w+\t(\.L\w+)", line)) and label.get(found[1], -1) > inner:
            body, inner = lines[label[found[1]] : number], number
            if sum("vfmadd" in line for line in body) >= 8:
                yield body


@pytest.mark.usefixtures("optimized")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the code of an x86 processor")
@pytest.mark.parametrize("length", [300, 2048])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_products_main_loop_stores_nothing(length: int, transposed: bool, tmp_path: Path) -> None:
    """Accumulators stay in registers, also where a long product is summed in blocks."""
    g = grt.Graph()
    a = F.transpose(g.input("a", (length, 96)), 0, 1) if transposed else g.input("a", (96, length))
    path = tmp_path / "product.c"
    path.write_text(grt.compile(a @ g.input("b", (length, 128)), target="cpu").source())
    command = [*compiler(), *options(), "-I", str(headers()), "-S", "-o", "-", str(path)]
    loops = [*main_loops(subprocess.run(command, capture_output=True, text=True, check=True).stdout)]
    assert loops
    for body in loops:
        assert sum(bool(re.match(r"\tvmov\w+\t%[xyz]mm\d+, .*\(%r[sb]p", line)) for line in body) <= 2, "\n".join(body)
