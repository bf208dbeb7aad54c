"""Augmentation in the graph: what is done given what was drawn, how it is drawn, and how a Trainer uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.data import Dataset, Examples
from graphrt.errors import ArgumentError, NumericError, ShapeError
from graphrt.nn import augment
from graphrt.train import Trainer

N, C, H, W = 6, 3, 7, 9
Drawn = dict[str, np.ndarray]


def pictures(count: int = N, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, C, H, W), np.float32)


# --- given what was drawn -------------------------------------------------------------------------------------------


def sample(x: np.ndarray, rows: np.ndarray, columns: np.ndarray, nearest: bool, fill: float) -> np.ndarray:
    """``x`` [C, H, W] at positions [h, w], ``fill`` outside."""
    if nearest:
        rows, columns = np.round(rows), np.round(columns)
    low_row, low_column = np.floor(rows).astype(int), np.floor(columns).astype(int)
    total = np.zeros((len(x), *rows.shape))
    for r, c in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = low_row + r, low_column + c
        share = (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
        inside = (row >= 0) & (row < x.shape[1]) & (column >= 0) & (column < x.shape[2])
        pixels = x[:, row.clip(0, x.shape[1] - 1), column.clip(0, x.shape[2] - 1)]
        total += share * np.where(inside, pixels, fill)
    return total


def flipped(dim: int) -> Any:
    return lambda x, d, i: np.flip(x[i], dim) if d["flip"][i] else x[i]


def cropped(size: tuple[int, int], pad: tuple[int, ...], **how: Any) -> Any:
    def crop(x: np.ndarray, d: Drawn, i: int) -> np.ndarray:
        left, top, right, bottom = pad
        wide = np.pad(x[i], ((0, 0), (top, bottom), (left, right)), **how)
        return wide[:, d["top"][i] : d["top"][i] + size[0], d["left"][i] : d["left"][i] + size[1]]

    return crop


def turned(nearest: bool = False, fill: float = 0.0) -> Any:
    """Slanted, scaled, turned counter-clockwise and moved, by the inverse of the matrix of all that."""

    def turn(x: np.ndarray, d: Drawn, i: int) -> np.ndarray:
        angle, slant = np.deg2rad([d["angle"][i], d["shear"][i]])
        rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # rows grow downwards
        matrix = rotation @ (np.eye(2) * d["scale"][i]) @ np.array([[1, np.tan(slant)], [0, 1]])
        centre = np.array([(x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2])
        rows, columns = np.mgrid[: x.shape[2], : x.shape[3]]
        at = np.stack([columns, rows], -1) - centre - [d["x"][i], d["y"][i]]
        back = at @ np.linalg.inv(matrix).T + centre
        return sample(x[i], back[..., 1], back[..., 0], nearest, fill)

    return turn


def resized(size: tuple[int, int]) -> Any:
    def resize(x: np.ndarray, d: Drawn, i: int) -> np.ndarray:
        rows = d["top"][i] + (np.arange(size[0]) + 0.5) * d["height"][i] / size[0] - 0.5
        columns = d["left"][i] + (np.arange(size[1]) + 0.5) * d["width"][i] / size[1] - 0.5
        return sample(x[i], *np.meshgrid(rows.clip(0, H - 1), columns.clip(0, W - 1), indexing="ij"), nearest=False, fill=0.0)

    return resize


def grey(x: np.ndarray) -> np.ndarray:
    return np.tensordot([0.2989, 0.587, 0.114], x, 1)[None]


def coloured(x: np.ndarray, d: Drawn, i: int) -> np.ndarray:
    bright = x[i] * np.float64(d["brightness"][i])
    mean = grey(bright).mean()
    contrast = mean + (bright - mean) * d["contrast"][i]
    return np.clip(grey(contrast) + (contrast - grey(contrast)) * d["saturation"][i], 0.0, 1.0)


def box(d: Drawn, i: int) -> tuple[slice, slice, slice]:
    top, bottom, left, right = (max(int(d[name][i]), 0) for name in ("top", "bottom", "left", "right"))
    return slice(None), slice(top, bottom), slice(left, right)


def erased(value: float) -> Any:
    def erase(x: np.ndarray, d: Drawn, i: int) -> np.ndarray:
        found = x[i].copy()
        if d["change"][i]:
            found[box(d, i)] = value
        return found

    return erase


def pasted(x: np.ndarray, d: Drawn, i: int) -> np.ndarray:
    found = x[i].copy()
    found[box(d, i)] = x[i - 1][box(d, i)]
    return found


CASES: dict[str, tuple[augment.Augmentation, Any]] = {
    "horizontal": (augment.RandomHorizontalFlip(), flipped(2)),
    "vertical": (augment.RandomVerticalFlip(0.7), flipped(1)),
    "crop": (augment.RandomCrop((5, 8), 2, fill=0.5), cropped((5, 8), (2,) * 4, constant_values=0.5)),
    "reflected": (augment.RandomCrop(7, (3, 0, 1, 2), padding_mode="reflect"), cropped((7, 7), (3, 0, 1, 2), mode="reflect")),
    "edge": (augment.RandomCrop((H, W), 1, padding_mode="edge"), cropped((H, W), (1,) * 4, mode="edge")),
    "affine": (augment.RandomAffine(40, (0.2, 0.1), (0.8, 1.3), 15, fill=0.3), turned(fill=0.3)),
    "rotation": (augment.RandomRotation((10, 60), "nearest"), turned(nearest=True)),
    "resized": (augment.RandomResizedCrop((4, 6), (0.2, 1.0)), resized((4, 6))),
    "colours": (augment.ColorJitter(0.6, (0.5, 2.0), 0.9, clip=(0, 1)), coloured),
    "noise": (augment.GaussianNoise(0.1, 0.3), lambda x, d, i: x[i] + d["noise"][i]),
    "cutout": (augment.Cutout(4, p=0.8, value=2.0), erased(2.0)),
    "erasing": (augment.RandomErasing(0.8, (0.1, 0.5)), erased(0.0)),
    "mixup": (augment.MixUp(0.4), lambda x, d, i: x[i] * d["share"][i] + x[i - 1] * (1 - d["share"][i])),
    "cutmix": (augment.CutMix(0.7), pasted),
}


def test_each_equals_numpy_given_what_was_drawn(target: str) -> None:
    x = pictures()
    graph = grt.Graph()
    xv = graph.input("x", x.shape)
    for name, (one, _) in CASES.items():
        drawn = one.draw(xv)
        for what, value in drawn.items():
            graph.output(f"{name} {what}", value)
        graph.output(name, one.change(xv, **drawn))
    found = grt.compile(graph, target=target)(x=x)
    for name, (_, oracle) in CASES.items():
        drawn = {key.split()[1]: value for key, value in found.items() if key.startswith(f"{name} ")}
        for i in range(N):
            expected = oracle(x, drawn, i)
            np.testing.assert_allclose(found[name][i], expected, rtol=1e-5, atol=1e-5, err_msg=f"{name} {i}")


def test_a_quarter_turn_is_counter_clockwise() -> None:
    x = np.random.default_rng(0).random((2, 1, 6, 6), np.float32)
    for degrees, turns in ((90, 1), (180, 2), (-90, -1)):
        found = run(augment.RandomRotation((degrees, degrees)), x)
        np.testing.assert_allclose(found["out0"], np.rot90(x, turns, (2, 3)), atol=1e-5)


def run(module: nn.Module, x: np.ndarray, y: np.ndarray | None = None, training: bool = True, seed: int = 0) -> Any:
    """What the module makes of (x, y)."""
    module.train(training)
    graph = grt.Graph()
    given = [graph.input("x", x.shape, x.dtype.name)]
    feeds = {"x": x}
    if y is not None:
        given.append(graph.input("y", y.shape, y.dtype.name))
        feeds["y"] = y
    found = module(*given)
    for i, value in enumerate(found if isinstance(found, tuple) else (found,)):
        graph.output(f"out{i}", value)
    if "rng.seed" in graph.sources:
        F.manual_seed(graph, seed)
    return grt.compile(graph, target="reference")(**feeds)


def test_masks_are_moved_as_their_pictures() -> None:
    """A mask of the pictures' own pixels, as numbers: wherever nothing is mixed both are the same."""
    y = np.random.default_rng(1).integers(1, 200, (N, H, W)).astype(np.uint8)
    x = np.repeat(y[:, None], C, 1).astype(np.float32)
    moves = [
        augment.RandomHorizontalFlip(masks=True),
        augment.RandomVerticalFlip(masks=True),
        augment.RandomCrop((6, 8), 1, masks=True),
        augment.RandomRotation(30, "nearest", masks=True),
    ]
    found = run(augment.Compose(moves), x, y)
    assert found["out1"].dtype == np.uint8 and found["out1"].shape == (N, 6, 8) and (found["out1"] == 0).any()
    np.testing.assert_array_equal(found["out0"], np.repeat(found["out1"][:, None], C, 1))
    shrunk = run(augment.RandomResizedCrop(5, masks=True), x, np.ones((N, 2, H, W), np.float32))
    assert shrunk["out1"].shape == (N, 2, 5, 5) and (shrunk["out1"] == 1).all()


def test_mixed_targets() -> None:
    """Shares of classes, of one-hot targets, and of numbers; a class that is none is NaN."""
    x, y = pictures(), np.array([0, 3, 1, 2, 7, 1])
    for make in (augment.MixUp, augment.CutMix):
        found = run(make(0.5, 4), x, y)["out1"]
        share = found[np.arange(4), y[:4]]
        assert found.shape == (N, 4) and np.isnan(found[4]).all() and np.isnan(found[5]).all()
        np.testing.assert_allclose(found[:4].sum(1), 1.0, rtol=1e-6)
        np.testing.assert_allclose(found[np.arange(1, 4), y[:3]], 1 - share[1:], rtol=1e-5)
        hot = np.eye(4, dtype="f")[y % 4]
        np.testing.assert_allclose(run(make(0.5), x, hot)["out1"][:4], found[:4], rtol=1e-6)
    numbers = np.arange(N, dtype=np.float32)
    mixed = run(augment.MixUp(), x, numbers)["out1"]
    assert (np.abs(mixed[1:] - numbers[1:] + 0.5) <= 0.5).all() and not np.array_equal(mixed, numbers)


# --- how it is drawn ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(INTERPRETED, reason="numbers do not depend on the target: test_ops compares them")
def test_what_is_drawn_has_the_distribution_that_it_should() -> None:
    """By the test of Kolmogorov and Smirnov, of 20,000 pictures each."""
    stats = pytest.importorskip("scipy.stats")
    count = 20_000
    graph = grt.Graph()
    x = graph.input("x", (count, 1, 8, 10))
    kinds = {
        "flip": augment.RandomHorizontalFlip(0.3),
        "crop": augment.RandomCrop((6, 10), 1),
        "affine": augment.RandomAffine((-10, 20), (0.1, 0.25), (0.5, 2.0), 5),
        "erase": augment.RandomErasing(0.4, (0.1, 0.1), (0.5, 2.0)),
        "resize": augment.RandomResizedCrop(4, (0.1, 0.3), (0.5, 2.0)),
        "cutout": augment.Cutout(4),
        "mix": augment.MixUp(0.3),
        "much": augment.MixUp(5.0),
        "even": augment.MixUp(1.0),
        "colour": augment.ColorJitter(0.4, (0.2, 3.0), 1.5),
    }
    for name, kind in kinds.items():
        for what, value in kind.draw(x).items():
            graph.output(f"{name} {what}", value)
    graph.output("noise", augment.GaussianNoise(1.0, 2.0).draw(graph.input("few", (count, 1, 1, 1)))["noise"])
    d = grt.compile(graph, target="cpu")(x=np.zeros(x.shape, "f"), few=np.zeros((count, 1, 1, 1), "f"))

    def uniform(name: str, low: float, high: float) -> None:
        assert stats.kstest(d[name], stats.uniform(low, high - low).cdf).pvalue > 1e-3, name

    def even(name: str, values: range) -> None:
        found, counts = np.unique(d[name], return_counts=True)
        assert found.tolist() == list(values) and stats.chisquare(counts).pvalue > 1e-3, name

    for name, p in (("flip flip", 0.3), ("erase change", 0.4)):
        assert stats.binomtest(int(d[name].sum()), count, p).pvalue > 1e-3
    even("crop top", range(5))
    even("crop left", range(3))
    even("cutout top", range(-2, 6))
    assert (d["cutout bottom"] - d["cutout top"] == 4).all()
    uniform("affine angle", -10, 20)
    uniform("affine x", -1, 1)
    uniform("affine y", -2, 2)
    uniform("affine scale", 0.5, 2.0)
    uniform("affine shear", -5, 5)
    uniform("colour brightness", 0.6, 1.4)
    uniform("colour contrast", 0.2, 3.0)
    uniform("colour saturation", 0.0, 2.5)
    for name, alpha in (("mix", 0.3), ("much", 5.0), ("even", 1.0)):
        assert stats.kstest(d[f"{name} share"], stats.beta(alpha, alpha).cdf).pvalue > 1e-3, name
    assert stats.kstest(d["noise"].ravel(), stats.norm(1.0, 2.0).cdf).pvalue > 1e-3
    height, width = d["resize height"], d["resize width"]
    assert stats.kstest(height * width / 80, stats.uniform(0.1, 0.2).cdf).pvalue > 1e-3
    assert stats.kstest(np.log2(width / height), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for side, first, n in ((height, "top", 8), (width, "left", 10)):
        assert stats.kstest(d[f"resize {first}"] / (n - side), stats.uniform().cdf).pvalue > 1e-3
    top, bottom, left, right = (d[f"erase {side}"] for side in ("top", "bottom", "left", "right"))
    sides = set(zip(bottom - top, right - left, strict=True))
    assert sides <= {(h, w) for h in (2, 3, 4) for w in (2, 3, 4)} and len(sides) > 3
    found, counts = np.unique(top[bottom - top == 2], return_counts=True)
    assert found.tolist() == list(range(7)) and stats.chisquare(counts).pvalue > 1e-3


# --- how it is used -------------------------------------------------------------------------------------------------


def blobs(count: int = 48) -> Dataset:
    """Pictures of three classes, which differ in the channel that is bright."""
    rng = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = rng.random((count, C, H, W), np.float32) + 2 * np.eye(3, dtype="f")[y][:, :, None, None]
    return Dataset(x, y)


EVERY = [
    augment.RandomCrop((H, W), 1),
    augment.RandomHorizontalFlip(),
    augment.RandomAffine(10, (0.1, 0.1), (0.9, 1.1)),
    augment.ColorJitter(0.1, 0.1),
    augment.GaussianNoise(),
    augment.RandomErasing(),
    augment.MixUp(0.2, 3),
]


DRAWING = [EVERY[0], augment.GaussianNoise(), EVERY[-1]]


def trainer(parts: Any, target: str = "reference", **options: Any) -> Trainer:
    nn.manual_seed(4)
    net = nn.Sequential(nn.Conv2d(C, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 5 * 7, 3))
    return Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.05, momentum=0.9), target=target, augment=parts, **options)


@pytest.mark.skipif(INTERPRETED, reason="takes long interpreted, where each augmentation is compared on its own")
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path: Path, target: str) -> None:
    """Bit for bit, validation or not; another seed draws others; metrics are of the classes that were mixed."""
    data = blobs()
    whole = trainer(DRAWING, target)
    history = whole.fit(data, 3, 24, progress=False)
    halves = trainer(DRAWING, target)
    halves.fit(data, 1, 24, validation=data, progress=False)
    halves.save(tmp_path / "half.safetensors")
    halves = trainer(DRAWING, target, seed=5)
    halves.load(tmp_path / "half.safetensors")
    assert halves.fit(data, 3, 24, progress=False).loss == history.loss
    assert all(np.array_equal(whole.state[name], halves.state[name]) for name in whole.state)
    assert set(history.columns()) >= {"accuracy"} and all(0 < value <= 1 for value in history.accuracy)
    assert trainer(DRAWING, target, seed=5).step(data.x, data.y) != trainer(DRAWING, target).step(data.x, data.y)


@pytest.mark.skipif(INTERPRETED, reason="takes long interpreted, where each augmentation is compared on its own")
def test_the_step_equals_the_reference() -> None:
    """Forward, backward and update draw the same numbers, wherever the scheduler has them computed."""
    data = blobs(12)
    programs = {target: trainer(EVERY, target) for target in ("cpu", "reference")}
    for _ in range(3):
        found = [t.step(data.x, data.y)["loss"] for t in programs.values()]
        assert found[0] == pytest.approx(found[1], rel=1e-5)
    for name, array in programs["cpu"].state.items():
        np.testing.assert_allclose(array, programs["reference"].state[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_evaluation_changes_nothing() -> None:
    data = blobs()
    plain, changing = trainer(None), trainer(EVERY)
    assert plain.evaluate(data) == changing.evaluate(data)
    np.testing.assert_array_equal(plain.predict(data.x), changing.predict(data.x))
    net = nn.Sequential(augment.GaussianNoise(), augment.RandomHorizontalFlip())  # as layers of a network
    np.testing.assert_array_equal(run(net, data.x, training=False)["out0"], data.x)
    assert not np.array_equal(run(net, data.x)["out0"], data.x)
    still = augment.Compose(EVERY).eval()
    assert trainer(still).step(data.x, data.y) == plain.step(data.x, data.y)


def test_a_function_is_an_augmentation() -> None:
    """Also one that changes the target alike: a mirrored picture of a place has a mirrored place."""

    def mirrored(x: grt.Value, y: grt.Value) -> tuple[grt.Value, grt.Value]:
        flip = F.lt(F.uniform(x.graph, (x.shape[0], 1)), 0.5)
        return F.where(F.reshape(flip, (-1, 1, 1, 1)), F.flip(x, 3), x), F.where(flip, W - 1 - y, y)

    x = np.zeros((200, 1, 1, W), np.float32)
    y = np.random.default_rng(0).integers(0, W, (200, 1)).astype(np.float32)
    x[np.arange(200), 0, 0, y[:, 0].astype(int)] = 1.0
    found = run(augment.Compose([mirrored, augment.RandomHorizontalFlip(0.0)]), x, y)
    np.testing.assert_array_equal(found["out0"].argmax(3)[:, 0], found["out1"])
    assert 0.3 < (found["out1"] == y).mean() < 0.7
    placed = Trainer(
        nn.Sequential(nn.Flatten(), nn.Linear(W, 1)), nn.MSELoss(), optim.Adam(0.1), augment=mirrored, target="reference"
    )
    assert placed.fit(Dataset(x, y), 30, 50, progress=False).loss[-1] < 0.5
    for wrong, message in ((F.relu, r"takes \(input, target\)"), (lambda x, y: x, r"returns \(input, target\), .* gave Value")):
        with pytest.raises(ArgumentError, match=message):
            run(augment.Compose([wrong]), x, y)


def test_any_librarys_augmentation_is_a_transform() -> None:
    """Of arrays, or of whatever gives an example at a time."""
    data = blobs()
    seen = Examples(data, transform=lambda picture: picture[:, ::-1].copy(), workers=2)
    assert len(seen) == len(data)
    for got, wanted in zip(seen.rows(np.array([3, 1])), (data.x[[3, 1], :, ::-1], data.y[[3, 1]]), strict=True):
        np.testing.assert_array_equal(got, wanted)
    weighted = Examples(Dataset({"a": data.x, "b": data.y}, data.y, np.ones(len(data))), transform=lambda x: x)
    parts, y, weight = weighted.rows(np.array([5, 7]))
    np.testing.assert_array_equal(parts["a"], data.x[[5, 7]])
    assert y.tolist() == data.y[[5, 7]].tolist() and weight.tolist() == [1, 1]
    assert trainer(None).fit(seen, 2, 24, progress=False).loss[-1] < 2


def test_arguments_that_make_no_sense() -> None:
    x, y = pictures(), np.zeros(N, np.int64)
    for make in (
        lambda: augment.RandomHorizontalFlip(1.5),
        lambda: augment.RandomCrop(0),
        lambda: augment.RandomCrop(4, padding=-1),
        lambda: augment.RandomCrop(4, padding_mode="wrap"),
        lambda: augment.RandomAffine(-1),
        lambda: augment.RandomAffine((3, 1)),
        lambda: augment.RandomAffine(1, scale=(0, 1)),
        lambda: augment.RandomAffine(1, translate=0.1),  # type: ignore[arg-type]
        lambda: augment.RandomRotation(1, "cubic"),
        lambda: augment.RandomResizedCrop(4, scale=(0.5, 2)),
        lambda: augment.RandomErasing(ratio=(0, 1)),
        lambda: augment.ColorJitter(brightness=-1),
        lambda: augment.ColorJitter(contrast=(-1, 1)),
        lambda: augment.GaussianNoise(sigma=-1),
        lambda: augment.Cutout(2.5),  # type: ignore[arg-type]
        lambda: augment.MixUp(0),
        lambda: augment.Compose([3]),
        lambda: augment.Compose([augment.MixUp]),
        lambda: trainer("flip"),
        lambda: trainer(lambda x, y: x).step(x, y % 3),
        lambda: run(augment.MixUp(), x),
        lambda: run(augment.MixUp(), x, y),
        lambda: run(augment.CutMix(num_classes=3), x, y.reshape(2, 3)),
    ):
        with pytest.raises(ArgumentError):
            make()
    for wrong in (
        lambda: run(augment.RandomCrop(12), x),
        lambda: run(augment.RandomHorizontalFlip(), x[0]),
        lambda: run(augment.RandomVerticalFlip(masks=True), x, y),
    ):
        with pytest.raises(ShapeError):
            wrong()


def test_a_label_that_names_no_class_is_named_behind_mixup() -> None:
    data = blobs(12)
    with pytest.raises(NumericError, match=r"y holds 5, and the network has the classes 0 to 2"):
        trainer([augment.MixUp(0.2, 3)]).step(data.x, np.where(data.y == 2, 5, data.y))
