"""Programs as folders, which run without a graph and without a compiler: the common part of all targets.

    manifest.json        format, target, inputs, outputs and state by name, what the target needs to load the rest
    state.safetensors    parameters and whatever else the program keeps, in logical layout

and the machine code, under names that follow from its content. ``table`` lists the program's buffers; the type of each says
in braces, where it is not row-major, how the dimensions lie in memory, outermost first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from graphrt.errors import InputError
from graphrt.files import whole
from graphrt.runtime.runnable import Binary, Runnable
from graphrt.runtime.state import State
from graphrt.types import TensorType

FORMAT = "graphrt-program-5"
MANIFEST, STATE = "manifest.json", "state.safetensors"
Types = dict[tuple[str, str], TensorType]  # by space and name


def write_program(
    path: str | Path,
    program: Runnable,
    target: str,
    table: Iterable[Mapping[str, Any]],
    files: Mapping[str, Callable[[Path], object]],
    special: Mapping[str, Any],
) -> None:
    """Writes ``program`` as the folder ``path``; ``files`` make the machine code, by name, and the manifest comes last.

    ``table`` has space, name and type of each buffer; ``special`` is the target's own. Raises OSError.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    table = list(table)
    names = sorted({entry["name"] for entry in table if entry["space"] == "state"})
    manifest = {
        "format": FORMAT,
        "target": target,
        **special,
        "updates": sorted(program._updates),
        "copies": {name: of for name, of in program.state.copies.items() if name in names},
        "table": table,
        "needed": program._needed,
        "unpack": program._unpack,
        "inputs": {name: str(type) for name, type in program.inputs.items()},
        "outputs": {name: str(type) for name, type in program.outputs.items()},
    }
    old = {p.name for p in folder.glob("*-*") if p.suffix in (".so", ".cubin", ".hsaco")} - files.keys()
    for name, make in files.items():
        with whole(folder / name) as file:  # another process may have the old one loaded
            make(file)
    kept = [name for name in names if name not in program.state.copies]
    with whole(folder / STATE) as file:
        program.state.save(file, {"format": FORMAT}, kept)
    with whole(folder / MANIFEST) as file:
        file.write_text(json.dumps(manifest, indent=1) + "\n")
    for name in old:
        (folder / name).unlink()


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of the saved program ``folder``. Raises InputError when it is none, or of another version."""
    folder = Path(folder)
    try:
        found = json.loads(file(folder, MANIFEST).read_text())
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST} is not JSON: {error}") from None
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise InputError(f"{folder} is not a saved program of this version ({FORMAT}); its format is {version!r}")
    return found


def file(folder: Path, name: str) -> Path:
    """The file ``name`` of a saved program. Raises InputError when it is not there."""
    if not (folder / name).is_file():
        raise InputError(f"{folder} is no saved program, or not all of one: it has no {name}")
    return folder / name


def read_program(folder: Path, manifest: Mapping[str, Any], target: str, binary: Callable[[Types], Binary]) -> Runnable:
    """The program of ``manifest``, with a state of its own; ``binary`` makes what runs it.

    Raises InputError, and what ``binary`` raises.
    """
    types: Types = {(e["space"], e["name"]): TensorType.parse(e["type"]) for e in manifest["table"]}
    state = State()
    own = {name: type for (space, name), type in types.items() if space == "state"}
    state.extend(own, {name: np.zeros((), type.dtype.numpy) for name, type in own.items()}, manifest["copies"])
    try:
        state.load(file(folder, STATE))
    except SafetensorError as error:
        raise InputError(f"{folder / STATE} is not a safetensors file: {error}") from None
    inputs, outputs = ({n: TensorType.parse(t) for n, t in manifest[kind].items()} for kind in ("inputs", "outputs"))
    how = (manifest["needed"], manifest["unpack"], manifest["updates"])
    return Runnable(target, inputs, outputs, state, binary(types), *how)
