"""What a target wants of the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphrt.ir import Node
from graphrt.passes.stages import ALL, Fusion

ROW_LIMIT = 16384  # elements of a row that stay near, in a cache or in a program of a GPU; each pass reads longer ones again


@dataclass(frozen=True)
class OnLoad:
    """What a target predicts, in seconds, of operands that are computed where a contraction loads them.

    ``extra`` is how much longer a contraction takes if so many bytes are loaded, and then computed, for each element of operand
    number so-and-so; ``byte`` and ``launch`` are the price of a byte from or to memory, and of another launch.
    """

    extra: Callable[[Node, int, int], float]
    byte: float
    launch: float


@dataclass(frozen=True)
class SchedulePolicy:
    """What a target wants of the scheduler.

    ``fusion`` has the stages that may be used; without any, each op is a kernel of its own. ``tiles`` says that a
    contraction's epilogue has a tile at hand, over whose rows it can sum; ``pairs`` that a launch may hold a reduction beside
    a contraction; ``alone`` that a contraction takes nothing along, since a library computes it. A row of at most ``row_limit``
    elements is held by a kernel from one pass over it to the next. ``precision`` is that of float32 products: highest, high
    or medium. ``on_load`` weighs storing an operand against computing it wherever a tile is loaded; without it bytes decide.
    """

    fusion: Fusion = ALL
    tiles: bool = True
    pairs: bool = False
    alone: bool = False
    row_limit: int = 0
    precision: str = "highest"
    on_load: OnLoad | None = None
