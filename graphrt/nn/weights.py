"""Weights by name: from a safetensors file, or any mapping of arrays or tensors, into a module or a state."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.errors import ArgumentError, InputError
from graphrt.nn.module import Module
from graphrt.runtime.arrays import to_numpy
from graphrt.runtime.state import State
from graphrt.types import DTYPES

Name = str | tuple[str, tuple[int, ...]] | None  # in the target, or with the shape that it has there
Names = Mapping[str, Name] | Callable[[str], Name] | None

_COUNTER = "num_batches_tracked"  # steps a batch norm has seen: some files have it and some do not, and no result depends on it


@dataclass(frozen=True)
class LoadReport:
    """The outcome of loading weights, in the names of the target but for ``unexpected`` ones, which have no target.

    ``loaded`` were copied, ``missing`` were not given. ``mismatched`` maps a name to what the target has and what was given;
    ``ignored`` were left out by the name map, or are an optimizer's state in a checkpoint, or counters of batch norms that only
    one side has.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, tuple[str, str]]
    ignored: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether everything was given, nothing besides, and all of it fits."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected, "]
        lines[0] += f"{len(self.mismatched)} mismatched, {len(self.ignored)} ignored"
        lines += [f"  missing     {name}" for name in self.missing]
        lines += [f"  unexpected  {name}" for name in self.unexpected]
        lines += [f"  mismatched  {name}: is {own}, got {given}" for name, (own, given) in self.mismatched.items()]
        return "\n".join(lines)


def load_weights(
    target: Module | State, source: str | Path | Mapping[str, Any], names: Names = None, strict: bool = True
) -> LoadReport:
    """Copies weights by name into the parameters and buffers of ``target``; returns a report, which prints.

    ``target`` is a Module, or the State of a compiled program. ``source`` is a safetensors file, a checkpoint of ``Trainer``
    among them (its optimizer's state is left out), or a mapping of arrays or tensors, such as torch's ``state_dict()``.
    ``names`` says what a name of the source is called in the target, as a dict (what it does not list keeps its name) or a
    function; None leaves one out, and (name, shape), of which one dimension may be -1, says how it is laid out there as well.
    Floats are converted to the target's precision.

    With ``strict`` anything missing, unexpected or of another shape raises InputError with the report, and nothing is changed;
    without, what fits is loaded. ``num_batches_tracked`` may be on one side only.

        grt.load_weights(net, "resnet18.safetensors", names=lambda n: n.removeprefix("backbone."))
    """
    own = _arrays(target)
    given = dict(_renamed(_read(source), names))
    weights = _weights(source)
    fitting: dict[str, np.ndarray] = {}
    unexpected, ignored, mismatched = list[str](), list[str](), dict[str, tuple[str, str]]()
    for name, (final, array) in given.items():
        if final is None or (final not in own and (_last(final) == _COUNTER or (weights and name not in weights))):
            ignored.append(name)
        elif final not in own:
            unexpected.append(name)
        elif array.shape != own[final].shape or not _converts(array.dtype, own[final].dtype):
            mismatched[final] = (_described(own[final]), _described(array))
        else:
            fitting[final] = array
    absent = [n for n in own if n not in fitting and n not in mismatched]
    missing = [n for n in absent if _last(n) != _COUNTER]
    ignored += [n for n in absent if _last(n) == _COUNTER]
    report = LoadReport(tuple(fitting), tuple(missing), tuple(unexpected), mismatched, tuple(ignored))
    if strict and not report.complete:
        kind = type(target).__name__
        raise InputError(f"the weights do not fit the {kind}: {report}\nmap names with names=..., or pass strict=False")
    for name, array in fitting.items():
        if isinstance(target, State):
            target.set(name, array)
        else:
            own[name][...] = array
    return report


def _arrays(target: Module | State) -> dict[str, np.ndarray]:
    if isinstance(target, State):
        return dict(target)
    if isinstance(target, Module):
        return {name: p.array for name, p in target._named()}
    raise ArgumentError(f"weights are loaded into a Module or a State, got {type(target).__name__}")


def _read(source: str | Path | Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(source, Mapping):
        yield from ((name, to_numpy(value)) for name, value in source.items())
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source, "pt") as file:  # NumPy's reader has no bfloat16
            yield from ((name, to_numpy(file.get_tensor(name))) for name in file.keys())
    except SafetensorError as error:
        raise InputError(f"{source} is not a safetensors file: {error}") from None


def _weights(source: str | Path | Mapping[str, Any]) -> Collection[str]:
    """The names in a checkpoint that are the network's; none for any other source."""
    if isinstance(source, Mapping):
        return ()
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        text = (file.metadata() or {}).get("graphrt", "")
    return json.loads(text).get("weights", ()) if text else ()


def _renamed(source: Iterator[tuple[str, np.ndarray]], names: Names) -> Iterator[tuple[str, tuple[str | None, np.ndarray]]]:
    """Name in the source, name in the target and array. Raises InputError when two would become one."""
    taken: dict[str, str] = {}
    for name, array in source:
        final = name if names is None else names(name) if callable(names) else names.get(name, name)
        if isinstance(final, tuple):
            final, shape = final
            with suppress(ValueError):  # then the report has what was given
                array = array.reshape(shape)
        if final is not None and taken.setdefault(final, name) != name:
            raise InputError(f"the names map both {taken[final]!r} and {name!r} to {final!r}")
        yield name, (final, array)


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _converts(given: np.dtype, own: np.dtype) -> bool:
    """Whether numbers may be converted: floats to floats, anything else to its own kind."""
    return given == own or (_floating(given) and _floating(own)) or (given.kind in "iu" and own.kind in "iu")


def _floating(dtype: np.dtype) -> bool:
    return any(d.is_float and d.numpy == dtype for d in DTYPES.values())


def _described(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"
