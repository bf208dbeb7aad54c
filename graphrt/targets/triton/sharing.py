"""Equal kernels are generated and compiled once: launches that differ only in names run the first one's kernel."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphrt.schedule.order import Slot


@dataclass(frozen=True)
class LaunchCode:
    """How to launch one kernel: its name in the module, pointers, compile-time arguments, options and grid."""

    module: str  # "" for the generated module, else the template module
    kernel: str
    display: str
    slots: list[Slot]
    constants: dict[str, Any]  # values; strings starting with "@" name closures of the generated module
    options: dict[str, int]
    grid: int
    text: list[str]  # the generated closures or kernel
    group: str = ""  # what it computes, for people to read
    same_as: int | None = None  # the earlier launch whose kernel this one runs

    def comment(self) -> str:
        return "\n".join("# " + line for line in self.group.splitlines())

    def source(self) -> str:
        return "\n".join([self.comment(), *self.text])

    def key(self) -> Hashable:
        """What the compiled kernel depends on: two launches with equal keys can run one kernel."""
        names: dict[str, str] = {}  # the groups' names, numbered as they appear

        def plain(text: str) -> str:
            return re.sub(r"\b(g\d+)_", lambda m: names.setdefault(m[1], f"group{len(names)}") + "_", text)

        text = tuple(map(plain, self.text))
        constants = tuple((k, plain(v) if isinstance(v, str) else v) for k, v in self.constants.items())
        types = tuple(s.type.dtype.name for s in self.slots)
        return self.module, plain(self.kernel), self.display, types, constants, tuple(self.options.items()), text


def share(launches: Sequence[LaunchCode]) -> list[LaunchCode]:
    """``launches`` with every kernel that equals an earlier one replaced by that one, and ``same_as`` set."""
    first: dict[Hashable, int] = {}
    found = []
    for i, code in enumerate(launches):
        j = first.setdefault(code.key(), i)
        if j != i:
            one = launches[j]
            code = replace(code, kernel=one.kernel, constants=one.constants, text=one.text, same_as=j)
        found.append(code)
    return found


def distinct(launches: Sequence[LaunchCode]) -> dict[int, list[int]]:
    """The launches that run each kernel, by the number of the first of them; those without work are left out."""
    found: dict[int, list[int]] = {}
    for i, code in enumerate(launches):
        if code.grid:
            found.setdefault(i if code.same_as is None else code.same_as, []).append(i)
    return found
