"""The command that compiles a network for a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphrt.cli.options import names_of, one_of
from graphrt.errors import ArgumentError
from graphrt.files import check_place
from graphrt.inspection.command import Dtype, Library

commands = typer.Typer()


@commands.command("compile")
def compile_model(
    model: Annotated[
        str,
        typer.Argument(help="lenet5, resnet50, ...; net.onnx; or file.py:function", autocompletion=names_of("models.MODELS")),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder to write")],
    target: Annotated[
        str,
        typer.Option(
            help="cpu, cuda:sm_80, cuda:sm_90, hip:gfx942 and the like, cuda or hip",
            autocompletion=one_of("cpu", "cuda", "cuda:sm_80", "cuda:sm_90", "hip", "hip:gfx942"),
        ),
    ] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="batch size")] = 64,
    evaluate: Annotated[bool, typer.Option("--eval", help="the network alone, in evaluation mode")] = False,
    dtype: Dtype = "float32",
    int8: Annotated[bool, typer.Option("--int8", help="weights of products in eight bits; not of a training step")] = False,
    library: Library = None,
    lr: Annotated[float, typer.Option(help="learning rate of the optimizer")] = 0.05,
    momentum: float = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="of the weights")] = 0,
) -> None:
    """Compiles MODEL to a folder, which graphrt.load runs without a compiler; the GPU need not be here.

    Of a network of graphrt.models it is the training step, or with --eval the network alone, and the options of optimizer and
    weights are for these; an ONNX file and what a function gives are compiled as they are.
    """
    from graphrt.compiler import compile as compile_graph
    from graphrt.compiler import graph_of
    from graphrt.inspection.subject import find
    from graphrt.models import MODELS
    from graphrt.optim import SGD
    from graphrt.passes.quantize import quantize_weights
    from graphrt.targets.saved import MANIFEST

    if (Path(model) / MANIFEST).exists():
        raise ArgumentError(f"{model} is a compiled program; compile what it was made of: a model, an ONNX file or a function")
    check_place("--out", out, folder=True)
    optimizer = SGD(lr, momentum=momentum)
    subject = find(model, target, batch, not evaluate, dtype, {"library": library}, optimizer, seed)
    outputs = subject.outputs
    if int8:
        graph, kind = graph_of(outputs)
        eight = quantize_weights(graph)
        outputs = {"dict": eight, "list": [*eight.outputs.values()], "single": next(iter(eight.outputs.values()), None)}[kind]
    program = compile_graph(outputs, **subject.arguments)
    program.save(out)
    size = sum(file.stat().st_size for file in out.iterdir())
    kind = "" if model not in MODELS else ", evaluation" if evaluate else ", training step"
    typer.echo(f"{out}: {subject.title}{kind}, for {program.target}: {program.launches} launches, {size:,} bytes")
