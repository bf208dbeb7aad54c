"""Programs whose contractions take their operands through tensor descriptors: asked for, and chosen by tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from gpu_programs import NULL, needs_compiler

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton.emit.tiling import DESCRIBED
from graphrt.targets.triton.tune import records

HALF = "float16"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No records but a test's own."""
    monkeypatch.setattr(records, "file", lambda device: tmp_path / f"{device}.jsonl")
    return tmp_path


def network() -> grt.Graph:
    """Convolutions plain and under a prologue that is not 0 at 0, their gradients, products in several orders."""
    g, rng = grt.Graph(), np.random.default_rng(0)

    def weight(name: str, *shape: int) -> grt.Value:
        return F.cast(g.parameter(name, (0.2 * rng.standard_normal(shape)).astype(np.float32)), HALF)

    x, scale = g.input("x", (2, 16, 5, 9), HALF, order=(0, 2, 3, 1)), g.input("scale", (24, 1, 1))
    y = g.output("y", F.conv2d(x, weight("w3", 24, 16, 3, 3), padding=1))
    h = F.cast(F.relu(F.cast(y, "float32") * scale + 1.0), HALF)
    z = g.output("z", F.conv2d(h, weight("w1", 8, 24, 1, 1)))
    g.output("strided", F.conv2d(x, weight("ws", 8, 16, 1, 1), stride=2))
    t = g.input("t", (2, 8, 5, 9), HALF, order=(0, 2, 3, 1))
    loss = g.output("loss", F.sum(F.cast(F.relu(z) * t, "float32")))  # its gradient is made of two maps
    a, w, da = g.input("a", (40, 16), HALF), g.input("w", (24, 16), HALF), g.input("da", (40, 24), HALF)
    wanted = [x, *(p for p in g.parameters() if p.node.name != "ws")]
    product = g.output("product", F.linear(a, w))
    gradients = [*grt.grad(loss, wanted), *grt.grad(product, [a, w], da)]
    for name, d in zip(("dx", "dw3", "dw1", "d_a", "d_w"), gradients, strict=True):
        g.output(name, d)
    return g


def feeds() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = {"x": (2, 16, 5, 9), "scale": (24, 1, 1), "t": (2, 8, 5, 9), "a": (40, 16), "w": (24, 16), "da": (40, 24)}
    return {n: rng.standard_normal(shape).astype(HALF if n != "scale" else "float32") for n, shape in shapes.items()}


def forms(program: grt.Program) -> list[tuple[str, Any]]:
    """Each launch of a contraction: its form, and the closure that its loaded blocks go through."""
    codes = program._executable._compilation.codes
    return [(c.form.name, c.constants.get("PREPARE_X")) for c in codes if c.form.name]


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRETED, reason="runs kernels in Triton's interpreter, which needs TRITON_INTERPRET=1")
def test_programs_compute_the_same_through_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = grt.compile(network(), target="interpret")
    monkeypatch.setenv("GRAPHRT_TMA", "1")
    program = grt.compile(network(), target="interpret")
    assert not {f for f, _ in forms(plain)} & {*DESCRIBED}
    found = [prepare for form, prepare in forms(program) if form in DESCRIBED]
    assert len(found) >= 6 and any(p and p.endswith("_prepare") for p in found) and "@unprepared" in found
    assert {f for f, _ in forms(program)} >= {"conv_tma", "matmul_tma", "conv_wgrad"}
    maps = [len(c.constants.get("X_PLACES", ())) for c in program._executable._compilation.codes]
    assert 1 in maps and 2 in maps
    same, exact = plain(feeds()), grt.compile(network(), target="reference")(feeds())
    for name, value in program(feeds()).items():
        found, other, expected = (np.asarray(v, np.float64) for v in (value, same[name], exact[name]))
        np.testing.assert_allclose(found, other, rtol=2e-3, atol=1e-3 * np.abs(other).max(), err_msg=name)
        assert np.linalg.norm(found - expected) < 3e-3 * np.linalg.norm(expected), name  # which rounds at other places


@needs_compiler
def test_programs_run_through_descriptors_on_the_null_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each block has scratch memory of its own for its descriptors, also in a saved program."""
    monkeypatch.setenv("GRAPHRT_TMA", "1")
    program = grt.compile(network(), target="null")
    image = program._binary.image
    wanted = [(image.kernels[launch.kernel].scratch, launch.grid) for launch in image.launches]
    assert sum(scratch > 0 for scratch, _ in wanted) >= 6 and {scratch for scratch, _ in wanted} == {0, 256, 384}
    assert image.scratch == max(scratch * grid for scratch, grid in wanted)
    program(feeds())
    program(feeds())
    program.save(tmp_path / "f.grt")
    loaded = grt.load(tmp_path / "f.grt", target="null")
    again = loaded._binary.image
    assert (again.scratch, again.size) == (image.scratch, image.size)
    assert [k.scratch for k in again.kernels] == [k.scratch for k in image.kernels]
    loaded(feeds())


@needs_compiler
def test_scratch_memory_is_checked() -> None:
    from dataclasses import replace

    program = grt.compile(network(), target="null")
    kernel = replace(program._binary.image.kernels[0], scratch=256)
    memory = NULL.allocate(1 << 16)
    views = [memory[256 * i : 256 * i + 64] for i in range(kernel.pointers)]
    NULL.run([NULL.bind(kernel, 4, views, memory[1 << 15 :])])
    for scratch in (None, memory[(1 << 16) - 1023 - 1 + 128 :]):  # none, and room for less than four blocks
        with pytest.raises(errors.TargetError, match="in no live allocation"):
            NULL.run([NULL.bind(kernel, 4, views, scratch)])
    for bad, start in ((kernel, 64), (replace(kernel, scratch=192), 0)):
        with pytest.raises(errors.TargetError, match="is not aligned"):
            NULL.bind(bad, 4, views, memory[(1 << 15) + start :])


def big() -> grt.Graph:
    """Several waves of tiles: there a program that walks them is predicted to win."""
    g = grt.Graph()
    x, w = (
        g.input("x", (64, 64, 28, 28), "bfloat16", order=(0, 2, 3, 1)),
        g.parameter("w", shape=(128, 64, 3, 3), dtype="bfloat16"),
    )
    g.output("y", F.relu(F.conv2d(x, w, padding=1)))
    return g


@needs_compiler
@pytest.mark.proof
def test_tuning_chooses_a_form(folder: Path) -> None:
    """By predicted clocks; what is on record is found again, and the program runs."""
    program = grt.compile(big(), target="null", tune=1)
    (found,) = program.configurations()
    assert found.form == "conv_tma" and found.origin == "tuned" and found.config["PROGRAMS"] > 0
    assert found.record is not None and found.record.form == "conv_tma"
    assert found.record.microseconds < found.record.heuristic_microseconds
    assert str(found).startswith("conv__relu: conv_tma BM")
    image = program._binary.image
    assert image.launches[0].grid == found.config["PROGRAMS"] and image.scratch == 256 * image.launches[0].grid
    program(x=np.zeros((64, 64, 28, 28), "bfloat16"))
    (again,) = grt.compile(big(), target="null").configurations()
    assert (again.form, again.config, again.origin) == (found.form, found.config, "tuned")


@needs_compiler
def test_a_launch_that_other_groups_share_has_forms_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_TMA", "1")
    program = grt.compile(network(), target="cuda:sm_90")
    codes = program._executable._compilation.codes
    shared = [c for c in codes if c.form.name in DESCRIBED and not c.form.module]
    assert shared and all(f"{c.form.name}.{c.form.name}(ARGS" in "\n".join(c.text) for c in shared)
    assert all(r.instructions.get("UTMALDG.4D") for r in program.kernels() if r.title.startswith("conv__relu"))


@needs_compiler
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("sm_80", ""),  # out of the question
        ("float32", ""),
        ("odd", "12 or 16 channels of 2 bytes are no multiple of 16 bytes"),
        ("order", "X does not lie densely in an order that the kernel knows"),
    ],
)
def test_where_descriptors_cannot_serve_pointers_do(change: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_TMA", "1")
    g = grt.Graph()
    dtype, c = "float32" if change == "float32" else HALF, 12 if change == "odd" else 16
    x = g.input("x", (2, c, 5, 9), dtype, order=None if change == "order" else (0, 2, 3, 1))
    g.output("y", F.conv2d(x, g.input("w", (16, c, 3, 3), dtype, order=(0, 2, 3, 1))))
    target = "cuda:sm_80" if change == "sm_80" else "cuda:sm_90"
    program = grt.compile(g, target=target)
    (code,) = program._executable._compilation.codes
    assert {c.form.name for c in code.choices} == {"conv_fwd"}
    found = [text for configuration in program.configurations() for text in configuration.rejected]
    assert len(found) == bool(reason) and all(text.startswith("conv_tma: ") and text.endswith(reason) for text in found)
    assert all(f"  rejected {text}" in program.explain().full() for text in found)
