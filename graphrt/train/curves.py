"""Training curves as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphrt.train.history import History


def figure(size: tuple[float, float] = (9, 3.5)) -> Any:
    """An empty picture of that ``size`` in inches. Raises ImportError where matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"curves are drawn with a package that is missing ({error}): pip install matplotlib") from None
    made = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(made)
    return made


def save_curves(history: History, path: str | Path, title: str = "") -> None:
    """Draws loss and accuracy of ``history`` by epoch, training and validation, to ``path`` (PNG) under ``title``.

    Raises ImportError where matplotlib is missing.
    """
    picture = figure()
    for axes, name in zip(picture.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            values = getattr(history, column)
            if values:
                axes.plot(range(1, len(values) + 1), values, marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    picture.suptitle(title)
    picture.savefig(path, dpi=120)
