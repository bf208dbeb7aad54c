"""How long is a forward pass? graphrt beside torch eager (channels_last), torch.compile with freezing, and ONNX Runtime.

python -m bench.inference [--work ResNet-50] [--batch 1 --batch 8] [--rounds 10] [--save] [--no-compile]
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

import graphrt
from bench.measure import compared, interleave, report
from bench.peers import WORK


def graphrt_forward(net: graphrt.nn.Module, x: np.ndarray) -> Callable[[], Any]:
    graph = graphrt.Graph()
    graph.output("y", net.eval()(graph.input("x", x.shape)))
    program = graphrt.compile(graph, target="auto")
    return lambda: program({"x": x})


def torch_forward(net: torch.nn.Module, x: np.ndarray, compiled: bool) -> Callable[[], Any]:
    model = net.eval().to(memory_format=torch.channels_last)
    data = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
    if compiled:
        torch._inductor.config.freezing = True
        model = torch.compile(model)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return model(data)

    return run


def onnx_forward(net: torch.nn.Module, x: np.ndarray) -> Callable[[], Any] | None:
    """A run of ONNX Runtime; None where a package it needs is missing."""
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")):
        return None
    import onnxruntime

    file = io.BytesIO()
    torch.onnx.export(net.eval(), (torch.from_numpy(x),), file, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks; ResNet-50 when left out")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="batch sizes; 1 and 8 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 10,
    calls: Annotated[int, typer.Option(min=1, help="passes in a turn")] = 3,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile too")] = True,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/inference.jsonl")] = False,
) -> None:
    """Prints the median milliseconds of a forward pass, and the ratio to graphrt's."""
    rows = []
    for name in work or ["ResNet-50"]:
        for size in batch or [1, 8]:
            x, _ = WORK[name].data(size)
            ours, theirs = WORK[name].pair()
            candidates = {"graphrt": graphrt_forward(ours, x), "torch channels_last": torch_forward(theirs, x, False)}
            if compiled:
                candidates["torch.compile, frozen"] = torch_forward(WORK[name].theirs(), x, True)
            onnx = onnx_forward(WORK[name].theirs(), x)
            if onnx is not None:
                candidates["ONNX Runtime"] = onnx
            about = {"work": name, "batch": size}
            rows += compared(about, interleave(candidates, rounds, calls))
            if onnx is None:
                rows.append({**about, "candidate": "ONNX Runtime: missing", "ms": "-", "p10": "-", "p90": "-", "ratio": "-"})
    report("forward pass, float32 (ratio: candidate / graphrt)", rows, "inference" if save else None)


if __name__ == "__main__":
    typer.run(main)
