"""KernelBinary: machine code of one kernel, and how to launch it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SUFFIX = {"cuda": "cubin", "hip": "hsaco"}


@dataclass(frozen=True)
class KernelBinary:
    """Machine code of one kernel and how to launch it.

    ``entry`` is its symbol, ``threads`` the size of a block, ``shared`` the bytes of shared memory of a block, ``scratch`` the
    bytes of global memory that each block wants for itself, ``pointers`` how many pointers it takes. Behind these it takes
    two more, to its scratch memory and to the profiler's. ``instructions`` counts the telling ones of AMD's machine code, for
    which Triton brings no disassembler (``report``). One that is ``dependent`` waits for the launch in front before it touches
    memory, so it may begin before that has ended. The programs of one that is ``cooperative`` wait for each other; it is the
    number that a multiprocessor holds.
    """

    target: str
    entry: str
    threads: int
    shared: int
    scratch: int
    pointers: int
    instructions: Mapping[str, int]
    code: bytes
    dependent: bool = False
    cooperative: int = 0

    @property
    def file(self) -> str:
        """A file name that follows from the content."""
        return f"kernel-{hashlib.sha256(self.code).hexdigest()[:24]}.{_SUFFIX[self.target.split(':')[0]]}"

    def described(self) -> dict[str, Any]:
        """Everything but the code, for a manifest."""
        return {k: v for k, v in self.__dict__.items() if k != "code"}
