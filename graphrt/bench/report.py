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
BESIDE = ("unfused", "torch", "torch.compile", "jax")
SUMMARY = (
    *("pattern", "launches unfused", "launches", "kernels of torch.compile", "bytes of least unfused", "bytes of least", "ms"),
    *(f"{name} takes" for name in BESIDE),
)
APART = "Why more than one launch"
ABOUT = (
    "Each pattern is a few operations of real networks. It is compiled without fusion, a kernel for each operation, and with"
    " it; the results of both are checked against the reference, and both are timed in turns, beside others."
)
LEGEND = (
    "Bytes are those that the plan moves over the least that any plan of one contraction, window or attention a kernel can do"
    " with. In the last columns are times over that of the fused program, with 95 % intervals: above 1 the fused one is faster."
)
STYLE = ".wide{overflow-x:auto}td:first-child,th:first-child{text-align:left}td{white-space:nowrap}"


def cells(row: Row, machine: Mapping[str, Any]) -> list[str]:
    """The row's figures as text, in the order of ``COLUMNS``; empty where there is none."""
    every = sorted(s for of in row.samples for s in of)
    timed = bool(every)
    spread = f"{every[len(every) // 10]:.3f}-{every[-1 - len(every) // 10]:.3f}" if timed else ""
    shown = [_rate(row, n, k, machine) if timed and n else "" for n, k in ((row.bytes, "gbs"), (row.flops, "gflops"))]
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


def _rate(row: Row, count: int, name: str, machine: Mapping[str, Any]) -> str:
    """``count`` bytes or operations a nanosecond, then the least and the largest share of what each process saw be reached."""
    seen: Sequence[Mapping[str, Any]] = row.seen or [machine] * len(row.medians)
    shares = [count / ms / 1e6 / rates[name] for ms, rates in zip(row.medians, seen, strict=True)]
    low, high = (f"{100 * of(shares):.0f}" for of in (min, max))
    return f"{count / row.ms / 1e6:.1f} ({low if low == high else f'{low}-{high}'}%)"


def table(found: Sequence[Row], machine: Mapping[str, Any], title: str = "") -> Table:
    """For a terminal."""
    made = Table(title=title)
    for column in COLUMNS:
        made.add_column(column, justify="left" if column in ("pattern", "variant") else "right")
    for row in found:
        made.add_row(*cells(row, machine))
    return made


def summary(found: Sequence[Row]) -> list[list[str]]:
    """A line for each fused pattern, in the order of ``SUMMARY``: how the others' launches, bytes and times are beside its."""
    by = {(row.name, row.size, row.variant): row for row in found}
    lines = []
    for row in (r for r in found if r.variant == "fused"):
        others = {name: by.get((row.name, row.size, name)) for name in BESIDE}
        unfused, compiled = others["unfused"], others["torch.compile"]
        lines.append(
            [
                row.name,
                *(str(r.launches) if r is not None and r.launches else "" for r in (unfused, row, compiled)),
                *(f"{r.bytes / r.least:.2f}" if r is not None and r.bytes else "" for r in (unfused, row)),
                f"{row.ms:.3f}" if row.medians else "",
                *(str(ratio(r.logs)) if r is not None and r.logs else "" for r in others.values()),
            ]
        )
    return lines


def about(machine: Mapping[str, Any], found: Sequence[Row]) -> str:
    """The machine that the figures were measured on, and how."""
    seen = f"copying {machine['gbs']:.1f} GB/s, float32 products {machine['gflops']:.0f} GFLOP/s"
    beside = any(r.seen for r in found)
    shares = "a copy of as many bytes, and a product of 512 by 512, reached at best in the same turns" if beside else "that is"
    rest = ", ".join(f"{k} {v}" for k, v in machine.items() if k not in ("gbs", "gflops"))
    processes, patterns = max((len(r.medians) for r in found), default=0), len({r.pattern for r in found})
    return (
        f"{patterns} of {len(PATTERNS)} patterns. {rest}. This machine was seen {seen}; shares are of what {shares}, from the"
        f" least of a process to the largest, and may pass 100 % where a cache holds what is moved, or where an algorithm such"
        f" as Winograd's computes less than is counted. Times are medians of {processes} processes, intervals (95 %) are over"
        f" processes. Fused, measured twice, differs by up to {floor(found):.1%}. Predicted is the least that the roofline"
        " allows."
    )


def markdown(found: Sequence[Row], machine: Mapping[str, Any], plots: Sequence[str] = ()) -> str:
    """A page with a summary, the pictures ``plots``, which are paths from it, why launches are several, and every variant."""
    lines = ["# What fusion is worth", "", ABOUT, "", LEGEND, "", *_lined(SUMMARY, summary(found)), ""]
    for plot in plots:
        name = Path(plot).stem.replace("_", " ")
        lines += [f"![{name}]({plot})", ""]
    for name, why in kept_apart(found):
        lines += [] if f"## {APART}" in lines else [f"## {APART}", ""]
        lines += [f"**{name}**", "", *(f"- {reason}" for reason in why), ""]
    lines += ["## Every variant", "", about(machine, found), "", *_lined(COLUMNS, [cells(row, machine) for row in found])]
    return "\n".join(lines) + "\n"


def _lined(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table of Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]


def page(found: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """One file of HTML that needs no network: summary, plots, why fused patterns are several launches, then every variant."""
    content = f"<h1>What fusion is worth</h1><p>{html.escape(ABOUT)}</p><p>{html.escape(LEGEND)}</p>"
    content += _tabled(SUMMARY, summary(found))
    for name, figure in figures(found, machine):
        content += f'<img alt="{name}" src="data:image/png;base64,{_encoded(figure)}">'
    for name, why in kept_apart(found):
        content += "" if f"<h2>{APART}" in content else f"<h2>{APART}</h2>"
        content += f"<h3>{html.escape(name)}</h3><ul>{''.join(f'<li>{html.escape(r)}</li>' for r in why)}</ul>"
    content += f"<h2>Every variant</h2><p>{html.escape(about(machine, found))}</p>"
    content += _tabled(COLUMNS, [cells(row, machine) for row in found])
    return document("What fusion is worth", content, STYLE)


def _tabled(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML, which scrolls where the page is narrower."""
    top = "".join(f"<th>{html.escape(c)}</th>" for c in head)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


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
    if pairs:
        draw("bytes", 1 + 0.22 * len(pairs), lambda axes: _bytes(axes, pairs))
    if timed:
        draw("roofline", 5, lambda axes: _roofline(axes, [r for _, r in timed], machine))
    for _, fused in timed:
        steps = [r for r in found if r.key.startswith(fused.key.removesuffix("fused")) and r.logs and r.variant != AGAIN]
        steps = [r for r in steps if r.variant[0] in "+-" or r.variant in ("unfused", "fused")]
        steps.sort(key=lambda r: (r.variant == "fused", r.variant != "unfused"))  # rows of several runs come as they were saved
        if len(steps) > 2:
            draw(f"ablation {fused.pattern}", 1 + 0.25 * len(steps), functools.partial(_ablation, steps=steps, fused=fused))
    return made


def _speedup(axes: Any, pairs: Sequence[tuple[Row, Row]]) -> None:
    names = [r.pattern for _, r in pairs]
    values = [ratio(u.logs) for u, _ in pairs]
    error = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
    colours = ["#ee6677" if v.high < 1 else "#4477aa" if v.low > 1 else "#bbbbbb" for v in values]
    axes.barh(names, [v.value - 1 for v in values], left=1, color=colours)
    axes.errorbar([v.value for v in values], names, xerr=error, fmt="none", ecolor="black", lw=1)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    _plain(axes.xaxis, (1, 1.2, 1.5, 2, 3, 5, 7))
    axes.invert_yaxis()
    axes.set_xlabel("time without fusion over time with it, with 95 % intervals; red: fusion loses, grey: not shown which")


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
    for i, (x, r) in enumerate(sorted(zip(intensity, shown, strict=True), key=lambda pair: pair[0])):
        up = i % 2  # neighbours' names lie above and below
        axes.annotate(r.pattern, (x, r.flops / r.ms / 1e6), (4, 3 if up else -9), textcoords="offset points", fontsize=7)
    if shown:
        low, high = min(intensity) / 2, max([*intensity, machine["gflops"] / machine["gbs"]]) * 2
        line = [low, machine["gflops"] / machine["gbs"], high]
        axes.plot(line, [min(machine["gflops"], x * machine["gbs"]) for x in line], color="black", lw=0.8)
    _plain(axes.xaxis)
    _plain(axes.yaxis)
    axes.set_xlabel("operations a byte; the line is what was seen of memory and products: above it are caches, Winograd")
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


def _plain(axis: Any, steps: Sequence[float] = (1, 2, 5)) -> None:
    """Labels a logarithmic axis with numbers as people write them, at ``steps`` of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
