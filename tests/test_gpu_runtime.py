"""How programs of a GPU run: on the null driver where there is none, on the GPU where there is one, and interpreted.

The null driver checks and records everything around the kernels; numbers are compared on a GPU and under the interpreter,
which run the same code over another driver.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, assert_close, target_parameters

import graphrt as grt
from graphrt import errors, nn, optim
from graphrt import ops as F
from graphrt.targets.reference import evaluate
from graphrt.targets.triton import gpu
from graphrt.targets.triton.binary import TOGETHER
from graphrt.targets.triton.device import null_driver
from graphrt.targets.triton.image import Buffer, make_image
from graphrt.targets.triton.null import Event, NullDriver

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

ROOT = Path(__file__).parent.parent
NULL = null_driver("cuda:sm_90")
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="compiles kernels, so it cannot run under TRITON_INTERPRET=1")


@pytest.fixture(params=target_parameters() if INTERPRETED else ["null", *target_parameters()[1:]])
def device(request: pytest.FixtureRequest) -> str:
    """Every target that a driver runs, in turn."""
    return request.param


def step(train: bool = True, batch: int = 8) -> grt.Graph:
    """A training step of a small network, or its forward pass: three like layers, so that kernels repeat."""
    g, rng = grt.Graph(), np.random.default_rng(0)
    h = g.input("x", (batch, 16))
    for i in range(3):
        h = F.relu(F.linear(h, g.parameter(f"w{i}", rng.standard_normal((16, 16)).astype(np.float32))))
    g.output("scores", h)
    if train:
        loss = g.output("loss", F.cross_entropy(h, g.input("y", (batch,), "int64")))
        parameters, lr = g.parameters(), g.input("lr")
        for p, d in zip(parameters, grt.grad(loss, parameters), strict=True):
            g.update(p, p - d * lr)
    return g


def feeds(seed: int = 0, batch: int = 8) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"x": rng.standard_normal((batch, 16)).astype(np.float32), "y": rng.integers(0, 16, batch), "lr": 0.1}


def slots(program: grt.Program) -> dict[str, Any]:
    return program._binary._slots._slots  # type: ignore[attr-defined]


def launches(program: grt.Program) -> list[Any]:
    return program._binary.image.launches  # type: ignore[attr-defined]


def kinds(log: list[Event]) -> collections.Counter[str]:
    return collections.Counter(event.kind for event in log)


def test_steps_compute_what_the_reference_does(device: str) -> None:
    """Several runs: the first is eager, the others replay; results of one are not overwritten by the next."""
    graph = step()
    program = grt.compile(graph, target=device)
    state, results = dict(graph.initial), []
    for i in range(3):
        results.append((program(feeds(i)), evaluate(graph, {**state, **feeds(i)})))
        state |= {name: results[-1][1][v] for name, v in graph.updates.items()}
    memory = [out[name] for out, _ in results for name in out]
    assert not any(np.shares_memory(a, b) for a, b in zip(memory, memory[1:], strict=False))
    assert all(isinstance(a, np.ndarray) for a in memory)
    if device == "null":
        return
    for out, expected in results:
        for name, v in graph.outputs.items():
            assert_close(out[name], expected[v], 64, name)
    for name, array in state.items():
        assert_close(program.state[name], array, 64, name)


def test_tensors_of_the_device_stay_there(device: str) -> None:
    graph, where = step(), "cuda" if device in ("cuda", "hip") else "cpu"
    program = grt.compile(graph, target=device)
    tensors = {n: torch.as_tensor(v).to(where) for n, v in feeds().items() if n != "lr"}
    out = [program(tensors, lr=0.1) for _ in range(2)]
    assert all(isinstance(t, torch.Tensor) and t.device.type == where for o in out for t in o.values())
    assert out[0]["scores"].data_ptr() != out[1]["scores"].data_ptr() and out[0]["scores"].shape == (8, 16)
    if device != "null":
        assert out[0]["loss"].item() > out[1]["loss"].item() > 0  # one step down, and the first result is still there


def test_outputs_too_large_for_one_copy_and_empty_ones(device: str) -> None:
    g = grt.Graph()
    x = g.input("x", (3, TOGETHER // 4))
    for name, v in (("large", x * 2.0), ("empty", g.input("e", (0, 4)) * 2.0), ("one", F.sum(x))):
        g.output(name, v)
    program = grt.compile(g, target=device)
    out = program(x=np.ones((3, TOGETHER // 4), np.float32), e=np.zeros((0, 4), np.float32))
    assert [a.shape for a in out.values()] == [(3, TOGETHER // 4), (0, 4), ()]
    if device != "null":
        assert (out["large"] == 2).all() and out["one"] == 3 * TOGETHER // 4


def test_every_kind_of_input_lands_in_its_slot(device: str, rng: np.random.Generator) -> None:
    g = grt.Graph()
    types = {"f": "float32", "b": "bfloat16", "i": "int64", "u": "uint8", "flag": "bool"}
    for name, dtype in types.items():
        g.output(f"{name}_out", F.where(F.cast(g.input(name, (2, 6), dtype), "bool"), 1.0, 0.0))
    last = g.input("last", (2, 3, 2, 2), order=(0, 2, 3, 1))
    g.output("sum", last * g.input("scale"))
    program = grt.compile(g, target=device)
    arrays = {n: rng.integers(0, 2, (2, 6)).astype(program.inputs[n].dtype.numpy) for n in types}
    arrays["last"] = rng.standard_normal((2, 3, 2, 2)).astype(np.float32)
    wide = np.repeat(arrays["f"], 2, 1)[:, ::2]  # with gaps in memory
    for given in (arrays, {**arrays, "f": wide}, {**arrays, "f": torch.from_numpy(wide), "last": torch.tensor(arrays["last"])}):
        program({**given, "scale": 0.25})
        for name, slot in slots(program).items():
            expected = np.asarray(arrays.get(name, 0.25), np.float64)
            np.testing.assert_array_equal(slot.to(torch.float64).cpu().numpy(), expected, err_msg=name)
    assert slots(program)["last"].stride() == (12, 1, 6, 3)


def test_wrong_inputs_are_named(device: str) -> None:
    program, good = grt.compile(step(), target=device), feeds()
    x = torch.from_numpy(good["x"]).to("cuda" if device == "cuda" else "cpu")
    for bad, message in [
        (x.to("meta"), "got a tensor that lies on meta; the program runs on"),
        (x.double(), "got torch.float64; convert it first"),
        (good["x"].astype(np.float64), "got float64; convert it first"),
        (x[:4], r"got shape \[4, 16\]"),
        (x.T, r"got shape \[16, 8\]"),
        (x.to_sparse(), "no dense memory"),
    ]:
        with pytest.raises(errors.InputError, match=f"input 'x' is f32.*{message}"):
            program({**good, "x": bad})
    with pytest.raises(errors.InputError, match="missing input 'y'"):
        program(x=x, lr=0.1)


def test_prefetched_batches_are_used_in_order(device: str) -> None:
    graph = step()
    program, other = grt.compile(graph, target=device), grt.compile(graph, target=device)
    batches = [{n: v for n, v in feeds(i).items() if n != "lr"} for i in range(4)]
    program.prefetch(batches[0])
    for i in range(4):
        if i < 3:
            program.prefetch(batches[i + 1])
        found = program(lr=0.1)
        np.testing.assert_array_equal(slots(program)["x"].cpu().numpy(), batches[i]["x"])
        expected = other(batches[i], lr=0.1)
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name])
    for i in range(2):
        program.prefetch(batches[i])
    with pytest.raises(errors.InputError, match="2 prefetched batches wait already"):
        program.prefetch(batches[2])
    program.forget()
    with pytest.raises(errors.InputError, match="missing input"):
        program(lr=0.1)
    program.prefetch(batches[0])
    program({"x": batches[1]["x"]}, lr=0.1)  # what is given comes before what was prefetched
    np.testing.assert_array_equal(slots(program)["x"].cpu().numpy(), batches[1]["x"])
    np.testing.assert_array_equal(slots(program)["y"].cpu().numpy(), batches[0]["y"])


def test_programs_share_a_state_that_does_not_move(device: str) -> None:
    train = grt.compile(step(), target=device)
    infer = grt.compile(step(False), target=device, state=train.state)
    x = feeds()["x"]
    train(feeds())
    before = infer(x=x)["scores"]
    pointer = train.state.on_device("w1", train._binary._driver).data_ptr()  # type: ignore[attr-defined]
    train.state.set("w1", np.full((16, 16), 0.5, np.float32))
    assert train.state.on_device("w1", train._binary._driver).data_ptr() == pointer  # type: ignore[attr-defined]
    assert (train.state["w1"] == 0.5).all()
    after = infer(x=x)["scores"]
    if device != "null":
        assert (before != after).any()
        np.testing.assert_array_equal(train(feeds())["scores"], after)


def test_the_state_is_the_module_s_memory_on_the_device(device: str) -> None:
    where = "cuda" if device == "cuda" else "cpu"
    program = grt.compile(step(False), target=device)
    module = grt.to_torch(program)
    with torch.no_grad():
        for p in module.parameters():
            assert p.device.type == where
            p.fill_(1.0)
        assert (program.state["w2"] == 1).all()
        found = module(x=torch.ones(8, 16, device=where))
    assert found["scores"].device.type == where
    if device != "null":
        assert (found["scores"] == 16.0**3).all()


def test_a_program_of_the_cpu_shares_the_state_too(device: str) -> None:
    graph = step()
    train = grt.compile(graph, target=device)
    train(feeds())
    host = grt.compile(graph, target="cpu", state=train.state)
    host(feeds())
    array = train.state._arrays["w0"]  # what the host wrote
    on_device = train.state.on_device("w0", train._binary._driver)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(on_device.cpu().numpy(), train.state._memory("w0"))
    assert (array != graph.initial["w0"]).any()
    expected = evaluate(graph, {**train.state, **feeds(1)})
    if device != "null":
        assert_close(train(feeds(1))["loss"], expected[graph.outputs["loss"]], 64)


@needs_compiler
def test_a_state_lies_on_one_device() -> None:
    program = grt.compile(step(False), target="null")
    with pytest.raises(errors.InputError, match="state 'w0' lies on null; this program runs on another"):
        other = NullDriver("cuda:sm_80")
        other.where = "another"
        program.state.on_device("w0", other)


def test_threads_share_programs_and_state(device: str) -> None:
    """Updates are applied one after the other: the counter counts every run of every thread."""
    if device == "interpret":
        pytest.skip("Triton's interpreter runs one kernel at a time in a process")
    g = grt.Graph()
    counter = g.parameter("n", np.zeros((), np.float32))
    g.update(counter, counter + g.input("by"))
    first = grt.compile(g, target=device)
    programs = [first, grt.compile(g, target=device, state=first.state)]
    wrong: list[BaseException] = []

    def run(i: int) -> None:
        try:
            for _ in range(20):
                programs[i % 2](by=np.float32(1))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong
    if device != "null":
        assert first.state["n"] == 80


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")
def test_streams_of_torch_are_followed() -> None:
    """Runs on several streams of torch are in order with the work around them, and with each other."""
    g = grt.Graph()
    x, total = g.input("x", (1 << 20,)), g.parameter("total", np.zeros(1 << 20, np.float32))
    g.update(total, total + x)
    g.output("y", x * 2.0)
    program = grt.compile(g, target="cuda")
    streams, found = [torch.cuda.Stream() for _ in range(3)], []
    for i in range(30):
        with torch.cuda.stream(streams[i % 3]):
            x_i = torch.full((1 << 20,), float(i), device="cuda")
            found.append(program(x=x_i)["y"] + 1.0)
    torch.cuda.synchronize()
    assert all((y == 2.0 * i + 1.0).all() for i, y in enumerate(found))
    assert (program.state["total"] == sum(range(30))).all()


def test_profile_times_every_launch(device: str) -> None:
    program = grt.compile(step(), target=device)
    assert len(program.profile(feeds(), runs=2)) == program.launches


# --- what the null driver saw ---------------------------------------------------------------------------------------


@needs_compiler
def test_like_launches_share_one_kernel() -> None:
    program = grt.compile(step(), target="null")
    kernels, made = program._binary.image.kernels, launches(program)  # type: ignore[attr-defined]
    by_name = collections.Counter(kernels[launch.kernel].entry for launch in made)
    assert len(kernels) < len(made) and max(by_name.values()) > 1
    assert len({k.code for k in kernels}) == len(kernels)
    double = grt.compile(step(batch=16), target="null")._binary.image.kernels  # type: ignore[attr-defined]
    assert not {k.code for k in double} & {k.code for k in kernels if "matmul" in k.entry}


@needs_compiler
def test_kernels_are_compiled_by_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from graphrt.targets.triton import build

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("this process compiles nothing")

    monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(build, "cores", lambda: 2)
    monkeypatch.setattr(triton, "compile", refuse)
    image = grt.compile(step(), target="null")._binary.image  # type: ignore[attr-defined]
    assert len(image.kernels) == len(list((tmp_path / "triton" / "kernels").iterdir())) >= build.PARALLEL
    again = grt.compile(step(), target="null")._binary.image  # type: ignore[attr-defined]
    assert again.kernels == image.kernels  # from the cache: nobody compiles
    with pytest.raises(AssertionError, match="compiles nothing"):
        monkeypatch.setattr(build, "cores", lambda: 1)
        grt.compile(step(batch=24), target="null")


@needs_compiler
def test_launches_are_captured_once_and_replayed() -> None:
    with NULL.recorded() as first:  # type: ignore[attr-defined]
        program = grt.compile(step(), target="null")
        program(feeds())
    count = len(launches(program))
    assert [e.size for e in first if e.kind == "capture"] == [count] and kinds(first)["launch"] == count
    assert kinds(first)["place"] == 3 and not kinds(first)["replay"]
    with NULL.recorded() as later:  # type: ignore[attr-defined]
        for i in range(3):
            program(feeds(i))
    assert kinds(later) == {"replay": 3, "fetch": 3}  # no memory is allocated, nothing is launched by itself
    with NULL.recorded() as profiled:  # type: ignore[attr-defined]
        program.profile(feeds(), runs=1)
    assert kinds(profiled) == {"launch": count}


@needs_compiler
def test_without_graphs_launches_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_NO_GRAPH", "1")
    program = grt.compile(step(), target="null")
    with NULL.recorded() as log:  # type: ignore[attr-defined]
        program(feeds())
        program(feeds())
    assert kinds(log)["launch"] == 2 * len(launches(program)) and not kinds(log)["capture"]


@needs_compiler
def test_numbers_are_values_not_constants() -> None:
    program = grt.compile(step(), target="null")
    program({**feeds(), "lr": 0.5})
    with NULL.recorded() as log:  # type: ignore[attr-defined]
        program({**feeds(), "lr": 0.25})
    assert slots(program)["lr"].item() == 0.25 and not kinds(log)["load"]


@needs_compiler
def test_the_null_driver_refuses_what_a_device_would() -> None:
    program = grt.compile(step(False), target="null")
    kernel = program._binary.image.kernels[0]  # type: ignore[attr-defined]
    memory = NULL.allocate(1 << 16)
    views = [memory[256 * i : 256 * i + 64] for i in range(kernel.pointers)]
    NULL.run([NULL.bind(kernel, 1, views, None)])
    with pytest.raises(errors.TargetError, match="takes .* pointers, got"):
        NULL.bind(kernel, 1, views[1:], None)
    with pytest.raises(errors.TargetError, match="is launched on 0 blocks"):
        NULL.bind(kernel, 0, views, None)
    with pytest.raises(errors.TargetError, match="not aligned to 16 bytes"):
        NULL.run([NULL.bind(kernel, 1, [memory[8:72], *views[1:]], None)])
    with pytest.raises(errors.TargetError, match="in no live allocation"):
        NULL.run([NULL.bind(kernel, 1, [torch.zeros(64), *views[1:]], None)])
    with pytest.raises(errors.TargetError, match="in no live allocation"):
        NULL.run([NULL.bind(dataclasses.replace(kernel, scratch=64), 1 << 12, views, memory[1 << 15 :])])
    with pytest.raises(errors.TargetError, match="shared memory and 128 threads"):
        NULL.load(dataclasses.replace(kernel, shared=300 << 10, threads=128))
    with pytest.raises(errors.TargetError, match="a kernel for cuda:sm_80 does not run"):
        NULL.load(dataclasses.replace(kernel, target="cuda:sm_80"))
    with pytest.raises(errors.TargetError, match="is damaged"):
        NULL.load(dataclasses.replace(kernel, code=kernel.code[100:]))
    replay = NULL.capture([NULL.bind(kernel, 1, views, None)])
    replay()
    del memory, views
    with pytest.raises(errors.TargetError, match="in no live allocation"):
        replay()  # the graph's memory is gone


@needs_compiler
def test_scratch_memory_lies_in_the_arena() -> None:
    program = grt.compile(step(False), target="null")
    compilation = program._executable._compilation  # type: ignore[attr-defined]
    image = compilation.image
    kernels = [dataclasses.replace(k, scratch=128) for k in image.kernels]
    wide = make_image(compilation.codes, kernels, [launch.kernel for launch in image.launches], program.plan)
    assert wide.scratch == 256 * -(-128 * max(launch.grid for launch in wide.launches) // 256)
    assert wide.size == image.size + wide.scratch


@needs_compiler
def test_buffers_do_not_overlap() -> None:
    """Inputs and outputs lie behind what is temporary, each in its own bytes."""
    image = grt.compile(step(), target="null")._binary.image  # type: ignore[attr-defined]
    spans = sorted((b.offset, b.offset + b.type.nbytes) for b in image.buffers("input", "output").values())
    assert spans[0][0] >= image.temporary and spans[-1][1] <= image.size
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    temporaries: list[Buffer] = [*image.buffers("arena").values()]
    assert temporaries and all(b.offset + b.type.nbytes <= image.temporary for b in temporaries)


@needs_compiler
@pytest.mark.parametrize("target", ["cuda:sm_90", "hip:gfx942"])
def test_kernels_take_their_pointers_and_two_more(target: str) -> None:
    """What ``KernelBinary`` says of the arguments is what Triton compiled; it differs from version to version."""
    from graphrt.targets.triton.build import cached, compile_kernel

    compilation = grt.compile(step(False), target=target)._executable._compilation  # type: ignore[attr-defined]
    code = compilation.codes[0]
    compiled = compile_kernel(code, compilation.module, target)
    text = compiled.asm["ptx"] if target.startswith("cuda") else compiled.asm["amdgcn"]
    marker = "_param_" if target.startswith("cuda") else ".value_kind:     global_buffer"
    head = text.split(".visible .entry")[1].split(")")[0] if target.startswith("cuda") else text.split(".amdgpu_metadata")[1]
    assert head.count(marker) == cached(code, compilation.module, target).pointers + 2


@needs_compiler
def test_a_trainer_runs_on_the_null_driver() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.1, momentum=0.9), target="null")
    rng = np.random.default_rng(0)
    data = grt.data.Dataset(rng.standard_normal((40, 1, 4, 4)).astype(np.float32), rng.integers(0, 3, 40))
    with NULL.recorded() as log:  # type: ignore[attr-defined]
        trainer.fit(data, epochs=2, batch_size=8, progress=False)
    assert kinds(log)["replay"] == 2 * 5 - 1 and trainer.steps == 10


# --- ahead of time --------------------------------------------------------------------------------------------------

RUN = """
import json, sys
sys.modules["triton"] = None  # nothing compiles here
import numpy as np
import graphrt as grt
from graphrt.targets.triton.device import null_driver
with null_driver(sys.argv[2]).recorded() as log:
    program = grt.load(sys.argv[1], target="null")
    inputs = dict(np.load(sys.argv[3]))
    shapes = {n: list(a.shape) for _ in range(2) for n, a in program(inputs).items()}
kinds = [e.kind for e in log]
state = {n: float(np.asarray(a, np.float64).sum()) for n, a in program.state.items()}
print(json.dumps([shapes, kinds.count("load"), kinds.count("replay"), state, program.target]))
"""


@needs_compiler
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90", "hip:gfx942"])
def test_saved_programs_start_without_a_compiler(tmp_path: Path, target: str) -> None:
    program = grt.compile(step(), target=target)
    program.save(tmp_path / "f.grt")
    np.savez(tmp_path / "inputs.npz", **feeds() | {"lr": np.float32(0.1)})
    command = [sys.executable, "-c", RUN, str(tmp_path / "f.grt"), target, str(tmp_path / "inputs.npz")]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "GRAPHRT_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    shapes, loaded, replayed, state, kind = json.loads(result.stdout)
    assert shapes == {"scores": [8, 16], "loss": []} and kind == "null" and replayed == 1
    assert loaded == len(list((tmp_path / "f.grt").glob("kernel-*"))) < program.launches
    for name, total in state.items():
        assert total == pytest.approx(float(program.state[name].astype(np.float64).sum()))
    assert not (tmp_path / "cache").exists()


@needs_compiler
def test_loaded_programs_compute_the_same(tmp_path: Path, device: str) -> None:
    program = grt.compile(step(), target=device)
    program.save(tmp_path)
    loaded = grt.load(tmp_path, target=device)
    assert loaded.inputs == program.inputs and loaded.outputs == program.outputs
    for i in range(3):
        expected, found = program(feeds(i)), loaded(feeds(i))
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    for name in program.state:
        np.testing.assert_array_equal(loaded.state[name], program.state[name])


@needs_compiler
def test_a_saved_program_says_where_it_runs(tmp_path: Path) -> None:
    grt.compile(step(False), target="hip:gfx942").save(tmp_path)
    with pytest.raises(errors.TargetError, match="was compiled for hip:gfx942, and there is no such GPU"):
        grt.load(tmp_path)
    with pytest.raises(errors.TargetError, match="is a program of hip:gfx942; it does not run on 'cpu'"):
        grt.load(tmp_path, target="cpu")
    with pytest.raises(errors.TargetError, match="it does not run on 'cuda'"):
        grt.load(tmp_path, target="cuda")
    next(tmp_path.glob("kernel-*")).unlink()
    with pytest.raises(errors.InputError, match=r"it has no kernel-\w+.hsaco"):
        grt.load(tmp_path, target="null")


def test_code_runs_on_the_architectures_it_can() -> None:
    assert gpu.runs("cuda:sm_80", "cuda:sm_86") and gpu.runs("cuda:sm_90", "cuda:sm_90")
    for built, there in [("cuda:sm_80", "cuda:sm_90"), ("cuda:sm_86", "cuda:sm_80"), ("cuda:sm_100", "cuda:sm_103")]:
        assert not gpu.runs(built, there)
    assert gpu.runs("hip:gfx942", "hip:gfx942") and not gpu.runs("hip:gfx942", "hip:gfx90a")


# --- the vendor's library, by one that records ----------------------------------------------------------------------

LIBRARY = r"""
#include <string.h>
void *seen[8]; unsigned sizes[7]; void *on; int asked, current;
int cuInit(unsigned f) { return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)(long)(70 + d); return 0; }
int cuCtxSetCurrent(void *c) { current = (int)(long)c; return 0; }
int cuModuleLoadData(void **m, const char *code) { *m = (void *)5; return strcmp(code, "code") ? 200 : 0; }
int cuModuleGetFunction(void **f, void *m, const char *n) { *f = (void *)((long)m + 1); return strcmp(n, "entry") ? 500 : 0; }
int cuFuncSetCacheConfig(void *f, int c) { return 0; }
int cuFuncSetAttribute(void *f, int a, int v) { asked = a == 8 ? v : -1; return 0; }
int cuGetErrorString(int e, const char **t) { *t = e == 500 ? "named symbol not found" : "no image"; return 0; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **args, void **extra) {
  unsigned all[7] = {gx, gy, gz, bx, by, bz, shared};
  memcpy(sizes, all, sizeof all);
  for (int i = 0; i < 5; i++) seen[i] = *(void **)args[i];
  on = stream;
  return f == (void *)6 && current == 71 && !extra ? 0 : 1;
}
"""


def test_launches_reach_the_library_packed(tmp_path: Path) -> None:
    import ctypes

    from graphrt.targets.cpu.build import compiler

    (tmp_path / "cuda.c").write_text(LIBRARY)
    library = tmp_path / "libcuda.so"
    subprocess.run([*compiler(), "-shared", "-fPIC", str(tmp_path / "cuda.c"), "-o", str(library)], check=True)
    cuda = gpu.Cuda(str(library))
    cuda.activate(1)
    function = cuda.load(b"code", "entry", 100 << 10)
    pointers = [0x7F0000000000, 0x7F0000000100, 0xFFFF0000FFFF, 0, 0]
    launch = gpu.prepare(cuda, function, 12, 256, 100 << 10, pointers)
    launch(0x1234567890)
    raw = ctypes.CDLL(str(library))
    assert [p or 0 for p in (ctypes.c_void_p * 8).in_dll(raw, "seen")[:5]] == pointers
    assert list((ctypes.c_uint * 7).in_dll(raw, "sizes")) == [12, 1, 1, 256, 1, 1, 100 << 10]
    assert ctypes.c_void_p.in_dll(raw, "on").value == 0x1234567890 and ctypes.c_int.in_dll(raw, "asked").value == 100 << 10
    with pytest.raises(errors.TargetError, match="CUDA error 500: named symbol not found"):
        cuda.load(b"code", "other", 0)
    with pytest.raises(errors.TargetError, match="CUDA error 200: no image"):
        cuda.load(b"junk", "entry", 0)
    with pytest.raises(errors.TargetError, match="driver library cannot be loaded"):
        gpu.Cuda("libno-such-cuda.so")
