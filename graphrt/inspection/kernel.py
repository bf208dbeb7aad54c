"""A kernel alone: what the scripts run that GRAPHRT_DUMP writes."""

from __future__ import annotations

import argparse
import os

import numpy as np


def main(text: str, target: str, fusion: str) -> None:
    """Compiles the graph ``text`` with the stages ``fusion`` for a target, ``target`` unless asked for another, then runs it on
    random data, checks each launch against the reference, and times it. Exits with status 1 on a difference, with 2 and a
    message where what is asked for cannot be done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", default=target, help="any of graphrt.compile")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.target == "interpret":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from graphrt.errors import ArgumentError, TargetError

    try:
        agrees = _run(text, fusion, asked.target, asked.runs, asked.seed)
    except (ArgumentError, TargetError) as error:
        parser.error(str(error))
    raise SystemExit(not agrees)


def _run(text: str, fusion: str, target: str, runs: int, seed: int) -> bool:
    """Prints the plan, the verdict and times of ``runs`` runs, or a kernel report; whether all agrees with the reference."""
    from graphrt.compiler import compile as compile_graph
    from graphrt.inspection.data import random_inputs
    from graphrt.ir import Graph
    from graphrt.targets.target import names_architecture

    graph = Graph.parse(text)
    program = compile_graph(graph, target=target, fusion=fusion)
    print(program.plan_text(), end="")
    if names_architecture(target):
        print(*program.kernels(), sep="\n")
        return True
    batch = random_inputs(graph, np.random.default_rng(seed))
    different = program.check(batch)
    print(different or "agrees with the reference")
    print(program.profile(batch, runs=runs))
    return different is None
