"""Mesh: the processes that run one program side by side, as a grid with named axes.

    Mesh(dp=2, tp=3)      tp 0  1  2
                     dp 0    0  1  2      the number of each process, its rank
                        1    3  4  5

A program is one for all: each process runs it on its own inputs and its own part of what is sharded. The type of a value says
over which axes it varies (``types.TensorType``), as in JAX's shard_map (JEP 17111).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from graphrt.errors import ArgumentError

Axes = str | Sequence[str]


class Mesh:
    """A grid of processes: ``Mesh(dp=4, tp=2)`` has eight, in four rows of two.

    ``axes`` maps each name to its size, the outermost first. Raises ArgumentError.
    """

    def __init__(self, **axes: int) -> None:
        for name, size in axes.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ArgumentError(f"the size of a mesh's axis is a whole number of processes, 1 or more; {name} is {size!r}")
            if not re.fullmatch(r"[A-Za-z]\w*", name):
                raise ArgumentError(f"an axis of a mesh is named like dp or tp, got {name!r}")
        if not axes:
            raise ArgumentError("a mesh has at least one axis: Mesh(dp=4)")
        self.axes: Mapping[str, int] = dict(axes)

    @property
    def size(self) -> int:
        """The number of processes."""
        return math.prod(self.axes.values())

    @property
    def data(self) -> str:
        """The axis along which the processes have other examples: dp; empty where all have the same."""
        return "dp" if "dp" in self.axes else ""

    def coordinates(self, rank: int) -> dict[str, int]:
        """The coordinates of process ``rank``: its place along each axis."""
        found = {}
        for name, size in reversed(list(self.axes.items())):
            rank, found[name] = divmod(rank, size)
        return {name: found[name] for name in self.axes}

    def groups(self, axis: str) -> list[list[int]]:
        """The ranks of each row along ``axis``: those that differ in nothing else, in order."""
        rows: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.size):
            key = tuple(at for name, at in self.coordinates(rank).items() if name != axis)
            rows.setdefault(key, []).append(rank)
        return list(rows.values())

    def varying(self, axes: Axes) -> tuple[str, ...]:
        """``axes`` as types have them. Raises ArgumentError for one that the mesh has not."""
        names = [axes] if isinstance(axes, str) else list(axes)
        for name in names:
            if name not in self.axes:
                raise ArgumentError(f"the mesh has no axis {name!r}; it is {self}")
        return tuple(sorted(set(names)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mesh) and [*self.axes.items()] == [*other.axes.items()]

    def __hash__(self) -> int:
        return hash(tuple(self.axes.items()))

    def __str__(self) -> str:
        return "*".join(f"{name}={size}" for name, size in self.axes.items())

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{name}={size}' for name, size in self.axes.items())})"

    @staticmethod
    def parse(text: str) -> Mesh:
        """Reads what ``str`` printed. Raises ValueError."""
        return Mesh(**{name: int(size) for name, _, size in (part.partition("=") for part in text.strip().split("*"))})
