"""Programmatic dependent launch: kernels begin before the one in front has ended, and wait for it before they touch memory."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from gpu_programs import NULL, feeds, needs_compiler, step
from graphs import index_and_scan_ops

import graphrt as grt
import graphrt.ops as F
from graphrt import errors
from graphrt.targets.triton.kernel import KernelBinary
from graphrt.targets.triton.library import LibraryCall

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

# Of PTX and of machine code: what waits, what lets the next begin, what reads or writes memory that others see.
PTX = "griddepcontrol.wait", "griddepcontrol.launch_dependents", r"\b(?:ld|st|atom|red|cp)\.(?:global|async|reduce)"
CODE = "ACQBULK", "PREEXIT", r"\b(?:LDG|STG|LDGSTS|ATOMG?|REDG?|UTMA\w+|UBLKCP)\b"


@pytest.fixture
def dependent(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("GRAPHRT_PDL", "1")
    return monkeypatch


def waits_first(text: str, names: tuple[str, str, str]) -> bool:
    """Whether each way through a kernel begins with a wait and the leave to begin, in front of all accesses.

    Both stand in front of the first jump, so that nothing leads around them.
    """
    at = [[m.start() for m in re.finditer(name, text)] for name in (*names, r"\b(?:BRA|bra)\b")]
    waits, leaves, accesses, jumps = at
    return len(waits) == len(leaves) == 1 and waits[0] < leaves[0] < min([*accesses, *jumps]) and bool(accesses)


def check(program: grt.Program) -> set[str]:
    """Looks at each kernel of ``program``; the names of their templates."""
    from graphrt.targets.triton.compile.build import compile_kernel
    from graphrt.targets.triton.compile.cubin import listings

    made = program._executable._compilation
    image = made.image
    assert all(k.dependent for k in image.kernels)
    assert image.dependent() == [False, *[True] * (len(image.launches) - 1)]
    for kernel, text in zip(image.kernels, listings([k.code for k in image.kernels], "sm_90"), strict=True):
        assert waits_first(text, CODE), (kernel.entry, text)
    (code,) = [c for c in made.codes if c.grid][:1]
    assert waits_first(compile_kernel(code, made.module, "cuda:sm_90").asm["ptx"], PTX)
    return {code.form.name or "generated" for code in made.codes}


@needs_compiler
def test_kernels_wait_before_they_touch_memory(dependent: pytest.MonkeyPatch) -> None:
    assert check(grt.compile(step(), target="cuda:sm_90")) >= {"matmul", "generated"}


def others() -> grt.Graph:
    """Templates that walk several dimensions: convolutions of both kinds, pools, attention, pairs."""
    g = grt.Graph()
    x = g.input("x", (4, 32, 12, 12))
    for name, groups in (("plain", 1), ("depthwise", 32)):
        w = g.parameter(f"w.{name}", shape=(32, 32 // groups, 3, 3))
        y = F.relu(F.max_pool2d(F.conv2d(x, w, padding=1, groups=groups), 2, 2))
        y = F.avg_pool2d(y, 2, 2)
        g.output(name, y)
        for i, dy in enumerate(grt.grad(F.sum(y * y), [x, w])):
            g.output(f"{name}.{i}", dy)
    q, k, v = (g.input(n, (2, 4, 64, 32)) for n in "qkv")
    a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    g.output("attention", a)
    for i, dy in enumerate(grt.grad(F.sum(a * a), [q, k, v])):
        g.output(f"attention.{i}", dy)
    return g


@pytest.mark.proof
@needs_compiler
def test_kernels_of_every_template_wait(dependent: pytest.MonkeyPatch) -> None:
    found = check(grt.compile(others(), target="cuda:sm_90")) | check(grt.compile(index_and_scan_ops(), target="cuda:sm_90"))
    assert found >= {"conv_fwd", "conv_dgrad", "conv_wgrad", "depthwise_fwd", "depthwise_dgrad", "depthwise_wgrad", "pool"}
    assert found >= {"max_pool_grad", "sum_pool_grad", "attention", "scan", "sort", "scatter", "nms", "svd", "lu"}


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_older_ones_are_as_they_were(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = grt.compile(step(), target=target).source()
    monkeypatch.setenv("GRAPHRT_PDL", "1")
    assert grt.compile(step(), target=target).source() == plain
    assert grt.compile(step(), target="cuda:sm_90").source() != plain


@needs_compiler
def test_all_launches_but_the_first_begin_early(dependent: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of an eager run and of a captured graph; none where each is timed or looked at by itself."""
    program = grt.compile(step(), target="null")
    count = len(program._binary.image.launches)

    def early(what: Any) -> list[bool]:
        with NULL.recorded() as log:
            what()
        return [event.dependent for event in log if event.kind == "launch"]

    expected = [False, *[True] * (count - 1)]
    assert early(lambda: program(feeds())) == expected  # the first run
    dependent.setenv("GRAPHRT_NO_GRAPH", "1")
    for made in (grt.compile(step(), target="null"), saved(program, tmp_path)):
        assert early(lambda made=made: made(feeds())) == expected
    assert not any(early(lambda: grt.compile(step(), target="null").profile(feeds(), runs=1)))
    assert early(lambda: grt.compile(step(), target="null").elapsed(feeds(), runs=2)) == expected * 2


def saved(program: grt.Program, folder: Path) -> Any:
    """``program`` after it went through a folder."""
    program.save(folder / "f.grt")
    return grt.load(folder / "f.grt", target="null")


@needs_compiler
def test_a_librarys_call_is_waited_for(dependent: pytest.MonkeyPatch) -> None:
    """What it launches is not known, so who comes behind it begins when all of that has ended."""
    image = grt.compile(step(), target="null", library="always")._binary.image
    call, kernel = (
        next(x for x in image.launches if isinstance(image.kernels[x.kernel], c)) for c in (LibraryCall, KernelBinary)
    )
    mixed = dataclasses.replace(image, launches=[kernel, kernel, call, kernel, kernel])
    assert mixed.dependent() == [False, True, False, False, True]


@needs_compiler
def test_a_kernel_that_does_not_wait_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    image = grt.compile(step(), target="null")._binary.image
    assert not any(image.dependent())
    kernel = image.kernels[0]
    memory = NULL.allocate(1 << 16)
    views = [memory[256 * i : 256 * i + 64] for i in range(kernel.pointers)]
    with pytest.raises(errors.TargetError, match="does not wait for it"):
        NULL.bind(kernel, 1, views, None, True)
    NULL.bind(dataclasses.replace(kernel, dependent=True), 1, views, None, True)
