"""The commands that look into programs: explain, report and bisect."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from graphrt.errors import ArgumentError
from graphrt.files import check_place

commands = typer.Typer()
AnyTarget = Annotated[str, typer.Option(help="auto, cpu, cuda, ..., or a GPU that need not be here: cuda:sm_90, ...")]
Dtype = Annotated[str, typer.Option(help="float32, or bf16 or fp16 by autocast")]
Library = Annotated[str | None, typer.Option(help="cuBLAS and cuDNN for contractions on a GPU: never, auto or always")]
Named = Annotated[
    str, typer.Argument(metavar="MODEL", help="lenet5, resnet50, ...; net.onnx; file.py:function; or a saved program's folder")
]
Batch = Annotated[int, typer.Option(min=1, help="batch size")]
Training = Annotated[bool, typer.Option("--train/--eval", help="a model's training step, or the network alone")]


def _program(
    model: str, target: str, batch: int, training: bool, dtype: str, precision: str = "highest", library: str | None = None
) -> tuple[str, Any]:
    """The title of what ``model`` names, and its program."""
    from graphrt.inspection.subject import find, prepare

    prepare(target)
    from graphrt.compiler import compile as compile_graph

    arguments = {"float32_matmul_precision": precision, "library": library}
    subject = find(model, target, batch, training, dtype, arguments)
    return subject.title, compile_graph(subject.outputs, **subject.arguments)


@commands.command()
def explain(
    model: Named,
    batch: Batch = 64,
    target: AnyTarget = "auto",
    training: Training = True,
    dtype: Dtype = "float32",
    precision: Annotated[str, typer.Option(help="of float32 products on a GPU: highest, high or medium")] = "highest",
    library: Library = None,
    device: Annotated[str, typer.Option(help="whose data sheet predicts times: H200, H100, A100 or MI300X")] = "",
    why: Annotated[tuple[str, str], typer.Option(metavar="A B", help="only the decisions on two nodes")] = ("", ""),
    module: Annotated[str, typer.Option(help="only the launches of a module: layer1.0")] = "",
    group: Annotated[str, typer.Option(help="only a group of the plan and the decisions on it: g5")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="only what was not done, and why")] = False,
    full: Annotated[bool, typer.Option("--full", help="every decision, launch and buffer")] = False,
    source: Annotated[bool, typer.Option(help="the generated code too")] = False,
    compiled: Annotated[
        bool, typer.Option("--compiled/--plan", help="predict by compiled kernels, or by the plan alone")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="launches, decisions and predictions as JSON")] = False,
) -> None:
    """Prints what was fused and why, the memory that MODEL needs, and for a GPU what it should take: in 60 lines, or --full.

    Nothing is run. Times are static bounds, by the instructions of the compiled kernels or with --plan by bytes and flops
    alone, in seconds and not minutes for a large network, and by the device's data sheet; no measurements.
    """
    from graphrt.runtime.machine import find_data_sheet
    from graphrt.runtime.roofline import predict
    from graphrt.targets.target import names_architecture

    asked = {"--why": any(why), "--module": module, "--group": group, "--refused": refused, "--full": full}
    if len(several := [option for option, given in asked.items() if given]) > 1:
        raise ArgumentError(f"{' and '.join(several)} are answers of their own: ask for one at a time")
    title, program = _program(model, target, batch, training, dtype, precision, library)
    known = device or names_architecture(program.target)
    explanation = program.explain()
    chosen = explanation.why(*why) if any(why) else explanation.refused() if refused else None
    shown = known and (as_json or not (chosen is not None or module or group))
    estimate = predict(program, find_data_sheet(program.target, device or None), batch, compiled) if shown else None
    part = explanation.module(module) if module else explanation.group(group) if group else ""
    if as_json:
        about = {"model": model, "dtype": dtype, "training": training, "target": program.target}
        some: dict[str, Any] = {"lines": part.splitlines()} if part else explanation.to_json()
        some = some if chosen is None else {"decisions": [asdict(d) for d in chosen]}
        typer.echo(json.dumps({**about, **(estimate.to_json() if estimate else {}), **some}, indent=1))
    elif chosen is not None:
        typer.echo("\n".join(map(str, chosen)))
    elif part:
        typer.echo(part)
    else:
        typer.echo(f"{title}, target {program.target}: {len(program.graph.nodes)} nodes\n")
        typer.echo(f"fusion\n{explanation.full() if full else explanation}\n")
        if full:
            typer.echo(f"launches\n{program.plan_text()}")
        plan = program.plan
        typer.echo(f"memory\n{'the target has no plan' if plan is None else plan if full else plan.totals()}")
        if estimate is not None:
            typer.echo(f"\nprediction\n{estimate if full else estimate.totals()}")
    if source:
        typer.echo(f"\nsource\n{program.source()}")


@commands.command()
def bisect(
    model: Named,
    batch: Batch = 4,
    target: AnyTarget = "auto",
    training: Training = True,
    dtype: Dtype = "float32",
    seed: Annotated[int, typer.Option(min=0, help="of the random batch")] = 0,
) -> None:
    """Finds the least set of fusion decisions that makes MODEL's result on a random batch differ from the reference's.

    Exit status is 1 where it differs.
    """
    from graphrt.inspection.data import random_inputs
    from graphrt.runtime.bisection import bisect as search
    from graphrt.targets.target import names_architecture

    title, program = _program(model, target, batch, training, dtype)
    if names_architecture(program.target):
        raise ArgumentError(f"a program for {program.target} cannot run here; name a target that can")
    found = search(program, random_inputs(program.built, np.random.default_rng(seed)))
    typer.echo(f"{title}, target {program.target}: {found}")
    if found.different is not None:
        raise typer.Exit(1)


@commands.command()
def report(
    model: Named,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the page (MODEL.html)")] = None,
    batch: Batch = 64,
    target: AnyTarget = "auto",
    training: Training = True,
    dtype: Dtype = "float32",
    runs: Annotated[int, typer.Option(min=0, help="runs on random data that times are taken of; 0: predictions alone")] = 0,
    kernels: Annotated[bool, typer.Option("--kernels", help="compile every kernel for its registers (cuda:sm_90)")] = False,
) -> None:
    """Writes what was decided for MODEL as one page of HTML that needs no network."""
    from graphrt.inspection.data import random_inputs

    path = out or Path(f"{Path(model).name.replace(':', '_')}.html")
    check_place("--out", path)
    title, program = _program(model, target, batch, training, dtype)
    profile = program.profile(random_inputs(program.built, np.random.default_rng(0)), runs=runs) if runs else None
    program.report(path, profile, program.kernels() if kernels else (), title)
    typer.echo(f"{path}: {title}, {program.target}, {program.launches} launches, {path.stat().st_size:,} bytes")
