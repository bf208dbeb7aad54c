"""What is seen of networks: activations, attribution and units beside torch, pictures, gradcheck and the backward text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from test_cli import fails, run

import graphrt as grt
from graphrt import data, nn, visualize
from graphrt import ops as F
from graphrt.cli.seeing import KINDS
from graphrt.errors import ArgumentError

pytestmark = pytest.mark.skipif(INTERPRETED, reason="what is computed does not depend on the target")
pytest.importorskip("matplotlib", reason="the package matplotlib is missing")


def nets() -> tuple[nn.Module, torch.nn.Module, np.ndarray]:
    """A small convolutional network, the same in torch, and pictures."""
    nn.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    peer = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.Tanh(), torch.nn.Conv2d(4, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(48, 5),
    )  # fmt: skip
    peer.load_state_dict({name: torch.from_numpy(a) for name, a in net.state_dict().items()})
    return net, peer, np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)


def test_activations_and_gradients_are_torchs() -> None:
    net, peer, x = nets()
    found, y = visualize.activations(net, x, "cpu"), torch.from_numpy(x)
    assert list(found) == ["0", "1", "2", "3", "4", "5"]
    for name, layer in peer.named_children():
        y = layer(y)
        np.testing.assert_allclose(found[name], y.detach().numpy(), rtol=1e-5, atol=1e-5)
    rows = {row.path: row for row in visualize.statistics(found)}
    assert rows["3"].zeros == (found["3"] == 0).mean() > 0 and rows["5"].mean == pytest.approx(found["5"].mean(), abs=1e-6)
    labels = np.array([0, 4, 2])
    norms = visualize.gradient_norms(net, nn.CrossEntropyLoss(), x, labels, "cpu")
    torch.nn.functional.cross_entropy(peer(torch.from_numpy(x)), torch.from_numpy(labels)).backward()
    assert norms == pytest.approx({name: float(p.grad.norm()) for name, p in peer.named_parameters()}, rel=1e-4)


def test_saliency_and_grad_cam_are_torchs() -> None:
    net, peer, x = nets()
    for classes in (None, 2, [4, 0, 1]):
        t = torch.from_numpy(x).requires_grad_()
        maps = peer[:4](t)
        logits = peer[4:](maps)
        index = logits.argmax(1) if classes is None else torch.tensor(classes).expand(3)
        dx, d_maps = torch.autograd.grad(logits.gather(1, index[:, None]).sum(), [t, maps])
        np.testing.assert_allclose(visualize.saliency(net, x, classes, "cpu"), dx.abs().numpy(), rtol=1e-4, atol=1e-6)
        seen = (maps * d_maps.mean((2, 3), keepdim=True)).sum(1, keepdim=True).relu()
        seen = torch.nn.functional.interpolate(seen, (8, 8), mode="bilinear")[:, 0].detach().numpy()
        top = seen.max((1, 2), keepdims=True)
        cam = visualize.grad_cam(net, x, "3", classes, "cpu")
        np.testing.assert_allclose(cam, seen / np.where(top > 0, top, 1), rtol=1e-3, atol=1e-5)
    with pytest.raises(ArgumentError, match="no layer '9'; there is 0, 1, 2"):
        visualize.grad_cam(net, x, "9", target="cpu")
    with pytest.raises(ArgumentError, match=r"layer '5' gives \[3, 5\]; Grad-CAM needs feature maps"):
        visualize.grad_cam(net, x, "5", target="cpu")
    with pytest.raises(ArgumentError, match=r"x is pictures \[N, C, H, W\], got .*; x\[None\] is one of them"):
        visualize.grad_cam(net, x[0], "3", target="cpu")
    with pytest.raises(ArgumentError, match="classes must lie in 0 to 4"):
        visualize.saliency(net, x, 5, "cpu")


def test_the_input_that_excites_a_unit_of_a_linear_layer_is_its_weights() -> None:
    nn.manual_seed(0)
    net = nn.Linear(12, 3, bias=False)
    x, history = visualize.maximize_activation(net, (12,), "", 1, steps=80, target="cpu")
    weights = net.weight.array[1]
    assert float(x @ weights / (np.linalg.norm(x) * np.linalg.norm(weights))) > 0.999 and history[-1] > history[0]
    with pytest.raises(ArgumentError, match="which has no unit 3"):
        visualize.maximize_activation(net, (12,), "", 3, target="cpu")


def test_pictures_are_drawn(tmp_path: Path) -> None:
    net, _, x = nets()
    found = visualize.activations(net, x, "cpu")
    points = data.xor(40)
    plane = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))
    history = grt.train.History(loss=[1.0, 0.5], val_loss=[1.0, 0.6], accuracy=[0.5, 0.6])
    drawn = {
        "curves": lambda p: visualize.curves({"a": history, "b": history}, p),
        "matrix": lambda p: visualize.confusion_matrix([[3, 1], [0, 2]], ["cat", "dog"], p),
        "filters": lambda p: visualize.filters(net, p),
        "maps": lambda p: visualize.feature_maps(net, x[0], "2", p, target="cpu"),
        "heat": lambda p: visualize.heatmap(x, np.abs(x), p),
        "histograms": lambda p: visualize.histograms(found, p),
        "norms": lambda p: visualize.norms({"a": 1.0, "b": 0.0}, p),
        "boundary": lambda p: visualize.decision_boundary(plane, points, p, 20, "cpu"),
    }
    for name, draw in drawn.items():
        draw(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    figure = visualize.confusion_matrix([[3, 1], [0, 2]], ["cat", "dog"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["3", "1", "0", "2"]
    with pytest.raises(ArgumentError, match="no convolution 'conv9'; there is 0, 2"):
        visualize.filters(net, layer="conv9")
    with pytest.raises(ArgumentError, match=r"drawn of points \[N, 2\]"):
        visualize.decision_boundary(net, data.Dataset(x, np.zeros(3, np.int64)))


def test_pictures_show_what_they_are_of() -> None:
    """The numbers that matplotlib was given: filters, maps, heat, bars of histograms and norms, curves, classes of a plane."""
    net, _, x = nets()

    def greys(figure: Any) -> list[np.ndarray]:
        return [axes.images[0].get_array() for axes in figure.axes if axes.images]

    def stretched(array: np.ndarray) -> np.ndarray:
        return (array - array.min()) / (array.max() - array.min())

    weights, found = net[0].weight.array, visualize.activations(net, x[:1], "cpu")
    for drawn, given in (
        (visualize.filters(net, most=3), weights[:3, 0]),
        (visualize.filters(net, layer="2"), net[2].weight.array.reshape(-1, 3, 3)),
        (visualize.feature_maps(net, x[0], "1", most=2, target="cpu"), found["1"][0, :2]),
        (visualize.image_grid(x), x[:, 0]),
    ):
        assert len(greys(drawn)) == len(given)
        for shown, array in zip(greys(drawn), given, strict=True):
            np.testing.assert_allclose(shown, stretched(array), atol=1e-6)
    colours = np.random.default_rng(0).random((2, 3, 4, 5))
    np.testing.assert_allclose(greys(visualize.image_grid(colours, ["a"]))[1], stretched(colours[1].transpose(1, 2, 0)))
    titles = [axes.get_title() for axes in visualize.image_grid(colours, ["a"]).axes]
    assert titles == ["a", ""]
    heat = np.abs(x)
    shown = visualize.heatmap(x, heat).axes[1]
    np.testing.assert_allclose(shown.images[1].get_array(), heat[0, 0])
    bars = visualize.histograms(found, bins=7).axes
    assert [sum(bar.get_height() for bar in axes.patches) for axes in bars[: len(found)]] == [a.size for a in found.values()]
    assert [bar.get_width() for bar in visualize.norms({"a": 2.0, "b": 0.5}).axes[0].patches] == [2.0, 0.5]
    lines = visualize.curves(grt.train.History(loss=[3.0, 1.0], val_loss=[2.0, 2.5])).axes[0].lines
    assert [line.get_ydata().tolist() for line in lines] == [[3.0, 1.0], [2.0, 2.5]]
    plane = nn.Linear(2, 2, bias=False)
    plane.weight.array[...] = [[0, 0], [1, 0]]  # class 1 on the right
    points = data.Dataset(np.array([[-1, -1], [1, 1], [0.5, -1]], np.float32), np.array([0, 1, 1]))
    axes = visualize.decision_boundary(plane, points, resolution=20, target="cpu").axes[0]
    left, right = (path.get_extents() for path in axes.collections[0].get_paths() if len(path.vertices))
    assert left.x1 == pytest.approx(0.0, abs=0.12) == right.x0 and len(axes.collections[1].get_offsets()) == 3


def test_commands_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    common = ("--epochs", "1", "--limit", "16", "--target", "reference", "--out")
    run("train", "lenet5", "--data", "mnist", *common, str(tmp_path / "lenet5"))
    run("train", "playground", "--data", "xor", *common, str(tmp_path / "plane"))
    for kind in KINDS:
        path = tmp_path / f"{kind}.png"
        net = "plane" if kind == "boundary" else "lenet5"
        output = run("see", kind, str(tmp_path / net), "--count", "1", "--target", "reference", "-o", str(path))
        assert f"{path}: {KINDS[kind]}" in output and path.read_bytes()[:4] == b"\x89PNG"
    run("see", "units", str(tmp_path / "lenet5"), "--layer", "0", "--target", "reference", "-o", str(tmp_path / "six.png"))
    run("eval", str(tmp_path / "plane"), "--target", "reference", "--confusion", str(tmp_path / "matrix.png"))
    assert (tmp_path / "matrix.png").exists()
    error = fails(monkeypatch, capsys, "see", "saliencies", str(tmp_path / "lenet5"))
    assert "no picture 'saliencies'; did you mean saliency?" in error
    error = fails(monkeypatch, capsys, "see", "activations", str(tmp_path / "lenet5"), "--layer", "nope")
    assert "no layer 'nope'; there is" in error


# --- gradients ----------------------------------------------------------------------------------------------------


def test_gradcheck_tells_right_from_wrong() -> None:
    nn.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
    x = np.random.default_rng(0).standard_normal((2, 2, 4, 4))
    report = grt.gradcheck(net, [x], elements=6)
    assert report and [row.name for row in report.rows] == ["input0", *(n for n, _ in net.named_parameters())]
    assert max(row.error for row in report.rows) < 1e-6 and "WRONG" not in str(report)
    wrong = grt.gradcheck(lambda v: F.stop_gradient(v) * v, [x[0, 0]])
    assert not wrong and str(wrong).endswith("WRONG") and wrong.rows[0].numeric == pytest.approx(2 * wrong.rows[0].analytic)
    with pytest.raises(ArgumentError, match="nothing to differentiate by"):
        grt.gradcheck(lambda v: v + 1, [np.arange(3)])


def test_the_backward_graph_is_a_text() -> None:
    g = grt.Graph()
    x, y, z = g.input("x"), g.input("y"), g.input("z")
    q = x + y
    text = grt.backward_text(q * z, [x, y, z])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "forward" and lines[1].startswith("add_0 = add(x, y) test_visualize.py:")
    assert "of mul_0 = mul(add_0, z)" in lines and "mul_1 = mul(1, z)" in lines
    assert lines[-3:] == ["d mul_0 / d x = mul_1 : f32[]", "d mul_0 / d y = mul_1 : f32[]", "d mul_0 / d z = mul_2 : f32[]"]
