"""Saved programs of the cpu target.

    program-KEY.so       the program; KEY follows from its content, so that no loader takes one version for another
    runtime-KEY.so       the thread pool

The manifest names both, the machine and what its processor must have, the arena, and the pointer table. Entry 0 of that is the
arena: ``arena`` bytes, aligned to ``alignment`` and with that much room on both sides. Entry i is ``table[i - 1]``. The entry
behind the last points to ``frozen`` pointers, NULL at first: what a frozen program packs once.
"""

from __future__ import annotations

import functools
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrt.errors import TargetError
from graphrt.runtime.exchange import Exchanges
from graphrt.runtime.runnable import Runnable
from graphrt.schedule.memory import ALIGNMENT
from graphrt.targets.cpu.binary import CpuBinary
from graphrt.targets.cpu.build import processor, required, runtime
from graphrt.targets.saved import Types, part, read_program, write_program, written_once


def save(path: str | Path, binary: CpuBinary, program: Runnable) -> None:
    """Writes ``program``, which runs ``binary``, as the folder ``path``. Raises OSError."""
    mesh = binary.exchanges.mesh if binary.exchanges is not None else None
    states = (name for space, name in binary.entries if space == "state")
    written_once(mesh, program, states, lambda: _write(path, binary, program))


def _write(path: str | Path, binary: CpuBinary, program: Runnable) -> None:
    pool = runtime()
    types = {"input": program.inputs, "state": program.state.types, "output": program.outputs}
    write_program(
        path,
        program,
        program.target,
        [{"space": space, "name": name, "type": str(types[space][name])} for space, name in binary.entries],
        {object.name: functools.partial(shutil.copyfile, object) for object in (binary.path, pool)},
        {
            "machine": platform.machine(),
            "processor": required(),
            "program": binary.path.name,
            "runtime": pool.name,
            "arena": binary.arena,
            "alignment": ALIGNMENT,
            "frozen": binary.frozen,
            "launches": binary.launches,
            "exchanges": binary.exchanges and binary.exchanges.to_json(),
        },
    )


def load(folder: Path, manifest: Mapping[str, Any]) -> Runnable:
    """The program that ``save`` wrote. No compiler runs. Raises InputError, TargetError when this machine cannot run it."""
    _check_machine(folder, manifest)

    def binary(types: Types) -> CpuBinary:
        program, pool = (part(folder, manifest, manifest.get(name)) for name in ("program", "runtime"))
        outputs = {n: t for (space, n), t in types.items() if space == "output"}
        try:
            exchanges = Exchanges.of_json(manifest["exchanges"])
            return CpuBinary(
                program, manifest["arena"], types, outputs, manifest["frozen"], pool, manifest["launches"], exchanges
            )
        except OSError as error:
            raise TargetError(f"this machine cannot load {folder}: {error}") from None

    return read_program(folder, manifest, manifest["target"], binary)


def _check_machine(folder: Path, manifest: Mapping[str, Any]) -> None:
    if manifest["machine"] != platform.machine():
        raise TargetError(f"{folder} was built for {manifest['machine']}; this machine is {platform.machine()}")
    missing = sorted(set(manifest["processor"]) - set(processor()))
    if missing:
        raise TargetError(
            f"{folder} was built for a processor with {', '.join(missing)}, which this one lacks; compile and save "
            "it on this one, or there with GRAPHRT_CFLAGS=-march=... for what both have"
        )
