"""How much of the memory's speed do fused groups reach? Bytes read and written a second, beside a copy of as many bytes.

python -m bench.bandwidth [--rounds 10] [--save]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer

import graphrt
from bench.measure import interleave, report
from graphrt import ops

ROW = 1024
GROUPS: dict[str, Callable[[graphrt.Value], graphrt.Value]] = {
    "elementwise": lambda x: ops.relu(x * 0.5 + 1.0) - x,
    "gelu": ops.gelu,
    "softmax": ops.softmax,
    "layer_norm": lambda x: ops.layer_norm(x, ROW),
    "log_softmax": ops.log_softmax,
}


def main(
    megabytes: Annotated[list[int] | None, typer.Option(help="sizes of the tensor; 1, 4, 16 and 64 when left out")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="turns of each candidate")] = 10,
    calls: Annotated[int, typer.Option(min=1, help="runs in a turn")] = 5,
    save: Annotated[bool, typer.Option(help="append the rows to bench/results/bandwidth.jsonl")] = False,
) -> None:
    """Prints GB/s of groups whose result stays in the program's own memory, and the percentage of a torch copy's."""
    rows = []
    for size in megabytes or [1, 4, 16, 64]:
        x = np.random.default_rng(0).standard_normal((size * 2**18 // ROW, ROW)).astype(np.float32)
        source, goal = torch.from_numpy(x), torch.empty(x.shape)
        candidates: dict[str, Callable[[], Any]] = {"copy": lambda s=source, g=goal: g.copy_(s)}
        for name, build in GROUPS.items():
            graph = graphrt.Graph()
            state = graph.parameter("x", x, trainable=False)
            graph.update(graph.parameter("y", x, trainable=False), build(state))  # a result would be a new array each time
            program = graphrt.compile(graph, target="auto")
            candidates[name] = program
        found = interleave(candidates, rounds, calls)
        speed = {name: 2 * x.nbytes / t.median / 1e6 for name, t in found.items()}
        for name in GROUPS:
            rows.append(
                {
                    "MB": size,
                    "group": name,
                    "GB/s": speed[name],
                    "copy GB/s": speed["copy"],
                    "%": 100 * speed[name] / speed["copy"],
                }
            )
    report("memory bound groups, float32 (bytes read and written once)", rows, "bandwidth" if save else None)


if __name__ == "__main__":
    typer.run(main)
