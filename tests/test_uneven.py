"""Every example counts once, whatever the number of processes: three train on batches of 7 and 5 as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uneven_ranks
from conftest import INTERPRETED

from graphrt import Graph, errors, nn
from graphrt import ops as F
from graphrt.data import Dataset
from graphrt.train import Trainer
from graphrt.train.batch import Batch
from graphrt.train.parts import adds_up
from graphrt.train.sharing import part_of_batch

compiled = pytest.mark.skipif(INTERPRETED, reason="processes run the cpu target, in the other lane")
HERE = Path(__file__).parent
LIMIT = 240  # seconds, of which they take a tenth
MORE = ("weighted", "several", "accumulated mean")  # cases that put together what others have alone


def run(folder: Path, names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """What one process and three have found of the cases called ``names``, by their number."""
    flags = {"GRAPHRT_THREADS": "1", "OMP_NUM_THREADS": "1", "GRAPHRT_CACHE": str(folder / "cache")}
    flags["GRAPHRT_CFLAGS"] = os.environ.get("GRAPHRT_CFLAGS") or "-Og"
    flags["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(HERE / "uneven_ranks.py"), str(folder), *names]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **flags}, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-4000:]
    return {size: json.loads((folder / f"{size}.json").read_text()) for size in (1, 3)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    return run(tmp_path_factory.mktemp("uneven"), [name for name in uneven_ranks.CASES if name not in MORE])


@compiled
@pytest.mark.parametrize("name", [name for name in uneven_ranks.CASES if name not in MORE])
def test_three_processes_train_as_one(found: dict[int, dict[str, Any]], name: str) -> None:
    check(found[1][name], found[3][name])


@compiled
@pytest.mark.proof
def test_three_processes_train_as_one_in_more_ways(tmp_path: Path) -> None:
    found = run(tmp_path, MORE)
    for name in MORE:
        check(found[1][name], found[3][name])
        assert not found[3][name]["uncut"]


def check(one: dict[str, Any], three: dict[str, Any]) -> None:
    """Losses, metrics and counts of each epoch, of training and of validation, and all parameters and moments are the same."""
    assert one["history"].keys() == three["history"].keys() and one["state"].keys() == three["state"].keys()
    for key, values in one["history"].items():
        np.testing.assert_allclose(three["history"][key], values, rtol=1e-5, err_msg=key)
    for key, values in one["state"].items():
        np.testing.assert_allclose(three["state"][key], values, rtol=2e-4, atol=2e-6, err_msg=key)
    assert one["uncut"] == {}


@compiled
def test_a_batch_whose_examples_are_mixed_is_not_cut(found: dict[int, dict[str, Any]]) -> None:
    """Batch norm must not see an example twice: such a batch all processes have whole, and the reason is kept."""
    assert found[3]["normed"]["uncut"] == dict.fromkeys("57", "the network normalises over the batch")
    assert not any(found[3][name]["uncut"] for name in found[3] if name not in ("normed", "refused"))


@compiled
def test_a_loss_that_is_neither_is_refused(found: dict[int, dict[str, Any]]) -> None:
    assert "nothing says of the loss that it is either the mean or the sum" in found[3]["refused"]
    assert 'an attribute reduction, "mean" or "sum"' in found[3]["refused"]


@pytest.mark.parametrize("size, parts", [(41, 4), (7, 3), (8, 2), (3, 3), (5, 2)])
def test_every_example_is_in_one_part(size: int, parts: int) -> None:
    x, w = np.arange(size, dtype=np.float32), np.ones(size, np.float32)
    cut = [part_of_batch(Batch(x, {"y": x}, w), parts, number) for number in range(parts)]
    assert len({len(part) for part in cut}) == 1 and len(cut[0]) == -(-size // parts)
    counted = np.concatenate([part.x[part.weight > 0] for part in cut])
    assert sorted(counted) == list(x) and w.all()
    assert all(np.array_equal(part.y["y"], part.x) for part in cut)


def declared(output: Any, target: Any, reduction: str = "sum") -> Any:
    """A sum that says so by its parameter."""
    return F.sum(output - target)


@pytest.mark.parametrize(
    "measure, expected",
    [
        (lambda o, t: F.mean((o - t) ** 2), False),
        (lambda o, t: F.sum(o * t), True),
        (lambda o, t: F.mean(F.sum(F.abs(o - t), 1)), False),
        (lambda o, t: F.sum(F.mean(F.abs(o - t), 1)), True),
        (lambda o, t: F.sum(o * t) / o.shape[0], False),
        (lambda o, t: -F.mean(t * F.log(o) + (1 - t) * F.log(1 - o)), False),
        (declared, True),
        (nn.MSELoss(reduction="sum"), True),
        (nn.HuberLoss(), False),
    ],
)
def test_sums_are_told_from_means(measure: Any, expected: bool) -> None:
    graph = Graph()
    o, t = graph.input("o", (5, 4)), graph.input("t", (5, 4))
    assert adds_up("the loss", measure, o, t) is expected


def test_what_cannot_be_told() -> None:
    graph = Graph()
    o, t = graph.input("o", (5, 4)), graph.input("t", (5, 4))
    with pytest.raises(errors.ArgumentError, match="nothing says of the loss what it is: give it an attribute reduction"):
        adds_up("the loss", lambda o, t: F.mean(F.log(o - 2.0)), o, t)
    with pytest.raises(errors.ArgumentError, match=r"nothing says of the loss what it is \(.*shape"):
        adds_up("the loss", lambda o, t: F.mean(F.reshape(o, (20,))), o, t)
    with pytest.raises(errors.ArgumentError, match="either the mean or the sum"):
        adds_up("the loss", lambda o, t: F.amax(F.abs(o - t)), o, t)


def test_an_accumulated_checkpoint_goes_on_with_and_without_a_mesh(tmp_path: Path) -> None:
    """The same states under the same names, and a mean over all examples: batches of 4, 4 and 2 are as one of 10."""
    import graphrt as grt
    from graphrt import optim

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 6)).astype(np.float32), rng.integers(0, 4, 10)

    def trainer(steps: int, mesh: grt.Mesh | None) -> Trainer:
        nn.manual_seed(0)
        net = uneven_ranks.linear(4)
        return Trainer(net, nn.CrossEntropyLoss(), optim.Adam(0.05, accumulation_steps=steps), target="reference", mesh=mesh)

    large = trainer(1, None)
    large.fit(Dataset(x, y), 1, 10, progress=False)
    meshes = (None, grt.Mesh(dp=1))
    for first, second in (meshes, meshes[::-1], (None, None)):
        begun, ended = trainer(3, first), trainer(3, second)
        for i in (0, 4):
            begun.step(x[i : i + 4], y[i : i + 4])
        begun.save(tmp_path / "between.safetensors")
        ended.load(tmp_path / "between.safetensors")
        ended.step(x[8:], y[8:])
        for name, array in large.state.items():
            np.testing.assert_allclose(ended.state[name], array, rtol=2e-5, atol=1e-6, err_msg=name)
