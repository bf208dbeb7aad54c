"""Every environment variable that graphrt reads, in one place; ``graphrt flags`` prints them as a table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from graphrt.errors import ArgumentError

Number = TypeVar("Number", int, float)


def _cache() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graphrt"
    except RuntimeError:  # a user without a home: a folder that nobody can make, so ``files.cache`` makes another
        return Path(os.devnull) / "graphrt"


def _bool(name: str, default: str = "0") -> bool:
    return os.environ.get(name, default) not in ("", "0")


def _number(name: str, default: Number) -> Number:
    """The number, of the type of ``default`` and not negative, that ``name`` is set to. Raises ArgumentError."""
    kind, text = type(default), os.environ.get(name) or default
    try:
        if (number := kind(text)) >= 0:
            return number
    except ValueError:
        pass
    raise ArgumentError(f"{name} must be {'an integer' if kind is int else 'a number'} that is not negative, got {text!r}")


@dataclass(frozen=True)
class Flags:
    """The flags as they were when ``read`` was called; ``doc`` of each field is its help."""

    cache: Path = field(metadata={"env": "GRAPHRT_CACHE", "doc": "where compiled code is kept (~/.cache/graphrt)"})
    cache_size: float = field(metadata={"env": "GRAPHRT_CACHE_SIZE", "doc": "GB that it may take; what was used last stays"})
    target: str = field(metadata={"env": "GRAPHRT_TARGET", "doc": "the target that 'auto' means"})
    threads: int = field(metadata={"env": "GRAPHRT_THREADS", "doc": "threads of the cpu target (0: as torch, else every core)"})
    debug: int = field(metadata={"env": "GRAPHRT_DEBUG", "doc": "1 summary, 3 every fusion verdict, 4 source, 5 the IR"})
    dump: str = field(metadata={"env": "GRAPHRT_DUMP", "doc": "folder for every stage as text, and a script for each kernel"})
    check: bool = field(metadata={"env": "GRAPHRT_CHECK", "doc": "verify the graph after every pass"})
    fuse: str = field(metadata={"env": "GRAPHRT_FUSE", "doc": "stages of fusion: all, none, some, or -some (docs/fusion.md)"})
    no_graph: bool = field(metadata={"env": "GRAPHRT_NO_GRAPH", "doc": "launch GPU kernels one by one, not as a graph"})
    tune: int = field(metadata={"env": "GRAPHRT_TUNE", "doc": "GPU kernels: 0 known configurations, 1 a dozen timed, 2 all"})
    tune_seconds: float = field(
        metadata={
            "env": "GRAPHRT_TUNE_SECONDS",
            "doc": "after so many seconds tuning of a program begins no kernel (0: no end)",
        }
    )
    tma: bool = field(metadata={"env": "GRAPHRT_TMA", "doc": "GPU kernels: operands through tensor descriptors where they can"})
    pdl: bool = field(
        metadata={"env": "GRAPHRT_PDL", "doc": "GPU kernels begin before those in front have ended (sm_90 and newer)"}
    )
    persistent: bool = field(
        metadata={
            "env": "GRAPHRT_PERSISTENT",
            "doc": "GPU kernels: small launches are one where that is predicted to be faster",
        }
    )
    library: str = field(metadata={"env": "GRAPHRT_LIBRARY", "doc": "contractions by cuBLAS, cuDNN: never, auto or always"})
    compile: bool = field(
        metadata={"env": "GRAPHRT_COMPILE", "doc": "GPU kernels: 0: one that the cache lacks is an error (1)"}
    )
    poison: bool = field(metadata={"env": "GRAPHRT_POISON", "doc": "fill the arena with NaN before each run"})
    guard: bool = field(metadata={"env": "GRAPHRT_GUARD", "doc": "interpret: a GPU's blocks, each access of a program checked"})
    winograd: int = field(metadata={"env": "GRAPHRT_WINOGRAD", "doc": "cpu: largest Winograd tile of 3x3 filters: 4, 2 or 0"})
    pairs: bool = field(
        metadata={"env": "GRAPHRT_PAIRS", "doc": "cpu: bfloat16 multiplied in pairs where the processor can (1)"}
    )
    known: bool = field(metadata={"env": "GRAPHRT_KNOWN", "doc": "cpu: do not schedule again what the cache has compiled (1)"})
    timeout: float = field(metadata={"env": "GRAPHRT_TIMEOUT", "doc": "seconds that a process waits for the others of a mesh"})
    fold: float = field(metadata={"env": "GRAPHRT_FOLD", "doc": "GB that from_onnx may compute of constants (1)"})
    cflags: str = field(metadata={"env": "GRAPHRT_CFLAGS", "doc": "more flags for the C compiler (sanitizers)"})

    @staticmethod
    def read() -> Flags:
        """The flags in force now."""
        env = os.environ
        return Flags(
            cache=Path(env.get("GRAPHRT_CACHE") or _cache()),
            cache_size=_number("GRAPHRT_CACHE_SIZE", 4.0),
            target=env.get("GRAPHRT_TARGET", ""),
            threads=_number("GRAPHRT_THREADS", 0),
            debug=_number("GRAPHRT_DEBUG", 0),
            dump=env.get("GRAPHRT_DUMP", ""),
            check=_bool("GRAPHRT_CHECK"),
            fuse=env.get("GRAPHRT_FUSE") or "all",
            no_graph=_bool("GRAPHRT_NO_GRAPH"),
            tune=_number("GRAPHRT_TUNE", 0),
            tune_seconds=_number("GRAPHRT_TUNE_SECONDS", 0.0),
            tma=_bool("GRAPHRT_TMA"),
            pdl=_bool("GRAPHRT_PDL"),
            persistent=_bool("GRAPHRT_PERSISTENT"),
            library=env.get("GRAPHRT_LIBRARY") or "never",
            compile=_bool("GRAPHRT_COMPILE", "1"),
            poison=_bool("GRAPHRT_POISON"),
            guard=_bool("GRAPHRT_GUARD"),
            winograd=_number("GRAPHRT_WINOGRAD", 4),
            pairs=_bool("GRAPHRT_PAIRS", "1"),
            known=_bool("GRAPHRT_KNOWN", "1"),
            timeout=_number("GRAPHRT_TIMEOUT", 600.0),
            fold=_number("GRAPHRT_FOLD", 1.0),
            cflags=env.get("GRAPHRT_CFLAGS", ""),
        )

    def table(self) -> list[tuple[str, str, str]]:
        """(variable, value, help) of each flag."""
        return [(f.metadata["env"], str(getattr(self, f.name)), f.metadata["doc"]) for f in fields(self)]
