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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from graphrt.passes.decision import Decision
from graphrt.schedule.kernel_ir import Kernel
from graphrt.schedule.memory import MemoryPlan, blocks, loads
from graphrt.schedule.schedule import Slot
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.emit.generated import Part, branches, literal
from graphrt.targets.triton.emit.launch import CLOCK, OPTIONS, Choice, Form, LaunchCode
from graphrt.targets.triton.emit.options import Options
from graphrt.targets.triton.emit.tiling import DESCRIBED
from graphrt.types import TensorType, int32

MOST = 32  # launches of a run: a compiler's time grows faster than the code
RESIDENT = 2  # programs on a multiprocessor that predictions reckon with
WORD = Slot("barrier", "met", TensorType((1,), int32))  # where programs meet; its memory begins as 0
_WARPS = (4, 2, 8)  # generated kernels have blocks for four


@dataclass(frozen=True)
class Run:
    """``launches``, by number, as one launch of ``code``, whose kernel is ``text``; those of each of ``levels`` run side by side.

    ``how`` is the configuration of each, ``saved`` the predicted clocks that the run is shorter by.
    """

    code: LaunchCode
    text: list[str]
    launches: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]
    how: list[Choice]
    saved: float


def joined(
    codes: Sequence[LaunchCode], kernels: Sequence[Sequence[Kernel]], plan: MemoryPlan, options: Options
) -> tuple[list[Run], list[Decision]]:
    """The runs of ``codes`` that are predicted to be faster as one launch each, and why which launch is in one or not."""
    if not any(prices(options)):
        return [], []
    touched = [_touched(launch, plan) for launch in kernels]
    working = [i for i, code in enumerate(codes) if code.grid]
    runs, decisions, pending = list[Run](), list[Decision](), list[int]()

    def settle() -> None:
        if len(pending) > 1 and (run := _run(codes, kernels, pending, touched, options)) is not None:
            runs.append(run)
        pending.clear()

    for i in working:
        reason, change = _against(codes[i], kernels[i], options)
        if reason:
            decisions.append(Decision("persistent", kernels[i][0].group.label, "others", False, reason, change=change))
            settle()
        else:
            pending.append(i)
            if len(pending) == MOST:
                settle()
    settle()
    for run in runs:
        decisions += _decisions(run, kernels, options)
    return runs, decisions


def prices(options: Options) -> tuple[float, float]:
    """Clocks of a launch, and of a barrier within one. The interpreter's cost nothing, so no launches are joined there."""
    find_kernels()
    from graphrt.kernels.triton import cost

    return (0.0, 0.0) if options.interpret else (cost.LAUNCH, cost.MEETING)


def _against(code: LaunchCode, launch: Sequence[Kernel], options: Options) -> tuple[str, str]:
    """Why ``code`` must be, or should be, a launch of its own, and what would have to change; empty where it need not."""
    if code.call is not None:
        return "is no kernel of ours", "a kernel computed it"
    if options.dependent:
        return "begins before the one in front has ended (GRAPHRT_PDL)", "GRAPHRT_PDL were off"
    if code.origin != "heuristic":
        return f"has a configuration of its own ({code.origin})", "it were not tuned"
    waits, (gap, barrier) = _waiting(code, options), prices(options)
    if waits is None:
        return "has no form with as many warps as others and without descriptors", "it had one"
    if waits >= gap - barrier:
        what = f"takes {1e6 * waits / CLOCK:.1f} us longer on the programs that fit at once"
        return f"{what}, and a barrier saves {1e6 * (gap - barrier) / CLOCK:.1f}", "it had fewer programs"
    return "", ""


def _waiting(code: LaunchCode, options: Options) -> float | None:
    """The clocks that ``code`` takes longer at least where no more programs run than a run has; None if it cannot."""
    found = [_longer(code, choice, options) for choice in code.choices if _fits(choice, options)]
    return min(found, default=None)


def _fits(choice: Choice, options: Options) -> bool:
    """Whether ``choice`` may be part of a run: it makes no descriptors, has a program for each tile, and warps that others have.

    The interpreter has no warps.
    """
    inner = choice.form.name
    alone = inner in DESCRIBED or "specialized" in inner or choice.config.get("PROGRAMS") or choice.form.call is not None
    return not alone and (options.large or choice.config["num_warps"] in _WARPS)


def _longer(code: LaunchCode, choice: Choice, options: Options) -> float:
    """Clocks by which ``choice`` in a run is slower than the launch of ``code`` as it is: its tiles, and turns of programs."""
    from graphrt.kernels.triton import cost

    turns = -(-choice.grid // (RESIDENT * options.units))
    slower = choice.clocks - code.choice.clocks if choice.clocks and code.choice.clocks else 0.0
    return max(slower, 0.0) + (turns - 1) * 2 * cost.LATENCY  # a turn loads, then stores


def _run(
    codes: Sequence[LaunchCode],
    kernels: Sequence[Sequence[Kernel]],
    launches: Sequence[int],
    touched: Sequence[_Touched],
    options: Options,
) -> Run | None:
    """The run of ``launches`` with the warps and stages that suit them best; None where it is not predicted to be faster."""
    members = [codes[i] for i in launches]
    stages = {c.config["num_stages"] for code in members for c in code.choices if _loops(c)} or {2}
    found = [
        (sum(_longer(code, c, options) for code, c in zip(members, how, strict=True)), warps, stage, how)
        for warps, stage in product(_WARPS, sorted(stages))
        if (how := _configured(members, warps, stage, options)) is not None
    ]
    if not found:
        return None
    longer, warps, stage, how = min(found, key=lambda one: one[:3])
    levels = _levels(launches, touched)
    gap, barrier = prices(options)
    saved = (len(launches) - 1) * gap - (len(levels) - 1) * barrier - longer
    if saved <= 0:
        return None
    config = {"num_warps": warps, "num_stages": stage}
    name = f"{kernels[launches[0]][0].group.name}_persistent"
    slots = list(dict.fromkeys(slot for code in members for slot in code.slots))
    parts = {i: Part("", c.grid, [[]], _call(code, c, slots)) for i, code, c in zip(launches, members, how, strict=True)}
    text = _kernel(name, [[parts[i] for i in level] for level in levels], len(slots))
    grid = max(sum(parts[i].programs for i in level) for level in levels)
    choice = Choice(Form("persistent", "", name, {}), {"num_warps": warps, "num_stages": stage}, grid)
    every = [line for code in members for line in code.text] + text
    code = LaunchCode(f"persistent_{len(members)}_launches", [*slots, WORD], every, [choice], choice, cooperative=True)
    return Run(code, text, tuple(launches), levels, how, saved)


def _configured(members: Sequence[LaunchCode], warps: int, stages: int, options: Options) -> list[Choice] | None:
    """The best choice of each of ``members`` with so many warps and stages; None where one has none."""
    found = []
    for code in members:
        fitting = [c for c in code.choices if _fits(c, options)]
        if not options.large:
            fitting = [c for c in fitting if c.config["num_warps"] == warps]
            fitting = [c for c in fitting if not _loops(c) or c.config["num_stages"] == stages]
        if not fitting:
            return None
        found.append(min(fitting, key=lambda c: _longer(code, c, options)))
    return found


def _loops(choice: Choice) -> bool:
    """Whether the number of stages means something to ``choice``: it loads blocks of a product ahead."""
    return "INPUT_PRECISION" in choice.form.constants or bool(choice.form.name and not choice.form.module)


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
    """``launches`` in as few levels as may be: each is behind all before it that it waits for, or whose memory it takes over."""
    level: dict[int, int] = {}
    for i in launches:
        read, written = touched[i]
        waits = [j for j in level if _meet(touched[j][1], read + written) or _meet(touched[j][0], written)]
        level[i] = 1 + max((level[j] for j in waits), default=-1)
    return tuple(tuple(i for i in launches if level[i] == n) for n in range(1 + max(level.values())))


def _decisions(run: Run, kernels: Sequence[Sequence[Kernel]], options: Options) -> Iterator[Decision]:
    """A line for each launch of ``run`` but the first."""
    gap, barrier = prices(options)
    first = kernels[run.launches[0]][0].group.label
    for i, choice in zip(run.launches, run.how, strict=True):
        if i == run.launches[0]:
            continue
        level = next(level for level in run.levels if i in level)
        beside = len(level) - 1
        what = f"a barrier of {1e6 * barrier / CLOCK:.1f} us in place of a launch of {1e6 * gap / CLOCK:.1f}"
        reason = f"{what}{f', {beside} beside it' if beside else ''}; {choice.text}, {choice.grid} programs"
        yield Decision("persistent", kernels[i][0].group.label, first, True, reason)
