"""``graphrt bench``: measurements that anyone can repeat."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from graphrt.errors import ArgumentError
from graphrt.files import check_place

if TYPE_CHECKING:  # patterns are in torch too, whose import takes longer than most commands
    from graphrt.bench.fusion import Row
    from graphrt.bench.patterns import Pattern
    from graphrt.bench.trial import Spec

app = typer.Typer(no_args_is_help=True, help=__doc__)


@app.callback()
def main() -> None:
    """Measurements that anyone can repeat."""


@app.command()
def fusion(
    filter: Annotated[str, typer.Option(help="patterns by name, as 'conv*,softmax'")] = "*",
    list_only: Annotated[bool, typer.Option("--list", help="name the patterns, and run nothing")] = False,
    targets: Annotated[str, typer.Option(help="cpu, cuda, ..., or cuda:sm_90 and the like, with commas between them")] = "cpu",
    size: Annotated[str, typer.Option(help="small, for a CPU, or large, for a GPU")] = "small",
    peers: Annotated[str, typer.Option(help="torch, torch.compile, jax: with commas between them")] = "",
    ablate: Annotated[str, typer.Option(help="cumulative or leave-one-out: what each stage is worth")] = "",
    backward: Annotated[bool, typer.Option("--backward", help="with gradients")] = False,
    processes: Annotated[int, typer.Option(min=1, help="that each measure everything; intervals are over them")] = 5,
    rounds: Annotated[int, typer.Option(min=0, help="turns in each process; 0: count, and time nothing")] = 9,
    seconds: Annotated[float, typer.Option(min=0.0, help="for a pattern's turns in a process; at least two")] = 600.0,
    minutes: Annotated[float, typer.Option(min=0.0, help="no pattern begins later; those left out are named")] = 1e6,
    save: Annotated[Path | None, typer.Option(help="append the rows, with every sample, to this .jsonl file")] = None,
    md: Annotated[Path | None, typer.Option(help="write the table as Markdown")] = None,
    page: Annotated[Path | None, typer.Option("--html", help="write one page with plots")] = None,
    png: Annotated[Path | None, typer.Option(help="write the plots to this folder")] = None,
    shown: Annotated[Path | None, typer.Option("--read", help="show the rows of a file of --save, and measure nothing")] = None,
    compare: Annotated[Path | None, typer.Option(help="a file of --save; exit 2 on a regression, 3 on noise")] = None,
) -> None:
    """Measures fusion, pattern by pattern: launches, bytes, times, unfused and fused, checked against the reference."""
    from graphrt.bench import fusion as runs
    from graphrt.bench import report
    from graphrt.bench.trial import Spec

    console = Console(markup=False)
    wide = console if console.is_terminal else Console(width=220, markup=False)
    chosen = _called(filter)
    if size not in ("small", "large"):
        raise ArgumentError(f"size is small or large, got {size!r}")
    if list_only:
        for pattern in chosen:
            wide.print(f"{pattern.name:32} {pattern.family:12} {pattern.about}", highlight=False)
        return
    _check_places(save, md, page, png)
    before, labels, failures = runs.read(compare) if compare is not None else [], runs.variants(ablate), list[str]()
    if shown is not None:
        about, names = runs.environment_of(shown), {p.name for p in chosen}
        found = [*{row.key: row for row in runs.read(shown) if row.pattern in names}.values()]  # of two runs the later
    else:
        beside = _beside(targets, peers, console)
        specs = [
            Spec(p.name, size, backward and p.backward, target, labels, names, rounds, seconds=seconds)
            for p in chosen
            for target, names in beside.items()
        ]
        about = runs.about()
        end, family = monotonic() + 60 * minutes, {p.name: p.family for p in chosen}
        found, failures = _measured(specs, family, processes, end, about, save, console)
    wide.print(report.table(found, about, "what fusion is worth"))
    wide.print(report.about(about, found))
    for line in runs.longer(found):
        wide.print(f"more launches: {line}", highlight=False, soft_wrap=True)
    _write(found, about, png, md, page)
    status = _compared(before, found, console) if compare is not None else 0
    if status or failures:
        raise typer.Exit(status or 1)


def _called(names: str) -> list[Pattern]:
    """The patterns whose names match one of ``names``, with commas between them. Raises ArgumentError where none does."""
    from graphrt.bench.patterns import PATTERNS

    chosen = [p for p in PATTERNS.values() if any(fnmatch.fnmatchcase(p.name, f.strip()) for f in names.split(","))]
    if not chosen:
        raise ArgumentError(f"no pattern is called like {names!r}; --list names them all")
    return chosen


def _check_places(save: Path | None, md: Path | None, page: Path | None, png: Path | None) -> None:
    """Raises ArgumentError, ImportError where what is asked for could not be written: not when all is measured."""
    for option, path in (("--save", save), ("--md", md), ("--html", page)):
        if path is not None:
            check_place(option, path)
    if png is not None:
        check_place("--png", png, folder=True)
    if (png is not None or page is not None) and find_spec("matplotlib") is None:
        raise ImportError("plots are drawn with a package that is missing: pip install matplotlib")


def _beside(targets: str, peers: str, console: Console) -> dict[str, list[str]]:
    """The peers of each target, both given with commas between them; those that cannot be had are named, and left out.

    Raises ArgumentError, TargetError for targets that cannot be compiled for here, or have no kernels that compute.
    """
    from graphrt.bench.peers import PEERS, missing
    from graphrt.targets.target import parse

    asked = [name.strip() for name in peers.split(",") if name.strip()]
    if strange := set(asked) - {*PEERS}:
        raise ArgumentError(f"peers are torch, torch.compile and jax, got {min(strange)!r}")
    found = {}
    for name in (target.strip() for target in targets.split(",")):
        target = parse(name)
        target.require()
        if not target.computes or target.schedule() is None:
            raise ArgumentError(f"target {name!r} has no kernels whose work could be measured")
        absent = missing(asked, name)
        for peer, why in absent.items():
            console.print(f"{name}: left out {peer}: {why}", style="yellow")
        found[name] = [peer for peer in asked if peer not in absent]
    return found


def _compared(before: Sequence[Row], found: Sequence[Row], console: Console) -> int:
    """Prints what is worse than ``before``, and gives the exit status."""
    from graphrt.bench.fusion import compare

    verdict = compare(before, found)
    for line in (*verdict.larger, *verdict.slower):
        console.print(f"worse {line}", style="red")
    if not verdict.rows:
        console.print("no row was measured before, so nothing is said", style="yellow")
        return 3
    console.print(f"{verdict.rows} rows compared; the same thing measured twice differs by up to {verdict.noise:.1%}")
    return verdict.status


def _write(found: Sequence[Row], about: Mapping[str, Any], png: Path | None, md: Path | None, page: Path | None) -> None:
    """Writes the plots, the table and the page that are asked for."""
    from graphrt.bench import report

    drawn = report.pictures(found, about, png) if png is not None else []
    if md is not None:
        md.write_text(report.markdown(found, about, [os.path.relpath(path, md.parent) for path in drawn]))
    if page is not None:
        page.write_text(report.page(found, about))


def _measured(
    specs: Sequence[Spec],
    family: Mapping[str, str],
    processes: int,
    end: float,
    about: Mapping[str, Any],
    save: Path | None,
    console: Console,
) -> tuple[list[Row], list[str]]:
    """Rows, saved as they come, and failures; an interrupt, or the time ``end``, ends it and loses nothing."""
    from graphrt.bench import fusion as runs

    found: list[Row] = []
    failures: list[str] = []
    try:
        with console.status("") as status:
            outcomes = runs.run(specs, family, processes, lambda peer: console.print(peer, style="yellow"))
            for number, spec in enumerate(specs, 1):
                if monotonic() > end:
                    left = ", ".join(f"{s.pattern}, {s.target}" for s in specs[number - 1 :])
                    console.print(Text(f"out of time, not measured: {left}"))
                    break
                status.update(Text(f"{number} of {len(specs)}: {spec.pattern}, {spec.target}"))
                outcome = next(outcomes)
                if isinstance(outcome, str):
                    failures.append(outcome)
                    console.print(f"failed {outcome}", style="red")
                    continue
                found += outcome
                if save is not None:
                    runs.save(save, outcome, about)
    except KeyboardInterrupt:
        console.print(f"stopped: {len({(r.pattern, r.target) for r in found})} of {len(specs)} were measured")
    return found, failures
