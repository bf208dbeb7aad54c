"""Programs in use: shared state, torch tensors, threads, fork, thread counts, a missing compiler, save and load."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_close
from small import batch, classifier, digest

import graphrt as grt
from graphrt import errors
from graphrt import ops as F
from graphrt.runtime.arrays import to_numpy
from graphrt.targets.cpu import build
from graphrt.targets.reference.evaluate import evaluate
from graphrt.types import TensorType, as_dtype, float32


def test_programs_share_state_in_any_layout() -> None:
    train = grt.compile(classifier(True), target="cpu")
    infer = grt.compile(classifier(False), target="cpu", state=train.state)
    before = infer(x=batch()["x"])["logits"]
    logits = [train(batch())["logits"] for _ in range(2)]
    np.testing.assert_array_equal(before, logits[0])
    assert (logits[1] != logits[0]).any()
    np.testing.assert_allclose(infer(x=batch()["x"])["logits"], train(batch())["logits"], rtol=1e-6)
    with pytest.raises(errors.InputError, match="'w' is"):
        g = grt.Graph()
        g.output("y", g.parameter("w", shape=(3,)) * 2.0)
        grt.compile(g, target="cpu", state=train.state)


def test_a_program_is_not_changed_by_what_the_graph_becomes() -> None:
    g = grt.Graph()
    x = g.input("x", (3,))
    g.output("y", F.relu(x))
    program = grt.compile(g, target="cpu")
    g.output("z", x * 2.0)
    assert list(program(x=np.ones(3, np.float32))) == ["y"]
    assert list(grt.compile(g, target="cpu")(x=np.ones(3, np.float32))) == ["y", "z"]


def test_torch_tensors_go_in_without_a_copy_and_come_out() -> None:
    program = grt.compile(classifier(False), target="cpu")
    x = torch.from_numpy(batch()["x"])
    bound = program._bind({"x": x})["x"]
    assert bound.ctypes.data == x.data_ptr()
    y = program(x=x)["logits"]
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), program(x=batch()["x"])["logits"])
    strided = x.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)
    np.testing.assert_array_equal(program(x=strided)["logits"].numpy(), y.numpy())


def test_inputs_lie_in_the_order_they_name(target: str, rng: np.random.Generator) -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (2, 16, 5, 5), order=(0, 2, 3, 1)), graph.input("w", (4, 16, 3, 3))
    assert grt.Graph.parse(str(graph)).sources["x"].types == x.node.types
    program = grt.compile(F.conv2d(x, w), target=target)
    feeds = {"w": rng.standard_normal((4, 16, 3, 3)).astype(np.float32)}
    last = rng.standard_normal((2, 5, 5, 16)).astype(np.float32).transpose(0, 3, 1, 2)
    expected = torch.conv2d(torch.from_numpy(last.copy()), torch.from_numpy(feeds["w"])).numpy()
    for array in (last, np.ascontiguousarray(last), np.repeat(last, 2, 0)[::2]):  # as it says, otherwise, with gaps
        np.testing.assert_allclose(program(x=array, **feeds), expected, atol=1e-4)
    assert program._array("x", last).ctypes.data == last.ctypes.data
    with pytest.raises(errors.ArgumentError, match="must list its 2 dimensions"):
        graph.input("y", (2, 3), order=(0, 2))


def test_several_threads_call_several_programs() -> None:
    programs = [grt.compile(classifier(False), target="cpu") for _ in range(2)]
    expected = programs[0](x=batch()["x"])["logits"]
    wrong: list[int] = []

    def run(i: int) -> None:
        for _ in range(30):
            if not np.array_equal(programs[i % 2](x=batch()["x"])["logits"], expected):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_empty_products_in_a_thread_that_has_no_scratch_memory_yet() -> None:
    graph = grt.Graph()
    program = grt.compile(F.matmul(graph.input("a", (200, 0)), graph.input("b", (0, 5))) + 1.0, target="cpu")
    found: list[np.ndarray] = []
    feeds = {"a": np.zeros((200, 0), np.float32), "b": np.zeros((0, 5), np.float32)}
    thread = threading.Thread(target=lambda: found.append(program(feeds)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], np.ones((200, 5), np.float32))


def test_a_forked_child_computes_beside_its_parent() -> None:
    """Each has its own threads and its own arena."""
    program = grt.compile(classifier(False), target="cpu")
    feeds = [batch(seed)["x"] for seed in range(2)]
    expected = [program(x=x)["logits"] for x in feeds]

    def same(which: int) -> bool:
        return all(np.array_equal(program(x=feeds[which])["logits"], expected[which]) for _ in range(200))

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"1" if same(1) else b"0")
        os._exit(0)
    assert same(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"


def test_a_fork_waits_for_what_other_threads_run() -> None:
    """The child of a process whose other thread is inside a program finds free locks and whole parameters."""
    graph = grt.Graph()
    w, x = graph.parameter("w", np.zeros((256, 256), np.float32)), graph.input("x", (256, 256))
    graph.update(w, w + 1.0 + F.matmul(x, w) * 0.0)
    program = grt.compile(graph, target="cpu")
    feeds = {"x": np.zeros((256, 256), np.float32)}
    program(feeds)
    over = threading.Event()

    def train() -> None:
        while not over.is_set():
            program(feeds)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(20)  # ends it, should it hang
                before = program.state["w"].copy()
                program(feeds)
                after = program.state["w"]
                os._exit(0 if (before == before[0, 0]).all() and (after == before + 1.0).all() else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        over.set()
        thread.join()


def test_what_a_thread_used_is_freed_when_it_ends() -> None:
    code = """
import threading, numpy as np, graphrt as grt
from graphrt import ops as F
graph = grt.Graph()
x, w = np.ones((8, 64, 32, 32), np.float32), np.ones((64, 64, 3, 3), np.float32)
program = grt.compile(F.conv2d(graph.input("x", x.shape), graph.input("w", w.shape), padding=1), target="cpu")
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def call(times):
    for _ in range(times):
        thread = threading.Thread(target=program, kwargs={"x": x, "w": w})
        thread.start()
        thread.join()
    return resident()
before = call(20)
print(call(100) - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40e6  # each thread needs 1.5 MB


def test_a_process_may_end_while_a_thread_is_inside_a_program() -> None:
    """What a frozen program has packed is still read then."""
    code = """
import threading, time, numpy as np, graphrt as grt
from graphrt import ops as F
graph = grt.Graph()
h = graph.input("x", (4, 64, 56, 56))
for i in range(4):
    h = F.conv2d(h, graph.parameter(f"w{i}", np.ones((64, 64, 3, 3), np.float32)), padding=1)
program = grt.compile(h, target="cpu", freeze=True)
x = np.ones((4, 64, 56, 56), np.float32)
start = time.perf_counter()
program(x=x)
def call():
    while True:
        program(x=x)
threading.Thread(target=call, daemon=True).start()
time.sleep((time.perf_counter() - start) / 3)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


class Pressing:
    """The library of a program in whose launches of given numbers Ctrl-C is pressed."""

    def __init__(self, library: Any, presses: list[int]) -> None:
        self._library, self._presses, self.launched = library, presses, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def graphrt_launch(self, number: int, table: Any) -> None:
        self._library.graphrt_launch(number, table)
        self.launched.append(number)
        for _ in range(self._presses.count(number)):
            signal.raise_signal(signal.SIGINT)


def stepping(updates: bool) -> grt.Program:
    """Four products and, behind them, updates of two parameters in launches of their own."""
    graph = grt.Graph()
    x, w, v = (
        graph.input("x", (8, 8)),
        graph.parameter("w", np.eye(8, dtype=np.float32)),
        graph.parameter("v", np.zeros(3, "f")),
    )
    y = x
    for _ in range(4):
        y = y @ w
    graph.output("y", y)
    if updates:
        graph.update(w, w + F.mean(y))
        graph.update(v, v + F.sum(w))
    return grt.compile(graph, target="cpu", fusion="none")


@pytest.mark.skipif(sys.platform != "linux", reason="reads what the kernel says of a process")
def test_programs_that_are_dropped_are_unloaded() -> None:
    def mapped() -> int:
        gc.collect()
        return Path("/proc/self/maps").read_text().count("/program-")

    def use(number: int) -> None:
        graph = grt.Graph()
        w = graph.parameter("w", np.ones((4, 4), np.float32))
        program = grt.compile((graph.input("x", (4, 4)) * float(number)) @ w, target="cpu", freeze=True)
        assert program(x=np.ones((4, 4), np.float32))[0, 0] == 4 * number and mapped() > before

    before = mapped()
    for number in (3, 4, 3):
        use(number)
        assert mapped() == before


@pytest.mark.parametrize("updates", [False, True])
def test_an_interruption_before_state_is_written_comes_at_once(updates: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    program, feeds = stepping(updates), {"x": np.full((8, 8), 0.5, np.float32)}
    binary: Any = program._binary
    library = Pressing(binary._library, [1])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(binary, "_library", library)
        program(feeds)
    assert library.launched == [0, 1] and program.launches > 2 and not program.state.torn
    np.testing.assert_array_equal(program.state["w"], np.eye(8))
    monkeypatch.setattr("graphrt.targets.cpu.target.QUICK", float("inf"))
    np.testing.assert_array_equal(program(feeds)["y"], feeds["x"])  # launch by launch
    assert binary._quick
    np.testing.assert_array_equal(program(x=feeds["x"] * 0)["y"], feeds["x"] * 0)  # in one call
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("presses, patience", [(1, 1.0), (2, 1.0), (1, -1.0)])
def test_an_interruption_while_state_is_written(
    presses: int, patience: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run comes to its end if that is near; else, or if it is asked for again, the state is marked until it is set."""
    monkeypatch.setattr("graphrt.runtime.interruption.PATIENCE", patience)
    program, feeds = stepping(True), {"x": np.full((8, 8), 0.5, np.float32)}
    before = {name: array.copy() for name, array in program.state.items()}
    binary: Any = program._binary
    first = binary._program.unwritten
    assert 4 <= first < program.launches - 1
    library = Pressing(binary._library, [first] * presses)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(binary, "_library", library)
        program(feeds)
    if presses == 1 and patience > 0:
        assert len(library.launched) == program.launches and not program.state.torn
        np.testing.assert_array_equal(program.state["w"], np.eye(8, dtype=np.float32) + np.float32(0.5))
        np.testing.assert_array_equal(program.state["v"], np.full(3, 8, np.float32))
        return
    assert library.launched == list(range(first + 1)) and program.state.torn
    for use in (lambda: program(feeds), lambda: program.profile(feeds), lambda: program.state.save(tmp_path / "state")):
        with pytest.raises(errors.InputError, match="interrupted while it wrote the state 'v' and 1 more: .*load a checkpoint"):
            use()
    for name, array in before.items():
        program.state.set(name, array)
    np.testing.assert_array_equal(program(feeds)["y"], feeds["x"])


def test_the_number_of_threads_changes_no_bit() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import small; print(small.digest())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "GRAPHRT_THREADS": n}, capture_output=True, text=True, check=True
        ).stdout
        for n in ("1", "3")
    }
    assert found == {digest() + "\n"}


def test_no_compiler_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    build.compiler.cache_clear()
    try:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr(build.shutil, "which", lambda name: None)
        monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(errors.TargetError, match="apt-get install gcc"):
            build.compiler()
        monkeypatch.setenv("CC", "no-such-compiler")
        with pytest.raises(errors.TargetError, match="no-such-compiler"):
            build.compiler()
    finally:
        build.compiler.cache_clear()


def test_what_the_compiler_refuses_is_quoted() -> None:
    with pytest.raises(errors.TargetError, match="error"):
        build.build(["this is no C\n"], "broken")


def test_cuda_without_a_gpu_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA GPU")
    with pytest.raises(errors.TargetError, match="target='cpu'"):
        grt.compile(classifier(False), target="cuda")
    assert grt.compile(classifier(False)).target == "cpu"


def test_interpret_needs_its_own_process() -> None:
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.fail("this test belongs to the lane that compiles")
    with pytest.raises(errors.TargetError, match="TRITON_INTERPRET=1"):
        grt.compile(classifier(False), target="interpret")


def test_state_saves_in_logical_layout_and_loads(tmp_path: Path) -> None:
    program = grt.compile(classifier(True), target="cpu")
    program(batch())
    path = tmp_path / "state.safetensors"
    program.state.save(path)
    other = grt.compile(classifier(True), target="reference")
    other.state.load(path)
    for name in program.state:
        np.testing.assert_array_equal(program.state[name], other.state[name])
    with pytest.raises(errors.InputError, match="unexpected"):
        grt.compile(
            grt.Graph.parse(
                "%0 w : f32[2] = parameter(shape=(2,), dtype='float32', trainable=True)   # a:1 fwd\noutput y = %0\n"
            ),
            target="cpu",
        ).state.load(path)


WRONG = [  # a state's dtype, what it is not set to, and what is said of that
    ("float32", np.ones(2, np.complex64), "no complex numbers"),
    ("float32", np.array(["1", "2"]), "no dtype of graphrt"),
    ("float32", torch.ones(2, device="meta"), "Tensor does not fit"),
    ("float32", torch.ones(2).to_sparse(), "Tensor does not fit"),
    ("float32", [1.0, [2.0]], "list does not fit"),
    ("int32", np.ones(2), r"got float64; convert it first, an array with .astype\('int32'\)"),
    ("int32", [1, 2**31], "got 1 to 2147483648"),
    ("uint8", [-1, 2], "got -1 to 2"),
    ("uint8", [1, 2**70], "no dtype of graphrt"),
    ("bool", [0, 2], r"got int64; convert it first"),
]


@pytest.mark.parametrize("dtype, value, message", WRONG)
def test_state_is_not_set_to_other_numbers(dtype: str, value: Any, message: str) -> None:
    state = grt.State()
    state.share("w", np.zeros(2, dtype))
    with pytest.raises(errors.InputError, match=message):
        state.set("w", value)
    assert not state["w"].any()


@pytest.mark.parametrize("dtype, value", [("float16", [0.1, 2]), ("float32", [True, False]), ("int64", [True, False])])
def test_state_is_set_to_what_its_dtype_can_hold(dtype: str, value: list[Any]) -> None:
    state = grt.State()
    state.share("w", np.zeros(2, dtype))
    for given in (value, np.array(value), np.array(value)[::-1][::-1], torch.tensor(value)):
        state.set("w", given)
        np.testing.assert_array_equal(state["w"], np.array(value, dtype))


@pytest.mark.parametrize("dtype", ["float64", "bool", "int32", "float16"])
def test_state_of_another_dtype_is_not_loaded(tmp_path: Path, dtype: str) -> None:
    own, other = grt.State(), grt.State()
    own.add("w", TensorType((2,), float32), np.ones(2))
    other.share("w", np.ones(2, dtype))
    other.save(tmp_path / "file")
    with pytest.raises(errors.InputError, match="of another dtype w"):
        own.load(tmp_path / "file")


@pytest.mark.parametrize("large", [3, 1 << 20])
def test_buffers_of_a_state_lie_apart_and_start_as_they_are_said_to(large: int) -> None:
    """In one piece of memory, huge pages where it is large; what is zero is not written."""
    starts: dict[str, np.ndarray] = {
        "zeros": np.broadcast_to(np.float32(0), (large, 2)),
        "less": np.broadcast_to(np.float32(-0.0), (5,)),
        "ones": np.broadcast_to(np.float32(1), (7, 2, 3)),
        "odd": np.arange(3, dtype=np.int8),
        "empty": np.zeros((0, 3), np.float32),
        "number": np.asarray(7, np.int64),
        "last": np.linspace(0, 1, large, dtype="f"),
    }
    orders = {"ones": (1, 2, 0)}
    types = {n: TensorType(a.shape, as_dtype(a.dtype)).with_order(orders.get(n)) for n, a in starts.items()}
    state = grt.State()
    state.extend(types, starts, {})
    for name, start in starts.items():
        assert state[name].tobytes() == start.tobytes(), name
        assert (state[name].ctypes.data % 64 == 0 or not start.size) and state[name].flags.writeable
    assert len({state[name].ctypes.data for name in starts}) == len(starts), "of which one is empty"
    assert state["ones"].strides == tuple(4 * s for s in types["ones"].strides)
    for i, name in enumerate(starts):
        state[name][...] = i
    assert all((state[name] == i).all() for i, name in enumerate(starts)), "none is another's"


@pytest.mark.parametrize("target", ["cpu", "debug"])
def test_programs_that_share_a_state_take_turns(target: str) -> None:
    """Two that count, and one that compares what both write: no step is lost, and none is seen half done."""
    state, size, runs, wrong = grt.State(), 100_000, 100, list[float]()

    def program(made: Callable[[grt.Graph, grt.Value, grt.Value], None]) -> grt.Program:
        g = grt.Graph()
        made(g, g.parameter("a", shape=(size,)), g.parameter("b", shape=(size,)))
        return grt.compile(g, target=target, state=state, fusion="none")  # several launches, between which others could run

    def count(g: grt.Graph, a: grt.Value, b: grt.Value) -> None:
        g.update(a, a + 1.0)
        g.update(b, b + 1.0)

    compare = program(lambda g, a, b: g.output("differ", F.amax(F.abs(a - b))))

    def watch() -> None:
        wrong.extend(float(d) for _ in range(runs) if (d := compare()["differ"]))

    counters = [program(count) for _ in range(2)]
    threads = [threading.Thread(target=lambda p=p: [p() for _ in range(runs)]) for p in counters]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and (state["a"] == 2 * runs).all() and (state["b"] == 2 * runs).all()


@pytest.mark.parametrize("place", [0.05, 0.5, 0.99])
def test_altered_state_is_not_loaded(tmp_path: Path, place: float) -> None:
    """Neither numbers nor what a checkpoint says of them."""
    state, path = grt.State(), tmp_path / "state.safetensors"
    state.extend({"w": TensorType((1000,), float32)}, {"w": np.arange(1000)}, {})
    state.save(path, {"epoch": "5" * 400})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match=f"{path} is not"):
        state.load(path)
    path.write_bytes(content[:-1])
    with pytest.raises(errors.InputError, match="not all of one"):
        state.load(path)


def test_a_program_shows_what_it_is() -> None:
    program = grt.compile(classifier(True), target="cpu")
    assert "GRT_PLAN = " in program.source() and "#include" in program.source(0)
    plan = program.memory()
    assert plan is not None and 0 < plan.size <= plan.unplanned and "launches" in str(plan)
    profile = program.profile(batch(), runs=3)
    assert len(profile) == program.launches and all(p.seconds > 0 and p.bytes > 0 for p in profile)
    assert "launches" in str(program.explain()) and program.plan_text().startswith("g0 ")
    assert "(target=cpu, x : f32[" in repr(program) and repr(program).endswith(", fusion=all)")
    assert repr(grt.compile(classifier(True), target="cpu", fusion="-epilogue")).endswith(", fusion=-epilogue)")
    with pytest.raises(errors.ArgumentError, match="launch must lie in"):
        program.source(99)
    with pytest.raises(errors.ArgumentError, match="no kernel reports"):
        program.kernels()


def test_the_cpu_target_needs_neither_triton_nor_torch() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; sys.modules['torch'] = None\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import graphrt as grt, numpy as np\n"
        "g = grt.Graph(); x = g.input('x', (2, 3)); g.output('y', grt.ops.relu(x) * 2.0)\n"
        "p = grt.compile(g); print(p.target, p(x=np.ones((2, 3), np.float32))['y'].sum())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "cpu 12.0\n"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_reference_computes_halves_in_float32(dtype: str) -> None:
    graph = grt.Graph()
    x, w = graph.input("x", (1, 2, 5, 5), dtype), graph.input("w", (3, 2, 3, 3), dtype)
    program = grt.compile(F.conv2d(x, w), target="reference")
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(v.shape).astype(v.dtype.numpy) for n, v in (("x", x), ("w", w))}
    assert_close(program(arrays), evaluate(graph, arrays)[graph.nodes[-1].outputs[0]])


def test_the_reference_may_compute_in_double() -> None:
    """So does what is made of its programs, which is compiled for the target by its name."""
    g = grt.Graph()
    x = g.input("x", (2,))
    g.output("y", (x + 1e8) - 1e8)
    programs = {name: grt.compile(g, target=name) for name in ("reference", "reference:float64")}
    differentiable = torch.tensor([0.5, 3.0], requires_grad=True)
    for program in (programs, {name: grt.to_torch(p) for name, p in programs.items()}):
        assert program["reference"](x=differentiable)["y"].tolist() == [0.0, 0.0]
        assert program["reference:float64"](x=differentiable)["y"].tolist() == [0.5, 3.0]
    assert grt.compile(g, target="reference", precision="float64").target == "reference:float64"


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_an_input_that_nothing_reads_need_not_be_given(target: str) -> None:
    graph = grt.Graph()
    x = graph.input("x", (3,))
    graph.input("unread", (4,))
    assert grt.compile(x + 1.0, target=target)(x=np.zeros(3, np.float32)).tolist() == [1.0, 1.0, 1.0]


def test_an_argument_may_be_state_that_the_program_writes(target: str, tmp_path: Path) -> None:
    """It is read as it was before the run: whole or in part, by whichever library it is seen."""
    start, rest = np.arange(16, dtype=np.float32).reshape(4, 4), np.arange(8, dtype=np.float32)
    views: dict[str, Any] = {
        "whole": lambda s: s["w"],
        "part": lambda s: s["w"][1:],
        "transposed": lambda s: s["w"].T,
        "tensor": lambda s: s.tensor("w"),
        "dlpack": lambda s: np.from_dlpack(s["w"]),
        "another": lambda s: s["other"].reshape(2, 4),
    }
    for kind in ("reference", target, *(["loaded"] if target == "cpu" else [])):
        for name, view in views.items():
            graph = grt.Graph()
            w, other = graph.parameter("w", start), graph.parameter("other", rest)
            rows = {"part": 3, "another": 2}.get(name, 4)
            x = graph.input("x", (rows, 4))
            wide = F.transpose(F.pad(x, (0, 0, 0, 4 - rows)), 0, 1)
            graph.update(w, wide + w)
            graph.update(other, other + F.sum(x))
            graph.output("y", F.sum(w))
            program: Any = grt.compile(graph, target=target if kind == "loaded" else kind)
            if kind == "loaded":
                program.save(tmp_path / name)
                program = grt.load(tmp_path / name)
            given = to_numpy(view(program.state)).copy()
            program(x=view(program.state))
            grown = np.zeros((4, 4), np.float32)
            grown[:rows] = given
            np.testing.assert_array_equal(program.state["w"], grown.T + start, err_msg=f"{kind} {name}")
            np.testing.assert_array_equal(program.state["other"], rest + given.sum(), err_msg=f"{kind} {name}")
            if name == "whole":
                program.prefetch(x=program.state["w"])
                before = program.state["w"].copy()
                program()
                np.testing.assert_array_equal(program.state["w"], before.T + before)


@pytest.mark.parametrize("written", ["whole", "part"])
def test_state_that_lies_in_other_state_is_read_and_not_written(written: str, target: str) -> None:
    memory = torch.arange(12.0)
    state = grt.State()
    for name, tensor in {"whole": memory[:8], "part": memory[2:6], "apart": memory[8:]}.items():
        state.share(name, tensor)
    for name in ("", "apart", written):
        g = grt.Graph()
        values = {v: g.parameter(v, shape=state[v].shape) for v in ("whole", "part", "apart")}
        g.output("y", F.sum(values["whole"]) * 100.0 + F.sum(values["part"]))
        if name == written:
            g.update(values[name], values[name] * 2.0)
            with pytest.raises(errors.InputError, match="'whole' and 'part' lie in the same memory"):
                grt.compile(g, target=target, state=state)
        else:
            if name:
                g.update(values[name], values[name] * 2.0)
            assert float(grt.compile(g, target=target, state=state)()["y"]) == 2814.0
    np.testing.assert_array_equal(memory[8:], [16, 18, 20, 22])


def test_an_argument_may_be_a_parameter_of_the_torch_module() -> None:
    class Grows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.arange(9.0).reshape(3, 3))

        def forward(self, x: Any) -> Any:
            self.w.add_(x.t())
            return x.sum()

    net = Grows()
    program = grt.compile(grt.from_torch(net, (torch.zeros(3, 3),)), target="cpu")
    program(net.w)
    np.testing.assert_array_equal(net.w, np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T)


def test_arrays_by_position_are_told_the_names() -> None:
    graph = grt.Graph()
    graph.output("y", graph.input("a", (2,)) + graph.input("b", (2,)))
    program = grt.compile(graph, target="reference")
    for arrays in ([np.ones(2)], [np.ones(2), np.ones(2)]):
        with pytest.raises(errors.InputError, match=r"program\(a=\.\.\., b=\.\.\.\); the inputs are a : f32\[2\]"):
            program(*arrays)
