"""What a Triton target means on this machine: is there such a device, of which architecture, with which driver."""

from __future__ import annotations

import functools
import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from graphrt.errors import TargetError

if TYPE_CHECKING:
    from graphrt.targets.triton.driver import Driver

UNITS = {"sm_80": 108, "sm_100": 148, "gfx942": 304}  # multiprocessors of A100, B200, MI300X
_UNITS = 132  # of H100, H200, and of what is not known
NULL = "cuda:sm_90"  # what the null target compiles for


@functools.cache
def available() -> str | None:
    """``cuda`` or ``hip`` when torch sees such a GPU and Triton is installed, else None."""
    found = _gpu()
    return found if find_spec("triton") else None


@functools.cache
def _gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return "hip" if torch.version.hip else "cuda"


def driver(target: str) -> Driver:
    """The driver of ``target``: cuda, hip, null or interpret. Raises TargetError saying what is missing."""
    require(target, "torch", "triton")
    if target == "interpret":
        from graphrt.targets.triton.interpret import InterpretDriver

        return InterpretDriver()
    compiles(target)
    return null_driver(NULL) if target == "null" else gpu_driver(target)


def require(target: str, *packages: str) -> None:
    """Raises TargetError naming the first of ``packages`` that is not installed."""
    for package in packages:
        if find_spec(package) is None:
            system = ", which exists for Linux only" if package == "triton" and sys.platform != "linux" else ""
            raise TargetError(f"target {target!r} needs the package {package}{system}: pip install {package}")


def null_driver(architecture: str) -> Driver:
    """The null driver of ``architecture``."""
    from graphrt.targets.triton.null import driver

    return driver(architecture)


def gpu_driver(target: str) -> Driver:
    """The driver of torch's current GPU, of kind ``target`` (cuda or hip). Raises TargetError when there is none."""
    if _gpu() != target:
        raise TargetError(
            f"target {target!r} needs a GPU that torch can use, and there is none here; use target='cpu', or target='auto' "
            "which picks what there is"
        )
    import torch

    from graphrt.targets.triton.gpu import driver

    return driver(torch.cuda.current_device())


def compiles(target: str) -> None:
    """Raises TargetError where Triton was told to interpret."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise TargetError(
            f"target {target!r} compiles kernels, which TRITON_INTERPRET=1 rules out; unset it or use target 'interpret'"
        )


def architecture(target: str) -> str:
    """What kernels of ``target`` are compiled for, as cuda:sm_90; interpreted ones are written as if for that."""
    if ":" in target:
        return target
    return gpu_driver(target).target if target in ("cuda", "hip") else NULL


def units(target: str) -> int:
    """How many multiprocessors a kernel has to fill."""
    if target in ("cuda", "hip") and _gpu() == target:
        import torch

        properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
        return int(properties.multi_processor_count)
    return UNITS.get(architecture(target).split(":")[1], _UNITS)
