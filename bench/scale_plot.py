"""The plot of docs/scaling.md: images a second of one GPU, modelled and published, and where the time of a step goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PARTS = {"kernels ms": "#4477aa", "input ms": "#228833", "exchanges ms": "#ccbb44", "exposed ms": "#ee6677"}


def draw(tables: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Writes the rows of ``bench.scale.mlperf``, by what kernels are anchored to, as a picture. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    points = next(iter(tables.values()))
    places = range(len(points))
    labels = [f"{p['gpus']:,}\nbatch {p['batch']}" for p in points]
    axes[0].plot(places, [p["published"] for p in points], "ks-", label="published")
    for (anchor, rows), mark in zip(tables.items(), ("o--", "^--"), strict=False):
        axes[0].plot(places, [r["images/s/GPU"] for r in rows], mark, label=f"model, {anchor}")
    axes[0].set(ylabel="images/s of one GPU", ylim=(0, None), title="ResNet-50, H100")
    width = 0.8 / len(tables)
    for i, (anchor, rows) in enumerate(tables.items()):
        at = [p - 0.4 + width * (i + 0.5) for p in places]
        below = [0.0] * len(rows)
        for part, color in PARTS.items():
            more = [100 * r[part] / r["published ms"] for r in rows]
            axes[1].bar(at, more, 0.9 * width, below, color=color, alpha=1 if i else 0.55, label=f"{part[:-3]}, {anchor}")
            below = [a + b for a, b in zip(below, more, strict=True)]
    axes[1].axhline(100, color="k", label="published")
    axes[1].set(ylabel="% of the published step", ylim=(0, 140), title="what the model accounts for")
    for one in axes:
        one.set_xticks(list(places), labels, fontsize=8)
        one.set_xlabel("GPUs")
        one.legend(fontsize=7, ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
