"""The generated module of a program: a real file in the cache, named after its text, imported from there."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from graphrt.files import cache, cache_path, intact, whole
from graphrt.targets.templates import find_kernels
from graphrt.targets.triton.emit.launch import LaunchCode


def write_module(source: str) -> ModuleType:
    """``source`` as an imported module, kept as a file in the cache."""
    key = hashlib.sha256(source.encode()).hexdigest()[:24]
    path = cache_path("triton") / f"program_{key}.py"
    if not intact(path):
        path = cache("triton") / path.name
        with whole(path, sealed=True) as file:
            file.write_text(source)
    return import_module(path)


def import_module(path: Path) -> ModuleType:
    """The module that ``write_module`` left at ``path``."""
    find_kernels()
    name = f"graphrt_generated_{path.stem.removeprefix('program_')}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def resolve(code: LaunchCode, module: ModuleType) -> tuple[Any, dict[str, Any]]:
    """The jit function of a launch and its compile-time arguments."""
    import triton.language as tl

    form = code.form
    home = importlib.import_module(f"graphrt.kernels.triton.{form.module}") if form.module else module
    function, constants = getattr(home, form.function), {}
    for name, value in code.constants.items():
        if isinstance(value, str) and value.startswith("@"):
            value = getattr(module, value[1:])
            if hasattr(function, "is_gluon") and function.is_gluon():  # the interpreter's have no such thing
                from graphrt.kernels.triton.gluon_closure import in_gluon

                value = in_gluon(value)
        elif isinstance(value, str) and value.startswith("tl."):
            value = getattr(tl, value[3:])
        constants[name] = value
    return function, {**constants, "NAME": code.display}
