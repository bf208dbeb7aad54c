"""Tuning: the choice among the configurations of each kernel of a program.

    level 0   what the cache or the package holds for this kernel on this device, else the heuristic; nothing is timed
    level 1   where there is nothing yet, the dozen candidates of least predicted time; level 2, all that fit

    candidates ─▶ compile side by side ─▶ prune by registers, spills, occupancy and, where they are kept, static bounds
               ─▶ compare results ─▶ time in turns ─▶ record

Where a library was allowed (``library="auto"``), its call is a candidate of each kernel that it could compute. Kernels that
take most of the predicted time come first, and each winner is recorded as it is found: a search that is stopped, or whose time
is over (GRAPHRT_TUNE_SECONDS), has found something.

Every candidate runs with the kernel's own closures. The heuristic's result is compared with the reference where that is
cheap, and each candidate's with the heuristic's; one that differs beyond rounding is rejected, and that is reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median
from types import ModuleType
from typing import Any

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.schedule import Schedule
from graphrt.targets.triton.collective import Call, CollectiveCall
from graphrt.targets.triton.compile import build
from graphrt.targets.triton.compile.build import cached, overdue
from graphrt.targets.triton.compile.usage import resident, usage
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.emit.launch import Choice, LaunchCode, described
from graphrt.targets.triton.emit.options import lanes
from graphrt.targets.triton.library import LibraryCall
from graphrt.targets.triton.tune import records
from graphrt.targets.triton.tune.bounds import bound
from graphrt.targets.triton.tune.trial import Trial, difference, reference

CANDIDATES = 12  # of level 1
COMPILING = 120.0  # seconds that a candidate may take to compile
ROUNDS = 7
BEHIND = 1.3  # a candidate so much slower than the best of the first round is not timed again
LACKING = "not compiled before, and GRAPHRT_COMPILE=0 compiles none"
OVER = "the time was over, GRAPHRT_TUNE_SECONDS"
HOPELESS = 1.5  # times as long as the heuristic was measured: a static bound above it leaves a candidate no chance
RIDGE = 200  # flops that take about as long as a byte of memory
MARGIN = 0.98  # of the heuristic's time that a winner must stay below: less may be noise


@dataclass(frozen=True)
class Configuration:
    """The launch of a kernel: ``origin`` is heuristic, shipped or tuned; ``record`` what is known of its time.

    ``form`` is the template's function that computes it, empty where there is none. ``origin`` is asked for where a library
    computes it, which ``call`` names, because the user said so. ``rejected`` are the forms and candidates that this
    compilation refused, each with the reason.
    """

    kernel: str
    form: str
    config: Mapping[str, int]
    origin: str
    record: records.Record | None = None
    rejected: tuple[str, ...] = ()
    call: Call | None = None

    def __str__(self) -> str:
        how = f"library: {self.call}" if self.call else described(self.form, self.config)
        text = f"{self.kernel}: {how}: {self.origin}"
        if self.record is not None:
            unit = "predicted kiloclocks" if self.record.device.startswith("null") else "us"
            text += f", {self.record.microseconds:g} {unit}, heuristic {self.record.heuristic_microseconds:g}"
        return "\n".join([text, *(f"  rejected {reason}" for reason in self.rejected)])


def configurations(codes: Sequence[LaunchCode]) -> list[Configuration]:
    """The launches of ``codes`` where nothing is tuned, each way once."""
    found = [_shown(code, None, code.refused) for code in codes]
    return [*{str(c): c for c in found}.values()]


def _shown(code: LaunchCode, record: records.Record | None, rejected: tuple[str, ...]) -> Configuration:
    return Configuration(code.display, code.form.name, code.config, code.origin, record, rejected, code.call)


class Tuner:
    """Configures the launches of a program for the device of ``driver``."""

    def __init__(self, driver: Driver, schedule: Schedule, kernels: Sequence[Sequence[Kernel]], module: ModuleType) -> None:
        self._driver, self._schedule, self._kernels, self._module = driver, schedule, kernels, module
        self._rejected: dict[str, list[str]] = {}  # by record key
        self._overdue: set[str] = set()  # keys of kernels that took too long to compile

    def configure(self, codes: Sequence[LaunchCode], level: int) -> tuple[list[LaunchCode], list[Configuration]]:
        """``codes`` with the configurations of ``level``, and what each distinct kernel has got."""
        device = self._driver.model
        keys = [records.key(code, device) for code in codes]
        known = {k: (r, "shipped") for k, r in records.shipped().items()}
        known.update({k: (r, "tuned") for k, r in records.read(records.file(device)).items()})
        if level:
            wanted: dict[str, tuple[int, LaunchCode]] = {}
            for i, (k, code) in enumerate(zip(keys, codes, strict=True)):
                if code.grid and len(code.choices) > 1 and _found(code, known.get(k)) is None:
                    wanted.setdefault(k, (i, code))
            weights = dict.fromkeys(keys, 0)
            for k, kernels in zip(keys, self._kernels, strict=True):
                weights[k] += max((cost := launch_cost(kernels)).bytes, cost.flops // RIDGE)
            first = dict(sorted(wanted.items(), key=lambda item: -weights[item[0]]))
            known.update({r.key: (r, "tuned") for r in self._search(first, level)})
        configured, shown = [], {}
        for k, code in zip(keys, codes, strict=True):
            choice = _found(code, known.get(k))
            entry, origin = known[k] if choice is not None else (None, code.origin)
            configured.append(code.configured(choice, origin) if choice is not None else code)
            if code.grid and not isinstance(code.call, CollectiveCall):
                shown[k] = _shown(configured[-1], entry, (*code.refused, *self._rejected.get(k, ())))
        return configured, list(shown.values())

    def _search(self, wanted: Mapping[str, tuple[int, LaunchCode]], level: int) -> list[records.Record]:
        """The records of what is ``wanted``, kept as they are found, until the time is over."""
        end = time.monotonic() + (Flags.read().tune_seconds or math.inf)
        candidates = {k: self._available(k, code, level) for k, (_, code) in wanted.items()}
        tried = {k: w for k, w in wanted.items() if len(candidates[k]) > 1}
        every = [code.configured(c, "tuned") for k, (_, code) in tried.items() for c in candidates[k]]
        self._overdue = overdue(every, self._module, self._driver.target, COMPILING)
        found = []
        for k, (i, code) in tried.items():
            if time.monotonic() > end:
                self._rejected.setdefault(k, []).append(f"{len(candidates[k]) - 1} candidates: {OVER}")
            elif (record := self._best(k, i, code, candidates[k])) is not None:
                records.append(self._driver.model, [record])
                found.append(record)
        return found

    def _available(self, key: str, code: LaunchCode, level: int) -> list[Choice]:
        """The candidates of ``code``; where none may be compiled, those that are."""
        found = candidates_of(code, level)
        kept = [c for c in found if build.available(code.configured(c, "tuned"), self._driver.target)]
        if len(kept) < len(found):
            why = f"{len(found) - len(kept)} candidates: {LACKING}"
            self._rejected.setdefault(key, []).append(why)
        return kept

    def _best(self, key: str, launch: int, code: LaunchCode, choices: Sequence[Choice]) -> records.Record | None:
        """The record of the fastest of ``choices`` that is right; None where the heuristic itself is not."""
        rejected = self._rejected.setdefault(key, [])
        heuristic, *others = choices
        trial = Trial(self._driver, code, self._kernels[launch])
        first = self._compiled(code, heuristic)
        expected = trial.result(first, heuristic.grid)
        exact = None if self._driver.simulated else reference(self._schedule, launch, trial)
        if exact is not None and (wrong := difference({s: t.cpu() for s, t in expected.items()}, exact, 30)):
            rejected.append(f"every candidate: the heuristic's result is not the reference's: {wrong}")
            return None
        kept = [(heuristic, first)]
        least = min(4, self._warps(first))
        names = {id(c): build.key(code.configured(c, "tuned"), self._driver.target) for c in others if c.form.call is None}
        bounds = {name: known[0] for name in names.values() if (known := bound(name)) is not None}
        most = HOPELESS * self._times(trial, kept)[0] if bounds else math.inf
        for choice in others:
            try:
                name = names.get(id(choice), "")
                if bounds.get(name, 0.0) > most:
                    raise TargetError(f"takes {1e6 * bounds[name]:.1f} us at least by its instructions")
                if name in self._overdue:
                    raise TargetError(f"takes more than {COMPILING:g} s to compile")
                kernel = self._compiled(code, choice)
                reason = self._refused(kernel, first, least) or difference(trial.result(kernel, choice.grid), expected)
            except Exception as error:  # the compiler raises anything
                reason = f"{type(error).__name__}: {error}".split("\n")[0]
            if reason:
                rejected.append(f"{choice.text}: {reason}")
            else:
                kept.append((choice, kernel))
        seconds = self._times(trial, kept)
        best = min(range(len(kept)), key=seconds.__getitem__)
        if seconds[best] > MARGIN * seconds[0]:
            best = 0
        return records.record(code, self._driver.model, kept[best][0], seconds[best], seconds[0])

    def _compiled(self, code: LaunchCode, choice: Choice) -> Any:
        return cached(code.configured(choice, "tuned"), self._module, self._driver.target)

    def _refused(self, kernel: Any, first: Any, least: int) -> str:
        """Why what the compiler made of a candidate is not worth running; empty if it is."""
        if isinstance(kernel, LibraryCall):
            return ""
        (_, spills), (_, allowed) = usage(kernel.code, kernel.target), usage(first.code, first.target)
        if spills > allowed:
            return f"spills {spills} bytes a thread"
        warps = self._warps(kernel)
        return f"{warps} warps fit on a multiprocessor" if warps < least else ""

    def _warps(self, kernel: Any) -> int:
        """The warps of ``kernel`` that a multiprocessor holds."""
        each = kernel.threads // lanes(kernel.target)
        return each * resident(usage(kernel.code, kernel.target)[0], kernel.shared, each, kernel.target)

    def _times(self, trial: Trial, kept: Sequence[tuple[Choice, Any]]) -> list[float]:
        """Median seconds of each candidate, taken in turns; on a simulated device its predicted clocks, as nanoseconds."""
        if self._driver.simulated:
            return [1e-9 * choice.clocks for choice, _ in kept]
        clocks = [trial.clock(kernel, choice.grid) for choice, kernel in kept]
        for clock in clocks:
            clock()
        seconds = [[clock()] for clock in clocks]
        best = min(s[0] for s in seconds)
        for _ in range(ROUNDS - 1):
            for i, clock in enumerate(clocks):
                if i == 0 or seconds[i][0] <= BEHIND * best:
                    seconds[i].append(clock())
        return [median(s) for s in seconds]


def candidates_of(code: LaunchCode, level: int) -> list[Choice]:
    """The distinct configurations that ``level`` tries, the heuristic first, then by predicted time.

    Forms take turns: predictions tell configurations of a form apart better than forms.
    """
    forms: dict[str, dict[tuple[Any, ...], Choice]] = {}
    for choice in code.choices:
        forms.setdefault(choice.form.name, {}).setdefault(tuple(choice.config.items()), choice)
    turns = zip_longest(*(distinct.values() for distinct in forms.values()))
    return [choice for turn in turns for choice in turn if choice is not None][: CANDIDATES if level == 1 else None]


def _found(code: LaunchCode, known: tuple[records.Record, str] | None) -> Choice | None:
    """The choice of ``code`` that is on record; None where there is none, or it is no choice any more."""
    if known is None:
        return None
    wanted = known[0].form, known[0].config
    return next((c for c in code.choices if (c.form.name, c.config) == wanted), None)
