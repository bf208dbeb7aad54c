"""The command that trains a network: train."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from graphrt.cli.options import Config, Model, Target, made, names_of, one_of, processes_started, show
from graphrt.cli.trained import checkpoint_of
from graphrt.errors import ArgumentError, NumericError, unknown

if TYPE_CHECKING:
    from graphrt.cli.results import Results
    from graphrt.data import Source
    from graphrt.models import Model as Network
    from graphrt.train import Trainer

commands = typer.Typer()
Data = Annotated[
    str | None,
    typer.Option(
        help="mnist, digits, iris, spirals, ... (graphrt data), or a folder of pictures, with a folder for each class; mnist, "
        "or scenes for a network that finds shapes, if left out",
        autocompletion=names_of("cli.datasets.DATA", "cli.scenes.NAMES"),
    ),
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        help="sgd (adam on scenes), adamw, muon, ...; with options as in adamw:betas=(0.9,0.98),eps=1e-6",
        autocompletion=names_of("optim.OPTIMIZERS"),
    ),
]
Schedule = Annotated[
    str | None,
    typer.Option(
        help="cosine (one_cycle on scenes), constant, step, linear, plateau, ...; with options as in step:milestones=(0.5,0.8)",
        autocompletion=names_of("optim.SCHEDULES"),
    ),
]
Augment = Annotated[
    list[str] | None,
    typer.Option(
        help="horizontal_flip, crop:padding=4, mixup, ... of pictures in training; may be given several times",
        autocompletion=names_of("nn.augment.AUGMENTATIONS"),
    ),
]
POLICIES = ("all_reduce", "zero1", "zero2", "fsdp", "tensor")
Policy = Annotated[
    str,
    typer.Option(
        help="of several processes: all_reduce, zero1, zero2, fsdp or tensor (Trainer)",
        autocompletion=one_of(*POLICIES),
    ),
]
Autocast = Annotated[
    str | None, typer.Option(help="bfloat16 or float16: mixed precision", autocompletion=one_of("bfloat16", "float16"))
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(help="what a step may hold, as 2GB: to fit, parts of the forward pass are computed again"),
]


@commands.command()
def train(
    model: Model,
    data: Data = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="10 if left out; on scenes the network's own")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="64 if left out; on scenes the network's own")] = None,
    optimizer: Optimizer = None,
    lr: Annotated[float | None, typer.Option(help="base learning rate; 0.05 for sgd, else the optimizer's own")] = None,
    momentum: Annotated[float, typer.Option(help="of optimizers that have one")] = 0.9,
    weight_decay: Annotated[float, typer.Option(help="of optimizers that have it")] = 0.0,
    schedule: Schedule = None,
    augment: Augment = None,
    warmup: Annotated[float, typer.Option(min=0, max=0.99, help="share of the training in which the rate rises")] = 0.0,
    autocast: Autocast = None,
    target: Target = "auto",
    seed: Annotated[int, typer.Option(min=0, help="of weights and the order of examples")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="train on the first so many examples only; 0 means all")] = 0,
    resume: Annotated[Path | None, typer.Option(help="a checkpoint to go on from, or its folder")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results (runs/MODEL)")] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="epochs from one grid of pictures to the next, of what is found in scenes; 0 means none")
    ] = 2,
    policy: Policy = "all_reduce",
    memory_limit: MemoryLimit = None,
    config: Config = None,
) -> None:
    """Trains MODEL and leaves checkpoint.safetensors, curves.png and history.json in a folder.

    Examples are brought to what the network takes: grey pictures get its channels, small ones its size; its last layer gets as
    many outputs as there are classes. The checkpoint and the history are written after every epoch, so a run that is
    interrupted can be resumed. A loss that is not finite ends the run with exit status 1, an interruption with 130.

    On scenes of shapes (--data scenes or shapes) it trains a network that finds them (yolo, ssd, retinanet, rcnn, fast_rcnn,
    faster_rcnn, mask_rcnn) or outlines them (fcn, fcn32s, fcn16s, fcn8s, unet, deeplab) by its own recipe, and leaves pictures
    of what it finds, epoch-0002.png and so on.

    Started by torchrun --no-python --nproc-per-node N graphrt train MODEL, N processes share each batch; the first reports.
    """
    from graphrt.cli import scenes
    from graphrt.cli.results import Results

    task = scenes.task_of(model, data)
    if task is not None and augment:
        raise ArgumentError("--augment changes pictures of classes, and scenes are none")
    epochs, batch_size = epochs or (task.epochs if task else 10), batch_size or (task.batch_size if task else 64)
    given = {"weight_decay": weight_decay, **({} if lr is None else {"lr": lr}), "momentum": momentum}
    settings = {**_recipe(task, optimizer, schedule, given, warmup), "target": target, "seed": seed, "autocast": autocast}
    settings |= {**_shared(policy), "memory_limit": memory_limit}
    results = Results(out or Path("runs") / model, model)
    trainer, training, test = _prepared(task, model, "mnist" if data is None else data, limit, augment or [], settings)
    drawn = [] if task is None else [scenes.drawing(task, results.folder, pictures)]
    if resume is not None:
        trainer.load(checkpoint_of(resume))
        results.keep(trainer)
    batch_size = min(batch_size, len(training))
    _fit(trainer, (training, test), epochs, batch_size, results, drawn)
    program = trainer.program("train", *training.rows(np.arange(batch_size)))
    figures = {} if task is None else scenes.measured(task, trainer)
    if trainer.first:
        _report(trainer, program, -(-len(training) // batch_size), results.folder, figures)


def _shared(policy: str) -> dict[str, Any]:
    """The Trainer's settings that make it one of the processes that were started; none where there is one alone.

    Raises ArgumentError for a ``policy`` that is none, and another than all_reduce in one alone.
    """
    if policy not in POLICIES:
        raise ArgumentError(unknown("policy", policy, POLICIES))
    if (processes := processes_started()) > 1:
        from graphrt import Mesh

        return {"mesh": Mesh(tp=processes) if policy == "tensor" else Mesh(dp=processes), "policy": policy}
    if policy != "all_reduce":
        raise ArgumentError(f"--policy {policy} is for several processes: start them with torchrun (graphrt train --help)")
    return {}


def _recipe(
    task: Any, optimizer: str | None, schedule: str | None, given: Mapping[str, float], warmup: float
) -> dict[str, Any]:
    """The optimizer and the schedule that were asked for, else those of ``task``, else SGD along a cosine.

    ``given`` are the optimizer's rate, if there is one, its decay, and the momentum of those that have it.
    """
    from graphrt import optim

    rate = given.get("lr", task.lr if task is not None and optimizer is None else None)
    optimizer, schedule = optimizer or ("adam" if task else "sgd"), schedule or ("one_cycle" if task else "cosine")
    kind = optimizer.partition(":")[0]
    rate = 0.05 if rate is None and kind == "sgd" else rate
    defaults = {"weight_decay": given["weight_decay"], **({} if rate is None else {"lr": rate})}
    if kind in ("sgd", "lars", "muon"):
        defaults["momentum"] = given["momentum"]
    along = made("schedule", schedule, optim.SCHEDULES)
    along = optim.warmup(along, warmup) if warmup else along
    return {"optimizer": made("optimizer", optimizer, optim.OPTIMIZERS, **defaults), "schedule": along}


def _prepared(
    task: Any, model: str, data: str, limit: int, augment: Sequence[str], settings: Mapping[str, Any]
) -> tuple[Trainer, Source, Source]:
    """A trainer of ``model`` for ``task``, or ``data``, of the Trainer's ``settings``; the examples of training and test."""
    from graphrt import models, nn
    from graphrt.cli import scenes
    from graphrt.cli.datasets import Intake, first, load
    from graphrt.inspection.subject import prepare
    from graphrt.nn.augment import AUGMENTATIONS
    from graphrt.targets.target import parse
    from graphrt.train import Trainer

    if task is not None:
        return scenes.prepared(model, task, limit, settings)
    prepare(settings["target"])
    if not parse(settings["target"]).computes:
        raise ArgumentError(f"target {settings['target']} computes nothing, so nothing can be trained on it")
    found = load(data, models.get(model).input_shape)
    if len(found.classes) == 1:
        raise ArgumentError(f"{data} has one class, {found.classes[0]}, and nothing to tell it from: a folder for each class")
    build, sizes, shape = _fitting(model, found.shape, found.outputs)
    nn.manual_seed(settings["seed"])
    loss = nn.CrossEntropyLoss() if found.classes else nn.MSELoss()
    if augment and not (found.classes and len(shape) == 3):
        raise ArgumentError(f"--augment changes pictures of classes, and the examples of {data} are none")
    changes = [made("augment", a, AUGMENTATIONS, size=shape[1:], num_classes=found.outputs) for a in augment]
    metrics = None if found.classes else ["mae", "r2"]
    trainer = Trainer(build(**sizes), loss, metrics=metrics, augment=changes or None, **settings)
    intake = Intake.fit(found.train, shape)
    known = {"classes": found.classes, "outputs": found.outputs, "intake": intake.to_json()}
    trainer.notes = {"model": model, "settings": sizes, "data": data, **known}
    training, test = (first(intake.of(part), limit) for part in (found.train, found.test))
    return trainer, training, test


def _fit(
    trainer: Trainer, data: tuple[Source, Source], epochs: int, batch_size: int, results: Results, also: Sequence[Any] = ()
) -> None:
    """Trains with ``results`` and ``also`` as callbacks, and draws what there is however that ends.

    Raises NumericError, and Exit where it is interrupted.
    """
    rate = trainer.optimizer.lr
    try:
        trainer.fit(data[0], epochs, batch_size, data[1], callbacks=[results, *also])
    except KeyboardInterrupt:
        results.draw(trainer)
        typer.echo(f"graphrt: interrupted; {results}", err=True)
        raise typer.Exit(130) from None
    except NumericError as error:
        results.draw(trainer)
        raise NumericError(f"{error}; try a lower --lr than {rate:g}; {results}") from None
    results.draw(trainer)
    if results.failed:
        raise NumericError(f"{results.failed}, so the run ends: try a lower --lr than {rate:g}; {results}")


def _fitting(model: str, shape: tuple[int, ...], outputs: int) -> tuple[Any, dict[str, int], tuple[int, ...]]:
    """How to build ``model`` for examples of ``shape`` with so many ``outputs``: what to call, with what, and what it takes.

    Raises ArgumentError where it takes nothing of the kind.
    """
    from graphrt import models

    one = models.get(model)
    takes, parameters = one.input_shape, inspect.signature(one.build).parameters
    settings = {}
    if "num_features" in parameters:
        settings["num_features"] = int(np.prod(shape))
        takes = shape
    if "num_classes" in parameters:
        settings["num_classes"] = outputs
    if not _takes(one, shape, outputs):
        kinds = {1: "numbers", 3: "pictures"}
        fitting = [name for name, other in models.MODELS.items() if _takes(other, shape, outputs)]
        if one.dtype == "float32" and one.dense:
            has = "has scores for each pixel, the data has a target for each picture"
        elif one.dtype == "float32" and len(takes) == len(shape):
            has = f"has no last layer that is made for a number of outputs, and the data has {outputs}"
        else:
            wants = "text" if one.dtype != "float32" else kinds.get(len(takes), str(list(takes)))
            has = f"takes {wants}, the data has {kinds.get(len(shape), list(shape))}"
        raise ArgumentError(f"{model} {has}; networks for such examples are {', '.join(fitting)}")
    return one.build, settings, takes


def _takes(one: Network, shape: tuple[int, ...], outputs: int) -> bool:
    """Whether ``one`` can be built for examples of ``shape`` with so many ``outputs``."""
    parameters = inspect.signature(one.build).parameters
    sized = len(one.input_shape) == len(shape) or "num_features" in parameters
    counted = "num_classes" in parameters or one.outputs == outputs
    return one.dtype == "float32" and not one.dense and sized and counted


def _report(trainer: Any, program: Any, per_epoch: int, folder: Path, figures: Mapping[str, float]) -> None:
    """The result on one screen, with ``figures`` in the place of an accuracy, if there are any."""
    history = trainer.history
    milliseconds = f"{1e3 * min(history.seconds) / per_epoch:.3f}" if history.seconds else "-"
    accuracy, error = history.val_accuracy, history.others.get("val_mae")
    measured = {"test error": f"{error[-1]:.4f} (mean, absolute)"} if error else {"test accuracy": "-"}
    measured = {"test accuracy": f"{100 * accuracy[-1]:.2f} %"} if accuracy else measured
    rows = {
        **({name: f"{value:.4f}" for name, value in figures.items()} if figures else measured),
        "target": program.target,
        "kernels per step": str(program.launches) if program.schedule else "-",
        "milliseconds per step": f"{milliseconds} (best epoch)",
        "arena": f"{program.plan.size:,} of {program.plan.unplanned:,} bytes" if program.plan else "-",
        "compile seconds": f"{program.compile_seconds:.2f}",
        "results": str(folder),
    }
    show(rows.items())
