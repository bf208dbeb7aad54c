"""The commands train, eval and predict on networks that find or outline shapes in scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import INTERPRETED
from test_cli import fails, run

from graphrt.data import SHAPES, scenes
from graphrt.train import pictures

pytestmark = pytest.mark.skipif(INTERPRETED, reason="the commands that train on interpret are in test_cli")
pytest.importorskip("PIL.Image")
SMALL = ("--target", "cpu", "--limit", "48", "--batch-size", "16", "--epochs", "2", "--pictures", "1")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A picture of another size than networks take."""
    path = tmp_path / "scene.png"
    pictures.save_picture(pictures.plain(scenes(1, 80, seed=3).x)[0], path)
    return path


LONG = [pytest.param(name, marks=pytest.mark.proof) for name in ("yolo", "rcnn", "mask_rcnn")]


@pytest.mark.parametrize("name", ["unet", *LONG])
def test_a_network_is_trained_and_used(
    name: str, tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses by part, pictures of each epoch, and figures that eval finds again; a name stands for the folder in runs."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("graphrt.cli.scenes.HELD", 16)
    output = run("train", name, "--data", "shapes", *SMALL)
    folder = tmp_path / "runs" / name
    left = {"checkpoint.safetensors", "curves.png", "history.json", "epoch-0001.png", "epoch-0002.png"}
    assert {p.name for p in folder.iterdir()} == left
    history = json.loads((folder / "history.json").read_text())["others"]
    parts = {"unet": ["mean_iou"], "rcnn": ["class", "box"], "mask_rcnn": ["objectness", "mask"]}
    for part in parts.get(name, ["centre", "no_object"]):
        assert len(history[part]) == len(history[f"val_{part}"]) == 2 and f"{part} " in output
    measured = json.loads(run("eval", name, "--json", "--target", "cpu"))
    figure = "mean_iou" if name == "unet" else "map_50"
    assert f"{figure}\t{measured[figure]:.4f}" in output and next(iter(measured)) == figure
    assert ("mask_iou" in measured) == (name == "mask_rcnn")
    found = json.loads(run("predict", name, str(scene), "-o", "out.png", "--json", "--target", "cpu"))
    with Image.open(tmp_path / "out.png") as drawn:
        assert min(drawn.size) >= 240
    if name == "unet":
        assert set(found) == {"example", *SHAPES} and sum(found[shape] for shape in SHAPES) <= 1
    for one in found.get("found", ()):
        assert one["class"] in SHAPES and 0 <= one["box"][0] <= one["box"][2] <= 80
        assert ("pixels" in one) == (name == "mask_rcnn")
    np.save(tmp_path / "two.npy", scenes(2, 32).x)
    lines = run("predict", name, str(tmp_path / "two.npy"), "--target", "cpu").splitlines()
    assert {line.split("\t")[0].rpartition("two.npy")[2] for line in lines} == {"[0]", "[1]"}
    for words, message in (
        (("predict", name, "two.npy", "-o", "out.png"), "the picture of one example, and there are 2"),
        (("eval", name, "--confusion", "out.png"), "has no confusion matrix"),
        (("eval", name, "--data", "mnist"), "is measured on scenes"),
        (("see", "filters", name), f"is of {name} on scenes"),
    ):
        assert message in fails(monkeypatch, capsys, *words, "--target", "cpu")


def test_what_does_not_fit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (("train", "resnet20", "--data", "scenes"), "no task 'resnet20'"),
        (("train", "yolo", "--data", "mnist"), "yolo is trained on scenes, got --data mnist"),
        (("train", "ssd", "--augment", "mixup"), "scenes are none"),
        (("eval", "yolo"), "there is no checkpoint yolo"),
    ):
        assert message in fails(monkeypatch, capsys, *words)
    run("train", "mlp", "--limit", "64", "--epochs", "1", "--target", "cpu")
    np.save(tmp_path / "one.npy", np.zeros((1, 28, 28), np.float32))
    words = ("predict", "mlp", "one.npy", "-o", "out.png", "--target", "cpu")
    assert "a network that finds nothing in it" in fails(monkeypatch, capsys, *words)
