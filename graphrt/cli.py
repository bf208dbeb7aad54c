"""The command line: train a model, look at what its training step compiles to, compile it for a machine, list the flags."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from graphrt.bench.command import app as bench
from graphrt.errors import ArgumentError, GraphrtError, NumericError
from graphrt.files import writable
from graphrt.inspection.command import Dtype, Library, commands

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

app.add_typer(bench, name="bench")
app.add_typer(commands)

Target = Annotated[str, typer.Option(help="auto, cuda, hip, cpu, interpret, reference or debug")]
Model = Annotated[str, typer.Argument(help="lenet5, mlp, resnet50, ...: a name of graphrt.models")]


@app.command()
def train(
    model: Model,
    data: Annotated[str, typer.Option(help="the dataset: mnist (5,000 digits)")] = "mnist",
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    lr: Annotated[float, typer.Option(help="base learning rate")] = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    schedule: Annotated[str, typer.Option(help="constant, step, cosine, linear, one_cycle, plateau, ...")] = "cosine",
    target: Target = "auto",
    seed: Annotated[int, typer.Option(min=0, help="of weights and the order of examples")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="train on the first so many images only; 0 means all")] = 0,
    resume: Annotated[Path | None, typer.Option(help="a checkpoint to go on from")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the results (runs/MODEL)")] = None,
) -> None:
    """Trains MODEL and leaves checkpoint.safetensors, curves.png and history.json in a folder.

    The checkpoint and the history are written after every epoch, so a run that is interrupted can be resumed. A loss that is
    not finite ends the run with exit status 1, an interruption with 130.
    """
    from graphrt import models, optim
    from graphrt.data import load_mnist
    from graphrt.inspection.subject import prepare
    from graphrt.inspection.subject import trainer as trainer_of

    prepare(target)

    if data != "mnist":
        raise ArgumentError(f"no dataset {data!r}; there is mnist")
    if schedule not in optim.SCHEDULES:
        raise ArgumentError(f"no schedule {schedule!r}; there is {', '.join(optim.SCHEDULES)}")
    shape = models.get(model).input_shape
    if len(shape) != 3 or shape[0] != 1:
        takes = f"images of {shape[0]} channels, mnist has 1" if len(shape) == 3 else f"{list(shape)}, mnist has images"
        fitting = ", ".join(name for name, m in models.MODELS.items() if m.input_shape[0] == 1 and len(m.input_shape) == 3)
        raise ArgumentError(f"{model} takes {takes}; {fitting} fit")
    side = shape[-1]
    results = _Results(out or Path("runs") / model, model)
    optimizer = optim.SGD(lr, momentum=momentum, weight_decay=weight_decay)
    trainer = trainer_of(model, target, seed, optimizer, optim.SCHEDULES[schedule]())
    training, test = load_mnist(pad=(side - 28) // 2)
    if limit:
        training, test = training.take(limit), test.take(limit)
    if resume is not None:
        trainer.load(resume)
        results.keep(trainer)
    try:
        trainer.fit(training, epochs, batch_size, test, callbacks=[results])
    except KeyboardInterrupt:
        results.draw(trainer)
        typer.echo(f"graphrt: interrupted; {results}", err=True)
        raise typer.Exit(130) from None
    except NumericError as error:
        results.draw(trainer)
        raise NumericError(f"{error}; try a lower --lr than {lr:g}; {results}") from None
    results.draw(trainer)
    if results.failed:
        raise NumericError(f"{results.failed}, so the run ends: try a lower --lr than {lr:g}; {results}")
    program = trainer.program("train", training.x[:batch_size], training.y[:batch_size])
    _report(trainer, program, len(training) // batch_size, results.folder)


class _Results:
    """The folder of a training run and what is in it; called after each epoch. Raises ArgumentError if it cannot be written."""

    def __init__(self, folder: Path, title: str) -> None:
        from graphrt.train import curves

        _check_folder(folder)
        curves.figure()  # a missing package is found before the training, not behind it
        self.folder, self.title, self.epochs, self.failed = folder, title, 0, ""

    def __call__(self, trainer: Any, row: dict[str, float]) -> bool:
        """Keeps the epoch; ends the training at one whose figures are not finite, which leaves the files of the one before."""
        bad = [f"{name} {value}" for name, value in row.items() if not math.isfinite(value)]
        if bad:
            self.failed = f"epoch {trainer.epoch} ended with {', '.join(bad)}"
            return False
        self.keep(trainer)
        return True

    def keep(self, trainer: Any) -> None:
        trainer.save(self.folder / "checkpoint.safetensors")
        trainer.history.save(self.folder / "history.json")
        self.epochs = trainer.epoch

    def draw(self, trainer: Any) -> None:
        from graphrt.train import save_curves

        if self.epochs:
            save_curves(trainer.history, self.folder / "curves.png", self.title)

    def __str__(self) -> str:
        if not self.epochs:
            return "no epoch was done, so nothing is kept"
        return f"{self.folder / 'checkpoint.safetensors'} is of epoch {self.epochs}, and --resume goes on from it"


def _check_folder(folder: Path) -> None:
    """Raises ArgumentError where the results could not be written in the end."""
    try:
        writable(folder)
    except OSError as error:
        raise ArgumentError(f"--out {folder} cannot be written: {error.strerror}") from None


def _report(trainer: Any, program: Any, per_epoch: int, folder: Path) -> None:
    """The result on one screen."""
    history = trainer.history
    milliseconds = f"{1e3 * min(history.seconds) / per_epoch:.3f}" if history.seconds else "-"
    rows = {
        "test accuracy": f"{100 * history.val_accuracy[-1]:.2f} %" if history.val_accuracy else "-",
        "target": program.target,
        "kernels per step": str(program.launches) if program.schedule else "-",
        "milliseconds per step": f"{milliseconds} (best epoch)",
        "arena": f"{program.plan.size:,} of {program.plan.unplanned:,} bytes" if program.plan else "-",
        "compile seconds": f"{program.compile_seconds:.2f}",
        "results": str(folder),
    }
    table = Table(show_header=False, box=None)
    for name, value in rows.items():
        table.add_row(name, value)
    Console(markup=False).print(table)


@app.command()
def summary(
    model: Model,
    batch: Annotated[int, typer.Option(min=1, help="batch size")] = 1,
) -> None:
    """Prints MODEL by layer: output shape, parameters, multiplications, bytes of the output and receptive field."""
    from graphrt import models, nn

    one = models.get(model)
    with nn.init.skip_init():
        net = one.build()
    typer.echo(nn.summary(net, (batch, *one.input_shape), one.dtype))


@app.command("compile")
def compile_model(
    model: Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    target: Annotated[str, typer.Option(help="cpu, cuda:sm_80, cuda:sm_90, hip:gfx942 and the like, cuda or hip")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="batch size")] = 64,
    evaluate: Annotated[bool, typer.Option("--eval", help="the network alone, in evaluation mode")] = False,
    dtype: Dtype = "float32",
    library: Library = None,
    lr: Annotated[float, typer.Option(help="learning rate of the optimizer")] = 0.05,
    momentum: float = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="of the weights")] = 0,
) -> None:
    """Compiles MODEL's training step to a folder, which graphrt.load runs without a compiler; the GPU need not be here."""
    from graphrt import compile as compile_graph
    from graphrt import optim
    from graphrt.inspection.subject import half, specs
    from graphrt.inspection.subject import trainer as trainer_of

    _check_folder(out)
    trainer = trainer_of(model, target, seed, optim.SGD(lr, momentum=momentum), autocast=half(dtype))
    x, y = specs(model, batch)
    graph = trainer.evaluation_graph(x) if evaluate else trainer.training_graph(x, y)
    program = compile_graph(graph, target=target, library=library)
    program.save(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    kind = "evaluation" if evaluate else "training step"
    typer.echo(f"{out}: {model}, {kind}, batch {batch}, for {program.target}: {program.launches} launches, {size:,} bytes")


@app.command()
def flags() -> None:
    """Lists the environment variables that graphrt reads, with their values now."""
    from graphrt.config import Flags

    table = Table("variable", "value", "meaning", box=None)
    for row in Flags.read().table():
        table.add_row(*row)
    Console(markup=False).print(table)


@app.command()
def version() -> None:
    """Prints the version."""
    from graphrt import __version__

    typer.echo(__version__)


def main() -> None:
    """Entry point: errors of graphrt and missing packages print as one message, with exit status 1."""
    try:
        app()
    except (GraphrtError, ImportError, OSError) as error:
        typer.echo(f"graphrt: {error}", err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
