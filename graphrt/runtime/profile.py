"""Profiles: how long each launch of a program takes, beside what it moves, computes, and should take."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload


@dataclass(frozen=True)
class LaunchProfile:
    """One launch: median ``seconds``, their 10th and 90th percentile, and what it computes and moves.

    ``bound`` is what bounds it by the roofline of the machine, memory, compute or launch, and ``predicted`` the seconds that it
    then takes; they are empty and None for a machine that is not known. ``groups`` are the titles of what runs side by side.
    """

    name: str
    seconds: float
    flops: int
    bytes: int
    low: float = 0.0
    high: float = 0.0
    bound: str = ""
    predicted: float | None = None
    groups: tuple[str, ...] = ()

    @property
    def gbs(self) -> float:
        """Gigabytes a second; 0 of a launch without work."""
        return self.bytes / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def gflops(self) -> float:
        """Giga-operations a second; 0 of a launch without work."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0


SENT, AWAITED = -1, -2  # in the place of a thread's number


@dataclass(frozen=True)
class Span:
    """The time when a launch ran (``thread`` None), or a thread was at work on it, in nanoseconds from the start of the run.

    Of a collective also from when it began until it was known to be over (``thread`` SENT), and while it was waited for
    (AWAITED).
    """

    thread: int | None
    start: int
    end: int


class Profile(Sequence[LaunchProfile]):
    """A profile for each launch, in order; printed, a table, the longest first.

    ``spans`` are those of one run, of each launch, ``machine`` whose roofline the predictions are of.
    """

    def __init__(self, launches: Sequence[LaunchProfile], spans: Sequence[Sequence[Span]], machine: str = "") -> None:
        self.launches, self.spans, self.machine = list(launches), list(spans), machine

    @overload
    def __getitem__(self, index: int) -> LaunchProfile: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[LaunchProfile]: ...

    def __getitem__(self, index: int | slice) -> LaunchProfile | Sequence[LaunchProfile]:
        return self.launches[index]

    def __len__(self) -> int:
        return len(self.launches)

    @property
    def seconds(self) -> float:
        """The sum of the medians."""
        return sum(p.seconds for p in self.launches)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """The table."""
        total = max(self.seconds, 1e-12)
        yield (f"{'us':>9} {'p10':>9} {'p90':>9} {'share':>6} {'GB/s':>8} {'GFLOP/s':>8} {'predicted':>9} {'bound':>7}  launch")
        for p in sorted(self.launches, key=lambda p: -p.seconds):
            promise = f"{1e6 * p.predicted:.1f}" if p.predicted is not None else ""
            yield (
                f"{1e6 * p.seconds:>9.1f} {1e6 * p.low:>9.1f} {1e6 * p.high:>9.1f} {p.seconds / total:>6.1%} {p.gbs:>8.2f} "
                f"{p.gflops:>8.2f} {promise:>9} {p.bound:>7}  {p.name}"
            )
        promised = sum(p.predicted or 0.0 for p in self.launches)
        beside = f", predicted {1e6 * promised:.1f} by the roofline of {self.machine}" if self.machine else ""
        yield f"{1e6 * self.seconds:>9.1f} us in {len(self)} launches{beside}"

    def to_json(self) -> list[dict[str, Any]]:
        """The launches as plain data."""
        return [asdict(p) for p in self.launches]

    def trace(self, path: str | Path) -> None:
        """Writes one run as a file of Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing show.

        One track has the launches, under names that say what is fused; on a cpu each thread has another, with what it was at
        work on. Collectives have tracks of their own, from when each begins until it is over, beside the launches in between,
        and one of when they are waited for. Raises OSError.
        """
        threads = sorted({s.thread for spans in self.spans for s in spans if s.thread is not None})
        named = {AWAITED: "waiting", SENT: "messages"}
        names = {0: "launches", **{_track(thread): named.get(thread, f"thread {thread}") for thread in threads}}
        events: list[dict[str, Any]] = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": track, "args": {"name": name}} for track, name in names.items()
        ]
        for number, (p, spans) in enumerate(zip(self.launches, self.spans, strict=True)):
            name = p.name if len(p.groups) < 2 else "; ".join(p.groups)
            about = {"bytes": p.bytes, "flops": p.flops, "median us": 1e6 * p.seconds, "bound": p.bound}
            for s in spans:
                track = 0 if s.thread is None else _track(s.thread)
                own = {"name": name, "pid": 0, "tid": track, "ts": s.start / 1e3, "args": about}
                if s.thread == SENT:  # several are under way at once
                    message = {"cat": "message", "id": number}
                    events += [{**own, **message, "ph": "b"}, {**own, **message, "ph": "e", "ts": s.end / 1e3}]
                else:
                    events.append({**own, "ph": "X", "dur": (s.end - s.start) / 1e3})
        Path(path).write_text(json.dumps({"displayTimeUnit": "ns", "traceEvents": events}))


def _track(thread: int) -> int:
    """The number of a thread's track, or that of messages; the launches' is 0."""
    return thread + 1 if thread >= 0 else 1000 - thread
