"""Programs as folders, which run without a graph and without a compiler: the common part of all targets.

    manifest.json           format, target, inputs, outputs and state by name, what the target needs to load the rest, and
                            the digest of each file, its own among them
    state-KEY.safetensors   parameters and whatever else the program keeps, in logical layout
    explain-KEY.json        the graph as it was built, and how it was compiled: what ``graphrt explain`` answers from

and the machine code. Names but the manifest's follow from the content: a new program lies beside the old one until the new
manifest takes the place of the old. ``table`` lists the program's buffers; the type of each says in braces, where it is not
row-major, how the dimensions lie in memory, outermost first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.errors import InputError
from graphrt.files import foreign, scratch, sync, whole
from graphrt.mesh import Mesh
from graphrt.passes.open_batch import OpenBatch
from graphrt.runtime.processes import processes
from graphrt.runtime.program import Program
from graphrt.runtime.runnable import Binary, Calling, Runnable
from graphrt.runtime.state import State
from graphrt.sharding import Sharding
from graphrt.signature import CallSignature
from graphrt.types import TensorType

FORMAT = "graphrt-program-9"
MANIFEST = "manifest.json"
_SUFFIXES = (".so", ".cubin", ".hsaco", ".safetensors", ".json")
Types = dict[tuple[str, str], TensorType]  # by space and name
# What a manifest must have, whatever the target: a type, a list of one, or a mapping of names to one.
_SCHEMA: Mapping[str, Any] = {
    "format": str,
    "target": str,
    "state": str,
    "files": {"": str},
    "updates": [str],
    "copies": {"": str},
    "table": [{"space": str, "name": str, "type": TensorType}],
    "needed": [str],
    "unpack": str,
    "inputs": {"": TensorType},
    "outputs": {"": TensorType},
}


# --- writing ------------------------------------------------------------------------------------------------------


def write_program(
    path: str | Path,
    program: Runnable,
    target: str,
    table: Iterable[Mapping[str, Any]],
    files: Mapping[str, Callable[[Path], object]],
    special: Mapping[str, Any],
) -> None:
    """Writes ``program`` as the folder ``path``; ``files`` make the machine code, by name, and the manifest comes last.

    ``table`` has space, name and type of each buffer; ``special`` is the target's own. A program that was there is whole until
    this one is. Raises OSError.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    table = list(table)
    old = {p.name for p in folder.glob("*-*") if p.suffix in _SUFFIXES}
    names = sorted({entry["name"] for entry in table if entry["space"] == "state"})
    sharded = {name: program.state.sharding[name] for name in names if name in program.state.sharding}
    explained = _explained(program, target)
    files = {**files, **{name: functools.partial(Path.write_text, data=text) for name, text in explained.items()}}
    digests = {name: _write(folder / name, make) for name, make in files.items()}
    state, digest = _write_state(folder, program.state, kept_state(program, names))
    manifest = {
        "format": FORMAT,
        "target": target,
        **special,
        "state": state,
        "explain": next(iter(explained), ""),
        "files": {**digests, state: digest},
        "updates": sorted(program._updates),
        "copies": {name: of for name, of in program.state.copies.items() if name in names},
        "table": table,
        "needed": program._needed,
        "unpack": program._unpack,
        "inputs": {name: str(type) for name, type in program.inputs.items()},
        "outputs": {name: str(type) for name, type in program.outputs.items()},
        **({} if program.batch is None else {"batch": program.batch.to_json()}),
        "call": _call(program),
        "sharded": {name: {"mesh": str(s.mesh), "cuts": s.cuts} for name, s in sharded.items()},
    }
    with whole(folder / MANIFEST, durable=True) as file:
        file.write_text(json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1) + "\n")
    for name in old - {*digests, state}:
        (folder / name).unlink(missing_ok=True)


def written_once(mesh: Mesh | None, program: Runnable, states: Iterable[str], write: Callable[[], None]) -> None:
    """Has the first process of a ``mesh`` ``write`` a ``program`` that keeps ``states``; all must call this.

    It is there for all of them then.
    """
    joined = None if mesh is None or mesh.size == 1 else processes(mesh)
    if joined is None or joined.rank == 0:
        write()
    else:
        program.state.gathered(kept_state(program, states))
    if joined is not None:
        joined.all(None)


def kept_state(program: Runnable, names: Iterable[str]) -> list[str]:
    """The ``names`` that are kept with ``program``, in the order in which they are."""
    return [name for name in sorted(set(names)) if name not in program.state.copies]


def _call(program: Runnable) -> dict[str, Any] | None:
    """How the model was called that ``program`` is of, None where it is called by name, or that cannot be kept."""
    call = program._model.kept() if program._model is not None else None
    return None if call is None else call.to_json()


def _explained(program: Runnable, target: str) -> dict[str, str]:
    """A record of how ``program`` was made, as a file's text by its name."""
    if not isinstance(program, Program):
        return {}
    text = json.dumps({"target": target, **program.recipe.arguments, "graph": str(program.built)}, indent=1) + "\n"
    return {f"explain-{hashlib.sha256(text.encode()).hexdigest()[:24]}.json": text}


def _write(path: Path, make: Callable[[Path], object]) -> str:
    """The digest of the file ``path``, which ``make`` writes."""
    with whole(path, durable=True) as file:  # another process may have the old one loaded
        make(file)
        return hashlib.sha256(file.read_bytes()).hexdigest()


def _write_state(folder: Path, state: State, names: Sequence[str]) -> tuple[str, str]:
    """The name and the digest of a file of ``names``."""
    temporary = scratch(folder / "state")
    try:
        digest = _write(temporary, lambda file: state.save(file, {"format": FORMAT}, names))
        name = f"state-{digest[:24]}.safetensors"
        os.replace(temporary, folder / name)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)
    return name, digest


def _digest(manifest: Mapping[str, Any]) -> str:
    """The digest of a manifest but for the digest itself, however its text is laid out."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


# --- reading ------------------------------------------------------------------------------------------------------


def read_manifest(folder: str | Path, trusted: bool = False) -> dict[str, Any]:
    """The manifest of the saved program ``folder``.

    Raises InputError when it is none, of another version, altered, or, unless ``trusted``, may be somebody else's.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} is no saved program, or not all of one: it has no {MANIFEST}")
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise InputError(f"{folder} is not a saved program of this version ({FORMAT}); its format is {version!r}")
    if found.get("sha256") != _digest(found):
        raise InputError(f"{path} is not what was written; save the program again")
    _check(found, path)
    for name in () if trusted else (".", MANIFEST, *found["files"]):
        if why := foreign(folder / name, group=False):
            raise InputError(f"{why}, and loading a program runs its machine code; if you trust it: load(path, trusted=True)")
    return found


def read_explain(folder: str | Path) -> dict[str, Any]:
    """How the saved program ``folder`` was made: its target, the arguments of ``compile``, and the graph as text.

    Raises InputError, also where that was not kept.
    """
    manifest = read_manifest(folder, trusted=True)  # nothing of it is run
    found: dict[str, Any] = json.loads(part(Path(folder), manifest, manifest.get("explain")).read_text())
    return found


def _check(manifest: Mapping[str, Any], path: Path) -> None:
    """Raises InputError when ``manifest`` lacks a part, has one of another kind, or one that names what is not there."""
    for key, kind in _SCHEMA.items():
        if not _fits(manifest.get(key), kind):
            raise InputError(f"{path}: {key!r} is {manifest.get(key)!r}, which a program cannot have")
    buffers = [(entry["space"], entry["name"]) for entry in manifest["table"]]
    state = {name for space, name in buffers if space == "state"}
    wrong = [name for name in manifest["files"] if Path(name).name != name or name in (".", "..", MANIFEST)]
    wrong += [space for space, _ in buffers if space not in ("arena", "input", "output", "state", "barrier")]
    wrong += [name for name in (manifest["state"],) if name not in manifest["files"]]
    wrong += [name for name in manifest["needed"] if name not in manifest["inputs"]]
    wrong += [name for pair in manifest["copies"].items() for name in pair if name not in state]
    wrong += [unpack for unpack in (manifest["unpack"],) if unpack not in ("dict", "list", "single")]
    if wrong:
        raise InputError(f"{path}: {wrong[0]!r} is not a name that it can have there")


def _fits(value: Any, kind: Any) -> bool:
    """Whether ``value`` is of ``kind``, as ``_SCHEMA`` writes it."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(v, kind[0]) for v in value)
    if isinstance(kind, dict):
        parts = dict.fromkeys(value, kind[""]) if "" in kind and isinstance(value, dict) else kind
        return isinstance(value, dict) and all(_fits(value.get(k), v) for k, v in parts.items())
    if kind is not TensorType:
        return isinstance(value, kind)
    try:
        return isinstance(value, str) and TensorType.parse(value) is not None
    except ValueError:
        return False


def part(folder: Path, manifest: Mapping[str, Any], name: Any) -> Path:
    """The file ``name`` of a saved program, as it was written.

    Raises InputError when the program has none of that name, it is not there, or it has been altered.
    """
    if name not in manifest["files"] or not (folder / name).is_file():
        raise InputError(f"{folder} is no saved program, or not all of one: it has no {name}")
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != manifest["files"][name]:
        raise InputError(f"{folder / name} is not what was written; save the program again")
    return folder / name


def read_program(folder: Path, manifest: Mapping[str, Any], target: str, binary: Callable[[Types], Binary]) -> Runnable:
    """The program of ``manifest``, with a state of its own; ``binary`` makes what runs it.

    Raises InputError, and what ``binary`` raises.
    """
    types: Types = {(e["space"], e["name"]): TensorType.parse(e["type"]) for e in manifest["table"]}
    state = State()
    own = {name: type for (space, name), type in types.items() if space == "state"}
    state.extend(own, {name: np.zeros((), type.dtype.numpy) for name, type in own.items()}, manifest["copies"])
    for name, found in manifest.get("sharded", {}).items():
        cuts = tuple((axis, dim, tuple(shape)) for axis, dim, shape in found["cuts"])
        state.sharding[name] = Sharding(Mesh.parse(found["mesh"]), cuts)
    state.load(part(folder, manifest, manifest["state"]))
    inputs, outputs = ({n: TensorType.parse(t) for n, t in manifest[kind].items()} for kind in ("inputs", "outputs"))
    batch = OpenBatch.from_json(manifest["batch"]) if "batch" in manifest else None
    call = None if manifest.get("call") is None else CallSignature.from_json(manifest["call"])
    calling = Calling(manifest["needed"], manifest["unpack"], manifest["updates"], batch, call)
    return Runnable(target, inputs, outputs, state, binary(types), calling)
