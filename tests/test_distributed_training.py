"""Training between real processes, as torchrun starts them: the losses of one process, checkpoints for any number, faults."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED
from forking import meeting

from graphrt.runtime.state import read_arrays
from graphrt.train import read_metadata

pytestmark = pytest.mark.skipif(INTERPRETED, reason="processes run the cpu target, in the other lane")
HERE = Path(__file__).parent
POLICIES = ("all_reduce", "zero1", "zero2", "fsdp", "tensor")
LIMIT = 240  # seconds, of which it takes a tenth
PAGE = HERE.parent / "docs" / "use" / "distributed.md"


def launched(size: int, *arguments: str, folder: Path, restarts: int = 0, forking: bool = False) -> subprocess.Popen[str]:
    """``size`` processes of torchrun under way, or one without it, which may be ``forking`` as many itself."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--max-restarts", str(restarts), "--nproc-per-node", str(size)]
    flags = {"GRAPHRT_THREADS": "1", "OMP_NUM_THREADS": "1", "GRAPHRT_CACHE": str(folder / "cache"), "GRAPHRT_KNOWN": "1"}
    flags["GRAPHRT_CFLAGS"] = os.environ.get("GRAPHRT_CFLAGS") or "-Og"
    flags["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    flags |= meeting(size) if forking else {}
    command = [sys.executable, *(launcher if size > 1 and not forking else []), *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, env={**os.environ, **flags}, **pipes)


def ended(process: subprocess.Popen[str], check: bool = True) -> subprocess.CompletedProcess[str]:
    """What it has said when it is over, as it should be unless ``check`` is off."""
    with process:
        try:
            told, wrong = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # torchrun's own processes too
            raise
    assert not check or process.returncode == 0, wrong[-4000:]
    return subprocess.CompletedProcess(process.args, process.returncode, told, wrong)


def started(size: int, *arguments: str, folder: Path, forking: bool = False) -> subprocess.CompletedProcess[str]:
    """As ``launched`` starts them, when they are over."""
    return ended(launched(size, *arguments, folder=folder, forking=forking))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distributed")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[int, dict[str, Any]]:
    """What one process and two have found, by their number."""
    started(2, str(HERE / "distributed_training.py"), str(folder), folder=folder, forking=True)
    return {size: json.loads((folder / str(size) / "found.json").read_text()) for size in (1, 2)}


@pytest.fixture(scope="module")
def one(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return found[1]


@pytest.fixture(scope="module")
def two(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return found[2]


def test_two_processes_train_as_one_does(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Under each policy: with a rest of examples under the first, with even batches under the others."""
    for policy, found in ((policy, two[policy]) for policy in POLICIES):
        alone = one.get(policy, one["zero1"])
        for name in ("loss", "val_loss", "accuracy"):
            np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, err_msg=f"{policy} {name}")
        for name, norm in alone["norms"].items():
            np.testing.assert_allclose(found["norms"][name], norm, rtol=1e-4, err_msg=f"{policy} {name}")


def test_gradients_are_added_up_in_each_process(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Two steps make the update of a batch twice as large on one process, and the first of them waits for nobody."""
    large, found = one["in 1"], two["in 2"]
    np.testing.assert_allclose(found["loss"], large["loss"], rtol=1e-5)
    for name, norm in large["state"].items():
        np.testing.assert_allclose(found["state"][name], norm, rtol=1e-5, err_msg=name)
    assert found["exchanged"]["accumulate"] == [] and len(found["exchanged"]["train"]) == 1
    assert found["counted"] == large["counted"] and one["in 2"]["exchanged"] == {"train": [], "accumulate": []}


def test_each_keeps_its_part(one: dict[str, Any], two: dict[str, Any]) -> None:
    whole, numbers = one["all_reduce"]["kept"], 4 * 61_706
    assert two["all_reduce"]["kept"] == whole
    assert two["zero1"]["kept"] == two["zero2"]["kept"] == pytest.approx(whole - numbers, abs=100)
    cut = 3 * 4 * (120 * 84 // 2 + 120 * (400 + 1) // 2)  # of two layers, with their moments
    assert two["tensor"]["kept"] == pytest.approx(whole - cut, abs=100)
    assert two["fsdp"]["kept"] == pytest.approx(whole - 1.5 * numbers, abs=100)


@pytest.mark.proof
def test_a_checkpoint_fits_any_number_of_processes(folder: Path, two: dict[str, Any]) -> None:
    """What two processes wrote, sharded or not, one reads; and what one reads is what two had."""
    script = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import numpy as np
        from distributed_training import trainer_of
        for policy in ("all_reduce", "fsdp"):
            trainer = trainer_of(policy)
            trainer.load(next(Path(sys.argv[2], policy).glob("epoch-*.safetensors")))
            norms = {n: float(np.abs(trainer.state.whole(n).astype(np.float64)).sum()) for n in sorted(trainer.state)}
            if trainer.first:
                print(policy, trainer.steps, sum(norms.values()))
    """
    path = folder / "load.py"
    path.write_text("\n".join(line.removeprefix("        ") for line in script.splitlines()))
    for size in (1, 4):
        told = started(size, str(path), str(HERE), str(folder / "2"), folder=folder).stdout
        for policy, steps, total in re.findall(r"^(\w+) (\d+) ([\d.]+)$", told, re.M):
            assert int(steps) == two[policy]["steps"]
            assert float(total) == pytest.approx(sum(two[policy]["norms"].values()), rel=1e-12)
        assert len(re.findall(r"^(?:all_reduce|fsdp) ", told, re.M)) == 2


@pytest.mark.proof
def test_a_lost_process_ends_the_others_and_the_run_goes_on(folder: Path, two: dict[str, Any]) -> None:
    """Killed in the second epoch: the checkpoint of the first is whole, and torchrun starts all again, which go on from it."""
    (folder / "lost").mkdir()
    script = [str(HERE / "distributed_training.py"), str(folder / "lost"), "kill"]
    done = ended(launched(2, *script, folder=folder, restarts=1))
    assert "exitcode: -9" in done.stderr, done.stderr
    again = json.loads((folder / "lost" / "2" / "kill.json").read_text())["all_reduce"]
    assert again["steps"] == two["all_reduce"]["steps"]
    assert again["norms"] == two["all_reduce"]["norms"]  # bit for bit
    assert again["loss"] == two["all_reduce"]["loss"]


def test_ctrl_c_stops_all_processes_behind_one_step(folder: Path) -> None:
    """Each has the parameters of the checkpoint that they leave, whichever step each was in when it was heard."""
    process = launched(2, str(HERE / "distributed_training.py"), str(folder), "endless", folder=folder)
    assert process.stdout is not None and process.stdout.readline() == "going\n"
    os.kill(process.pid, signal.SIGINT)
    done = ended(process, check=False)
    assert done.returncode and "forcefully" not in done.stderr, done.stderr[-4000:]
    said = re.findall(r"stopped at (\d+) with ([\d.e+-]+)", done.stdout)
    assert len(said) == 2 and said[0] == said[1], done.stdout
    path = folder / "endless" / "interrupted.safetensors"
    assert str(path) in done.stderr
    assert read_metadata(path)["steps"] == int(said[0][0])
    assert float(np.abs(read_arrays(path)["1.weight"]).sum()) == float(said[0][1])


def test_a_process_that_is_killed_or_stalls_is_named(folder: Path) -> None:
    """One that is killed, in less than a minute and whatever the timeout; one that stalls, by the timeout."""
    script = """
        import os, signal, sys, time
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        import numpy as np
        from forking import forked, meeting
        import graphrt as grt
        from graphrt import ops as F

        def run(rank, fault):
            g = grt.Graph(grt.Mesh(dp=2))
            g.output("y", F.all_reduce(g.input("x", (4,), varying="dp"), "dp"))
            program = grt.compile(g, target="reference")
            program(x=np.ones(4, np.float32))
            heard = Path(sys.argv[1], fault)
            if rank == 1 and fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if rank == 1:
                while not heard.exists():
                    time.sleep(0.05)
                os._exit(0)
            begun = time.monotonic()
            try:
                program(x=np.ones(4, np.float32))
            except grt.errors.TargetError as error:
                print(fault, time.monotonic() - begun < 60, error, flush=True)
                heard.touch()
                os._exit(0)
            os._exit(1)

        for fault, limit in (("killed", 600), ("stalled", 5)):
            os.environ |= {"GRAPHRT_TIMEOUT": str(limit), **meeting(2)}
            forked(2, lambda rank: run(rank, fault))
    """
    path = folder / "silent.py"
    path.write_text("\n".join(line.removeprefix("        ") for line in script.splitlines()))
    told = started(2, str(path), str(folder), str(HERE), folder=folder, forking=True).stdout
    for fault in ("killed", "stalled"):
        assert f"{fault} True process 1 of Mesh(dp=2) is gone, or did not answer in time" in told


@pytest.mark.proof
def test_the_command_line_trains_between_processes(folder: Path) -> None:
    losses = {}
    for size, policy in ((1, "all_reduce"), (2, "zero2")):
        out = folder / f"command{size}"
        options = [
            "--policy",
            policy,
            "--target",
            "cpu",
            "--limit",
            "64",
            "--batch-size",
            "32",
            "--epochs",
            "1",
            "--out",
            str(out),
        ]
        started(size, "-m", "graphrt.cli", "train", "lenet5", *options, folder=folder)
        losses[size] = json.loads((out / "history.json").read_text())["loss"]
    np.testing.assert_allclose(losses[2], losses[1], rtol=1e-5)


@pytest.mark.proof
def test_the_page_prints_what_it_says(folder: Path) -> None:
    text = PAGE.read_text()
    commands = re.findall(r"^\$ (python|torchrun --nproc-per-node 2) (examples/distributed.py.*)\n(.*)$", text, re.M)
    assert len(commands) == 4
    for launcher, command, said in (commands[0], commands[-1]):
        script, *arguments = command.split()
        size = 1 if launcher == "python" else 2
        told = started(size, str(HERE.parent / script), *arguments, folder=folder).stdout.strip()
        assert told == said
