"""Compiles generated C with the system's compiler into a shared object, cached by content.

The thread pool (``kernels/c/runtime.c``) is one shared object per process; programs are bound to it when they are loaded, so
several programs never start several pools.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.targets.templates import kernels

FLAGS = (
    "-O3 -march=native -std=gnu11 -fno-math-errno -fno-trapping-math -fno-strict-aliasing -ffp-contract=fast "
    "-fopenmp-simd -fPIC -shared -pthread -Wno-unknown-pragmas"
).split()


def headers() -> Path:
    """The folder of the C templates."""
    return kernels() / "c"


@functools.cache
def compiler() -> list[str]:
    """The command of the C compiler: ``CC``, cc, gcc, clang, or the one in the ziglang wheel. Raises TargetError."""
    named = os.environ.get("CC", "")
    if named:
        if shutil.which(shlex.split(named)[0]) is None:
            raise TargetError(f"CC is {named!r}, which is not a program on this machine; correct it or unset it")
        return shlex.split(named)
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc"]
    raise TargetError(
        "the cpu target needs a C compiler and found none. Install one (Debian: apt-get install gcc; macOS: "
        "xcode-select --install), or pip install ziglang, or name one in CC"
    )


@functools.cache
def _identity() -> str:
    """What distinguishes this machine's objects: compiler version, headers, processor."""
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    text = "".join(p.read_text() for p in sorted(headers().iterdir()) if p.suffix in (".h", ".c"))
    try:
        processor = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        processor = platform.processor()
    return version + text + processor


def build(source: str, name: str) -> Path:
    """The shared object of ``source``; compiled unless the cache holds it. Raises TargetError with the compiler's words."""
    flags = Flags.read()
    options = [*FLAGS, *shlex.split(flags.cflags)]
    key = hashlib.sha256("\0".join([source, _identity(), *compiler(), *options]).encode()).hexdigest()[:24]
    folder = flags.cache / "cpu"
    target = folder / f"{name}-{key}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / f"{name}-{key}.c"
    text.write_text(source)
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    command = [*compiler(), *options, "-I", str(headers()), str(text), "-o", temporary, "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        os.unlink(temporary)
        raise TargetError(f"the C compiler failed on {text}:\n{shlex.join(command)}\n{result.stderr[:4000]}")
    os.replace(temporary, target)  # atomic: two processes may build the same object
    return target


@functools.cache
def pool() -> ctypes.CDLL:
    """The process's thread pool."""
    library = ctypes.CDLL(str(build((headers() / "runtime.c").read_text(), "runtime")), mode=ctypes.RTLD_GLOBAL)
    threads = Flags.read().threads
    if threads:
        library.grt_set_threads(threads)
    return library


def load(path: Path) -> ctypes.CDLL:
    """The program at ``path``, bound to the pool."""
    library = ctypes.CDLL(str(path))
    library.grt_bind(ctypes.cast(pool().grt_parallel, ctypes.c_void_p))
    return library
