"""The commands train, eval and predict on each kind of data, settings from files, and the lists of what there is."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED
from test_cli import fails, run
from typer.testing import CliRunner

import graphrt as grt
from graphrt import cli, models, nn
from graphrt.cli.datasets import DATA, Intake, first, load, resized
from graphrt.cli.options import made
from graphrt.models.weights import WEIGHTS

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the commands that train on interpret are in test_cli")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of bright and dark pictures, 12 of each, of sizes that differ."""
    image = pytest.importorskip("PIL.Image")
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, level in (("bright", 200), ("dark", 40)):
        (folder / name).mkdir()
        for i in range(12):
            pixels = rng.integers(level - 30, level + 30, (20 + i, 24, 3), np.uint8)
            image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_a_folder_of_pictures_is_trained_on_and_told_apart(pictures: Path, tmp_path: Path) -> None:
    """A net of one channel and 28x28 pixels gets pictures of three channels and other sizes; its head gets two classes."""
    out = tmp_path / "run"
    common = ("--target", "cpu", "--batch-size", "8", "--epochs", "6", "--optimizer", "adam:lr=0.01", "--schedule", "constant")
    run("train", "mlp", "--data", str(pictures), "--out", str(out), *common)
    assert "accuracy\t1.0000" in run("eval", str(out), "--target", "cpu")
    found = json.loads(run("eval", str(out / "checkpoint.safetensors"), "--data", str(pictures), "--json", "--target", "cpu"))
    assert found["accuracy"] == 1.0 and np.trace(found["confusion_matrix"]) == np.sum(found["confusion_matrix"])
    lines = run("predict", str(out), str(pictures / "dark"), "--top", "1", "--target", "cpu").splitlines()
    assert len(lines) == 12 and all(line.split("\t")[1].startswith("dark ") for line in lines)
    np.save(tmp_path / "one.npy", np.full((3, 9, 9), 0.8, np.float32))
    (line,) = run("predict", str(out), str(tmp_path / "one.npy"), "--json", "--target", "cpu").splitlines()
    row = json.loads(line)
    assert row["bright"] > 0.5 and abs(row["bright"] + row["dark"] - 1.0) < 1e-6


def test_a_folder_of_one_class_is_refused(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pictures / "dark", tmp_path / "pictures" / "dark")
    error = fails(monkeypatch, capsys, "train", "mlp", "--data", str(tmp_path / "pictures"), "--out", str(tmp_path / "run"))
    assert "has one class, dark, and nothing to tell it from" in error


def test_eval_is_what_training_measured(tmp_path: Path) -> None:
    """Of a regression too, whose examples are drawn."""
    run("train", "logistic", "--data", "iris", "--epochs", "2", "--target", "cpu", "--out", str(tmp_path / "iris"))
    run("train", "circle_regressor", "--data", "circles", "--epochs", "1", "--limit", "64", "--lr", "1e-4", "--target", "cpu",
        "--out", str(tmp_path / "circles"))  # fmt: skip
    for name, measure in (("iris", "val_accuracy"), ("circles", "val_loss")):
        history = json.loads((tmp_path / name / "history.json").read_text())
        found = json.loads(run("eval", str(tmp_path / name), "--json", "--target", "cpu"))
        if name == "iris":
            assert found["accuracy"] == pytest.approx(history[measure][-1]) and len(found["confusion_matrix"]) == 3
        else:
            assert {"loss", "mse", "mae", "r2"} == set(found) and found["loss"] == pytest.approx(found["mse"])
    np.savez(tmp_path / "rows.npz", a=np.zeros((2, 4)), b=np.ones(4))
    lines = run("predict", str(tmp_path / "iris"), str(tmp_path / "rows.npz"), "--target", "cpu").splitlines()
    assert [line.split("\t")[0].rpartition(":")[2] for line in lines] == ["a[0]", "a[1]", "b"]


def test_settings_come_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"model": "mlp", "optimizer": "adamw:betas=(0.9,0.99)", "epochs": 1, "limit": 64, "weight-decay": 0.1}
    settings |= {"out": str(tmp_path / "out"), "target": "cpu"}
    (tmp_path / "run.json").write_text(json.dumps(settings))
    run("train", "--config", str(tmp_path / "run.json"), "--epochs", "2")
    notes = grt.train.read_metadata(tmp_path / "out" / "checkpoint.safetensors")
    assert notes["epoch"] == 2 and "AdamW" in notes["optimizer"] and "betas=(0.9, 0.99)" in notes["optimizer"]
    assert "weight_decay=0.1" in notes["optimizer"] and notes["notes"]["model"] == "mlp"
    for text, message in (
        ('{"optimzer": "adam"}', "no setting 'optimzer'; did you mean optimizer? There is model, data"),
        ('{"optimizer": {"name": "adam"}}', "optimizer is one value, as on the command line, got {'name': 'adam'}"),
        ('{"augment": [["mixup"]]}', "augment is one value or a list of them"),
        ('{"augment": "flip"}', "no augment 'flip'"),
        ("[1]", "must hold settings by name"),
        ("{", "is no JSON"),
    ):
        (tmp_path / "bad.json").write_text(text)
        assert message in fails(monkeypatch, capsys, "train", "mlp", "--config", str(tmp_path / "bad.json"))
    assert "nothing.json cannot be read: No such file" in fails(monkeypatch, capsys, "train", "--config", "nothing.json")
    monkeypatch.setitem(sys.modules, "yaml", None)
    (tmp_path / "run.yaml").write_text("epochs: 1\n")
    missing = fails(monkeypatch, capsys, "train", "mlp", "--config", str(tmp_path / "run.yaml"), status=1)
    assert "pip install pyyaml" in missing


def test_settings_come_from_yaml(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="the package pyyaml is missing")
    path = tmp_path / "run.yaml"
    path.write_text(f"model: mlp\nepochs: 1\nlimit: 64\ntarget: cpu\nlr: 1.0e-2\nout: {tmp_path / 'out'}\n")
    run("train", "--config", str(path))
    assert "lr=0.01" in grt.train.read_metadata(tmp_path / "out" / "checkpoint.safetensors")["optimizer"]


def test_a_usage_error_is_status_2_and_says_what_would_be_right() -> None:
    for arguments, message in ((["trian"], "Did you mean 'train'"), (["train", "mlp", "--epchs", "3"], "--epochs")):
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 2 and message in result.output


def test_training_keeps_a_limit_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit that nothing fits is an error, which says the least that there is."""
    common = ("train", "mlp", "--data", "digits", "--epochs", "1", "--limit", "64", "--target", "cpu", "--out", str(tmp_path))
    assert "arena" in run(*common, "--memory-limit", "64MB")
    assert "the least that a run holds is" in fails(monkeypatch, capsys, *common, "--memory-limit", "1kB")


def test_pictures_are_augmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In training alone; mixed labels are counted by the class of the larger share."""
    changes = ("--augment", "crop:padding=2", "--augment", "horizontal_flip:p=0", "--augment", "mixup:alpha=0.2")
    run("train", "mlp", "--limit", "64", "--epochs", "2", "--target", "cpu", "--out", str(tmp_path), *changes)
    history = json.loads((tmp_path / "history.json").read_text())
    assert all(0 < value <= 1 for value in history["accuracy"])
    for wrong, message in (
        ("flip", "no augment 'flip'; there is affine"),
        ("crop:pad=1", "did you mean padding?"),
        ("horizontal_flip:p=often", "p must be a number, got often"),
        ("affine:scale=2", "scale must be 2 numbers in brackets, as in (0.5,0.8), got 2"),
        ("rotation", "--augment rotation needs degrees, as in rotation:degrees=VALUE"),
    ):
        assert message in fails(monkeypatch, capsys, "train", "mlp", "--augment", wrong, "--out", str(tmp_path))
    words = ("train", "logistic", "--data", "iris", "--augment", "mixup", "--out", str(tmp_path))
    assert "changes pictures of classes" in fails(monkeypatch, capsys, *words)


def test_what_cannot_be_drawn_or_told_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for model, name in (("mlp", "mnist"), ("playground", "xor")):
        run("train", model, "--data", name, "--limit", "64", "--epochs", "1", "--target", "cpu", "--out", name)
    np.save("nan.npy", np.full((28, 28), np.nan))
    np.save("words.npy", np.array(["a", "b"]).reshape(1, 1, 2))
    np.save("five.npy", np.zeros((2, 5, 28, 28)))
    np.savez("objects.npz", a=np.array([{}]))
    np.savez("cut.npz", a=np.arange(5000))
    Path("cut.npz").write_bytes(Path("cut.npz").read_bytes()[:3000])
    for words, message in (
        (("predict", "mnist", "nan.npy"), "nan.npy holds NaN or infinity"),
        (("predict", "mnist", "words.npy"), "words.npy holds <U1, and an example is of numbers"),
        (("predict", "mnist", "five.npy"), "pictures have 1 channel or 3, got 5 in an example of shape [5, 28, 28]"),
        (("predict", "mnist", "objects.npz"), "objects.npz is no array that can be read: Object arrays cannot be loaded"),
        (("predict", "mnist", "cut.npz"), "cut.npz is no array that can be read: "),
        (("see", "saliency", "mnist", "nan.npy"), "nan.npy holds NaN or infinity"),
        (("see", "saliency", "xor"), "pictures are [N, C, H, W], got [8, 2]"),
        (("see", "filters", "xor"), "the network has no convolution"),
        (("see", "gradcam", "mnist"), "gradcam needs feature maps, and no layer"),
        (("see", "units", "mnist", "--layer", "9"), "no layer '9'; there is 0, 1, 2, 3\n"),
        (("see", "features", "mnist", "--layer", "9"), "no layer '9'; there is 0, 1, 2, 3\n"),
        (("see", "boundary", "mnist"), "a decision boundary is drawn of points [N, 2]"),
        (("see", "curves", "mnist", "-o", "curves.xyz"), "curves.xyz: Format 'xyz' is not supported"),
    ):
        assert message in fails(monkeypatch, capsys, *words), words
    assert "accuracy" in run("eval", "mnist", "--target", "cpu", "--confusion", "new/matrix.png")
    (tmp_path / "runs").mkdir()
    (tmp_path / "xor").rename(tmp_path / "runs" / "other")
    (tmp_path / "other").mkdir()  # which is none of a run
    assert "accuracy" in run("eval", "other", "--target", "cpu")
    assert {path.name for path in tmp_path.rglob("*.png")} == {"curves.png", "matrix.png"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_names(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, and the names that arguments and options take."""
    monkeypatch.setenv("_GRAPHRT_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    for words, expected in (
        ("graphrt ev", {"eval"}),
        ("graphrt train resnet1", {"resnet18", "resnet101", "resnet110", "resnet152"}),
        ("graphrt train yol", {"yolo"}),
        ("graphrt train mlp --data i", {"iris"}),
        ("graphrt train mlp --optimizer ada", {"adam", "adamw", "adamax", "adagrad", "adadelta"}),
        ("graphrt train mlp --schedule co", {"constant", "cosine", "cosine_restarts"}),
        ("graphrt train mlp --augment m", {"mixup"}),
        ("graphrt train mlp --policy ze", {"zero1", "zero2"}),
        ("graphrt train mlp --autocast b", {"bfloat16"}),
        ("graphrt train mlp --target r", {"reference"}),
        ("graphrt eval runs/mlp --data sp", {"spirals"}),
        ("graphrt see gra", {"gradients", "gradcam"}),
        ("graphrt summary ssd", {"ssd", "ssd300_vgg16"}),
        ("graphrt compile lene", {"lenet5"}),
        ("graphrt ops conv_d", {"conv_dgrad"}),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", words)
        told = CliRunner().invoke(cli.app, [], prog_name="graphrt").output.splitlines()
        found = {line.split('"')[1] if shell == "zsh" else line.split("\t")[0] for line in told}
        assert found == expected, words


def test_every_shell_has_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    for shell, begin in (("bash", "complete -o"), ("zsh", "#compdef graphrt"), ("fish", "complete --command graphrt")):
        result = CliRunner().invoke(cli.app, ["--show-completion", shell], prog_name="graphrt")
        assert begin in result.output and f"_GRAPHRT_COMPLETE=complete_{shell}" in result.output


def test_what_is_asked_for_is_what_trains(tmp_path: Path) -> None:
    """Losses of the command, bit for bit those of a Trainer of the same recipe."""
    recipe = ("--optimizer", "sgd", "--lr", "0.02", "--momentum", "0.5", "--weight-decay", "0.01", "--schedule", "constant")
    more = ("--warmup", "0.25", "--autocast", "bfloat16", "--seed", "3", "--batch-size", "32", "--limit", "80", "--epochs", "2")
    run("train", "mlp", "--data", "digits", *recipe, *more, "--target", "cpu", "--out", str(tmp_path))
    notes = grt.train.read_metadata(tmp_path / "checkpoint.safetensors")["notes"]
    intake = Intake.from_json(notes["intake"])
    nn.manual_seed(3)
    trainer = grt.Trainer(
        models.get("mlp").build(**notes["settings"]),
        nn.CrossEntropyLoss(),
        grt.optim.SGD(0.02, momentum=0.5, weight_decay=0.01),
        grt.optim.warmup(grt.optim.Constant(), 0.25),
        target="cpu",
        seed=3,
        autocast="bfloat16",
    )
    part = first(intake.of(load("digits", intake.shape).train), 80)
    history = trainer.fit(part, 2, 32, progress=False)
    assert json.loads((tmp_path / "history.json").read_text())["loss"] == history.loss
    rows = [json.loads(run("eval", str(tmp_path), "--json", "--batch-size", size, "--target", "cpu")) for size in ("7", "256")]
    assert [rows[0][name] for name in ("loss", "accuracy")] == pytest.approx([rows[1]["loss"], rows[1]["accuracy"]], rel=1e-6)


def test_options_of_a_name() -> None:
    step = made("schedule", "step:milestones=(0.25,0.5),gamma=0.5", grt.optim.SCHEDULES)
    assert step == grt.optim.Step((0.25, 0.5), 0.5)
    plateau = made("schedule", "plateau:mode=max,monitor=val_accuracy", grt.optim.SCHEDULES)
    assert plateau.mode == "max" and plateau.monitor == "val_accuracy"


@pytest.mark.parametrize("name", DATA)
def test_every_set_is_what_a_network_takes(name: str) -> None:
    """Normalised by the training part, in the network's shape."""
    shape = (3, 32, 32)
    found = load(name, shape)
    intake = Intake.fit(found.train, shape if len(found.shape) == 3 else found.shape)
    x, y = intake.of(found.train).rows(np.arange(len(found.train)))
    assert x.dtype == np.float32 and x.shape[1:] == intake.shape and len(y) == len(x)
    assert np.isfinite(x).all() and Intake.from_json(json.loads(json.dumps(intake.to_json()))) == intake
    assert set(np.unique(y)) == set(range(len(found.classes))) if found.classes else y.shape[1] == found.outputs
    if len(found.shape) == 1:
        np.testing.assert_allclose([x.mean(0), x.std(0)], [np.zeros(x.shape[1]), np.ones(x.shape[1])], atol=1e-4)


def test_resizing_is_torchs() -> None:
    import torch

    x = np.random.default_rng(0).standard_normal((2, 3, 5, 9)).astype(np.float32)
    for size in ((10, 9), (7, 20), (3, 4)):
        expected = torch.nn.functional.interpolate(torch.from_numpy(x), size, mode="bilinear").numpy()
        np.testing.assert_allclose(resized(x, size), expected, atol=1e-5)


def test_lists() -> None:
    """Each network, set and op has a line."""
    for command, names in (("models", {**models.MODELS, **models.DETECTORS}), ("data", DATA), ("ops", grt.op.REGISTRY)):
        assert {*names} <= {line.split("\t")[0] for line in run(command).splitlines()}, command
    assert "mlp\t1x28x28\t101,770\t" in run("models")
    listed = run("models", "--weights")
    assert "resnet18\ttorchvision.models.resnet18" in listed and "ssd300_vgg16\ttorchvision.models.detection.ssd300" in listed
    assert "digits\t" in run("data") and "relu\t" in run("ops")
    told = run("ops", "relu")
    assert told.startswith("graphrt.ops.relu(input: Value) -> Value\n\n") and "max(input, 0)" in told
    assert "bias: Value | None = None, stride: Size = 1" in run("ops", "conv2d")
    assert "mode: str = 'nearest'" in run("ops", "interpolate")
    assert "conv_dgrad" in run("ops", "conv_dgrad") and "gradient yes" in run("ops", "conv_dgrad")


def test_names_of_weights_are_torchvisions() -> None:
    """Names and shapes of what the table says can be loaded."""
    assert all(callable(getattr(models, name)) for name in WEIGHTS)
    theirs = pytest.importorskip("torchvision.models", reason="the package torchvision is missing", exc_type=ImportError)
    torch = pytest.importorskip("torch")
    for name in WEIGHTS:
        if (build := getattr(theirs, name, None)) is None:
            continue
        with torch.device("meta"):
            net = build(**({"aux_logits": False, "init_weights": False} if name == "googlenet" else {}))
        with nn.init.skip_init():
            ours = {n: tuple(p.array.shape) for n, p in models.get(name).build()._named()}
        found = {n: tuple(v.shape) for n, v in net.state_dict().items() if not n.endswith("num_batches_tracked")}
        assert found == {n: shape for n, shape in ours.items() if not n.endswith("num_batches_tracked")}, name
