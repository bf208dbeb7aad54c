"""Kinds of arguments: whether a value is what an annotation asks for, said in the user's words.

Settings that are dataclasses check themselves so, and the command line what it is given by name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from graphrt.errors import ArgumentError, told

_WORDS: dict[Any, str] = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_FITS: dict[Any, Callable[[Any], bool]] = {
    NoneType: lambda value: value is None,
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    float: lambda value: isinstance(value, Real) and not isinstance(value, bool),
    str: lambda value: isinstance(value, str),
}

_PLAIN = {kind.__name__ if kind is not NoneType else "None": kind for kind in _WORDS}
P = ParamSpec("P")
T = TypeVar("T")


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` that raises ArgumentError for arguments that are to be numbers, truth values or texts, and are others."""
    signature = inspect.signature(function)
    written = {name: str(parameter.annotation).split(" | ") for name, parameter in signature.parameters.items()}
    wanted = {name: [_PLAIN[part] for part in parts] for name, parts in written.items() if _PLAIN.keys() >= {*parts}}

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # which says itself what is missing
        for name in wanted.keys() & given.keys():
            if not any(_FITS[kind](given[name]) for kind in wanted[name]):
                words = " or ".join(_WORDS[kind] for kind in wanted[name])
                raise ArgumentError(f"{name} must be {words}, got {told(given[name])}")
        return function(*args, **kwargs)

    return call


def misfit(annotation: Any, value: Any) -> str:
    """The kind of thing that would fit ``annotation``; "" where ``value`` does, or where the annotation says too little."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        found = [misfit(part, value) for part in parts]
        return "" if "" in found else " or ".join(dict.fromkeys(found))
    if annotation in _WORDS:
        return "" if _FITS[annotation](value) else _WORDS[annotation]
    if origin is tuple:
        return _misfit_of_several(parts, value)
    if origin is Sequence:
        return "" if isinstance(value, list | tuple) else "a list"
    if isinstance(annotation, type) and origin is None:
        return "" if isinstance(value, annotation) else f"of the class {annotation.__name__}"
    return ""


def _misfit_of_several(parts: tuple[Any, ...], value: Any) -> str:
    """``misfit`` of a tuple of those ``parts``."""
    kinds = list(parts) if parts[-1] is not Ellipsis else [parts[0]] * (len(value) if isinstance(value, tuple | list) else 0)
    if isinstance(value, tuple | list) and len(value) == len(kinds):
        if not any(misfit(kind, one) for kind, one in zip(kinds, value, strict=True)):
            return ""
    count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
    numbers = all(part in (int, float, Ellipsis) for part in parts)
    return f"{count}{'numbers' if numbers else 'values'} in brackets, as in (0.5,0.8)"


@functools.cache
def kinds(made: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of the parameters of ``made`` by name, {} where they name what is not there when they are read."""
    try:
        if is_dataclass(made) and isinstance(made, type):
            hints = get_type_hints(made)
            return {f.name: hints[f.name] for f in fields(made)}
        return get_type_hints(made.__init__ if isinstance(made, type) else made)  # type: ignore[misc]
    except NameError:
        return {}


def check_fields(made: Any) -> None:
    """Raises ArgumentError where a field of the dataclass ``made`` is not of the kind that it is annotated as."""
    for name, kind in kinds(made.__class__).items():
        if wanted := misfit(kind, value := getattr(made, name)):
            raise ArgumentError(f"{name} must be {wanted}, got {value!r}")
