"""What machine code takes of a device: registers, spilled bytes, and how many programs fit on a multiprocessor."""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from pathlib import Path

from graphrt.errors import TargetError
from graphrt.targets.triton.build import KernelBinary


@functools.lru_cache(64)
def usage(kernel: KernelBinary) -> tuple[int, int]:
    """Registers and spilled bytes of a thread. Raises TargetError where the code does not say."""
    if kernel.target.startswith("hip"):
        return _note(kernel.code, b".vgpr_count"), 4 * _note(kernel.code, b".vgpr_spill_count")
    return cubin_usage(kernel.code)


def cubin_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and spilled bytes of a thread of the kernel in a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cubin"
        path.write_bytes(cubin)
        text = tool("cuobjdump", "-res-usage", path)
    registers, spills = (int(re.findall(rf"{key}:(\d+)", text)[-1]) for key in ("REG", "STACK"))
    return registers, spills


def tool(name: str, *arguments: str | Path) -> str:
    """What a tool of the Triton wheel prints."""
    import triton

    command = [Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def resident(kernel: KernelBinary) -> int:
    """How many programs of ``kernel`` a multiprocessor holds."""
    from graphrt.kernels.triton.cost import occupancy  # type: ignore[import-not-found]

    arch = kernel.target.split(":")[1]
    return int(occupancy(usage(kernel)[0], kernel.shared, kernel.threads // lanes(kernel.target), arch))


def lanes(target: str) -> int:
    """Threads of a warp."""
    from graphrt.kernels.triton.cost import device

    return int(device(target.split(":")[1]).lanes)


def _note(code: bytes, name: bytes) -> int:
    """An unsigned number of the MessagePack note in an hsaco."""
    start = code.find(name) + len(name)
    if start < len(name):
        raise TargetError(f"the machine code does not tell its {name.decode()}")
    size = {0xCC: 1, 0xCD: 2, 0xCE: 4}.get(code[start], 0)
    return int.from_bytes(code[start + 1 : start + 1 + size], "big") if size else code[start]
