"""The contents of a cubin: machine code, the registers of a thread, what it spills; and the disassembler's listing."""

from __future__ import annotations

import bisect
import itertools
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

_REGISTERS, _FRAME = 0x2F, 0x11  # attributes of a kernel in .nv.info: (symbol, number)
_SIZED = 0x04  # the format of attributes whose values have a size; those of others are two bytes


def usage(cubin: bytes, arch: str) -> tuple[int, int]:
    """Registers and spilled bytes of a thread of the kernel in a cubin for ``arch``.

    A frame on the stack that the code neither reads nor writes, as the assembler leaves at times, is no spill.
    """
    attributes = dict(_attributes(cubin))
    frame = attributes.get(_FRAME, 0)
    if frame and not re.search(r"\b(LDL|STL)\b", listings([cubin], arch)[0]):
        frame = 0
    return attributes[_REGISTERS], frame


def listings(cubins: Sequence[bytes], arch: str) -> list[str]:
    """The instructions of each cubin for ``arch`` (sm_90), as text.

    The disassembler takes half a second to start, so all code goes through it at once, end to end, and is told apart by
    address.
    """
    import triton

    parts = [code(cubin) for cubin in cubins]
    ends = list(itertools.accumulate(map(len, parts)))
    machine = arch.upper().replace("_", "")
    machine += "a" * (machine >= "SM90" or len(machine) > 4)
    nvdisasm = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code"
        path.write_bytes(b"".join(parts))
        text = subprocess.run([nvdisasm, "--binary", machine, path], capture_output=True, text=True, check=True).stdout
    found: list[list[str]] = [[] for _ in parts]
    for line in text.splitlines():
        if match := re.match(r"\s*/\*([0-9a-f]+)\*/", line):
            found[bisect.bisect_right(ends, int(match[1], 16))].append(line)
    return ["\n".join(lines) for lines in found]


def code(cubin: bytes) -> bytes:
    """The machine code in a cubin."""
    return b"".join(content for name, content in _sections(cubin) if name.startswith(".text."))


def _sections(cubin: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the sections of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    heads = [struct.unpack_from("<IIQQQQ", cubin, table + i * size) for i in range(count)]  # name, ..., offset, size
    texts = heads[names][4]
    for name, _, _, _, offset, length in heads:
        start = texts + name
        yield cubin[start : cubin.index(b"\0", start)].decode(), cubin[offset : offset + length]


def _attributes(cubin: bytes) -> Iterator[tuple[int, int]]:
    """The attributes of the one kernel that are numbers."""
    info = next(content for name, content in _sections(cubin) if name == ".nv.info")
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == _SIZED:
            if size == 8:
                yield attribute, struct.unpack_from("<II", info, at)[1]
            at += size
