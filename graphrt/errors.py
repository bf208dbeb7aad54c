"""The errors graphrt raises, each also the built-in exception a user would expect to catch."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_FEW = 24  # names that are listed though there are some that are close


class GraphrtError(Exception):
    """Base of every error graphrt raises itself; ``located`` once its message names the user's line."""

    located = False


class ShapeError(GraphrtError, ValueError):
    """Shapes, axes or sizes that do not fit."""


class DTypeError(GraphrtError, TypeError):
    """An element type an operation does not take."""


class GraphError(GraphrtError, ValueError):
    """A graph that is not well formed: a value from another graph, a name used twice, a bad update."""


class ArgumentError(GraphrtError, ValueError):
    """An argument out of range, unknown or of the wrong kind."""


class InputError(GraphrtError, ValueError):
    """The arguments of a call do not fit the program's inputs."""


class NumericError(GraphrtError, ArithmeticError):
    """Numbers with which training cannot go on: a loss that is NaN."""


class ConversionError(GraphrtError, ValueError):
    """A model of another framework that cannot be made into a graph: an operator without an entry, a trace that failed."""


class AccessError(GraphrtError, RuntimeError):
    """A kernel of which one program touches what is not its own (``GRAPHRT_GUARD``): kernel, program, buffer and element."""


class OutOfMemoryError(GraphrtError, MemoryError):
    """Memory that a program needs while it runs, and the system does not give."""


class TargetError(GraphrtError, RuntimeError):
    """A target that cannot be used on this machine, with the remedy."""


def told(thing: object) -> str:
    """The words of a message for a ``thing`` that was given; for a class also how one is made of it."""
    return f"the class {thing.__name__}, of which {thing.__name__}(...) makes one" if isinstance(thing, type) else repr(thing)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a ``name`` of that ``kind`` that is none of those ``known``: what was meant, else what there is."""
    names = list(known)
    close = get_close_matches(name, names, 3)
    if not close:
        return f"no {kind} {name!r}; there is {', '.join(names) or 'none'}"
    there = f" There is {', '.join(names)}" if len(names) <= _FEW else ""
    return f"no {kind} {name!r}; did you mean {' or '.join(close)}?{there}"
