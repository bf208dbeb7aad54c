"""Checkpoints: one safetensors file with the whole state, and what else a run needs to go on as JSON metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from graphrt.errors import InputError
from graphrt.files import whole
from graphrt.runtime.processes import Processes
from graphrt.runtime.state import State, write_arrays
from graphrt.train.batch import WEIGHT, Batch, Spec, Tree, mapped
from graphrt.types import TensorType

FORMAT = "graphrt-checkpoint-1"
# The kind of each entry of the metadata. Older files lack the optional ones, and a count is no less than 0.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "epoch": int,
    "steps": int,
    "seed": int,
    "batch": (dict, list),
    "optimizer": str,
    "history": str,
}
OPTIONAL: dict[str, type | tuple[type, ...]] = {
    "batches": int,
    "pooled": (dict, list),
    "counted": dict,
    "weights": list,
    "notes": dict,
}


def save_checkpoint(path: str | Path, state: State, metadata: dict[str, Any], joined: Processes | None = None) -> None:
    """Writes ``state`` and ``metadata`` (JSON values) to ``path``, a safetensors file that appears whole or not at all.

    All of the processes that are ``joined`` must call this: the first writes what all have. It is there for all of them then.
    """
    arrays = state.gathered()
    if joined is None or joined.rank == 0:
        with whole(path, durable=True) as file:
            write_arrays(file, arrays, {"format": FORMAT, "graphrt": json.dumps(metadata)})
    if joined is not None:
        joined.all(None)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of the checkpoint at ``path``. Raises InputError for a file that is none, or was altered, OSError."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder, not a safetensors file")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version ({FORMAT}); its format is {metadata.get('format')!r}")
    try:
        found = json.loads(metadata.get("graphrt", ""))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not what was written: its metadata is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} is not what was written: its metadata is no JSON object")
    missing = sorted(REQUIRED.keys() - found.keys())
    wrong = [f"{name} is {found[name]!r}"[:100] for name, kind in (REQUIRED | OPTIONAL).items() if not _fits(found, name, kind)]
    if missing or wrong:
        raise InputError(f"{path} is not what was written: {'; '.join([*wrong, *(f'{name} is missing' for name in missing)])}")
    return found


def _fits(found: Mapping[str, Any], name: str, kind: type | tuple[type, ...]) -> bool:
    """Whether the entry ``name`` is of ``kind``, if it is there."""
    if name not in found:
        return True
    value = found[name]
    if kind is int:
        return type(value) is int and (value >= 0 or name == "seed")
    return isinstance(value, kind)


def specs_to_json(specs: Batch, types: Mapping[str, TensorType]) -> dict[str, Any]:
    """Shapes, dtypes and orders of a program's inputs, which are of ``types``, as JSON; ``specs_from_json`` reads them."""

    def laid(name: str, spec: Spec) -> Spec:
        return types[name].shape, types[name].dtype.name, types[name].order

    names = {"x": "x", "y": "y", "weight": WEIGHT}
    return {part: mapped(laid, names[part], tree) for part, tree in specs._asdict().items() if tree is not None}


def specs_from_json(found: Any) -> Batch:
    """Reads what ``specs_to_json`` wrote, or the list [x, y] of older files."""
    found = found if isinstance(found, Mapping) else dict(zip(("x", "y"), found, strict=True))
    return Batch(**{name: _tree(part) for name, part in found.items()})


def _tree(part: Any) -> Tree:
    if isinstance(part, Mapping):
        return {name: _tree(leaf) for name, leaf in part.items()}
    if len(part) in (2, 3) and isinstance(part[1], str):
        shape, dtype, order = part if len(part) == 3 else (*part, None)  # older files say no order
        return tuple(shape), dtype, None if order is None else tuple(order)
    return tuple(_tree(leaf) for leaf in part)


def check_network(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError where the checkpoint at ``path`` is of a network other than that of ``arrays``, by shapes and names."""
    with safe_open(path, "numpy") as file:
        found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    wrong = [
        f"{name} is {found[name]}, here {list(array.shape)}"
        for name, array in arrays.items()
        if name in found and found[name] != list(array.shape)
    ]
    if wrong or not found.keys() & arrays.keys():
        raise InputError(f"{path} is a checkpoint of another network: {'; '.join(wrong) or 'it has no parameter of this one'}")
