"""The options of all kernels of a program."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from graphrt.targets.templates import find_kernels

PRECISIONS = {"highest": "ieee", "high": "tf32x3", "medium": "tf32"}  # torch's names for float32 products, and Triton's


@dataclass(frozen=True)
class Options:
    """The GPU that kernels are printed for: its ``arch``, as sm_90 or gfx942, and so many ``units`` (multiprocessors).

    With ``interpret`` they run in Triton's interpreter, which likes large blocks; with ``guard`` it takes the GPU's, and is
    watched. ``precision`` is that of float32 products (highest, high, medium), ``library`` what may be done by one instead:
    never anything, what tuning finds (auto), or all it can (always). With ``dependent`` kernels may begin before the one in
    front has ended (programmatic dependent launch), and wait for it before they touch memory; with ``persistent`` small
    launches are one where that is predicted to be faster (``persistent.py``).
    """

    arch: str
    units: int
    interpret: bool = False
    precision: str = "highest"
    library: str = "never"
    guard: bool = False
    dependent: bool = False
    persistent: bool = False

    @property
    def gpu(self) -> str:
        """The architecture as compilers name it: cuda:sm_90, hip:gfx942."""
        return f"{'hip' if self.arch.startswith('gfx') else 'cuda'}:{self.arch}"

    @property
    def large(self) -> bool:
        """Whether blocks are as large as the interpreter likes them."""
        return self.interpret and not self.guard

    @functools.cached_property
    def machine(self) -> Any:
        """The ``Machine`` of the templates' arithmetic."""
        find_kernels()
        from graphrt.kernels.triton.config import Machine

        return Machine(self.arch, self.units, self.large, PRECISIONS[self.precision])

    @property
    def lanes(self) -> int:
        """Threads of a warp."""
        return lanes(self.arch)

    @property
    def stores_fragments(self) -> bool:
        """Whether Triton stores a product's tile as the matrix units leave it, without going through shared memory.

        AMD's leave four neighbours of a row in one thread; so rows should lie as memory does.
        """
        return self.arch.startswith("gfx")


def lanes(arch: str) -> int:
    """Threads of a warp of ``arch``, as cuda:sm_90 or sm_90."""
    find_kernels()
    from graphrt.kernels.triton.cost import multiprocessor

    return int(multiprocessor(arch.split(":")[-1]).lanes)
