"""Stages of fusion: what a program may be compiled without, to see what each is worth."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from graphrt.errors import ArgumentError

STAGES: Mapping[str, str] = {
    "addends": "a sum of products is one product of what lies side by side; slices' gradients are laid side by side, not added",
    "tables": "what is looked up in a table of few rows is multiplied there; gradients are summed up by row before they are",
    "siblings": "contractions that read one tensor become one (on a cpu products of frozen programs)",
    "remat": "the backward pass computes again what a concatenation, or an activation, would store for it",
    "partial": "sums over pixels, and of columns beside their rows, come from sums of segments",
    "split": "long sums become partial sums side by side, and a short sum of these",
    "half_copies": "whoever updates a weight writes its half too (GPUs)",
    "concat": "parts of a concatenation are stored where the whole has them",
    "epilogue": "elementwise ops behind a contraction, a window or a scan work on its results before they are stored",
    "rowops": "elementwise ops behind a reduction work on its rows, or on their results",
    "chain": "elementwise ops behind elementwise ops share a kernel",
    "segments": "sums of a tile's rows are an epilogue of the template that computes it (GPUs)",
    "rows": "reductions over the same rows share a kernel, which adds up their columns too",
    "inline": "elementwise ops in front of a kernel are computed where it loads (prologues), or stored along the way",
    "recompute": "what is cheap is computed again by those who read it where that moves fewer bytes",
    "totals": "small exact totals are found again by those who read them",
    "in_place": "new values of parameters are stored over the old ones, and values over what nobody needs any more",
    "horizontal": "kernels that do not wait for each other share a launch",
    "pairs": "a reduction runs beside a contraction (GPUs)",
}


@dataclass(frozen=True)
class Fusion:
    """The stages that a program is compiled with, and pairs of nodes, by name, that never share a kernel."""

    stages: frozenset[str] = frozenset(STAGES)
    apart: frozenset[frozenset[str]] = frozenset()

    @staticmethod
    def parse(text: str, forbid: Iterable[Collection[str]] = ()) -> Fusion:
        """The stages that ``text`` names: all, none, names to have alone, or names behind a minus to do without.

        ``forbid`` is pairs of node names. Raises ArgumentError, which lists the stages.
        """
        words = [w.strip() for w in text.split(",") if w.strip()]
        names = [w.removeprefix("-") for w in words]
        if words in (["all"], []):
            names, found = [], frozenset(STAGES)
        elif words == ["none"]:
            names, found = [], frozenset[str]()
        elif all(w.startswith("-") for w in words):
            found = frozenset(STAGES) - {*names}
        else:
            names, found = words, frozenset(words)
        if unknown := [n for n in names if n not in STAGES]:
            raise ArgumentError(
                f"fusion (or GRAPHRT_FUSE) has no stage {unknown[0]!r}; it is all, none, or stages with commas between them, "
                f"all of them behind a minus or none: {', '.join(STAGES)}"
            )
        pairs = [frozenset(pair) if not isinstance(pair, str) else frozenset[str]() for pair in forbid]
        if any(len(pair) != 2 or not all(isinstance(name, str) for name in pair) for pair in pairs):
            raise ArgumentError(f"forbid is pairs of two node names, such as [('conv_0', 'relu_0')], got {list(forbid)!r}")
        return Fusion(found, frozenset(pairs))

    def __contains__(self, stage: str) -> bool:
        return stage in self.stages

    def __and__(self, other: Fusion) -> Fusion:
        """The stages that both have; what either keeps apart is."""
        return Fusion(self.stages & other.stages, self.apart | other.apart)

    def parted(self, a: Iterable[str], b: Iterable[str]) -> bool:
        """Whether a node of ``a`` is to be kept apart from one of ``b``."""
        return bool(self.apart) and any(frozenset((x, y)) in self.apart for x in a for y in b)

    @property
    def named(self) -> str:
        """The stages as ``parse`` reads them."""
        some = [s for s in STAGES if s in self.stages]
        off = [f"-{s}" for s in STAGES if s not in self.stages]
        return "all" if not off else "none" if not some else ",".join(off if len(off) < len(some) else some)

    def __str__(self) -> str:
        """The stages as ``parse`` reads them, then the pairs."""
        pairs = sorted("|".join(sorted(pair)) for pair in self.apart)
        return f"{self.named}, apart {', '.join(pairs)}" if pairs else self.named


ALL = Fusion()
NONE = Fusion(frozenset())
