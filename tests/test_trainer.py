"""What a training run may be made of: metrics, weights, several inputs and outputs, callbacks, interruptions, running means."""

from __future__ import annotations

import csv
import io
import re
import signal
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

import graphrt as grt
from graphrt import nn, optim, train
from graphrt import ops as F
from graphrt.data import Dataset
from graphrt.errors import ArgumentError, DTypeError, NumericError, ShapeError
from graphrt.train import Trainer

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def blobs(count: int = 96, seed: int = 0) -> Dataset:
    """Three classes of points in 8 dimensions."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    centres = np.random.default_rng(9).standard_normal((3, 8)) * 2
    return Dataset((centres[y] + 2 * rng.standard_normal((count, 8))).astype("f"), y)


def linear(outputs: int = 3) -> nn.Linear:
    nn.manual_seed(2)
    return nn.Linear(8, outputs)


def small(optimizer: optim.Optimizer | None = None, **options: Any) -> Trainer:
    """A trainer of a network with every kind of state."""
    nn.manual_seed(5)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    given = {"target": "reference", "schedule": optim.Cosine(), **options}
    return Trainer(net, nn.CrossEntropyLoss(), optimizer or optim.Adam(0.02), **given)


# --- metrics ------------------------------------------------------------------------------------------------------


def test_metrics_equal_sklearn(target: str) -> None:
    """Of several batches they are those of all examples; with classes that do not occur, ignored targets, and one class."""
    ours = pytest.importorskip("sklearn.metrics")
    data = blobs(50)
    y = np.where(data.y == 2, 1, data.y)
    y[:3], y[3] = -100, 2
    names = ["top_1", "top_2", "confusion_matrix", "precision", "recall", "f1", "mean_iou"]
    each = {"each": train.Recall(average=None), "micro": train.F1("micro"), "weighted": train.Precision("weighted")}
    net = linear(4)
    trainer = Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), metrics=[*names, *each.values()][:7], target=target)
    found = trainer.evaluate(Dataset(data.x, y), 16)
    found |= Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), metrics=each, target=target).evaluate(Dataset(data.x, y), 20)
    scores = trainer.predict(data.x)
    kept = y != -100
    said, truth, scores = scores.argmax(1)[kept], y[kept], scores[kept]
    np.testing.assert_array_equal(found["confusion_matrix"], ours.confusion_matrix(truth, said, labels=range(4)))
    options = {"average": "macro", "zero_division": 0}
    for name, score in (
        ("precision", ours.precision_score(truth, said, **options)),
        ("recall", ours.recall_score(truth, said, **options)),
        ("f1", ours.f1_score(truth, said, **options)),
        ("mean_iou", ours.jaccard_score(truth, said, **options)),
        ("micro", ours.f1_score(truth, said, average="micro")),
        ("weighted", ours.precision_score(truth, said, average="weighted", zero_division=0)),
        ("top_1", (said == truth).mean()),
        ("top_2", ours.top_k_accuracy_score(truth, scores, k=2, labels=range(4))),
    ):
        assert found[name] == pytest.approx(score, rel=1e-6), name
    recalls = ours.recall_score(truth, said, average=None, labels=range(4), zero_division=0)
    np.testing.assert_allclose(found["each"], recalls)

    values = data.x[:, :2] * 3 + 100
    run = Trainer(linear(2), nn.MSELoss(), optim.SGD(0.1), metrics=["mse", "mae", "r2"], target=target)
    found, guess = run.evaluate(Dataset(data.x, values), 16), run.predict(data.x)
    assert found["mse"] == pytest.approx(ours.mean_squared_error(values, guess), rel=1e-5)
    assert found["mae"] == pytest.approx(ours.mean_absolute_error(values, guess), rel=1e-5)
    assert found["r2"] == pytest.approx(ours.r2_score(values, guess), rel=1e-5)

    binary = (data.y == 1).astype(np.float32)[:, None]
    metrics: list[Any] = ["auc", train.Precision("binary"), "confusion_matrix"]
    run = Trainer(linear(1), nn.BCEWithLogitsLoss(), optim.SGD(0.1), metrics=metrics, target=target)
    found, logits = run.evaluate(Dataset(data.x, binary), 16), run.predict(data.x)
    binned = np.floor(1000 / (1 + np.exp(-logits.astype(np.float64))))
    assert found["auc"] == pytest.approx(ours.roc_auc_score(binary, binned), abs=2e-3)  # a score may round to another bin
    assert found["Precision"] == pytest.approx(ours.precision_score(binary[:, 0], logits[:, 0] > 0))
    assert found["confusion_matrix"].shape == (2, 2)
    run = Trainer(linear(3), nn.CrossEntropyLoss(), optim.SGD(0.1), metrics="auc", target=target)
    chances = torch.from_numpy(run.predict(data.x)).softmax(1).numpy()
    area = ours.roc_auc_score(data.y, chances, multi_class="ovr")
    assert run.evaluate(data, 16)["auc"] == pytest.approx(area, abs=3e-3)


def test_metrics_of_training() -> None:
    """A row has those of the epoch, lists stand for arrays in the history, and gradients have a norm."""
    data = blobs(40)
    trainer = small(metrics=["confusion_matrix", "grad_norm", "top_2"])
    history = trainer.fit(data, 2, 16, validation=data, progress=False)
    assert np.sum(history.others["confusion_matrix"][0]) == 40 == np.sum(history.others["val_confusion_matrix"][-1])
    assert train.History.from_json(history.to_json()) == history
    assert "val_grad_norm" not in history.others and len(history.others["grad_norm"]) == 2
    net = linear()
    weight, bias = (torch.tensor(p.array, requires_grad=True) for p in net.parameters())
    functional.cross_entropy(functional.linear(torch.from_numpy(data.x), weight, bias), torch.from_numpy(data.y)).backward()
    expected = torch.nn.utils.get_total_norm([weight.grad, bias.grad])
    clipped = Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1, clip_grad_norm=0.01), metrics="grad_norm", target="reference")
    assert clipped.step(data.x, data.y)["grad_norm"] == pytest.approx(float(expected), rel=1e-5)


def test_metrics_that_do_not_fit() -> None:
    data = blobs(8)
    for metrics, error, message in (
        (["precision"], ShapeError, "classes need logits"),
        (["r2"], ShapeError, "r2 needs an output and a target of one shape"),
        (["top_2"], ShapeError, "top_2 needs logits"),
    ):
        trainer = Trainer(linear(), lambda out, y: F.mean(out), optim.SGD(0.1), metrics=metrics, target="reference")
        with pytest.raises(error, match=message):
            trainer.step(data.x, data.x[:, :2].copy())
    for make in (lambda: train.Recall("mean"), lambda: train.AUC(1), lambda: train.TopK(0)):
        with pytest.raises(ArgumentError):
            make()


# --- losses -------------------------------------------------------------------------------------------------------


def test_a_bare_layer_with_a_weighted_loss(target: str, tmp_path: Path) -> None:
    """Both have a parameter called weight; older checkpoints have that of the loss under its own name."""
    data = blobs(32)
    scales = [0.5, 1.0, 3.0]
    net = linear()
    trainer = Trainer(net, nn.CrossEntropyLoss(weight=scales), optim.SGD(0.1), metrics=[nn.CrossEntropyLoss(weight=scales)])
    trainer.target = target
    weight, bias = (torch.from_numpy(p.array) for p in net.parameters())
    scores = functional.linear(torch.from_numpy(data.x), weight, bias)
    expected = functional.cross_entropy(scores, torch.from_numpy(data.y), torch.tensor(scales)).item()
    assert trainer.step(data.x, data.y) == pytest.approx({"loss": expected, "CrossEntropyLoss": expected}, rel=1e-5)
    trainer.save(tmp_path / "c")
    assert trainer.evaluate(data, 20)["loss"] < expected and trainer.state["weight"].shape == (3, 8)


def test_sample_weights(target: str) -> None:
    data, weight = blobs(32), np.random.default_rng(1).random(32).astype("f")
    net = linear()
    scores = functional.linear(torch.from_numpy(data.x), *(torch.from_numpy(p.array) for p in net.parameters()))
    each = functional.cross_entropy(scores, torch.from_numpy(data.y), reduction="none").numpy()
    expected = float((each * weight).sum() / weight.sum())
    for loss in (nn.CrossEntropyLoss(), F.cross_entropy, lambda out, y: F.cross_entropy(out, y, reduction="none")):
        trainer = Trainer(net, loss, optim.SGD(0.1), target=target)
        pieces = [(data.x[i : i + 10], data.y[i : i + 10], weight[i : i + 10]) for i in range(0, 32, 10)]
        assert trainer.evaluate(pieces)["loss"] == pytest.approx(expected, rel=1e-5)
        assert trainer.step(data.x, data.y, sample_weight=weight)["loss"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ArgumentError, match="needs a loss of each example"):
        Trainer(net, lambda out, y: F.mean(out), optim.SGD(0.1), target=target).step(data.x, data.y, sample_weight=weight)
    with pytest.raises(ArgumentError, match="the parts of a batch hold as many examples"):
        trainer.step(data.x, data.y[:5])


class Two(nn.Module):
    """Two inputs and two outputs; in evaluation mode, as a tuple, only the first."""

    def __init__(self, named: bool) -> None:
        nn.manual_seed(4)
        self.named, self.a, self.b = named, nn.Linear(8, 3), nn.Linear(2, 1)

    def forward(self, wide: Any, narrow: Any) -> Any:
        kind, size = self.a(wide), self.b(narrow)
        if self.named:
            return {"kind": kind, "size": size}
        return (kind, size) if self.training else kind


def test_several_inputs_outputs_and_losses(target: str, tmp_path: Path) -> None:
    data = blobs(24)
    narrow, size = data.x[:, :2].copy(), data.x[:, :1].copy()
    x = {"wide": data.x, "narrow": narrow}
    losses = {"kind": nn.CrossEntropyLoss(), "size": (nn.MSELoss(), 0.25)}
    metrics = {"kind": ["accuracy", "f1"], "size": "mae"}
    by_name = Trainer(Two(True), losses, optim.SGD(0.1), metrics=metrics, target=target)
    row = by_name.step(x, {"kind": data.y, "size": size})
    assert {*row} == {"loss", "kind_loss", "size_loss", "kind_accuracy", "kind_f1", "size_mae"}
    assert row["loss"] == pytest.approx(row["kind_loss"] + 0.25 * row["size_loss"], rel=1e-6)
    found = by_name.evaluate([(x, {"kind": data.y, "size": size})])
    assert found["loss"] < row["loss"] and {*found} == {*row}
    by_name.save(tmp_path / "c")
    again = Trainer(Two(True), losses, optim.SGD(0.1), metrics=metrics, target=target)
    again.load(tmp_path / "c")
    assert again.step(x, {"kind": data.y, "size": size}) == by_name.step(x, {"kind": data.y, "size": size})

    tuples = Trainer(Two(False), [nn.CrossEntropyLoss(), (nn.MSELoss(), 0.25)], optim.SGD(0.1), target=target)
    first = tuples.step((data.x, narrow), (data.y, size))
    assert first["loss"] == pytest.approx(row["loss"], rel=1e-6) and {*first} == {"loss", "0_loss", "1_loss", "accuracy"}
    assert {*tuples.evaluate([((data.x, narrow), (data.y, size))])} == {"loss", "0_loss", "accuracy"}
    assert tuples.predict((data.x, narrow), 10).shape == (24, 3)
    assert {n: a.shape for n, a in by_name.predict(x, 10).items()} == {"kind": (24, 3), "size": (24, 1)}
    for losses, message in (
        ({"other": nn.MSELoss()}, "there is a loss for 'other', and the network or the batch has the names kind, size"),
        ([nn.MSELoss()], "losses by position do not fit the names kind, size"),
        (["mse"], r"a loss is a function of \(output, target\), or \(function, weight\), got 'mse'"),
        ([], "there is no loss"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Trainer(Two(True), losses, optim.SGD(0.1), target=target).step(x, {"kind": data.y, "size": size})
    of_no_object: Any = nn.MSELoss
    with pytest.raises(ArgumentError, match=r"got the class MSELoss, of which MSELoss\(\.\.\.\) makes one"):
        Trainer(Two(True), of_no_object, optim.SGD(0.1))
    with pytest.raises(ArgumentError, match="metrics for other; there are losses for kind, size"):
        Trainer(Two(True), {"kind": F.cross_entropy, "size": F.mse_loss}, optim.SGD(0.1), metrics={"kind": (), "other": ()})


# --- the loop -----------------------------------------------------------------------------------------------------


class Recorder(train.Callback):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_train_begin(self, trainer: Trainer) -> None:
        self.seen.append("train begin")

    def on_epoch_begin(self, trainer: Trainer) -> None:
        self.seen.append(f"epoch {trainer.epoch} begin")

    def on_step_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
        self.seen.append(f"step {trainer.steps} {sorted(row)}")

    def on_epoch_end(self, trainer: Trainer, row: dict[str, Any]) -> bool:
        self.seen.append(f"epoch {trainer.epoch} end")
        return trainer.epoch < 2

    def on_train_end(self, trainer: Trainer) -> None:
        self.seen.append("train end")


def test_callbacks_are_called_in_order() -> None:
    """The last smaller batch is a step as well; it can be left out."""
    recorder = Recorder()
    trainer = small()
    trainer.fit(blobs(20), 9, 16, callbacks=[recorder], progress=False)
    names = "['accuracy', 'loss', 'lr']"
    epochs = [[f"epoch {e} begin", *(f"step {2 * e + i} {names}" for i in (1, 2)), f"epoch {e + 1} end"] for e in (0, 1)]
    assert recorder.seen == ["train begin", *epochs[0], *epochs[1], "train end"]
    trainer.fit(blobs(20), 3, 16, drop_last=True, progress=False)
    assert trainer.steps == 5
    with pytest.raises(ArgumentError, match="a callback is a Callback or a function"):
        trainer.fit(blobs(20), 9, 16, callbacks=["early"], progress=False)


def test_early_stopping_brings_the_best_weights_back() -> None:
    data, held = blobs(32), blobs(64, 1)
    trainer = small(optim.Adam(0.3))
    stop = train.EarlyStopping("val_accuracy", patience=2)
    history = trainer.fit(data, 60, 16, validation=held, callbacks=[stop], progress=False)
    best = int(np.argmax(history.val_accuracy))
    assert stop.best_epoch == best + 1 and len(history) == best + 3 < 60
    assert trainer.evaluate(held)["accuracy"] == pytest.approx(history.val_accuracy[best])
    with pytest.raises(ArgumentError, match="no 'val_los' to go by; the history has loss, accuracy, val_loss"):
        small().fit(data, 2, 16, held, [train.EarlyStopping("val_los")], progress=False)


@pytest.mark.parametrize("callback", [train.EarlyStopping(), train.ModelCheckpoint("nowhere")])
def test_what_goes_by_validation_is_refused_without_any(callback: train.Callback) -> None:
    """Before the first step, and also where epochs of before had some."""
    trainer = small()
    with pytest.raises(ArgumentError, match="goes by 'val_loss', and there is no validation data: fit.*validation=data"):
        trainer.fit(blobs(32), 2, 16, callbacks=[callback], progress=False)
    assert not trainer.steps
    trainer.fit(blobs(32), 1, 16, blobs(16, 1), progress=False)
    with pytest.raises(ArgumentError, match="there is no validation data"):
        trainer.fit(blobs(32), 2, 16, callbacks=[callback], progress=False)


def test_checkpoints_of_the_best_and_the_last_epochs(tmp_path: Path) -> None:
    data, held = blobs(32), blobs(64, 1)
    trainer = small(optim.Adam(0.3))
    keep = train.ModelCheckpoint(tmp_path, keep_last=2)
    trainer.fit(data, 5, 16, validation=held, callbacks=[keep], progress=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", *(f"epoch-000{i}.safetensors" for i in (4, 5))]
    best = int(np.argmin(trainer.history.val_loss))
    other = small(optim.Adam(0.3))
    other.load(keep.best)
    assert other.epoch == best + 1 and other.evaluate(held)["loss"] == pytest.approx(trainer.history.val_loss[best])
    assert keep.latest() == tmp_path / "epoch-0005.safetensors"


def test_the_last_checkpoint_is_of_the_last_epoch(tmp_path: Path) -> None:
    """Epoch 10,000 comes behind epoch 9,999, and what is none of its files stays."""
    trainer, keep = small(), train.ModelCheckpoint(tmp_path, monitor=None)
    (tmp_path / "epoch-mine.safetensors").touch()
    trainer.fit(blobs(16), 1, 16, progress=False)
    trainer.epoch = 9998
    trainer.fit(blobs(16), 10_001, 16, callbacks=[keep], progress=False)
    assert keep.latest() == tmp_path / "epoch-10001.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch-10001.safetensors", "epoch-mine.safetensors"]


def test_rows_of_epochs_and_steps(tmp_path: Path) -> None:
    """One file each, which another run goes on with."""
    for epochs in (1, 2):
        trainer = small(metrics=["grad_norm", "confusion_matrix"])
        logs = [train.CSVLogger(tmp_path / "epochs.csv"), train.CSVLogger(tmp_path / "steps.csv", steps=True)]
        trainer.fit(blobs(32), epochs, 16, callbacks=logs, progress=False)
    epochs_rows, steps = ([*csv.DictReader((tmp_path / f"{n}.csv").open())] for n in ("epochs", "steps"))
    assert [r["epoch"] for r in epochs_rows] == ["1", "1", "2"] and {"loss", "lr", "grad_norm"} <= epochs_rows[0].keys()
    assert [r["step"] for r in steps] == ["1", "2", "1", "2", "3", "4"] and float(steps[-1]["grad_norm"]) > 0
    assert float(steps[-1]["lr"]) < float(steps[2]["lr"]) == 0.02


def test_pictures_of_epochs(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="the package pillow is missing")
    drawn = [np.full((2, 1, 4, 6), 0.5), np.zeros((8, 9, 3), np.uint8)]
    for i, picture in enumerate(drawn):
        folder = tmp_path / str(i)
        seen = train.SamplePictures(folder, lambda trainer, picture=picture: picture, every=2)
        small(target="reference").fit(blobs(16), 4, 16, callbacks=[seen], progress=False)
        assert sorted(p.name for p in folder.iterdir()) == ["epoch-0002.png", "epoch-0004.png"]
        with image.open(folder / "epoch-0004.png") as found:
            assert found.size == ((20, 8), (9, 8))[i]
    never = train.SamplePictures(tmp_path / "none", lambda trainer: drawn[0], every=0)
    small(target="reference").fit(blobs(16), 1, 16, callbacks=[never], progress=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ArgumentError, match=r"uint8 \[H, W, 3\] or floats \[N, C, H, W\], got float64 \[4, 4\]"):
        wrong = train.SamplePictures(tmp_path, lambda trainer: np.zeros((4, 4)))
        small(target="reference").fit(blobs(16), 1, 16, callbacks=[wrong], progress=False)


def test_a_live_line_has_speed_time_left_and_memory() -> None:
    text = io.StringIO()
    with train.TrainingProgress(2, console=Console(file=text, force_terminal=True, width=160)) as bar:
        bar.start(1, 3)
        bar.count(np.zeros((4, 8), np.int64))
        bar.advance(4, {"loss": 1.5})
        bar.finish({"loss": 1.5, "lr": 0.1, "examples_per_second": 2.0, "seconds": 2.0})
    assert re.search(r"1/3.*loss 1\.5000  [\d,]+ tokens/s  [\d,]+ MB", text.getvalue()), text.getvalue()
    assert "16 tokens/s" in text.getvalue()


class Interrupts(train.Callback):
    """Ctrl-C in the middle of a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_begin(self, trainer: Trainer) -> None:
        run = trainer.run_step

        def step(*given: Any) -> Any:
            if trainer.steps + 1 == self.at:
                signal.raise_signal(signal.SIGINT)
            return run(*given)

        trainer.run_step = step  # type: ignore[method-assign]


@pytest.mark.parametrize("at", [6, 8], ids=["in an epoch", "at its end"])
def test_ctrl_c_leaves_a_checkpoint_that_goes_on_bit_for_bit(at: int, tmp_path: Path) -> None:
    """In the middle of an epoch, with counts of metrics, a plateau and running means."""
    options: dict[str, Any] = {"metrics": ["accuracy", "f1"], "target": "cpu"}
    data = blobs(52)

    def make() -> Trainer:
        schedule = optim.ReduceOnPlateau(0.5, patience=0, threshold=0.5, monitor="val_loss", schedule=optim.Cosine())
        return small(optim.Adam(0.02, ema_decay=0.9, accumulation_steps=3), schedule=schedule, **options)

    straight = make()
    straight.fit(data, 4, 16, validation=data, progress=False)
    assert len({round(rate, 6) for rate in straight.history.lr}) == 4
    stopped, keep = make(), train.ModelCheckpoint(tmp_path)
    with pytest.raises(KeyboardInterrupt, match=rf"in epoch 2, after {at} steps; .*interrupted.safetensors goes on from there"):
        stopped.fit(data, 4, 16, validation=data, callbacks=[keep, Interrupts(at)], progress=False)
    resumed = make()
    resumed.fit(data, 4, 16, validation=data, callbacks=[keep], progress=False, resume=True)
    stopped.fit(data, 4, 16, validation=data, progress=False)  # and so does the trainer itself
    for other in (resumed, stopped):
        for column in ("loss", "accuracy", "val_loss", "lr"):
            assert getattr(other.history, column) == getattr(straight.history, column), column
        assert other.history.others == straight.history.others and other.steps == straight.steps == 16
        for name in straight.state:
            np.testing.assert_array_equal(other.state[name], straight.state[name], err_msg=name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.safetensors", "epoch-0004.safetensors"]
    with pytest.raises(ArgumentError, match="needs a callback that keeps checkpoints"):
        make().fit(data, 4, 16, progress=False, resume=True)


def test_running_means_are_what_is_evaluated(target: str) -> None:
    data = blobs(32)
    trainer = small(optim.SGD(0.5, ema_decay=0.9), target=target)
    before = trainer.evaluate(data)
    assert before["loss"] == pytest.approx(small(target=target).evaluate(data)["loss"], rel=1e-6)
    for _ in range(4):
        trainer.step(data.x, data.y)
    found = trainer.evaluate(data, 20)
    trainer.sync(means=True)
    means = trainer.net.state_dict()
    np.testing.assert_array_equal(means["0.weight"], trainer.state["0.weight.ema"])
    np.testing.assert_array_equal(means["1.running_mean"], trainer.state["1.running_mean"])
    plain = Trainer(trainer.net, nn.CrossEntropyLoss(), optim.SGD(0.1), target=target)
    assert found == pytest.approx(plain.evaluate(data), rel=1e-5)
    trainer.sync()
    assert not np.array_equal(trainer.net.state_dict()["0.weight"], means["0.weight"])
    assert trainer.evaluate(data, 20) == found, "a network that was synced changes nothing"


def test_unfreezing_beside_a_group_that_stays() -> None:
    """A frozen group by pattern, bit for bit where it was."""
    data = blobs(32)
    trainer = small(optim.AdamW(0.1, groups=[("0.*", {"frozen": True})]))
    start = trainer.net.state_dict()
    trainer.fit(data, 2, 16, progress=False)
    after = trainer.net.state_dict()
    assert np.array_equal(start["0.weight"], after["0.weight"]) and not np.array_equal(start["4.weight"], after["4.weight"])
    assert "0.weight.exp_avg" not in trainer.state and grt.nn.count_parameters(trainer.net) == 8 * 16 + 16 + 32 + 51


def test_the_range_of_learning_rates(tmp_path: Path) -> None:
    """The suggestion trains, the loss explodes at the end, and the trainer stays as it was."""
    data = blobs(64)
    trainer = small(optim.SGD(1e-6))
    trainer.step(data.x, data.y)
    before = {n: a.copy() for n, a in trainer.state.items()}
    found = train.lr_range_test(trainer, data, 16, 1e-4, 1e4, steps=60)
    assert all(np.array_equal(before[n], trainer.state[n]) for n in before) and trainer.steps == 1
    assert all(np.array_equal(a, before[n]) for n, a in trainer.net.state_dict().items())
    assert 5 <= len(found.rates) < 60 and 1e-3 < found.suggestion < 10
    after = small(optim.SGD(found.suggestion)).fit(data, 5, 16, progress=False).loss
    assert after[-1] < 0.8 * after[0]
    found.save(tmp_path / "range.png")
    assert (tmp_path / "range.png").read_bytes().startswith(b"\x89PNG")
    for bounds, message in (((1.0, 0.1), "0 < low < high"), ((1e30, 1e38), "begin with a lower rate than 1e\\+30")):
        with pytest.raises(ArgumentError, match=message):
            train.lr_range_test(trainer, data, 16, *bounds)


@pytest.mark.parametrize("kind", ["augmented", "step"])
def test_the_range_is_of_what_is_trained(kind: str) -> None:
    """With the trainer's augmentation, or its step and the optimizers of that."""

    def make() -> Trainer:
        nn.manual_seed(1)
        net = nn.Sequential({"a": nn.Linear(8, 4), "b": nn.Linear(4, 3)})
        if kind == "augmented":
            half = {"augment": lambda x, y: (x * 0.5, y)}
            return Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), target="reference", **half)  # type: ignore[arg-type]

        def step(net: Any, x: Any, y: Any, minimize: Any) -> Any:
            minimize(loss := 3.0 * F.cross_entropy(net(x), y))
            return loss

        return Trainer(net, None, {"a": optim.SGD(0.1), "b": optim.Adam(0.01)}, step=step, target="reference")

    losses: list[float] = []

    class Losses(train.Callback):
        def on_step_end(self, trainer: Trainer, row: dict[str, Any]) -> None:
            losses.append(row["loss"])

    data = blobs(64)
    make().fit(data, 1, 16, callbacks=[Losses()], progress=False)
    assert train.lr_range_test(make(), data, 16, 1e-4, 1.0, steps=8).losses[0] == pytest.approx(losses[0], rel=1e-6)


def test_data_that_does_not_fit_is_named() -> None:
    """In training and in evaluation: one message each, before anything is lost."""
    data = blobs(32)
    wrong = np.where(data.y == 2, 7, data.y)
    spoilt = data.x.copy()
    spoilt[3, 2] = np.inf
    with pytest.raises(NumericError, match="evaluation: y holds 7, and the network has the classes 0 to 2"):
        small().fit(data, 1, 16, validation=Dataset(data.x, wrong), progress=False)
    with pytest.raises(NumericError, match="evaluation: x holds NaN or infinity"):
        small().evaluate(Dataset(spoilt, data.y))
    assert np.isnan(small(check_nan=False).evaluate(Dataset(data.x, wrong))["loss"])
    ignored = small().evaluate(Dataset(data.x, np.full(32, -100)))
    assert np.isnan(ignored["loss"]), "the mean of nothing"
    with pytest.raises(DTypeError, match=r"class indices are integers, got f32\[32\]"):
        small().step(data.x, data.y.astype("f"))
    for given in ({"loss": nn.CrossEntropyLoss}, {"optimizer": optim.SGD}, {"optimizer": {}}, {"augment": 3}):
        with pytest.raises(ArgumentError):
            Trainer(**{"net": linear(), "loss": nn.CrossEntropyLoss(), "optimizer": optim.SGD(0.1), **given})


def test_what_is_no_number_is_named(tmp_path: Path) -> None:
    """Arguments of another kind, before anything is built or trained."""
    data, of, make = blobs(16), cast(Any, train), cast(Any, small)
    trainer = make()
    for call, message in (
        (lambda: trainer.fit(data, "3", 16), "epochs must be a whole number, got '3'"),
        (lambda: trainer.fit(data, 2.5, 16), "epochs must be a whole number, got 2.5"),
        (lambda: trainer.fit(data, 2, "all"), "batch_size must be a whole number or none, got 'all'"),
        (lambda: trainer.fit(data, 2, 16, progress=2), "progress must be true or false, got 2"),
        (lambda: trainer.evaluate(data, None), "batch_size must be a whole number, got None"),
        (lambda: trainer.evaluate(data, 0), "batch_size must be at least 1, got 0"),
        (lambda: trainer.predict(data.x, 1.5), "batch_size must be a whole number, got 1.5"),
        (lambda: trainer.predict(data.x, 0), "batch_size must be at least 1, got 0"),
        (lambda: make(seed="1"), "seed must be a whole number, got '1'"),
        (lambda: make(target=None), "target must be a text, got None"),
        (lambda: make(check_nan="no"), "check_nan must be true or false, got 'no'"),
        (lambda: of.EarlyStopping(patience="5"), "patience must be a whole number, got '5'"),
        (lambda: of.EarlyStopping(monitor=["val_loss"]), r"monitor must be a text, got \['val_loss'\]"),
        (lambda: of.ModelCheckpoint(tmp_path, keep_last=1.5), "keep_last must be a whole number, got 1.5"),
        (lambda: of.SamplePictures(tmp_path, lambda t: data.x, "2"), "every must be a whole number, got '2'"),
        (lambda: of.CSVLogger(tmp_path, steps="yes"), "steps must be true or false, got 'yes'"),
        (lambda: of.TopK(2.0), "k must be a whole number, got 2.0"),
        (lambda: of.AUC("many"), "bins must be a whole number, got 'many'"),
        (lambda: of.F1(2), "average must be a text or none, got 2"),
        (lambda: of.lr_range_test(trainer, data, 16, "low"), "low must be a number, got 'low'"),
    ):
        with pytest.raises(ArgumentError, match=message):
            call()
    assert not trainer.steps


def test_an_epoch_without_validation_does_not_shift_the_best(tmp_path: Path) -> None:
    """Epochs are counted from the first, and the best is looked for among those that were validated."""
    nn.manual_seed(0)
    data = grt.data.xor(32)
    trainer = grt.Trainer(nn.Linear(2, 2), nn.CrossEntropyLoss(), optim.SGD(0.1), target="reference")
    trainer.fit(data, 3, 32, progress=False)
    stopping = grt.train.EarlyStopping(patience=3)
    trainer.fit(data, 5, 32, data, callbacks=[stopping, grt.train.ModelCheckpoint(tmp_path)], progress=False)
    assert trainer.epoch == 5 and stopping.best_epoch == 5 and (tmp_path / "best.safetensors").exists()


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a writer that takes notes: the packages that have one are optional."""
    noted: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, at: int) -> None:
            noted.append((name, value, at))

        def add_histogram(self, name: str, array: np.ndarray, at: int) -> None:
            noted.append((name, float(array.mean()), at))

        def close(self) -> None:
            noted.append(("closed", 0.0, 0))

    monkeypatch.setattr("graphrt.train.tensorboard._writer", lambda: Writer)
    trainer = Trainer(nn.Linear(2, 2), nn.CrossEntropyLoss(), optim.SGD(0.1), target="reference")
    board = train.TensorBoard(tmp_path, steps=True, histograms=True)
    data = grt.data.xor(32)
    history = trainer.fit(data, 2, 16, data, callbacks=[board], progress=False)
    found = {(name, at): value for name, value, at in noted}
    for epoch in (1, 2):
        assert found["training/loss", epoch] == history.loss[epoch - 1]
        assert found["validation/accuracy", epoch] == history.val_accuracy[epoch - 1]
    assert {at for name, at in found if name == "step/training/loss"} == {1, 2, 3, 4}
    assert found["bias", 2] == pytest.approx(float(trainer.state["bias"].mean())) and noted[-1][0] == "closed"


def test_tensorboard_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch.utils.tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install tensorboard, or tensorboardX"):
        train.TensorBoard(tmp_path)
