"""Programs as folders, which run without a graph and without a compiler.

    manifest.json        format, target, machine, what the processor must have, the arena, the pointer table
    program-KEY.so       the program; KEY follows from its content, so that no loader takes one version for another
    runtime-KEY.so       the thread pool
    state.safetensors    parameters and whatever else the program keeps, in logical layout

Entry 0 of the pointer table is the arena: ``arena`` bytes, aligned to ``alignment`` and with that much room on both sides.
Entry i is ``table[i - 1]``; its type says in braces, where it is not row-major, how the dimensions lie in memory, outermost
first. The entry behind the last points to ``frozen`` pointers, NULL at first: what a frozen program packs once.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from graphrt.errors import InputError, TargetError
from graphrt.runtime.program import Runnable
from graphrt.runtime.state import State
from graphrt.schedule.memory import ALIGNMENT
from graphrt.targets.cpu.binary import CpuBinary
from graphrt.targets.cpu.build import processor, required, runtime
from graphrt.types import TensorType

FORMAT = "graphrt-program-2"
MANIFEST, STATE = "manifest.json", "state.safetensors"


def save(path: str | Path, binary: CpuBinary, program: Runnable) -> None:
    """Writes ``program``, which runs ``binary``, as the folder ``path``; the manifest comes last. Raises OSError."""
    folder, pool = Path(path), runtime()
    folder.mkdir(parents=True, exist_ok=True)
    types = {"input": program.inputs, "state": program.state.types, "output": program.outputs}
    manifest = {
        "format": FORMAT,
        "target": program.target,
        "machine": platform.machine(),
        "processor": required(),
        "program": binary.path.name,
        "runtime": pool.name,
        "arena": binary.arena,
        "alignment": ALIGNMENT,
        "frozen": binary.frozen,
        "updates": program._updates,
        "table": [{"space": space, "name": name, "type": str(types[space][name])} for space, name in binary.entries],
        "needed": program._needed,
        "unpack": program._unpack,
    }
    names = [name for space, name in binary.entries if space == "state"]
    for object in (binary.path, pool):
        _write(folder / object.name, functools.partial(shutil.copyfile, object))
    _write(folder / STATE, lambda to: program.state.save(to, {"format": FORMAT}, names))
    _write(folder / MANIFEST, lambda to: to.write_text(json.dumps(manifest, indent=1) + "\n"))
    for kind in ("program", "runtime"):
        for old in folder.glob(f"{kind}-*.so"):
            if old.name != manifest[kind]:
                old.unlink()


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` make the file, which replaces an old one as a whole: another process may have that one loaded."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path) -> Runnable:
    """The program that ``Program.save`` wrote at ``path``, with a state of its own. No compiler runs.

    Raises InputError for a folder that is no saved program of this version or lacks a file, TargetError when this machine
    cannot run it.
    """
    folder = Path(path).resolve()
    manifest = read_manifest(folder)
    _check_machine(folder, manifest)
    types = {(e["space"], e["name"]): TensorType.parse(e["type"]) for e in manifest["table"]}
    state = State()
    for (space, name), type in types.items():
        if space == "state":
            state.add(name, type, np.zeros((), type.dtype.numpy))
    try:
        state.load(_file(folder, STATE))
    except SafetensorError as error:
        raise InputError(f"{folder / STATE} is not a safetensors file: {error}") from None
    program, pool = _file(folder, manifest["program"]), _file(folder, manifest["runtime"])
    try:
        binary = CpuBinary(program, manifest["arena"], types, manifest["frozen"], pool)
    except OSError as error:
        raise TargetError(f"this machine cannot load {folder}: {error}") from None
    inputs, outputs = ({n: t for (s, n), t in types.items() if s == space} for space in ("input", "output"))
    how = (manifest["needed"], manifest["unpack"], manifest["updates"])
    return Runnable(manifest["target"], inputs, outputs, state, binary, *how)


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise InputError(f"{folder} is no saved program, or not all of one: it has no {name}")
    return folder / name


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of the saved program ``folder``. Raises InputError when it is none, or of another version."""
    try:
        found = json.loads(_file(folder, MANIFEST).read_text())
    except ValueError as error:
        raise InputError(f"{folder / MANIFEST} is not JSON: {error}") from None
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise InputError(f"{folder} is not a saved program of this version ({FORMAT}); its format is {version!r}")
    return found


def _check_machine(folder: Path, manifest: dict[str, Any]) -> None:
    if manifest["machine"] != platform.machine():
        raise TargetError(f"{folder} was built for {manifest['machine']}; this machine is {platform.machine()}")
    missing = sorted(set(manifest["processor"]) - set(processor()))
    if missing:
        raise TargetError(
            f"{folder} was built for a processor with {', '.join(missing)}, which this one lacks; compile and save "
            "it on this one, or there with GRAPHRT_CFLAGS=-march=... for what both have"
        )
