"""Saved programs of GPUs: kernel-KEY.cubin or .hsaco, one for each distinct kernel.

``target`` is the architecture they are compiled for. ``table`` lists every buffer, ``offset`` bytes into the arena where it
is no state; ``launches`` are [kernel, grid, [entries of the table]]; ``arena``, ``temporary`` and ``scratch`` are sizes in
bytes, which ``Image`` explains. What a library computes is a kernel without a file, a ``call``; what processes exchange is a
``collective``, and ``until`` has pairs of their launches and those before which they must be over. No compiler, and no Triton,
is needed to run them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphrt.errors import TargetError
from graphrt.mesh import Mesh
from graphrt.runtime.runnable import Runnable
from graphrt.targets.saved import Types, part, read_program, write_program, written_once
from graphrt.targets.triton.binary import DeviceBinary
from graphrt.targets.triton.collective import Call, CollectiveCall
from graphrt.targets.triton.device import gpu_driver, null_driver
from graphrt.targets.triton.driver import Driver
from graphrt.targets.triton.image import Buffer, Image, ImageLaunch
from graphrt.targets.triton.kernel import KernelBinary
from graphrt.targets.triton.library import LibraryCall
from graphrt.types import TensorType


def save(path: str | Path, image: Image, architecture: str, program: Runnable, mesh: Mesh | None = None) -> None:
    """Writes ``program``, which runs ``image``, as the folder ``path``; of a ``mesh`` one process does. Raises OSError."""
    written_once(mesh, program, image.buffers("state"), lambda: _save(path, image, architecture, program))


def _save(path: str | Path, image: Image, architecture: str, program: Runnable) -> None:
    number = {b: i for i, b in enumerate(dict.fromkeys(b for launch in image.launches for b in launch.buffers))}
    write_program(
        path,
        program,
        architecture,
        [{"space": b.space, "name": b.name, "type": str(b.type), "offset": b.offset} for b in number],
        {k.file: functools.partial(_write, k.code) for k in image.kernels if isinstance(k, KernelBinary)},
        {
            "arena": image.size,
            "temporary": image.temporary,
            "scratch": image.scratch,
            "kernels": [_described(k) for k in image.kernels],
            "launches": [[launch.kernel, launch.grid, [number[b] for b in launch.buffers]] for launch in image.launches],
            "until": [*image.until.items()],
        },
    )


def _described(kernel: KernelBinary | Call) -> dict[str, Any]:
    if isinstance(kernel, CollectiveCall):
        return {"collective": kernel.described()}
    if isinstance(kernel, LibraryCall):
        return {"call": kernel.described()}
    return {**kernel.described(), "file": kernel.file}


def _write(code: bytes, to: Path) -> None:
    to.write_bytes(code)


def load(folder: Path, manifest: Mapping[str, Any], target: str) -> Runnable:
    """The program that ``save`` wrote, on torch's current GPU, or on the null driver. Raises InputError, TargetError."""
    driver = _driver(folder, manifest["target"], target)
    outputs = {name: TensorType.parse(type) for name, type in manifest["outputs"].items()}

    def binary(types: Types) -> DeviceBinary:
        return DeviceBinary(_image(folder, manifest), driver, outputs)

    return read_program(folder, manifest, target or manifest["target"].split(":")[0], binary)


def _driver(folder: Path, architecture: str, target: str) -> Driver:
    if target == "null":
        return null_driver(architecture)
    try:
        driver = gpu_driver(architecture.split(":")[0])
    except TargetError:
        raise TargetError(
            f"{folder} was compiled for {architecture}, and there is no such GPU that torch can use here; "
            "load(path, target='null') runs everything but the kernels"
        ) from None
    from graphrt.targets.triton.gpu import can_run

    if not can_run(architecture, driver.target):
        raise TargetError(f"{folder} was compiled for {architecture}; the GPU here is {driver.target}; compile it for that")
    return driver


def _image(folder: Path, manifest: Mapping[str, Any]) -> Image:
    buffers = [Buffer(e["space"], e["name"], TensorType.parse(e["type"]), e["offset"]) for e in manifest["table"]]
    kernels: list[KernelBinary | Call] = []
    for entry in manifest["kernels"]:
        if "collective" in entry:
            kernels.append(CollectiveCall.parse(entry["collective"]))
            continue
        if "call" in entry:
            kernels.append(LibraryCall.parse(entry["call"]))
            continue
        fields = dict(entry)
        code = part(folder, manifest, fields.pop("file")).read_bytes()
        kernels.append(KernelBinary(**fields, code=code))
    launches = [ImageLaunch(kernel, grid, tuple(buffers[i] for i in table)) for kernel, grid, table in manifest["launches"]]
    until = {start: end for start, end in manifest.get("until", ())}
    return Image(kernels, launches, manifest["arena"], manifest["temporary"], manifest["scratch"], until)
