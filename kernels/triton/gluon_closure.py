"""Closures for templates in Gluon: the functions that are printed for any template, read as Gluon."""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any

import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

_LANGUAGE = ModuleType(tl.__name__)
_LANGUAGE.__dict__.update({**vars(tl), "full": gl.full, "zeros": gl.zeros})


def in_gluon(closure: Any) -> Any:
    """``closure``, a jit function of Triton, as one of Gluon: its arguments lie as the caller says, and new tensors follow."""
    fn = closure.fn
    return gluon.jit(FunctionType(fn.__code__, {**fn.__globals__, "tl": _LANGUAGE}, fn.__name__))
