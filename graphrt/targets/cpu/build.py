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
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.files import cache, cache_path, intact, whole, workshop
from graphrt.runtime.forking import TARGET, make_lock
from graphrt.targets.cpu.elf import empty
from graphrt.targets.templates import find_kernels
from graphrt.threads import in_threads

FLAGS = (
    "-O3 -march=native -std=gnu11 -fno-math-errno -fno-trapping-math -fno-strict-aliasing -ffp-contract=off "
    "-fopenmp-simd -fPIC -shared -pthread -Wno-unknown-pragmas"
).split()
# What compilers use unasked; the rest (cache control, cryptography, AMD's sse4a) would only make objects look less portable.
_EMITTED = re.compile("avx|fma|f16c|bmi|abm|ssse3|sse4_|popcnt|movbe|gfni|sve")
_pool: list[ctypes.CDLL] = []  # at most one
_lock = make_lock(TARGET)


def headers() -> Path:
    """The folder of the C templates."""
    return find_kernels() / "c"


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


def folder() -> Path:
    """The folder of compiled objects."""
    return cache_path("cpu")


@functools.cache
def _version() -> str:
    """The compiler's version, in its own words."""
    return subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def _identity() -> str:
    """The text that distinguishes this machine's objects: compiler version, headers, processor."""
    text = "".join(p.read_text() for p in sorted(headers().iterdir()) if p.suffix in (".h", ".c"))
    return _version() + text + (" ".join(processor()) or platform.processor())


@functools.cache
def processor() -> tuple[str, ...]:
    """The features of this processor, as Linux names them (avx2, fma); empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    return next((tuple(line.split(":")[1].split()) for line in lines if line.startswith(("flags", "Features"))), ())


def required() -> list[str]:
    """The features of ``processor()`` that compiled objects may use: those that the compiler announces by a macro."""
    macros = {w.lower().replace("_", "").removeprefix("armfeature") for w in _announced((*compiler(), *options()))}
    return sorted(name for name in set(processor()) if _EMITTED.match(name) and name.replace("_", "") in macros)


def vector_bytes() -> int:
    """Bytes of a vector of compiled objects, as ``kernels/c/tile.h`` has it."""
    macros = _announced((*compiler(), *options()))
    return 64 if "__AVX512F__" in macros else 32 if "__AVX__" in macros else 16


def has_pairs() -> bool:
    """Whether compiled objects multiply bfloat16 in pairs: where the compiler announces the instruction (``vdpbf16ps``)."""
    return "__AVX512BF16__" in _announced((*compiler(), *options()))


@functools.cache
def _announced(command: tuple[str, ...]) -> frozenset[str]:
    """The macros that the compiler defines by itself. Raises TargetError."""
    text = _run([*command, "-dM", "-E", "-x", "c", os.devnull])
    return frozenset(re.findall(r"^#define (\w+)", text, re.M))


def options() -> list[str]:
    """The flags of every compilation. GCC must not fold functions: ``elf.py`` says why."""
    own = ["-fno-ipa-icf"] if "Free Software Foundation" in _version() else []
    return [*FLAGS, *own, *shlex.split(Flags.read().cflags)]


def units(kernels: int) -> int:
    """The number of texts that a program of ``kernels`` kernels is compiled as: enough for every core, none of them tiny."""
    return min(kernels // 4, 2 * len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def identity() -> list[str]:
    """Everything but its source that an object depends on."""
    return [_identity(), *compiler(), *options()]


def build(sources: Sequence[str], name: str, kernels: Sequence[str] = (), objects: Sequence[Path] = ()) -> Path:
    """The shared object of ``sources`` and ``objects``, compiled side by side unless the cache holds it.

    Something must be left of ``kernels``. Raises TargetError with the compiler's words, or if it left nothing of a kernel.
    """

    def make(texts: list[Path], scratch: Path, linked: Path) -> None:
        compile, made = [*_command(), "-I", str(headers())], [str(o) for o in (*texts[: len(texts) == 1], *objects)]
        if len(texts) > 1:
            units = [str(scratch / f"{i}.o") for i in range(len(texts))]
            in_threads(lambda pair: _run([*compile, "-c", str(pair[0]), "-o", pair[1]]), [*zip(texts, units, strict=True)])
            made += units
        _run([*compile, *made, "-o", str(linked), "-lm"])
        if found := empty(linked, tuple(f"{kernel}_" for kernel in kernels)):
            raise TargetError(
                f"the C compiler made a bare return of {', '.join(found)}, whose results would never be written. "
                f"Name another compiler in CC, or set GRAPHRT_CFLAGS=-O2\n{_version()}"
            )

    return _cached(sources, name, ".so", make)


def program_object() -> Path:
    """The object file of what every program exports, to be linked with its kernels. Raises TargetError."""

    def make(texts: list[Path], scratch: Path, made: Path) -> None:
        _run([*_command(), "-I", str(headers()), "-c", str(texts[0]), "-o", str(made)])

    return _cached([(headers() / "program.c").read_text()], "exports", ".o", make)


def _cached(sources: Sequence[str], name: str, suffix: str, make: Callable[[list[Path], Path, Path], None]) -> Path:
    """The file that ``make`` writes, given the files of ``sources``, a folder for what it needs meanwhile and its path."""
    key = hashlib.sha256("\0".join([*sources, *identity()]).encode()).hexdigest()[:24]
    target = folder() / f"{name}-{key}{suffix}"
    if intact(target):
        return target
    place = cache("cpu")
    target = place / target.name
    texts = [place / f"{name}-{key}{f'-{i}' if i else ''}.c" for i in range(len(sources))]
    with workshop(place) as scratch:
        for text, source in zip(texts, sources, strict=True):  # whole at any moment: another process may be compiling it
            (scratch / text.name).write_text(source)
            os.replace(scratch / text.name, text)
        made = scratch / f"made{suffix}"
        make(texts, scratch, made)
        with whole(target, sealed=True) as file:  # two processes may build the same object
            os.replace(made, file)
    return target


def _command() -> list[str]:
    return [*compiler(), *options()]


def _run(command: Sequence[str]) -> str:
    """Runs the C compiler and returns what it prints. Raises TargetError with its complaints."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        old = "this C compiler has no float16; on x86 GCC 12 and clang 15 have it: name another in CC.\n"
        why = old if "_Float16" in result.stderr else ""
        raise TargetError(f"{why}the C compiler failed:\n{shlex.join(command)}\n{result.stderr[:4000]}")
    return result.stdout


def runtime() -> Path:
    """The shared object of the thread pool."""
    return build([(headers() / "runtime.c").read_text()], "runtime")


def pool(path: Path | None = None) -> ctypes.CDLL:
    """The process's thread pool: made at first use, from ``path`` where a saved program brings it along."""
    with _lock:
        if not _pool:
            _pool.append(ctypes.CDLL(str(path or runtime()), mode=ctypes.RTLD_GLOBAL))
            if threads := Flags.read().threads or _torch_threads():
                _pool[0].grt_set_threads(threads)
    return _pool[0]


def _torch_threads() -> int:
    """The number of torch's threads, if somebody has imported it; else 0."""
    torch: Any = sys.modules.get("torch")
    return int(torch.get_num_threads()) if hasattr(torch, "get_num_threads") else 0


def open_library(path: Path, runtime: Path | None = None) -> ctypes.CDLL:
    """The shared object at ``path``, bound to the pool of threads."""
    library = ctypes.CDLL(str(path))
    threads = pool(runtime)
    functions = threads.grt_parallel, threads.grt_memory, threads.grt_try, threads.grt_alone
    library.grt_bind(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
    return library
