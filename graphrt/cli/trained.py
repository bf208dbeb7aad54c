"""The commands that use what was trained: eval and predict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from graphrt.cli.options import Target, names_of, show
from graphrt.errors import ArgumentError, InputError

commands = typer.Typer()
Checkpoint = Annotated[
    Path, typer.Argument(help="a checkpoint that graphrt train left, its folder, or the name of one in runs")
]


def checkpoint_of(path: Path) -> Path:
    """The checkpoint that ``path`` is, or is the folder of, or the name of a folder in runs. Raises InputError."""
    places = [path, path / "checkpoint.safetensors", Path("runs") / path / "checkpoint.safetensors"]
    if (found := next((place for place in places if place.is_file()), None)) is None:
        raise InputError(f"there is no checkpoint {path}; graphrt train MODEL leaves one in runs/MODEL")
    return found


def trained(path: Path, target: str) -> tuple[Any, Mapping[str, Any], Any]:
    """The trainer of a checkpoint's network, its notes, and its intake. Raises InputError."""
    from graphrt import load_weights, models, nn, optim
    from graphrt.cli.datasets import Intake
    from graphrt.inspection.subject import prepare
    from graphrt.train import Trainer, read_metadata

    prepare(target)
    path = checkpoint_of(path)
    notes = read_metadata(path).get("notes", {})
    if "task" in notes:
        raise InputError(f"{path} is of {notes['task']} on scenes: graphrt eval measures it, and graphrt predict draws")
    if missing := [name for name in ("model", "settings", "classes", "intake") if name not in notes]:
        raise InputError(f"{path} does not say of which network it is ({', '.join(missing)}): graphrt train left no such file")
    with nn.init.skip_init():
        net = models.get(notes["model"]).build(**notes["settings"])
    load_weights(net, path)
    loss = nn.CrossEntropyLoss() if notes["classes"] else nn.MSELoss()
    metrics = ["accuracy", "confusion_matrix"] if notes["classes"] else ["mse", "mae", "r2"]
    trainer = Trainer(net.eval(), loss, optim.SGD(), metrics=metrics, target=target)
    return trainer, notes, Intake.from_json(notes["intake"])


def task_trained(path: Path, target: str) -> tuple[Any, Any] | None:
    """The task of a checkpoint's network and its trainer; None of one that was not trained on scenes. Raises InputError."""
    from graphrt.cli import scenes
    from graphrt.inspection.subject import prepare
    from graphrt.train import read_metadata

    path = checkpoint_of(path)
    name = read_metadata(path).get("notes", {}).get("task")
    if name is None:
        return None
    prepare(target)
    return scenes.loaded(path, name, target)


@commands.command("eval")
def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[
        str,
        typer.Option(
            help="as of graphrt train, which it was trained on if left out", autocompletion=names_of("cli.datasets.DATA")
        ),
    ] = "",
    batch_size: Annotated[int, typer.Option(min=1)] = 256,
    target: Target = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="all as JSON, the confusion matrix too")] = False,
    confusion: Annotated[Path | None, typer.Option(help="draw the confusion matrix to a PNG")] = None,
) -> None:
    """Measures a trained network on the test examples of its data, or of other data of the same classes.

    One that finds shapes in scenes by mean average precision, as COCO counts it, or by the mean of intersections over unions.
    """
    from graphrt.cli import scenes
    from graphrt.cli.datasets import load

    if (task := task_trained(checkpoint, target)) is not None:
        if data not in ("", *scenes.NAMES) or confusion is not None:
            raise ArgumentError(f"{checkpoint} is measured on {scenes.DATA}, and has no confusion matrix")
        figures = scenes.measured(*task)
        if as_json:
            typer.echo(json.dumps(figures))
        else:
            show([("examples", scenes.HELD), *((n, f"{v:.4f}") for n, v in figures.items())], ("measure", "value"))
        return
    trainer, notes, intake = trained(checkpoint, target)
    found = load(data or notes["data"], intake.shape)
    classes = list(notes["classes"])
    if list(found.classes) != classes:
        there = f"{data} has the classes {', '.join(found.classes) or 'none'}"
        raise ArgumentError(f"{there}, the network was trained on {', '.join(classes) or 'numbers'}")
    values = trainer.evaluate(intake.of(found.test), batch_size)
    matrix = values.pop("confusion_matrix", None)
    if as_json:
        typer.echo(json.dumps({**values, **({} if matrix is None else {"confusion_matrix": np.asarray(matrix).tolist()})}))
    else:
        _show_measures(len(found.test), values, classes, matrix)
    if confusion is not None:
        if matrix is None:
            raise ArgumentError("there is no confusion matrix of a network that predicts numbers")
        from graphrt import visualize

        visualize.confusion_matrix(matrix, classes, confusion)


def _show_measures(count: int, values: Mapping[str, Any], classes: Sequence[str], matrix: Any) -> None:
    rows = [("examples", f"{count:,}"), *((name, f"{value:.4f}") for name, value in values.items())]
    if matrix is not None:
        for name, row in zip(classes, np.asarray(matrix), strict=True):
            right = int(row[classes.index(name)])
            rows.append((f"recall of {name}", f"{right / max(int(row.sum()), 1):.4f} ({right} of {int(row.sum())})"))
    show(rows, ("measure", "value"))


@commands.command()
def predict(
    checkpoint: Checkpoint,
    files: Annotated[list[Path], typer.Argument(help="pictures, folders of them, or arrays: .npy, .npz, .safetensors")],
    top: Annotated[int, typer.Option(min=1, help="print so many classes")] = 3,
    target: Target = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="a line of JSON for each example")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="a PNG of one picture with what was found in it")] = None,
) -> None:
    """Prints the likeliest classes of pictures or arrays with their probabilities, or the numbers that are predicted.

    Arrays are examples as the data has them: [C, H, W] or [N, C, H, W] with pixels in [0, 1], or rows of numbers. Of a network
    that finds shapes it prints classes, scores and boxes (x1, y1, x2, y2), of one that outlines them the share of each class.
    """
    from graphrt.cli import scenes
    from graphrt.cli.examples import examples

    if (task := task_trained(checkpoint, target)) is not None:
        scenes.predict(*task, files, out, as_json)
        return
    if out is not None:
        raise ArgumentError(
            f"--out draws what is found in a picture, and {checkpoint} is of a network that finds nothing in it"
        )
    trainer, notes, intake = trained(checkpoint, target)
    classes = notes["classes"]
    rows = []
    for label, x in examples(files, intake.shape, len(intake.mean)):
        found = trainer.predict(intake(x[None]))[0].astype(np.float64)
        if classes:
            share = np.exp(found - found.max())
            share /= share.sum()
            best = [(classes[i], float(share[i])) for i in np.argsort(-share, kind="stable")[:top]]
        else:
            best = [(str(i), float(value)) for i, value in enumerate(found.reshape(-1))]
        if as_json:
            typer.echo(json.dumps({"example": label, **dict(best)}))
        rows.append((label, *(f"{name} {value:.4f}" if classes else f"{value:.4f}" for name, value in best)))
    if not as_json:
        show(rows)
