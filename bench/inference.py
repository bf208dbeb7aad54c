"""How long is a forward pass in evaluation mode? graphrt beside torch (eager, frozen compile) and ONNX Runtime, same run.

python -m bench.inference [--work ResNet-50] [--batch 1] [--rounds 20] [--save] [--no-compile]
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import nn

import graphrt
from bench.measure import compared, interleave, report
from bench.peers import WORK, chosen, torch_model

Forward = Callable[[], Any]


def graphrt_forward(net: graphrt.nn.Module, x: np.ndarray) -> Forward:
    graph = graphrt.Graph()
    graph.output("logits", net.eval()(graph.input("x", x.shape)))
    program = graphrt.compile(graph, freeze=True)
    return lambda: program(x=x)["logits"]


def torch_forward(theirs: nn.Module, x: np.ndarray) -> Forward:
    model, data = torch_model(theirs.eval(), x, "channels_last" if x.ndim == 4 else "eager")

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return model(data).numpy(force=True)

    return forward


def frozen_forward(theirs: nn.Module, x: np.ndarray) -> Forward:
    """torch.compile with the parameters as constants, so that batch norm is folded and weights are packed ahead."""
    import torch._inductor.config as inductor

    model, data = torch_model(theirs.eval(), x, "channels_last" if x.ndim == 4 else "eager")
    compiled = torch.compile(model)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return compiled(data).numpy(force=True)

    with inductor.patch(freezing=True):
        forward()
    return forward


def onnx_forward(theirs: nn.Module, x: np.ndarray) -> Forward | None:
    """ONNX Runtime with as many threads as torch has; None where a package is missing."""
    if find_spec("onnx") is None or find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    newer = find_spec("onnxscript") is not None  # the exporter of today needs it, the one before does not
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(theirs.eval(), (torch.from_numpy(x),), str(path), dynamo=newer, input_names=["x"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=onnxruntime.get_available_providers())
    return lambda: session.run(None, {"x": x})[0]


def main(
    work: Annotated[list[str] | None, typer.Option(help="networks to measure; ResNet-50 when left out")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="batch sizes; 1 and 8 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 20,
    calls: Annotated[int, typer.Option(min=1, help="forward passes in a turn")] = 3,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile with freezing too")] = True,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/inference.jsonl")] = False,
) -> None:
    """Prints the median milliseconds of a forward pass of each network and batch size, and the ratio to graphrt's."""
    rows = []
    for name in chosen(work or ["ResNet-50"]):
        for size in batch or [1, 8]:
            x, _ = WORK[name].data(size)
            ours, theirs = WORK[name].pair()
            candidates: dict[str, Forward | None] = {"graphrt": graphrt_forward(ours, x)}
            candidates["onnxruntime"] = onnx_forward(theirs, x)  # exported before torch moves it to a device
            candidates["torch eager"] = torch_forward(theirs, x)
            if compiled:
                candidates["torch compile, frozen"] = frozen_forward(WORK[name].theirs(), x)
            for candidate, forward in candidates.items():
                assert forward is None or np.isfinite(forward()).all(), f"{candidate}: {name} gives no finite numbers"
            rows += compared({"work": name, "batch": size}, interleave(candidates, rounds, calls))
    report("forward pass, float32 (ratio: candidate / graphrt)", rows, "inference" if save else None)


if __name__ == "__main__":
    typer.run(main)
