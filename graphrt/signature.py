"""How the programs of a front end are called, and where their parameters are: interfaces, and a call as plain data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from graphrt.errors import InputError


class Signature(Protocol):
    """How a program is called when not by name, and what it then gives back; a front end sets it."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs that ``result`` puts together."""

    @property
    def written(self) -> Mapping[str, str]:
        """The outputs that ``result`` writes into inputs, by the input's name."""

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name. Raises InputError for arguments of another structure than the example's."""

    def result(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The outputs in the structure in which the model returned them; what the model writes into its inputs is written."""

    def kept(self) -> CallSignature | None:
        """The signature as one that can be saved, None where there is none such: it writes into inputs."""


class Memory(Protocol):
    """The memory of a model's parameters: the ``State`` on which its programs run unless they are given another."""

    def sync_to_torch(self) -> None:
        """Copies into the model what could not be shared with it."""


class Name(str):
    """The name of an input or an output, where the arguments or the results have it."""


@dataclass(frozen=True)
class CallSignature:
    """A program that is called as a function is. In place of tensors ``inputs`` and ``results`` have their names."""

    call: inspect.Signature
    inputs: Mapping[str, Any]
    results: Any

    @cached_property
    def outputs(self) -> Sequence[str]:
        """Names of the outputs, in the order in which the function returns them."""
        return [leaf for leaf in _leaves(self.results) if isinstance(leaf, Name)]

    @cached_property
    def _plain(self) -> Sequence[str]:
        """The inputs' names, where the arguments of the example were as many tensors, given by position; else none."""
        given = list(self.call.parameters.values())[: len(self.inputs)]
        positional = [p.name for p in given if p.kind in _KINDS[:2]]
        names = [str(v) for v in self.inputs.values() if isinstance(v, Name)]
        return names if positional == list(self.inputs) and len(names) == len(positional) else []

    @property
    def written(self) -> Mapping[str, str]:
        """Nothing: values never change."""
        return {}

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs by name. Raises InputError for arguments of another structure, or other constants, than the example's."""
        if len(args) == len(self._plain) and args and not kwargs:
            return dict(zip(self._plain, args, strict=True))
        return dict(_pairs(self.inputs, settled(self.call, self.inputs, args, kwargs).arguments))

    def result(self, outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
        """The outputs in the structure in which the function returned them."""
        return mapped(lambda _, leaf: outputs[leaf] if isinstance(leaf, Name) else leaf, "", self.results)

    def kept(self) -> CallSignature:
        """Itself."""
        return self

    def to_json(self) -> dict[str, Any] | None:
        """All of it as JSON values; None where arguments or results hold what has none."""
        parameters = [[p.name, _KINDS.index(p.kind), _default_to_json(p)] for p in self.call.parameters.values()]
        try:
            trees = {"inputs": _to_json(dict(self.inputs)), "results": _to_json(self.results)}
        except TypeError:
            return None
        return {"parameters": parameters, **trees}

    @staticmethod
    def from_json(kept: Any) -> CallSignature:
        """The signature that ``to_json`` wrote; a default that is no plain value is ``...``. Raises InputError."""
        try:
            parameters = [
                inspect.Parameter(name, list(_KINDS)[kind], default=_default_from_json(default))
                for name, kind, default in kept["parameters"]
            ]
            return CallSignature(inspect.Signature(parameters), _from_json(kept["inputs"]), _from_json(kept["results"]))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(f"the program's call is {kept!r}, which it cannot be: {error}") from None


_KINDS = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.KEYWORD_ONLY,
    inspect.Parameter.VAR_KEYWORD,
)


def mapped(f: Callable[[str, Any], Any], path: str, tree: Any) -> Any:
    """``tree`` of tuples, lists and dicts with ``f(path, leaf)`` for each leaf."""
    if isinstance(tree, Mapping):
        return {k: mapped(f, f"{path}.{k}" if path else str(k), v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [mapped(f, f"{path}.{i}", v) for i, v in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return f(path, tree)


def settled(
    call: inspect.Signature, example: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """``args`` and ``kwargs`` as arguments of ``call`` that has those of ``example``: what either leaves out is its default.

    Raises InputError for arguments that do not fit, and where one that only the example, or only this call, has is another
    than the default.
    """
    try:
        given = call.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"the arguments do not fit forward{call}: {error}") from None
    for name, parameter in call.parameters.items():
        if name in example and name not in given.arguments:
            if not equal(example[name], parameter.default):
                raise InputError(f"missing argument {name!r}: the example had one, and not forward's default")
            given.arguments[name] = parameter.default
        elif name in given.arguments and name not in example:
            if not equal(given.arguments[name], parameter.default):
                raise InputError(f"{name!r} was left out of the example, so it is what forward has for it; make another graph")
            del given.arguments[name]
    return given


def equal(a: Any, b: Any) -> bool:
    """Whether ``a`` and ``b`` are one constant, which different arrays or tensors never are."""
    if a is b:
        return True
    try:
        same = a == b
    except (TypeError, ValueError, RuntimeError):  # tuples of arrays
        return False
    return isinstance(same, bool | np.bool_) and bool(same)


def _leaves(tree: Any) -> Iterator[Any]:
    found: list[Any] = []
    mapped(lambda _, leaf: found.append(leaf), "", tree)
    return iter(found)


def _pairs(wanted: Any, given: Any) -> Iterator[tuple[str, Any]]:
    """The names in ``wanted`` with what ``given`` has in their place. Raises InputError where the two differ."""
    if isinstance(wanted, Name):
        yield str(wanted), given
    elif isinstance(wanted, Mapping):
        if not isinstance(given, Mapping) or wanted.keys() != given.keys():
            raise InputError(f"the example had {', '.join(map(str, wanted))} where the arguments have {given!r}")
        for key, value in wanted.items():
            yield from _pairs(value, given[key])
    elif isinstance(wanted, list | tuple):
        if not isinstance(given, list | tuple) or len(wanted) != len(given):
            raise InputError(f"the example had {len(wanted)} in a sequence where the arguments have {given!r}")
        for a, b in zip(wanted, given, strict=True):
            yield from _pairs(a, b)
    elif not equal(given, wanted):
        raise InputError(f"the graph was made for {wanted!r} where the arguments have {given!r}; make another graph")


def _to_json(tree: Any) -> dict[str, Any]:
    """``tree`` as JSON values that say what each part is. Raises TypeError."""
    if isinstance(tree, Name):
        return {"name": str(tree)}
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: _to_json(part) for key, part in tree.items()}}
    if type(tree) in (list, tuple):
        return {type(tree).__name__: [_to_json(part) for part in tree]}
    if tree is None or type(tree) in (bool, int, float, str):
        return {"value": tree}
    raise TypeError(f"{type(tree).__name__} is no plain value")


def _default_to_json(parameter: inspect.Parameter) -> dict[str, Any] | bool:
    """The default as JSON; true for one that is no plain value, false where there is none."""
    try:
        return parameter.default is not parameter.empty and _to_json(parameter.default)
    except TypeError:
        return True


def _default_from_json(kept: Any) -> Any:
    return inspect.Parameter.empty if kept is False else ... if kept is True else _from_json(kept)


def _from_json(kept: Mapping[str, Any]) -> Any:
    ((kind, value),) = kept.items()
    if kind == "name":
        return Name(value)
    if kind == "dict":
        return {key: _from_json(part) for key, part in value.items()}
    if kind in ("list", "tuple"):
        parts = [_from_json(part) for part in value]
        return tuple(parts) if kind == "tuple" else parts
    return {"value": value}[kind]
