"""What drivers are asked to do: kernels shared and compiled once, a graph captured once, calls that a GPU would take."""

from __future__ import annotations

import collections
import dataclasses
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from gpu_programs import NULL, feeds, kinds, launches, needs_compiler, slots, step

import graphrt as grt
from graphrt import errors, nn, optim
from graphrt.targets.triton import gpu
from graphrt.targets.triton.binary import DeviceBinary
from graphrt.targets.triton.driver import HostStream
from graphrt.targets.triton.image import Buffer, make_image
from graphrt.targets.triton.null import NullDriver

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")


@needs_compiler
def test_like_launches_share_one_kernel() -> None:
    program = grt.compile(step(), target="null")
    kernels, made = program._binary.image.kernels, launches(program)
    by_name = collections.Counter(kernels[launch.kernel].entry for launch in made)
    assert len(kernels) < len(made) and max(by_name.values()) > 1
    assert len({k.code for k in kernels}) == len(kernels)
    double = grt.compile(step(batch=16), target="null")._binary.image.kernels
    assert not {k.code for k in double} & {k.code for k in kernels if "matmul" in k.entry}


@needs_compiler
def test_kernels_are_compiled_by_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    from graphrt.targets.triton.compile import build

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("this process compiles nothing")

    monkeypatch.setenv("GRAPHRT_CACHE", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr(build, "cores", lambda: 2)
    monkeypatch.setattr(triton, "compile", refuse)
    image = grt.compile(step(), target="null")._binary.image
    assert len(image.kernels) == len(list((tmp_path / "triton" / "kernels").iterdir())) >= build.PARALLEL
    again = grt.compile(step(), target="null")._binary.image
    assert again.kernels == image.kernels  # from the cache: nobody compiles
    with pytest.raises(AssertionError, match="compiles nothing"):
        monkeypatch.setattr(build, "cores", lambda: 1)
        grt.compile(step(batch=24), target="null")


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended may be listed until somebody asks how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@needs_compiler
def test_compilers_die_with_the_process_that_asked(tmp_path: Path) -> None:
    """Even where it is killed; and the assembler with them, for which a script that sleeps stands here."""
    from triton import knobs

    real, fake, started = knobs.nvidia.ptxas.path, tmp_path / "ptxas", tmp_path / "started"
    wait = f"echo $$ $PPID >> {started}; exec sleep 600"
    fake.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then exec {real} --version; fi\n{wait}\n')
    fake.chmod(0o755)
    places = {"GRAPHRT_CACHE": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "triton"), "TRITON_PTXAS_PATH": str(fake)}
    code = (
        "import graphrt as grt; from gpu_programs import step; from graphrt.targets.triton.compile import build;"
        "build.cores = lambda: 2; grt.compile(step(), target='null')"
    )
    asking = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **places, "PYTHONPATH": os.path.dirname(__file__)}
    )
    end, pids = time.monotonic() + 120, []
    try:
        while len(pids) < 4 and time.monotonic() < end and asking.poll() is None:
            time.sleep(0.05)
            pids = started.read_text().split() if started.exists() else []
        assert len(pids) == 4 and all(alive(int(p)) for p in pids), "two compilers are at work, with an assembler each"
        asking.kill()
        asking.wait()
        while any(alive(int(p)) for p in pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(alive(int(p)) for p in pids)
    finally:
        asking.kill()
        for pid in filter(alive, map(int, pids)):
            os.kill(pid, signal.SIGKILL)


@needs_compiler
def test_launches_are_captured_once_and_replayed() -> None:
    with NULL.recorded() as first:
        program = grt.compile(step(), target="null")
        program(feeds())
    count = len(launches(program))
    assert [e.size for e in first if e.kind == "capture"] == [count] and kinds(first)["launch"] == count
    assert kinds(first)["place"] == 3 and not kinds(first)["replay"]
    with NULL.recorded() as later:
        for i in range(3):
            program(feeds(i))
    # No memory is allocated, nothing is launched by itself; an event says when pinned memory was read.
    assert kinds(later) == {"replay": 3, "fetch": 3, "copy": 6, "event": 3}
    with NULL.recorded() as profiled:
        program.profile(feeds(), runs=1)
    assert (
        kinds(profiled)["launch"] == 2 * program.launches and not kinds(profiled)["replay"]
    )  # the run that is timed, and one whose launches a trace shows


@needs_compiler
def test_without_graphs_launches_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHRT_NO_GRAPH", "1")
    program = grt.compile(step(), target="null")
    with NULL.recorded() as log:
        program(feeds())
        program(feeds())
    assert kinds(log)["launch"] == 2 * len(launches(program)) and not kinds(log)["capture"]


@needs_compiler
def test_numbers_are_values_not_constants() -> None:
    program = grt.compile(step(), target="null")
    program({**feeds(), "lr": 0.5})
    with NULL.recorded() as log:
        program({**feeds(), "lr": 0.25})
    assert slots(program)["lr"].item() == 0.25 and not kinds(log)["load"]


@needs_compiler
def test_a_number_is_written_where_it_is_not_there_yet() -> None:
    """By its bits: 0.0 and -0.0 are two. A tensor that is copied into the slot is forgotten by nobody."""
    program = grt.compile(step(), target="null")
    filled: list[float] = []
    slot = slots(program)["lr"]
    slots(program)["lr"] = SimpleNamespace(copy_=slot.copy_, fill_=lambda v: filled.append(v) or slot.fill_(v))
    rates = [0.5, 0.5, np.float32(0.5), 0.0, -0.0, -0.0, torch.tensor(0.25), -0.0, np.float32(np.nan), np.float32(np.nan)]
    for rate in rates:
        program({**feeds(), "lr": rate})
        np.testing.assert_array_equal(np.float32(slot.item()).tobytes(), np.float32(rate).tobytes())
    assert [str(v) for v in filled] == ["0.5", "0.0", "-0.0", "-0.0", "nan"]


@needs_compiler
@pytest.mark.parametrize("lasting", [True, False])
def test_streams_wait_only_for_others(lasting: bool) -> None:
    """A run waits for the last one, and the last program on its state, where these were on other streams.

    One that may be destroyed has an event behind each run; of others nothing is asked until another stream must wait.
    """

    class Stream(HostStream):
        def __init__(self) -> None:
            self.waited: list[Any] = []
            self.recorded: list[Any] = []

        def wait_event(self, event: Any) -> None:
            self.waited.append(event)

        def wait_stream(self, stream: Any) -> None:
            self.waited.append(stream)

        def record_event(self, event: Any = None) -> Any:
            self.recorded.append(event or object())
            return self.recorded[-1]

    one, other = Stream(), Stream()
    driver = NullDriver("cuda:sm_90")
    now = [one]
    driver.stream = lambda: now[0]  # type: ignore[method-assign]
    driver.fork = lambda: HostStream()  # type: ignore[method-assign]
    driver.lasts = lambda stream: lasting  # type: ignore[method-assign]
    program = grt.compile(step(), target="cuda:sm_90")
    image = program._executable._compilation.image
    first, second = (DeviceBinary(image, driver, program.outputs) for _ in range(2))
    for binary in (first, second):
        binary.attach(program.state)
    inputs = program._bind(feeds())
    inputs |= {name: torch.from_numpy(inputs[name]) for name in ("x", "y")}
    for binary in (first, second):
        binary.run(inputs, program.state, True)  # its first run has a stream of its own
    events = 0 if lasting else 1

    def run(binary: DeviceBinary, stream: Stream, tensors: bool) -> tuple[list[Any], int]:
        now[0] = stream
        before = len(one.recorded) + len(other.recorded)
        stream.waited.clear()
        binary.run(inputs, program.state, tensors)
        return list(stream.waited), len(one.recorded) + len(other.recorded) - before

    def end(stream: Stream) -> Any:
        return stream if lasting else stream.recorded[-1]

    for tensors in (False, True):
        run(first, one, tensors)
        assert run(first, one, tensors) == ([], events)
        last = end(one)
        assert run(second, other, tensors)[0][-1] is last  # the state's; before it, that of its own memory
        assert run(second, other, tensors) == ([], events)
        last = end(other)
        waited, count = run(first, one, tensors)
        assert waited == [last] and count == events  # of its own run it was behind anyway
        last = end(one)
        assert run(first, other, tensors) == ([last] * 2, events)
        run(first, one, tensors)


@needs_compiler
def test_a_call_with_tensors_that_stay_is_one_replay() -> None:
    """No copy of inputs or results, no event, nothing written that is there: in a loop that keeps the last loss."""
    program = grt.compile(step(), target="null")
    x, y = (torch.from_numpy(v) for v in (feeds()["x"], feeds()["y"]))
    given = {"x": x, "y": y, "lr": 0.1}
    with NULL.recorded() as first:
        for _ in range(4):  # the first graph, one over the slots of inputs, and one for each of two regions of results
            loss = program(given)["loss"]
    assert kinds(first)["capture"] == 4 and kinds(first)["copy"] == 4
    with NULL.recorded() as later:
        for _ in range(3):
            loss = program(given)["loss"]
    assert kinds(later) == {"replay": 3}
    kept = [loss, *(program(given)["loss"] for _ in range(3))]
    assert len({t.data_ptr() for t in kept}) == 4  # who keeps more gets copies
    with NULL.recorded() as elsewhere:
        for i in range(5):
            program({**given, "x": torch.zeros(5, 8, 16)[i]})
    assert kinds(elsewhere)["copy"] == 10 and not kinds(elsewhere)["event"]
    moved = torch.zeros(8 * 16 + 1)[1:].view(8, 16)  # not where kernels may load 16 bytes at once
    turned = torch.zeros(16, 8).t()
    for odd in (moved, turned):
        with NULL.recorded() as log:
            for _ in range(4):
                program({**given, "x": odd})
        assert kinds(log)["copy"] >= 4
    numpy = feeds()
    with NULL.recorded() as log:
        program(numpy)
    assert kinds(log) == {"copy": 2, "event": 1, "replay": 1, "fetch": 1}


@needs_compiler
def test_the_null_driver_refuses_what_a_device_would() -> None:
    program = grt.compile(step(False), target="null")
    kernel = program._binary.image.kernels[0]
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
        NULL.run([NULL.bind(dataclasses.replace(kernel, scratch=128), 1 << 12, views, memory[1 << 15 :])])
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
def test_a_slot_lies_as_its_input() -> None:
    """So that a tensor which lies so too is copied as it is."""
    g = grt.Graph()
    g.output("y", g.input("x", (2, 3, 4, 5), order=(0, 2, 3, 1)) * 2.0)
    program, x = grt.compile(g, target="null"), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    program(x=x)
    slot = slots(program)["x"]
    assert slot.stride() == x.stride() and torch.equal(slot, x)


@needs_compiler
def test_scratch_memory_lies_in_the_arena() -> None:
    program = grt.compile(step(False), target="null")
    compilation = program._executable._compilation
    image = compilation.image
    kernels = [dataclasses.replace(k, scratch=128) for k in image.kernels]
    wide = make_image(compilation.codes, kernels, [launch.kernel for launch in image.launches], program.plan)
    assert wide.scratch == 256 * -(-128 * max(launch.grid for launch in wide.launches) // 256)
    assert wide.size == image.size + wide.scratch


@needs_compiler
def test_buffers_do_not_overlap() -> None:
    """Inputs and outputs lie behind what is temporary, each in its own bytes."""
    image = grt.compile(step(), target="null")._binary.image
    spans = sorted((b.offset, b.offset + b.type.nbytes) for b in image.buffers("input", "output").values())
    assert spans[0][0] >= image.temporary and spans[-1][1] <= image.size
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    temporaries: list[Buffer] = [*image.buffers("arena").values()]
    assert temporaries and all(b.offset + b.type.nbytes <= image.temporary for b in temporaries)


@needs_compiler
@pytest.mark.parametrize("target", ["cuda:sm_90", "hip:gfx942"])
def test_kernels_take_their_pointers_and_two_more(target: str) -> None:
    """What ``KernelBinary`` says of the arguments is what Triton compiled; it differs from version to version."""
    from graphrt.targets.triton.compile.build import cached, compile_kernel

    compilation = grt.compile(step(False), target=target)._executable._compilation
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
    with NULL.recorded() as log:
        trainer.fit(data, epochs=2, batch_size=8, progress=False)
    assert kinds(log)["replay"] == 2 * 5 - 1 and trainer.steps == 10


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
int cooperative;
int cuLaunchCooperativeKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                              unsigned shared, void *stream, void **args) {
  cooperative = 1;
  return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, args, 0);
}
int serialized;
typedef struct { int id; char pad[4]; union { char pad[64]; int on; } value; } Attribute;
typedef struct { unsigned grid[3], block[3], shared; void *stream; Attribute *attributes; unsigned count; } Config;
int cuLaunchKernelEx(const Config *c, void *f, void **args, void **extra) {
  serialized = c->count == 1 && c->attributes->id == 6 ? c->attributes->value.on : -1;
  return cuLaunchKernel(f, c->grid[0], c->grid[1], c->grid[2], c->block[0], c->block[1], c->block[2], c->shared, c->stream,
                        args, extra);
}
"""


@pytest.mark.parametrize("dependent,together", [(False, False), (True, False), (False, True)])
def test_launches_reach_the_library_packed(tmp_path: Path, dependent: bool, together: bool) -> None:
    import ctypes

    from graphrt.targets.cpu.build import compiler

    (tmp_path / "cuda.c").write_text(LIBRARY)
    library = tmp_path / "libcuda.so"
    subprocess.run([*compiler(), "-shared", "-fPIC", str(tmp_path / "cuda.c"), "-o", str(library)], check=True)
    cuda = gpu.Cuda(str(library))
    cuda.activate(1)
    function = cuda.load_kernel(b"code", "entry", 100 << 10)
    pointers = [0x7F0000000000, 0x7F0000000100, 0xFFFF0000FFFF, 0, 0]
    launch = gpu.prepare(cuda, function, 12, 256, 100 << 10, pointers, dependent, together)
    gc.collect()
    launch(0x1234567890)
    raw = ctypes.CDLL(str(library))
    assert [p or 0 for p in (ctypes.c_void_p * 8).in_dll(raw, "seen")[:5]] == pointers
    assert ctypes.c_int.in_dll(raw, "serialized").value == dependent
    assert ctypes.c_int.in_dll(raw, "cooperative").value == together
    assert list((ctypes.c_uint * 7).in_dll(raw, "sizes")) == [12, 1, 1, 256, 1, 1, 100 << 10]
    assert ctypes.c_void_p.in_dll(raw, "on").value == 0x1234567890 and ctypes.c_int.in_dll(raw, "asked").value == 100 << 10
    with pytest.raises(errors.TargetError, match="CUDA error 500: named symbol not found"):
        cuda.load_kernel(b"code", "other", 0)
    with pytest.raises(errors.TargetError, match="CUDA error 200: no image"):
        cuda.load_kernel(b"junk", "entry", 0)
    with pytest.raises(errors.TargetError, match="driver library cannot be loaded"):
        gpu.Cuda("libno-such-cuda.so")


class RecordingLibrary:
    """A vendor's library that launches nothing."""

    launch_as = None

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        self.active: list[int] = []
        self.collecting: list[bool] = []  # whether garbage may be collected at each launch

    def activate(self, device: int) -> None:
        self.active.append(device)

    def load_kernel(self, code: bytes, entry: str, shared: int) -> str:
        return entry

    def launch(self, *args: Any) -> int:
        self.launched.append(args)
        self.collecting.append(gc.isenabled())
        return 0

    def launch_together(self, *args: Any) -> int:
        return self.launch(*args, None)

    def check(self, status: int) -> None:
        raise AssertionError(status)


@needs_compiler
@pytest.mark.parametrize("hip", [None, "7.0"])
def test_the_gpu_driver_speaks_torch_cuda(monkeypatch: pytest.MonkeyPatch, hip: str | None) -> None:
    """A run over stand-ins for torch.cuda that accept only calls which its classes would take."""
    stream, graph = (create_autospec(c, instance=True) for c in (torch.cuda.Stream, torch.cuda.CUDAGraph))
    stream.cuda_stream = 7
    cuda = {name: create_autospec(getattr(torch.cuda, name)) for name in ("current_stream", "stream", "device", "Event")}
    stream.stream_id = 0
    cuda |= {"Stream": create_autospec(torch.cuda.Stream, return_value=stream)}
    cuda |= {"CUDAGraph": create_autospec(torch.cuda.CUDAGraph, return_value=graph)}
    cuda["current_stream"].return_value = stream
    for name in ("stream", "device"):
        cuda[name].return_value = nullcontext()
    monkeypatch.setattr(gpu, "architecture", lambda index: "cuda:sm_90")
    monkeypatch.setattr(torch.cuda, "get_device_name", create_autospec(torch.cuda.get_device_name, return_value="NVIDIA H200"))
    properties = create_autospec(torch.cuda.get_device_properties, return_value=SimpleNamespace(multi_processor_count=132))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    library = RecordingLibrary()
    driver = gpu.GpuDriver(3, library)
    assert driver.model == "NVIDIA H200" and driver.units == 132 and not driver.simulated
    driver._device = torch.device("cpu")
    driver._torch = SimpleNamespace(
        version=SimpleNamespace(hip=hip),
        zeros=torch.zeros,
        uint8=torch.uint8,
        empty=lambda *a, pin_memory, **k: torch.empty(*a, **k),
        cuda=SimpleNamespace(**cuda),
    )
    program = grt.compile(step(), target="cuda:sm_90")
    image = program._executable._compilation.image
    binary = DeviceBinary(image, driver, program.outputs)
    binary.attach(program.state)
    for i in range(3):
        binary.run(program._bind(feeds(i)), program.state)
    graph.capture_begin.assert_called_once_with(capture_error_mode="thread_local")
    assert graph.capture_end.call_count == 1 and graph.replay.call_count == 2 and set(library.active) == {3}
    assert len(library.launched) == 2 * len(image.launches)  # the first run, and the capture, when nothing is collected
    assert library.collecting == [True] * len(image.launches) + [False] * len(image.launches) and gc.isenabled()
    for (entry, gx, gy, gz, threads, *_, shared, on, _, extra), made in zip(library.launched, image.launches * 2, strict=True):
        kernel = image.kernels[made.kernel]
        assert (entry, gx, gy, gz, threads, shared) == (kernel.entry, made.grid, 1, 1, kernel.threads, kernel.shared)
        assert on == 7 and extra is None
    # Clocks: events within a graph that is captured once; on HIP the launches go one by one between events outside.
    count, event = len(image.launches), cuda["Event"]
    event.return_value.elapsed_time.return_value = 3.0
    event.reset_mock()
    for _ in range(2):
        assert binary.time(program._bind(feeds()), program.state) == [0.003] * count
    event.assert_called_with(enable_timing=True, external=hip is None)
    assert event.call_count == count + 1 and graph.capture_end.call_count == (2 if hip is None else 1)
    assert len(library.launched) == (2 + (1 if hip is None else 2)) * count
    assert binary.elapsed(program._bind(feeds()), program.state, 5) == 0.003
    assert event.call_count == count + 3 and event.return_value.record.call_count == (count + 1) * (1 if hip is None else 2) + 2
    assert graph.replay.call_count == 2 + (3 if hip is None else 0)
    assert binary.prefetch(program._bind({n: v for n, v in feeds().items()})).keys() == {"x", "y", "lr"}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's count of the pages in use")
def test_memory_that_nobody_touches_is_not_taken() -> None:
    """The arena of a large step, on a driver of the CPU's memory, is address space."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    memory = NullDriver("cuda:sm_90").allocate(1 << 30)
    assert memory.data_ptr() % 256 == 0 and not memory[:: 1 << 26].any() and resident() - before < 1 << 26
