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
from graphrt.runtime.state import State

FORMAT = "graphrt-checkpoint-1"


def save_checkpoint(path: str | Path, state: State, metadata: dict[str, Any]) -> None:
    """Writes ``state`` and ``metadata`` (JSON values) to ``path``, a safetensors file that appears whole or not at all."""
    with whole(path, durable=True) as file:
        state.save(file, {"format": FORMAT, "graphrt": json.dumps(metadata)})


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of the checkpoint at ``path``. Raises InputError for a file that is none, OSError."""
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is not a checkpoint of this version ({FORMAT}); its format is {metadata.get('format')!r}")
    found = json.loads(metadata["graphrt"])
    assert isinstance(found, dict)
    return found


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
