"""Contractions by a library: what becomes a call, what it computes, when it is taken, what is said of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, assert_close, check
from gpu_programs import NULL, needs_compiler
from graphs import lenet_step

import graphrt as grt
from graphrt import errors, nn, optim
from graphrt import ops as F
from graphrt.models.resnet import BasicBlock
from graphrt.op import REGISTRY, Kind

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

from graphrt.targets.triton import library
from graphrt.targets.triton.interpret import InterpretDriver
from graphrt.targets.triton.library import LIBRARY, LibraryCall, View
from graphrt.targets.triton.null import NullDriver
from graphrt.targets.triton.tune import records
from graphrt.targets.triton.tune import tuner as tune
from graphrt.targets.triton.tune.trial import Trial, difference, reference

needs_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs in Triton's interpreter, which needs TRITON_INTERPRET=1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for records; compiled kernels stay where they are."""
    monkeypatch.setattr(records, "file", lambda device: tmp_path / f"{device}.jsonl")
    return tmp_path


def residual(batch: int = 2, half: str | None = None) -> grt.Graph:
    """The training step of a convolution, a block with stride and projection, and a classifier."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), BasicBlock(8, 16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)
    )
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.1), metrics=(), autocast=half)
    return trainer.training_graph(((batch, 3, 9, 9), "float32"), ((batch,), "int64"))


def lenet(batch: int = 3) -> grt.Graph:
    """Its training step, with weights."""
    g, rng = lenet_step(batch), np.random.default_rng(0)
    for name, array in g.initial.items():
        if "momentum" not in name:
            g.initial[name] = rng.standard_normal(array.shape).astype(np.float32) / max(np.prod(array.shape[1:]), 4) ** 0.5
    return g


def feeds(graph: grt.Graph, seed: int = 0) -> dict[str, Any]:
    rng, found = np.random.default_rng(seed), {}
    for node in graph.nodes:
        if node.op.name == "input":
            t = node.types[0]
            array = rng.integers(0, 5, t.shape) if t.dtype.is_int else rng.standard_normal(t.shape)
            found[node.name] = array.astype(t.dtype.numpy)
    return found | ({"lr": np.float32(0.1)} if "lr" in found else {})


def product(m: int = 96, n: int = 64, k: int = 128) -> grt.Graph:
    g = grt.Graph()
    g.output("y", F.matmul(g.input("a", (m, k), "bfloat16"), g.input("b", (k, n), "bfloat16")))
    return g


def codes(program: grt.Program) -> list[Any]:
    return program._executable._compilation.codes


def calls(program: grt.Program) -> list[LibraryCall]:
    return [code.call for code in codes(program) if code.call is not None]


# --- what becomes a call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lenet, residual])
def test_never_is_the_default(make: Callable[[], grt.Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing differs: neither plan nor kernels nor records."""
    graph = make()
    default, never = grt.compile(graph, target="cuda:sm_90"), grt.compile(graph, target="cuda:sm_90", library="never")
    auto = grt.compile(graph, target="cuda:sm_90", library="auto")
    assert default.plan_text() == never.plan_text() == auto.plan_text()
    assert default.source() == never.source() == auto.source()
    assert not calls(default) and not calls(auto) and not [c for c in codes(default) if c.offer or c.refused]
    assert [records.key(c, "x") for c in codes(default)] == [records.key(c, "x") for c in codes(never)]
    changed = [records.key(a, "x") != records.key(b, "x") for a, b in zip(codes(default), codes(auto), strict=True)]
    assert changed == [c.offer is not None for c in codes(auto)] and not all(changed)
    monkeypatch.setenv("GRAPHRT_LIBRARY", "always")
    assert calls(grt.compile(graph, target="cuda:sm_90")) and not calls(
        grt.compile(graph, target="cuda:sm_90", library="never")
    )


@pytest.mark.parametrize("half", [None, "bfloat16"])
@pytest.mark.parametrize("arch", ["cuda:sm_90", "hip:gfx942"])
def test_always_leaves_contractions_alone(half: str | None, arch: str) -> None:
    program = grt.compile(residual(half=half), target=arch, library="always")
    assert program.schedule is not None
    found = [launch for launch in program.schedule.launches if any(_contraction(g.anchor) for g in launch.groups)]
    assert len(found) == len(calls(program)) == 5 + 5 + 4  # no gradient of the image
    assert all(len(m.groups) == 1 and len(m.groups[0].nodes) == 1 and not m.groups[0].inlined for m in found)
    vendors = {"conv": "cuDNN", "matmul": "cuBLAS"} if arch == "cuda:sm_90" else {"conv": "MIOpen", "matmul": "hipBLAS"}
    text = program.explain().full()
    for call in calls(program):
        assert call.library == vendors[call.op.split("_")[0]]
        assert f"library: {call}: asked for" in text
    i = next(i for i, code in enumerate(codes(program)) if code.call)
    assert program.source(i).splitlines()[-1] == f"# {codes(program)[i].call}"


def _contraction(node: grt.ir.Node | None) -> bool:
    return node is not None and node.op.kind is Kind.CONTRACTION


def test_what_the_library_cannot_do_is_said() -> None:
    g = grt.Graph()
    x, w = g.input("x", (2, 4, 8, 8), order=(0, 2, 3, 1)), g.parameter("w", shape=(4, 4, 3, 3))
    g.output("uneven", F.conv2d(F.pad(x, (0, 1, 0, 1)), w))
    g.output("both", F.conv2d(F.concat([x[:, :2], F.relu(x[:, 2:])], 1), w))
    a, b = g.input("a", (6, 5)), g.input("b", (5, 4))
    g.output("backwards", F.matmul(F.flip(a, 1), b))
    g.output("reshaped", F.matmul(F.reshape(F.transpose(a, 0, 1), (6, 5)), b))
    g.output("nothing", F.matmul(g.input("e", (3, 0)), g.input("f", (0, 2))))
    program = grt.compile(g, target="cuda:sm_90", library="always")
    reasons = {r for c in program.configurations() for r in c.rejected}
    assert not calls(program) and len(reasons) == 5
    for reason in ("is padded or put together where it is read", "one that runs backwards", "it is empty"):
        assert any(r.startswith("library: ") and r.endswith(reason) for r in reasons), (reason, reasons)
    assert all(f"  rejected {r}" in program.explain().full() for r in reasons)


def test_the_command_line_and_the_trainer_take_it() -> None:
    from typer.testing import CliRunner

    from graphrt.cli import app

    command = ["explain", "lenet5", "--target", "cuda:sm_90", "--batch", "2", "--full"]
    for options, said in (([], False), (["--library", "always"], True)):
        result = CliRunner().invoke(app, [*command, *options])
        assert result.exit_code == 0 and ("by cuDNN through torch: asked for" in result.output) == said, result.output
    net = nn.Sequential(nn.Linear(4, 3))
    x, y = np.zeros((2, 4), np.float32), np.zeros(2, np.int64)
    for mode, count in (("always", 2), ("never", 0)):
        trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.1), metrics=(), target="cuda:sm_90", library=mode)
        assert len(calls(trainer.program("train", x, y))) == count


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_it_is_about_gpus(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        errors.ArgumentError, match=f"library='always' is about contractions on a GPU; the target is '{target}'"
    ):
        grt.compile(product(), target=target, library="always")
    with pytest.raises(errors.ArgumentError, match=r"library .* must be never, auto or always, got 'cudnn'"):
        grt.compile(product(), target=target, library="cudnn")
    monkeypatch.setenv("GRAPHRT_LIBRARY", "always")
    grt.compile(product(), target="reference")


# --- what it computes -----------------------------------------------------------------------------------------------


def _samples() -> Iterator[Any]:
    for op in REGISTRY.values():
        if op.kind is Kind.CONTRACTION:
            for i, sample in enumerate(op.samples(np.random.default_rng(0))):
                yield pytest.param(op.name, sample, id=f"{op.name}{i}")


@pytest.mark.interpret
@needs_interpreter
@pytest.mark.parametrize(("name", "sample"), [*_samples()])
def test_every_contraction(name: str, sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strided, dilated, grouped, in batches: each sample of the registry, but those that no call can compute."""
    from graphrt.ops.base import apply

    monkeypatch.setenv("GRAPHRT_LIBRARY", "always")
    g = grt.Graph()
    operands = [g.input(f"x{i}", a.shape, a.dtype.name) for i, a in enumerate(sample.inputs)]
    g.output("y", apply(name, *operands, **sample.attrs))
    check(g, {f"x{i}": a for i, a in enumerate(sample.inputs)}, "interpret", 300)
    (code,) = codes(grt.compile(g, target="interpret"))
    uneven = any(a != b for a, b in sample.attrs.get("padding", ()))
    assert (code.call is None) == (uneven or bool(sample.attrs.get("splits")) or not all(a.size for a in sample.inputs))


@pytest.mark.interpret
@needs_interpreter
@pytest.mark.parametrize("make", [lenet, residual, lambda: residual(half="float16")], ids=["lenet", "residual", "half"])
def test_steps_compute_what_the_reference_does(make: Callable[[], grt.Graph]) -> None:
    """Losses and new parameters of three steps, and those of the templates."""
    graph = make()
    half = any("float16" in str(t.dtype) for n in graph.nodes for t in n.types)
    programs = [grt.compile(make(), target="interpret", library=mode) for mode in ("always", "never")]
    programs.append(grt.compile(graph, target="reference"))
    for p in programs:
        for name, array in graph.initial.items():
            p.state.set(name, array)
    assert calls(programs[0]) and not calls(programs[1])
    for i in range(3):
        ours, templates, exact = (float(p(feeds(graph, i))["loss"]) for p in programs)
        assert ours == pytest.approx(exact, rel=2e-2 if half else 1e-4)
        assert ours == pytest.approx(templates, rel=2e-2 if half else 1e-4)
    for name in graph.updates:
        new = [p.state[name] for p in programs]
        np.testing.assert_allclose(new[0], new[2], atol=2e-2 if half else 2e-4, err_msg=name)


@pytest.mark.interpret
@needs_interpreter
def test_trials_of_calls() -> None:
    """What tuning compares: each call's result on the trial's own numbers, and its time."""
    program = grt.compile(residual(), target="interpret", library="always")
    compilation, tried = program._executable._compilation, 0
    for i, code in enumerate(compilation.codes):
        if code.call is not None:
            trial = Trial(InterpretDriver(), code, compilation.kernels[i])
            exact = reference(program.schedule, i, trial)
            assert exact is not None and difference(trial.result(code.call, code.grid), exact, 30) == ""
            assert trial.clock(code.call, code.grid)() > 0
            tried += 1
    assert tried == 14


@pytest.mark.interpret
@needs_interpreter
def test_operands_are_views(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of attention, transposed, sliced and broadcast operands, two results of one product."""
    monkeypatch.setenv("GRAPHRT_LIBRARY", "always")
    g = grt.Graph()
    q, k = g.input("q", (2, 5, 12)), g.input("k", (2, 7, 12))
    heads = [F.permute(F.reshape(v, (2, v.shape[1], 3, 4)), (0, 2, 1, 3)) for v in (q, k)]
    g.output("scores", F.matmul(heads[0], F.transpose(heads[1], 2, 3)))
    y = F.matmul(q[1, 1:4], F.transpose(k[0], 0, 1))
    g.output("sliced", y)
    g.output("again", y)
    g.output("one_for_all", F.matmul(F.broadcast_to(q[:1], (2, 5, 12)), F.transpose(k, 1, 2)))
    check(g, {"q": rng.standard_normal((2, 5, 12)).astype(np.float32), "k": rng.standard_normal((2, 7, 12)).astype(np.float32)},
          "interpret", 12)  # fmt: skip
    program = grt.compile(g, target="interpret")
    assert len(calls(program)) == 3 and max(len(c.results) for c in calls(program)) == 2
    assert {c.library for c in calls(program)} == {"the CPU"}


def test_a_call_is_told_and_read_again(rng: np.random.Generator) -> None:
    """Through JSON; the same call on the same buffers gives the same bits, beside what must stay as it is."""
    view = View(0, (2, 3, 6, 5), (90, 1, 15, 3)), View(1, (4, 3, 3, 2), (18, 6, 2, 1), 2)
    geometry = (("stride", (2, 1)), ("padding", (1, 0)), ("dilation", (1, 2)), ("groups", 1))
    call = LibraryCall("conv", "cuDNN", view, (View(2, (2, 4, 3, 3), (36, 1, 12, 4)),), geometry, "high")
    again = LibraryCall.parse(json.loads(json.dumps(call.described())))
    assert again == call and str(again) == str(call) and "stride (2, 1)" in str(call)
    buffers = [torch.from_numpy(rng.standard_normal(n).astype(np.float32)) for n in (180, 74, 80)]
    before = [b.clone() for b in buffers]
    call.check(buffers)
    assert all(torch.equal(a, b) for a, b in zip(before, buffers, strict=True))
    for c in (call, again, again):
        c.bind(buffers)(None)
        x = before[0].as_strided((2, 3, 6, 5), (90, 1, 15, 3))
        w = before[1][2:].as_strided((4, 3, 3, 2), (18, 6, 2, 1))
        expected = torch.nn.functional.conv2d(x.double(), w.double(), None, (2, 1), (1, 0), (1, 2))
        assert_close(buffers[2][:72].as_strided((2, 4, 3, 3), (36, 1, 12, 4)).numpy(), expected.numpy(), 18)
        assert torch.equal(buffers[2][72:], before[2][72:])


def test_a_call_that_does_not_fit() -> None:
    a, b, y = View(0, (4, 3), (3, 1)), View(1, (3, 5), (5, 1)), View(2, (4, 5), (5, 1))
    call = LibraryCall("matmul", "cuBLAS", (a, b), (y,))
    good = [torch.zeros(n) for n in (12, 15, 20)]
    call.check(good)
    for launch in (call, LibraryCall("matmul", "cuBLAS", (a, b), (View(2, (4, 5), (5, 1), 1),))):
        with pytest.raises(errors.TargetError, match=r"tensor \[\d, \d\] of strides \[\d, 1\] lies outside its buffer"):
            launch.check([good[0][1:], *good[1:]])
    with pytest.raises(errors.TargetError, match="library_matmul takes 3 buffers, got 2"):
        call.check(good[:2])
    with pytest.raises(RuntimeError):  # torch's own: another dtype
        call.check([good[0].double(), *good[1:]])
    with pytest.raises(RuntimeError):
        LibraryCall("matmul", "cuBLAS", (a, View(1, (4, 3), (3, 1))), (y,)).check(good)


# --- torch's settings -----------------------------------------------------------------------------------------------


def _state() -> list[Any]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    names = ("fp32_precision", "allow_fp16_accumulation", *library._REDUCTIONS)
    found = [getattr(matmul, n) for n in names] + [
        cudnn.conv.fp32_precision,
        cudnn.benchmark,
        cudnn.deterministic,
        cudnn.enabled,
    ]
    return [*found, torch.is_autocast_enabled("cpu")]


CASES: dict[str, Callable[[], None]] = {
    "default": lambda: None,
    "wide": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32"),
    "narrow": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    "chosen by timing": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "half sums": lambda: setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True),
    "exact sums": lambda: setattr(torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction", False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_settings_are_the_programs_and_put_back(case: str, precision: str) -> None:
    start, rounded = _state(), "tf32" if precision == "medium" else "ieee"
    try:
        CASES[case]()
        before = _state()
        for fails in (False, True):
            with torch.autocast("cpu", torch.bfloat16), pytest.raises(ZeroDivisionError) if fails else _nothing():
                with library._settings("cpu", precision):
                    assert _state() == [rounded, False, False, False, rounded, False, True, True, False]
                    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32 and not torch.is_grad_enabled()
                    assert not fails or 1 / 0
            assert _state() == before
    finally:
        matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        for name, value in zip(("fp32_precision", "allow_fp16_accumulation", *library._REDUCTIONS), start, strict=False):
            setattr(matmul, name, value)
        cudnn.conv.fp32_precision, cudnn.benchmark = start[4], start[5]


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()


def test_a_wider_setting_goes_on_to_decide() -> None:
    """What was inherited is inherited afterwards, and not pinned."""
    matmul, conv, allowed = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.allow_tf32
    was = torch.backends.fp32_precision, matmul.fp32_precision, conv.fp32_precision
    try:
        matmul.fp32_precision = "none"
        torch.backends.fp32_precision = "tf32"
        with library._settings("cpu", "highest"):
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision, matmul.fp32_precision, conv.fp32_precision = was
    assert torch.backends.cudnn.allow_tf32 is allowed  # which torch cannot tell when convolutions and RNNs differ


# --- on a device ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_calls_are_launches_of_the_graph() -> None:
    graph = residual()
    with NULL.recorded() as log:
        program = grt.compile(graph, target="null", library="always")
        program(feeds(graph))
    names = [e.name for e in log if e.kind == "launch"]
    assert [n for n in names if n.startswith("library")] == [c.name for c in calls(program)]
    assert [e.size for e in log if e.kind == "capture"] == [len(names)]
    with NULL.recorded() as later:
        program(feeds(graph))
    assert [e.size for e in later if e.kind == "replay"] == [len(names)]
    assert len(program.profile(feeds(graph), runs=1)) == program.launches
    assert not [k for k in program._binary.image.kernels if k.__class__.__name__ == "KernelBinary" and "conv" in k.entry]


@needs_compiler
@pytest.mark.parametrize("target", ["cuda:sm_90", "hip:gfx942"])
def test_calls_are_saved(tmp_path: Path, target: str) -> None:
    graph = residual()
    program = grt.compile(graph, target=target, library="always")
    assert len(program.kernels()) == len([*{id(k) for k in program._executable._compilation.image.kernels}]) - len(
        {*calls(program)}
    )
    program.save(tmp_path / "f.grt")
    entries = json.loads((tmp_path / "f.grt" / "manifest.json").read_text())["kernels"]
    found = [LibraryCall.parse(e["call"]) for e in entries if "call" in e]
    assert {*found} == {*calls(program)} and len(found) == len({*found}) < len(entries)
    from graphrt.targets.triton.device import null_driver

    with null_driver(target).recorded() as log:
        loaded = grt.load(tmp_path / "f.grt", target="null")
        for _ in range(2):
            assert loaded(feeds(graph)).keys() == {"loss"}
    assert [e.name for e in log if e.kind == "launch" and "library" in e.name] == [c.name for c in calls(program)]


@needs_compiler
def test_auto_takes_what_tuning_found_faster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake clock likes the library; without one, nothing says that it is faster."""
    (kernel,) = grt.compile(product(), target="null", library="auto", tune=1).configurations()
    assert kernel.origin == "tuned" and kernel.config != LIBRARY and kernel.call is None
    (folder / "null cuda:sm_90.jsonl").unlink()
    tried: list[int] = []

    def times(self: Any, trial: Any, kept: Any) -> list[float]:
        tried.append(sum(c.config == LIBRARY for c, _ in kept))
        return [2e-6 - 1e-6 * (c.config == LIBRARY) for c, _ in kept]

    monkeypatch.setattr(tune.Tuner, "_times", times)
    first = grt.compile(product(), target="null", library="auto", tune=1)
    (found,) = first.configurations()
    assert tried == [1] and found.config == LIBRARY and found.origin == "tuned" and [found.call] == calls(first)
    assert str(found).splitlines()[0] == (
        "matmul: library: matmul of [96, 128] and [128, 64], by cuBLAS through torch: tuned, "
        "1 predicted kiloclocks, heuristic 2"
    )
    (row,) = map(json.loads, (folder / "null cuda:sm_90.jsonl").read_text().splitlines())
    assert row["config"] == LIBRARY and row["kernel"] == "matmul" and row["microseconds"] == 1
    again = grt.compile(product(), target="null", library="auto")  # level 0: from the record
    (known,) = again.configurations()
    assert known == dataclasses.replace(found, rejected=()) and str(known) in again.explain().full()
    assert again._binary.image.kernels == [found.call]
    again(feeds(product()))
    for mode in (None, "never"):  # who did not ask gets none, whatever is on record
        (plain,) = grt.compile(product(), target="null", library=mode).configurations()
        assert plain.origin == "heuristic" and plain.call is None
    (plain,) = grt.compile(product(), target="null", tune=1).configurations()
    assert plain.config != LIBRARY and tried == [1, 0]
    assert grt.compile(product(), target="null", library="auto").configurations() == [known]


class Computing(NullDriver):
    """A null driver whose kernels write 1 everywhere, and libraries 2."""

    def bind(self, loaded: Any, grid: int, buffers: Any, scratch: Any, dependent: bool = False) -> Callable[[Any], object]:
        checked = super().bind(loaded, grid, buffers, scratch, dependent)

        def launch(stream: Any) -> None:
            checked(stream)
            buffers[-1].fill_(1 + isinstance(loaded, LibraryCall))

        return launch


@needs_compiler
def test_auto_takes_no_wrong_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast it comes."""
    monkeypatch.setattr("graphrt.targets.triton.device.null_driver", Computing)
    monkeypatch.setattr(tune, "CANDIDATES", 2)
    monkeypatch.setattr(tune.Tuner, "_times", lambda self, trial, kept: [2.0 - (c.config == LIBRARY) for c, _ in kept])
    (found,) = grt.compile(product(), target="null", library="auto", tune=1).configurations()
    assert found.call is None and found.rejected == ("library: y differs by 1.0e+00, more than 3e-02",)


@needs_compiler
def test_auto_leaves_fused_kernels_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.Tuner, "_times", lambda self, trial, kept: [2.0 - (c.config == LIBRARY) for c, _ in kept])
    monkeypatch.setattr(tune, "CANDIDATES", 2)
    g = product()
    g.output("z", F.relu(F.matmul(F.transpose(g.outputs["y"], 0, 1), g.input("c", (96, 64), "bfloat16"))))
    program = grt.compile(g, target="null", library="auto", tune=1)
    assert program.plan_text() == grt.compile(g, target="null").plan_text()
    assert [(c.kernel, c.call is not None) for c in program.configurations()] == [("matmul", True), ("matmul__relu", False)]
    assert not [r for c in program.configurations() for r in c.rejected if r.startswith("library")]  # nobody asked for it there
    program(feeds(g))


GPU = pytest.mark.skipif(not torch.cuda.is_available() or INTERPRETED, reason="needs a GPU, and this machine has none")


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("make", [lenet, residual, lambda: residual(half="bfloat16")], ids=["lenet", "residual", "half"])
def test_on_a_gpu(make: Callable[[], grt.Graph]) -> None:
    """Losses and parameters are the reference's, and two programs give the same bits; torch's settings change neither."""
    graph, target = make(), "hip" if torch.version.hip else "cuda"
    half = any("float16" in str(t.dtype) for n in graph.nodes for t in n.types)
    programs = [grt.compile(graph, target=target, library="always") for _ in range(2)]
    exact = grt.compile(graph, target="reference")
    for p in (*programs, exact):
        for name, array in graph.initial.items():
            p.state.set(name, array)
    was = torch.backends.cudnn.benchmark
    try:
        for i in range(4):
            torch.backends.cudnn.benchmark = i > 1
            first, second = (p(feeds(graph, i))["loss"] for p in programs)
            assert np.array_equal(first, second)
            assert float(first) == pytest.approx(float(exact(feeds(graph, i))["loss"]), rel=5e-2 if half else 1e-3)
    finally:
        torch.backends.cudnn.benchmark = was
    for name in graph.updates:
        assert np.array_equal(programs[0].state[name], programs[1].state[name])
        np.testing.assert_allclose(programs[0].state[name], exact.state[name], atol=5e-2 if half else 1e-3, err_msg=name)


@pytest.mark.gpu
@GPU
def test_auto_on_a_gpu(folder: Path) -> None:
    """Whichever is faster, the result is right, and what was taken is said."""
    target = "hip" if torch.version.hip else "cuda"
    program = grt.compile(product(), target=target, library="auto", tune=1)
    (found,) = program.configurations()
    assert found.record is not None and not [r for r in found.rejected if r.startswith("library")]
    assert (found.config == LIBRARY) == (found.call is not None)
    a, b = (torch.randn(s, dtype=torch.bfloat16, device="cuda") for s in ((96, 128), (128, 64)))
    torch.testing.assert_close(program(a=a, b=b)["y"], a @ b, rtol=2e-2, atol=2e-2)
