"""What passes and the scheduler decided, kept with its reason: ``program.explain()`` prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["siblings", "layout", "buffer", "fusion", "in place", "horizontal", "template"]

_VERBS = {  # of what is done, and of what is not
    "siblings": ("is merged with", "is not merged with"),
    "layout": ("lies", "does not lie"),
    "buffer": ("lies in", "does not lie in"),
    "in place": ("is updated", "is not updated"),
    "horizontal": ("runs beside", "does not run beside"),
    "template": ("is computed by", "is not computed by"),
}


@dataclass(frozen=True)
class Decision:
    """One choice of one ``kind``: whether ``node`` and ``other`` come together, why (not), and the bytes that saves.

    ``other`` is for a fusion the anchor of the group, or what the choice is about: "channels-last", "in place",
    a template's file. ``stage`` is that of a fusion.
    """

    kind: Kind
    node: str
    other: str
    taken: bool
    reason: str
    saved: int = 0
    stage: str = ""

    def __str__(self) -> str:
        if self.kind == "fusion":
            verdict = f"fused, saves {self.saved} bytes" if self.taken else "not fused"
            return f"{self.node} into {self.other}: {verdict}: {self.reason}"
        return f"{self.node} {_VERBS[self.kind][not self.taken]} {self.other}: {self.reason}"
