"""Saved programs: the same bits in a process without a compiler, from C too, and what cannot be saved or loaded."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_files import give_away

import graphrt as grt
from graphrt import errors, models, nn, optim
from graphrt import ops as F
from graphrt.targets import saved
from graphrt.targets.cpu import build
from graphrt.targets.cpu import saved as cpu_saved

ROOT = Path(__file__).parent.parent
STANDALONE = ROOT / "examples" / "standalone"

RUN = """
import sys
from pathlib import Path
import numpy as np
import graphrt as grt
folder = Path(sys.argv[1])
program = grt.load(folder / "program")
inputs = dict(np.load(folder / "inputs.npz"))
for i in range(2):
    np.savez(folder / f"outputs{i}.npz", **program(inputs))
np.savez(folder / "state.npz", **program.state)
"""


def in_another_process(folder: Path, inputs: dict[str, Any]) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The outputs of two runs of ``folder``/program and the state after them, where no compiler works and no cache is."""
    np.savez(folder / "inputs.npz", **inputs)
    cache = folder / "cache"
    cache.mkdir()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "CC": "/bin/false", "GRAPHRT_CACHE": str(cache), "PYTHONPATH": path}
    command = [sys.executable, "-c", RUN, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert not list(cache.iterdir())
    return [dict(np.load(folder / f"outputs{i}.npz")) for i in range(2)], dict(np.load(folder / "state.npz"))


def assert_same(actual: dict[str, Any], expected: Any) -> None:
    assert actual.keys() == set(expected)
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_training_step_runs_without_a_compiler(tmp_path: Path, rng: np.random.Generator) -> None:
    nn.init.manual_seed(0)
    trainer = grt.Trainer(
        models.lenet5(), nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9), metrics=["accuracy"], target="cpu"
    )
    x, y = rng.standard_normal((4, 1, 32, 32)).astype(np.float32), rng.integers(0, 10, 4)
    trainer.step(x, y)
    program = trainer.program("train", x, y)
    program.save(tmp_path / "program")
    inputs = {"x": x, "y": y, "lr": np.float32(0.1)}
    outputs, state = in_another_process(tmp_path, inputs)
    for found in outputs:
        assert_same(found, program(inputs))
    assert outputs[0]["loss"] != outputs[1]["loss"]
    assert_same(state, program.state)


def test_a_prediction_keeps_only_its_own_state(tmp_path: Path, rng: np.random.Generator) -> None:
    nn.init.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 5))
    trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9), target="cpu")
    x, y = rng.standard_normal((4, 3, 6, 6)).astype(np.float32), rng.integers(0, 5, 4)
    trainer.step(x, y)
    program = trainer.program("predict", x)
    program.save(tmp_path / "program")
    outputs, state = in_another_process(tmp_path, {"x": x})
    expected = program(x=x)
    for found in outputs:
        assert_same(found, expected)
    assert "4.weight" in state and len(state) < len(program.state)
    assert_same(state, {name: program.state[name] for name in state})


def linear(scale: float = 1.0) -> grt.Program:
    g = grt.Graph()
    w = g.parameter("w", np.full((3, 2), scale, np.float32))
    return grt.compile(F.matmul(g.input("x", (4, 3)), w) + scale, target="cpu")


def test_loaded_programs_check_inputs_and_own_their_state(tmp_path: Path) -> None:
    original = linear()
    original.save(tmp_path)
    one, other = grt.load(tmp_path), grt.load(tmp_path)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(one(x=x), original(x=x))
    assert isinstance(one(x=x), np.ndarray) and one.inputs == original.inputs and one.target == "cpu"
    one.state.set("w", np.zeros((3, 2)))
    assert (one(x=x) == 1).all()
    np.testing.assert_array_equal(other(x=x), original(x=x))
    with pytest.raises(errors.InputError, match="missing input 'x'"):
        one()
    with pytest.raises(errors.InputError, match=r"input 'x' is f32\[4,3\].*got shape"):
        one(x=x.T)
    with pytest.raises(errors.InputError, match="no input 'y'"):
        one(x=x, y=x)


class Pairs(nn.Module):
    """Inputs and results in structures, and an argument that is no tensor."""

    def forward(self, x: Any, pair: Any, scale: float = 1.0, *, mask: Any = None) -> Any:
        a, b = pair["a"], pair["b"]
        return {"sum": x * scale + a, "rest": (F.relu(b), [a - x])}


def test_a_loaded_program_is_called_as_the_model(tmp_path: Path, rng: np.random.Generator) -> None:
    x, a, b = (rng.standard_normal((2, 3)).astype(np.float32) for _ in range(3))
    program = grt.compile(Pairs(), (x, {"a": a, "b": b}, 2.0), target="cpu")
    program.save(tmp_path / "ours")
    loaded = grt.load(tmp_path / "ours")
    for call in (loaded, program):
        found = call(x, {"a": a, "b": b}, 2.0)
        assert found.keys() == {"sum", "rest"} and type(found["rest"]) is tuple and type(found["rest"][1]) is list
        np.testing.assert_array_equal(found["sum"], x * 2 + a)
        np.testing.assert_array_equal(found["rest"][1][0], a - x)
        with pytest.raises(errors.InputError, match=r"made for 2.0 where the arguments have 3.0"):
            call(x, {"a": a, "b": b}, 3.0)
        with pytest.raises(errors.InputError, match="the arguments do not fit forward"):
            call(x)
    by_name = {name: {"x": x, "pair.a": a, "pair.b": b}[name] for name in loaded.inputs}
    np.testing.assert_array_equal(loaded(by_name)["sum"], x * 2 + a)


def test_a_loaded_program_of_torch_is_called_as_the_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def halves(x: Any, y: Any = None, *, low: float) -> Any:
        return x.clamp(min=low), {"y": y + x}

    x, y = torch.randn(2, 3), torch.randn(2, 3)
    grt.compile(grt.from_torch(halves, {"x": x, "y": y, "low": 0.0}), target="cpu").save(tmp_path / "theirs")
    loaded = grt.load(tmp_path / "theirs")
    clamped, rest = loaded(x, y, low=0.0)
    assert torch.equal(clamped, x.clamp(min=0.0)) and torch.equal(rest["y"], y + x)
    assert isinstance(loaded(x.numpy(), y.numpy(), low=0.0)[0], np.ndarray)


def test_memory_orders_are_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    g = grt.Graph()
    x = g.input("x", (2, 3, 8, 8))
    w = g.parameter("w", rng.standard_normal((16, 3, 3, 3)).astype(np.float32))
    program = grt.compile(F.relu(F.conv2d(x, w)), target="cpu")
    program.save(tmp_path)
    loaded = grt.load(tmp_path)
    assert loaded.outputs == program.outputs and loaded.outputs["out"].order == (0, 2, 3, 1)
    assert loaded.state.types == program.state.types and loaded.state.types["w"].order is not None
    batch = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x=batch), program(x=batch))


def test_saving_again_replaces_what_is_loaded(tmp_path: Path) -> None:
    """The loader of the system knows a file by its name: another program must have another."""
    x = np.ones((4, 3), np.float32)
    linear().save(tmp_path)
    first = grt.load(tmp_path)
    assert (first(x=x) == 4).all()
    linear(2.0).save(tmp_path)
    assert (grt.load(tmp_path)(x=x) == 8).all() and (first(x=x) == 4).all()
    assert len(list(tmp_path.glob("*.so"))) == 2


def test_only_cpu_programs_are_saved(tmp_path: Path) -> None:
    g = grt.Graph()
    program = grt.compile(F.relu(g.input("x", (2,))), target="reference")
    with pytest.raises(errors.TargetError, match="this one is of reference"):
        program.save(tmp_path / "p")
    assert not (tmp_path / "p").exists()


def _changed(key: str, value: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = {**json.loads(path.read_text()), key: value}
        path.write_text(json.dumps({**manifest, "sha256": saved._digest(manifest)}))

    return change


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (_changed("format", "graphrt-program-0"), errors.InputError, "its format is 'graphrt-program-0'"),
        (_changed("processor", ["avx9000"]), errors.TargetError, "a processor with avx9000"),
        (_changed("machine", "pdp11"), errors.TargetError, "was built for pdp11"),
        (_changed("runtime", "runtime-0.so"), errors.InputError, "it has no runtime-0.so"),
        (lambda folder: (folder / "manifest.json").unlink(), errors.InputError, "it has no manifest.json"),
        (lambda folder: (folder / "manifest.json").write_text("{"), errors.InputError, "is not JSON"),
        (lambda folder: next(folder.glob("state-*")).unlink(), errors.InputError, "it has no state-"),
        (_changed("program", "../program.so"), errors.InputError, "it has no ../program.so"),
        (_changed("files", {"../x.so": ""}), errors.InputError, "'../x.so' is not a name"),
        (_changed("table", [{"space": "state"}]), errors.InputError, "'table' is .*, which a program cannot have"),
        (_changed("inputs", {"x": "f32[4,3]{0,0}"}), errors.InputError, "'inputs' is .*, which a program cannot have"),
        (_changed("unpack", "tuple"), errors.InputError, "'tuple' is not a name"),
        (_changed("needed", ["y"]), errors.InputError, "'y' is not a name"),
        (
            _changed("call", {"parameters": [["x", 9, False]]}),
            errors.InputError,
            "the program's call is .* cannot be",
        ),
    ],
)
def test_what_cannot_be_loaded_says_why(
    tmp_path: Path, damage: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    linear().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=message):
        grt.load(tmp_path)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["manifest.json", "program-*", "runtime-*", "state-*"])
def test_no_altered_file_is_loaded(tmp_path: Path, kind: str, place: float) -> None:
    linear().save(tmp_path)
    (path,) = tmp_path.glob(kind)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.InputError, match=f"{path.name}|is not a saved program of this version"):
        grt.load(tmp_path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.InputError, match=path.name):
        grt.load(tmp_path)


def test_a_save_that_is_stopped_leaves_the_old_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is stopped: each file takes its place by a rename."""
    x = np.ones((4, 3), np.float32)
    linear().save(tmp_path)
    real, left = os.replace, 0

    def replace(*args: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(os, "replace", replace)
    for stop in range(10):
        left = stop
        try:
            linear(2.0).save(tmp_path)
        except KeyboardInterrupt:
            assert (grt.load(tmp_path)(x=x) == 4).all()
        else:
            break
    assert stop > 2 and (grt.load(tmp_path)(x=x) == 8).all()
    assert len([*tmp_path.iterdir()]) == 5, "the old files are gone"


def test_programs_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linear().save(tmp_path / "p")
    (tmp_path / "p").chmod(0o777)
    with pytest.raises(errors.InputError, match=r"can be written by others; chmod go-w .*load\(path, trusted=True\)"):
        grt.load(tmp_path / "p")
    grt.load(tmp_path / "p", trusted=True)
    (tmp_path / "p").chmod(0o775)
    grt.load(tmp_path / "p")  # as a umask of 002 makes it
    give_away(next((tmp_path / "p").glob("program-*")), monkeypatch)
    with pytest.raises(errors.InputError, match="belongs to another user"):
        grt.load(tmp_path / "p")


def test_the_processor_is_named_by_what_the_compiler_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    if "avx2" not in build.processor():
        pytest.skip("needs an x86-64 processor with AVX2")
    assert {"avx2", "fma"} <= set(build.required())
    monkeypatch.setenv("GRAPHRT_CFLAGS", "-march=x86-64")
    assert build.required() == []


def test_a_program_says_which_instructions_a_processor_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where all that it was built for is, whatever else is there."""
    needed = build.required()
    if not needed:
        pytest.skip("needs an x86-64 processor with AVX2")
    program = linear()
    program.save(tmp_path / "p")
    monkeypatch.setattr(cpu_saved, "processor", lambda: [*needed, "another"])
    grt.load(tmp_path / "p")
    monkeypatch.setattr(cpu_saved, "processor", lambda: needed[1:])
    told = rf"was built for a processor with {needed[0]}, which this one lacks; compile and save it on this one"
    with pytest.raises(errors.TargetError, match=told):
        grt.load(tmp_path / "p")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(errors.TargetError, match=r"was built for \w+; this machine is riscv64"):
        grt.load(tmp_path / "p")


def test_a_c_program_runs_a_saved_one(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("export", STANDALONE / "export.py")
    assert spec is not None and spec.loader is not None
    export = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(export)
    expected = export.main(tmp_path)
    command = [*build.compiler(), "-Wall", "-Werror", "-I", str(tmp_path), str(STANDALONE / "main.c")]
    built = subprocess.run([*command, "-o", str(tmp_path / "main"), "-ldl"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{shlex.join(command)}\n{built.stderr}"
    with (tmp_path / "x.bin").open("rb") as x:
        result = subprocess.run([tmp_path / "main", tmp_path], stdin=x, capture_output=True, text=True, check=True, timeout=60)
    printed = np.array(result.stdout.split(), np.float32).reshape(expected.shape)
    np.testing.assert_array_equal(printed, expected)
    assert len(np.unique(printed)) > 10
