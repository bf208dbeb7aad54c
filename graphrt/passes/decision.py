"""A decision of a pass or of the scheduler, kept with its reason: ``program.explain()`` prints it."""

from __future__ import annotations

from dataclasses import dataclass

_VERBS = {  # of what is done, and of what is not, but for fusions
    "siblings": ("is merged with", "is not merged with"),
    "channels": ("pads", "does not pad"),
    "checkpoint": ("is computed again in", "is not computed again in"),
    "chunks": ("is made in", "is not made in"),
    "memory": ("is cut into", "is not cut into"),
    "layout": ("lies", "does not lie"),
    "concat": ("lies in", "does not lie in"),
    "in_place": ("is updated", "is not updated"),
    "horizontal": ("runs beside", "does not run beside"),
    "pairs": ("runs beside", "does not run beside"),
    "persistent": ("is launched with", "is not launched with"),
    "shard": ("is cut by", "is not cut by"),
    "wire": ("is sent in", "is not sent in"),
    "buckets": ("is", "is not"),
    "bucket": ("is sent with", "is not sent with"),
    "template": ("is computed by", "is not computed by"),
    "batch": ("takes", "does not take"),
    "alias": ("lies over", "does not lie over"),
}


@dataclass(frozen=True)
class Decision:
    """One choice of a ``stage``: whether ``node`` and ``other`` come together, why (not), and the bytes that saves.

    ``saved`` is what the stage reckoned with; the ledger, which ``program.explain()`` prints, has it exactly, and negative
    where a decision costs traffic.
    ``stage`` is one of ``stages.STAGES``, or batch, shard, wire, channels, chunks, checkpoint, memory, layout, buckets, bucket,
    template or alias. ``other`` of a fusion is the anchor of the group, else what the choice is about: "channels-last", "in
    place", a template's file, the tensor whose bytes it takes over.
    ``change`` is of a refusal: what would have to be otherwise, behind "if".
    """

    stage: str
    node: str
    other: str
    taken: bool
    reason: str
    saved: int = 0
    change: str = ""

    @property
    def fuses(self) -> bool:
        """Whether it is about computing a node in another's kernel."""
        return self.stage not in _VERBS

    def __str__(self) -> str:
        bytes = f", {'saves' if self.saved > 0 else 'costs'} {abs(self.saved)} bytes" if self.taken and self.saved else ""
        if self.fuses:
            return f"{self.node} into {self.other}: {'fused' if self.taken else 'not fused'}{bytes}: {self._why()}"
        return f"{self.node} {_VERBS[self.stage][not self.taken]} {self.other}{bytes}: {self._why()}"

    def _why(self) -> str:
        return f"{self.reason}; it would be if {self.change}" if self.change else self.reason
