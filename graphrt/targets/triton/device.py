"""The devices that programs of the Triton targets run on: which there are, and their drivers."""

from __future__ import annotations

import functools
import os
from importlib.util import find_spec

from graphrt.errors import TargetError
from graphrt.targets.triton.driver import Driver


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
