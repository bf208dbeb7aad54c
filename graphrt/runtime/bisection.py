"""Bisection: the least set of fusion decisions that turns a right result wrong.

First among the stages, then among the pairs of nodes that these put together: delta debugging (Zeller and Hildebrandt,
"Simplifying and isolating failure-inducing input", 2002), which ends where nothing can be left out of the set. Every trial is
compiled, run from the same state, and compared with the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from graphrt.errors import ArgumentError
from graphrt.op import Kind
from graphrt.passes.decision import Decision
from graphrt.passes.stages import STAGES, Fusion
from graphrt.runtime.checking import Difference, compare
from graphrt.runtime.program import Program
from graphrt.runtime.state import State

T = TypeVar("T")
Pair = frozenset[str]


@dataclass(frozen=True)
class Bisection:
    """The result of a search: ``different`` is what is wrong, None where nothing is.

    ``stages`` are those that it takes, none where the result is wrong without fusion too; ``decisions`` those of them that it
    takes, none where that is not for want of two nodes in one kernel. ``trials`` were compiled and run.
    """

    different: Difference | None
    stages: Sequence[str]
    decisions: Sequence[Decision]
    trials: int

    def __str__(self) -> str:
        if self.different is None:
            return "the result is the reference's"
        if not self.stages:
            return f"{self.different}\nwrong without fusion too, so that is not the cause"
        lines = [f"{self.different}", f"wrong with {', '.join(self.stages)}, right without any ({self.trials} trials)"]
        return "\n".join([*lines, *(f"  {d}" for d in self.decisions)])


def bisect(program: Program, *args: Any, **inputs: Any) -> Bisection:
    """The least set of fusion decisions without which ``program`` gives the reference's result for a batch.

    ``args`` and ``inputs`` are the batch, as in a call. The program's state is left as it is. Raises ArgumentError for the
    reference target, InputError.
    """
    if program.schedule is None:
        raise ArgumentError(f"the {program.target} target fuses nothing")
    given = program._bind(program._named(args, inputs))
    return _Search(program, given).result()


class _Search:
    """The trials for one program and one batch, from the state that it had."""

    def __init__(self, program: Program, inputs: Mapping[str, Any]) -> None:
        self.program, self.inputs, self.trials = program, inputs, 0
        graph = program.built
        self.first = {name: np.array(program.state[name]) for name, node in graph.sources.items() if name in program.state}
        feeds = {**self.first, **{name: np.array(a) for name, a in inputs.items()}}
        self.known = {n.outputs[0]: feeds[n.name] for n in graph.sources.values() if n.name in feeds}
        self.nodes = [n for n in graph.nodes if n.op.kind is not Kind.SOURCE]

    def result(self) -> Bisection:
        """Stages first, then pairs."""
        asked = self.program.fusion
        different = self.wrong(asked)
        if different is None or self.wrong(Fusion(frozenset(), asked.apart)) is not None:
            return Bisection(different, (), (), self.trials)
        some = [s for s in STAGES if s in asked]
        stages = least(some, lambda left: self.wrong(Fusion(frozenset(left), asked.apart)) is not None)
        return Bisection(different, stages, self.decisions(Fusion(frozenset(stages), asked.apart)), self.trials)

    def decisions(self, fusion: Fusion) -> list[Decision]:
        """The least set of decisions of ``fusion``, which is wrong; none where it is wrong with all nodes apart."""
        pairs: dict[Pair, Decision] = {}
        while True:  # what is kept apart may go elsewhere: that is kept apart too
            apart = fusion & Fusion(fusion.stages, frozenset(pairs))
            trial = self.compiled(apart)
            new = {frozenset((d.node, d.other)): d for d in trial.decisions if d.fuses and d.taken and d.node != d.other}
            new = {pair: d for pair, d in new.items() if pair not in pairs}
            if self.run(trial) is None:
                break
            if not new:
                return []
            pairs |= new
        everything = frozenset(pairs)

        def wrong(left: Sequence[Pair]) -> bool:
            return self.wrong(fusion & Fusion(fusion.stages, everything - frozenset(left))) is not None

        return [pairs[pair] for pair in least(list(pairs), wrong)]

    def wrong(self, fusion: Fusion) -> Difference | None:
        """The first output or new parameter that differs from the reference's where the program is compiled with ``fusion``."""
        return self.run(self.compiled(fusion))

    def compiled(self, fusion: Fusion) -> Program:
        """The program with ``fusion``, on a copy of the state as it was."""
        state = State()
        for name, array in self.first.items():
            state.add(name, self.program.state.types[name], array)
        return self.program.recipe.again(self.program.built, fusion, state)

    def run(self, trial: Program) -> Difference | None:
        """The difference after a run of ``trial``, or None."""
        self.trials += 1
        results = trial._binary.run({n: np.array(a) for n, a in self.inputs.items()}, trial.state)
        graph = self.program.built
        found = {v: np.asarray(results[name]) for name, v in graph.outputs.items()}
        found |= {v: trial.state[name] for name, v in graph.updates.items() if v not in found}
        return compare(self.nodes, self.known, found)


def least(items: Sequence[T], wrong: Callable[[Sequence[T]], bool]) -> list[T]:
    """A part of ``items`` for which ``wrong`` holds, as it does for all, and of which nothing can be left out."""
    found, parts = list(items), 2
    while len(found) > 1:
        size = -(-len(found) // parts)
        chunks = [found[i : i + size] for i in range(0, len(found), size)]
        rests = [[x for other in chunks if other is not chunk for x in other] for chunk in chunks]
        smaller = next((c for c in chunks if wrong(c)), None)
        rest = next((r for r in rests if r and wrong(r)), None) if smaller is None and len(chunks) > 2 else None
        if smaller is not None:
            found, parts = smaller, 2
        elif rest is not None:
            found, parts = rest, max(parts - 1, 2)
        elif size == 1:
            break
        else:
            parts = min(2 * parts, len(found))
    return found
