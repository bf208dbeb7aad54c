"""Tuning: which candidates there are, which are refused, what is recorded and found again; times are predicted."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from gpu_programs import NULL, feeds, needs_compiler, step

import graphrt as grt
from graphrt import errors
from graphrt import ops as F

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.kernels.triton import gluon_config

from graphrt.targets.triton.compile import build, usage
from graphrt.targets.triton.emit.launch import Choice
from graphrt.targets.triton.emit.module import resolve
from graphrt.targets.triton.interpret import InterpretDriver, JitKernel
from graphrt.targets.triton.null import NullDriver
from graphrt.targets.triton.tune import records
from graphrt.targets.triton.tune import tuner as tune
from graphrt.targets.triton.tune.bounds import bound
from graphrt.targets.triton.tune.trial import Trial, difference, reference


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for records; compiled kernels stay where they are."""
    monkeypatch.setattr(records, "file", lambda device: tmp_path / f"{device}.jsonl")
    return tmp_path


def product(m: int = 96, n: int = 64, k: int = 128) -> grt.Graph:
    """One kernel: a product with its activation."""
    g = grt.Graph()
    g.output("y", F.relu(F.matmul(g.input("a", (m, k), "bfloat16"), g.input("b", (k, n), "bfloat16"))))
    return g


def code_of(graph: grt.Graph, target: str = "cuda:sm_90") -> Any:
    return grt.compile(graph, target=target)._executable._compilation.codes[0]


def only(program: grt.Program) -> tune.Configuration:
    (found,) = program.configurations()
    return found


# --- candidates -----------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90", "hip:gfx942"])
def test_candidates_are_listed_by_predicted_time(target: str) -> None:
    code = code_of(product(), target)
    every, dozen = tune.candidates_of(code, 2), tune.candidates_of(code, 1)
    assert dozen == every[: tune.CANDIDATES] and len(every) >= len(dozen) >= 8 and every[0] == code.choice
    assert len({(c.form.name, *c.config.items()) for c in every}) == len(every)
    assert all(c.grid == -(-96 // c.config["BM"]) * -(-64 // c.config["BN"]) for c in every)
    forms = ["matmul", "matmul_tma"] if target == "cuda:sm_90" else ["matmul"]
    assert [c.form.name for c in dozen[:2]] == (forms * 2)[:2]  # they take turns
    for form in forms:
        clocks = [c.clocks for c in every if c.form.name == form]
        assert clocks == sorted(clocks) and clocks


@needs_compiler
@pytest.mark.parametrize("form", ["matmul_specialized", "matmul_gluon"])
def test_what_was_never_measured_is_tried_and_not_the_first_choice(form: str) -> None:
    """Of deep products of halves on sm_90 alone, and of one with its operands as they are."""

    def tried(target: str, batch: int = 1, dtype: str = "bfloat16") -> list[str]:
        g = grt.Graph()
        x, w = (g.input(name, (batch, 512, 512), dtype) for name in "xw")
        y = x @ w if batch > 1 else F.reshape(x, (512, 512)) @ F.reshape(w, (512, 512))
        g.output("y", y)
        code = code_of(g, target)
        forms = [c.form.name for c in tune.candidates_of(code, 1)]
        assert code.form.name == "matmul" and form not in forms[:2]
        return [f for f in forms if f == form]

    assert len(tried("cuda:sm_90")) >= 2
    assert not any((tried("cuda:sm_80"), tried("cuda:sm_90", 2), tried("cuda:sm_90", dtype="float32")))


@needs_compiler
def test_closures_are_compiled_as_gluon(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows a product is the same text in each form; what Gluon does not take is rejected with the reason."""

    def step(behind: Callable[[grt.Value, grt.Value], grt.Value]) -> grt.Graph:
        g = grt.Graph()
        y = g.input("x", (256, 512), "bfloat16") @ g.input("w", (512, 256), "bfloat16")
        g.output("y", behind(F.cast(y, "float32"), g.input("b", (256,))))
        return g

    def rejected(graph: grt.Graph) -> list[str]:
        code = code_of(graph)
        if reason := gluon_config.unknown():
            assert code.refused == (f"matmul_gluon: {reason}",)
            pytest.skip(reason)
        both = [code.choice, next(c for c in code.choices if c.form.name == "matmul_gluon")]
        monkeypatch.setattr(tune, "candidates_of", lambda code, level: both)
        return [*only(grt.compile(graph, target="null", tune=1)).rejected]

    assert not rejected(step(lambda y, b: F.gelu(y + b)))
    (reason,) = rejected(step(lambda y, b: F.where(y > b, 1.0, 0.0)))
    assert reason.startswith("matmul_gluon BM 128 BN 128") and "CompilationError" in reason
    monkeypatch.setattr(gluon_config, "unknown", lambda: "not this one")
    code = code_of(step(lambda y, b: y))
    assert code.refused == ("matmul_gluon: not this one",) and "matmul_gluon" not in {c.form.name for c in code.choices}


@needs_compiler
def test_tiles_hold_whole_segments() -> None:
    """Sums over pixels in an epilogue are of segments of rows: every candidate keeps them in one tile."""
    g = grt.Graph()
    x = g.input("x", (64, 16, 16, 16), order=(0, 2, 3, 1))
    y = F.conv2d(x, g.parameter("w", shape=(16, 16, 3, 3)), padding=1)
    g.output("y", F.relu(y - F.mean(y, (0, 2, 3), keepdim=True)))
    compilation = grt.compile(g, target="cuda:sm_90")._executable._compilation
    code = next(c for c in compilation.codes if c.display.startswith("conv"))
    assert "segment_sum" in "\n".join(code.text)
    rows = [c.config["BM"] for c in code.choices]
    assert len(set(rows)) < len(rows) and all(r % 64 == 0 for r in rows)


def test_a_dispatcher_finds_its_part_by_halving() -> None:
    from graphrt.targets.triton.emit.generated import Part, dispatcher

    matmul = Part("", 0, call="matmul.matmul(ARGS, BM=BM")
    parts = [
        Part("a", 3, [[0, 1]]),
        Part("b", 2, [[2, 3, 5], [4, 3, 6], [7, 3, 8]]),
        Part("c", 5, [[1]]),
        Part("d", 1, [[]]),
        matmul,
    ]
    text = dispatcher("k", parts, ("BM",))
    assert text[1] == "def k(ARGS, NAME: tl.constexpr, BM: tl.constexpr, PID=None):"
    body = "\n".join(text[3:])
    found: list[tuple[Any, ...]] = []
    names: dict[str, Any] = {f"{p}_part": lambda pid, pointers, p=p: found.append((p, pid, *pointers)) for p in "abcd"}
    names["matmul"] = type("matmul", (), {"matmul": staticmethod(lambda ARGS, BM, PID: found.append(("matmul", BM, PID)))})
    for pid in range(3 + 6 + 5 + 1 + 6):
        exec(f"if True:\n{body}", {"pid": pid, "BM": 16, "ARGS": tuple(range(9)), **names})
    alike = [("b", i, *pointers) for pointers in ((2, 3, 5), (4, 3, 6), (7, 3, 8)) for i in range(2)]
    rest = [("c", i, 1) for i in range(5)] + [("d", 0)] + [("matmul", 16, i) for i in range(6)]
    assert found == [("a", i, 0, 1) for i in range(3)] + alike + rest
    many = dispatcher("k", [Part(f"g{i}", 1, [[i]]) for i in range(300)])
    assert max(len(line) - len(line.lstrip()) for line in many) <= 4 * 11 and "g299_part(pid - 299, (ARGS[299],))" in many[-1]


# --- levels ---------------------------------------------------------------------------------------------------------


@needs_compiler
def test_level_0_does_not_search(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("level 0 tries nothing")

    monkeypatch.setattr(tune.Tuner, "_search", refuse)
    program = grt.compile(product(), target="null")
    assert only(program).origin == "heuristic" and not [*folder.iterdir()]
    with pytest.raises(AssertionError, match="tries nothing"):
        grt.compile(product(), target="null", tune=1)
    monkeypatch.setenv("GRAPHRT_TUNE", "2")
    with pytest.raises(AssertionError, match="tries nothing"):
        grt.compile(product(), target="null")
    grt.compile(product(), target="null", tune=0)


@needs_compiler
def test_the_winner_is_recorded_and_found_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake clock likes the fourth candidate best; the next compilation takes it from the file, at any level."""
    code = code_of(product())
    liked = tune.candidates_of(code, 1)[3]
    assert liked.form.name == "matmul_tma"
    monkeypatch.setattr(tune.Tuner, "_times", lambda self, trial, kept: [2e-6 - 1e-6 * (c == liked) for c, _ in kept])
    first = grt.compile(product(), target="null", tune=1)
    assert only(first).origin == "tuned" and only(first).config == liked.config != code.config
    assert first._binary.image.launches[0].grid == liked.grid
    text = (folder / "null cuda:sm_90.jsonl").read_text()
    (row,) = map(json.loads, text.splitlines())
    assert row.keys() == {
        *("key", "kernel", "sizes", "dtypes", "device", "triton", "form", "config", "microseconds", "heuristic_microseconds")
    }
    assert row["form"] == "matmul_tma" == first._executable._compilation.codes[0].form.module
    assert row["config"] == liked.config and row["microseconds"] == 1 and row["heuristic_microseconds"] == 2
    assert row["device"] == "null cuda:sm_90" and row["sizes"] == {"BATCH": 1, "M": 96, "N": 64, "K": 128}
    assert row["kernel"] == "matmul__relu" and row["dtypes"] == ["*bf16"] * 3
    monkeypatch.setattr(tune.Tuner, "_search", lambda self, wanted, level: [] if not wanted else pytest.fail("searched again"))
    for level in (0, 1, 2):
        again = grt.compile(product(), target="null", tune=level)
        assert only(again).config == liked.config and only(again).origin == "tuned"
    assert "tuned, 1 predicted kiloclocks, heuristic 2" in again.explain().full()
    assert (folder / "null cuda:sm_90.jsonl").read_text() == text
    assert only(grt.compile(product(m=97), target="null")).origin == "heuristic"  # another size is another kernel
    again(a=np.zeros((96, 128), "bfloat16"), b=np.zeros((128, 64), "bfloat16"))


@needs_compiler
def test_a_gain_that_may_be_noise_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.Tuner, "_times", lambda self, trial, kept: [1e-6, *[0.99e-6] * (len(kept) - 1)])
    found = only(grt.compile(product(), target="null", tune=1))
    assert found.config == code_of(product()).config and found.record is not None
    assert found.record.microseconds == found.record.heuristic_microseconds == 1


@needs_compiler
@pytest.mark.proof
def test_all_kernels_of_a_step_are_tuned(folder: Path) -> None:
    """By predicted clocks the heuristic wins in every launch of one group; where groups share one it wants wide tiles."""
    program = grt.compile(step(), target="null", tune=1)
    found = program.configurations()
    assert {c.origin for c in found} == {"tuned"} and len(found) >= 4
    codes = program._executable._compilation.codes
    assert any("BM" in c.config and not c.form.module for c in codes)  # a template that shares its launch with other groups
    shown = _heuristics(step())
    assert len(found) == len(shown)
    assert all(c.config == h.config for c, (h, shared) in zip(found, shown, strict=True) if not shared)
    program(feeds())


def _heuristics(graph: grt.Graph) -> list[tuple[tune.Configuration, bool]]:
    """The configurations of distinct kernels that are not tuned, each with whether a template shares its launch."""
    codes = grt.compile(graph, target="cuda:sm_90")._executable._compilation.codes
    shown = {
        records.key(c, ""): (
            tune.Configuration(c.display, c.form.name, c.config, "heuristic"),
            "BM" in c.config and not c.form.module,
        )
        for c in codes
        if c.grid
    }
    return [*shown.values()]


@needs_compiler
def test_a_candidate_whose_bound_is_hopeless_is_not_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds are kept beside kernels by who prepares them ahead; without them nobody reads machine code while tuning."""
    monkeypatch.setattr(tune, "HOPELESS", 0.0)
    assert not [r for r in only(grt.compile(product(m=80), target="null", tune=1)).rejected if "by its instructions" in r]
    code = code_of(product())
    keys = grt.compile(product(), target="cuda:sm_90")._executable.prepared(1)
    bounds = [bound(key) for key in keys]
    assert len(keys) == len(tune.candidates_of(code, 1)) and all(b is not None and 0 < b[0] < 1e-4 and b[1] for b in bounds)
    found = only(grt.compile(product(), target="null", tune=1))
    assert (found.form, found.config) == (code.form.name, code.config)
    assert len(found.rejected) == len(keys) - 1 and all("us at least by its instructions" in r for r in found.rejected)


@needs_compiler
def test_nothing_is_compiled_where_that_is_forbidden(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that the cache lacks is an error that names it; tuning makes do with the candidates that are there."""
    monkeypatch.setenv("GRAPHRT_CACHE", str(folder))
    ahead = grt.compile(product(m=144), target="cuda:sm_90")._executable
    monkeypatch.setenv("GRAPHRT_COMPILE", "0")
    with pytest.raises(errors.TargetError, match=r"1 kernels are not in the cache .*: matmul.*make gpu-kit prepares"):
        grt.compile(product(m=144), target="null")
    monkeypatch.delenv("GRAPHRT_COMPILE")
    few = ahead.prepared(1, most=3)
    assert len(few) == 3 and ahead.prepared(1, share=2.0) == few[:1]
    monkeypatch.setenv("GRAPHRT_COMPILE", "0")
    (reason, *others) = only(grt.compile(product(m=144), target="null", tune=1)).rejected
    assert reason.endswith("candidates: not compiled before, and GRAPHRT_COMPILE=0 compiles none") and len(others) <= 2


@needs_compiler
def test_what_takes_longest_is_tuned_first_and_kept_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that is stopped has found something; one whose time is over says what it left."""
    g = grt.Graph()
    for m in (64, 512, 128):
        g.output(f"y{m}", F.matmul(g.input(f"a{m}", (m, 128), "bfloat16"), g.input(f"b{m}", (128, 64), "bfloat16")))
    monkeypatch.setattr(tune, "candidates_of", lambda code, level: code.choices[:2])
    best, begun = tune.Tuner._best, list[int]()

    def stopped(self: tune.Tuner, key: str, launch: int, code: Any, choices: Any) -> Any:
        begun.append(code.constants["M"])
        if len(begun) == 3:
            raise KeyboardInterrupt
        return best(self, key, launch, code, choices)

    monkeypatch.setattr(tune.Tuner, "_best", stopped)
    with pytest.raises(KeyboardInterrupt):
        grt.compile(g, target="null", tune=1)
    kept = [json.loads(line)["sizes"]["M"] for line in (folder / "null cuda:sm_90.jsonl").read_text().splitlines()]
    assert begun == [512, 128, 64] and kept == begun[:2]
    monkeypatch.setenv("GRAPHRT_TUNE_SECONDS", "1e-9")
    found = grt.compile(g, target="null", tune=1).configurations()
    assert sorted(c.origin for c in found) == ["heuristic", "tuned", "tuned"] and len(begun) == 3
    assert [c.rejected for c in found if c.origin == "heuristic"] == [(f"1 candidates: {tune.OVER}",)]


def test_levels_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ArgumentError, match="tune .* must be 0, 1 or 2, got 3"):
        grt.compile(product(), target="cpu", tune=3)
    with pytest.raises(errors.ArgumentError, match="times kernels on a GPU; the target is 'cpu'"):
        grt.compile(product(), target="cpu", tune=1)
    monkeypatch.setenv("GRAPHRT_TUNE", "1")  # it is about GPUs: nothing to do here
    assert grt.compile(product(), target="reference").configurations() == []


# --- refusals -------------------------------------------------------------------------------------------------------


class Computing(NullDriver):
    """A null driver whose kernels write 1 everywhere, but those on ``wrong`` blocks 2."""

    def __init__(self, wrong: int) -> None:
        super().__init__(NULL.target)
        self.wrong = wrong

    def bind(self, loaded: Any, grid: int, buffers: Any, scratch: Any, dependent: bool = False) -> Callable[[Any], object]:
        checked = super().bind(loaded, grid, buffers, scratch, dependent)

        def launch(stream: Any) -> None:
            checked(stream)
            buffers[-1].fill_(2 if grid == self.wrong else 1)

        return launch


@needs_compiler
def test_a_wrong_candidate_is_rejected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the fastest."""
    code = code_of(product())
    wrong = next(c for c in tune.candidates_of(code, 1) if (c.config["BM"], c.config["BN"]) == (32, 32) and c.form == code.form)
    monkeypatch.setattr("graphrt.targets.triton.device.null_driver", lambda architecture: Computing(wrong.grid))
    monkeypatch.setattr(tune.Tuner, "_times", lambda self, trial, kept: [1e-6 / (1 + (c.grid == wrong.grid)) for c, _ in kept])
    found = only(grt.compile(product(), target="null", tune=1))
    rejected = [r for r in found.rejected if "differs by 1.0e+00" in r]
    alike = [c.text for c in tune.candidates_of(code, 1) if c.grid == wrong.grid]
    assert [r.split(": ")[0] for r in rejected] == alike, "those that are wrong, and no others"
    assert wrong.grid == 6 and (found.form, found.config) == ("matmul", code.config)
    assert "rejected matmul BM" in str(found)


@needs_compiler
def test_candidates_are_pruned_by_what_the_compiler_reports(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_of(product())
    first, spilling, huge, *_ = (c for c in tune.candidates_of(code, 1) if c.form == code.form)
    bad = Choice(code.form, {**first.config, "num_warps": 3}, first.grid)  # no power of two: Triton refuses
    monkeypatch.setattr(tune, "candidates_of", lambda code, level: [first, spilling, huge, bad])
    kernels = {}
    for choice in (spilling, huge):
        compilation = grt.compile(product(), target="cuda:sm_90")._executable._compilation
        binary = build.cached(compilation.codes[0].configured(choice, "tuned"), compilation.module, "cuda:sm_90")
        kernels[binary.code] = choice
    real = usage.usage

    def pretended(code: bytes, target: str) -> tuple[int, int]:
        if kernels.get(code) == spilling:
            return 255, 16
        return (60000, 0) if kernels.get(code) == huge else real(code, target)

    monkeypatch.setattr(tune, "usage", pretended)
    found = only(grt.compile(product(), target="null", tune=1))
    assert len(found.rejected) == 3 and found.config == first.config
    assert found.rejected[0].endswith("spills 16 bytes a thread")
    assert found.rejected[1].endswith("0 warps fit on a multiprocessor")
    assert "num_warps 3" in found.rejected[2]


@needs_compiler
def test_a_candidate_that_takes_too_long_to_compile_is_given_up(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process is ended; the heuristic's kernel has all the time it wants, and others go on."""
    monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path))
    code = code_of(product())
    first, fast, slow = tune.candidates_of(code, 1)[:3]
    monkeypatch.setattr(tune, "candidates_of", lambda code, level: [first, fast, slow])
    compilation = grt.compile(product(), target="cuda:sm_90")._executable._compilation
    build.cached(compilation.codes[0].configured(fast, "tuned"), compilation.module, "cuda:sm_90")
    monkeypatch.setattr(tune, "COMPILING", 0.01)
    found = only(grt.compile(product(), target="null", tune=1))
    (rejected,) = found.rejected
    assert rejected.endswith("TargetError: takes more than 0.01 s to compile") and f"BM {slow.config['BM']}" in rejected
    assert found.record is not None and found.origin == "tuned"


@needs_compiler
@pytest.mark.parametrize("target", ["cuda:sm_90", "hip:gfx942"])
def test_usage_is_read_from_machine_code(target: str) -> None:
    """As the reports of ahead-of-time compilation have it from the compiler's own text."""
    program = grt.compile(product(), target=target)
    (kernel,) = program._executable._compilation.image.kernels
    (report,) = program.kernels()
    assert usage.usage(kernel.code, target) == (report.registers, report.spills) and report.registers > 16


# --- files ----------------------------------------------------------------------------------------------------------


@needs_compiler
def test_what_is_shipped_is_taken_unless_the_cache_knows_better(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = code_of(product())
    second, third = code.choices[1:3]
    other = replace(third, config={**third.config, "BM": 48})
    shipped = records.record(code, NULL.model, second, 1e-6, 2e-6)
    monkeypatch.setattr(records, "shipped", lambda: {shipped.key: shipped})
    assert (only(grt.compile(product(), target="null")).origin, only(grt.compile(product(), target="null")).config) == (
        "shipped",
        second.config,
    )
    records.append(NULL.model, [records.record(code, NULL.model, third, 1e-6, 2e-6)])
    assert only(grt.compile(product(), target="null")).config == third.config
    records.append(NULL.model, [records.record(code, NULL.model, other, 1e-6, 2e-6)])
    assert only(grt.compile(product(), target="null")).origin == "heuristic"  # no candidate: a tile that is not legal


@needs_compiler
def test_keys(folder: Path) -> None:
    code = code_of(product())
    key = records.key(code, "a")
    assert key == records.key(code.configured(code.choices[1], "tuned"), "a") == records.key(code_of(product()), "a")
    others = [records.key(code, "b"), records.key(code_of(product(n=128)), "a")]
    g = grt.Graph()
    g.output("y", F.tanh(F.matmul(g.input("a", (96, 128), "bfloat16"), g.input("b", (128, 64), "bfloat16"))))
    assert len({key, *others, records.key(code_of(g), "a")}) == 4


@needs_compiler
def test_keys_follow_the_template(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it shares its launch with other groups."""
    codes = grt.compile(step(), target="cuda:sm_90")._executable._compilation.codes
    before = [records.key(c, "a") for c in codes]
    monkeypatch.setattr(records, "_source", lambda module: f"another {module}")
    after = [records.key(c, "a") for c in codes]
    alone = [not c.form.module and "BM" not in c.constants for c in codes]
    assert [a == b for a, b in zip(before, after, strict=True)] == alone and any(alone) and not all(alone)


@needs_compiler
def test_damaged_lines_are_left_out(folder: Path) -> None:
    path = folder / "x.jsonl"
    good = records.record(code := code_of(product()), "x", code.choice, 1e-6, 2e-6)
    path.write_text(f'{{"key"\n{good.line()}\n{{"key": "k"}}\n')
    with pytest.warns(UserWarning, match=r"x\.jsonl:[13] is no record of tuning"):
        assert records.read(path) == {good.key: good}


def test_nothing_is_shipped_that_was_not_measured() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = records.shipped()
    assert not [r for r in found.values() if r.device.startswith("null")]
    assert all(r.microseconds > 0 and r.heuristic_microseconds >= r.microseconds for r in found.values())


# --- numbers --------------------------------------------------------------------------------------------------------


def networks() -> dict[str, grt.Graph]:
    g = grt.Graph()
    x = g.input("x", (2, 5, 9, 9), order=(0, 2, 3, 1))
    w, scale = g.parameter("w", np.full((7, 5, 3, 3), 0.1, np.float32)), g.input("scale", (7, 1, 1))
    y = F.max_pool2d(F.relu(F.conv2d(x, w, padding=1) * F.rsqrt(scale)), 2)
    loss = g.output("loss", F.sum(y * y))
    g.update(w, w - 0.1 * grt.grad(loss, [w])[0])
    return {"linear": step(), "conv": g}


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRETED, reason="runs kernels in Triton's interpreter, which needs TRITON_INTERPRET=1")
@pytest.mark.parametrize("name", [*networks()])
def test_trials_compute_what_the_reference_does(name: str) -> None:
    """Of every kernel of a training step, on the trial's own numbers; one with a block too few does not pass."""
    program = grt.compile(networks()[name], target="interpret")
    compilation, driver, missed = program._executable._compilation, InterpretDriver(), 0
    for i, code in enumerate(compilation.codes):
        trial = Trial(driver, code, compilation.kernels[i])
        kernel = JitKernel(*resolve(code, compilation.module))
        result, exact = trial.result(kernel, code.grid), reference(program.schedule, i, trial)
        assert exact is not None and result.keys() == exact.keys() and trial.written
        assert difference(result, exact, 30) == "", code.display
        assert difference(trial.result(kernel, code.grid), result) == ""  # updates in place start from the same values
        for wrong in (0.5, float("nan")):
            spoiled = {s: t.clone() for s, t in result.items()}
            for t in spoiled.values():
                t[...] = wrong if t.dtype.is_floating_point else 77
            missed += not difference(spoiled, result)
    assert not missed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="needs a GPU, and this machine has none")
@pytest.mark.parametrize("name", [*networks()])
def test_tuning_on_a_gpu(folder: Path, name: str) -> None:
    """Candidates compute what the heuristic does, times are times, and the tuned program computes what the reference does."""
    target = "hip" if torch.version.hip else "cuda"
    program, graph = grt.compile(networks()[name], target=target, tune=1), networks()[name]
    found = program.configurations()
    assert found and all(c.record is not None and c.record.microseconds > 0 for c in found)
    assert not [r for c in found for r in c.rejected if "differs" in r or "reference" in r]
    rng = np.random.default_rng(0)
    inputs = {
        n: rng.integers(0, 8, t.shape) if t.dtype.is_int else np.abs(rng.standard_normal(t.shape)).astype(np.float32)
        for n, t in program.inputs.items()
    }
    expected = grt.compile(graph, target="reference:float64")(inputs)
    for output, value in program(inputs).items():
        np.testing.assert_allclose(value, expected[output], rtol=1e-3, atol=1e-3)


def test_differences_beyond_rounding() -> None:
    from graphrt.schedule.schedule import Slot
    from graphrt.types import TensorType, as_dtype

    slot = Slot("arena", "y", TensorType((4,), as_dtype("float32")))
    whole = Slot("arena", "n", TensorType((4,), as_dtype("int64")))
    y = torch.tensor([1.0, 2.0, 3.0, float("inf")])
    assert difference({slot: y * (1 + 1e-6)}, {slot: y}) == ""
    assert difference({slot: y * 1.01}, {slot: y}) == "y differs by 1.0e-02, more than 1e-04"
    assert difference({slot: torch.ones(4)}, {slot: y}) == "y is not finite at the same places"
    assert difference({slot: torch.ones(4)}, {slot: torch.zeros(4)}).startswith("y differs by inf")
    n = torch.arange(4)
    assert difference({whole: n}, {whole: n.double()}) == "" and difference({whole: n + 1}, {whole: n}) == "n differs"
