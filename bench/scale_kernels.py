"""What a training step's kernels take on one GPU, by graphrt's static model, and when each gradient is there.

A record is found by compiling the program for a GPU that need not be here and reading its code, which takes minutes for a
ResNet-50; ``bench/results/scale_kernels.jsonl`` keeps those that were found.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import typer

from bench.measure import RESULTS

KEPT = RESULTS / "scale_kernels.jsonl"


@dataclass(frozen=True)
class Kernels:
    """The kernels of one training step of ``network`` at ``batch``: seconds of each phase, and what they make.

    ``gradients`` are (seconds after the start of the step, elements) of each parameter's gradient, the first to be ready first;
    ``latency`` are the seconds of the launches that a fixed cost binds: being launched, or waiting for memory. ``source`` says
    where the seconds are from.
    """

    network: str
    batch: int
    device: str
    source: str
    forward: float
    backward: float
    update: float
    launches: int
    latency: float
    gradients: tuple[tuple[float, int], ...]

    @property
    def seconds(self) -> float:
        """Seconds of the whole step on one GPU."""
        return self.forward + self.backward + self.update

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(n for _, n in self.gradients)

    def scaled(self, factor: float, source: str) -> Kernels:
        """The same step, every kernel of which takes ``factor`` times as long."""
        return Kernels(
            self.network,
            self.batch,
            self.device,
            source,
            factor * self.forward,
            factor * self.backward,
            factor * self.update,
            self.launches,
            factor * self.latency,
            tuple((factor * ready, n) for ready, n in self.gradients),
        )


def first_launch(program: Any, phase: str) -> int:
    """The first launch of ``program`` in which a node of ``phase`` (bwd, opt) is computed."""
    launches = program.schedule.launches
    return next(i for i, launch in enumerate(launches) if any(n.origin.phase == phase for g in launch.groups for n in g.nodes))


def gradients_of(program: Any) -> Iterator[tuple[int, int]]:
    """(launch, elements) of each parameter's gradient: the last launch before the updates that it is computed from.

    A program of one GPU finishes many gradients in the launch that updates, where there is nothing to send in between.
    """
    launches = program.schedule.launches
    launch_of = {n: i for i, launch in enumerate(launches) for g in launch.groups for n in (*g.inlined, *g.nodes)}
    first = first_launch(program, "opt")
    for parameter in program.graph.parameters():
        value = program.graph.updates.get(parameter.node.name)
        if value is None or value.node.origin.phase != "opt":
            continue
        found, seen, left = 0, set(), [value.node]
        while left:
            node = left.pop()
            if node in seen:
                continue
            seen.add(node)
            if (at := launch_of.get(node, first)) < first:
                found = max(found, at)
            else:
                left.extend(operand.node for operand in node.inputs)
        yield found, parameter.type.size


def find(network: str, batch: int, device: str, compiled: bool) -> Kernels:
    """The kernels of ``network``'s training step in bfloat16 on ``device``, by its plan or, in minutes, as ``compiled``."""
    from graphrt.compiler import compile as compile_graph
    from graphrt.inspection.subject import find as find_subject
    from graphrt.runtime.machine import find_data_sheet
    from graphrt.runtime.roofline import predict

    subject = find_subject(network, "cuda:sm_90", batch, True, "bf16", {})
    program = compile_graph(subject.outputs, **subject.arguments)
    estimate = predict(program, find_data_sheet(program.target, device), batch, compiled)
    ends = list(itertools.accumulate(p.seconds for p in estimate.launches))
    backward, update = first_launch(program, "bwd"), first_launch(program, "opt")
    return Kernels(
        network,
        batch,
        device,
        "compiled" if compiled else "plan",
        forward=ends[backward - 1],
        backward=ends[update - 1] - ends[backward - 1],
        update=ends[-1] - ends[update - 1],
        launches=len(ends),
        latency=sum(p.seconds for p in estimate.launches if p.bound in ("launch", "latency")),
        gradients=tuple(sorted((round(ends[at], 9), size) for at, size in gradients_of(program))),
    )


def kept(network: str, batch: int, device: str, source: str) -> Kernels:
    """The record of ``KEPT``. Raises LookupError where there is none."""
    for line in KEPT.read_text().splitlines() if KEPT.exists() else ():
        row = json.loads(line)
        if (row["network"], row["batch"], row["device"], row["source"]) == (network, batch, device, source):
            row["gradients"] = tuple((ready, size) for ready, size in row["gradients"])
            return Kernels(**{f.name: row[f.name] for f in fields(Kernels)})
    raise LookupError(
        f"no kernels of {network}, batch {batch}, on {device} by {source}: python -m bench.scale_kernels finds them"
    )


def keep(kernels: Kernels) -> None:
    """Appends ``kernels`` to ``KEPT``."""
    with KEPT.open("a") as file:
        file.write(json.dumps({**asdict(kernels), "predicted": True}) + "\n")


def main(
    network: Annotated[str, typer.Option(help="a model of graphrt.models")] = "resnet50",
    batch: Annotated[int, typer.Option(min=1, help="images of one GPU")] = 16,
    device: Annotated[str, typer.Option(help="whose data sheet counts: H100, H200")] = "H100",
    compiled: Annotated[bool, typer.Option("--compiled/--plan", help="by compiled kernels, or by bytes and flops")] = True,
) -> None:
    """Finds the kernels of one step and keeps them."""
    keep(find(network, batch, device, compiled))


if __name__ == "__main__":
    typer.run(main)
