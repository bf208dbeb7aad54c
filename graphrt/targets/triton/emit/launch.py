"""How a kernel is launched: the forms of its kernel, configurations to choose from, and the choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graphrt.passes.decision import Decision
from graphrt.schedule.schedule import Slot
from graphrt.targets.triton.collective import Call
from graphrt.targets.triton.library import LIBRARY, LibraryCall

FASTER = "it were predicted to be faster, or measured to be (tune=1)"
OPTIONS = ("num_warps", "num_stages")
CLOCK = 1.7e9  # a second, about what GPUs sustain
WARPS = (4, 8, 2, 1)  # that a kernel may have, in the order in which tuning tries them


def described(form: str, config: Mapping[str, int]) -> str:
    """The text of a form, by its name, with blocks and options."""
    return form if config == LIBRARY else " ".join([*([form] if form else []), *(f"{n} {v}" for n, v in config.items())])


@dataclass(frozen=True)
class Form:
    """A kernel that computes a launch: its function in a template module, or ("") in the generated one.

    ``constants`` is what it is given besides blocks; values starting with "@" name closures of the generated module. ``name``
    tells it from the other forms of the launch: the template's function, empty where there is none. ``call`` is what a library
    computes, or what processes exchange: then no kernel is launched.
    """

    name: str
    module: str
    function: str
    constants: Mapping[str, Any]
    call: Call | None = None


@dataclass(frozen=True)
class Choice:
    """One way to launch: a form, blocks and options by name, the programs, and the predicted clocks (0: no prediction).

    Each of ``tiles`` takes so many ``steps`` of a product's blocks on average; ``beside`` programs are those of other groups.
    """

    form: Form
    config: dict[str, int]
    grid: int
    clocks: float = 0.0
    steps: float = 0.0
    tiles: int = 0
    beside: int = 0

    @property
    def text(self) -> str:
        """The form, blocks and options: ``conv_fwd BM 128 BN 64 BK 32 num_warps 4 num_stages 3``."""
        return described(self.form.name, self.config)

    @property
    def predicted(self) -> str:
        """The predicted time, and what it comes of."""
        steps = f" of {self.steps:.4g} steps" if self.steps else ""
        return f"{1e6 * self.clocks / CLOCK:.1f} us predicted for {self.grid} programs{steps}"


@dataclass
class LaunchCode:
    """The launch of one kernel: its name in reports, its pointers, its closures' text, and one of ``choices``.

    The programs of a ``cooperative`` one wait for each other: no more may be launched than run at once.

    The heuristic is the first of these; tuning may take another.
    """

    display: str
    slots: list[Slot]
    text: list[str]
    choices: list[Choice]
    choice: Choice
    origin: str = "heuristic"  # of the choice: heuristic, shipped, tuned or asked for
    cooperative: bool = False
    refused: tuple[str, ...] = ()  # forms that could have computed it, each with the reason why it does not

    def configured(self, choice: Choice, origin: str) -> LaunchCode:
        """The same launch as ``choice`` says."""
        return replace(self, choice=choice, origin=origin)

    def decisions(self, node: str) -> list[Decision]:
        """The choice of form and tile for the contraction, pooling or the like ``node``; and the best of each other form."""
        ranked = sorted((c for c in self.choices if 0 < c.clocks < math.inf), key=lambda c: c.clocks)
        others = [c for c in ranked if c.text != self.choice.text]
        reason = "the one way to compute it" if len(self.choices) == 1 else "by rule: none is predicted"
        if self.origin != "heuristic":
            reason = {"asked for": "a library was asked for"}.get(self.origin, f"measured to be the fastest ({self.origin})")
        elif self.choice in ranked:
            alike = next((c for c in others if c.form.name == self.form.name), None)
            reason = self.choice.predicted
            reason += f"; the next tile, {alike.text}, {1e6 * alike.clocks / CLOCK:.1f} us" if alike is not None else ""
        found = [Decision("template", node, self.choice.text, True, reason)]
        for name in dict.fromkeys(c.form.name for c in others if c.form.name != self.form.name):
            best = next(c for c in others if c.form.name == name)
            found.append(Decision("template", node, best.text, False, best.predicted, change=FASTER))
        for name, _, reason in (refusal.partition(": ") for refusal in self.refused):
            found.append(Decision("template", node, name, False, reason, change="that were otherwise"))
        return found

    @property
    def form(self) -> Form:
        """The kernel that is launched."""
        return self.choice.form

    @property
    def call(self) -> Call | None:
        """The library's call, or the collective, that stands in place of a kernel."""
        return self.form.call

    @property
    def offer(self) -> LibraryCall | None:
        """The library's call that could stand in place of a kernel."""
        return next((c.form.call for c in self.choices if isinstance(c.form.call, LibraryCall)), None)

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time arguments, blocks among them; values starting with "@" name closures of the generated module."""
        return {**self.form.constants, **{n: v for n, v in self.config.items() if n not in OPTIONS}}

    @property
    def options(self) -> dict[str, int]:
        """The compiler's options: warps and stages."""
        return {n: self.config[n] for n in OPTIONS}

    @property
    def config(self) -> dict[str, int]:
        """Blocks and options by name."""
        return self.choice.config

    @property
    def grid(self) -> int:
        """Programs."""
        return self.choice.grid
