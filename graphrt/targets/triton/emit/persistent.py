"""Persistent launches: a run of small launches as one kernel, whose programs meet at a barrier where one waits for another.

A launch of a small network takes less time than the gap in front of it. Where the launches of a run are joined, as many
programs as the GPU holds at once walk the programs of each; what may run side by side needs no barrier.

    for pid in range(first, 24, programs):  matmul               launch 4
    meet(word)
    for pid in range(first, 38, programs):  matmul | matmul      launches 5 and 6: neither waits for the other
    meet(word)
    ...

The programs must all be there, or those that are would wait for ever: the launch is a cooperative one. All parts have the same
warps and stages, so of each launch the best configuration with these is taken, which may not be its best one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from graphrt.passes.decision import Decision
from graphrt.schedule.cost import launch_cost
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan, blocks, loads
from graphrt.schedule.schedule import Slot
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.emit.generated import Part, branches, literal
from graphrt.targets.triton.emit.launch import CLOCK, OPTIONS, Choice, Form, LaunchCode
from graphrt.targets.triton.emit.options import Options
from graphrt.targets.triton.emit.tiling import DESCRIBED, GLUON
from graphrt.types import TensorType, int32

WORTH = 0.05  # of a program's predicted time that must be saved: what no GPU has run yet is left alone for less
MOST = 16  # launches of a run: a compiler's time grows faster than the code (32 of a ResNet-20's took it a minute)
RESIDENT = 2  # programs on a multiprocessor that predictions reckon with
WORD = Slot("barrier", "met", TensorType((1,), int32))  # where programs meet; its memory begins as 0
_WARPS = (4, 2, 8)  # generated kernels have blocks for four


@dataclass(frozen=True)
class Run:
    """``launches``, by number, as one launch of ``code``, whose kernel is ``text``.

    Those of each of ``levels`` run side by side; ``how`` is the configuration of each.
    """

    code: LaunchCode
    text: list[str]
    launches: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]
    how: list[Choice]


@dataclass(frozen=True)
class _Stretch:
    """Launches that follow each other, with the configuration and level of each, and the clocks that joining them saves."""

    how: dict[int, Choice]
    levels: tuple[tuple[int, ...], ...]
    saved: float

    @property
    def launches(self) -> tuple[int, ...]:
        return tuple(self.how)


def joined(
    codes: Sequence[LaunchCode], kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan, options: Options
) -> tuple[list[Run], list[Decision]]:
    """The runs of ``codes`` that are predicted to be faster as one launch each, and why which launch is in one or not.

    All have the warps and stages with which most is saved.
    """
    if not any(prices(options)):
        return [], []
    touched, labels = [_touched(launch, plan) for launch in kernels], [launch[0].group.label for launch in kernels]
    stages = {c.config["num_stages"] for code in codes for c in code.choices if _loops(c)} or {2}
    plans = [_stretches(codes, touched, like, options) for like in product(_WARPS, sorted(stages))]
    found, refused = max(plans, key=lambda plan: sum(s.saved for s in plan[0]))
    decisions = [Decision("persistent", labels[i], "others", False, why, change=change) for i, (why, change) in refused.items()]
    whole = sum(_clocks(code, launch, options) for code, launch in zip(codes, kernels, strict=True) if code.grid)
    if (saved := sum(s.saved for s in found)) < WORTH * whole:
        reason, change = f"would save {saved / whole:.1%} of the predicted time, as all together", f"that were {WORTH:.0%}"
        late = [(labels[s.launches[0]], labels[i]) for s in found for i in s.launches[1:]]
        return [], decisions + [Decision("persistent", n, first, False, reason, change=change) for first, n in late]
    for s in found:
        decisions += [
            Decision("persistent", labels[i], labels[s.launches[0]], True, _gain(s, i, options)) for i in s.launches[1:]
        ]
    return [_run(codes, f"{kernels[s.launches[0]][0].group.name}_persistent", s) for s in found], decisions


def prices(options: Options) -> tuple[float, float]:
    """Clocks of a launch, and of a barrier within one. The interpreter's cost nothing, so no launches are joined there."""
    find_kernels()
    from graphrt.kernels.triton import cost

    return (0.0, 0.0) if options.interpret else (cost.LAUNCH, cost.MEETING)


def _clocks(code: LaunchCode, launch: Sequence[Kernel], options: Options) -> float:
    """The predicted time of a launch by itself: its tiles or its bytes, and the gap in front of it."""
    from graphrt.kernels.triton import cost

    moved = launch_cost(launch).bytes / (cost.multiprocessor(options.arch).memory * options.units)
    return max(code.choice.clocks if math.isfinite(code.choice.clocks) else 0.0, moved) + cost.LAUNCH


def _stretches(
    codes: Sequence[LaunchCode], touched: Sequence[_Touched], like: tuple[int, int], options: Options
) -> tuple[list[_Stretch], dict[int, tuple[str, str]]]:
    """The launches to join where all have warps and stages ``like`` these; and why others are in none, and what would help."""
    (gap, barrier), working = prices(options), [i for i, code in enumerate(codes) if code.grid]
    how = {i: _best(codes[i], like, options) for i in working}
    refused = {i: why for i in working if (why := _against(codes[i], how[i], options)) is not None}
    longer = {i: _longer(codes[i], c, options) for i in working if i not in refused and (c := how[i]) is not None}
    inside = iter(_chosen([longer.get(i) for i in working], gap - barrier))
    found, pending = list[_Stretch](), list[int]()
    for i, joins in [*zip(working, inside, strict=True), (-1, False)]:
        if pending and (not joins or len(pending) == MOST):
            levels = _levels(pending, touched)
            saved = (len(pending) - 1) * gap - (len(levels) - 1) * barrier - sum(longer[n] for n in pending)
            if len(pending) > 1 and saved > 0:
                found.append(_Stretch({n: c for n in pending if (c := how[n]) is not None}, levels, saved))
            pending.clear()
        pending += [i] if joins else []
    joined = {i for s in found for i in s.how}
    for i, choice in how.items():
        if choice is None or i in joined or i in refused:
            continue
        what = f"would take {1e6 * longer[i] / CLOCK:.1f} us longer, as {choice.text} on the programs that fit at once"
        reason = what if longer[i] else "launches beside it are not joined"
        refused[i] = reason, "more were saved on either side of it"
    return found, dict(sorted(refused.items()))


def _chosen(longer: Sequence[float | None], gain: float) -> list[bool]:
    """The launches to join, where each then takes so much ``longer`` (None: cannot be) and has a ``gain`` by each next to it.

    The best choice of the first so many ends with one that is joined, or with one that is not (Viterbi).
    """
    out: tuple[float, Any] = 0.0, None
    inside: tuple[float, Any] = -math.inf, None
    for more in longer:
        alone = max(out[0], inside[0]), (False, inside[1] if inside[0] > out[0] else out[1])
        if more is None:
            out, inside = alone, (-math.inf, None)
            continue
        goes = inside[0] + gain > out[0]
        out, inside = alone, (max(inside[0] + gain, out[0]) - more, (True, inside[1] if goes else out[1]))
    found, chain = list[bool](), inside[1] if inside[0] > out[0] else out[1]
    while chain is not None:
        found.append(chain[0])
        chain = chain[1]
    return found[::-1]


def _best(code: LaunchCode, like: tuple[int, int], options: Options) -> Choice | None:
    """The best choice of ``code`` for a run with warps and stages ``like`` these: without descriptors, a program for each tile.

    The interpreter has no warps.
    """

    def fits(c: Choice) -> bool:
        by_boxes = c.form.name in (*DESCRIBED, GLUON) or "specialized" in c.form.name
        alone = by_boxes or c.config.get("PROGRAMS") or c.form.call is not None
        alike = c.config.get("num_warps") == like[0] and (not _loops(c) or c.config["num_stages"] == like[1])
        return not alone and (alike or options.large)

    return min(filter(fits, code.choices), key=lambda c: _longer(code, c, options), default=None)


def _against(code: LaunchCode, choice: Choice | None, options: Options) -> tuple[str, str] | None:
    """Why ``code``, whose ``choice`` would be this, cannot be joined, and what would have to change; None where it can."""
    if code.call is not None:
        return "is no kernel of ours", "one computed it"
    if options.dependent:
        return "begins before the one in front has ended (GRAPHRT_PDL)", "GRAPHRT_PDL were off"
    if code.origin != "heuristic":
        return f"is launched as it was timed by itself ({code.origin}), and nobody times joined launches", "it were not tuned"
    if choice is None:
        return "has no form with as many warps as others and without descriptors", "it had one"
    return None


def _longer(code: LaunchCode, choice: Choice, options: Options) -> float:
    """Clocks by which ``choice`` in a run is slower than the launch of ``code`` as it is: its tiles, and turns of programs."""
    from graphrt.kernels.triton import cost

    turns = -(-choice.grid // (RESIDENT * options.units))
    slower = choice.clocks - code.choice.clocks if choice.clocks and code.choice.clocks else 0.0
    return max(slower, 0.0) + (turns - 1) * 2 * cost.LATENCY  # a turn loads, then stores


def _loops(choice: Choice) -> bool:
    """Whether the number of stages means something to ``choice``: it loads blocks of a product ahead."""
    form = choice.form
    return form.call is None and ("INPUT_PRECISION" in form.constants or bool(form.name and not form.module))


def _gain(s: _Stretch, launch: int, options: Options) -> str:
    """The gain of ``launch`` in ``s``, in words."""
    gap, barrier = prices(options)
    beside = next(len(level) for level in s.levels if launch in level) - 1
    what = f"a barrier of {1e6 * barrier / CLOCK:.1f} us in place of a launch of {1e6 * gap / CLOCK:.1f}"
    return f"{what}{f', for {beside} beside it too' if beside else ''}: {s.how[launch].text}, {s.how[launch].grid} programs"


def _run(codes: Sequence[LaunchCode], name: str, s: _Stretch) -> Run:
    """The launch of ``s``, whose kernel is ``name``."""
    members = [codes[i] for i in s.launches]
    slots = list(dict.fromkeys(slot for code in members for slot in code.slots))
    parts = {i: Part("", choice.grid, [[]], _call(codes[i], choice, slots)) for i, choice in s.how.items()}
    text = _kernel(name, [[parts[i] for i in level] for level in s.levels], len(slots))
    grid = max(sum(parts[i].programs for i in level) for level in s.levels)
    options = {n: max(c.config[n] for c in s.how.values()) for n in OPTIONS}
    choice = Choice(Form("persistent", "", name, {}), options, grid)
    every = [line for code in members for line in code.text] + text
    code = LaunchCode(f"persistent_{len(members)}_launches", [*slots, WORD], every, [choice], choice, cooperative=True)
    return Run(code, text, s.launches, s.levels, list(s.how.values()))


def _kernel(name: str, levels: Sequence[Sequence[Part]], word: int) -> list[str]:
    """The kernel ``name`` of parts in ``levels``, whose programs meet at pointer number ``word``."""
    lines = ['@triton.jit(repr=lambda s: s.constants["NAME"])', f"def {name}(ARGS, NAME: tl.constexpr):"]
    lines += ["    first = tl.program_id(0)", "    programs = tl.num_programs(0)"]
    for number, parts in enumerate(levels):
        total = sum(part.programs for part in parts)
        lines += [f"    meet(ARGS[{word}])"] if number else []
        lines += [f"    for pid in tl.range(first, {total}, programs, num_stages=1):", *branches(parts, "        ")]
    return lines


def _call(code: LaunchCode, choice: Choice, slots: Sequence[Slot]) -> str:
    """The call of a launch's kernel on its own pointers among those of ``slots``, without the number of the program."""
    form = choice.form
    blocks = {n: v for n, v in choice.config.items() if n not in OPTIONS}
    given = [f"{n}={literal(v)}" for n, v in {**form.constants, **blocks}.items()]
    pointers = f"({', '.join(f'ARGS[{slots.index(s)}]' for s in code.slots)}{',' * (len(code.slots) == 1)})"
    function = f"{form.module}.{form.function}" if form.module else form.function
    return f"{function}({', '.join([pointers, *given, f'NAME={code.display!r}'])}"


# --- who waits for whom ---------------------------------------------------------------------------------------------

_Span = tuple[str, int, int]  # a buffer, or the arena, from one byte to another
_Touched = tuple[list[_Span], list[_Span]]  # what a launch reads, and what it writes


def _touched(launch: Sequence[Kernel], plan: MemoryPlan) -> _Touched:
    """The bytes that a launch reads, and those that it writes."""

    def spans(slots: Iterator[Slot]) -> list[_Span]:
        found = dict.fromkeys(slots)
        starts = {slot: plan.offset[slot] if slot.space == "arena" else 0 for slot in found}
        names = {slot: "" if slot.space == "arena" else f"{slot.space} {slot.name}" for slot in found}
        return [(names[slot], starts[slot], starts[slot] + slot.type.nbytes) for slot in found]

    every = [block for kernel in launch for block in blocks(kernel)]
    read = spans(load[0] for block in every for load in loads(block))
    return read, spans(store.slot for block in every for store in block.stores)


def _meet(a: Sequence[_Span], b: Sequence[_Span]) -> bool:
    return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)


def _levels(launches: Sequence[int], touched: Sequence[_Touched]) -> tuple[tuple[int, ...], ...]:
    """``launches`` in as few levels as may be: each behind all before it that it waits for, or whose memory it takes over."""
    level: dict[int, int] = {}
    for i in launches:
        read, written = touched[i]
        waits = [j for j in level if _meet(touched[j][1], read + written) or _meet(touched[j][0], written)]
        level[i] = 1 + max((level[j] for j in waits), default=-1)
    return tuple(tuple(i for i in launches if level[i] == n) for n in range(1 + max(level.values())))
