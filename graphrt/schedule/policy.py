"""A target's policy for the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphrt.index import Expr
from graphrt.ir import Node
from graphrt.passes.bucket_size import Pace
from graphrt.passes.stages import ALL, Fusion
from graphrt.schedule.group import Index

ROW_LIMIT = 16384  # elements of a row that stay near, in a cache or in a program of a GPU; each pass reads longer ones again


@dataclass(frozen=True)
class OnLoad:
    """A target's prediction, in seconds, of operands that are computed where a contraction loads them.

    ``extra`` is how much longer a contraction takes if so many bytes are loaded, and then computed, for each element of operand
    number so-and-so; ``byte`` and ``launch`` are the price of a byte from or to memory, and of another launch.
    """

    extra: Callable[[Node, int, int], float]
    byte: float
    launch: float


@dataclass(frozen=True)
class SchedulePolicy:
    """A target's policy for the scheduler.

    ``fusion`` has the stages that may be used; without any, each op is a kernel of its own. ``tile_row`` gives the number of a
    contraction's element, by its index, among the rows of the tiles, over which an epilogue can sum, and None for what has
    no such tiles; it is None where no template has. ``pairs`` says that a launch may hold a reduction beside a contraction,
    ``alone`` that a contraction takes nothing along, since a library computes it. A row of at most ``row_limit`` elements is
    held by a kernel from one pass over it to the next. A kernel that has rows at hand can add up the columns of each of
    ``segments`` of them or more; 0 for never. ``precision`` is that of float32 products: highest, high or medium. ``on_load``
    weighs storing an operand against computing it wherever a tile is loaded; without it bytes decide. ``pace`` weighs storing
    what several passes over rows read against computing it in each; without it rows are held.
    """

    fusion: Fusion = ALL
    tile_row: Callable[[Node, Index], Expr | None] | None = None
    pairs: bool = False
    alone: bool = False
    row_limit: int = 0
    segments: int = 0
    precision: str = "highest"
    on_load: OnLoad | None = None
    pace: Pace | None = None

    @property
    def tiles(self) -> bool:
        """Whether a contraction's epilogue has a tile at hand."""
        return self.tile_row is not None
