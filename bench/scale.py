"""How fast does training go on many GPUs? A step from its kernels' static times and an alpha-beta model of collectives.

python -m bench.scale --mlperf [--anchor static] [--by tiles]
python -m bench.scale --gpus 8,64,768 --batch 400,50,42 [--policy all_reduce,zero1,fsdp] [--topology dgx-h100]
python -m bench.scale --measure

Nothing is run but with ``--measure``, which times gloo between two processes of this machine. docs/scaling.md says what the
model is, where its constants are from, and how far it is from MLPerf's published points, to none of which it was fitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.collectives import DGX_H100, DGX_H100_SHARP, MEASURED, Topology, find
from bench.measure import RESULTS, environment
from bench.scale_kernels import Kernels, kept
from bench.scale_plot import draw
from bench.scale_step import Exchange, Setting, Step, memory, predict
from graphrt.runtime.machine import MEMORY, find_data_sheet

HOROVOD_CYCLE = 1e-4  # seconds between looks for gradients to send: HOROVOD_CYCLE_TIME=0.1 of the published configurations
HOROVOD_COPIES = 4  # passes over the gradients: read and written on the way into Horovod's fusion buffer, and out of it
CHANNELS = 501  # of a norm, the mean of ResNet-50's 53 (26,560 channels in all)
# Bytes of an image on its way in, by the sizes of DALI's buffers in the published configurations: as it was decoded, half
# resized, cropped, and normalised, each written and read; the last once more, into the place that the captured step reads.
INPUT = 2 * (1_196_311 + 871_491 + 150_528 + 401_408) + 401_408


@dataclass(frozen=True)
class Point:
    """A published run: images a second of one GPU, ``group`` GPUs that share batch norm's statistics.

    ``norms`` are fused where its network's convolutions apply batch norm, and apart where that has kernels of its own.
    """

    gpus: int
    batch: int
    published: float
    topology: Topology = DGX_H100
    group: int = 1
    norms: str = "fused"

    def kernels(self, by: str, optimizer: str = "LARS") -> Kernels:
        """The kernels of its step. Raises LookupError."""
        return kept("resnet50", self.batch, "H100", by, optimizer, self.norms)

    def setting(self, kernels: Kernels) -> Setting:
        """The run's setting: one bucket of halves behind the backward pass (Horovod, fusion threshold 64 MB, one group).

        Horovod looks half a cycle late on average, and copies what it sends.
        """
        memory = 1e12 * MEMORY * find_data_sheet("cuda:sm_90", "H100").memory
        return Setting(
            self.gpus,
            self.topology,
            bucket=64 * 2**20,
            overlap=False,
            delay=HOROVOD_CYCLE / 2 + HOROVOD_COPIES * 2 * kernels.parameters / memory,
            brought=INPUT * self.batch / memory,
            exchanges=norms(self.group),
        )


def norms(group: int, count: int = 53, channels: int = CHANNELS) -> tuple[Exchange, ...]:
    """The exchanges of ``group`` GPUs for batch norm: two sums of each channel in float32, forward and backward."""
    return (Exchange(2 * count, group, 2 * 4 * channels),) if group > 1 else ()


# MLPerf Training 3.0 and 3.1, closed division, ResNet-50 on DGX H100. Of one node convolutions apply batch norm (NETWORK=
# resnet-v1b-mainloop-fl), of 8 it has kernels of its own (resnet-v1b-fl), of 448 it is fused (MXNET_FUSE_CONV_BN_RELU=1); these
# reduce in the network and share statistics between 2 GPUs (config_DGXH100_multi_448x8x16.sh). The configuration of 96 nodes is
# taken to be that of 8, and that of 316, with the same batch, to be that of 448.
MLPERF = (
    Point(8, 400, 7115),
    Point(64, 50, 4826, norms="apart"),
    Point(768, 42, 4463, norms="apart"),
    Point(2528, 16, 2742, DGX_H100_SHARP, 2),
    Point(3584, 16, 2772, DGX_H100_SHARP, 2),
)


def row(kernels: Kernels, setting: Setting, step: Step) -> dict[str, Any]:
    """The row of one step in the table."""
    return {
        "network": kernels.network,
        "policy": setting.policy,
        "gpus": setting.ranks,
        "batch": kernels.batch,
        "step ms": 1e3 * step.seconds,
        "kernels ms": 1e3 * step.kernels,
        "exposed ms": 1e3 * step.exposed,
        "exchanges ms": 1e3 * step.exchanged,
        "input ms": 1e3 * setting.brought,
        "waiting ms": 1e3 * step.waiting,
        "network ms": 1e3 * step.network,
        "by": step.algorithm,
        "images/s/GPU": kernels.batch / step.seconds,
        "state MB": memory(kernels.parameters, setting.ranks, setting.policy) / 1e6,
    }


def anchored(kernels: Kernels, factor: float) -> Kernels:
    """``kernels`` that take ``factor`` times the static bound."""
    return kernels if factor == 1.0 else kernels.scaled(factor, f"{kernels.source} x {factor:.2f}")


def factor_of(anchor: str, network: str, device: str, by: str) -> float:
    """How many times the static bound kernels take, by ``anchor``: static (1), or images/s@batch of one GPU alone.

    ``mlperf`` takes the first of MLPerf's points, less what the model says its collectives take; that point is no check then.
    Raises ValueError, LookupError.
    """
    if anchor == "static":
        return 1.0
    if anchor == "mlperf":
        point = MLPERF[0]
        kernels = point.kernels(by)
        step = predict(kernels, point.setting(kernels))
        return (point.batch / point.published - (step.seconds - step.kernels)) / step.kernels
    rate, _, batch = anchor.partition("@")
    if not (rate.replace(".", "", 1).isdigit() and batch.isdigit()):
        raise ValueError(f"--anchor is static, mlperf or images/s@batch, such as 3000@256; got {anchor!r}")
    return int(batch) / float(rate) / kept(network, int(batch), device, by).seconds


def mlperf(factor: float = 1.0, by: str = "tiles", points: Sequence[Point] = MLPERF) -> list[dict[str, Any]]:
    """A row for each published point: what the model says of it and the error in percent."""
    found = []
    for point in points:
        kernels = anchored(point.kernels(by), factor)
        said = row(kernels, point.setting(kernels), predict(kernels, point.setting(kernels)))
        error = 100 * (said["images/s/GPU"] / point.published - 1)
        names = ("gpus", "batch", "kernels ms", "exposed ms", "exchanges ms", "input ms", "step ms")
        shown = {name: said[name] for name in names}
        published = {"published ms": 1e3 * point.batch / point.published, "images/s/GPU": said["images/s/GPU"]}
        found.append({**shown, **published, "published": point.published, "error %": error})
    return found


def check(found: Mapping[str, Any], local: Topology) -> dict[str, Any]:
    """The times that ``--measure`` found, beside what the model says of the step of two processes that ``local`` connects."""
    kernels = Kernels(found["network"], found["batch"], "this machine", "measured", 0.0, found["step"], 0.0, 1,
                      ((found["step"], found["parameters"]),))  # fmt: skip
    step = predict(kernels, Setting(found["ranks"], local, bucket=math.inf, itemsize=4, overlap=False))
    said = {"step ms": 1e3 * found["step"], "of two ms": 1e3 * found["parallel step"], "predicted ms": 1e3 * step.seconds}
    figures = {"alpha us": 1e6 * found["alpha"], "GB/s": found["bandwidth"] / 1e9}
    return {"network": found["network"], "batch": found["batch"], **figures, **said}


def show(title: str, rows: Sequence[Mapping[str, Any]], markdown: bool) -> None:
    """Prints ``rows`` as a table."""
    texts = [[f"{v:,.2f}" if isinstance(v, float) and v < 1000 else f"{v:,.0f}" if isinstance(v, int | float) else v
              for v in r.values()] for r in rows]  # fmt: skip
    if markdown:
        typer.echo("\n".join("| " + " | ".join(cells) + " |" for cells in (list(rows[0]), ["---"] * len(rows[0]), *texts)))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for cells in texts:
        table.add_row(*cells)
    console = Console(markup=False)
    (console if console.is_terminal else Console(width=180, markup=False)).print(table)


def numbers(text: str, option: str) -> list[int]:
    """The whole numbers of ``text``, with commas between. Raises BadParameter."""
    parts = text.split(",")
    if not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise typer.BadParameter(f"{option} takes whole numbers with commas between, such as 8,64; got {text!r}")
    return [int(p) for p in parts]


def exchanges_of(text: str) -> tuple[Exchange, ...]:
    """The exchanges that ``--exchange`` names. Raises BadParameter."""
    try:
        found = [(int(count), int(ranks), float(size)) for count, ranks, size in (e.split(":") for e in text.split(",") if e)]
    except ValueError:
        raise typer.BadParameter(f"--exchange is COUNT:GPUS:MB, such as 48:2:8.4; got {text!r}") from None
    return tuple(Exchange(count, ranks, 1e6 * size) for count, ranks, size in found)


def main(
    gpus: Annotated[str, typer.Option(help="numbers of GPUs, with commas between")] = "8,64,768",
    batch: Annotated[str, typer.Option(help="images of one GPU: one number, or one for each number of GPUs")] = "400,50,42",
    network: Annotated[str, typer.Option(help="a model of graphrt.models whose kernels are kept")] = "resnet50",
    policy: Annotated[str, typer.Option(help="all_reduce, zero1, zero2, fsdp, with commas between")] = "all_reduce",
    bucket_mb: Annotated[float, typer.Option(min=0, help="megabytes of a bucket of gradients; 0: each alone")] = 25.0,
    topology: Annotated[str, typer.Option(help="dgx-h100, dgx-h100-sharp or gloo-local")] = "dgx-h100",
    anchor: Annotated[str, typer.Option(help="what kernels take: static, mlperf, or images/s@batch of one GPU")] = "static",
    by: Annotated[str, typer.Option(help="which static times: plan, tiles or compiled")] = "tiles",
    step_ms: Annotated[float, typer.Option(min=0, help="a measured step of one GPU in place of the static one")] = 0.0,
    overlap: Annotated[bool, typer.Option(help="send beside the backward pass")] = True,
    bn_group: Annotated[int, typer.Option(min=1, help="GPUs that share batch norm's statistics")] = 1,
    exchange: Annotated[str, typer.Option(help="COUNT:GPUS:MB, all_reduces on which the step waits, commas between")] = "",
    jitter: Annotated[float, typer.Option(min=0, help="standard deviation of a rank's time, over its mean")] = 0.0,
    published: Annotated[bool, typer.Option("--mlperf", help="MLPerf's published ResNet-50 points and the errors")] = False,
    measured: Annotated[bool, typer.Option("--measure", help="time gloo between two processes here, and keep it")] = False,
    sources: Annotated[bool, typer.Option(help="print where the topology's constants are from")] = False,
    save: Annotated[Path | None, typer.Option(help="append the rows to this file as JSON lines")] = None,
    md: Annotated[bool, typer.Option("--md", help="a table in Markdown")] = False,
    png: Annotated[Path | None, typer.Option(help="with --mlperf: draw static and mlperf anchors to this file")] = None,
) -> None:
    """Prints a table. Exit status 2: a wrong argument, or kernels that were never found (python -m bench.scale_kernels)."""
    try:
        if measured:
            rows = [_measure()]
        elif published:
            rows = mlperf(factor_of(anchor, "resnet50", "H100", by), by)
            if png is not None:
                draw({a: mlperf(factor_of(a, "resnet50", "H100", by), by) for a in ("static", "mlperf")}, png)
        else:
            where = find(topology)
            sizes, counts = numbers(batch, "--batch"), numbers(gpus, "--gpus")
            if len(sizes) not in (1, len(counts)):
                raise typer.BadParameter(f"{len(counts)} numbers of GPUs and {len(sizes)} of images: one, or as many")
            met = (*norms(bn_group), *exchanges_of(exchange))
            common = Setting(1, where, bucket=1e6 * bucket_mb, overlap=overlap, jitter=jitter, exchanges=met)
            settings = [replace(common, policy=name) for name in policy.split(",")]
            factor = factor_of(anchor, network, "H100", by)
            rows = []
            for ranks, size in zip(counts, sizes * (len(counts) if len(sizes) == 1 else 1), strict=True):
                kernels = anchored(kept(network, size, "H100", by), factor)
                kernels = kernels.scaled(1e-3 * step_ms / kernels.seconds, "measured") if step_ms else kernels
                for setting in (replace(s, ranks=ranks) for s in settings):
                    rows.append(row(kernels, setting, predict(kernels, setting)))
            if sources:
                typer.echo("\n".join(f"{name}: {text}" for name, text in where.sources.items()))
    except (LookupError, ValueError) as error:
        typer.echo(f"error: {error.args[0]}", err=True)
        raise typer.Exit(2) from None
    show("measured" if measured else "predicted, not measured", rows, md)
    if save is not None:
        with save.open("a") as file:
            file.writelines(json.dumps({**r, "predicted": not measured, **environment()}) + "\n" for r in rows)


def _measure() -> dict[str, Any]:
    """Measures gloo, keeps it, and compares."""
    from bench.gloo import measure

    found = measure()
    RESULTS.mkdir(exist_ok=True)
    with MEASURED.open("a") as file:
        file.write(json.dumps({**found, **environment()}) + "\n")
    return check(found, find("gloo-local"))


if __name__ == "__main__":
    typer.run(main)
