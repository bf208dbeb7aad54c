"""Pictures of networks and of training, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.compiler import compile as compile_graph
from graphrt.data import Dataset
from graphrt.errors import ArgumentError, unknown
from graphrt.nn.module import Module
from graphrt.train.curves import figure
from graphrt.train.history import History
from graphrt.visualize.layers import as_input, probe


def _saved(picture: Any, path: str | Path | None) -> Any:
    """``picture``, written to ``path`` if that is given. Raises ArgumentError for a kind of file that is none of a picture."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        try:
            picture.savefig(path, dpi=120)
        except ValueError as error:
            raise ArgumentError(f"{path}: {error}") from None
    return picture


def curves(history: History | Mapping[str, History], path: str | Path | None = None, metric: str = "accuracy") -> Any:
    """Loss and ``metric`` by epoch, training dashed and validation solid, of one ``history`` or of several by name."""
    runs = {"": history} if isinstance(history, History) else history
    picture = figure((9, 3.5))
    for axes, name in zip(picture.subplots(1, 2), ("loss", metric), strict=True):
        for number, (label, run) in enumerate(runs.items()):
            columns = run.columns()
            for column, style, what in ((name, "--", "training"), (f"val_{name}", "-", "validation")):
                if values := columns.get(column):
                    at = range(1, len(values) + 1)
                    axes.plot(at, values, style, marker=".", color=f"C{number}", label=f"{label} {what}".strip())
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        drawn = np.concatenate([line.get_ydata() for line in axes.lines]) if axes.lines else np.ones(1)
        if name == "loss" and drawn.min() > 0 and drawn.max() > 1000 * drawn.min():
            axes.set_yscale("log")
        if axes.lines:
            axes.legend(fontsize="small")
    return _saved(picture, path)


def confusion_matrix(matrix: Any, classes: Sequence[Any] = (), path: str | Path | None = None) -> Any:
    """The counts ``matrix`` [C, C], the true class in rows and the predicted one in columns, with the names of ``classes``."""
    counts = np.asarray(matrix)
    names = list(map(str, classes)) or list(map(str, range(len(counts))))
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = max(4.0, 0.45 * len(counts) + 1.5)
    picture = figure((side + 0.8, side))
    axes = picture.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, f"{counts[row, column]:.0f}", ha="center", va="center", color=colour, fontsize="small")
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    picture.colorbar(image, ax=axes, label="share of the true class")
    return _saved(picture, path)


def image_grid(images: Any, titles: Sequence[str] = (), path: str | Path | None = None, columns: int = 8) -> Any:
    """``images`` [N, H, W] or [N, C, H, W] of 1 or 3 channels side by side, each stretched to its own range."""
    images = np.asarray(images)
    images = images[:, None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ArgumentError(f"pictures are [N, H, W] or [N, C, H, W] with 1 or 3 channels, got {list(images.shape)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    picture = figure((1.2 * columns, (1.45 if titles else 1.2) * rows))
    for number, axes in enumerate(np.atleast_1d(picture.subplots(rows, columns)).flat):
        axes.axis("off")
        if number < len(images):
            one = images[number].transpose(1, 2, 0).astype(np.float64)
            low, high = one.min(), one.max()
            one = (one - low) / (high - low if high > low else 1.0)
            axes.imshow(one if one.shape[2] == 3 else one[..., 0], cmap="gray", vmin=0, vmax=1)
            axes.set_title(titles[number] if number < len(titles) else "", fontsize="small")
    return _saved(picture, path)


def filters(net: Module, path: str | Path | None = None, layer: str | None = None, most: int = 64) -> Any:
    """The filters of the first convolution of ``net``, or of ``layer``, at most so many; of other than 1 or 3 channels, each.

    Raises ArgumentError where there is no such convolution.
    """
    weights = {
        name.removesuffix(".weight"): p.array for name, p in net.named_parameters() if p.array.ndim == 4 and "weight" in name
    }
    if not weights:
        raise ArgumentError("the network has no convolution, so there are no filters to draw")
    if layer is not None and layer not in weights:
        raise ArgumentError(unknown("convolution", layer, weights))
    found = next(iter(weights.values())) if layer is None else weights[layer]
    if found.shape[1] not in (1, 3):
        found = found.reshape(-1, 1, *found.shape[2:])
    return image_grid(found[:most], path=path)


def feature_maps(net: Module, x: Any, layer: str, path: str | Path | None = None, most: int = 32, target: str = "auto") -> Any:
    """The feature maps that ``layer`` makes of one picture ``x`` [C, H, W], at most so many. Raises ArgumentError.

    ``target`` is that of ``compile``.
    """
    x = as_input(x)[None]
    maps = compile_graph(probe(net, x).layer(layer), target=target)(x=x)[0]
    if maps.ndim != 3:
        raise ArgumentError(f"layer {layer!r} gives {list(maps.shape)}, which are no feature maps [C, H, W]")
    return image_grid(maps[:most], [str(i) for i in range(min(most, len(maps)))], path)


def heatmap(x: Any, heat: Any, path: str | Path | None = None) -> Any:
    """Pictures ``x`` [N, C, H, W] above, and below with ``heat`` [N, H, W] or [N, C, H, W] over them. Raises ArgumentError."""
    x, heat = np.asarray(x, np.float64), np.asarray(heat)
    if x.ndim != 4:
        raise ArgumentError(f"pictures are [N, C, H, W], got {list(x.shape)}")
    heat = heat.max(1) if heat.ndim == 4 else heat
    picture = figure((1.6 * len(x), 3.3))
    for column, (one, hot) in enumerate(zip(x, heat, strict=True)):
        grey = one.mean(0)
        for row in range(2):
            axes = picture.add_subplot(2, len(x), row * len(x) + column + 1)
            axes.imshow(grey, cmap="gray")
            if row:
                axes.imshow(hot, cmap="jet", alpha=0.5)
            axes.axis("off")
    return _saved(picture, path)


def histograms(found: Mapping[str, np.ndarray], path: str | Path | None = None, bins: int = 50, columns: int = 6) -> Any:
    """A histogram of each of ``activations``, or of any arrays by name, with mean and deviation above it."""
    columns = min(columns, len(found))
    rows = -(-len(found) // columns)
    picture = figure((2.2 * columns, 1.9 * rows))
    for axes, (name, array) in zip(np.atleast_1d(picture.subplots(rows, columns)).flat, found.items(), strict=False):
        axes.hist(array.reshape(-1), bins)
        axes.set_title(f"{name or 'output'}\n{array.mean():.3f} ± {array.std():.3f}", fontsize="small")
        axes.set_yticks([])
    for axes in picture.axes[len(found) :]:
        axes.axis("off")
    return _saved(picture, path)


def norms(found: Mapping[str, float], path: str | Path | None = None) -> Any:
    """Numbers by name, such as ``gradient_norms``, as bars on a logarithmic axis, in order from above."""
    picture = figure((6.5, 0.24 * len(found) + 1.2))
    axes = picture.subplots()
    axes.barh(list(found), [max(v, 1e-12) for v in found.values()])
    axes.set(xscale="log", xlabel="norm of the gradient")
    axes.invert_yaxis()
    axes.tick_params(axis="x", which="minor", labelbottom=False)
    axes.tick_params(axis="y", labelsize="small")
    return _saved(picture, path)


def decision_boundary(
    net: Module, data: Dataset, path: str | Path | None = None, resolution: int = 200, target: str = "auto"
) -> Any:
    """The class that ``net`` of two numbers gives each point of the plane, with the points of ``data``: x [N, 2], y [N].

    A network of one logit says class 1 where that is above 0. ``resolution`` is the number of points along a side, ``target``
    that of ``compile``. Raises ArgumentError for other data.
    """
    points, labels = np.asarray(data.x), np.asarray(data.y)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ArgumentError(f"a decision boundary is drawn of points [N, 2], got {list(points.shape)}")
    low, high = points.min(0), points.max(0)
    margin = 0.1 * (high - low)
    across, down = (np.linspace(a, b, resolution) for a, b in zip(low - margin, high + margin, strict=True))
    grid = np.stack(np.meshgrid(across, down), -1).reshape(-1, 2).astype(np.float32)
    logits = compile_graph(probe(net, grid).output, target=target)(x=grid)
    found = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(1)
    picture = figure((5, 4.6))
    axes = picture.subplots()
    count = max(int(labels.max()), int(found.max()), 1)
    axes.contourf(across, down, found.reshape(resolution, resolution), np.arange(count + 2) - 0.5, cmap="coolwarm", alpha=0.35)
    axes.scatter(*points.T, c=labels, s=8, cmap="coolwarm", vmin=0, vmax=count)
    axes.set(xlabel="x1", ylabel="x2")
    return _saved(picture, path)
