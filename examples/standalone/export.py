"""Exports a small network for main.c: the saved program, and its table as a C header with the state as raw memory.

python examples/standalone/export.py build
cc -I build examples/standalone/main.c -o build/main -ldl
build/main build < build/x.bin
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import graphrt as grt
from graphrt import nn
from graphrt.targets.saved import read_manifest
from graphrt.types import TensorType

CONSTANTS = ("program", "runtime", "arena", "alignment", "frozen")


def header(manifest: dict) -> str:
    """The header that main.c includes: constants, and one line for each entry of the pointer table behind the arena."""
    lines = [f"#define {name.upper()} {json.dumps(manifest[name])}" for name in manifest if name in CONSTANTS]
    lines.append("static const struct { const char *space, *name; unsigned long bytes; } entries[] = {")
    for entry in manifest["table"]:
        size = TensorType.parse(entry["type"]).nbytes
        lines.append(f"  {{{json.dumps(entry['space'])}, {json.dumps(entry['name'])}, {size}}},")
    return "\n".join([*lines, "};"]) + "\n"


def main(folder: str | Path = "build") -> np.ndarray:
    """Writes everything into ``folder``, x.bin (an input to try) included; returns what the network makes of that input."""
    folder = Path(folder)
    nn.init.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
    graph = grt.Graph()
    graph.output("logits", net(graph.input("x", (2, 1, 14, 14))))
    program = grt.compile(graph, target="cpu", freeze=True)
    program.save(folder)
    manifest = read_manifest(folder)
    (folder / "network.h").write_text(header(manifest))
    with (folder / "state.bin").open("wb") as file:
        for entry in manifest["table"]:
            if entry["space"] == "state":
                array, order = program.state[entry["name"]], TensorType.parse(entry["type"]).order
                file.write(array.transpose(order or range(array.ndim)).tobytes())  # as the program has it in memory
    x = np.random.default_rng(0).standard_normal((2, 1, 14, 14)).astype(np.float32)
    x.tofile(folder / "x.bin")
    return program(x=x)["logits"]


if __name__ == "__main__":
    print(*(f"{v:.9g}" for v in main(*sys.argv[1:]).ravel()), sep="\n")
