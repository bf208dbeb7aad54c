"""Reads the functions of a shared object (ELF, 64 bits, little-endian), to find those that the C compiler left empty.

GCC 12 folds functions with equal bodies (-fipa-icf), and where their loops are ``omp simd`` one of two that write memory may
be left as a bare return: no message, and results of the call before. Every kernel writes something; but of one that writes
over what it reads nothing is left rightly where it finds what it would write, as an update of a parameter to itself does.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_FUNCTION, _SYMBOLS = 2, 2  # STT_FUNC, SHT_SYMTAB
_MARKS = (b"\xf3\x0f\x1e\xfa", b"\x5f\x24\x03\xd5")  # where an indirect call may land: x86's endbr64, Arm's bti c
_RETURNS = (b"\xc3", b"\xf3\xc3", b"\xc0\x03\x5f\xd6")  # x86's ret and its two-byte form, Arm's


def functions(path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and the machine code of each function in the symbol table of ``path``; none of what is no such file."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return
    (table,), (size, count) = struct.unpack_from("<Q", data, 0x28), struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    for _, kind, _, _, start, length, link, _, _, each in sections:
        for at in range(start, start + length, each) if kind == _SYMBOLS else ():
            name, info, _, section, address, extent = struct.unpack_from("<IBBHQQ", data, at)
            if info & 15 != _FUNCTION or not 0 < section < count or not extent:
                continue
            text = sections[link][4] + name
            code = sections[section][4] + address - sections[section][3]
            yield data[text : data.index(b"\0", text)].decode(), data[code : code + extent]


def empty(path: Path, prefixes: tuple[str, ...]) -> list[str]:
    """The functions of ``path`` with a name that begins with one of ``prefixes`` that do nothing but return."""
    found = []
    for name, code in functions(path):
        for mark in _MARKS:
            code = code.removeprefix(mark)
        if name.startswith(prefixes) and code.startswith(_RETURNS):
            found.append(name)
    return found
