"""The command that draws what a trained network does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from graphrt.cli.options import Target, one_of, show
from graphrt.cli.trained import Checkpoint, checkpoint_of, trained
from graphrt.errors import ArgumentError, unknown

commands = typer.Typer()
KINDS = {
    "curves": "loss and accuracy by epoch",
    "filters": "the first convolution's filters",
    "features": "the maps that --layer makes of the first example",
    "activations": "histograms of each layer's activations, with their statistics",
    "gradients": "the norm of the loss's gradient by each parameter",
    "saliency": "the pixels by which the likeliest class changes most",
    "gradcam": "where --layer saw the likeliest class",
    "units": "the inputs that most excite each class, or each unit of --layer",
    "boundary": "the classes of the plane, of a network of two numbers",
}


@commands.command()
def see(
    what: Annotated[str, typer.Argument(help=", ".join(KINDS), autocompletion=one_of(*KINDS))],
    checkpoint: Checkpoint,
    files: Annotated[list[Path] | None, typer.Argument(help="pictures or arrays; else test examples of its data")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the picture (WHAT.png)")] = None,
    layer: Annotated[str, typer.Option(help="a layer by its path, as graphrt summary prints it")] = "",
    count: Annotated[int, typer.Option(min=1, help="examples, or units")] = 8,
    target: Target = "auto",
) -> None:
    """Draws what a trained network does to a PNG: its filters, activations, gradients, and which pixels decide."""
    from graphrt import visualize
    from graphrt.visualize.layers import probe

    if what not in KINDS:
        raise ArgumentError(unknown("picture", what, KINDS))
    trainer, notes, intake = trained(checkpoint, target)
    net, path = trainer.net, out or Path(f"{what}.png")
    if what == "curves":
        from graphrt.train import History, read_metadata

        visualize.curves(History.from_json(read_metadata(checkpoint_of(checkpoint))["history"]), path)
    elif what == "filters":
        visualize.filters(net, path, layer or None)
    elif what == "units":
        names = [] if layer else notes["classes"]
        excited = probe(net, np.zeros((1, *intake.shape), np.float32)).layer(layer)
        units = range(min(count, excited.shape[1] if excited.ndim > 1 else 1))
        found = [visualize.maximize_activation(net, intake.shape, layer, unit, target=target)[0] for unit in units]
        visualize.image_grid(found, [names[unit] if names else str(unit) for unit in units], path)
    else:
        x, y = _examples(files or [], notes, intake, count if what != "boundary" else 1000)
        if layer:
            probe(net, x[:1]).layer(layer)  # says which there are, if it is none
        shown = layer or _last_maps(net, x)
        if what in ("features", "gradcam") and not shown:
            raise ArgumentError(f"{what} needs feature maps, and no layer of the network gives any")
        _DRAWN[what](visualize, trainer, x, y, shown, path, target)
    typer.echo(f"{path}: {KINDS[what]}")


def _examples(files: list[Path], notes: Any, intake: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples as the network takes them, of ``files`` or of its data's test part, and their classes, where they are known."""
    from graphrt.cli.datasets import load
    from graphrt.cli.examples import examples

    if files:
        x = np.concatenate([intake(one[None]) for _, one in examples(files, intake.shape, len(intake.mean))])
        return x, np.zeros(len(x), np.int64)
    source = intake.of(load(notes["data"], intake.shape).test)
    x, y, *_ = source.rows(np.arange(min(count, len(source))))
    return x, y


def _last_maps(net: Any, x: np.ndarray) -> str:
    """The last layer that gives feature maps, "" if there is none."""
    from graphrt.visualize.layers import probe

    maps = [path for path, value in probe(net, x[:1]).layers.items() if value.ndim == 4 and max(value.shape[2:]) > 1]
    return maps[-1] if maps else ""


def _activations(visualize: Any, trainer: Any, x: Any, y: Any, layer: str, path: Path, target: str) -> None:
    found = visualize.activations(trainer.net, x, target)
    visualize.histograms(found, path)
    show([str(row).split() for row in visualize.statistics(found)], ("layer", "mean", "std", "low", "high", "zeros", ""))


def _gradients(visualize: Any, trainer: Any, x: Any, y: Any, layer: str, path: Path, target: str) -> None:
    found = visualize.gradient_norms(trainer.net, trainer.loss, x, y, target)
    visualize.norms(found, path)
    show([(name, f"{norm:.4g}") for name, norm in found.items()], ("parameter", "norm"))


def _boundary(visualize: Any, trainer: Any, x: Any, y: Any, layer: str, path: Path, target: str) -> None:
    from graphrt.data import Dataset

    visualize.decision_boundary(trainer.net, Dataset(x, y), path, target=target)


_DRAWN: dict[str, Callable[..., None]] = {
    "features": lambda v, t, x, y, layer, path, target: v.feature_maps(t.net, x[0], layer, path, target=target),
    "activations": _activations,
    "gradients": _gradients,
    "saliency": lambda v, t, x, y, layer, path, target: v.heatmap(x, v.saliency(t.net, x, target=target), path),
    "gradcam": lambda v, t, x, y, layer, path, target: v.heatmap(x, v.grad_cam(t.net, x, layer, target=target), path),
    "boundary": _boundary,
}
