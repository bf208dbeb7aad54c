"""Training curves as a picture."""

from __future__ import annotations

from pathlib import Path

from graphrt.train.history import History


def save_curves(history: History, path: str | Path, title: str = "") -> None:
    """Draws loss and accuracy by epoch, training and validation, to ``path`` (PNG). Raises ImportError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"curves are drawn with a package that is missing ({error}): pip install graphrt[demo]") from None
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for column, label in ((name, "training"), (f"val_{name}", "validation")):
            values = getattr(history, column)
            if values:
                axes.plot(range(1, len(values) + 1), values, marker=".", label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
