"""Which device the Triton targets run on, found without importing Triton."""

from __future__ import annotations

import functools
import os
from importlib.util import find_spec
from typing import Any

from graphrt.errors import TargetError


@functools.cache
def available() -> str | None:
    """``cuda`` or ``hip`` when torch sees such a GPU and Triton is installed, else None."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available() or find_spec("triton") is None:
        return None
    return "hip" if torch.version.hip else "cuda"


def device(target: str) -> Any:
    """The torch device of ``target``. Raises TargetError saying what is missing."""
    try:
        import torch
        import triton
    except ImportError as error:
        raise TargetError(f"target {target!r} needs {error.name}; pip install {error.name}") from None
    if target == "interpret":
        if not triton.knobs.runtime.interpret:
            raise TargetError(
                "target 'interpret' needs TRITON_INTERPRET=1 in the environment before Triton is imported, "
                "in a process of its own"
            )
        return torch.device("cpu")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise TargetError(f"target {target!r} cannot run with TRITON_INTERPRET=1; unset it or use target 'interpret'")
    if available() != target:
        raise TargetError(
            f"target {target!r} needs a GPU that torch can use, and there is none here; use target='cpu', or target='auto' "
            "which picks what there is"
        )
    return torch.device("cuda")
