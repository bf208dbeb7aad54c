"""The command that compiles a network for a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphrt.cli.options import Model, check_folder
from graphrt.inspection.command import Dtype, Library

commands = typer.Typer()


@commands.command("compile")
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
    from graphrt.compiler import compile as compile_graph
    from graphrt.inspection.subject import half, specs
    from graphrt.inspection.subject import trainer as trainer_of
    from graphrt.optim import SGD

    check_folder(out)
    trainer = trainer_of(model, target, seed, SGD(lr, momentum=momentum), autocast=half(dtype))
    x, y = specs(model, batch)
    graph = trainer.evaluation_graph(x) if evaluate else trainer.training_graph(x, y)
    program = compile_graph(graph, target=target, library=library)
    program.save(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    kind = "evaluation" if evaluate else "training step"
    typer.echo(f"{out}: {model}, {kind}, batch {batch}, for {program.target}: {program.launches} launches, {size:,} bytes")
