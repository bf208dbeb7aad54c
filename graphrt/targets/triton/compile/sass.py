"""The work of a kernel's program for each unit of its multiprocessor, read from NVIDIA's machine code.

The ways through a kernel are a graph of blocks; a branch back to a block through which every way to it leads closes a loop
(natural loops: Aho, Sethi and Ullman). How often a loop runs is not read but follows from what a program has to do: so many
operations of products, else so many bytes to load. Where ways part the one with more instructions is taken, and one with
matrix instructions before any other. Bank conflicts, cache misses and dependences are left out: it is a bound from below.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from graphrt.runtime.machine import Work
from graphrt.schedule.cost import Cost
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.compile.usage import resident, usage
from graphrt.targets.triton.emit.launch import Choice
from graphrt.targets.triton.emit.options import lanes
from graphrt.targets.triton.kernel import KernelBinary
from graphrt.types import float32

_LINE = re.compile(r"/\*([0-9a-f]+)\*/\s+(?:@(!?)(U?P[T\d])\s+)?([A-Z]\w*)([.\w]*)\s*([^;]*);")
_LANES, _SCHEDULERS, _GROUP = 32, 4, 4  # of a warp; of a multiprocessor; warps that share an HGMMA
_L2 = 64  # bytes that a multiprocessor takes from L2 in a clock at most
_MATRIX, _FUSED = ("HGMMA", "HMMA", "DMMA"), ("FFMA", "DFMA")  # fused only in products: other arithmetic is not contracted
_LOADS, _STORES = ("LDG", "LDGSTS", "UTMALDG"), ("STG", "UTMASTG", "RED", "ATOMG")
_PATH = ("LDS", "STS", "LDSM", "STSM", "LDGSTS", "LDG", "STG", "SHFL")  # 32 lanes a clock, to L1, shared memory, other lanes
_WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
# What half as many lanes do as a scheduler has, and an eighth; of the rest one starts in each clock.
_HALF = frozenset(
    "IADD3 LOP3 SHF LEA ISETP SEL PRMT VIADD IMNMX VIMNMX SGXT PLOP3 FSETP FSEL FMNMX F2FP IABS DFMA DADD DMUL".split()
)
_EIGHTH = frozenset("MUFU I2F F2I F2F POPC FLO BREV".split())


@dataclass(frozen=True)
class Instruction:
    """One line of a listing: ``guarded`` by a predicate, or ``idle``, never executed and there to fill its place."""

    at: int
    name: str
    suffix: str
    operands: str
    guarded: bool
    idle: bool

    @property
    def goes(self) -> int | None:
        """The address that a branch leads to."""
        found = re.findall(r"0x[0-9a-f]+", self.operands) if self.name == "BRA" else ()
        return int(found[-1], 16) if found else None

    @property
    def falls(self) -> bool:
        """Whether the next instruction may follow."""
        return self.name not in ("BRA", "EXIT", "RET", "BRX", "JMP") or self.guarded or "," in self.operands

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and depth of a matrix instruction: HGMMA.64x128x16, HMMA.16816, HMMA.1688, DMMA.884."""
        text = self.suffix.split(".")[1]
        if "x" in text:
            m, n, k = map(int, text.split("x"))
            return m, n, k
        rows = 16 if text.startswith("16") else 8
        return rows, 8, int(text[len(str(rows)) + 1 :])

    def flops(self, warps: int) -> float:
        """Operations on products, of so many warps."""
        if self.name in _MATRIX:
            m, n, k = self.shape
            return 2.0 * m * n * k * warps / (_GROUP if self.name == "HGMMA" else 1)
        return 2.0 * _LANES * warps if self.name in _FUSED else 0.0

    def bytes(self, warps: int) -> float:
        """Bytes that so many warps load or store."""
        if self.name in ("LDSM", "STSM"):  # matrices of 8x8 halves
            return 128.0 * warps * int(self.suffix.split("88")[-1].strip(".") or 1)
        width = next((_WIDTHS[part] for part in self.suffix.split(".") if part in _WIDTHS), 4)
        return float(width * _LANES * warps)


def instructions(listing: str) -> list[Instruction]:
    """The lines of the disassembler's ``listing``."""
    found = []
    for at, negated, predicate, name, suffix, operands in _LINE.findall(listing):
        always = predicate in ("", "PT", "UPT")
        found.append(Instruction(int(at, 16), name, suffix, operands.strip(), not always, always and bool(negated)))
    return found


# --- ways and loops -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flow:
    """The longest way through a kernel: its blocks by address, in their order, and its loops, as their blocks."""

    blocks: Mapping[int, Sequence[Instruction]]
    loops: Sequence[frozenset[int]]


def flow(code: Sequence[Instruction]) -> Flow:
    """The longest way through ``code``, with what lies on it of each loop."""
    heads = {code[0].at, *(i.goes for i in code if i.goes is not None)}
    heads |= {after.at for i, after in zip(code, code[1:], strict=False) if i.goes is not None or not i.falls}
    blocks: dict[int, list[Instruction]] = {}
    for i in code:
        if i.at in heads:
            here = blocks[i.at] = []
        here.append(i)
    graph, starts = nx.DiGraph(), list(blocks)
    graph.add_nodes_from(starts)
    for start, after in zip(starts, [*starts[1:], None], strict=True):
        last = blocks[start][-1]
        if after is not None and last.falls:
            graph.add_edge(start, after)
        if last.goes is not None:
            graph.add_edge(start, last.goes)
    tables = [b for b in starts if blocks[b][-1].name == "BRX"]  # a jump by a table leads to what nothing else leads to
    lonely = [b for b in starts[1:] if not set(graph.predecessors(b)) - {b}]
    graph.add_edges_from((table, b) for table in tables for b in lonely if b > table)
    graph = graph.subgraph({starts[0]} | nx.descendants(graph, starts[0])).copy()
    above = nx.immediate_dominators(graph, starts[0])
    back = [(u, v) for u, v in graph.edges if v in _dominators(u, above)]
    loops: dict[int, set[int]] = {}
    for u, v in back:
        inside = graph.subgraph(set(graph) - {v})
        loops.setdefault(v, {v}).update({u} | (nx.ancestors(inside, u) if u != v else set()))
    graph.remove_edges_from(back)
    if not nx.is_directed_acyclic_graph(graph):  # a loop with two ways in
        graph.remove_edges_from([(u, v) for u, v in graph.edges if v <= u])
    way = _longest(graph, blocks)
    return Flow({b: blocks[b] for b in way}, [frozenset(inside & set(way)) for inside in loops.values()])


def _dominators(block: int, above: Mapping[int, int | None]) -> Iterator[int]:
    """``block`` and those through which every way to it leads."""
    while True:
        yield block
        up = above.get(block)
        if up is None or up == block:
            return
        block = up


def _longest(graph: nx.DiGraph, blocks: Mapping[int, Sequence[Instruction]]) -> list[int]:
    """The way with the most matrix instructions, of those the one with the most instructions."""
    best: dict[int, tuple[tuple[int, int], int | None]] = {}
    for block in nx.topological_sort(graph):
        own = sum(i.name in _MATRIX for i in blocks[block]), len(blocks[block])
        before = max(((best[b][0], b) for b in graph.predecessors(block)), default=((0, 0), None))
        best[block] = (before[0][0] + own[0], before[0][1] + own[1]), before[1]
    at: int | None = max(best, key=lambda b: best[b][0])
    way: list[int] = []
    while at is not None:
        way.append(at)
        at = best[at][1]
    return way[::-1]


# --- what it takes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The task of a program: ``flops`` of products on whole tiles, of ``turns`` tiles; ``read`` of the bytes it ``moved``.

    ``ahead`` is how many blocks are on their way while one is worked on.
    """

    flops: float = 0.0
    turns: float = 1.0
    read: float = 0.0
    moved: float = 0.0
    ahead: float = 1.0


def work(listing: str, arch: str, warps: int, programs: int, resident: int, task: Task) -> Work:
    """The work of each of ``programs`` of so many ``warps`` that has such a ``task``; ``resident`` share a multiprocessor."""
    find_kernels()
    from graphrt.kernels.triton.cost import LATENCY

    way = flow(instructions(listing))
    times = _times(way, warps, task)
    inside = set().union(*way.loops)
    busy = [
        _busy(((i, times[b]) for b, code in way.blocks.items() if (b in inside) is loop for i in code), warps, arch)
        for loop in (True, False)
    ]
    in_code = [b.get("l2", 0.0) for b in busy]
    where = 0 if inside else 1
    busy[where]["l2"] = max(task.moved / _L2 - in_code[1 - where], in_code[where])  # what goes past registers, or as planned
    waits = {b: any(i.name in _LOADS for i in code) for b, code in way.blocks.items()}
    chain = sum(max((times[b] for b in loop if waits[b]), default=0.0) / task.ahead for loop in way.loops)
    first = any(waiting and b not in inside for b, waiting in waits.items())
    return Work(programs, resident, busy[0], busy[1], LATENCY * (chain + first))


def work_of(kernel: KernelBinary, text: str, choice: Choice, cost: Cost) -> Work:
    """The work of ``kernel``, whose listing is ``text``, launched as ``choice`` says to do what costs ``cost``."""
    warps = kernel.threads // lanes(kernel.target)
    blocks = resident(usage(kernel.code, kernel.target)[0], kernel.shared, warps, kernel.target)
    programs, c = choice.grid - choice.beside, choice.config
    per = 1 / max(programs, 1)
    if not text:
        return unread(programs, blocks, cost.bytes * per)
    products = {"high": 3}.get(cost.precision, 1) if cost.dtype is float32 else 1
    flops = 2.0 * c["BM"] * c["BN"] * c["BK"] * choice.steps * choice.tiles * products * per if choice.steps else 0.0
    ahead = max(c["num_stages"] - 2, 0.5)  # a product under way holds on to its stage
    task = Task(flops, choice.tiles * per, cost.read * per, cost.bytes * per, ahead)
    return work(text, kernel.target.split(":")[1], warps, programs, blocks, task)


def unread(programs: int, resident: int, moved: float) -> Work:
    """The same of code that is not read: each program moves so many bytes, and waits for the first of them."""
    from graphrt.kernels.triton.cost import LATENCY

    return Work(programs, resident, {}, {"l2": moved / _L2}, LATENCY)


def _times(way: Flow, warps: int, task: Task) -> dict[int, float]:
    """How often a program executes each block.

    The smallest loop with products runs until all are done, what is around it once for each tile, and so does a tile's end in
    a loop over all tiles' steps. Without products the loops with loads run until all is read.
    """

    def total(blocks: Iterable[int], of: str) -> float:
        code = [i for b in blocks for i in way.blocks[b]]
        if of == "loads":
            return sum(i.bytes(warps) for i in code if i.name in _LOADS)
        matrix = any(i.name in _MATRIX for lines in way.blocks.values() for i in lines)
        return sum(i.flops(warps) for i in code if i.name in (_MATRIX if matrix else _FUSED))

    inside = set().union(*way.loops)
    of, wanted = ("flops", task.flops) if task.flops else ("loads", task.read)
    working = [loop for loop in way.loops if total(loop, of)]
    inner = [loop for loop in working if not any(other < loop for other in working)]
    body = total(set().union(*inner), of)
    trips = max((wanted - total(set(way.blocks) - inside, of)) / body, 1.0) if body else 1.0
    found = dict.fromkeys(way.blocks, 1.0)
    for block in inside:
        done = task.flops > 0 and any(i.name in _STORES for i in way.blocks[block])
        found[block] = trips if any(block in loop for loop in inner) and not done else task.turns
    return found


def _busy(code: Iterable[tuple[Instruction, float]], warps: int, arch: str) -> dict[str, float]:
    """The clocks that each unit of a multiprocessor is busy for with instructions that are executed so many times."""
    from graphrt.kernels.triton.cost import SHARED, multiprocessor

    rate = multiprocessor(arch).flops
    pipes = {1: 0.0, 2: 0.0, 8: 0.0}
    tensor = shared = l2 = 0.0
    for i, times in code:
        clocks = times * warps / _SCHEDULERS
        pipes[1] += clocks
        if i.idle:
            continue
        pipes[2] += 2 * clocks * (i.name in _HALF)
        pipes[8] += 8 * clocks * (i.name in _EIGHTH)
        if i.name in _MATRIX:
            slower = 14 if i.name == "DMMA" else 2 if "TF32" in i.suffix else 1
            tensor += times * i.flops(warps) * slower / rate
        if i.name == "HGMMA":  # rows of 32 bytes, those of the left operand unless it lies in registers
            m, n, _ = i.shape
            left = i.operands.split(",")[1].strip().startswith("gdesc")
            shared += times * 32 * (m * left + n) * warps / _GROUP / SHARED
        elif i.name in _PATH:
            shared += times * max(i.bytes(warps) / SHARED, warps)
        if i.name == "LDGSTS":
            l2 += times * i.bytes(warps) / _L2
    found = {"tensor": tensor, "shared": shared, "l2": l2, "issue": max(pipes.values())}
    return {unit: clocks for unit, clocks in found.items() if clocks}
