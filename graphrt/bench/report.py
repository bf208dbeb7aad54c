"""A run of ``graphrt bench fusion`` as a table, a page of Markdown or HTML, and plots."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from graphrt.bench.fusion import AGAIN, Row, floor, kept_apart
from graphrt.bench.patterns import PATTERNS
from graphrt.bench.statistics import ratio
from graphrt.runtime.page import document

COLUMNS = (
    *("pattern", "variant", "launches", "MB", "of least", "ms", "p10-p90", "predicted ms", "fused is faster by"),
    *("GB/s", "GFLOP/s", "arena MB", "registers", "s to compile"),
)
APART = "Why more than one launch"


def cells(row: Row, machine: Mapping[str, Any]) -> list[str]:
    """The row's figures as text, in the order of ``COLUMNS``; empty where there is none."""
    every = sorted(s for of in row.samples for s in of)
    timed = bool(every)
    spread = f"{every[len(every) // 10]:.3f}-{every[-1 - len(every) // 10]:.3f}" if timed else ""
    rates = [(row.bytes, "gbs"), (row.flops, "gflops")]
    shown = [f"{n / row.ms / 1e6:.1f} ({n / row.ms / 1e6 / machine[k]:.0%})" if timed and n else "" for n, k in rates]
    faster = str(ratio(row.logs)) if timed and row.variant not in ("fused",) else ""
    return [
        row.name,
        row.variant,
        str(row.launches or ""),
        f"{row.bytes / 1e6:.2f}" if row.bytes else "",
        f"{row.bytes / row.least:.2f}" if row.bytes else "",
        f"{row.ms:.3f}" if timed else "",
        spread,
        f"{row.predicted_ms:.3f}" if row.predicted_ms else "",
        faster,
        *shown,
        f"{row.arena / 1e6:.2f}" if row.bytes else "",
        str(row.registers or ""),
        f"{row.compile_seconds:.2f}" if row.bytes else "",
    ]


def table(found: Sequence[Row], machine: Mapping[str, Any], title: str = "") -> Table:
    """For a terminal."""
    made = Table(title=title)
    for column in COLUMNS:
        made.add_column(column, justify="left" if column in ("pattern", "variant") else "right")
    for row in found:
        made.add_row(*cells(row, machine))
    return made


def about(machine: Mapping[str, Any], found: Sequence[Row]) -> str:
    """A sentence on the machine that the figures were measured on."""
    seen = f"copying {machine['gbs']:.1f} GB/s, float32 products {machine['gflops']:.0f} GFLOP/s"
    rest = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("gbs", "gflops"))
    processes, patterns = max((len(r.medians) for r in found), default=0), len({r.pattern for r in found})
    return (
        f"{patterns} of {len(PATTERNS)} patterns. {rest}. This machine was seen {seen} in the same run; shares are of these."
        f" Times are medians of {processes} processes, intervals (95 %) are over processes. Fused, measured twice, differs by"
        f" up to {floor(found):.1%}. Predicted is the least that the roofline allows."
    )


def markdown(found: Sequence[Row], machine: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """A page with the whole table, behind the pictures ``plots``, which are paths from it."""
    lines = [
        "# What fusion is worth",
        "",
        about(machine, found),
        "",
        *(line for plot in plots for line in (f"![{Path(plot).stem.replace('_', ' ')}]({plot})", "")),
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    lines += [f"| {' | '.join(cells(row, machine))} |" for row in found]
    if reasons := kept_apart(found):
        lines += ["", f"## {APART}", "", *(f"- {name}: {'; '.join(f'*{r}*' for r in why)}" for name, why in reasons)]
    return "\n".join(lines) + "\n"


def page(found: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """One file of HTML that needs no network: plots, why fused patterns are several launches, then the table."""
    head = "".join(f"<th>{html.escape(c)}</th>" for c in COLUMNS)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in cells(row, machine))}</tr>" for row in found)
    plots = "".join(
        f'<img alt="{name}" src="data:image/png;base64,{_encoded(figure)}">' for name, figure in figures(found, machine)
    )
    content = f"<h1>What fusion is worth</h1><p>{html.escape(about(machine, found))}</p>{plots}"
    for name, why in kept_apart(found):
        content += "" if f"<h2>{APART}" in content else f"<h2>{APART}</h2>"
        content += f"<h3>{html.escape(name)}</h3><ul>{''.join(f'<li>{html.escape(r)}</li>' for r in why)}</ul>"
    content += f"<h2>Every variant</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return document("What fusion is worth", content, "td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}")


def _encoded(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def pictures(found: Sequence[Row], machine: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the plots as PNG files to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(found, machine):
        paths.append(folder / f"{name.replace(' ', '_')}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def figures(found: Sequence[Row], machine: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Speed-up, bytes against the least, a roofline, and the ablation of each pattern, by name. Needs matplotlib."""
    from matplotlib.figure import Figure

    made: list[tuple[str, Any]] = []

    def draw(name: str, height: float, plot: Callable[[Any], None]) -> None:
        figure = Figure(figsize=(11, height), layout="constrained")
        plot(figure.subplots())
        made.append((name, figure))

    whole = [r for r in found if r.variant == "fused"]
    unfused = {r.key.removesuffix("unfused"): r for r in found if r.variant == "unfused"}
    pairs = [(unfused[k], r) for r in whole if (k := r.key.removesuffix("fused")) in unfused]
    timed = [(u, r) for u, r in pairs if r.medians and u.logs]
    if timed:
        draw("speed-up", 1 + 0.22 * len(timed), lambda axes: _speedup(axes, timed))
        draw("roofline", 5, lambda axes: _roofline(axes, [r for _, r in timed], machine))
    if pairs:
        draw("bytes", 1 + 0.22 * len(pairs), lambda axes: _bytes(axes, pairs))
    for _, fused in timed:
        steps = [r for r in found if r.key.startswith(fused.key.removesuffix("fused")) and r.logs and r.variant != AGAIN]
        steps = [r for r in steps if r.variant[0] in "+-" or r.variant in ("unfused", "fused")]
        if len(steps) > 2:
            draw(f"ablation {fused.pattern}", 1 + 0.25 * len(steps), functools.partial(_ablation, steps=steps, fused=fused))
    return made


def _speedup(axes: Any, pairs: Sequence[tuple[Row, Row]]) -> None:
    names = [r.pattern for _, r in pairs]
    values = [ratio(u.logs) for u, _ in pairs]
    error = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
    colours = ["#ee6677" if v.value < 1 else "#4477aa" for v in values]
    axes.barh(names, [v.value - 1 for v in values], left=1, color=colours)
    axes.errorbar([v.value for v in values], names, xerr=error, fmt="none", ecolor="black", lw=1)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.invert_yaxis()
    axes.set_xlabel("time without fusion over time with it, with 95 % intervals; red where fusion loses")


def _bytes(axes: Any, pairs: Sequence[tuple[Row, Row]]) -> None:
    names = [r.pattern for _, r in pairs]
    axes.barh(names, [u.bytes / u.least for u, _ in pairs], color="#ccbb44", label="unfused")
    axes.barh(names, [r.bytes / r.least for _, r in pairs], color="#4477aa", label="fused", height=0.5)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    _plain(axes.xaxis)
    axes.invert_yaxis()
    axes.set_xlabel("bytes moved over the least that the pattern can do with")
    axes.legend()


def _roofline(axes: Any, found: Sequence[Row], machine: Mapping[str, Any]) -> None:
    shown = [r for r in found if r.flops and r.bytes]
    intensity = [r.flops / r.bytes for r in shown]
    axes.loglog(intensity, [r.flops / r.ms / 1e6 for r in shown], "o", color="#4477aa")
    for x, r in zip(intensity, shown, strict=True):
        axes.annotate(r.pattern, (x, r.flops / r.ms / 1e6), (4, 2), textcoords="offset points", fontsize=7)
    if shown:
        low, high = min(intensity) / 2, max([*intensity, machine["gflops"] / machine["gbs"]]) * 2
        line = [low, machine["gflops"] / machine["gbs"], high]
        axes.plot(line, [min(machine["gflops"], x * machine["gbs"]) for x in line], color="black", lw=0.8)
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    axes.set_xlabel("operations a byte; the line is what the machine was seen to do")
    axes.set_ylabel("GFLOP/s")


def _ablation(axes: Any, steps: Sequence[Row], fused: Row) -> None:
    """Added in turn, each stage is a step from the time before to its own; left out alone, from that of all stages."""
    adds, values = any(r.variant.startswith("+") for r in steps), [r.ms for r in steps]
    for i, row in enumerate(steps):
        whole = row.variant in ("unfused", "fused")
        start = 0.0 if whole else values[i - 1] if adds else fused.ms
        loses = (row.ms > start) == adds
        colour = "#bbbbbb" if whole else "#ee6677" if loses else "#4477aa"
        axes.barh(f"{row.variant} ({row.launches})", row.ms - start, left=start, color=colour)
        axes.text(row.ms, i, f" {row.ms:.3g}", va="center", fontsize=8)
    axes.margins(x=0.08)
    axes.invert_yaxis()
    axes.set_xlabel(f"ms of {fused.name}; in brackets launches; red where a stage loses")


def _plain(axis: Any) -> None:
    """Labels a logarithmic axis with numbers as people write them."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
