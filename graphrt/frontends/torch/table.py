"""The ATen table: one entry for each ATen operator, by its overload's name (``add.Tensor``).

An entry is a small function that takes the operator's arguments as torch passes them, with graphrt Values for tensors, and
says what it is in functions of ``graphrt.ops``. The entries stand in ``graphrt/frontends/torch/aten``, by kind; to add one is
all that a new operator needs. Results are cast to the dtype that torch says the operator has, so entries need not. PyTorch
says what an operator means; an entry has a docstring only where something is to be added to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from graphrt.autodiff import grad
from graphrt.ir import Value
from graphrt.ops import permute

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Storage:
    """The memory of torch in which a tensor lies: that of ``base``, of which it is a view, or which it is.

    The dimensions of ``base`` lie there in ``order``, outermost first, from element ``start`` on; the tensor is at ``place``.
    """

    base: Value
    order: Sequence[int]
    start: int
    place: int

    def elements(self) -> Value:
        """``base`` with its dimensions as they lie in memory."""
        return permute(self.base, list(self.order))

    def offset(self, storage_offset: int | None) -> int:
        """The start of a view with this ``storage_offset``, by default the tensor's own, among ``elements``."""
        return (self.place if storage_offset is None else storage_offset) - self.start


@dataclass(frozen=True)
class Entry:
    """The entry of an ATen operator: a function of its arguments.

    Before them stands the Graph if it ``creates`` a tensor, and the Storage of its first tensor if it ``reads_memory``, of
    what that is a view of, or ``writes_memory``, of the tensor alone.
    """

    function: Callable[..., Any]
    creates: bool = False
    reads_memory: bool = False
    writes_memory: bool = False


ATEN: dict[str, Entry] = {}
REFUSED: dict[str, str] = {}  # operators that a graph cannot hold, and what to write instead


def aten(*names: str, creates: bool = False, reads_memory: bool = False, writes_memory: bool = False) -> Callable[[F], F]:
    """Makes the decorated function the entry of the operators ``names``."""

    def enter(function: F) -> F:
        for name in names:
            if name in ATEN:
                raise KeyError(f"aten.{name} has an entry already")
            ATEN[name] = Entry(function, creates, reads_memory, writes_memory)
        return function

    return enter


def refuse(advice: str, *names: str) -> None:
    """Says in messages about the operators ``names``, which can have no entry, why, and what to write instead."""
    REFUSED.update(dict.fromkeys(names, advice))


def same(functions: Iterable[Callable[..., Any]], overload: str = "default") -> None:
    """Enters functions whose names, arguments and meaning are those of the operator."""
    for f in functions:
        aten(f"{f.__name__}.{overload}")(f)


def pullback(f: Callable[..., Value], inputs: Sequence[Value], dy: Value) -> list[Value]:
    """The gradients of ``f(*inputs)`` for its cotangent ``dy``: all that an operator named ``..._backward`` is."""
    return grad(f(*inputs), inputs, dy)
