"""Programs of a GPU saved, and loaded where no compiler is; what says that a machine cannot run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpu_programs import DEVICES, feeds, needs_compiler, step

import graphrt as grt
from graphrt import errors
from graphrt.targets.triton import gpu

pytest.importorskip("triton", reason="needs the triton package, which exists for Linux only")

ROOT = Path(__file__).parent.parent


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Every target that a driver runs, in turn."""
    return request.param


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
    assert gpu.can_run("cuda:sm_80", "cuda:sm_86") and gpu.can_run("cuda:sm_90", "cuda:sm_90")
    for built, there in [("cuda:sm_80", "cuda:sm_90"), ("cuda:sm_86", "cuda:sm_80"), ("cuda:sm_100", "cuda:sm_103")]:
        assert not gpu.can_run(built, there)
    assert gpu.can_run("hip:gfx942", "hip:gfx942") and not gpu.can_run("hip:gfx942", "hip:gfx90a")
