"""Compiles the distinct kernels of a program to binaries, side by side in processes, cached by content.

Launches that differ only in the buffers they work on share one kernel: the key of a kernel is its template and what it is
given at compile time, the text of its closures with the groups' numbers taken out, the pointers' types, and the compiler. A
binary holds all that a launch needs, so it runs without Triton.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from graphrt.config import Flags
from graphrt.errors import TargetError
from graphrt.files import cache, cache_path, intact, sealed, whole, writable
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.collective import Call
from graphrt.targets.triton.compile.instructions import amd
from graphrt.targets.triton.compile.usage import resident, usage
from graphrt.targets.triton.emit.launch import WARPS, LaunchCode
from graphrt.targets.triton.emit.module import resolve
from graphrt.targets.triton.kernel import KernelBinary

_MOST_REGISTERS = 255
MOST_RESIDENT = 4  # programs on a multiprocessor that wait for each other: all of them ask one word
_NAMED = 3  # kernels that an error names
PARALLEL = 4  # kernels to compile, from which on other processes help: one takes a second to start
_POINTERS = {
    "bool": "*i1", "uint8": "*u8", "int8": "*i8", "int16": "*i16", "int32": "*i32", "int64": "*i64", "float16": "*fp16",
    "bfloat16": "*bf16", "float32": "*fp32", "float64": "*fp64",
}  # fmt: skip


class DoesNotFitError(TargetError):
    """A kernel whose programs wait for each other, and of which no program fits on a multiprocessor."""


def gpu_target(target: str) -> Any:
    """Triton's description of ``cuda:sm_90``, ``hip:gfx942`` and the like. Raises TargetError."""
    from triton.backends.compiler import GPUTarget

    match = re.fullmatch(r"cuda:sm_(\d+)|hip:(gfx\w+)", target)
    if match is None:
        raise TargetError(f"an ahead-of-time target looks like cuda:sm_80, cuda:sm_90, hip:gfx942; got {target!r}")
    if match[1]:
        return GPUTarget("cuda", int(match[1]), 32)
    return GPUTarget("hip", match[2], 64 if match[2].startswith("gfx9") else 32)


def compile_kernel(code: LaunchCode, module: ModuleType, target: str) -> Any:
    """The kernel that Triton makes of one launch, with the 16-byte alignment that its pointers have at run time.

    A kernel that spills registers is compiled again in ways that want fewer of them or are given more (``_roomier``); the
    first that does not spill is taken, or where all do, the one that spills least.
    """
    best, registers, least = _compile(code, module, target, code.options)
    if least:
        for options in _roomier(code.options, registers, target):
            other, _, spills = _compile(code, module, target, options)
            if spills < least:
                best, least = other, spills
            if not least:
                break
    return best


def _roomier(options: Mapping[str, Any], registers: int, target: str) -> Iterator[dict[str, Any]]:
    """Other options for a kernel that spills at so many ``registers``.

    The assembler (ptxas) keeps to a number of registers that lets one more program onto a multiprocessor, at the price of
    a few numbers kept in memory. Given what the same programs but one have, it has no reason to. Then one stage less, which
    is addresses less, and twice as many warps.
    """
    warps, stages = options["num_warps"], options["num_stages"]
    if target.startswith("cuda"):
        programs = resident(registers, 0, warps, target)
        limits = [min(_MOST_REGISTERS, registers * programs // (programs - n) // 8 * 8) for n in range(1, programs)]
        yield from ({**options, "maxnreg": limit} for limit in limits[:2])
    if stages > 1:
        yield {**options, "num_stages": stages - 1}
    if warps < max(WARPS):
        yield {**options, "num_warps": 2 * warps}


def _compile(code: LaunchCode, module: ModuleType, target: str, options: Mapping[str, Any]) -> tuple[Any, int, int]:
    """The kernel compiled with ``options``, its registers and the bytes that it spills."""
    import triton

    _settle()
    kernel, given = resolve(code, module)
    parameters = inspect.signature(kernel.fn).parameters.values()
    constants = {p.name: p.default for p in parameters if p.default is not p.empty} | given
    pointers = _pointers(code)
    aligned = [["tt.divisibility", 16]]
    source = _source(kernel)(
        fn=kernel,
        signature={"ARGS": pointers, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(0, i): aligned for i in range(len(pointers))},
    )
    compiled = triton.compile(source, target=gpu_target(target), options={**options, "enable_fp_fusion": False})
    return compiled, *usage(compiled.kernel, target)


def _source(kernel: Any) -> Any:
    """Triton's class of what it compiles: of Triton, or of Gluon."""
    if kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource

        return GluonASTSource
    from triton.compiler import ASTSource

    return ASTSource


@functools.cache
def _settle() -> None:
    """Triton keeps what it has compiled in a folder of its own; where that cannot be written it gets one in graphrt's cache."""
    import triton

    try:
        writable(Path(triton.knobs.cache.dir))
    except OSError:
        os.environ["TRITON_CACHE_DIR"] = str(cache("triton/compiled"))


def _pointers(code: LaunchCode) -> tuple[str, ...]:
    return tuple(_POINTERS[s.type.dtype.name] for s in code.slots)


def _binary(code: LaunchCode, module: ModuleType, target: str) -> KernelBinary:
    compiled = compile_kernel(code, module, target)
    m = compiled.metadata._asdict()  # back ends and versions leave out what they do not know
    if m["num_ctas"] != 1 or any(m.get(k) for k in ("profile_scratch_size", "launch_cooperative_grid", "launch_pdl")):
        raise TargetError(f"{code.display}: the runtime launches plain grids: no clusters, cooperation or dependent launch")
    threads, scratch = m["num_warps"] * m["target"].warp_size, m.get("global_scratch_size") or 0
    found = amd(compiled.asm["amdgcn"]) if target.startswith("hip") else {}
    waits, held = "griddepcontrol.wait" in compiled.asm.get("ptx", ""), 0
    if code.cooperative:
        held = min(resident(usage(compiled.kernel, target)[0], m["shared"], m["num_warps"], target), MOST_RESIDENT)
        if scratch or not held:
            raise DoesNotFitError(f"{code.display}: no program of it fits on a multiprocessor, or it wants scratch memory")
    pointers = len(code.slots)
    return KernelBinary(target, compiled.name, threads, m["shared"], scratch, pointers, found, compiled.kernel, waits, held)


# --- the distinct kernels of a program ------------------------------------------------------------------------------


def build(codes: Sequence[LaunchCode], module: ModuleType, target: str) -> tuple[list[KernelBinary | Call], list[int]]:
    """The distinct kernels of ``codes``, and the number of each launch's kernel among them. Raises TargetError."""
    first = prepare(codes, module, target)
    number = {k: i for i, k in enumerate(first)}
    binaries = [cached(code, module, target) for code in first.values()]
    return binaries, [number[key(code, target)] for code in codes]


def prepare(codes: Sequence[LaunchCode], module: ModuleType, target: str) -> dict[str, LaunchCode]:
    """Fills the cache with the distinct kernels of ``codes``, and returns these by key.

    Where there are few, or one does not compile, that is left to ``cached``. Raises TargetError where some are missing and
    none may be compiled (GRAPHRT_COMPILE=0).
    """
    first = _distinct(codes, target)
    missing = _missing(first)
    if missing and not Flags.read().compile:
        raise TargetError(_lacking(missing, target))
    if len(missing) >= PARALLEL and min(cores(), len(missing) // 2) > 1:
        _compile_aside(missing, module, target)
    return first


def overdue(codes: Sequence[LaunchCode], module: ModuleType, target: str, seconds: float) -> set[str]:
    """As ``prepare``, but returns the keys of kernels that took longer than ``seconds`` each and were given up."""
    return _compile_aside(_missing(_distinct(codes, target)), module, target, seconds)


def available(code: LaunchCode, target: str) -> bool:
    """Whether the kernel of ``code`` is in the cache, or may be compiled, or a library computes it."""
    return code.call is not None or Flags.read().compile or intact(_path(key(code, target)))


def _lacking(codes: Sequence[LaunchCode], target: str) -> str:
    names = ", ".join(f"{code.display} ({key(code, target)[:8]})" for code in codes[:_NAMED])
    more = f" and {len(codes) - _NAMED} more" if len(codes) > _NAMED else ""
    return (
        f"{len(codes)} kernels are not in the cache {cache_path('triton/kernels')}, and GRAPHRT_COMPILE=0 compiles none: "
        f"{names}{more}; make gpu-kit prepares those of bench.gpu, GRAPHRT_COMPILE=1 compiles here"
    )


def _distinct(codes: Sequence[LaunchCode], target: str) -> dict[str, LaunchCode]:
    first: dict[str, LaunchCode] = {}
    for code in codes:
        first.setdefault(key(code, target), code)
    return first


def _missing(codes: Mapping[str, LaunchCode]) -> list[LaunchCode]:
    return [code for k, code in codes.items() if code.call is None and not intact(_path(k))]


def cached(code: LaunchCode, module: ModuleType, target: str) -> KernelBinary | Call:
    """The binary of one launch's kernel, compiled unless the cache holds it; the call where a library computes it."""
    if code.call is not None:
        return code.call
    path = _path(key(code, target))
    if not intact(path):
        if not Flags.read().compile:
            raise TargetError(_lacking([code], target))
        binary = _binary(code, module, target)
        path = cache("triton/kernels") / path.name
        with whole(path, sealed=True) as file:  # others may compile the same kernel
            file.write_bytes(json.dumps(binary.described()).encode() + b"\n" + binary.code)
    head, content = sealed(path).split(b"\n", 1)
    return KernelBinary(**json.loads(head), code=content)


def _path(key: str) -> Path:
    return cache_path("triton/kernels") / key


def key(code: LaunchCode, target: str) -> str:
    """A digest of all that the compiled kernel of ``code`` depends on: not its buffers, nor its display name."""
    if code.call is not None:
        return digest((code.call,))
    return digest((*content(code), sorted(code.options.items()), target, identity()))


def content(code: LaunchCode) -> tuple[Any, ...]:
    """Template, constants, pointers' types and closures of ``code``, with the groups' numbers taken out."""
    numbers: dict[str, str] = {}

    def renamed(text: str) -> str:
        return re.sub(r"\bg(\d+)(?=_)", lambda m: numbers.setdefault(m[1], f"f{len(numbers)}"), text)

    text = renamed("\n".join(line for line in code.text if not line.startswith("#")))
    constants = {n: renamed(v[1:]) if isinstance(v, str) and v.startswith("@") else v for n, v in code.constants.items()}
    return code.form.module, renamed(code.form.function), constants, _pointers(code), text


def digest(parts: tuple[Any, ...]) -> str:
    """``parts`` as a short text that no others have."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@functools.cache
def identity() -> str:
    """The text that distinguishes compilers: Triton's version, the templates, this package's way of calling both."""
    import triton

    sources = [*sorted((find_kernels() / "triton").glob("*.py")), Path(__file__)]
    return triton.__version__ + hashlib.sha256(b"".join(p.read_bytes() for p in sources)).hexdigest()


def unfit(code: LaunchCode, module: ModuleType, target: str) -> str:
    """Why the kernel of ``code`` is not worth launching though it compiles; empty if it is. Raises TargetError."""
    try:
        binary = cached(code, module, target)
    except DoesNotFitError as error:
        return str(error).partition(": ")[2]
    assert isinstance(binary, KernelBinary)
    registers, spills = usage(binary.code, target)
    return f"their kernel spills {spills} bytes a thread of {registers} registers" if spills else ""


# --- other processes ------------------------------------------------------------------------------------------------


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compile_aside(codes: Sequence[LaunchCode], module: ModuleType, target: str, seconds: float = 0) -> set[str]:
    """Fills the cache with the kernels of ``codes``, in as many processes as there are cores.

    Each takes the next kernel that nobody has, the longest first: one with many parts takes as long as a dozen others. What
    does not compile is left to the caller, who meets the error with its cause. Threads would wait for each other, and
    Python's parser fails in two at once. With ``seconds`` the keys of kernels that took longer are returned.
    """
    if not codes or not sys.executable:
        return set()
    ordered = sorted(codes, key=lambda code: -len(code.text))
    first = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import _work; _work()\n"
    with tempfile.TemporaryDirectory() as folder:
        task = first.encode() + pickle.dumps((ordered, str(module.__file__), target, folder, seconds))
        taken, before = 0, -1
        while before < taken < len(codes):  # a process ends with the kernel that took too long
            workers = [_worker(task) for _ in range(max(min(cores(), (len(codes) - taken) // 2), 1))]
            try:
                for worker in workers:
                    worker.wait()
            finally:
                for worker in workers:
                    if worker.poll() is None or worker.returncode < 0:  # with the assembler, which it may have left at work
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(worker.pid, signal.SIGKILL)
                    assert worker.stdin is not None
                    with contextlib.suppress(BrokenPipeError):
                        worker.stdin.close()
            before, taken = taken, len(os.listdir(folder))
        begun = {int(name) for name in os.listdir(folder)}
        keys = {i: key(ordered[i], target) for i in begun if seconds and not (Path(folder) / str(i) / "failed").exists()}
    return {k for k in keys.values() if not _path(k).exists()}


def _worker(task: bytes) -> subprocess.Popen[bytes]:
    """Another process that does ``task``, as long as this one keeps its standard input open."""
    command = [sys.executable, "-c", "import sys; exec(sys.stdin.buffer.readline())"]
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert worker.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died; what it leaves undone is compiled here
        worker.stdin.write(task)
        worker.stdin.flush()
    return worker


def _work() -> None:
    """The work of another process, which dies with its parent: it compiles what standard input names into the cache."""
    from graphrt.targets.triton.emit.module import import_module

    find_kernels()  # whose types are among the constants
    codes, path, target, folder, seconds = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    module = import_module(Path(path))
    for i, code in enumerate(codes):
        taken = Path(folder) / str(i)
        try:
            taken.mkdir()
        except FileExistsError:
            continue  # another process is at it
        signal.setitimer(signal.ITIMER_REAL, seconds)  # whose signal ends the process, wherever it is
        try:
            cached(code, module, target)
        except Exception:
            (taken / "failed").touch()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _die_with_parent() -> None:
    """Waits for the end of standard input, then kills this process and the assembler that it may have at work.

    However the process at the other end dies, the system closes its files.
    """
    while os.read(sys.stdin.fileno(), 1 << 16):
        continue
    os.killpg(0, signal.SIGKILL)  # the session that _worker began
