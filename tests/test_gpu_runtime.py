"""How programs of a GPU run: on the null driver where there is none, on the GPU where there is one, and interpreted.

The null driver checks and records everything around the kernels; numbers are compared on a GPU and under the interpreter,
which run the same code over another driver.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, assert_close
from gpu_programs import DEVICES, feeds, needs_compiler, slots, step

import graphrt as grt
from graphrt import errors
from graphrt import ops as F
from graphrt.targets.reference.evaluate import evaluate
from graphrt.targets.triton.graphs import TOGETHER
from graphrt.targets.triton.null import NullDriver

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every target that a driver runs, in turn."""
    return request.param


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


def test_tensors_that_stay_are_read_as_they_are_at_each_call(device: str) -> None:
    """In place, where a caller overwrites them between calls; all results are the caller's, however many are kept."""
    where = "cuda" if device in ("cuda", "hip") else "cpu"
    g = grt.Graph()
    x, w = g.input("x", (8, 16)), g.parameter("w", np.ones((16, 16), np.float32))
    g.output("y", x @ w)
    g.output("sum", F.sum(x))
    g.update(w, w + 1.0)
    program = grt.compile(g, target=device)
    x = torch.zeros(8, 16, device=where)
    found = []
    for i in range(9):
        x.fill_(i)
        found.append(program(x=x))
    found.append(program(x=torch.full((8, 16), 9.0, device=where)))
    found.append(program(x=np.full((8, 16), 10.0, np.float32)))
    assert len({out[n].data_ptr() for out in found[:-1] for n in out}) == 2 * (len(found) - 1)
    if device != "null":
        for i, out in enumerate(found):
            assert torch.equal(torch.as_tensor(out["y"]).cpu(), torch.full((8, 16), 16.0 * i * (i + 1))), i
            assert float(out["sum"]) == 128 * i


def test_a_tensor_that_the_program_writes_is_no_input_in_place(device: str) -> None:
    """A parameter, and the result of the last call, as the input of the next."""
    g = grt.Graph()
    x, w = g.input("x", (16, 16)), g.parameter("w", np.ones((16, 16), np.float32))
    g.update(w, w * 2.0)
    g.output("y", F.sum(x, 0) + F.sum(w, 1))
    g.output("z", x + 1.0)
    program = grt.compile(g, target=device)
    program({"x": np.zeros((16, 16), np.float32)})
    own = program.state.tensor("w")
    assert own.data_ptr() not in {t.data_ptr() for t in program._binary._captured.in_place({"x": own}).values()}
    for i in range(1, 6):
        out = program(x=own)
        assert device == "null" or torch.equal(out["y"].cpu(), torch.full((16,), 32.0 * 2**i))
    z = torch.zeros_like(own)
    for i in range(6):
        z = program(x=z)["z"]
        assert device == "null" or z.unique().tolist() == [i + 1]


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
    pointer = train.state.on_device("w1", train._binary._driver).data_ptr()
    train.state.set("w1", np.full((16, 16), 0.5, np.float32))
    assert train.state.on_device("w1", train._binary._driver).data_ptr() == pointer
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
    on_device = train.state.on_device("w0", train._binary._driver)
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
    assert program.elapsed(feeds(), runs=2) >= 0
    for call in (program.profile, program.elapsed):
        with pytest.raises(errors.ArgumentError, match="runs must be 1 or more, got 0"):
            call(feeds(), runs=0)


@pytest.mark.parametrize("target", [*DEVICES, *([] if INTERPRETED else ["cpu"])])
def test_profiles_hold_launches_without_work(target: str) -> None:
    """Between launches that have some: each time is that of its own launch."""
    g = grt.Graph()
    w = g.parameter("w", np.zeros((4, 4), np.float32))
    g.update(w, w + F.matmul(g.input("x", (4, 4)), w))
    g.output("empty", F.matmul(g.input("e", (0, 4)), g.input("f", (4, 4))))
    program = grt.compile(g, target=target)
    given = {"x": np.zeros((4, 4), np.float32), "e": np.zeros((0, 4), np.float32), "f": np.zeros((4, 4), np.float32)}
    found = program.profile(given, runs=2)
    assert len(found) == program.launches and any(f.flops for f in found)
    assert all(f.seconds > 0 for f in found if f.flops)
    if target != "cpu":
        (idle,) = (i for i, code in enumerate(program._executable._compilation.codes) if not code.grid)
        assert 0 < idle < len(found) - 1 and [i for i, f in enumerate(found) if f.seconds == 0] == [idle]


@pytest.mark.interpret
@pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1, set before Triton is imported")
def test_an_interpreter_that_numpy_is_too_new_for_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    monkeypatch.setattr(triton, "__version__", "3.6.0")
    monkeypatch.setattr(np, "__version__", "2.4.6")
    with pytest.raises(errors.TargetError, match="3.6.0's interpreter .* NumPy 2.4.6 refuses; install 'numpy<2.4'"):
        grt.compile(step(False), target="interpret")
    monkeypatch.setattr(np, "__version__", "2.3.5")
    grt.compile(step(False), target="interpret")
