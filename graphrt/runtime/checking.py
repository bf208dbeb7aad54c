"""Checking a program launch by launch: each is computed again by the reference, from what that launch itself has read.

So an error is found where it is made, and what follows from it is not mistaken for another. What may differ is what rounding
may do: results are compared with the reference's first, and where that is not enough with those of a dozen walks whose every
value is a little off, which tell where a small error of an operand becomes a large one, or turns a comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from graphrt.ir import Graph, Node, Value
from graphrt.ops.body import contracted
from graphrt.reference import fit, walk
from graphrt.runtime.lowering import Lowering
from graphrt.schedule.schedule import Slot

Read = Callable[[Slot], np.ndarray]
ROUNDINGS = 16  # by which a result may be off, in units of its dtype, for each root of a term that it sums
OFF = 8  # units by which values are off in a disturbed walk
WALKS = 12
TF32 = {"highest": 0.0, "high": 2.0**-20, "medium": 2.0**-10}  # to what operands of float32 products are rounded


@dataclass(frozen=True)
class Difference:
    """The first of a launch's results that is not the reference's, at the element where it is furthest off.

    ``launch`` is its title, ``value`` its name, ``where`` the user's line, ``count`` how many of ``size`` elements differ.
    """

    launch: str
    value: str
    where: str
    index: tuple[int, ...]
    found: float
    expected: float
    count: int
    size: int

    def __str__(self) -> str:
        at = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        return (
            f"{self.launch}: {self.value}{at} is {self.found!r}, the reference has {self.expected!r}; "
            f"{self.count} of {self.size} elements differ ({self.where})"
        )


def check(lowering: Lowering, steps: Iterator[Read]) -> Difference | None:
    """The first result of a launch that is not what the reference makes of the launch's inputs.

    ``steps`` lets read what lies where before the first launch, and behind each.
    """
    schedule, policy = lowering.schedule, lowering.policy
    assert schedule is not None and policy is not None
    read = next(steps)
    for launch in schedule.launches:
        known: dict[Value, np.ndarray] = {}
        for v in dict.fromkeys(v for group in launch.groups for v in group.inputs):
            place = schedule.home[v]
            known[v] = place.part(read(place.slot), v).copy()
        read = next(steps)
        for group in (g for g in launch.groups if g.kind != "collective"):  # what others have is not known here
            found = {}
            for v in (*group.values(), *group.copies):
                for place in schedule.stores.get((group, v), ()):
                    found[v] = place.part(read(place.slot), v)
            nodes = between(lowering.graph, found, known)
            different = compare(nodes, known, found, TF32[policy.precision], launch.title())
            if different is not None:
                return different
    return None


def between(graph: Graph, wanted: Collection[Value], known: Collection[Value]) -> list[Node]:
    """The nodes of ``graph``, in order, that lead from the values ``known`` to those that are ``wanted``."""
    found, pending = set[Node](), [v for v in wanted if v not in known]
    while pending:
        node = pending.pop().node
        if node not in found:
            found.add(node)
            pending += [v for v in node.inputs if v not in known]
    return [n for n in graph.nodes if n in found]


def compare(
    nodes: Iterable[Node],
    known: Mapping[Value, np.ndarray],
    found: Mapping[Value, np.ndarray],
    rounded: float = 0.0,
    launch: str = "",
) -> Difference | None:
    """The first of the values ``found`` that is not what ``nodes`` make of those ``known``.

    ``rounded`` is the relative error that operands of products have by the user's wish.
    """
    nodes = list(nodes)
    table = {v: fit(a, v, "float64") for v, a in known.items()}
    walk(nodes, table)
    products = rounded if any(map(contracted, nodes)) else 0.0
    length = max((n.op.flops(n) / max(n.types[0].size, 1) for n in nodes), default=1.0)
    spread: dict[Value, np.ndarray] | None = None
    for v, array in found.items():
        expected = table[v]
        if v.dtype.is_float:
            finite = np.abs(expected[np.isfinite(expected)])
            unit = max(float(ml_dtypes.finfo(v.dtype.numpy).eps), products)
            near = ROUNDINGS * unit * math.sqrt(max(length, 1)) * (float(finite.max()) if finite.size else 1.0)
        else:
            near = 0.0
        if not _far(array, expected, near).any():
            continue
        if spread is None:
            spread = _spread(nodes, known, table, found, products)
        far = _far(array, expected, near + spread[v])
        if far.any():
            with np.errstate(all="ignore"):
                off = np.where(far, np.nan_to_num(np.abs(array.astype(np.float64) - expected), nan=np.inf), -1.0)
            at = tuple(int(i) for i in np.unravel_index(int(np.argmax(off)), off.shape))
            numbers = float(array[at]), float(expected[at])
            return Difference(launch, v.name, v.node.where(), at, *numbers, int(far.sum()), far.size)
    return None


def _far(array: np.ndarray, expected: np.ndarray, near: float | np.ndarray) -> np.ndarray:
    """The elements at which ``array`` is further from ``expected`` than ``near``; NaN and infinities must agree."""
    a, b = array.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= near)
    return np.logical_not(same | np.isnan(near))


def _spread(
    nodes: list[Node],
    known: Mapping[Value, np.ndarray],
    table: Mapping[Value, np.ndarray],
    wanted: Collection[Value],
    products: float,
) -> dict[Value, np.ndarray]:
    """How far each element of ``wanted`` gets from what ``table`` has where every value is a few roundings off.

    It is NaN where that makes or ends a NaN or an infinity.
    """
    rng = np.random.default_rng(0)

    def disturb(array: np.ndarray, v: Value) -> np.ndarray:
        if not v.dtype.is_float:
            return array
        unit = max(float(ml_dtypes.finfo(v.dtype.numpy).eps), products)
        return array * (1 + OFF * unit * (2 * rng.random(array.shape) - 1))

    spread = {v: np.zeros(v.shape) for v in wanted}
    for _ in range(WALKS):
        off = {v: disturb(fit(a, v, "float64"), v) for v, a in known.items()}
        walk(nodes, off, disturb=disturb)
        for v in wanted:
            with np.errstate(all="ignore"):
                apart = np.abs(off[v].astype(np.float64) - table[v].astype(np.float64))
            spread[v] = np.maximum(spread[v], np.where(off[v] == table[v], 0.0, apart))
    return {v: 2 * array for v, array in spread.items()}
