"""Telling instructions of compiled kernels: matrix instructions, and accesses to global memory by their width."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable

_SASS = re.compile(r"\b(HGMMA|UTCHMMA|HMMA|DMMA|LDGSTS|UTMALDG|UTMASTG|LDG|STG)((?:\.\w+)*)")
_GCN = re.compile(r"\b(v_mfma|(?:global|buffer)_(?:load|store)_\w+)")
_WIDTHS = ("128", "64", "U16", "S16", "U8", "S8", "1D", "2D", "3D", "4D", "5D")
WIDE_LOADS = ("LDG.E.128", "LDGSTS.128", "UTMALDG", "global_load_dwordx4", "buffer_load_dwordx4")
WIDE_STORES = ("STG.E.128", "UTMASTG", "global_store_dwordx4", "buffer_store_dwordx4")
EIGHT_BYTES = (
    *("LDG.E.64", "LDGSTS.64", "STG.E.64", "global_load_dwordx2", "buffer_load_dwordx2"),
    *("global_store_dwordx2", "buffer_store_dwordx2"),
)


def nvidia(listing: str) -> dict[str, int]:
    """Counts of each telling instruction in the disassembler's listing."""
    return _sorted(_short(*match.groups()) for match in _SASS.finditer(listing))


def amd(listing: str) -> dict[str, int]:
    """The same of AMD's assembly."""
    return _sorted(_GCN.findall(listing))


def _sorted(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(collections.Counter(names).items()))


def _short(name: str, suffix: str) -> str:
    """``LDG.E.128`` for LDG.E.128.CONSTANT, ``LDGSTS.128`` for LDGSTS.E.BYPASS.LTC128B.128, ``HMMA`` for HMMA.16816.F32."""
    if name.endswith("MMA"):
        return name
    parts = suffix.split(".")[1:]
    width = next((p for p in parts if p in _WIDTHS), "")
    return ".".join([name, *(["E"] if name in ("LDG", "STG") else []), *([width] if width else [])])
